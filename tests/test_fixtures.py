"""Every number of ``expected.json``, met to the digits it is printed with.

What the harness computes is computed by it. What it deliberately leaves out (tests over resamples,
ranks over data sets) comes from scipy and closed forms: those numbers guard the data, and show what
the methods that others use would have said.
"""

from __future__ import annotations

import csv
import functools
import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats
from statsmodels.stats.multitest import multipletests

from benchmark.api import Predictions
from benchmark.evaluation.metrics import AUROC, MeanRank, MedianRank, PearsonR, PrecisionAt
from benchmark.evaluation.multiplicity import benjamini_hochberg, holm, letters
from benchmark.evaluation.retrieval import retrieve
from benchmark.evaluation.statistics import compare, components, estimate

DATA = Path(__file__).parent / "data" / "statistics"
EXPECTED = json.loads((DATA / "expected.json").read_text(), parse_float=Decimal)
TEXT = ("source", "note", "rules")
# The paper's own rounding: its z of 0.512 is a p of 0.6086.
COARSER = {"demsar2006_table6/holm_vs_C45/published_p/2": 0.002}
MANY = 10**12  # degrees of freedom at which t is the normal distribution


def leaves(node, path=()):
    """Path of every value to the value."""
    if isinstance(node, dict):
        items = [(k, v) for k, v in node.items() if k not in TEXT]
    elif isinstance(node, list | tuple):
        items = list(enumerate(node))
    else:
        return {"/".join(map(str, path)): node}
    found = {} if items else {"/".join(map(str, path)): "empty"}
    for key, value in items:
        found |= leaves(value, (*path, key))
    return found


def columns(name):
    with (DATA / name).open(newline="") as f:
        rows = list(csv.DictReader(f))
    return {key: [row[key] for row in rows] for key in rows[0]}


def numbers(name, *keys):
    data = columns(name)
    return [np.array([value or "nan" for value in data[key]], float) for key in keys]


def auroc(y, *scores):
    """(S,) and (N, S)."""
    target = np.tile(np.asarray(y, float)[:, None], len(scores))
    arrays = {"target": target, "prediction": np.stack(scores, 1)}
    return AUROC().influence(Predictions(("",) * len(scores), arrays))


def asah_roc():
    names = ("wfns", "s100b", "ndka")
    y, *markers, female = numbers("asah_roc.csv", "y", *names, "female")
    theta, psi = auroc(y, *markers)
    gamma = psi.T @ psi / len(y) ** 2

    def against(a, b):
        i, j = names.index(a), names.index(b)
        return compare(theta[[i]], psi[:, [i]], theta[[j]], psi[:, [j]], MANY)

    def interval(rows):
        e = estimate(*auroc(y[rows], markers[2][rows]), MANY)
        return e.lo, e.value, e.hi

    paired = {}
    for a, b in (("wfns", "s100b"), ("wfns", "ndka"), ("ndka", "s100b")):
        c = against(a, b)
        z = c.difference / math.sqrt(c.v)
        paired[f"{a}-{b}"] = {"diff": c.difference, "z": z, "p": c.p, "lo": c.lo, "hi": c.hi}
    # As if the markers had been measured in different people: what forgetting the pairing says.
    apart = math.sqrt(gamma[0, 0] + gamma[1, 1])
    d, n = (theta[0] - theta[1]) / apart, len(y)
    df = apart**4 / ((gamma[0, 0] ** 2 + gamma[1, 1] ** 2) / (n - 1))
    c = against("wfns", "s100b")
    return {
        "n": n,
        "n_pos": int(y.sum()),
        "auc": dict(zip(names, theta, strict=True)),
        "delong_var": dict(zip(names, np.diag(gamma), strict=True)),
        "delong_cov": {
            "wfns_ndka": gamma[0, 2],
            "ndka_s100b": gamma[2, 1],
            "s100b_wfns": gamma[1, 0],
        },
        "delong_paired": paired,
        "ndka_ci95_delong": interval(np.arange(n)),
        "ndka_female_only_ci95": interval(np.flatnonzero(female)),
        "unpaired_welch_t": {"wfns-s100b": {"D": d, "p": 2 * stats.t.sf(d, df)}},
        "one_sided_wfns_gt_s100b_p": stats.norm.sf(c.difference / math.sqrt(c.v)),
    }


def nadeau_bengio_correct_r():
    x, y = numbers("nadeau_bengio_correctR.csv", "x", "y")
    train, test = 80, 20
    naive = stats.ttest_rel(x, y)
    # Nadeau & Bengio, Machine Learning 52:239, 2003: resamples share training people.
    t = naive.statistic / math.sqrt(1 + len(x) * test / train)
    p = 2 * stats.t.sf(t, len(x) - 1)
    return {
        "n_train": train,
        "n_test": test,
        "t": t,
        "p_two_sided": p,
        "published_t": t,
        "published_p": p,
        "published_p_one_sided": p / 2,
        "naive_paired_t": naive.statistic,
        "naive_p": naive.pvalue,
    }


def demsar2006_table6():
    data = columns("demsar2006_table6.csv")
    names = list(data)[1:]
    auc = np.array([data[name] for name in names], float).T
    n, k = auc.shape
    # The paper ranks the tie in `voting` from unrounded values.
    unrounded = auc.copy()
    unrounded[data["dataset"].index("voting"), names.index("C4.5+cf")] += 1e-6

    def ranks(table):
        return stats.rankdata(-table, axis=1).mean(axis=0)

    def friedman(mean):
        chi2 = 12 * n / (k * (k + 1)) * ((mean**2).sum() - k * (k + 1) ** 2 / 4)
        return chi2, (n - 1) * chi2 / (n * (k - 1) - chi2)

    published, printed = ranks(unrounded), ranks(auc)
    tied = stats.friedmanchisquare(*auc.T)
    error = math.sqrt(k * (k + 1) / (6 * n))
    q = {a: stats.studentized_range.ppf(1 - float(a), k, np.inf) / math.sqrt(2) for a in LEVELS}
    distance = {a: q[a] * error for a in LEVELS}

    def apart(level):
        pairs = [(a, b) for a in range(k) for b in range(a + 1, k)]
        far = [abs(published[a] - published[b]) > distance[level] for a, b in pairs]
        return [[names[a], names[b]] for (a, b), yes in zip(pairs, far, strict=True) if yes]

    shift = auc[:, 1] - auc[:, 0]
    # Differences of no size count half to either side.
    rank = stats.rankdata(np.round(np.abs(shift), 9))
    plus, minus = ((rank * ((side * shift > 0) + (shift == 0) / 2)).sum() for side in (1, -1))
    z = {m: (published[0] - published[names.index(m)]) / error for m in names[1:]}
    order = sorted(z, key=z.get, reverse=True)
    p = [2 * stats.norm.sf(z[m]) for m in order]
    rejected = [m for m, adjusted in zip(order, holm(p), strict=True) if adjusted <= 0.05]
    chi2, f = friedman(published)
    chi2_printed, f_printed = friedman(printed)
    return {
        "N": n,
        "k": k,
        "avg_ranks_published": published,
        "avg_ranks_from_printed": printed,
        "chi2_published": chi2,
        "FF_published": f,
        "chi2_paper_ranks": chi2,
        "FF_paper_ranks": f,
        "chi2_from_printed_no_tie_correction": chi2_printed,
        "FF_from_printed": f_printed,
        "chi2_scipy_tie_corrected": tied.statistic,
        "p_scipy": tied.pvalue,
        "F_crit_3_39_alpha05": stats.f.ppf(0.95, k - 1, (k - 1) * (n - 1)),
        "q_alpha": q,
        "CD_nemenyi": distance,
        "CD_published": distance,
        "nemenyi_sig_at_0_10": apart("0.10"),
        "nemenyi_sig_at_0_05": apart("0.05"),
        "wilcoxon_C45_vs_C45m": {"R_plus": plus, "R_minus": minus},
        "wilcoxon_published": {
            "R_plus": plus,
            "R_minus": minus,
            "z": (minus - n * (n + 1) / 4) / math.sqrt(n * (n + 1) * (2 * n + 1) / 24),
        },
        "holm_vs_C45": {
            "published_p": p,
            "computed": [{"method": m, "z": z[m], "p": 2 * stats.norm.sf(z[m])} for m in order],
            "rejected": rejected,
        },
    }


LEVELS = ("0.05", "0.10")


def multiple_testing():
    case = columns("multiple_testing.csv")["case"]
    table = np.stack(numbers("multiple_testing.csv", "p", "holm", "bh", "by"), 1)
    rows = {name: table[[c == name for c in case]] for name in dict.fromkeys(case)}
    for p, by_holm, bh, by in (part.T for part in rows.values()):
        # The columns of the file, by ours and by the libraries.
        np.testing.assert_allclose(holm(p), by_holm, rtol=1e-12)
        np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], rtol=1e-12)
        np.testing.assert_allclose(benjamini_hochberg(p), bh, rtol=1e-12)
        np.testing.assert_allclose(stats.false_discovery_control(p, method="by"), by, rtol=1e-12)
    p = rows["bh1995"][:, 0]
    naive = np.sort(rows["cummax3"][:, 0])
    return {
        "holm4_adjusted": holm(rows["holm4"][:, 0]),
        "bh1995_rejected_at_05": {
            "bh": int((benjamini_hochberg(p) <= 0.05).sum()),
            "holm": int((holm(p) <= 0.05).sum()),
            "bonferroni": int((p * p.size <= 0.05).sum()),
        },
        "cummax3_holm": holm(rows["cummax3"][:, 0]),
        "cummax3_wrong_without_cummax": naive * np.arange(naive.size, 0, -1),
    }


def pearson_tuna():
    x, y = numbers("pearson_tuna.csv", "x", "y")
    arrays = {"target": x[:, None], "prediction": y[:, None]}
    r = PearsonR().influence(Predictions(("t",), arrays))[0].item()
    df = len(x) - 2
    t = r * math.sqrt(df / (1 - r**2))
    oracle = stats.pearsonr(x, y)
    interval = list(oracle.confidence_interval())
    assert stats.t.sf(t, df) * 2 == pytest.approx(oracle.pvalue, rel=1e-12)
    return {
        "r": r,
        "t": t,
        "df": df,
        "p": oracle.pvalue,
        "ci95_fisher": interval,
        "published": {"r": r, "t": t, "p": oracle.pvalue, "ci95": interval},
    }


def retrieval_toy():
    y, *similarity = numbers("retrieval_toy.csv", "phenotype", *(f"s{j}" for j in range(8)))
    ks = (1, 3, 5)
    found = {"sigma": 1.0}
    for mode in ("self_excluded", "self_included"):
        # With unit vectors as gallery a query's similarities are its own coordinates, rescaled.
        r = retrieve(
            np.stack(similarity, 1),
            np.eye(8),
            y[:, None],
            sigma=np.ones(1),
            exclude_self=mode == "self_excluded",
            ks=ks,
        )
        rank, matches, hits = r["rank"][:, 0], r["matches"][:, 0], r["hits"][:, 0]
        queries = np.flatnonzero(~np.isnan(matches))
        p = Predictions(("y",), {key: r[key] for key in ("rank", "matches", "gallery")})
        found[mode] = {
            "per_query": [
                {
                    "query": int(i),
                    "first_rank": None if np.isnan(rank[i]) else int(rank[i]),
                    "n_match": matches[i],
                    **{f"P{k}": hits[i, j] for j, k in enumerate(ks)},
                }
                for i in queries
            ],
            "P_at": {str(k): hits[queries, j].mean(dtype=float) for j, k in enumerate(ks)},
            "MnR": MeanRank().influence(p)[0].item(),
            "MdR": MedianRank().influence(p)[0].item(),
            "n_queries": len(queries),
            "n_without_match": int((matches == 0).sum()),
            "random_P": PrecisionAt(k=1).chance(p).item(),
            "random_MnR": MeanRank().chance(p).item(),
            "random_MdR": int(MedianRank().chance(p).item()),
        }
    return found


def retrieval_random_gaussian():
    """Closed forms; what `retrieve` scores on such data is tested beside it."""

    def expected(f):
        def weighted(x):
            return stats.norm.pdf(x) * f(stats.norm.cdf(x + 0.5) - stats.norm.cdf(x - 0.5))

        return integrate.quad(weighted, -12, 12, epsabs=1e-12, limit=200)[0]

    # 1 / p grows as fast as the density falls: the far tail is most of the error.
    inverse = (
        2
        * integrate.quad(
            lambda x: (
                math.exp(-x * x / 2)
                / math.sqrt(2 * math.pi)
                / (stats.norm.sf(x - 0.5) - stats.norm.sf(x + 0.5))
            ),
            0,
            30,
            limit=500,
        )[0]
    )
    return {
        "P_at_1": expected(lambda p: p),
        "cdf": {
            k: expected(lambda p, k=k: 1 - (1 - p) ** int(k))
            for k in EXPECTED["retrieval_random_gaussian"]["cdf"]
        },
        "E_inv_p_infinite": inverse,
    }


def compact_letters():
    ladder, three = EXPECTED["compact_letters"]["ladder5"], EXPECTED["compact_letters"]["abc3"]
    return {
        "ladder5": ladder | {"letters": letters(ladder["order"], ladder["significant_pairs"])},
        "abc3": three | {"letters": letters("ABC", three["significant_pairs"])},
    }


def two_component_toy():
    names = ["A0", "A1", "A2", "B0", "B1", "B2"]
    y, *scores = numbers("two_component_toy.csv", "y", *names)
    theta, psi = auroc(y, *scores)
    a, b = (theta[:3], psi[:, :3]), (theta[3:], psi[:, 3:])
    parts = {"A": components(*a), "B": components(*b)}
    c = compare(*b, *a, int(min(y.sum(), (1 - y).sum())), paired=False)
    return {
        "auc": dict(zip(names, theta, strict=True)),
        "delta_B_minus_A": c.difference,
        "V_subj": c.v_subj,
        "s2": {name: part.s2 for name, part in parts.items()},
        "e2": {name: part.e2 for name, part in parts.items()},
        "sigma2_seed": {name: part.sigma2 for name, part in parts.items()},
        "V": c.v,
        "nu": c.nu,
        "t": c.difference / math.sqrt(c.v),
        "p_two_sided": c.p,
        "ci95": [c.lo, c.hi],
        "naive_paired_t_over_seeds_p": stats.ttest_rel(b[0], a[0]).pvalue,
    }


MADE_BY = {
    "asah_roc": asah_roc,
    "nadeau_bengio_correctR": nadeau_bengio_correct_r,
    "demsar2006_table6": demsar2006_table6,
    "multiple_testing": multiple_testing,
    "pearson_tuna": pearson_tuna,
    "retrieval_toy": retrieval_toy,
    "retrieval_random_gaussian": retrieval_random_gaussian,
    "compact_letters": compact_letters,
    "two_component_toy": two_component_toy,
}


@functools.cache
def computed(name):
    def plain(node):
        if isinstance(node, dict):
            return {key: plain(value) for key, value in node.items()}
        return [plain(v) for v in node] if isinstance(node, list | tuple | np.ndarray) else node

    return leaves(plain(MADE_BY[name]()), (name,))


@pytest.mark.parametrize("path", leaves(EXPECTED))
def test_value(path):
    want, found = leaves(EXPECTED)[path], computed(path.split("/")[0])
    assert path in found, f"nothing checks {path}"
    got = found[path]
    if not isinstance(want, Decimal):
        assert got == want
        return
    # Half a unit of the last printed digit; full precision is met to what the quantiles allow.
    # Shares of hits are stored in float32.
    exact = 1e-7 if path.startswith("retrieval_toy") else 1e-9
    digit = 0.5 * 10.0 ** want.as_tuple().exponent
    tolerance = COARSER.get(path, max(digit, exact * abs(float(want))))
    assert abs(got - float(want)) <= tolerance * (1 + 1e-9)


@pytest.mark.parametrize("name", MADE_BY)
def test_nothing_is_computed_that_nobody_expects(name):
    assert computed(name).keys() == leaves(EXPECTED[name], (name,)).keys()


def test_ties_without_half_credit_miss_the_published_area():
    y, wfns = numbers("asah_roc.csv", "y", "wfns")
    assert len(np.unique(wfns)) == 5
    wins = np.mean(wfns[y == 1][:, None] > wfns[y == 0])
    ties = np.mean(wfns[y == 1][:, None] == wfns[y == 0])
    assert auroc(y, wfns)[0][0] == pytest.approx(wins + ties / 2, rel=1e-12)
    assert ties > 0.1


def test_ratings_that_are_almost_all_ties():
    """Hanley & McNeil, Radiology 143:29, 1982, Table I: 109 images on a scale of five."""
    normal, abnormal = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)
    rating = np.concatenate([np.repeat(np.arange(5.0), n) for n in (normal, abnormal)])
    y = np.repeat([0.0, 1.0], [sum(normal), sum(abnormal)])
    theta, psi = auroc(y, rating)
    assert theta[0] == pytest.approx(0.893171, abs=5e-7)
    assert math.sqrt(psi[:, 0] @ psi[:, 0]) / len(y) == pytest.approx(0.030724, abs=5e-7)
    # Their own formula takes the scores for exponential; the paper prints 0.032.
    a, m, n = theta[0], sum(abnormal), sum(normal)
    q1, q2 = a / (2 - a), 2 * a**2 / (1 + a)
    v = (a * (1 - a) + (m - 1) * (q1 - a**2) + (n - 1) * (q2 - a**2)) / (m * n)
    assert math.sqrt(v) == pytest.approx(0.032, abs=5e-4)


def test_the_first_of_two_is_better_when_the_difference_is_positive():
    y, wfns, ndka = numbers("asah_roc.csv", "y", "wfns", "ndka")
    good, bad = auroc(y, wfns), auroc(y, ndka)
    forth, back = compare(*good, *bad, 41), compare(*bad, *good, 41)
    assert forth.difference > 0
    assert (back.difference, back.lo, back.hi) == (-forth.difference, -forth.hi, -forth.lo)
    assert back.p == forth.p

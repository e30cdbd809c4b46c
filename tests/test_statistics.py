"""The two-component scheme against published and hand-computed numbers."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from benchmark.api import Predictions
from benchmark.evaluation import statistics
from benchmark.evaluation.metrics import AUROC, R2, PearsonR
from benchmark.evaluation.multiplicity import holm
from benchmark.evaluation.statistics import (
    Components,
    compare,
    components,
    difference_test,
    estimate,
    family_variances,
    gap_closed,
    label_factor,
    posterior,
    resolvable_difference,
)

DATA = Path(__file__).parent / "data" / "statistics"
EXPECTED = json.loads((DATA / "expected.json").read_text())


def table(name):
    with (DATA / name).open(newline="") as f:
        rows = list(csv.DictReader(f))
    return {key: [row[key] for row in rows] for key in rows[0]}


def columns(name, *keys):
    data = table(name)
    return [np.array(data[key], float) for key in keys]


def auroc(y, scores):
    """(S,) and (N, S) of scores (N, S) of one target."""
    scores = np.asarray(scores, float)
    target = np.repeat(np.asarray(y, float)[:, None], scores.shape[1], axis=1)
    names = tuple(f"s{i}" for i in range(scores.shape[1]))
    return AUROC().influence(Predictions(names, {"target": target, "prediction": scores}))


@pytest.fixture(scope="module")
def toy():
    y, *scores = columns("two_component_toy.csv", "y", "A0", "A1", "A2", "B0", "B1", "B2")
    return y, np.stack(scores[:3], 1), np.stack(scores[3:], 1)


def test_pearson_interval_is_fishers_with_first_order_variance():
    x, y = columns("pearson_tuna.csv", "x", "y")
    r, psi = PearsonR().influence(
        Predictions(("t",), {"target": x[:, None], "prediction": y[:, None]})
    )
    assert r[0] == pytest.approx(EXPECTED["pearson_tuna"]["r"], rel=1e-12)
    e = estimate(r, psi, len(x), "fisher")
    half = stats.t.ppf(0.975, len(x) - 1) * math.sqrt(e.v) / (1 - r[0] ** 2)
    assert e.lo == pytest.approx(math.tanh(math.atanh(r[0]) - half), rel=1e-12)
    assert e.hi == pytest.approx(math.tanh(math.atanh(r[0]) + half), rel=1e-12)


def test_fisher_interval_agrees_with_the_textbook_for_normal_data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(20_000)
    y = 0.6 * x + 0.8 * rng.standard_normal(x.size)
    r, psi = PearsonR().influence(
        Predictions(("t",), {"target": x[:, None], "prediction": y[:, None]})
    )
    e = estimate(r, psi, len(x), "fisher")
    textbook = stats.pearsonr(x, y).confidence_interval()
    assert (e.lo, e.hi) == pytest.approx((textbook.low, textbook.high), abs=3e-4)


@pytest.mark.parametrize(
    ("luck", "too_often"), [(0.0, 40), (0.1, 20)], ids=["equal replicates", "some are lucky"]
)
def test_null_is_rejected_about_as_often_as_promised(luck, too_often):
    """Two methods of equal skill, five replicates each, 200 data sets: 5% of them by chance.

    A t test over the replicates forgets the test people, whose noise all replicates share.
    """
    rng = np.random.default_rng(2026)
    n, replicates, rejected, rejected_by_t = 800, 5, 0, 0
    y = (np.arange(n) < 80).astype(float)
    for _ in range(200):
        # What the two make of each person; each replicate adds its own noise and its own luck.
        skill = 0.9 * y + rng.normal(0, math.sqrt(0.6), n)
        methods = skill + rng.normal(0, math.sqrt(0.25), (2, n))
        scores = methods[:, :, None] + rng.normal(0, luck, (2, 1, replicates)) * y[:, None]
        scores += rng.normal(0, math.sqrt(0.15), scores.shape)
        a, b = (auroc(y, of_one) for of_one in scores)
        rejected += compare(*a, *b, 80).p < 0.05
        rejected_by_t += stats.ttest_rel(a[0], b[0]).pvalue < 0.05
    assert 2 <= rejected <= 20, f"{rejected / 2}% of true nulls rejected"
    assert rejected_by_t > too_often, f"{rejected_by_t / 2}% rejected by the t test over replicates"


def test_paired_replicates_are_subtracted_first(toy):
    y, a, b = toy
    (theta_a, psi_a), (theta_b, psi_b) = auroc(y, a), auroc(y, b)
    own = components(theta_b - theta_a, psi_b - psi_a)
    paired = compare(theta_b, psi_b, theta_a, psi_a, 30)
    assert (paired.s2, paired.e2, paired.difference) == (own.s2, own.e2, own.value)
    unpaired = compare(theta_b, psi_b, theta_a, psi_a, 30, paired=False)
    assert paired.v_subj == pytest.approx(unpaired.v_subj, rel=1e-12)
    assert paired.v != unpaired.v


@pytest.mark.parametrize("paired", [True, False])
def test_identical_methods_do_not_differ(toy, paired):
    y, a, _ = toy
    theta, psi = auroc(y, a)
    c = compare(theta, psi, theta, psi, 30, paired)
    assert c.difference == 0
    assert c.p == 1
    assert np.isfinite([c.lo, c.hi, c.v, c.nu]).all()


def test_covariances_of_whatever_columns_are_positive_semidefinite(toy):
    y, a, b = toy
    rng = np.random.default_rng(7)
    target = np.tile(y[:, None], 3)
    target[rng.random(target.shape) < 0.3] = np.nan
    p = Predictions(tuple("xyz"), {"target": target, "prediction": b})
    psi = np.hstack(
        [auroc(y, a)[1], *(m.influence(p)[1] for m in (AUROC(), PearsonR(), R2())), auroc(y, a)[1]]
    )
    gamma = psi.T @ psi / len(y) ** 2
    values = np.linalg.eigvalsh(gamma)
    assert values.min() > -1e-12 * values.max()
    # A column twice is one dimension less.
    assert values[0] == pytest.approx(0, abs=1e-12 * values.max())


@pytest.mark.parametrize("replicates", [1, 3])
def test_perfect_separation_has_no_width_and_no_nan(replicates):
    y = np.repeat([0.0, 1.0], 30)
    theta, psi = auroc(y, np.tile((y + np.linspace(0, 0.5, 60))[:, None], replicates))
    assert (theta == 1).all()
    e = estimate(theta, psi, 30, "logit")
    assert (e.lo, e.value, e.hi, e.v) == (1, 1, 1, 0)
    assert e.nu == 29


def test_people_on_whom_replicates_disagree_widen_an_interval_no_further_than_replicates_alone():
    """Columns that cancel: their covariance is below 0, and nu would be 0.07 instead of 2."""
    theta = np.array([0.0, 0.5, 1.0])
    people = np.random.default_rng(0).normal(size=(300, 3))
    people -= people.mean(axis=1, keepdims=True)
    psi = 8 * people
    e = estimate(theta, psi, 300)
    assert e.v_subj + e.sigma2 / 3 < 0.25 * e.s2 / 3
    assert (e.v, e.nu) == (e.s2 / 3, 2)
    c = compare(theta, psi, np.zeros(3), np.zeros((300, 3)), 300)
    assert (c.v, c.nu) == (e.v, e.nu)
    assert family_variances({("a", "b"): c}) == [pytest.approx((e.v, 2))]


def test_one_replicate_counts_people_only(toy):
    y, a, b = toy
    theta, psi = auroc(y, a[:, :1])
    e = estimate(theta, psi, 30)
    assert e.v == e.v_subj == pytest.approx(psi[:, 0] @ psi[:, 0] / len(y) ** 2)
    assert math.isnan(e.sigma2)
    assert e.replicates == 1
    other = auroc(y, b[:, :1])
    paired = compare(theta, psi, *other, 30)
    unpaired = compare(theta, psi, *other, 30, paired=False)
    assert paired.p == pytest.approx(unpaired.p, rel=1e-12)


def test_permuting_people_and_negating_scores(toy):
    y, a, b = toy
    order = np.random.default_rng(1).permutation(len(y))
    (theta, psi), (other, other_psi) = auroc(y, a), auroc(y, b)
    c = compare(theta, psi, other, other_psi, 30)
    shuffled = compare(*auroc(y[order], a[order]), *auroc(y[order], b[order]), 30)
    assert shuffled.p == pytest.approx(c.p, rel=1e-10)
    assert shuffled.v == pytest.approx(c.v, rel=1e-10)
    negated, negated_psi = auroc(y, -a)
    assert negated == pytest.approx(1 - theta, rel=1e-12)
    assert negated_psi == pytest.approx(-psi, abs=1e-12)
    assert compare(other, other_psi, theta, psi, 30).difference == -c.difference


def test_adding_a_replicate_effect_widens_the_interval(toy):
    y, a, _ = toy
    theta, psi = auroc(y, a)
    narrow = estimate(np.full(3, theta.mean()), psi, 30)
    wide = estimate(theta.mean() + np.array([-0.3, 0, 0.3]), psi, 30)
    assert narrow.sigma2 == 0
    assert wide.v == pytest.approx(narrow.v + wide.sigma2 / 3, rel=1e-12)
    # Three replicates leave about two degrees of freedom for what they dominate.
    assert wide.nu < 5 < narrow.nu


def test_interval_needs_two_people_in_the_smaller_class():
    e = estimate(np.array([0.7]), np.array([[0.1], [-0.1]]), 1)
    assert math.isnan(e.lo)
    assert math.isnan(e.hi)
    assert math.isnan(resolvable_difference(e.v, e.nu))


def test_not_estimable_cells_are_refused():
    with pytest.raises(ValueError, match="finite"):
        components(np.array([np.nan]), np.ones((3, 1)))
    with pytest.raises(ValueError, match="not one test set"):
        compare(np.ones(1), np.ones((3, 1)), np.ones(1), np.ones((4, 1)), 3)
    with pytest.raises(ValueError, match="same replicates"):
        compare(np.ones(1), np.ones((3, 1)), np.ones(2), np.ones((3, 2)), 3)
    with pytest.raises(ValueError, match="are not"):
        components(np.ones(2), np.ones((3, 1)))


def test_resolvable_difference_has_its_power():
    v, nu = 0.01**2, 25.0
    found = stats.nct.sf(stats.t.ppf(0.975, nu), nu, resolvable_difference(v, nu) / 0.01)
    assert found == pytest.approx(0.8, abs=0.01)


def skilled(rng, y, skill, replicates=3, luck=0.05):
    noise = rng.normal(0, 1, (len(y), 1)) + rng.normal(0, 0.5, (len(y), replicates))
    return auroc(y, (skill + rng.normal(0, luck, replicates)) * y[:, None] + noise)


def test_gap_closed_is_a_ratio_with_fiellers_interval():
    rng = np.random.default_rng(11)
    y = (np.arange(4000) < 800).astype(float)
    base, a, goal = (skilled(rng, y, skill) for skill in (0.4, 0.8, 1.2))
    g = gap_closed(*a, *base, *goal, 800)
    means = [t.mean() for t, _ in (base, a, goal)]
    assert g.value == pytest.approx((means[1] - means[0]) / (means[2] - means[0]), rel=1e-12)
    assert g.lo < g.value < g.hi
    # Fieller: the shares x at which A - baseline - x (goal - baseline) does not differ from 0.
    for edge, side in ((g.lo, 1), (g.hi, -1)):
        theta = a[0] - base[0] - edge * (goal[0] - base[0])
        psi = a[1] - base[1] - edge * (goal[1] - base[1])
        c = compare(theta, psi, np.zeros_like(theta), np.zeros_like(psi), 800)
        assert side * c.difference > 0
        assert c.p == pytest.approx(0.05, abs=0.02)


def test_gap_closed_at_its_ends():
    rng = np.random.default_rng(12)
    y = (np.arange(1000) < 300).astype(float)
    base, goal = skilled(rng, y, 0.3), skilled(rng, y, 1.5)
    nothing, everything = gap_closed(*base, *base, *goal, 300), gap_closed(*goal, *base, *goal, 300)
    assert nothing.value == 0
    assert everything.value == 1
    # The goal itself has closed all of the gap, however wide the gap is.
    assert (everything.lo, everything.hi) == pytest.approx((1, 1), abs=1e-9)
    # Backwards, or where nobody can tell the two ends apart, there is no gap.
    for no_gap in (gap_closed(*goal, *goal, *base, 300), gap_closed(*goal, *base, *base, 300)):
        assert np.isnan([no_gap.value, no_gap.lo, no_gap.hi]).all()
    with pytest.raises(ValueError, match="same replicates"):
        gap_closed(goal[0][:2], goal[1][:, :2], *base, *goal, 300)


def test_label_factor():
    fractions, values = (1.0, 0.01, 0.1), (0.8, 0.6, 0.7)
    assert label_factor(fractions, values, 0.7) == (pytest.approx(0.1), "=")
    assert label_factor(fractions, values, 0.6) == (0.01, "=")
    # Half of the way in the score is half of the way in the logarithm.
    assert label_factor(fractions, values, 0.75) == (pytest.approx(10**-0.5), "=")
    assert label_factor(fractions, values, 0.5) == (0.01, "<")
    assert label_factor(fractions, values, 0.9) == (1.0, ">")
    # A curve that dips is crossed where it first gets there.
    assert label_factor((0.01, 0.1, 1.0), (0.6, 0.8, 0.7), 0.7)[0] < 0.1
    assert label_factor(fractions, (0.8, math.nan, 0.7), 0.75) == (pytest.approx(10**-0.5), "=")
    assert label_factor(fractions, [math.nan] * 3, 0.7) is None
    assert label_factor(fractions, values, math.nan) is None


def test_posterior_of_a_difference():
    found = posterior(0.012, 0.005**2, 30.0, 0.01)
    assert found.worse + found.within + found.better == pytest.approx(1, abs=1e-15)
    draws = 0.012 + 0.005 * stats.t.rvs(30, size=200_000, random_state=0)
    assert found.worse == pytest.approx((draws < -0.01).mean(), abs=0.001)
    assert found.better == pytest.approx((draws > 0.01).mean(), abs=0.005)
    mirrored = posterior(-0.012, 0.005**2, 30.0, 0.01)
    assert mirrored.worse == pytest.approx(found.better, rel=1e-12)
    # Without a region of no interest: the one-sided p of the same test.
    assert posterior(0.012, 0.005**2, 30.0, 0.0).worse == pytest.approx(stats.t.sf(2.4, 30))
    assert posterior(0.0, 0.0, 9.0, 0.01) == posterior(0.01, 0.0, 9.0, 0.01)
    assert posterior(0.02, 0.0, 9.0, 0.01).better == 1
    assert math.isnan(posterior(0.02, 1.0, 0.0, 0.01).within)


def test_posterior_is_the_correlated_t_test_of_the_literature():
    """Benavoli et al. 2017: on resampled scores the scale is Nadeau and Bengio's."""
    x, y = columns("nadeau_bengio_correctR.csv", "x", "y")
    d = x - y
    v = (1 / d.size + 20 / 80) * d.var(ddof=1)
    found = posterior(d.mean(), v, d.size - 1, 0.0)
    one_sided = EXPECTED["nadeau_bengio_correctR"]["published_p_one_sided"]
    assert found.worse == pytest.approx(one_sided, rel=1e-5)


# ------------------------------------------------------------------------------- families


def null_family(rng, counts, luck):
    """Comparisons of equal methods; ``luck`` is the SD of a difference between replicates.

    In units of the people's SE, and log-normal between methods.
    """
    noise, n_min = 0.15, 900
    own = luck / math.sqrt(2) * np.exp(rng.normal(0, 0.5, len(counts)) - 0.25)
    spread = np.hypot(own, math.sqrt(noise / 2))[:, None]
    shape = (len(counts), max(counts))
    theta = rng.normal(0, math.sqrt(0.5), (shape[0], 1)) + spread * rng.standard_normal(shape)
    pairs = {}
    for a, b in itertools.combinations(range(len(counts)), 2):
        s = min(counts[a], counts[b])
        d = theta[a, :s] - theta[b, :s]
        s2 = d.var(ddof=1) if s > 1 else math.nan
        sigma2 = max(0.0, s2 - noise) if s > 1 else math.nan
        part = Components(d.mean(), 1 + noise / s, s2, noise, sigma2, s, 900)
        v, nu = statistics._variance(part.v_subj, [part], n_min)
        pairs[f"{a}", f"{b}"] = SimpleNamespace(**vars(part), v=v, nu=nu, n_min=n_min)
    return pairs


def told_apart(pairs, variances):
    """Whether any pair is, after Holm's correction."""
    tests = zip(pairs.values(), variances, strict=True)
    return min(holm([difference_test(x.value, *variance)[2] for x, variance in tests])) <= 0.05


@pytest.mark.parametrize(
    ("counts", "luck", "too_often"),
    [([3] * 14, 2, 16), ([2] * 14, 2, 50), ([3] * 7 + [1] * 7, 1, 40)],
    ids=["three replicates", "two replicates", "one replicate of half"],
)
def test_a_family_of_equal_methods_has_no_winner_by_the_luck_of_few_replicates(
    counts, luck, too_often
):
    rng = np.random.default_rng(14)
    families = [null_family(rng, counts, luck) for _ in range(200)]
    found = sum(told_apart(pairs, family_variances(pairs)) for pairs in families)
    assert found <= 20, f"in {found / 2}% of families of equal methods some pair is told apart"
    own = sum(told_apart(pairs, [(x.v, x.nu) for x in pairs.values()]) for pairs in families)
    assert own > too_often, f"{own / 2}% with each pair's own variance"


def test_no_pair_counts_as_less_variable_than_its_family():
    def pair(s2, replicates=3, v=1.0):
        sigma2 = max(0.0, s2 - 1) if replicates > 1 else math.nan
        parts = {"v_subj": 1.0, "e2": 1.0, "n_min": 100, "replicates": replicates}
        return SimpleNamespace(s2=s2, sigma2=sigma2, v=v, nu=99.0, **parts)

    pairs = {
        ("a", "b"): pair(0.5),
        ("a", "c"): pair(2.5),
        ("b", "c"): pair(9.0, v=11 / 3),
        ("a", "d"): pair(math.nan, replicates=1),
    }
    variances = dict(zip(pairs, family_variances(pairs), strict=True))
    # The mean excess is (-0.5 + 1.5 + 8) / 3, of all pairs of three on (3 - 1)(3 - 1) degrees.
    floor, noise, freedom = 3.0, 1.0, 4

    def expected(sigma2, replicates):
        v, spread = 1 + sigma2 / replicates, (sigma2 + noise) / replicates
        nu = v**2 / (spread**2 / freedom + max(0, v - spread) ** 2 / 99)
        return pytest.approx((v, nu))

    assert variances["a", "b"] == expected(floor, 3)
    assert variances["a", "c"] == expected(floor, 3), "1.5 of its own is less too"
    assert variances["b", "c"] == expected(8.0, 3), "who has more keeps it"
    assert variances["a", "d"] == expected(floor, 1)


@pytest.mark.parametrize("replicates", [2, 3])
@pytest.mark.parametrize("against", ["each other", "one reference"])
def test_the_degrees_of_freedom_are_those_of_the_mean_over_pairs(against, replicates):
    """A mean of variances has 2 mean^2 / variance of them (Satterthwaite)."""
    rng = np.random.default_rng(3)
    pairs = list(itertools.combinations("abcdefgh", 2))
    if against == "one reference":
        pairs = [pair for pair in pairs if pair[0] == "a"]
    theta = dict(zip("abcdefgh", rng.standard_normal((8, 40_000, replicates)), strict=True))
    mean = np.mean([(theta[a] - theta[b]).var(axis=1, ddof=1) for a, b in pairs], axis=0)
    freedom = statistics._freedom(pairs, [replicates - 1] * len(pairs))
    assert freedom == pytest.approx(2 * mean.mean() ** 2 / mean.var(), rel=0.03)
    if against == "each other":
        assert freedom == pytest.approx(7 * (replicates - 1))


@pytest.mark.parametrize("replicates", [1, 3])
def test_a_family_without_replicate_variance_is_tested_as_recorded(replicates):
    nothing = math.nan if replicates == 1 else 0.0
    parts = {"v_subj": 1.0, "e2": 1.0 + nothing, "s2": nothing, "sigma2": nothing}
    pair = SimpleNamespace(**parts, v=1.0, nu=99.0, n_min=100, replicates=replicates)
    assert family_variances({("a", "b"): pair, ("a", "c"): pair}) == [(1.0, 99.0)] * 2

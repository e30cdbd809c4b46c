"""The two-component scheme against published and hand-computed numbers."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmark.api import Predictions
from benchmark.evaluation.metrics import AUROC, PearsonR
from benchmark.evaluation.statistics import (
    compare,
    components,
    estimate,
    holm,
    letters,
    rank_intervals,
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


def test_two_component_toy(toy):
    y, a, b = toy
    expected = EXPECTED["two_component_toy"]
    (theta_a, psi_a), (theta_b, psi_b) = auroc(y, a), auroc(y, b)
    for name, theta, psi in (("A", theta_a, psi_a), ("B", theta_b, psi_b)):
        parts = components(theta, psi)
        assert parts.s2 == pytest.approx(expected["s2"][name], rel=1e-12)
        assert parts.e2 == pytest.approx(expected["e2"][name], rel=1e-12)
        assert parts.sigma2 == pytest.approx(expected["sigma2_seed"][name], rel=1e-12)
        assert theta == pytest.approx([expected["auc"][f"{name}{s}"] for s in range(3)], rel=1e-12)
    n_min = int(min(y.sum(), (1 - y).sum()))
    c = compare(theta_b, psi_b, theta_a, psi_a, n_min, paired=False)
    assert c.difference == pytest.approx(expected["delta_B_minus_A"], rel=1e-12)
    assert c.v_subj == pytest.approx(expected["V_subj"], rel=1e-12)
    assert c.v == pytest.approx(expected["V"], rel=1e-12)
    assert c.nu == pytest.approx(expected["nu"], rel=1e-12)
    assert c.p == pytest.approx(expected["p_two_sided"], rel=1e-10)
    assert (c.lo, c.hi) == pytest.approx(expected["ci95"], rel=1e-10)
    paired = compare(theta_b, psi_b, theta_a, psi_a, n_min)
    own = components(theta_b - theta_a, psi_b - psi_a)
    assert (paired.s2, paired.e2, paired.difference) == (own.s2, own.e2, own.value)
    assert paired.v_subj == pytest.approx(c.v_subj, rel=1e-12)


def test_asah_is_delong():
    y, *markers = columns("asah_roc.csv", "y", "wfns", "s100b", "ndka")
    names = ("wfns", "s100b", "ndka")
    expected = EXPECTED["asah_roc"]
    theta, psi = auroc(y, np.stack(markers, 1))
    gamma = psi.T @ psi / len(y) ** 2
    for i, name in enumerate(names):
        assert theta[i] == pytest.approx(expected["auc"][name], rel=1e-13)
        assert gamma[i, i] == pytest.approx(expected["delong_var"][name], rel=1e-12)
        # DeLong stops at the covariance; his intervals use the normal quantile.
        assert components(theta[[i]], psi[:, [i]]).v_subj == pytest.approx(gamma[i, i], rel=1e-13)
    pairs = {frozenset(k.split("_")): v for k, v in expected["delong_cov"].items()}
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert gamma[i, j] == pytest.approx(pairs[frozenset({names[i], names[j]})], rel=1e-12)
    for pair, want in expected["delong_paired"].items():
        a, b = (names.index(name) for name in pair.split("-"))
        c = compare(theta[[a]], psi[:, [a]], theta[[b]], psi[:, [b]], 10**9)
        assert c.difference == pytest.approx(want["diff"], rel=1e-12)
        assert c.difference / math.sqrt(c.v) == pytest.approx(want["z"], rel=1e-10)
        # With this many degrees of freedom t is the normal distribution.
        assert c.p == pytest.approx(want["p"], rel=1e-6)
        assert (c.lo, c.hi) == pytest.approx((want["lo"], want["hi"]), rel=1e-6)
    lo, mid, hi = expected["ndka_ci95_delong"]
    e = estimate(theta[[2]], psi[:, [2]], 10**9)
    assert (e.lo, e.value, e.hi) == pytest.approx((lo, mid, hi), rel=1e-6)
    narrow = estimate(theta[[2]], psi[:, [2]], 41, "logit")
    assert 0 < narrow.lo < mid < narrow.hi < 1
    assert narrow.nu == 40


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


@pytest.mark.parametrize("replicates", [1, 3])
def test_perfect_separation_has_no_width_and_no_nan(replicates):
    y = np.repeat([0.0, 1.0], 30)
    theta, psi = auroc(y, np.tile((y + np.linspace(0, 0.5, 60))[:, None], replicates))
    assert (theta == 1).all()
    e = estimate(theta, psi, 30, "logit")
    assert (e.lo, e.value, e.hi, e.v) == (1, 1, 1, 0)
    assert e.nu == 29


@pytest.mark.parametrize("paired", [True, False])
def test_identical_methods_do_not_differ(toy, paired):
    y, a, _ = toy
    theta, psi = auroc(y, a)
    c = compare(theta, psi, theta, psi, 30, paired)
    assert c.difference == 0
    assert c.p == 1
    assert not math.isnan(c.lo + c.hi + c.nu)
    if paired:
        assert (c.lo, c.hi, c.v) == (0, 0, 0)


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


def test_null_is_rejected_about_as_often_as_promised():
    """Two methods of equal skill, five replicates each, 200 data sets."""
    rng = np.random.default_rng(2026)
    n, replicates, rejected = 800, 5, 0
    y = (np.arange(n) < 80).astype(float)
    for _ in range(200):
        base = 0.9 * y + rng.standard_normal(n) * math.sqrt(0.6)
        methods = [base + rng.standard_normal(n) * math.sqrt(0.25) for _ in range(2)]
        # Each replicate adds its own noise and its own luck.
        scores = [
            np.stack(
                [
                    m + rng.normal(0, 0.1) * y + rng.standard_normal(n) * math.sqrt(0.15)
                    for _ in range(replicates)
                ],
                1,
            )
            for m in methods
        ]
        rejected += compare(*auroc(y, scores[0]), *auroc(y, scores[1]), 80).p < 0.05
    assert 2 <= rejected <= 20, f"{rejected / 2}% of true nulls rejected"


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


@pytest.mark.parametrize("case", ["holm4", "bh1995", "cummax3"])
def test_holm(case):
    data = table("multiple_testing.csv")
    rows = [i for i, name in enumerate(data["case"]) if name == case]
    p, want = (np.array(data[key], float)[rows] for key in ("p", "holm"))
    assert holm(p) == pytest.approx(want, rel=1e-12)
    assert holm(p[::-1]) == pytest.approx(want[::-1], rel=1e-12)


def test_holm_of_nothing_is_nothing():
    assert holm([]).size == 0


def test_letters_of_published_examples():
    ladder = EXPECTED["compact_letters"]["ladder5"]
    assert letters(ladder["order"], ladder["significant_pairs"]) == ladder["letters"]
    three = EXPECTED["compact_letters"]["abc3"]
    assert letters("ABC", three["significant_pairs"]) == three["letters"]


@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda p: p[0] < p[1])))
def test_letters_are_shared_exactly_by_those_that_do_not_differ(pairs):
    names = "ABCDEFG"
    shown = letters(names, [(names[i], names[j]) for i, j in pairs])
    for i in range(7):
        for j in range(i + 1, 7):
            assert bool(set(shown[names[i]]) & set(shown[names[j]])) == ((i, j) not in pairs)


def test_rank_intervals():
    assert rank_intervals("ABC", []) == dict.fromkeys("ABC", (1, 3))
    assert rank_intervals("ABC", [("A", "B"), ("A", "C"), ("A", "C")]) == {
        "A": (1, 1),
        "B": (2, 3),
        "C": (2, 3),
    }

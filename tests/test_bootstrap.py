"""Weighted statistics against the libraries', and influence values against their draws."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score, roc_auc_score

from benchmark.api import Predictions
from benchmark.evaluation import bootstrap
from benchmark.evaluation.metrics import AUROC, R2, PearsonR
from benchmark.evaluation.statistics import compare, estimate

RNG = np.random.default_rng


def test_draws_are_fixed_by_their_key_however_many_are_made_at_a_time(monkeypatch):
    strata = RNG(0).random(50) < 0.2
    for kind in (None, strata):
        whole = np.concatenate(list(bootstrap.weights(50, 300, "a", kind)), axis=1)
        monkeypatch.setattr(bootstrap, "_CHUNK", 7)
        pieces = list(bootstrap.weights(50, 300, "a", kind))
        monkeypatch.undo()
        assert len(pieces) == 43
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
        assert whole.shape == (50, 300)
        assert (whole.sum(axis=0) == 50).all()
        other = np.concatenate(list(bootstrap.weights(50, 300, "b", kind)), axis=1)
        assert (other != whole).any()
    # Multinomial: on average once, with the variance of a binomial of 50 times 1 / 50.
    assert whole.mean() == 1
    assert whole[~strata].var() == pytest.approx(1 - 1 / (~strata).sum(), abs=0.05)
    assert (whole[strata].sum(axis=0) == strata.sum()).all()


def test_people_of_unknown_class_are_a_class():
    strata = np.repeat([0.0, 1.0, np.nan], (20, 10, 5))
    drawn = np.concatenate(list(bootstrap.weights(35, 300, "a", strata)), axis=1)
    for members in (slice(20), slice(20, 30), slice(30, 35)):
        assert (drawn[members].sum(axis=0) == len(strata[members])).all()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 9)), min_size=2, max_size=40
    ).filter(lambda rows: len({y for y, _, w in rows if w}) == 2),
    st.booleans(),
)
def test_weighted_auroc_with_ties_is_scikit_learns(rows, whole):
    y, s, w = (np.array(column, float) for column in zip(*rows, strict=True))
    w = w if whole else w / 7
    want = roc_auc_score(y, s, sample_weight=w)
    got = bootstrap.auroc(y, np.stack([s, -s], 1), w[:, None])
    assert got[0] == pytest.approx([want, 1 - want], abs=1e-12)
    single = bootstrap.auroc(y, s[:, None], w[:, None].astype(np.float32))
    assert single[0, 0] == pytest.approx(want, abs=1e-6)


def test_auroc_of_perfect_and_of_missing_classes():
    y = np.array([0.0, 0, 1, 1, np.nan])
    w = np.array([[1, 3, 0, 1], [1, 0, 0, 1], [2, 1, 2, 0], [1, 0, 1, 0], [5, 5, 5, 5]], float)
    found = bootstrap.auroc(y, np.array([[0.0], [0.1], [0.5], [0.7], [9.0]]), w)[:, 0]
    assert found[:2].tolist() == [1, 1]
    assert np.isnan(found[2:]).all()


def test_large_numbers_of_pairs_do_not_overflow():
    m = 50_000
    y, s = np.repeat([1.0, 0.0], m), np.concatenate([np.arange(m) + 0.5, np.arange(m)])
    w = next(bootstrap.weights(2 * m, 3, "large", y))
    exact = bootstrap.auroc(y, s[:, None], np.ones((2 * m, 1), np.float32))
    assert exact[0, 0] == pytest.approx((m + 1) / (2 * m), rel=1e-12)
    for draw, found in zip(w.T, bootstrap.auroc(y, s[:, None], w)[:, 0], strict=True):
        assert found == pytest.approx(roc_auc_score(y, s, sample_weight=draw), rel=1e-7)


def with_missing():
    rng = RNG(1)
    y = 40 + 3 * rng.normal(size=(300, 3))
    f = y + rng.normal(size=y.shape)
    y[rng.random(y.shape) < 0.2] = np.nan
    return y, f, rng.integers(4, size=(300, 5)).astype(float)


@pytest.mark.parametrize(("kind", "tolerance"), [(np.float64, 1e-11), (np.float32, 1e-4)])
def test_weighted_r2_r_and_mean_are_the_libraries(kind, tolerance):
    y, f, w = with_missing()
    r2, r, mean = (
        work(w.astype(kind))
        for work in (
            partial(bootstrap.r2, y, f),
            partial(bootstrap.pearson_r, y, f),
            partial(bootstrap.mean, y),
        )
    )
    for b in range(w.shape[1]):
        for t in range(y.shape[1]):
            known = ~np.isnan(y[:, t])
            own, a, c = w[known, b], y[known, t], f[known, t]
            assert r2[b, t] == pytest.approx(r2_score(a, c, sample_weight=own), abs=tolerance)
            covariance = np.cov(a, c, fweights=own.astype(int))
            want = covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])
            assert r[b, t] == pytest.approx(want, abs=tolerance)
            assert mean[b, t] == pytest.approx(np.average(a, weights=own), rel=tolerance)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.one_of(st.just(math.nan), st.integers(1, 9)), st.integers(0, 3)),
        min_size=1,
        max_size=30,
    )
)
def test_weighted_median_is_that_of_repeated_values(rows):
    values, w = (np.array(column, float) for column in zip(*rows, strict=True))
    found = bootstrap.median(values[:, None], w[:, None])[0, 0]
    repeated = np.repeat(values, w.astype(int))
    repeated = repeated[~np.isnan(repeated)]
    if repeated.size:
        assert found == np.median(repeated)
    else:
        assert math.isnan(found)


def test_interval_of_the_median_rank_covers_it():
    rank = RNG(10).geometric(0.2, (301, 2)).astype(float)
    rank[RNG(11).random(rank.shape) < 0.1] = np.nan
    draws = bootstrap.resample(partial(bootstrap.median, rank), 301, 400, key="queries")
    assert draws.shape == (400, 2)
    lo, hi = np.quantile(draws, [0.025, 0.975], axis=0)
    assert (lo <= np.nanmedian(rank, axis=0)).all()
    assert (hi >= np.nanmedian(rank, axis=0)).all()
    assert (hi > lo).all()


def cases():
    """Name, metric, target, and predictions of two methods that agree on much."""
    rng, n = RNG(3), 6000
    shared, own = rng.normal(size=n), rng.normal(size=(n, 2))
    y = shared + 0.7 * rng.normal(size=n)
    predicted = 0.7 * shared[:, None] + 0.3 * own
    for prevalence in (0.07, 0.004):
        sick = (y > np.quantile(y, 1 - prevalence)).astype(float)
        yield f"AUROC {prevalence}", AUROC(), bootstrap.auroc, sick, predicted
    yield "R2", R2(), bootstrap.r2, y, predicted
    yield "r", PearsonR(), bootstrap.pearson_r, y, predicted


CASES = {name: rest for name, *rest in cases()}


@pytest.mark.parametrize("name", CASES)
def test_influence_values_say_what_draws_say(name):
    """Standard errors of one method and of a paired difference, on 6,000 people."""
    metric, statistic, y, f = CASES[name]
    both = np.tile(y[:, None], 2)
    theta, psi = metric.influence(Predictions(("a", "b"), {"target": both, "prediction": f}))
    target, strata = (y, y) if metric.name == "AUROC" else (both, None)
    draws = bootstrap.resample(partial(statistic, target, f), len(y), 1000, key=name, strata=strata)
    # 1,000 draws know a standard error to 2.2%; with 24 positives both are rough.
    few = name.endswith("0.004")
    rough = 0.1 if few else 0.07
    errors = np.sqrt((psi**2).sum(axis=0)) / len(y)
    assert draws.std(axis=0) == pytest.approx(errors, rel=rough)
    assert draws.mean(axis=0) == pytest.approx(theta, abs=0.2 * errors.max())
    c = compare(theta[:1], psi[:, :1], theta[1:], psi[:, 1:], len(y))
    difference = draws[:, 0] - draws[:, 1]
    assert difference.std() == pytest.approx(math.sqrt(c.v), rel=rough)
    assert c.v < 0.7 * (errors**2).sum()  # what the pairing is worth
    e = estimate(theta[:1], psi[:, :1], len(y), metric.scale)
    lo, hi = np.quantile(draws[:, 0], [0.025, 0.975])
    assert (lo, hi) == pytest.approx((e.lo, e.hi), abs=(0.5 if few else 0.25) * errors[0])

"""Metrics against scikit-learn, scipy and closed forms; influence values against resampling."""

from __future__ import annotations

import functools
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import r2_score, roc_auc_score

from benchmark.api import Metric, Predictions
from benchmark.evaluation.metrics import (
    AUROC,
    R2,
    CappedMeanRank,
    MeanRank,
    MedianRank,
    PearsonR,
    PrecisionAt,
    RecallAt,
)
from benchmark.evaluation.retrieval import KS, retrieve


def predictions(target, prediction):
    target, prediction = np.asarray(target, float), np.asarray(prediction, float)
    if target.ndim == 1:
        target, prediction = target[:, None], prediction[:, None]
    names = tuple(f"t{i}" for i in range(target.shape[1]))
    return Predictions(names, {"target": target, "prediction": prediction})


def with_missing(rng, n=300, targets=4):
    y = rng.standard_normal((n, targets))
    f = 0.7 * y + rng.standard_normal((n, targets)) + 0.2
    y[rng.random(y.shape) < 0.2] = np.nan
    return y, f


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40).filter(
        lambda rows: len({y for y, _ in rows}) == 2
    )
)
def test_auroc_with_ties_is_scikit_learns(rows):
    y, s = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows], float)
    theta, psi = AUROC().influence(predictions(y, s))
    assert theta[0] == pytest.approx(roc_auc_score(y, s), abs=1e-12)
    if min(y.sum(), (1 - y).sum()) >= 2:
        assert psi.sum() == pytest.approx(0, abs=1e-8)


def test_missing_targets_are_left_out_of_each_metric():
    y, f = with_missing(np.random.default_rng(0))
    oracles = {
        R2(): r2_score,
        PearsonR(): lambda a, b: stats.pearsonr(a, b).statistic,
        AUROC(): roc_auc_score,
    }
    for metric, oracle in oracles.items():
        target = np.where(np.isnan(y), np.nan, y > 0.5) if metric.name == "AUROC" else y
        theta, psi = metric.influence(predictions(target, f))
        for t in range(y.shape[1]):
            known = ~np.isnan(y[:, t])
            assert theta[t] == pytest.approx(oracle(target[known, t], f[known, t]), abs=1e-12)
            assert (psi[~known, t] == 0).all()
            # The variance is that of the people with the target alone.
            alone = metric.influence(predictions(target[known, t], f[known, t]))[1]
            assert (psi[:, t] @ psi[:, t]) / len(y) ** 2 == pytest.approx(
                (alone[:, 0] @ alone[:, 0]) / known.sum() ** 2, rel=1e-10
            )


@pytest.mark.parametrize("metric", [AUROC(), R2(), PearsonR()], ids=lambda m: m.name)
def test_influence_values_give_the_bootstraps_standard_error(metric):
    rng = np.random.default_rng(3)
    n = 400
    y = rng.standard_normal(n)
    f = 0.8 * y + rng.standard_normal(n)
    if metric.name == "AUROC":
        y = (y > 0.8).astype(float)
    theta, psi = metric.influence(predictions(y, f))
    draws = rng.integers(n, size=(1500, n))
    resampled = metric.influence(
        predictions(y[draws].T, f[draws].T)  # one column per draw
    )[0]
    assert math.sqrt(psi[:, 0] @ psi[:, 0]) / n == pytest.approx(np.nanstd(resampled), rel=0.08)
    assert metric.bounds[0] <= theta[0] <= metric.bounds[1]


@pytest.mark.parametrize("metric", [AUROC(), R2(), PearsonR()], ids=lambda m: m.name)
def test_permuting_people_changes_nothing(metric):
    y, f = with_missing(np.random.default_rng(4))
    y = np.where(np.isnan(y), np.nan, y > 0) if metric.name == "AUROC" else y
    order = np.random.default_rng(5).permutation(len(y))
    theta, psi = metric.influence(predictions(y, f))
    shuffled, shuffled_psi = metric.influence(predictions(y[order], f[order]))
    assert shuffled == pytest.approx(theta, rel=1e-12)
    assert shuffled_psi == pytest.approx(psi[order], abs=1e-10)


def test_r2_is_not_r_squared():
    y = np.array([1.0, 2.0, 3.0, 4.0])
    assert R2().influence(predictions(y, 10 * y))[0][0] == pytest.approx(r2_score(y, 10 * y))
    assert R2().influence(predictions(y, np.full(4, y.mean())))[0][0] == 0
    assert PearsonR().influence(predictions(y, 10 * y))[0][0] == pytest.approx(1)


def test_what_cannot_be_estimated_is_nan():
    y = np.array([[1.0, np.nan, 2.0], [1.0, np.nan, 2.0], [0.0, np.nan, 2.0]])
    f = np.array([[0.9, 0.1, 0.1], [0.8, 0.2, 0.1], [0.7, 0.3, 0.1]])
    theta, psi = AUROC().influence(predictions(y, f))
    assert theta[0] == 1
    assert np.isnan(theta[1])
    # One negative: the area exists, its variance does not.
    assert np.isnan(psi).all()
    assert np.isnan(R2().influence(predictions(y, f))[0][1:]).all()
    assert np.isnan(PearsonR().influence(predictions(y, f))[0][1:]).all()
    # A target that no model could be fitted to.
    lost = np.where(np.arange(3) == 0, np.nan, f)
    for metric in (AUROC(), R2(), PearsonR()):
        assert np.isnan(metric.influence(predictions(y, lost))[0][0])


def test_predictions_for_some_people_only_are_refused():
    y, f = np.array([0.0, 1.0, 1.0]), np.array([0.1, np.nan, 0.2])
    with pytest.raises(ValueError, match="missing for some people: t0"):
        AUROC().influence(predictions(y, f))


def test_large_numbers_of_pairs_do_not_overflow():
    rng = np.random.default_rng(6)
    m, shift = 50_000, 1.0
    y = np.repeat([1.0, 0.0], m)
    s = np.concatenate([rng.normal(shift, 1, m), rng.normal(0, 1, m)])
    start = time.perf_counter()
    theta, psi = AUROC().influence(predictions(y, s))
    assert time.perf_counter() - start < 5
    true = stats.norm.cdf(shift / math.sqrt(2))  # binormal
    se = math.sqrt(psi[:, 0] @ psi[:, 0]) / len(y)
    assert abs(theta[0] - true) < 4 * se < 0.01


def toy_retrieval(rng, n=200, targets=3):
    q = rng.standard_normal((n, 8))
    y = rng.standard_normal((n, targets)) + q[:, :targets]
    y[rng.random(y.shape) < 0.1] = np.nan
    y[0] = 50.0  # matches nobody
    sigma = np.nanstd(y[1:], axis=0)
    found = {}
    for exclude, suffix in ((True, ""), (False, "+self")):
        r = retrieve(q, q, y, sigma=sigma, exclude_self=exclude)
        found |= {f"{k}{suffix}": r[k] for k in ("hits", "rank", "matches", "gallery")}
    return y, Predictions(tuple("abc"[:targets]), found)


def test_retrieval_metrics_are_means_over_their_queries():
    y, p = toy_retrieval(np.random.default_rng(7))
    for k in KS:
        theta, psi = PrecisionAt(k=k).influence(p)
        assert PrecisionAt(k=k).name == f"P@{k}"
        assert theta == pytest.approx(np.nanmean(p.arrays["hits"][..., KS.index(k)], 0), abs=1e-6)
        assert psi.sum(axis=0) == pytest.approx(0, abs=1e-9)
        assert (psi[np.isnan(y)] == 0).all()
    theta, psi = MeanRank().influence(p)
    assert theta == pytest.approx(np.nanmean(p.arrays["rank"], axis=0))
    assert (psi[0] == 0).all()  # the query without a match
    rank = p.arrays["rank"][:, 0]
    rank = rank[~np.isnan(rank)]
    assert math.sqrt(psi[:, 0] @ psi[:, 0]) / len(y) == pytest.approx(
        rank.std() / math.sqrt(len(rank))
    )
    median, none = MedianRank().influence(p)
    assert median == pytest.approx(np.nanmedian(p.arrays["rank"], axis=0))
    assert np.isnan(none).all()
    # Included, the own scan of an ECG-to-ECG query is always first.
    assert PrecisionAt(k=1, own=True).influence(p)[0] == pytest.approx(1)
    assert PrecisionAt(k=1, own=True).name == "P@1+self"
    assert (MeanRank(own=True).name, MedianRank(own=True).name) == ("MnR+self", "MdR+self")


def test_retrieval_chance_is_what_random_orders_score():
    rng = np.random.default_rng(8)
    y, p = toy_retrieval(rng)
    for own in (False, True):
        drawn = {"hits": [], "rank": []}
        for _ in range(150):
            q, g = rng.standard_normal((2, len(y), 4))
            sigma = np.nanstd(y[1:], axis=0)
            r = retrieve(q, g, y, sigma=sigma, exclude_self=not own)
            drawn["hits"].append(r["hits"])
            drawn["rank"].append(r["rank"])
        hits, rank = np.stack(drawn["hits"]), np.stack(drawn["rank"])
        for k in (1, 10):
            assert PrecisionAt(k=k, own=own).chance(p) == pytest.approx(
                np.nanmean(hits[..., KS.index(k)], axis=(0, 1)), abs=0.01
            )
        assert MeanRank(own=own).chance(p) == pytest.approx(np.nanmean(rank, axis=(0, 1)), rel=0.05)
        assert MedianRank(own=own).chance(p) == pytest.approx(
            np.nanmedian(rank, axis=(0, 1)), abs=0
        )
        low = Low(own=own).chance(p)
        assert low == pytest.approx(np.nanmean(np.minimum(rank, 3), axis=(0, 1)), rel=0.03)
        assert (low < MeanRank(own=own).chance(p)).all()
        capped = np.nanmean(np.minimum(rank, 100), axis=(0, 1))
        assert CappedMeanRank(own=own).chance(p) == pytest.approx(capped, rel=0.05)


class Low(CappedMeanRank):
    cap = 3


def test_ranks_beyond_the_cap_count_as_the_cap():
    rank = np.array([[1.0, 2.0], [250.0, np.nan], [100.0, 7.0]])
    p = Predictions(("a", "b"), {"rank": rank})
    theta, psi = CappedMeanRank().influence(p)
    assert theta == pytest.approx([67, 4.5])
    assert psi[1] == pytest.approx([33, 0])
    assert CappedMeanRank(own=True).name == "MnR cap 100+self"


def test_gallery_is_the_people_with_a_record_unless_said():
    _, p = toy_retrieval(np.random.default_rng(9))
    bare = Predictions(p.targets, {k: v for k, v in p.arrays.items() if "gallery" not in k})
    for metric in (PrecisionAt(k=5), MeanRank(), MedianRank(), MeanRank(own=True)):
        assert metric.chance(bare) == pytest.approx(metric.chance(p), rel=1e-12)


def test_cut_offs_that_are_not_stored_are_refused():
    with pytest.raises(ValueError, match="k = 7"):
        PrecisionAt(k=7)


def test_recall_counts_the_own_scan():
    rng = np.random.default_rng(12)
    n = 150
    q = rng.standard_normal((n, 6))
    g = q + rng.standard_normal((n, 6))
    g[70:75] = g[70]  # five people with one scan
    r = retrieve(q, g, np.ones((n, 1)), sigma=np.ones(1), exclude_self=True)
    p = Predictions(("a",), {"own": r["own"]})
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, g)]
    similarity = np.round(unit[0] @ unit[1].T, 6)
    for k in (1, 5, 10):
        # Orders of the tied drawn at random: the mean over them is what counts.
        want = np.array([(np.argsort(-row)[:k] == i).any() for i, row in enumerate(similarity)])
        want = want.astype(float)
        for i in range(70, 75):
            orders = np.lexsort((rng.random((400, n)), np.tile(-similarity[i], (400, 1))))
            want[i] = (orders[:, :k] == i).any(axis=1).mean()
        metric = RecallAt(k=k)
        theta, psi = metric.influence(p)
        assert np.delete(psi[:, 0] + theta, np.s_[70:75]) == pytest.approx(
            np.delete(want, np.s_[70:75])
        )
        assert psi[70:75, 0] + theta == pytest.approx(want[70:75], abs=0.1)
        assert metric.chance(p) == pytest.approx([k / n], rel=1e-12)
        assert metric.name == f"R@{k}"
        assert not metric.per_target
    assert RecallAt(k=n).influence(p)[0] == 1
    assert not RecallAt().applies(Predictions(("a",), {"hits": r["hits"]}))


def test_own_pair_recall_hinges_on_the_scans_found_or_missed():
    ahead = np.array([0, 0, 3, 7, 8, 9, 9, 9])
    own = np.stack([ahead, np.zeros(8, int), 9 - ahead], axis=1)
    predictions = Predictions(("a",), {"own": own})
    assert [RecallAt(k=k).smallest(predictions) for k in (1, 4, 10)] == [2, 3, 0]
    assert RecallAt(k=1).people(predictions) == 8


def metrics():
    """Every metric of the module: a new one without a word on chance fails below."""
    kinds = (PrecisionAt, MeanRank, CappedMeanRank, MedianRank)
    of_retrieval = [m(own=own) for m in kinds for own in (False, True)]
    return [AUROC(), R2(), PearsonR(), *of_retrieval, RecallAt(k=1), RecallAt(k=10)]


def test_every_metric_is_held_against_chance():
    def kinds(kind):
        return {kind}.union(*map(kinds, kind.__subclasses__()))

    public = {k for k in kinds(Metric) if k.__module__ == AUROC.__module__ and k.__name__[0] != "_"}
    assert public == {type(metric) for metric in metrics()}


def uninformed(metric, knows, n=500):
    """Predictions of somebody who says the same of everybody, or anything of anybody."""
    if metric.name not in ("AUROC", "R2", "r"):
        return uninformed_order(knows, n)
    rng = np.random.default_rng(13)
    y = with_missing(rng, n)[0]
    y = np.where(np.isnan(y), np.nan, y > 0.5) if metric.name == "AUROC" else y
    said = np.tile(np.nanmean(y, axis=0), (n, 1))
    return predictions(y, said if knows == "constant" else rng.standard_normal(y.shape))


@functools.cache
def uninformed_order(knows, n):
    rng = np.random.default_rng(13)
    y = with_missing(rng, n)[0] ** 3
    q, g = rng.standard_normal((2, n, 24))
    if knows == "constant":
        q, g = (np.tile(x[0], (n, 1)) for x in (q, g))
    found, sigma = {}, np.nanstd(y, axis=0)
    for exclude, suffix in ((True, ""), (False, "+self")):
        r = retrieve(q, g, y, sigma=sigma, exclude_self=exclude)
        found |= {f"{k}{suffix}": r[k] for k in ("hits", "rank", "matches", "gallery")}
    return Predictions(tuple("abcd"), found | {"own": r["own"]})


@pytest.mark.parametrize("metric", metrics(), ids=lambda m: m.name)
def test_who_knows_nothing_scores_chance(metric):
    p = uninformed(metric, "constant")
    theta, chance = metric.influence(p)[0], metric.chance(p)
    if metric.name == "r":
        assert np.isnan(theta).all()  # nothing varies: no correlation, and no credit
    elif metric.name.startswith("MdR"):
        assert theta == pytest.approx(chance, abs=1)  # the median of means, not of whole numbers
    elif metric.name.startswith("MnR cap"):
        assert (theta >= chance).all()  # the cap of means, not the mean of caps: no advantage
    else:
        assert theta == pytest.approx(chance, abs=1e-6)
    p = uninformed(metric, "random")
    theta, psi = metric.influence(p)
    if metric.name == "R2":
        assert (theta < 0).all()  # worse than knowing nothing: the mean would have scored 0
    elif metric.name.startswith("MdR"):
        assert theta == pytest.approx(metric.chance(p), abs=1)
    else:
        error, chance = np.sqrt((psi**2).sum(axis=0)) / len(psi), metric.chance(p)
        if isinstance(metric, RecallAt):
            error = np.sqrt(chance / len(psi))  # a handful of people: with none, psi says 0
        assert (np.abs(theta - chance) < 4 * error).all()


def test_swapped_arguments_are_another_r2():
    y, f = with_missing(np.random.default_rng(14))
    f[np.isnan(y)] = np.nan
    forth, back = (R2().influence(predictions(*pair))[0] for pair in ((y, f), (f, y)))
    assert (np.abs(forth - back) > 0.1).all()
    for t in range(y.shape[1]):
        known = ~np.isnan(y[:, t])
        assert forth[t] == pytest.approx(r2_score(y[known, t], f[known, t]), rel=1e-12)
        assert back[t] == pytest.approx(r2_score(f[known, t], y[known, t]), rel=1e-12)


def test_metrics_have_distinct_digests_and_chance():
    assert PrecisionAt(k=1).digest != PrecisionAt(k=10).digest
    assert PrecisionAt(k=1).digest != PrecisionAt(k=1, own=True).digest
    p = predictions(np.array([[0.0, 1.0], [1.0, 0.0]]), np.eye(2))
    assert AUROC().chance(p).tolist() == [0.5, 0.5]
    assert R2().chance(p).tolist() == PearsonR().chance(p).tolist() == [0, 0]

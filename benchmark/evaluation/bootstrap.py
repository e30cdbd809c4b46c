"""Resampling of test people by weights: every statistic reads how often each person was drawn.

The intervals of the boards come from influence values (`benchmark.evaluation.statistics`). These
draws are the check on them, and the only interval of the median rank, which has none. Weights
are drawn once per test set and serve every column, so that what is drawn for two methods is paired.
Any weights will do, such as a Dirichlet's for the Bayesian bootstrap (Rubin, Ann. Stat. 9:130,
1981).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

_CHUNK = 256  # draws at a time: the weights of 6,000 people are then 6 MB


def weights(
    people: int, draws: int, key: str, strata: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Draw the people with replacement and count them, some draws at a time.

    Parameters
    ----------
    people
        N.
    draws
        Number of draws in all.
    key
        Fixes the draws: one per test set, shared by all methods.
    strata
        (N,) class of each person, whose number every draw keeps, as DeLong's variance does;
        NaN is a class of its own. None draws from everybody.

    Yields
    ------
    np.ndarray
        (N, some) float32 counts: whole numbers, of which float32 sums up to 2**24 are exact.
    """
    strata = np.zeros(people, int) if strata is None else np.asarray(strata)
    # By number: NaN equals nothing, and its people would be in no class.
    values, number = np.unique(strata, return_inverse=True)
    classes = [np.flatnonzero(number == i) for i in range(values.size)]
    # A generator per class, or the draws would depend on how many are made at a time.
    seed = np.random.SeedSequence(int(hashlib.sha256(key.encode()).hexdigest(), 16))
    generators = [np.random.default_rng(child) for child in seed.spawn(len(classes))]
    for start in range(0, draws, _CHUNK):
        some = min(_CHUNK, draws - start)
        counts = np.empty((people, some), np.float32)
        for rows, rng in zip(classes, generators, strict=True):
            drawn = rng.integers(rows.size, size=(some, rows.size))
            drawn += rows.size * np.arange(some)[:, None]
            counted = np.bincount(drawn.ravel(), minlength=drawn.size)
            counts[rows] = counted.reshape(some, rows.size).T
        yield counts


def resample(
    statistic: Callable[[np.ndarray], np.ndarray],
    people: int,
    draws: int = 2000,
    *,
    key: str,
    strata: np.ndarray | None = None,
) -> np.ndarray:
    """Return a statistic of every draw, (draws, K).

    ``statistic`` maps weights (N, some) to (some, K), as the functions below do once their data
    are bound. The standard error is ``std(axis=0)``, an interval
    ``np.nanquantile(..., [0.025, 0.975], axis=0)``.
    """
    return np.concatenate([statistic(w) for w in weights(people, draws, key, strata)])


def auroc(target: np.ndarray, score: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted area under the ROC curve from rank sums, ties counted half.

    Each negative falls into one of 2J + 1 bins, below, at or above the J distinct scores of the
    positives. Adding up the weights by bin is the only work that grows with people times draws;
    no draw is sorted.

    Parameters
    ----------
    target
        (N,) 1 for positives, 0 for negatives, NaN where missing.
    score
        (N, K).
    w
        (N, B) weights of at least 0.

    Returns
    -------
    np.ndarray
        (B, K) float64; NaN where a draw lacks a class.
    """
    target, score = np.asarray(target), np.asarray(score)
    positive, negative = np.flatnonzero(target > 0.5), np.flatnonzero(target <= 0.5)
    wp, wn = w[positive], w[negative]
    pairs = wp.sum(axis=0, dtype=np.float64) * wn.sum(axis=0, dtype=np.float64)
    out = np.empty((w.shape[1], score.shape[1]))
    for k in range(score.shape[1]):
        levels, level = np.unique(score[positive, k], return_inverse=True)
        bins = np.searchsorted(levels, score[negative, k], "left")
        bins += np.searchsorted(levels, score[negative, k], "right")
        held = _added(bins, 2 * levels.size + 1, wn)
        won = np.cumsum(held, axis=0)[: 2 * levels.size : 2] + held[1::2] / 2
        # Products of two classes outgrow float32, sums within one do not.
        drawn = _added(level, levels.size, wp)
        out[:, k] = np.einsum("jb,jb->b", drawn, won, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return out / pairs[:, None]


def _added(place: np.ndarray, places: int, values: np.ndarray) -> np.ndarray:
    """Sum the rows of values (N, B) that share a place: (places, B)."""
    from scipy import sparse

    entries = (np.ones(place.size, values.dtype), (place, np.arange(place.size)))
    return sparse.csr_array(entries, shape=(places, place.size)) @ values


def r2(target: np.ndarray, prediction: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted 1 - SSE / SST, SST about the draw's own mean; (B, K) of (N, K) and (N, B).

    Missing targets are left out. All sums are matrix products in the precision of ``w``.
    """
    present = ~np.isnan(target)
    y = _centred(target, present)
    error = np.where(present, np.asarray(prediction, float) - target, 0.0)
    people, first, second, sse = _sums(w, present, y, y**2, error**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - sse / (second - first**2 / people)


def pearson_r(target: np.ndarray, prediction: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted correlation, in the shapes of `r2`; missing targets are left out."""
    present = ~np.isnan(target)
    y, f = _centred(target, present), _centred(prediction, present)
    people, y1, f1, y2, f2, yf = _sums(w, present, y, f, y**2, f**2, y * f)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt((y2 - y1**2 / people) * (f2 - f1**2 / people))
        return (yf - y1 * f1 / people) / spread


def mean(values: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted mean of (N, K) per-person values with weights (N, B): (B, K); NaN is left out."""
    present = ~np.isnan(values)
    people, total = _sums(w, present, np.where(present, values, 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / people


def _centred(x: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Subtract the mean of those present: sums of squares far from zero cancel in float32."""
    x = np.asarray(x, float)
    middle = np.where(present, x, 0.0).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
    return np.where(present, x - middle, 0.0)


def _sums(w: np.ndarray, *columns: np.ndarray) -> Iterator[np.ndarray]:
    """Weighted sums (B, K) of columns (N, K)."""
    return (w.T @ column.astype(w.dtype) for column in columns)


def median(values: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted median of (N, K) per-person values with weights (N, B): (B, K).

    Halfway between the two middle ones where the weight is even, as of values repeated that
    often. NaN is left out; a draw of nothing else is NaN.
    """
    values = np.asarray(values, float)
    out = np.full((w.shape[1], values.shape[1]), np.nan)
    for k in range(values.shape[1]):
        known = np.flatnonzero(~np.isnan(values[:, k]))
        if not known.size:
            continue
        levels, level = np.unique(values[known, k], return_inverse=True)
        upto = np.cumsum(_added(level, levels.size, w[known]), axis=0)
        half = upto[-1] / 2
        lower, upper = ((side).sum(axis=0) for side in (upto < half, upto <= half))
        drawn = half > 0
        out[drawn, k] = (levels[lower[drawn]] + levels[upper[drawn]]) / 2
    return out

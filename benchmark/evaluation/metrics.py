"""Metrics as pure functions of predictions, each with one influence value per test person.

The influence values make variances, paired differences and means over targets one matrix product
(`benchmark.evaluation.statistics`). Every column has one value per person of the test set: 0 where
the target is missing and N / N_t times as much elsewhere, so that targets missing for different
people still combine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from benchmark.api import Metric, Predictions
from benchmark.evaluation.retrieval import KS


def _pairs(predictions: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return target and prediction (N, T) in float64 and which targets are present.

    A target whose predictions are all NaN was not estimable and stays NaN; predictions missing
    for some people only would quietly change who is scored.
    """
    target = np.asarray(predictions.arrays["target"], np.float64)
    score = np.asarray(predictions.arrays["prediction"], np.float64)
    present = ~np.isnan(target)
    lost = present & np.isnan(score)
    broken = lost.any(axis=0) & (lost != present).any(axis=0)
    if broken.any():
        names = ", ".join(np.asarray(predictions.targets)[broken])
        raise ValueError(f"predictions are missing for some people: {names}")
    return target, score, present


def _spread(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Carry influence values of the people present (N, T) over to the whole test set."""
    with np.errstate(divide="ignore"):
        weight = len(present) / present.sum(axis=0)
    return np.where(present, values * weight, np.where(present.any(axis=0), 0.0, np.nan))


def _mean(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mean over the people present (N, T); NaN without any."""
    with np.errstate(invalid="ignore"):
        return np.where(present, values, 0.0).sum(axis=0) / present.sum(axis=0)


@dataclass(frozen=True, kw_only=True)
class AUROC(Metric):
    """Area under the ROC curve; ties count half. NaN without both classes.

    Influence values are DeLong's placements (Biometrics 44:837, 1988) with his m / (m - 1)
    corrections, so that variances and covariances are his exactly. NaN with a single person in a
    class, where they do not exist.
    """

    name: ClassVar[str] = "AUROC"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    scale: ClassVar[Literal["logit", "fisher", "raw"]] = "logit"

    def influence(self, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """Return theta (targets,) and psi (people, targets)."""
        target, score, present = _pairs(predictions)
        theta = np.full(target.shape[1], np.nan)
        psi = np.full(target.shape, np.nan)
        for t in range(target.shape[1]):
            rows = np.flatnonzero(present[:, t])
            positive = target[rows, t] > 0.5
            s = score[rows, t]
            m, n = int(positive.sum()), int((~positive).sum())
            if not (m and n) or np.isnan(s).any():
                continue
            pos, neg = np.sort(s[positive]), np.sort(s[~positive])
            # Twice the wins (ties one each) in whole numbers: a perfect order is then exactly 1.
            won = np.searchsorted(neg, s[positive], "left")
            won = won + np.searchsorted(neg, s[positive], "right")
            lost = np.searchsorted(pos, s[~positive], "left")
            lost = lost + np.searchsorted(pos, s[~positive], "right")
            theta[t] = int(won.sum()) / (2 * m * n)
            if min(m, n) < 2:
                continue
            psi[:, t] = 0.0
            scale_m, scale_n = (len(target) / k * np.sqrt(k / (k - 1)) for k in (m, n))
            psi[rows[positive], t] = scale_m * (won / (2 * n) - theta[t])
            psi[rows[~positive], t] = scale_n * ((1 - lost / (2 * m)) - theta[t])
        return theta, psi

    def chance(self, predictions: Predictions) -> np.ndarray:
        """One half."""
        return np.full(len(predictions.targets), 0.5)


@dataclass(frozen=True, kw_only=True)
class R2(Metric):
    """1 - SSE / SST with SST about the mean of the test people, as scikit-learn; never r squared.

    NaN where the target is constant.
    """

    name: ClassVar[str] = "R2"
    bounds: ClassVar[tuple[float, float]] = (-float("inf"), 1.0)

    def influence(self, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """Return theta (targets,) and psi (people, targets)."""
        target, score, present = _pairs(predictions)
        centred2 = (target - _mean(target, present)) ** 2
        error2 = (target - score) ** 2
        spread = _mean(centred2, present)
        spread = np.where(spread > 0, spread, np.nan)
        unexplained = _mean(error2, present) / spread
        return 1 - unexplained, _spread((unexplained * centred2 - error2) / spread, present)

    def chance(self, predictions: Predictions) -> np.ndarray:
        """Zero: predicting the mean."""
        return np.zeros(len(predictions.targets))


@dataclass(frozen=True, kw_only=True)
class PearsonR(Metric):
    """Pearson's correlation; NaN where target or prediction is constant."""

    name: ClassVar[str] = "r"
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    scale: ClassVar[Literal["logit", "fisher", "raw"]] = "fisher"

    def influence(self, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """Return theta (targets,) and psi (people, targets)."""
        target, score, present = _pairs(predictions)
        y, f = _standardise(target, present), _standardise(score, present)
        r = np.clip(_mean(y * f, present), -1, 1)
        return r, _spread(y * f - r * (y**2 + f**2) / 2, present)

    def chance(self, predictions: Predictions) -> np.ndarray:
        """Zero."""
        return np.zeros(len(predictions.targets))


def _standardise(x: np.ndarray, present: np.ndarray) -> np.ndarray:
    mean = _mean(x, present)
    sd = np.sqrt(_mean((x - mean) ** 2, present))
    # The mean of a constant column can be off by rounding, which leaves a spread of that size.
    return (x - mean) / np.where(sd > 1e-12 * np.abs(mean), sd, np.nan)


@dataclass(frozen=True, kw_only=True)
class _Retrieval(Metric):
    """Reads `retrieve`'s arrays, whose keys end in ``+self`` where the own scan is included.

    ``own`` asks for those. An array ``gallery`` (targets,) or (people, targets) may say how many
    people each query was ranked against; otherwise they are the people with a record, which is
    right unless the records are a subgroup.
    """

    own: bool = False

    def applies(self, predictions: Predictions) -> bool:
        """Whether the own scan was excluded, or included, as this metric wants it."""
        return self._key("matches") in predictions.arrays

    def _array(self, predictions: Predictions, key: str) -> np.ndarray:
        return np.asarray(predictions.arrays[self._key(key)], np.float64)

    def _key(self, key: str) -> str:
        return f"{key}+self" if self.own else key

    def _gallery(self, predictions: Predictions) -> np.ndarray:
        """(people, targets)."""
        matches = self._array(predictions, "matches")
        if self._key("gallery") in predictions.arrays:
            return np.broadcast_to(self._array(predictions, "gallery"), matches.shape)
        people = (~np.isnan(matches)).sum(axis=0) - int(not self.own)
        return np.broadcast_to(people.astype(float), matches.shape)


@dataclass(frozen=True, kw_only=True)
class PrecisionAt(_Retrieval):
    """Share of matches among the k most similar people, averaged over queries."""

    k: int = 10
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k not in KS:
            raise ValueError(f"k = {self.k} is not among the stored cut-offs {KS}")

    @property
    def name(self) -> str:
        """``P@k``, or ``P@k+self``."""
        return self._key(f"P@{self.k}")

    def influence(self, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """Return theta (targets,) and psi (people, targets)."""
        hits = self._array(predictions, "hits")
        if hits.shape[-1] != len(KS):
            raise ValueError(f"hits hold {hits.shape[-1]} cut-offs, not those of {KS}")
        return _mean_influence(hits[..., KS.index(self.k)])

    def chance(self, predictions: Predictions) -> np.ndarray:
        """Exact for a random order: the mean share of the gallery that matches."""
        matches = self._array(predictions, "matches")
        share = matches / np.maximum(self._gallery(predictions), 1)
        return _mean(share, ~np.isnan(matches))


@dataclass(frozen=True, kw_only=True)
class MeanRank(_Retrieval):
    """Mean rank of the first match, over the queries that have one."""

    higher_is_better: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (1.0, float("inf"))

    @property
    def name(self) -> str:
        """``MnR``, or ``MnR+self``."""
        return self._key("MnR")

    def influence(self, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """Return theta (targets,) and psi (people, targets)."""
        return _mean_influence(self._array(predictions, "rank"))

    def chance(self, predictions: Predictions) -> np.ndarray:
        """Exact for a random order: mean (G + 1) / (K + 1) over queries with K of G matching."""
        matches = self._array(predictions, "matches")
        return _mean((self._gallery(predictions) + 1) / (matches + 1), matches > 0)


@dataclass(frozen=True, kw_only=True)
class CappedMeanRank(MeanRank):
    """Mean rank of the first match where later ranks count as 100.

    A few queries with rare phenotypes otherwise rule the mean. Where similarities tie, a rank is
    the mean over all orders; its cap is not below the mean of theirs, so ties gain nothing.
    """

    cap: ClassVar[int] = 100
    bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    @property
    def name(self) -> str:
        """``MnR cap 100``, or ``MnR cap 100+self``."""
        return self._key(f"MnR cap {self.cap}")

    def influence(self, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """Return theta (targets,) and psi (people, targets)."""
        return _mean_influence(np.minimum(self._array(predictions, "rank"), self.cap))

    def chance(self, predictions: Predictions) -> np.ndarray:
        """Exact for a random order: the sum of P(rank > r) for r below the cap."""
        matches, gallery = self._array(predictions, "matches"), self._gallery(predictions)
        missed, expected = np.ones(matches.shape), np.zeros(matches.shape)
        for r in range(self.cap):
            expected += missed
            missed = missed * np.maximum(gallery - matches - r, 0) / np.maximum(gallery - r, 1)
        return _mean(expected, matches > 0)


@dataclass(frozen=True, kw_only=True)
class MedianRank(_Retrieval):
    """Median rank of the first match, over the queries that have one.

    A median of whole numbers has no influence values: psi is NaN, the interval comes from
    `benchmark.evaluation.bootstrap`, and there is no test.
    """

    higher_is_better: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (1.0, float("inf"))

    @property
    def name(self) -> str:
        """``MdR``, or ``MdR+self``."""
        return self._key("MdR")

    def influence(self, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """Return theta (targets,) and psi (people, targets), all NaN."""
        rank = self._array(predictions, "rank")
        theta = [np.median(r[~np.isnan(r)]) if (~np.isnan(r)).any() else np.nan for r in rank.T]
        return np.array(theta), np.full(rank.shape, np.nan)

    def chance(self, predictions: Predictions) -> np.ndarray:
        """Median of the first match's rank over random orders and queries, exact.

        P(rank > r) of one query is the chance that r draws of G people miss all K matches.
        """
        matches, gallery = self._array(predictions, "matches"), self._gallery(predictions)
        medians = np.full(matches.shape[1], np.nan)
        for t in range(matches.shape[1]):
            matched = matches[:, t] > 0
            k, g = matches[matched, t], gallery[matched, t]
            if not matched.any():
                continue
            missed, r = np.ones(len(k)), 0
            while missed.mean() > 0.5 + 1e-12:
                missed *= np.maximum(g - k - r, 0) / np.maximum(g - r, 1)
                r += 1
            medians[t] = r
        return medians


@dataclass(frozen=True, kw_only=True)
class RecallAt(Metric):
    """Share of queries whose own scan is among the k most similar ones of all test people.

    Reads ``own`` (people, 3) of `retrieve`: how many people are more similar than the own scan, as
    similar, and less. Where similarities tie, it is the chance of being among the k in a random
    order of the tied.
    """

    k: int = 1
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    scale: ClassVar[Literal["logit", "fisher", "raw"]] = "logit"  # close to 0: never below it
    per_target: ClassVar[bool] = False
    share: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """``R@k``."""
        return f"R@{self.k}"

    def applies(self, predictions: Predictions) -> bool:
        """Whether another modality was searched for the own scan."""
        return "own" in predictions.arrays

    def smallest(self, predictions: Predictions) -> int:
        """Return the number of own scans found, or missed where that is smaller."""
        found = self._found(predictions)
        return round(min(found.sum(), (1 - found).sum()))

    def influence(self, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """Return theta (1,) and psi (people, 1)."""
        return _mean_influence(self._found(predictions)[:, None])

    def _found(self, predictions: Predictions) -> np.ndarray:
        ahead, tied, _ = np.asarray(predictions.arrays["own"], np.float64).T
        return np.clip((self.k - ahead) / (tied + 1), 0, 1)

    def chance(self, predictions: Predictions) -> np.ndarray:
        """Exact for a random order: k in the size of the gallery."""
        others = np.asarray(predictions.arrays["own"], np.float64).sum(axis=1)
        return np.minimum(1, self.k / (others + 1)).mean(keepdims=True)


def _mean_influence(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the queries that have a value (N, T), and its influence values."""
    present = ~np.isnan(values)
    theta = _mean(values, present)
    return theta, _spread(values - theta, present)

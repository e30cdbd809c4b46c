"""Intervals and paired tests that count test people and training replicates.

A column is one method and one replicate s of its training: a metric theta_s on the test set and
one influence value psi_is per test person, so that ``psi.T @ psi / N**2`` is the covariance of the
columns due to the people. Two variance components follow without resampling:

    v_subj = w' Gamma w          the people's share, of the mean over replicates
    s2     = variance of theta over replicates: replicate effect plus replicate-by-person noise
    e2     = mean diagonal - mean off-diagonal of Gamma: that noise alone
    sigma2 = max(0, s2 - e2)     the replicate effect
    v      = v_subj + sigma2 / S
    v_rest = max(0, v - s2 / S)  (v where sigma2 is 0)
    nu     = v**2 / ((s2 / S)**2 / (S - 1) + v_rest**2 / (n_min - 1))  (Satterthwaite 1946)

and the interval is value +- t_nu(.975) sqrt(v). For the AUROC v_subj is DeLong's variance
(DeLong et al., Biometrics 44:837, 1988). A t test over replicates alone would leave out the
people, whose noise all replicates share.

Of two or three replicates s2 is often below e2 by luck. One test bears that; the smallest p of a
family of 91 does not, hence `family_variances`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy import special, stats

Scale = Literal["raw", "logit", "fisher"]


@dataclass(frozen=True)
class Components:
    """Variance components of one set of replicates; NaN where one replicate cannot tell.

    Attributes
    ----------
    value
        Mean of the metric over replicates.
    v_subj
        Variance of ``value`` due to the test people.
    s2, e2, sigma2
        Variance over replicates, the part of it that is noise of the people, and the rest.
    replicates, n
        S and N.
    """

    value: float
    v_subj: float
    s2: float
    e2: float
    sigma2: float
    replicates: int
    n: int


@dataclass(frozen=True)
class Estimate:
    """One method's metric with its 95% interval, its components and degrees of freedom ``nu``."""

    value: float
    lo: float
    hi: float
    v_subj: float
    s2: float
    e2: float
    sigma2: float
    v: float
    nu: float
    replicates: int
    n: int


@dataclass(frozen=True)
class Comparison:
    """Difference A - B with its 95% interval and two-sided ``p``; components of the difference."""

    difference: float
    lo: float
    hi: float
    v_subj: float
    s2: float
    e2: float
    sigma2: float
    v: float
    nu: float
    p: float
    replicates: int
    n: int
    n_min: int


class Pair(Protocol):
    """What `family_variances` reads of a comparison; s2, e2 and sigma2 NaN of one replicate."""

    v_subj: float
    s2: float
    e2: float
    sigma2: float
    v: float
    nu: float
    replicates: int
    n_min: int


def components(theta: np.ndarray, psi: np.ndarray) -> Components:
    """Split the variance of a mean over replicates into people and replicates.

    Parameters
    ----------
    theta
        (S,) metric per replicate.
    psi
        (N, S) influence value per test person and replicate.

    Raises
    ------
    ValueError
        When the shapes do not fit or a value is not finite.
    """
    theta = np.atleast_1d(np.asarray(theta, float))
    psi = np.asarray(psi, float)
    if theta.ndim != 1 or psi.ndim != 2 or psi.shape[1] != theta.size or not psi.size:
        raise ValueError(f"theta {theta.shape} and psi {psi.shape} are not (S,) and (N, S)")
    if not (np.isfinite(theta).all() and np.isfinite(psi).all()):
        raise ValueError("theta and psi must be finite; a cell that is not estimable has no test")
    n, s = psi.shape
    # Gamma itself (S x S) is all that is needed of N people.
    gamma = psi.T @ psi / n**2
    if s == 1:
        unknown = math.nan
        return Components(theta[0].item(), gamma[0, 0].item(), unknown, unknown, unknown, 1, n)
    diagonal = np.trace(gamma) / s
    off_diagonal = (gamma.sum() - np.trace(gamma)) / (s * (s - 1))
    s2 = theta.var(ddof=1).item()
    e2 = (diagonal - off_diagonal).item()
    return Components(theta.mean().item(), gamma.mean().item(), s2, e2, max(0.0, s2 - e2), s, n)


def _variance(v_subj: float, parts: Sequence[Components], n_min: int) -> tuple[float, float]:
    """Return (v, nu) of a contrast whose replicates enter through ``parts``."""
    parts = [part for part in parts if part.replicates > 1 and part.sigma2 > 0]
    own = sum(part.s2 / part.replicates for part in parts)
    # What replicates share of the people's noise may be estimated below 0. It counts as 0 then:
    # else nu falls below S - 1, towards 0, and the interval grows beyond all bounds.
    v = max(own, v_subj + sum(part.sigma2 / part.replicates for part in parts))
    if v <= 0:
        return 0.0, n_min - 1.0
    rest = v - own
    spread = rest**2 / (n_min - 1) if n_min > 1 else math.inf
    spread += sum((p.s2 / p.replicates) ** 2 / (p.replicates - 1) for p in parts)
    # No people to count on leaves no degrees of freedom: the caller's interval becomes NaN.
    return v, v**2 / spread if spread > 0 else math.inf


def estimate(theta: np.ndarray, psi: np.ndarray, n_min: int, scale: Scale = "raw") -> Estimate:
    """Estimate one method's metric as the mean over its replicates.

    Parameters
    ----------
    theta
        (S,) metric per replicate; with S = 1 the interval covers the people only.
    psi
        (N, S) influence values.
    n_min
        People the estimate hinges on: the smaller class for AUROC, N otherwise. Below 2 the
        interval is NaN.
    scale
        Scale on which the interval is symmetric: ``logit`` for AUROC, ``fisher`` for r.
    """
    parts = components(theta, psi)
    v, nu = _variance(parts.v_subj, [parts], n_min)
    lo, hi = _interval(parts.value, v, nu, scale)
    return Estimate(
        value=parts.value,
        lo=lo,
        hi=hi,
        v_subj=parts.v_subj,
        s2=parts.s2,
        e2=parts.e2,
        sigma2=parts.sigma2,
        v=v,
        nu=nu,
        replicates=parts.replicates,
        n=parts.n,
    )


def _interval(value: float, v: float, nu: float, scale: Scale) -> tuple[float, float]:
    if not nu > 0:
        return math.nan, math.nan
    half = float(special.stdtrit(nu, 0.975)) * math.sqrt(v)
    if half == 0:
        return value, value
    # The delta method divides by the slope, which is 0 at the bounds, where v is 0 too: keeping
    # off them by less than can be printed avoids the division without moving the interval.
    if scale == "logit":
        p = min(max(value, 1e-12), 1 - 1e-12)
        centre, half = math.log(p / (1 - p)), half / (p * (1 - p))
        return _expit(centre - half), _expit(centre + half)
    if scale == "fisher":
        r = min(max(value, -1 + 1e-12), 1 - 1e-12)
        centre, half = math.atanh(r), half / (1 - r**2)
        return math.tanh(centre - half), math.tanh(centre + half)
    return value - half, value + half


def _expit(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


def compare(
    theta_a: np.ndarray,
    psi_a: np.ndarray,
    theta_b: np.ndarray,
    psi_b: np.ndarray,
    n_min: int,
    paired: bool = True,
) -> Comparison:
    """Test A = B on the same test people.

    Parameters
    ----------
    theta_a, theta_b
        (S,) metric per replicate.
    psi_a, psi_b
        (N, S) influence values of the same people in the same order.
    n_min
        As in `estimate`.
    paired
        True when replicate s shares something between the methods (label subset, pretrained
        parts): the columns are subtracted first and the differences have one s2 and e2. False
        adds the two methods' own replicate variances; s2, e2 and sigma2 are then their sums.

    Raises
    ------
    ValueError
        When the people differ in number, or paired replicates do.
    """
    theta_a, theta_b = (np.atleast_1d(np.asarray(t, float)) for t in (theta_a, theta_b))
    psi_a, psi_b = (np.asarray(p, float) for p in (psi_a, psi_b))
    if psi_a.shape[0] != psi_b.shape[0]:
        raise ValueError(f"{psi_a.shape[0]} and {psi_b.shape[0]} people: not one test set")
    if paired:
        if psi_a.shape != psi_b.shape or theta_a.shape != theta_b.shape:
            raise ValueError("a paired comparison needs the same replicates of both methods")
        parts = [components(theta_a - theta_b, psi_a - psi_b)]
        difference, v_subj = parts[0].value, parts[0].v_subj
    else:
        parts = [components(theta_a, psi_a), components(theta_b, psi_b)]
        difference = parts[0].value - parts[1].value
        both = psi_a.mean(axis=1) - psi_b.mean(axis=1)
        v_subj = float(both @ both) / both.size**2
    v, nu = _variance(v_subj, parts, n_min)
    lo, hi, p = difference_test(difference, v, nu)
    return Comparison(
        difference=difference,
        lo=lo,
        hi=hi,
        v_subj=v_subj,
        s2=sum(part.s2 for part in parts),
        e2=sum(part.e2 for part in parts),
        sigma2=sum(part.sigma2 for part in parts),
        v=v,
        nu=nu,
        p=p,
        replicates=min(part.replicates for part in parts),
        n=parts[0].n,
        n_min=n_min,
    )


def difference_test(difference: float, v: float, nu: float) -> tuple[float, float, float]:
    """Return the 95% interval of a difference and its two-sided p; NaN where nu is not above 0."""
    lo, hi = _interval(difference, v, nu, "raw")
    if not nu > 0:
        return lo, hi, math.nan
    if v > 0:
        return lo, hi, 2 * float(special.stdtr(nu, -abs(difference) / math.sqrt(v)))
    return lo, hi, 0.0 if difference else 1.0


def family_variances(pairs: Mapping[tuple[str, str], Pair]) -> list[tuple[float, float]]:
    """Return (v, nu) of each pair, none with less replicate variance than the family has.

    The family's is the mean of s2 - e2 over its pairs. A pair with less by luck, or with a single
    replicate, which knows none, is given it; one with more keeps its own. All have the family's
    degrees of freedom: of two or three replicates the own S - 1 would cost a pair nearly all power
    for having been a little less lucky than the others.

    How often some pair of 14 equal methods is told apart (91 pairs, Holm at 5%, 600 families;
    replicate SDs log-normal by 0.5 between methods), in brackets with each pair's own variance:

    =====================  ========  ========  ========  ========
    replicates             SD of a difference over them, in SE of its people
    ---------------------  --------------------------------------
    of every method        0.5       1         2         3
    =====================  ========  ========  ========  ========
    2                      4 (6)%    5 (14)%   8 (40)%   8 (64)%
    3                      3 (5)%    4 (7)%    6 (16)%   6 (29)%
    5                      3 (4)%    3 (3)%    3 (6)%    4 (10)%
    3 of half, 1 of half   7 (11)%   9 (35)%   12 (86)%  12 (98)%
    3 of two, 1 of 12      6 (12)%   12 (38)%  18 (89)%  15 (98)%
    =====================  ========  ========  ========  ========

    In the last row a single pair tells what the family's is: too few. Of single tests at 5% between
    2, 3 or 5 replicates each, 3.7 to 4.8% find something (own variance: 4.8 to 10.4%). A true
    difference of 5 such SE is found, after Holm, in 78, 49 and 13% of pairs of 2 replicates (0.5, 1
    and 2 of the table's columns), in 86, 65 and 26% of 3; would pairs that have more keep their own
    S - 1 degrees, in 66, 41 and 11%, and in 82, 55 and 20%.

    Parameters
    ----------
    pairs
        By the names of the two methods: comparisons of paired replicates on the same people.
    """
    several = {names: x for names, x in pairs.items() if x.replicates > 1}
    if not several:
        return [(x.v, x.nu) for x in pairs.values()]
    weights = [x.replicates - 1 for x in several.values()]
    excess = np.average([x.s2 - x.e2 for x in several.values()], weights=weights)
    floor = max(0.0, float(excess))
    noise = float(np.average([x.e2 for x in several.values()], weights=weights))
    freedom = _freedom(list(several), weights)
    return [_floored(x, floor, noise, freedom) for x in pairs.values()]


def _freedom(pairs: Sequence[tuple[str, str]], weights: Sequence[float]) -> float:
    """Return the degrees of freedom of a weighted mean of s2 over pairs (Satterthwaite 1946).

    Pairs share methods: all pairs of m methods have (m - 1)(S - 1), the differences of m to one
    reference, whose luck is in all of them, at most 4 (S - 1).
    """
    methods = sorted({name for pair in pairs for name in pair})
    form = np.zeros((len(methods), len(methods)))
    for pair, weight in zip(pairs, weights, strict=True):
        a, b = map(methods.index, pair)
        form[[a, b], [a, b]] += weight
        form[[a, b], [b, a]] -= weight
    return float(np.trace(form) ** 2 / np.sum(form**2) * np.mean(weights))


def _floored(pair: Pair, floor: float, noise: float, freedom: float) -> tuple[float, float]:
    several = pair.replicates > 1
    sigma2 = max(floor, pair.sigma2) if several else floor
    if sigma2 == 0:
        return pair.v, pair.nu
    spread = (sigma2 + (pair.e2 if several else noise)) / pair.replicates
    v = max(spread, pair.v_subj + sigma2 / pair.replicates)
    rest = v - spread
    terms = spread**2 / max(freedom, pair.replicates - 1)
    terms += rest**2 / (pair.n_min - 1) if pair.n_min > 1 else math.inf
    return v, v**2 / terms


@dataclass(frozen=True)
class GapClosed:
    """Share of the way from a baseline to a goal, with its 95% interval; NaN without a way."""

    value: float
    lo: float
    hi: float


def gap_closed(
    theta_a: np.ndarray,
    psi_a: np.ndarray,
    theta_base: np.ndarray,
    psi_base: np.ndarray,
    theta_goal: np.ndarray,
    psi_goal: np.ndarray,
    n_min: int,
) -> GapClosed:
    """Estimate (A - baseline) / (goal - baseline) on the same test people.

    The interval is the delta method's: the ratio's linear part is one more column per replicate,
    so that people and replicates enter as in `estimate`. It is poor where the denominator may be
    zero, so without a goal above the baseline at the two-sided 5% level there is no gap, and
    value and limits are NaN.

    Parameters
    ----------
    theta_a, theta_base, theta_goal
        (S,) metric per replicate, more being better; replicate s of all three belongs together.
    psi_a, psi_base, psi_goal
        (N, S) influence values of the same people in the same order.
    n_min
        As in `estimate`.

    Raises
    ------
    ValueError
        When people or replicates differ in number.
    """
    gap = compare(theta_goal, psi_goal, theta_base, psi_base, n_min)
    gained = compare(theta_a, psi_a, theta_base, psi_base, n_min).difference
    if not (gap.difference > 0 and gap.p < 0.05):
        return GapClosed(math.nan, math.nan, math.nan)
    share = gained / gap.difference

    def linear(a: np.ndarray, base: np.ndarray, goal: np.ndarray) -> np.ndarray:
        a, base, goal = (np.asarray(x, float) for x in (a, base, goal))
        return (a - base - share * (goal - base)) / gap.difference

    e = estimate(
        share + linear(theta_a, theta_base, theta_goal),
        linear(psi_a, psi_base, psi_goal),
        n_min,
    )
    return GapClosed(share, e.lo, e.hi)


def label_factor(
    fractions: Sequence[float], baseline_values: Sequence[float], score: float
) -> tuple[float, Literal["=", "<", ">"]] | None:
    """Label fraction at which the baseline reaches a score.

    The low-data curve is interpolated on the logarithm of the fraction, from the fewest labels
    upwards: where it falls in between, the first crossing counts.

    Parameters
    ----------
    fractions
        Label fractions of the baseline, in any order.
    baseline_values
        Its metric at each, more being better; NaN where there is none.
    score
        The metric to reach.

    Returns
    -------
    tuple or None
        The fraction with ``=``; or the smallest or largest fraction with ``<`` or ``>`` when the
        baseline is there with fewer labels already, or with none of these; None without a curve.
    """
    curve = sorted(
        (f, v) for f, v in zip(fractions, baseline_values, strict=True) if math.isfinite(v)
    )
    if not curve or not math.isfinite(score):
        return None
    if curve[0][1] >= score:
        return curve[0][0], "=" if curve[0][1] == score else "<"
    for (fewer, low), (more, high) in itertools.pairwise(curve):
        if high >= score:
            return fewer * (more / fewer) ** ((score - low) / (high - low)), "="
    return curve[-1][0], ">"


@dataclass(frozen=True)
class Posterior:
    """Probabilities that a true difference is below, within and above a region of no interest."""

    worse: float
    within: float
    better: float


def posterior(difference: float, v: float, nu: float, width: float) -> Posterior:
    """Split the belief in a difference at -width and +width.

    With a flat prior the true difference is distributed as t_nu(difference, v), the correlated
    Bayesian t-test of Benavoli et al. (JMLR 18:77, 2017, section 3) on the variance of `compare`.

    Parameters
    ----------
    difference, v, nu
        As a `Comparison` has them; v = 0 leaves a point.
    width
        Half the region of practical equivalence, in units of the metric; its edges are inside.
    """
    if not nu > 0:
        return Posterior(math.nan, math.nan, math.nan)
    if v == 0:
        worse, better = float(difference < -width), float(difference > width)
    else:
        scale = math.sqrt(v)
        worse = stats.t.cdf(-width, nu, difference, scale).item()
        better = stats.t.sf(width, nu, difference, scale).item()
    return Posterior(worse, 1 - worse - better, better)


def resolvable_difference(v: float, nu: float, power: float = 0.8) -> float:
    """Smallest true difference found with this power by the two-sided 5% test."""
    if not nu > 0:
        return math.nan
    return float((special.stdtrit(nu, 0.975) + special.stdtrit(nu, power)) * math.sqrt(v))

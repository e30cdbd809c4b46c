"""What is checked of metrics, on made-up predictions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from benchmark.api import Metric, Predictions, Task
from benchmark.testing.report import need

MADE_PEOPLE = 120
WRONG_BY = 2.0
"""Factor by which influence values may miss the jackknife's standard error."""


def made_up(task: Task) -> dict[str, Predictions]:
    """Return made-up predictions: noise, noisy, shrunken and perfect ones, and constants."""
    if task.kind not in ("classification", "regression"):
        return {}
    rng = np.random.default_rng(0)
    names = task.names[:2]
    truth = rng.normal(50, 10, (MADE_PEOPLE, len(names)))
    if task.kind == "classification":
        truth = (truth > 55).astype(float)
    truth[::9, 0] = np.nan
    level = np.nanmean(truth, axis=0)
    noise = rng.normal(0, np.nanstd(truth), truth.shape)
    filled = np.where(np.isnan(truth), level, truth)
    predictions = {
        "noise": level + noise,
        "noisy": filled + noise,
        "shrunken": level + 0.5 * (filled - level),
        "perfect": filled,
        "constant": np.broadcast_to(level, truth.shape).copy(),
    }
    return {
        name: Predictions(names, {"target": truth, "prediction": made})
        for name, made in predictions.items()
    }


def better(metric: Metric, a: np.ndarray, b: np.ndarray) -> bool:
    """Whether every score of a is better than that of b."""
    return bool(np.all(a > b if metric.higher_is_better else a < b))


def judge(metric: Metric, made: Mapping[str, Predictions]) -> None:
    """Raise `RuleError` unless it says what its name and its declarations say."""
    name = metric.name
    theta = {kind: metric.influence(p)[0] for kind, p in made.items()}
    low, high = metric.bounds
    for kind, values in theta.items():
        known = values[np.isfinite(values)]
        need(
            ((known >= low - 1e-9) & (known <= high + 1e-9)).all(),
            f"{name} of {kind} predictions is {known}, outside its bounds {metric.bounds}",
        )
    need(
        better(metric, theta["perfect"], theta["noisy"])
        and better(metric, theta["noisy"], theta["noise"]),
        f"{name} of perfect, noisy and meaningless predictions is {theta['perfect']}, "
        f"{theta['noisy']} and {theta['noise']}; is higher_is_better right, and the order of "
        "target and prediction?",
    )
    best = high if metric.higher_is_better else low
    need(
        not math.isfinite(best) or np.allclose(theta["perfect"], best),
        f"{name} of perfect predictions is {theta['perfect']}, its best bound {best}",
    )
    chance = metric.chance(made["constant"])
    knows = np.isfinite(theta["constant"])
    need(
        np.allclose(theta["constant"][knows], chance[knows], atol=1e-6),
        f"{name} of constant predictions is {theta['constant']}, but chance() is {chance}",
    )
    _as_named(metric, made)


def _as_named(metric: Metric, made: Mapping[str, Predictions]) -> None:
    """Require that a word of the boards means what it means everywhere."""
    from scipy.stats import pearsonr
    from sklearn.metrics import r2_score, roc_auc_score

    meant = {
        "R2": r2_score,
        "AUROC": roc_auc_score,
        "r": lambda target, score: pearsonr(target, score).statistic,
    }
    if metric.name not in meant:
        return
    for kind in ("noisy", "shrunken"):
        arrays = made[kind].arrays
        ours = metric.influence(made[kind])[0]
        for t, value in enumerate(ours):
            target, score = arrays["target"][:, t], arrays["prediction"][:, t]
            known = np.isfinite(target)
            expected = meant[metric.name](target[known], score[known])
            need(
                np.isclose(value, expected, rtol=1e-9, atol=1e-9),
                f"what is called {metric.name} is {value:.4f} where {metric.name} is "
                f"{expected:.4f} ({kind} predictions); are target and prediction swapped?",
            )


def judge_influence(metric: Metric, predictions: Predictions) -> None:
    """Raise `RuleError` unless influence values make the variance of the metric."""
    theta, psi = metric.influence(predictions)
    width = len(predictions.targets) if metric.per_target else 1
    need(
        theta.shape == (width,) and psi.shape == (MADE_PEOPLE, width),
        f"{metric.name}: influence returns shapes {theta.shape} and {psi.shape}, not "
        f"({width},) and (people, {width})",
    )
    if not np.isfinite(psi).all():
        return  # it has none, as a median: intervals come from resampling
    need(
        np.allclose(psi.mean(axis=0), 0, atol=1e-6 * max(1.0, np.abs(psi).max())),
        f"{metric.name}: influence values have the mean {psi.mean(axis=0)}, not 0",
    )
    _against_the_jackknife(metric, predictions, theta, psi)


def _against_the_jackknife(
    metric: Metric, predictions: Predictions, theta: np.ndarray, psi: np.ndarray
) -> None:
    arrays = predictions.arrays
    if metric.per_target:
        lost = np.isnan(arrays["target"])
        need(
            (psi[lost] == 0).all(),
            f"{metric.name}: people without the target influence it; their values are 0",
        )
        changed = np.where(lost, arrays["prediction"] + 1e3, arrays["prediction"])
        other = dataclasses.replace(predictions, arrays={**arrays, "prediction": changed})
        need(
            np.array_equal(metric.influence(other)[0], theta),
            f"{metric.name} depends on predictions for people without the target",
        )
    people = len(psi)
    without = np.array(
        [
            metric.influence(
                Predictions(
                    predictions.targets, {n: np.delete(a, i, axis=0) for n, a in arrays.items()}
                )
            )[0]
            for i in range(people)
        ]
    )
    ours = np.sqrt((psi**2).mean(axis=0) / people)
    jackknife = np.sqrt((people - 1) * without.var(axis=0))
    need(
        ((ours < WRONG_BY * jackknife) & (jackknife < WRONG_BY * ours)).all(),
        f"{metric.name}: by its influence values the standard error is {ours}, by leaving out one "
        f"person at a time {jackknife}; intervals would be wrong",
    )

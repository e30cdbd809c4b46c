"""Heads on frozen features, each written once for all tasks.

Every head leaves ``test.npy`` and ``validation.npy`` (people of the split, targets): scores for
classification, values in the target's unit for regression; and ``fit.json`` with how many labelled
people each target had.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchmark.api import Cohort, Context, Predictions, Task
from benchmark.cohorts.cohort import CohortData
from benchmark.evaluation.embed import Embed
from benchmark.stage import UNSET, Stage

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Head(Stage):
    """A head on the frozen features of one modality, fitted on one label fraction."""

    embedding: Embed = Embed()
    modality: str = UNSET
    task: Task = UNSET
    fraction: float = UNSET
    seed: int = UNSET

    @property
    def cohort(self) -> Cohort:
        """The cohort the features belong to."""
        return self.embedding.method.cohort

    @property
    def label(self) -> str:
        """Say which head, on what."""
        what = f"{self.task.name} {self.fraction:g}"
        return f"{type(self).__name__} of {self.embedding.method.label} on {what}"

    @property
    def group(self) -> str:
        """List heads of one kind and task together."""
        return f"{type(self).__name__} on {self.task.name}"

    def run(self, context: Context) -> None:
        """Fit every target on its labelled people, then predict validation and test."""
        cohort = CohortData(context.open(self.cohort))
        table = self.task.targets(cohort)
        x = scaled(np.load(context.open(self.embedding) / f"{self.modality}.npy"), cohort)
        labelled = cohort.labelled(self.seed, self.fraction)
        validation, test = cohort.rows("validation"), cohort.rows("test")
        y = table.to_numpy(np.float64)
        fitted = self.fit(context, x[labelled], y[labelled], x[validation], y[validation])
        save_predictions(context, fitted(x[validation]), fitted(x[test]))
        record_fit(context, table, labelled)

    def fit(self, context: Context, x, y, x_validation, y_validation) -> Any:
        """Return a function from features (people, width) to predictions (people, targets)."""
        raise NotImplementedError

    def predictions(self, folder: Path, cohort: CohortData) -> Predictions:
        """Return targets and predictions of the test people."""
        return test_predictions(self.task, folder, cohort)

    def estimate(self) -> tuple[float, float]:
        """Return about a second."""
        return 1.5, 2e5


def scaled(x: np.ndarray, cohort: CohortData) -> np.ndarray:
    """Z-score features with the training people's mean and SD.

    Scaling needs no labels, so it reads all training people whatever the fraction.
    """
    everyone = x[cohort.rows("train")].astype(np.float64)
    return (x - everyone.mean(0)) / np.maximum(everyone.std(0), 1e-9)


def test_predictions(task: Task, folder: Path, cohort: CohortData) -> Predictions:
    """Read what `save_predictions` wrote, beside the truth."""
    target = task.targets(cohort).to_numpy(np.float64)[cohort.rows("test")]
    prediction = np.load(folder / "test.npy")
    return Predictions(task.names, {"target": target, "prediction": prediction})


def save_predictions(context: Context, validation: np.ndarray, test: np.ndarray) -> None:
    """Write both splits' predictions."""
    np.save(context.out / "validation.npy", validation)
    np.save(context.out / "test.npy", test)


def record_fit(context: Context, table: pd.DataFrame, labelled: np.ndarray) -> None:
    """Write how many labelled people, and how many positives, each target was fitted on."""
    y = table.to_numpy(np.float64)[labelled]
    counts = {
        name: {"people": int(np.isfinite(c).sum()), "positives": int((c == 1).sum())}
        for name, c in zip(table.columns, y.T, strict=True)
    }
    (context.out / "fit.json").write_text(json.dumps(counts, indent=1))


@dataclass(frozen=True, kw_only=True)
class LinearHead(Head):
    """Linear probe: ridge or class-weighted logistic regression, penalty chosen on validation.

    Also leaves ``weights.npy`` (width, targets) and ``intercept.npy`` for single recordings.
    """

    def fit(self, context: Context, x, y, x_validation, y_validation) -> Any:
        """Fit all targets; the chosen penalties go to ``penalties.json``."""
        fit = logistic if self.task.kind == "classification" else ridge
        weights, intercept, penalties = fit(x, y, x_validation, y_validation)
        chosen = dict(zip(self.task.names, penalties, strict=True))
        (context.out / "penalties.json").write_text(json.dumps(chosen, indent=1))
        np.save(context.out / "weights.npy", weights)
        np.save(context.out / "intercept.npy", intercept)
        return lambda features: features @ weights + intercept


RIDGE_PENALTIES = 10.0 ** np.arange(-1.0, 6.01, 0.5)
LOGISTIC_STRENGTHS = 10.0 ** np.arange(-4.0, 1.01, 1.0)  # sklearn's C, the inverse penalty


def ridge(x, y, x_validation, y_validation) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Ridge regression of all targets: one eigendecomposition per missingness pattern.

    Returns
    -------
    weights
        (width, targets).
    intercept
        (targets,).
    penalties
        The penalty with the smallest validation error, per target.
    """
    width, targets = x.shape[1], y.shape[1]
    weights, intercept = np.zeros((width, targets)), np.zeros(targets)
    penalties = [float("nan")] * targets
    observed = np.isfinite(y)
    for pattern in np.unique(observed, axis=1).T:
        columns = np.flatnonzero((observed == pattern[:, None]).all(axis=0))
        if pattern.sum() < 2:
            continue
        xs, ys = x[pattern], y[np.ix_(pattern, columns)]
        centre, level = xs.mean(0), ys.mean(0)
        values, vectors = np.linalg.eigh((xs - centre).T @ (xs - centre))
        projected = vectors.T @ ((xs - centre).T @ (ys - level))
        shrunk = 1 / (values.clip(min=0)[None] + RIDGE_PENALTIES[:, None])  # (penalties, width)
        seen = ((x_validation - centre) @ vectors)[None] * shrunk[:, None]
        error = np.square(seen @ projected + level - y_validation[:, columns])
        # Without validation values nothing can be chosen by: the strongest penalty.
        blank = ~np.isfinite(y_validation[:, columns]).any(axis=0)
        best = np.where(np.isnan(error), 0, error).sum(axis=1).argmin(axis=0)
        best = np.where(blank, len(RIDGE_PENALTIES) - 1, best)
        for place, column in enumerate(columns):
            weights[:, column] = vectors @ (shrunk[best[place]] * projected[:, place])
            intercept[column] = level[place] - centre @ weights[:, column]
            penalties[column] = float(RIDGE_PENALTIES[best[place]])
    return weights, intercept, penalties


def logistic(x, y, x_validation, y_validation) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Class-weighted logistic regression per target; see `ridge` for the returned values.

    Where validation has no positive to choose by, the strongest penalty is used; a target without
    both classes in training keeps zero weights.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    width, targets = x.shape[1], y.shape[1]
    weights, intercept = np.zeros((width, targets)), np.zeros(targets)
    penalties = [float("nan")] * targets
    for column in range(targets):
        known = np.isfinite(y[:, column])
        xs, ys = x[known], y[known, column]
        if len(np.unique(ys)) < 2:
            continue
        seen = np.isfinite(y_validation[:, column])
        choosable = len(np.unique(y_validation[seen, column])) == 2
        best = -1.0
        for strength in LOGISTIC_STRENGTHS if choosable else LOGISTIC_STRENGTHS[:1]:
            model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
            model.fit(xs, ys)
            quality = 0.0
            if choosable:
                score = x_validation[seen] @ model.coef_[0]
                quality = roc_auc_score(y_validation[seen, column], score)
            if quality > best:
                best, penalties[column] = quality, float(1 / strength)
                weights[:, column], intercept[column] = model.coef_[0], model.intercept_[0]
    return weights, intercept, penalties


XGBOOST_DEPTHS = (1, 2, 3, 4)
XGBOOST_ROUNDS = 300


@dataclass(frozen=True, kw_only=True)
class XGBoostHead(Head):
    """Gradient-boosted trees; depth and number of rounds chosen on validation.

    MMCL (Table I) searches rounds, depth, learning rate and subsampling over 270 points; depth and
    the number of rounds at learning rate 0.1 stand for that grid here.
    """

    threads: ClassVar[int] = 2

    def fit(self, context: Context, x, y, x_validation, y_validation) -> Any:
        """Fit one booster per target with early stopping."""
        import xgboost

        classify = self.task.kind == "classification"
        models: list[Any] = []
        for column in range(y.shape[1]):
            known, seen = np.isfinite(y[:, column]), np.isfinite(y_validation[:, column])
            ys, yv = y[known, column], y_validation[seen, column]
            if known.sum() < 2 or (classify and len(np.unique(ys)) < 2):
                models.append(None)
                continue
            train = xgboost.DMatrix(x[known], ys)
            watch = xgboost.DMatrix(x_validation[seen], yv)
            stop = not classify or len(np.unique(yv)) == 2
            best, best_loss = None, float("inf")
            for depth in XGBOOST_DEPTHS if stop else XGBOOST_DEPTHS[:1]:
                options = {
                    "max_depth": depth,
                    "eta": 0.1,
                    "nthread": self.threads,
                    "seed": self.seed,
                    "objective": "binary:logistic" if classify else "reg:squarederror",
                    "eval_metric": "auc" if classify else "rmse",
                }
                if classify:
                    options["scale_pos_weight"] = float((ys == 0).sum() / (ys == 1).sum())
                model = xgboost.train(
                    options,
                    train,
                    num_boost_round=XGBOOST_ROUNDS if stop else 30,
                    evals=[(watch, "validation")] if stop else [],
                    early_stopping_rounds=25 if stop else None,
                    verbose_eval=False,
                )
                loss = (-1 if classify else 1) * model.best_score if stop else 0.0
                if loss < best_loss:
                    best, best_loss = model, loss
            models.append(best)
            context.progress(column + 1, y.shape[1], "targets")

        def predict(features: np.ndarray) -> np.ndarray:
            matrix = xgboost.DMatrix(features)
            out = np.zeros((len(features), len(models)))
            for column, model in enumerate(models):
                if model is not None:
                    last = getattr(model, "best_iteration", model.num_boosted_rounds() - 1)
                    rounds = (0, last + 1)
                    out[:, column] = model.predict(matrix, iteration_range=rounds)
            return out

        return predict

"""Heads on frozen features, each written once for all tasks.

Every head leaves ``test.npy`` and ``validation.npy`` (people of the split, targets): scores for
classification, values in the target's unit for regression; and ``fit.json`` with how many labelled
people each target had.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmark.api import Cohort, Context, Method, Predictions, Task, Trainable
from benchmark.cohorts.cohort import CohortData
from benchmark.cohorts.splits import balance_rank
from benchmark.engine.balance import matched
from benchmark.evaluation.embed import Embed
from benchmark.stage import UNSET, Stage, topological

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Head(Stage):
    """A head on the frozen features of one modality, fitted on one label fraction.

    With ``balance`` "static" each disease is fitted on its positives and one fixed sample of as
    many others (`benchmark.engine.balance.matched`); values are not concerned.
    """

    embedding: Embed = Embed()
    modality: str = UNSET
    task: Task = UNSET
    fraction: float = UNSET
    seed: int = UNSET
    balance: Literal["", "static"] = ""

    @property
    def cohort(self) -> Cohort:
        """The cohort the features belong to."""
        return self.embedding.method.cohort

    @property
    def label(self) -> str:
        """Say which head, on what."""
        what = f"{self.task.label} {self.fraction:g}"
        return f"{type(self).__name__} of {self.embedding.method.label} on {what}"

    @property
    def group(self) -> str:
        """List heads of one kind and task together."""
        return f"{type(self).__name__} on {self.task.name}"

    def run(self, context: Context) -> None:
        """Fit every target on its labelled people, then predict validation and test."""
        cohort = CohortData(context.open(self.cohort))
        table = self.task.targets(cohort)
        x = np.load(context.open(self.embedding) / f"{self.modality}.npy")
        x = self.prepare(x.astype(np.float64), cohort.rows("train"))
        labelled = cohort.labelled(self.seed, self.fraction)
        if self.balance and self.task.kind == "classification":
            table = static_sample(table, labelled, cohort)
        validation, test = cohort.rows("validation"), cohort.rows("test")
        y = table.to_numpy(np.float64)
        fitted = self.fit(context, x[labelled], y[labelled], x[validation], y[validation])
        save_predictions(context, fitted(x[validation]), fitted(x[test]))
        record_fit(context, table, labelled, self.embedding.method)

    def prepare(self, x: np.ndarray, train: np.ndarray) -> np.ndarray:
        """Z-score the features (people, width) with the training people's mean and SD.

        Scaling needs no labels, so it reads all training people whatever the fraction.
        """
        return (x - x[train].mean(0)) / np.maximum(x[train].std(0), 1e-9)

    def fit(self, context: Context, x, y, x_validation, y_validation) -> Any:
        """Return a function from features (people, width) to predictions (people, targets)."""
        raise NotImplementedError

    def predictions(self, folder: Path, cohort: CohortData) -> Predictions:
        """Return targets and predictions of the test people."""
        return test_predictions(self.task, folder, cohort)

    def estimate(self) -> tuple[float, float]:
        """Return about a second."""
        return 1.5, 2e5


def static_sample(table: pd.DataFrame, labelled: np.ndarray, cohort: CohortData) -> pd.DataFrame:
    """Blank the labels of the training people outside each disease's static sample."""
    table, rank = table.astype(float), balance_rank(cohort.hash_id.iloc[labelled])
    for place, name in enumerate(table.columns):
        known = labelled[table[name].iloc[labelled].notna()]
        kept = matched(table[name].to_numpy()[known] == 1, rank[np.isin(labelled, known)])
        table.iloc[known[~kept], place] = np.nan
    return table


def test_predictions(task: Task, folder: Path, cohort: CohortData) -> Predictions:
    """Read what `save_predictions` wrote, beside the truth."""
    target = task.targets(cohort).to_numpy(np.float64)[cohort.rows("test")]
    prediction = np.load(folder / "test.npy")
    return Predictions(task.names, {"target": target, "prediction": prediction})


PREDICTED = ("test.npy", "validation.npy", "fit.json")
"""Files that every head leaves."""


def save_predictions(context: Context, validation: np.ndarray, test: np.ndarray) -> None:
    """Write both splits' predictions."""
    np.save(context.out / "validation.npy", validation)
    np.save(context.out / "test.npy", test)


def record_fit(
    context: Context, table: pd.DataFrame, labelled: np.ndarray, method: Method | None = None
) -> None:
    """Write how many labelled people, and how many positives, each target was fitted on.

    Where the representation of a ``method`` learned labels of its own, from fewer people than that,
    it is as many: what a guide without a label passes on says nothing of the method.
    """
    y = table.to_numpy(np.float64)[labelled]
    most = len(labelled)
    for stage in topological([method]) if method is not None else ():
        if isinstance(stage, Trainable) and stage.trained and hasattr(stage, "fraction"):
            history = json.loads((context.open(stage) / "history.json").read_text())
            most = min(most, history.get("labelled_people", most))
    counts = {
        name: {
            "people": min(most, int(np.isfinite(c).sum())),
            "positives": min(most, int((c == 1).sum())),
        }
        for name, c in zip(table.columns, y.T, strict=True)
    }
    (context.out / "fit.json").write_text(json.dumps(counts, indent=1))


@dataclass(frozen=True, kw_only=True)
class LinearHead(Head):
    """Linear probe: ridge or class-weighted logistic regression, penalty chosen on validation.

    ``penalised`` False is ordinary least squares, PTACL's probe (Selivanov et al. 2025, Table 2);
    diseases, which that paper does not predict, keep their penalty. Also leaves ``weights.npy``
    (width, targets) and ``intercept.npy`` for single recordings.
    """

    penalised: bool = True

    def fit(self, context: Context, x, y, x_validation, y_validation) -> Any:
        """Fit all targets; the chosen penalties go to ``penalties.json``."""
        if self.task.kind == "classification":
            weights, intercept, penalties = logistic(x, y, x_validation, y_validation)
        elif self.penalised:
            weights, intercept, penalties = ridge(x, y, x_validation, y_validation)
        else:
            weights, intercept = least_squares(x, y)
            penalties = [0.0] * y.shape[1]
        chosen = dict(zip(self.task.names, penalties, strict=True))
        (context.out / "penalties.json").write_text(json.dumps(chosen, indent=1))
        np.save(context.out / "weights.npy", weights)
        np.save(context.out / "intercept.npy", intercept)
        return lambda features: features @ weights + intercept


def patterns(y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the people who have a target (boolean) and the targets (numbers) they all have.

    Targets (people, targets) that are missing for the same people are fitted together; a target
    that fewer than two people have is left out.
    """
    observed = np.isfinite(y)
    for pattern in np.unique(observed, axis=1).T:
        if pattern.sum() >= 2:
            yield pattern, np.flatnonzero((observed == pattern[:, None]).all(axis=0))


def least_squares(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ordinary least squares; with dependent features the solution with the smallest weights.

    Returns
    -------
    weights
        (width, targets).
    intercept
        (targets,).
    """
    weights, intercept = np.zeros((x.shape[1], y.shape[1])), np.zeros(y.shape[1])
    for people, columns in patterns(y):
        xs, ys = x[people], y[np.ix_(people, columns)]
        centre, level = xs.mean(0), ys.mean(0)
        weights[:, columns] = np.linalg.lstsq(xs - centre, ys - level, rcond=None)[0]
        intercept[columns] = level - centre @ weights[:, columns]
    return weights, intercept


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
    for people, columns in patterns(y):
        xs, ys = x[people], y[np.ix_(people, columns)]
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

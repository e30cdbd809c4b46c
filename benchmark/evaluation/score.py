"""From predictions to scores: the one place where the test split is read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmark.api import Context, Metric, Predictions, Task
from benchmark.cohorts.cohort import CohortData
from benchmark.evaluation import bootstrap
from benchmark.evaluation.metrics import MedianRank
from benchmark.stage import Stage

MEAN = "mean"
ENDPOINT_REPLICATES = range(5)
TEST_POSITIVES = 20  # with fewer, only differences above about 0.1 AUROC could be seen


@dataclass(frozen=True, kw_only=True)
class Score(Stage):
    """Score one head's predictions for every target and metric.

    ``head`` is any stage with a cohort, a task, a fraction and ``predictions``; one that leaves no
    ``fit.json`` was fitted on nobody and cannot have had too little training. Leaves
    ``score.json``, a list of cells, and ``influence.npy`` (test people, cells), plus for the
    median rank ``draws_<metric>.npy`` (draws, cells of the metric). Behind the targets of a metric
    stand its `means`; a metric that has nothing to do with the targets is a ``mean`` by itself.
    """

    version: ClassVar[int] = 2

    head: Stage
    metrics: tuple[Metric, ...]

    @property
    def label(self) -> str:
        """Say which head is scored."""
        return f"Score of {self.head.label}"

    @property
    def group(self) -> str:
        """List scores together."""
        return "Score"

    def run(self, context: Context) -> None:
        """Compute point values, influence values and who counts."""
        head, task = self.head, self.head.task
        cohort = CohortData(context.open(head.cohort))
        folder = context.open(head)
        predictions = head.predictions(folder, cohort)
        counts = training_counts(folder)
        endpoint = endpoint_targets(task, cohort, head.fraction)
        averaged = means(task, endpoint)
        cells: list[dict[str, Any]] = []
        columns: list[np.ndarray] = []
        for metric in self.metrics:
            if not metric.applies(predictions):
                continue
            block, values = measured(metric, predictions, task, averaged, counts)
            cells += block
            columns += values
            if isinstance(metric, MedianRank):
                key = "rank+self" if metric.own else "rank"
                median = partial(bootstrap.median, predictions.arrays[key])
                draws = bootstrap.resample(median, len(values[0]), key=head.cohort.digest)
                draws = np.column_stack(_with_means(draws, task, averaged))
                np.save(context.out / f"draws_{metric.name}.npy", draws.astype(np.float32))
        np.save(context.out / "influence.npy", np.stack(columns, axis=1))
        record = {"cells": cells, "endpoint": list(endpoint), "people": len(columns[0])}
        if (folder / "ties.npy").exists():
            record["ties"] = int(np.load(folder / "ties.npy"))
        (context.out / "score.json").write_text(json.dumps(record, indent=1))


def training_counts(folder: Path) -> dict[str, Any]:
    """Return how many training people a head had of each target; empty where it was not fitted."""
    path = folder / "fit.json"
    return json.loads(path.read_text()) if path.exists() else {}


def measured(
    metric: Metric,
    predictions: Predictions,
    task: Task,
    averaged: Mapping[str, Sequence[str]],
    counts: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Return the cells of a metric and the influence values (people,) of each.

    Parameters
    ----------
    metric, predictions, task
        What is measured.
    averaged
        As `means` returns them.
    counts
        As `training_counts` returns them.
    """
    theta, psi = metric.influence(predictions)
    chance = metric.chance(predictions)
    if not metric.per_target:
        return [_people_cell(metric, predictions, theta.item(), chance.item())], [*psi.T]
    block = [
        _cell(predictions, metric, t, theta[t], chance[t], counts, task)
        for t in range(len(task.names))
    ]
    block += [_mean_cell(name, block, part, metric) for name, part in averaged.items()]
    return block, _with_means(psi, task, averaged)


def endpoint_targets(task: Task, cohort: CohortData, fraction: float) -> tuple[str, ...]:
    """Return the targets that enter means at a fraction: a list fixed by the cohort.

    Diseases: those with at least 20 positives in the test split, and at least ``minimum_training``
    in the label fraction of each of replicates 0-4. Other targets: those that anybody has, in the
    test split and among the training people.
    """
    if not task.names:
        return ()
    table = task.targets(cohort)
    test, train = (table.iloc[cohort.rows(split)] for split in ("test", "train"))
    if task.kind != "classification":
        return tuple(n for n in task.names if test[n].notna().any() and train[n].notna().any())
    kept = [n for n in task.names if (test[n] == 1).sum() >= TEST_POSITIVES]
    for replicate in ENDPOINT_REPLICATES:
        labelled = table.iloc[cohort.labelled(replicate, fraction)]
        kept = [n for n in kept if (labelled[n] == 1).sum() >= task.minimum_training]
    return tuple(kept)


def means(task: Task, endpoint: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return what is averaged: ``mean``, the endpoint, and ``mean of <group>``.

    Groups are those of the task that hold several of its targets but not all; of them too the
    targets outside the endpoint are left out.
    """
    found = {MEAN: tuple(endpoint)}
    for group, members in task.groups.items():
        part = [name for name in task.names if name in members]
        if 1 < len(part) < len(task.names):
            found[f"{MEAN} of {group}"] = tuple(name for name in part if name in endpoint)
    return found


def _with_means(
    values: np.ndarray, task: Task, averaged: Mapping[str, Sequence[str]]
) -> list[np.ndarray]:
    """Return the columns of values (n, targets), and their means as further columns."""
    columns = [*values.T]
    for part in averaged.values():
        chosen = [task.names.index(name) for name in part]
        columns.append(values[:, chosen].mean(1) if chosen else np.full(len(values), np.nan))
    return columns


def _cell(
    predictions: Predictions,
    metric: Metric,
    t: int,
    theta: float,
    chance: float,
    counts: Mapping[str, Any],
    task: Task,
) -> dict[str, Any]:
    name = task.names[t]
    cell: dict[str, Any] = {"target": name, "metric": metric.name, "status": "ok"}
    if task.kind == "retrieval":
        key = "rank+self" if metric.name.endswith("+self") else "rank"
        matches = predictions.arrays[key.replace("rank", "matches")][:, t]
        cell["n"] = cell["n_min"] = int(np.isfinite(matches).sum())
        cell["without_match"] = int((matches == 0).sum())
    else:
        target = predictions.arrays["target"][:, t]
        cell["n"] = cell["n_min"] = int(np.isfinite(target).sum())
        if task.kind == "classification":
            cell["positives"] = int((target == 1).sum())
            cell["n_min"] = min(cell["positives"], cell["n"] - cell["positives"])
            if cell["positives"] < TEST_POSITIVES:
                cell["status"] = "too few positives"
        if counts:
            cell["training"] = counts[name]["positives" if "positives" in cell else "people"]
            if cell["training"] < task.minimum_training:
                cell["status"] = "not estimable"
    if not math.isfinite(theta):
        cell["status"] = "not estimable"
    return cell | {"theta": _number(theta), "chance": _number(chance)}


def _mean_cell(
    name: str, block: Sequence[dict[str, Any]], part: Sequence[str], metric: Metric
) -> dict[str, Any]:
    members = [cell for cell in block if cell["target"] in part]
    ok = bool(members) and all(cell["status"] == "ok" for cell in members)
    mean = {"target": name, "metric": metric.name, "status": "ok" if ok else "not estimable"}
    for key in ("theta", "chance"):
        mean[key] = float(np.mean([cell[key] for cell in members])) if ok else None
    mean["n"] = max((cell["n"] for cell in members), default=0)
    mean["n_min"] = min((cell["n_min"] for cell in members), default=0)
    if members and "without_match" in members[0]:
        mean["without_match"] = max(cell["without_match"] for cell in members)
    mean["members"] = [cell["target"] for cell in members]
    return mean


def _people_cell(
    metric: Metric, predictions: Predictions, theta: float, chance: float
) -> dict[str, Any]:
    """Return the one cell of a metric that has nothing to do with the targets."""
    status = "ok" if math.isfinite(theta) else "not estimable"
    cell: dict[str, Any] = {"target": MEAN, "metric": metric.name, "status": status}
    cell |= {"n": metric.people(predictions), "n_min": metric.smallest(predictions)}
    return cell | {"theta": _number(theta), "chance": _number(chance)}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

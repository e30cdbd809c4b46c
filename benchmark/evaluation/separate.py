"""One model per target, or per group of targets, read as one head."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmark.api import Cohort, Context, Predictions, Task
from benchmark.cohorts.cohort import CohortData
from benchmark.evaluation.heads import save_predictions, test_predictions
from benchmark.stage import Spec, Stage


@dataclass(frozen=True, kw_only=True)
class Separately(Spec):
    """The wish that ``head`` be fitted to every target, or every group of the task, alone.

    Everything that learns labels on the way is bound to the part of the task as well. ``diseases``
    applies to classification, ``phenotypes`` to regression; targets of no group make one together.
    """

    head: Stage
    diseases: Literal["each", "together"] = "each"
    phenotypes: Literal["each", "groups", "together"] = "together"

    def bound(self, task: Task, make: Callable[[Task], Stage]) -> Stage:
        """Return the head of the task, each part made by ``make`` from a part of the task."""
        how = self.diseases if task.kind == "classification" else self.phenotypes
        grouped = {name for group in task.groups.values() for name in group}
        alone = tuple(name for name in task.names if name not in grouped)
        groups = {
            "each": [(name,) for name in task.names],
            "groups": [
                *(tuple(n for n in g if n in task.names) for g in task.groups.values()),
                alone,
            ],
            "together": [task.names],
        }
        parts = [part for part in groups[how] if part]
        if len(parts) == 1:
            return make(task)
        return Assembled(task=task, parts=tuple(make(task.replace(only=part)) for part in parts))


@dataclass(frozen=True, kw_only=True)
class Assembled(Stage):
    """The predictions of several heads, each for its own targets, side by side."""

    task: Task
    parts: tuple[Stage, ...]

    @property
    def cohort(self) -> Cohort:
        """The cohort of all parts."""
        return self.parts[0].cohort

    @property
    def fraction(self) -> float:
        """The label fraction of all parts."""
        return self.parts[0].fraction

    @property
    def label(self) -> str:
        """Say what is put together."""
        return f"{len(self.parts)} models on {self.task.label}, such as {self.parts[0].label}"

    @property
    def group(self) -> str:
        """List with others of its kind."""
        return f"separate models on {self.task.name}"

    def run(self, context: Context) -> None:
        """Put columns and counts in the order of the task."""
        folders = [context.open(part) for part in self.parts]
        order = [name for part in self.parts for name in part.task.names]
        columns = [order.index(name) for name in self.task.names]
        splits = {}
        for split in ("validation", "test"):
            arrays = [np.load(folder / f"{split}.npy") for folder in folders]
            splits[split] = np.concatenate(arrays, axis=1)[:, columns]
        save_predictions(context, splits["validation"], splits["test"])
        counts: dict[str, Any] = {}
        for folder in folders:
            counts |= json.loads((folder / "fit.json").read_text())
        (context.out / "fit.json").write_text(json.dumps(counts, indent=1))

    def predictions(self, folder: Path, cohort: CohortData) -> Predictions:
        """Return targets and predictions of the test people."""
        return test_predictions(self.task, folder, cohort)

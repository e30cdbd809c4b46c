"""The best of several heads, by their validation people."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.api import Cohort, Context, Predictions, Task
from benchmark.cohorts.cohort import CohortData
from benchmark.evaluation.heads import PREDICTED, test_predictions
from benchmark.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Selected(Stage):
    """The candidate whose validation predictions score best; the test split is not looked at.

    The score is the first metric of the task (AUROC, R2), averaged over the targets where it can
    be computed; of equals, or without any score, the first candidate. Leaves what a head leaves and
    ``selected.json``: which candidate, and all scores.
    """

    candidates: tuple[Stage, ...]

    @property
    def task(self) -> Task:
        """The task of all candidates."""
        return self.candidates[0].task

    @property
    def cohort(self) -> Cohort:
        """The cohort of all candidates."""
        return self.candidates[0].cohort

    @property
    def fraction(self) -> float:
        """The label fraction of all candidates."""
        return self.candidates[0].fraction

    @property
    def label(self) -> str:
        """Say what it is the best of."""
        return f"best of {len(self.candidates)} x {self.candidates[0].label}"

    @property
    def group(self) -> str:
        """List with others of its kind."""
        return f"best settings on {self.task.name}"

    def run(self, context: Context) -> None:
        """Score every candidate's validation predictions and take over the best one's files."""
        cohort = CohortData(context.open(self.cohort))
        truth = self.task.targets(cohort).to_numpy(np.float64)[cohort.rows("validation")]
        folders = [context.open(candidate) for candidate in self.candidates]
        scores = [self._score(truth, np.load(f / "validation.npy")) for f in folders]
        better = scores if self.task.metrics[0].higher_is_better else [-s for s in scores]
        best = int(np.argmax(np.nan_to_num(better, nan=-np.inf)))
        for name in PREDICTED:
            shutil.copyfile(folders[best] / name, context.out / name)
        record: dict[str, Any] = {
            "candidate": best,
            "metric": self.task.metrics[0].name,
            "validation": [float(s) if np.isfinite(s) else None for s in scores],
        }
        (context.out / "selected.json").write_text(json.dumps(record, indent=1))

    def _score(self, truth: np.ndarray, prediction: np.ndarray) -> float:
        arrays = {"target": truth, "prediction": prediction}
        values, _ = self.task.metrics[0].influence(Predictions(self.task.names, arrays))
        return float(np.mean(values[np.isfinite(values)])) if np.isfinite(values).any() else np.nan

    def predictions(self, folder: Path, cohort: CohortData) -> Predictions:
        """Return targets and predictions of the test people."""
        return test_predictions(self.task, folder, cohort)

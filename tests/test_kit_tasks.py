"""Bad tasks and cohorts: the conformance kit catches each, by the check that is about it."""

import pytest
from plugins import failures, imported

from benchmark.testing import check_cohort, check_task, process
from benchmark.testing.report import COVERAGE

TASK = '''
"""A plugin."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.api import Metric, Task
from benchmark.evaluation.metrics import R2, AUROC, PearsonR


@dataclass(frozen=True, kw_only=True)
class KitR2(R2):
    """A metric of the plugin's own."""

    # metric


@dataclass(frozen=True, kw_only=True)
class KitTask(Task):
    """Two volumes of the left ventricle."""

    name: ClassVar[str] = "kit-task"
    kind: ClassVar[str] = "regression"
    title: ClassVar[str] = "Volumes"
    target_names: ClassVar[tuple[str, ...]] = ("LVEDV", "LVESV")
    units: ClassVar[dict] = {"LVEDV": "mL", "LVESV": "mL"}
    metrics: ClassVar[tuple[Metric, ...]] = (KitR2(), PearsonR())
    primary: ClassVar[dict] = {"ecg": "R2"}
    reference: ClassVar[dict] = {"ecg": "mae"}
    needs: ClassVar[tuple[str, ...]] = ("cmr",)

    def targets(self, cohort):
        table = cohort.phenotypes[list(self.names)]
        # targets
        return table
'''
SWAPPED = """
    def influence(self, predictions):
        from benchmark.api import Predictions

        a = predictions.arrays
        known = np.isfinite(a["target"])
        score = np.where(known, a["prediction"], np.nan)
        swapped = {"target": score, "prediction": a["target"]}
        return super().influence(Predictions(predictions.targets, swapped))
"""
BAD_TASKS = {
    "gives people without a value one": ("eligible", ("# targets", "table = table.fillna(0.0)")),
    "ranks people among each other": ("alone", ("# targets", "table = table.rank()")),
    "forgets who has nothing": ("targets", ("# targets", "table = table.dropna()")),
    "swaps target and prediction": ("metrics chance", ("    # metric\n", SWAPPED)),
    "thinks chance is better than it is": (
        "metrics chance",
        ("    # metric\n", "    def chance(self, predictions):\n        return np.full(2, 0.5)\n"),
    ),
    "scales its influence values": (
        "influence chance",
        (
            "    # metric\n",
            "    def influence(self, predictions):\n"
            "        theta, psi = super().influence(predictions)\n        return theta, psi / 10\n",
        ),
    ),
    "turns its metric round": (
        "metrics",
        ("    # metric\n", "    higher_is_better: ClassVar[bool] = False\n"),
    ),
    "has an endpoint without a metric": ("declared", ('"ecg": "R2"', '"ecg": "MAE"')),
    "asks for an unknown reference": ("declared", ('"ecg": "mae"', '"ecg": "nobody"')),
    "has no units": ("declared", ('{"LVEDV": "mL", "LVESV": "mL"}', "{}")),
    "calls numbers classes": (
        "targets chance",
        ('"regression"', '"classification"'),
    ),
}


def test_a_good_task_passes(tmp_path):
    report = check_task(imported(tmp_path, TASK, "kit_task_good").KitTask)
    skipped = {f.check for f in report.findings if f.outcome == "skipped"}
    assert skipped == {"predict", "fingerprint"}


@pytest.mark.parametrize("name", BAD_TASKS)
def test_a_bad_task_is_caught(tmp_path, name, monkeypatch):
    checks, (before, after) = BAD_TASKS[name]
    assert before in TASK
    cls = imported(tmp_path, TASK.replace(before, after), "kit_task_bad").KitTask
    monkeypatch.setattr(process, "ask", lambda plugin: ())  # what is elsewhere is tested above
    assert set(failures(check_task, cls)) == set(checks.split())


# ------------------------------------------------------------------------------ cohorts


COHORT = '''
"""A plugin."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from benchmark.cohorts.simulated import SimulatedCohort


@dataclass(frozen=True, kw_only=True)
class KitCohort(SimulatedCohort):
    """Simulated people with something about them."""

    name: ClassVar[str] = "kit"
    people: int = 20
    frames: int = 2
    size: int = 8

    @property
    def title(self):
        return "kit"

    def run(self, context):
        super().run(context)

        def change(name, function):
            path = context.out / f"{name}.parquet"
            function(pd.read_parquet(path)).to_parquet(path, index=False)

        # change
'''
BAD_COHORTS = {
    "draws without a seed": (
        "again",
        "change('phenotypes', lambda t: t + np.random.default_rng().normal(size=t.shape))",
    ),
    "has a person twice": (
        "people",
        "change('ids', lambda t: t.assign(hash_id=[*t['hash_id'][:-1], t['hash_id'][0]]))",
    ),
    "lets others read ids": ("people", "(context.out / 'ids.parquet').chmod(0o644)"),
    "measures height in metres": (
        "tables",
        "change('people', lambda t: t.assign(height=t['height'] / 100))",
    ),
    "codes a diagnosis as text would": ("tables", "change('diagnoses', lambda t: t + 1)"),
    "keeps microvolts": (
        "arrays",
        "path = context.out / 'ecg.npy'; ecg = np.load(path) // 100; path.unlink(); "
        "np.save(path, ecg)",
    ),
}


@pytest.mark.parametrize("name", ["", *BAD_COHORTS])
def test_a_bad_cohort_is_caught(tmp_path, name, monkeypatch):
    check, change = BAD_COHORTS.get(name, ("", ""))
    cls = imported(tmp_path, COHORT.replace("# change", change), "kit_cohort").KitCohort
    monkeypatch.setattr(process, "ask", lambda plugin: ())
    if not name:
        assert check_cohort(cls()).ok
    else:
        assert list(failures(check_cohort, cls())) == [check]


def test_a_cohort_that_nobody_has_prepared_is_no_pass(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGCMR_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(process, "ask", lambda plugin: ())
    found = failures(check_cohort, "wfdb")
    assert list(found) == [COVERAGE]
    assert "ecgcmr prepare wfdb" in found[COVERAGE]

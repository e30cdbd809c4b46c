"""Sex, age and QRS complexes as tasks."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmark.cohorts.cohort import ECG_MEASURES, CohortData
from benchmark.cohorts.ecg import clean, intervals, r_peaks
from benchmark.cohorts.simulated.cohort import SimulatedCohort
from benchmark.engine.store import Store
from benchmark.planning import Request, plan
from benchmark.registry import registry
from benchmark.runner import bring

TASKS = ("demographics", "demographics-sex")


@pytest.fixture(scope="module")
def data(shared_store):
    store = Store(shared_store)
    cohort = SimulatedCohort.at("smoke")
    assert bring([cohort], store).ok
    return CohortData(store.open(cohort))


def test_targets_are_the_peoples(data):
    numbers, sex = (registry().task(name).targets(data) for name in TASKS)
    assert list(numbers) == ["age", *ECG_MEASURES]
    assert numbers["age"].between(40, 90).all()
    assert set(sex["sex"]) == {0.0, 1.0}
    only = registry().task("demographics").replace(only=("qrs_duration",))
    assert only.targets(data).equals(numbers[["qrs_duration"]])


def test_complexes_are_those_of_the_recording(data):
    table = registry().task("demographics").targets(data)
    drawn = np.isfinite(np.load(data.folder / "r_peaks.npy")).sum(1)
    assert (table["qrs_number"] == drawn).all()
    found = []
    for record in data.ecg[:60]:
        ecg_mv = clean(record * 0.005, 500)
        found.append(intervals(ecg_mv, r_peaks(ecg_mv, 500), 500).qrs)
    assert np.corrcoef(found, table["qrs_duration"][:60])[0, 1] > 0.9


def test_what_a_cohort_does_not_know_is_missing():
    cohort = SimpleNamespace(people=pd.DataFrame({"id": ["a", "b"], "age": [50, 60]}))
    table = registry().task("demographics").targets(cohort)
    assert table["age"].tolist() == [50, 60]
    assert table[list(ECG_MEASURES)].isna().all(axis=None)


def test_scores_at_smoke(data, shared_store):
    store = Store(shared_store)
    request = Request(methods=("ecg-features",), tasks=TASKS, fractions=(1.0,), scale="smoke")
    scores = {job.task.name: job.score for job in plan(request).jobs}
    assert bring(list(scores.values()), store).ok
    cells = {
        (cell["target"], cell["metric"]): cell["theta"]
        for score in scores.values()
        for cell in json.loads((store.open(score) / "score.json").read_text())["cells"]
    }
    # The features hold the rate and a measured QRS; ages and sexes show less.
    assert cells["qrs_number", "R2"] > 0.8
    assert cells["qrs_duration", "R2"] > 0.5
    assert cells["sex", "AUROC"] > 0.5

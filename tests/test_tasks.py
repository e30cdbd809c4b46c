"""The tasks in particular, and CMR encoders under the same tasks."""

import numpy as np
import pandas as pd
import pytest

from benchmark.api import Predictions
from benchmark.cohorts.cohort import AS_CODED, DIAGNOSES
from benchmark.cohorts.phenotypes import PHENOTYPES
from benchmark.planning import Request, ceilings_of, plan
from benchmark.registry import registry

TASKS = registry().tasks
CMR_TASKS = ("cvd", "phenotype", "phenotype-global13", "demographics", "demographics-sex")
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))


def request(methods, tasks, **more):
    return Request(methods=tuple(methods), tasks=tuple(tasks), scale="smoke", **more)


@every_task
def test_what_stands_for_a_task_has_targets_and_a_diagnostic_no_ceiling(task):
    if task.supervision:
        assert registry().task(task.supervision).kind == "regression"
    assert not (task.kind == "diagnostic" and ceilings_of(request([], []), task))


def test_groups_of_phenotypes():
    every, thirteen = TASKS["phenotype-all82"], TASKS["phenotype-global13"]
    assert sorted(n for g in every.groups.values() for n in g) == sorted(every.names)
    assert list(every.groups) == ["LV", "RV", "LA", "RA", "AAo", "DAo", "WT", "Ecc", "Err", "Ell"]
    assert len(thirteen.names) == 13
    assert thirteen.names[10:] == ("WT_global", "Ecc_global", "Err_global")
    assert set(TASKS["phenotype-sax61"].names) == {p.name for p in PHENOTYPES if p.short_axis}


def test_two_definitions_of_the_same_diseases():
    table = pd.DataFrame({name: [0.0, 1.0] for name in DIAGNOSES})
    coded = pd.DataFrame({column: [1.0, 0.0] for column in AS_CODED.values()})
    cohort = type("People", (), {"diagnoses": table.join(coded)})
    assert TASKS["cvd"].targets(cohort).equals(table)
    found = TASKS["cvd-as-coded"].targets(cohort)
    assert found.columns.tolist() == [*DIAGNOSES, "I21"]
    assert (found.to_numpy() == [[1], [0]]).all()
    only = TASKS["cvd-as-coded"].replace(only=("MI", "I21"))
    assert only.targets(cohort).columns.tolist() == ["MI", "I21"]
    assert "clean" in TASKS["cvd"].title
    assert "code" in TASKS["cvd-as-coded"].title


def test_simulated_people_have_no_codes():
    asked = request(["mae"], ["cvd-as-coded"])
    found = plan(asked)
    assert not found.jobs
    assert found.not_applicable == [
        "mae on cvd-as-coded: the cohort simulated holds no ICD-10 codes"
    ]
    assert not ceilings_of(asked, TASKS["cvd-as-coded"])
    assert ceilings_of(asked, TASKS["cvd"])


@pytest.mark.parametrize("name", ["cvd-as-coded", "reconstruction", "demographics", "retrieval"])
def test_what_stands_for_a_task_is_learned_with_all_labels(name):
    assert TASKS[name].supervision == "phenotype"


# ------------------------------------------------------------------------------ CMR encoders


@pytest.mark.parametrize("task", CMR_TASKS)
@pytest.mark.parametrize("method", ["ptacl", "mmcl", "eccl", "dual-phase"])
def test_cmr_encoders_are_probed_as_ecg_encoders_are(method, task):
    ecg, cmr = (plan(request([method], [task], modality=m)).jobs for m in ("ecg", "cmr"))
    assert [(j.modality, j.head, j.fraction) for j in cmr] == [
        ("cmr", "linear", fraction) for fraction in (1.0, 0.1, 0.01)
    ]
    for mine, theirs in zip(cmr, ecg, strict=True):
        assert mine.score.head.embedding.digest == theirs.score.head.embedding.digest
        assert mine.score.head.replace(modality="ecg").digest == theirs.score.head.digest


def test_people_are_retrieved_by_their_images_too():
    found = [
        [(j.modality, j.head) for j in plan(request([method], ["retrieval"], modality="cmr")).jobs]
        for method in ("cmr-mae", "ptacl", "mae")
    ]
    assert found == [[("cmr", "none")], [("cmr", "none"), ("ecg-cmr", "none")], []]


@every_task
def test_metrics_say_whether_they_apply(task):
    nothing = Predictions(task.names, {"unknown": np.zeros((3, len(task.names)))})
    for metric in task.metrics:
        assert metric.applies(nothing) is (task.kind != "retrieval")

"""Which rows are compared: endpoints with everybody, targets with the reference, and the goal."""

from types import SimpleNamespace

import pytest
from scored import TARGETS, cells

from benchmark.reports import collect
from benchmark.reports.cells import Scored

TASK = SimpleNamespace(
    primary={"ecg": "AUROC", "ecg-cmr": "AUROC"},
    reference={"ecg": "mae", "cmr": "cmr-mae", "ecg-cmr": "mmcl"},
    goal={"ecg": "cmr-supervised"},
)
PLACES = {
    "mae": [("linear", "ecg")],
    "mmcl": [("linear", "ecg"), ("linear", "cmr"), ("none", "ecg-cmr")],
    "ptacl": [("linear", "ecg"), ("linear", "cmr"), ("none", "ecg-cmr")],
    "tabular": [("xgboost", "covariates")],
    "cmr-mae": [("linear", "cmr")],
    "cmr-supervised": [("finetune", "cmr")],
}


@pytest.fixture
def file_for(monkeypatch):
    def made_up(scored, store, wanted=lambda target, metric: True):
        made = cells(scored.method, head=scored.head, modality=scored.modality)
        return [cell for cell in made if wanted(cell.target, cell.metric)]

    monkeypatch.setattr(collect, "cells_of", made_up)
    monkeypatch.setattr(collect, "further_cells", lambda scored, store: [])
    monkeypatch.setattr(collect, "run_of", lambda scored, store: {})

    def file_for(method):
        everybody = {
            name: [Scored(name, head, modality, 1.0, ()) for head, modality in places]
            for name, places in PLACES.items()
        }
        own = everybody.pop(method)
        header = {"method": method}
        return collect.rows_file(header, own, everybody.values(), TASK, None)

    return file_for


def met(file, target):
    return {
        (entry["modality"], entry["other"], entry["other_modality"])
        for entry in file["versus"]
        if entry["target"] == target
    }


def test_endpoints_meet_everybody_of_their_sections(file_for):
    alone = {("tabular", "covariates"), ("cmr-mae", "cmr"), ("cmr-supervised", "cmr")}
    beside = {("mae", "ecg"), ("mmcl", "ecg"), ("mmcl", "cmr"), *alone}
    assert met(file_for("ptacl"), "mean") == {
        *(("ecg", *other) for other in beside),
        *(("cmr", *other) for other in beside),
        *(("ecg-cmr", *other) for other in (("mmcl", "ecg-cmr"), ("tabular", "covariates"))),
    }


def test_targets_meet_the_reference_of_either_section(file_for):
    assert met(file_for("ptacl"), TARGETS[0]) == {
        ("ecg", "mae", "ecg"),
        ("cmr", "mae", "ecg"),
        ("cmr", "cmr-mae", "cmr"),
        ("ecg-cmr", "mmcl", "ecg-cmr"),
    }
    everybody = {("mmcl", "ecg"), ("mmcl", "cmr"), ("ptacl", "ecg"), ("ptacl", "cmr")}
    everybody |= {("tabular", "covariates"), ("cmr-mae", "cmr"), ("cmr-supervised", "cmr")}
    assert met(file_for("mae"), TARGETS[0]) == {("ecg", *other) for other in everybody}


def test_gaps_are_those_of_endpoints_between_reference_and_goal(file_for):
    gaps = file_for("ptacl")["gaps"]
    assert {(g["modality"], g["target"]) for g in gaps} == {("ecg", "mean"), ("cmr", "mean")}
    for gap in gaps:
        assert (gap["reference"], gap["goal"], gap["goal_head"]) == (
            *("mae", "cmr-supervised", "finetune"),
        )
    assert file_for("tabular")["gaps"][0]["value"] < 0, "worse than the reference"
    for end in ("mae", "cmr-supervised"):
        assert file_for(end)["gaps"] == []

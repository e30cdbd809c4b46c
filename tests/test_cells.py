"""Scores of replicates become one cell, which is only as public as its poorest replicate."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmark.api import Predictions
from benchmark.evaluation.metrics import RecallAt
from benchmark.evaluation.score import _people_cell
from benchmark.reports import cells
from benchmark.reports.cells import Scored, cells_of
from benchmark.reports.rows import FEW_PEOPLE, row_of

PEOPLE, METRIC = 500, RecallAt(k=1)


def loaded(found):
    """Record and influence values where so many people's own scans came first."""
    own = np.tile([50, 0, PEOPLE - 51], (PEOPLE, 1))
    own[:found] = 0, 0, PEOPLE - 1
    predictions = Predictions((), {"own": own})
    theta, psi = METRIC.influence(predictions)
    chance = METRIC.chance(predictions).item()
    cell = _people_cell(METRIC, predictions, theta.item(), chance)
    return {"cells": [cell], "people": PEOPLE}, psi


@pytest.mark.parametrize(
    ("simulated", "found", "shown"),
    [(True, (6, 2), True), (False, (6, 7), True), (False, (6, 2), False), (False, (2, 6), False)],
)
def test_no_replicate_tells_of_few_real_people(monkeypatch, simulated, found, shown):
    monkeypatch.setattr(cells, "_load", lambda store, score: loaded(score.found))
    cohort = SimpleNamespace(simulated=simulated, digest="c" * 64)
    head = SimpleNamespace(task=SimpleNamespace(version=1), cohort=cohort)
    scores = tuple(
        SimpleNamespace(found=n, metrics=(METRIC,), head=head, digest="d" * 64, recipe_digest="r")
        for n in found
    )
    (cell,) = cells_of(Scored("a", "none", "ecg-cmr", 1.0, scores), None)
    result = row_of(cell)["result"]
    assert result["values"] == ([n / PEOPLE for n in found] if shown else [])
    assert result["status"] == ("ok" if shown else FEW_PEOPLE)
    assert cell.n_min == min(found)

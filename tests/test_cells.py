"""Scores of replicates become one cell, which is only as public as its poorest replicate."""

from types import SimpleNamespace

import numpy as np
import pytest
import toy

from benchmark.api import Predictions, Recipe
from benchmark.engine.store import Store
from benchmark.evaluation.embed import Embed
from benchmark.evaluation.heads import LinearHead
from benchmark.evaluation.metrics import PearsonR, RecallAt
from benchmark.evaluation.score import Score, _people_cell
from benchmark.registry import registry
from benchmark.reports import cells
from benchmark.reports.cells import Scored, cells_of, further_cells
from benchmark.reports.rows import FEW_PEOPLE, row_of
from benchmark.stage import bind

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
    # Shares of real people are published in whole fives of them.
    counts = found if simulated else [5 for _ in found]
    assert result["values"] == ([n / PEOPLE for n in counts] if shown else [])
    assert result["status"] == ("ok" if shown else FEW_PEOPLE)
    assert cell.n_min == min(counts if shown else found)


def test_further_metrics_are_measured_as_score_stages_measure(tmp_path, monkeypatch):
    """Pearson's r is among the scores; asked for as a further metric it must be the same cells."""
    task, store = registry().task("phenotype"), Store(tmp_path / "store")
    method = bind(toy.ToyMethod(recipe=Recipe(batch_size=64)), cohort=toy.COHORT, seed=0)
    head = bind(
        LinearHead(embedding=Embed(method=method)),
        **{"modality": "ecg", "task": task, "fraction": 1.0, "seed": 0},
    )
    score = Score(head=head, metrics=task.metrics)
    toy.bring(store, score)
    scored = Scored("toy", "linear", "ecg", 1.0, (score,))
    assert further_cells(scored, store) == []
    monkeypatch.setattr(type(task), "further", (PearsonR(),))
    expected = [cell for cell in cells_of(scored, store) if cell.metric == "r"]
    found = further_cells(scored, store)
    assert [row_of(cell) for cell in found] == [row_of(cell) for cell in expected]
    assert len(found) > len(task.names)
    # The predictions may have been cleared away while their scores stay.
    monkeypatch.setattr(store, "has", lambda digest: digest != head.digest)
    assert further_cells(scored, store) == []

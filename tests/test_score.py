"""Who counts in an endpoint, and what is said where there is nothing to score."""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from benchmark.api import Predictions
from benchmark.evaluation.score import Score, endpoint_targets
from benchmark.registry import registry
from benchmark.stage import Stage

CVD, PHENOTYPE = registry().task("cvd"), registry().task("phenotype")


class People:
    """Tables and splits of a cohort that exists only here."""

    def __init__(self, diagnoses=None, phenotypes=None):
        self.diagnoses, self.phenotypes = diagnoses, phenotypes
        self.count = len(diagnoses if diagnoses is not None else phenotypes)

    def rows(self, split):
        half = self.count // 2
        return np.arange(half) if split == "train" else np.arange(half, self.count)

    def labelled(self, replicate, fraction):
        return self.rows("train")[: round(fraction * (self.count // 2))]


@pytest.fixture
def diagnoses():
    rng = np.random.default_rng(0)
    prevalence = [0.2, 0.1, 0.06, 0.05, 0.004, 0.02]
    table = (rng.random((1000, 6)) < prevalence).astype(float)
    return pd.DataFrame(table, columns=list(CVD.target_names))


def test_endpoint_needs_test_and_training_positives(diagnoses):
    people = People(diagnoses)
    full = endpoint_targets(CVD, people, 1.0)
    test = diagnoses.iloc[people.rows("test")]
    assert full == tuple(n for n in CVD.target_names if test[n].sum() >= 20)
    assert "CM" not in full
    few = endpoint_targets(CVD, people, 0.02)
    labelled = diagnoses.iloc[people.labelled(0, 0.02)]
    assert few == tuple(n for n in full if labelled[n].sum() >= 2)
    assert endpoint_targets(CVD, people, 0.0) == ()


@dataclass(frozen=True, kw_only=True)
class Finished(Stage):
    """A head whose predictions are already known."""

    task: object = CVD
    cohort: object = None
    fraction: float = 1.0

    def predictions(self, folder, cohort):
        return Predictions(
            self.task.target_names,
            {"target": np.load(folder / "y.npy"), "prediction": np.load(folder / "p.npy")},
        )


def score(tmp_path, monkeypatch, people, task, target, prediction, training):
    (tmp_path / "head").mkdir()
    np.save(tmp_path / "head" / "y.npy", target)
    np.save(tmp_path / "head" / "p.npy", prediction)
    counts = {n: {"people": training, "positives": training} for n in task.target_names}
    if training is not None:
        (tmp_path / "head" / "fit.json").write_text(json.dumps(counts))
    monkeypatch.setattr("benchmark.evaluation.score.CohortData", lambda folder: people)

    class Context:
        out = tmp_path

        def open(self, stage):
            return tmp_path / "head"

    Score(head=Finished(task=task), metrics=task.metrics).run(Context())
    record = json.loads((tmp_path / "score.json").read_text())
    return record, np.load(tmp_path / "influence.npy")


def test_cells_and_their_mean(tmp_path, monkeypatch, diagnoses):
    people = People(diagnoses)
    target = diagnoses.to_numpy()[people.rows("test")]
    prediction = target + np.random.default_rng(1).normal(size=target.shape)
    record, influence = score(tmp_path, monkeypatch, people, CVD, target, prediction, 9)
    cells = {cell["target"]: cell for cell in record["cells"]}
    assert cells["CM"]["status"] == "too few positives"
    assert cells["CAD"]["status"] == cells["mean"]["status"] == "ok"
    members = cells["mean"]["members"]
    assert cells["mean"]["theta"] == pytest.approx(np.mean([cells[m]["theta"] for m in members]))
    columns = [cell["target"] for cell in record["cells"]]
    chosen = [columns.index(m) for m in members]
    np.testing.assert_allclose(
        influence[:, columns.index("mean")], influence[:, chosen].mean(1), atol=1e-12
    )


def test_too_little_training_is_not_estimable(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(100, 10)), columns=list(PHENOTYPE.target_names))
    people = People(phenotypes=table)
    target = table.to_numpy()[people.rows("test")]
    record, _ = score(tmp_path, monkeypatch, people, PHENOTYPE, target, target, 9)
    assert {cell["status"] for cell in record["cells"]} == {"not estimable"}


def test_what_was_fitted_on_nobody_lacks_no_training(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(100, 10)), columns=list(PHENOTYPE.target_names))
    people = People(phenotypes=table)
    target = table.to_numpy()[people.rows("test")]
    record, _ = score(tmp_path, monkeypatch, people, PHENOTYPE, target, target, None)
    assert {cell["status"] for cell in record["cells"]} == {"ok"}
    assert not any("training" in cell for cell in record["cells"])

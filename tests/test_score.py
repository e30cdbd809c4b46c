"""Who counts in an endpoint, and what is said where there is nothing to score."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmark.api import Predictions
from benchmark.evaluation.retrieval import retrieve
from benchmark.evaluation.score import Score, endpoint_targets, means
from benchmark.registry import registry
from benchmark.stage import Stage

COHORT = SimpleNamespace(digest="people")
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

    Score(head=Finished(task=task, cohort=COHORT), metrics=task.metrics).run(Context())
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


# ------------------------------------------------------------------------------------- means


def phenotypes(rng, people=100):
    return pd.DataFrame(rng.normal(size=(people, 10)), columns=list(PHENOTYPE.target_names))


def test_means_over_groups(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    people = People(phenotypes=phenotypes(rng))
    target = people.phenotypes.to_numpy()[people.rows("test")]
    prediction = target + rng.normal(size=target.shape) * np.arange(10)
    record, influence = score(tmp_path, monkeypatch, people, PHENOTYPE, target, prediction, 50)
    block = record["cells"][: len(record["cells"]) // len(PHENOTYPE.metrics)]
    assert [c["target"] for c in block[10:]] == ["mean", "mean of LV", "mean of RV"]
    cells = {c["target"]: (c, place) for place, c in enumerate(block)}
    for group in ("LV", "RV"):
        cell, place = cells[f"mean of {group}"]
        assert cell["members"] == [n for n in PHENOTYPE.names if n.startswith(group)]
        parts = [cells[name] for name in cell["members"]]
        assert cell["theta"] == pytest.approx(np.mean([part["theta"] for part, _ in parts]))
        columns = influence[:, [column for _, column in parts]]
        np.testing.assert_allclose(influence[:, place], columns.mean(1), atol=1e-12)
    assert cells["mean of LV"][0]["theta"] > cells["mean of RV"][0]["theta"]


@pytest.mark.parametrize(
    ("task", "groups"),
    [
        ("phenotype", "LV RV"),
        ("phenotype-global13", "LV RV"),
        ("phenotype-sax61", "LV RV WT Ecc Err"),
        ("phenotype-all82", "LV RV LA RA AAo DAo WT Ecc Err Ell"),
        ("cvd", ""),
    ],
)
def test_groups_of_several_targets_but_not_all(task, groups):
    task = registry().task(task)
    found = means(task, task.names)
    assert list(found) == ["mean", *(f"mean of {group}" for group in groups.split())]
    assert found["mean"] == task.names
    part = task.replace(only=task.names[:3])  # of one group, if of any
    assert list(means(part, part.names)) == ["mean"]


def test_what_a_cohort_does_not_hold_is_in_no_mean(tmp_path, monkeypatch):
    """Ages without QRS complexes: the mean is over ages, and says so."""
    rng = np.random.default_rng(0)
    demographics = registry().task("demographics")
    people = People(phenotypes=phenotypes(rng))
    people.people = pd.DataFrame({"age": rng.normal(size=100)})
    target = demographics.targets(people).to_numpy()[people.rows("test")]
    prediction = rng.normal(size=target.shape)
    record, influence = score(tmp_path, monkeypatch, people, demographics, target, prediction, 50)
    cells = {(c["target"], c["metric"]): (c, k) for k, c in enumerate(record["cells"])}
    assert cells["qrs_number", "R2"][0]["status"] == "not estimable"
    (mean, column), (age, other) = cells["mean", "R2"], cells["age", "R2"]
    assert (mean["status"], mean["members"]) == ("ok", ["age"])
    assert mean["theta"] == age["theta"]
    np.testing.assert_array_equal(influence[:, column], influence[:, other])
    assert record["endpoint"] == ["age"]


def test_a_group_that_nobody_has_is_not_estimable(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    table = phenotypes(rng)
    table.loc[:, table.columns.str.startswith("RV")] = np.nan
    people = People(phenotypes=table)
    target = table.to_numpy()[people.rows("test")]
    prediction = rng.normal(size=target.shape)
    record, influence = score(tmp_path, monkeypatch, people, PHENOTYPE, target, prediction, 50)
    cells = {c["target"]: (c, k) for k, c in enumerate(record["cells"]) if c["metric"] == "R2"}
    assert cells["mean of LV"][0]["theta"] == cells["mean"][0]["theta"]
    empty, column = cells["mean of RV"]
    assert (empty["status"], empty["members"], empty["theta"]) == ("not estimable", [], None)
    assert np.isnan(influence[:, column]).all()


def test_draws_stand_beside_their_cells(tmp_path, monkeypatch):
    """Of the median rank: a column for each target and mean, in the order of the cells."""
    rng = np.random.default_rng(0)
    retrieval = registry().task("retrieval")
    people = People(phenotypes=phenotypes(rng))
    test = people.rows("test")
    values = people.phenotypes.to_numpy()[test]
    found = retrieve(values, values, values, sigma=values.std(0), exclude_self=True)
    names = ("hits", "rank", "matches", "gallery")
    arrays = {name: found[name] for name in names}
    monkeypatch.setattr(Finished, "predictions", lambda *_: Predictions(retrieval.names, arrays))
    record, _ = score(tmp_path, monkeypatch, people, retrieval, values, values, None)
    ranks = [c for c in record["cells"] if c["metric"] == "MdR"]
    draws = np.load(tmp_path / "draws_MdR.npy")
    assert [c["target"] for c in ranks[10:]] == ["mean", "mean of LV", "mean of RV"]
    assert draws.shape == (2000, 13)
    for place, cell in enumerate(ranks):
        members = [retrieval.names.index(n) for n in cell.get("members", [cell["target"]])]
        np.testing.assert_allclose(draws[:, place], draws[:, members].mean(1), rtol=1e-5)
        low, high = np.quantile(draws[:, place], [0.005, 0.995])
        assert low <= cell["theta"] <= high


def test_a_metric_of_people_is_one_cell(tmp_path, monkeypatch):
    task = registry().task("temporal-alignment")
    arrays = {"own": np.array([0.5, np.nan, 1.0]), "own_projected": np.full(3, np.nan)}
    arrays["chance"] = np.full(3, 0.125)
    monkeypatch.setattr(Finished, "predictions", lambda *_: Predictions((), arrays))
    people = People(phenotypes=pd.DataFrame(index=range(6)))
    record, influence = score(tmp_path, monkeypatch, people, task, arrays, arrays, None)
    own, projected = record["cells"]
    assert (own["target"], own["theta"], own["n"], own["chance"]) == ("mean", 0.75, 2, 0.125)
    assert "members" not in own
    assert (projected["status"], projected["theta"]) == ("not estimable", None)
    np.testing.assert_allclose(influence[:, 0], [-0.375, 0, 0.375])

"""Oracles find what the true state tells, no less and no more."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import r2_score, roc_auc_score

from benchmark.cohorts.cohort import COVARIATES, DIAGNOSES
from benchmark.cohorts.phenotypes import PHENOTYPE_NAMES
from benchmark.cohorts.simulated.cohort import SimulatedCohort
from benchmark.cohorts.simulated.oracle import oracle_inputs
from benchmark.evaluation.oracle import KnownState, Oracle, ceiling_scores, fit
from benchmark.evaluation.score import Score
from benchmark.registry import registry

CVD, PHENOTYPE = registry().task("cvd"), registry().task("phenotype")
PEOPLE, OTHERS = 4_000, 12_000  # of a cohort, and those an oracle learns from
REFERENCE = 20_000


# ------------------------------------------------------------------------------------- fit


def normal(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape)


def test_a_linear_truth_is_found_but_for_the_noise():
    weights = normal(6, 3, seed=0)
    x, new = normal(REFERENCE, 6, seed=1), normal(REFERENCE, 6, seed=2)
    noise = np.sqrt(np.square(weights).sum(0)) * [0.5, 1, 2]
    y, truth = (a @ weights + noise * normal(REFERENCE, 3, seed=s) for a, s in ((x, 3), (new, 4)))
    found = r2_score(truth, fit(x, y, classify=False)(new), multioutput="raw_values")
    best = r2_score(truth, new @ weights, multioutput="raw_values")
    np.testing.assert_allclose(best, [1 / 1.25, 1 / 2, 1 / 5], atol=0.015)
    assert (found > best - 0.005).all()
    assert (found <= best + 0.002).all()


def test_thresholds_and_interactions_are_found():
    def truth(x):
        return np.maximum(x[:, 0] + x[:, 1] - 0.5, 0) + x[:, 2] * (x[:, 3] > 0)

    x, new = normal(REFERENCE, 5, seed=1), normal(REFERENCE, 5, seed=2)
    y = truth(x) + 0.5 * normal(REFERENCE, seed=3)
    found = fit(x, y[:, None], classify=False)(new)[:, 0]
    assert r2_score(truth(new), found) > 0.97


def test_the_order_of_risks_is_found_for_rare_diseases():
    def risk(x):
        return expit(-4 + x[:, 0] - 0.5 * x[:, 1] + np.where(x[:, 2] > 1, 1.5, 0))

    x, new = normal(2 * REFERENCE, 5, seed=1), normal(2 * REFERENCE, 5, seed=2)
    rng = np.random.default_rng(3)
    y, truth = (rng.random(len(a)) < risk(a) for a in (x, new))
    found = fit(x, y[:, None].astype(float), classify=True)(new)[:, 0]
    assert 0.02 < y.mean() < 0.06
    assert roc_auc_score(truth, found) > roc_auc_score(truth, risk(new)) - 0.012


def test_noise_is_not_taken_for_knowledge():
    x, new = normal(REFERENCE, 8, seed=1), normal(REFERENCE, 8, seed=2)
    y, truth = normal(REFERENCE, 2, seed=3), normal(REFERENCE, 2, seed=4)
    found = r2_score(truth, fit(x, y, classify=False)(new), multioutput="raw_values")
    assert np.abs(found).max() < 0.003


def test_people_without_a_label_do_not_count():
    x = normal(REFERENCE, 3, seed=1)
    y = np.repeat(x[:, :1], 2, axis=1)
    odd = np.arange(REFERENCE) % 2 == 1
    y[odd, 1] = np.nan
    poisoned = x.copy()
    poisoned[odd] = -x[odd]
    found = fit(poisoned, y, classify=False)(x)
    assert r2_score(x[:, 0], found[:, 1]) > 0.99
    assert r2_score(x[:, 0], found[:, 0]) < 0.1, "the poison would have shown"


def test_a_class_nobody_has_is_no_prediction():
    x = normal(500, 3, seed=1)
    y = np.stack([np.zeros(500), x[:, 0] > 0, np.full(500, np.nan)], 1)
    found = fit(x, y, classify=True)(x)
    assert not found[:, [0, 2]].any()
    assert roc_auc_score(y[:, 1], found[:, 1]) > 0.95


def test_equal_people_give_equal_bits():
    x, y = normal(2_000, 4, seed=1), normal(2_000, 2, seed=2)
    assert (fit(x, y, classify=False)(x) == fit(x, y, classify=False)(x)).all()


# ----------------------------------------------------------------------------------- stages


class Context:
    """Opens folders that exist already and writes into another."""

    def __init__(self, out, **folders):
        self.out, self.folders = out, folders
        out.mkdir()

    def open(self, stage):
        return self.folders[type(stage).__name__]

    def progress(self, *_):
        pass


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    """The tables of a cohort without its arrays, and the true state behind them, per preset."""
    from benchmark.cohorts.simulated.population import draw_block
    from benchmark.cohorts.simulated.presets import PRESETS

    made = {}

    def make(preset):
        if preset in made:
            return made[preset]
        root = tmp_path_factory.mktemp(preset)
        cohort = SimulatedCohort(preset=preset, people=PEOPLE)
        blocks = [draw_block(0, b, PRESETS[preset]) for b in range(PEOPLE // 100)]
        (root / "cohort").mkdir()
        ids = pd.DataFrame({"hash_id": [str(9_000_001 + k) for k in range(PEOPLE)]})
        ids.to_parquet(root / "cohort" / "ids.parquet")
        for name, columns, values in (
            ("phenotypes", PHENOTYPE_NAMES, [b.measured for b in blocks]),
            ("diagnoses", DIAGNOSES, [b.person.diagnoses for b in blocks]),
            ("people", COVARIATES, [np.zeros((100, 4))] * len(blocks)),
        ):
            table = pd.DataFrame(np.concatenate(values), columns=list(columns))
            table.to_parquet(root / "cohort" / f"{name}.parquet")
        KnownState(cohort=cohort, people=OTHERS).run(Context(root / "known"))
        made[preset] = cohort, root
        return made[preset]

    return make


@pytest.fixture(scope="module")
def ceilings(population):
    """Value and SE per target of an oracle, through the stages that a run brings."""
    made = {}

    def of(preset, task, modality):
        if (preset, task.name, modality) in made:
            return made[preset, task.name, modality]
        cohort, root = population(preset)
        score = ceiling_scores(task, cohort, OTHERS)[modality]
        place = root / f"{task.name}-{modality}"
        folders = {"SimulatedCohort": root / "cohort", "KnownState": root / "known"}
        score.head.run(Context(place, **folders))
        scored = root / f"{task.name}-{modality}-score"
        score.run(Context(scored, Oracle=place, **folders))
        cells = json.loads((scored / "score.json").read_text())["cells"]
        psi = np.load(scored / "influence.npy")
        se = np.sqrt(np.square(psi).sum(0)) / len(psi)
        found = {
            cell["target"]: (cell["theta"], float(e), cell["status"])
            for cell, e in zip(cells, se, strict=True)
            if cell["metric"] == task.primary["ecg"]
        }
        return made.setdefault((preset, task.name, modality), found)

    return of


def test_ceilings_of_volumes_are_ordered(ceilings):
    truth, cmr, ecg = (ceilings("default", PHENOTYPE, m) for m in ("truth", "cmr", "ecg"))
    for name in ("LVEDV", "LVESV", "LVM", "RVEDV", "RVESV"):
        assert truth[name][0] > cmr[name][0] - 0.01, "the images show nothing beyond the truth"
        assert truth[name][0] < 1, "labels are measured"
        assert 0 < ecg[name][0] < cmr[name][0]


def test_an_ecg_of_a_stranger_has_no_ceiling_above_chance(ceilings):
    for value, se, _ in ceilings("null", PHENOTYPE, "ecg").values():
        assert abs(value) < max(0.01, 4 * se)
    risks = [v for v in ceilings("null", CVD, "ecg").values() if v[2] == "ok"]
    assert len(risks) > 2
    for value, se, _ in risks:
        assert abs(value - 0.5) < 4 * se
    assert ceilings("null", PHENOTYPE, "covariates")["mean"][0] > 0.2


def test_the_oracle_of_diagnoses_beats_a_coin(ceilings):
    found = ceilings("default", CVD, "ecg")
    assert found["CM"][2] == "too few positives", "at this size"
    assert found["CAD"][0] > 0.5 + 4 * found["CAD"][1]


def test_true_phenotypes_are_the_prediction_and_nothing_is_fitted(population):
    cohort, root = population("default")
    stage = Oracle(cohort=cohort, task=PHENOTYPE, modality="truth", people=OTHERS)
    place = root / "truth-again"
    stage.run(Context(place, SimulatedCohort=root / "cohort", KnownState=root / "known"))
    assert sorted(path.name for path in place.iterdir()) == ["test.npy", "validation.npy"]
    truth = oracle_inputs(cohort)["truth"][:, :10]
    predicted = np.load(place / "test.npy")
    # Rows of the truth, in order: the test people.
    places = [np.flatnonzero(np.isclose(truth, row, rtol=1e-5).all(1)) for row in predicted]
    assert [len(p) for p in places] == [1] * len(predicted)
    assert (np.diff(np.concatenate(places)) > 0).all()


def test_people_of_the_cohort_are_not_among_those_learned_from(population):
    _, root = population("default")
    own, others = (np.load(root / "known" / f"{n}ecg.npy") for n in ("", "reference_"))
    assert (len(own), len(others)) == (PEOPLE, OTHERS)
    assert not set(map(bytes, own)) & set(map(bytes, others))


def test_which_tasks_have_ceilings():
    cohort = SimulatedCohort.at("smoke")
    assert set(ceiling_scores(PHENOTYPE, cohort)) == {"ecg", "cmr", "covariates", "truth"}
    assert set(ceiling_scores(CVD, cohort)) == {"ecg", "cmr", "covariates"}
    assert ceiling_scores(registry().task("retrieval"), cohort) == {}

    class Real(SimulatedCohort):
        simulated = False

    assert ceiling_scores(PHENOTYPE, Real(people=300)) == {}


def test_what_an_oracle_is_made_of():
    cohort = SimulatedCohort.at("smoke")
    stages = {
        stage.digest
        for task in (PHENOTYPE, CVD)
        for score in ceiling_scores(task, cohort).values()
        for stage in (score, score.head)
    }
    assert len(stages) == 14
    known = {
        score.head.known.digest
        for task in (PHENOTYPE, CVD)
        for score in ceiling_scores(task, cohort).values()
    }
    assert len(known) == 1, "the true state is drawn once"
    score = ceiling_scores(CVD, cohort)["ecg"]
    assert score == Score(head=score.head, metrics=CVD.metrics)
    assert {s.digest for s in score.head.inputs} == known | {cohort.digest}

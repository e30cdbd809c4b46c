from __future__ import annotations

import functools

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmark.cohorts.cohort import DIAGNOSES, LEADS
from benchmark.cohorts.phenotypes import PHENOTYPE_NAMES, VENTRICULAR10
from benchmark.cohorts.simulated.cohort import SimulatedCohort
from benchmark.cohorts.simulated.ecg import draw_ecg, draw_parameters
from benchmark.cohorts.simulated.latent import Lot, Stream, generator
from benchmark.cohorts.simulated.oracle import oracle_inputs, reference_people
from benchmark.cohorts.simulated.population import draw_block
from benchmark.cohorts.simulated.presets import PRESETS

INPUTS = ("ecg", "cmr", "covariates", "truth")
VOLUMES_AND_MASS = ("LVEDV", "LVESV", "LVSV", "LVM", "RVEDV", "RVESV", "RVSV")
PEOPLE = 12_000


def a_cohort(preset: str = "default", people: int = 250) -> SimulatedCohort:
    return SimulatedCohort(people=people, preset=preset)


# --------------------------------------------------------------------------------- inputs


def test_inputs_are_those_of_the_cohorts_people_in_their_order() -> None:
    inputs = oracle_inputs(a_cohort())
    assert tuple(inputs) == INPUTS
    for values in inputs.values():
        assert len(values) == 250
        assert values.dtype == np.float64
        assert np.isfinite(values).all()
    blocks = [draw_block(0, index, PRESETS["default"]) for index in range(3)]
    assert np.array_equal(inputs["truth"], np.concatenate([b.truth for b in blocks])[:250])
    ages = np.concatenate([block.person.age for block in blocks])[:250]
    assert np.array_equal(inputs["covariates"][:, 0], ages)


def test_inputs_of_the_ecg_are_what_was_recorded() -> None:
    """The waves that are drawn and those that are told come from the same numbers."""
    block = draw_block(0, 1, PRESETS["default"])
    ecg, peaks = draw_ecg(block, 0, 1, PRESETS["default"])
    told = oracle_inputs(a_cohort(people=200))["ecg"][100:]
    log_gain, seconds = told[:, 0], told[:, 16]
    chest = ecg[:, LEADS.index("V2") : LEADS.index("V6")]
    amplitude = np.log(np.ptp(chest, axis=2).sum(1))
    assert np.corrcoef(amplitude, log_gain)[0, 1] > 0.7
    rr = np.nanmean(np.diff(peaks.astype(float), axis=1), axis=1)
    assert np.corrcoef(rr, seconds)[0, 1] > 0.98


def test_inputs_of_the_ecg_leave_out_disturbances_alone() -> None:
    """A ceiling would be none if an ECG showed anything that its oracle is not told."""
    block = draw_block(0, 1, PRESETS["default"])
    heart, sinus = block.recorded, block.recorded.af_rhythm == 0
    drawn = vars(draw_parameters(heart, PRESETS["default"], generator(0, Stream.ECG, 1)))
    told = oracle_inputs(a_cohort(people=200))["ecg"][100:]
    # Independent of the heart, or in the case of QT a function of QTc and the heart rate.
    left_out = {"leads", "respiration", "wander", "mains", "muscle", "qt"}
    shown = {name: values for name, values in drawn.items() if name not in left_out}
    shown |= {"rate": heart.heart_rate, "rhythm": heart.af_rhythm}
    for name, values in shown.items():
        known = np.log(values) if name in ("gain", "rmssd") else values
        for part in np.atleast_2d(known.T):
            apart = np.ptp((told - part[:, None])[sinus], axis=0)
            assert (apart < 1e-9).any(), name


def test_inputs_of_the_images_leave_out_nothing_that_is_drawn() -> None:
    block = draw_block(0, 1, PRESETS["default"])
    heart, shape = block.imaged, block.shape
    told = oracle_inputs(a_cohort(people=200))["cmr"][100:]
    territories = heart.territory == np.arange(3)[:, None]
    drawn = (shape.length, shape.shortening, heart.heart_rate, heart.af_rhythm, heart.bmi)
    for values in (*drawn, *heart.scar * territories, *heart.ischaemia * territories):
        assert (told == values[:, None]).all(0).any()


@pytest.mark.parametrize(("preset", "strange"), [("null", "ecg"), ("permuted-pairs", "cmr")])
def test_inputs_of_a_stranger_are_the_strangers(preset: str, strange: str) -> None:
    own, shown = oracle_inputs(a_cohort()), oracle_inputs(a_cohort(preset))
    for name in INPUTS:
        assert np.array_equal(own[name], shown[name]) == (name != strange)
    block = draw_block(0, 0, PRESETS[preset])
    heart = block.recorded if strange == "ecg" else block.imaged
    rate = heart.heart_rate
    assert any(np.array_equal(column, rate) for column in shown[strange][:100].T)


def test_images_do_not_show_the_aorta() -> None:
    inputs = oracle_inputs(a_cohort())
    shown = {tuple(column) for column in inputs["cmr"].T}
    for name, column in zip(PHENOTYPE_NAMES, inputs["truth"].T, strict=True):
        assert (tuple(column) in shown) == (name[:3] not in ("AAo", "DAo")), name


def test_reference_people_are_others_and_always_the_same() -> None:
    cohort = a_cohort(people=1000)
    inputs, phenotypes, diagnoses = reference_people(cohort, 1500)
    assert tuple(inputs) == INPUTS
    assert {len(values) for values in inputs.values()} == {1500}
    assert phenotypes.shape == (1500, len(PHENOTYPE_NAMES))
    assert diagnoses.shape == (1500, len(DIAGNOSES))
    own = oracle_inputs(cohort)
    assert own["ecg"].shape[1:] == inputs["ecg"].shape[1:]
    assert own["cmr"].shape[1:] == inputs["cmr"].shape[1:]
    for name in ("ecg", "cmr", "truth"):
        assert not np.isin(own[name][:, 0], inputs[name][:, 0]).any()
    # Other values could still come from the same random numbers, cut into blocks of another size.
    apart = draw_block(0, 0, PRESETS["default"], Lot.REFERENCE, 500)
    assert np.array_equal(inputs["truth"][:500], apart.truth)
    fewer, first, _ = reference_people(cohort, 700)
    assert np.array_equal(first, phenotypes[:700])
    assert np.array_equal(fewer["ecg"], inputs["ecg"][:700])
    error = phenotypes / inputs["truth"] - 1
    assert np.abs(np.median(error, axis=0)).max() < 0.02
    assert (np.abs(error).mean(0) > 0.01).all()
    other, *_ = reference_people(a_cohort("default").replace(random_state=1), 100)
    assert not np.isin(other["truth"][:, 0], inputs["truth"][:, 0]).any()


# ---------------------------------------------------------------------------- information


@functools.cache
def population(preset: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    return reference_people(a_cohort(preset), PEOPLE)


@functools.cache
def explained(preset: str, inputs: str) -> dict[str, float]:
    """R2 of a ridge regression for each of the ten ventricular phenotypes and the left atrium."""
    told, phenotypes, _ = population(preset)
    names = (*VENTRICULAR10, "LAmax")
    target = phenotypes[:, [PHENOTYPE_NAMES.index(name) for name in names]]
    half = len(target) // 2
    model = make_pipeline(StandardScaler(), Ridge()).fit(told[inputs][:half], target[:half])
    error = target[half:] - model.predict(told[inputs][half:])
    r2 = 1 - (error**2).mean(0) / target[half:].var(0)
    return dict(zip(names, r2, strict=True))


@functools.cache
def auroc(preset: str, inputs: str) -> dict[str, float]:
    told, _, diagnoses = population(preset)
    half = len(diagnoses) // 2
    features = StandardScaler().fit_transform(told[inputs])
    found = {}
    for column, name in enumerate(DIAGNOSES):
        model = LogisticRegression(C=0.01, max_iter=200)
        model.fit(features[:half], diagnoses[:half, column])
        score = model.decision_function(features[half:])
        found[name] = roc_auc_score(diagnoses[half:, column], score)
    return found


def test_what_the_ecg_tells_about_phenotypes() -> None:
    r2 = explained("default", "ecg")
    for name in VOLUMES_AND_MASS:
        assert 0.40 < r2[name] < 0.66, name
    assert 0.45 < np.mean([r2[name] for name in VOLUMES_AND_MASS]) < 0.60
    for name in ("LVEF", "RVEF"):
        assert 0.08 < r2[name] < 0.25, name
    assert 0.45 < r2["LAmax"] < 0.65


def test_the_ecg_tells_more_than_covariates_and_less_than_images() -> None:
    ecg, covariates, cmr = (explained("default", i) for i in ("ecg", "covariates", "cmr"))
    for name in VOLUMES_AND_MASS:
        assert covariates[name] + 0.02 < ecg[name] < cmr[name] - 0.2, name
        assert cmr[name] > 0.8
    assert covariates["LAmax"] < 0.15


def test_what_the_ecg_tells_about_diagnoses() -> None:
    found = auroc("default", "ecg")
    for name in ("CAD", "AF", "DM", "MI"):
        assert 0.65 < found[name] < 0.85, name
    for name in ("HF", "CM"):  # a hundred people or fewer
        assert 0.58 < found[name] < 0.90, name


def test_presets_are_ordered() -> None:
    easy, default, hard = (explained(preset, "ecg") for preset in ("easy", "default", "hard"))
    for name in (*VOLUMES_AND_MASS, "LAmax"):
        assert easy[name] - 0.1 > default[name] > hard[name] + 0.1, name
    easy, default, hard = (auroc(preset, "ecg") for preset in ("easy", "default", "hard"))
    for name in ("CAD", "AF", "MI"):
        assert easy[name] - 0.02 > default[name] > hard[name] + 0.02, name
    truth = [
        ((population(p)[1] / population(p)[0]["truth"] - 1) ** 2).mean()
        for p in ("easy", "default", "hard")
    ]
    assert truth == sorted(truth)


@pytest.mark.parametrize(("preset", "inputs"), [("null", "ecg"), ("permuted-pairs", "cmr")])
def test_a_stranger_tells_nothing(preset: str, inputs: str) -> None:
    for name, r2 in explained(preset, inputs).items():
        assert abs(r2) < 0.02, name
    for name in ("CAD", "AF", "DM"):
        assert 0.44 < auroc(preset, inputs)[name] < 0.56, name
    told, _, _ = population(preset)
    covariates = told["covariates"]
    half = len(covariates) // 2
    model = make_pipeline(StandardScaler(), Ridge(10)).fit(told[inputs][:half], covariates[:half])
    error = covariates[half:] - model.predict(told[inputs][half:])
    assert (1 - (error**2).mean(0) / covariates[half:].var(0)).max() < 0.02


def test_shift_keeps_what_the_ecg_tells() -> None:
    shift, default = explained("shift", "ecg"), explained("default", "ecg")
    for name in VOLUMES_AND_MASS:
        assert shift[name] == pytest.approx(default[name], abs=0.06), name

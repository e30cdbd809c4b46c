"""What a perfect reader could take from the data of simulated people.

The parameters that ECG and images are drawn from are known. A model of them, fitted on reference
people, says how much of a target an input holds: a ceiling that no method can pass but by chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from benchmark.cohorts.phenotypes import PHENOTYPES
from benchmark.cohorts.simulated.cohort import SimulatedCohort
from benchmark.cohorts.simulated.ecg import draw_parameters
from benchmark.cohorts.simulated.latent import BLOCK, Latent, Lot, Stream, generator
from benchmark.cohorts.simulated.population import Block, draw_block, true_phenotypes
from benchmark.cohorts.simulated.presets import PRESETS, Preset

_REFERENCE_BLOCK = 500
_NOT_DRAWN = ("AAo", "DAo")
_DRAWN = [k for k, p in enumerate(PHENOTYPES) if p.group not in _NOT_DRAWN]


def oracle_inputs(cohort: SimulatedCohort) -> dict[str, np.ndarray]:
    """Return the true parameters behind the data of the cohort's people.

    Returns
    -------
    dict
        (people, p) float64 in cohort order. ``ecg``: waves, intervals, axes, rhythm and infarct of
        the heart that was recorded. ``cmr``: phenotypes, length, shortening, infarct, ischaemia,
        rate, rhythm and habitus of the heart that was imaged. ``covariates``: age, sex, height,
        weight. ``truth``: the 82 phenotypes of the person without error.
    """
    preset = PRESETS[cohort.preset]
    blocks = range(math.ceil(cohort.people / BLOCK))
    drawn = (
        (draw_block(cohort.random_state, index, preset), index, Lot.COHORT) for index in blocks
    )
    inputs, _, _ = _collect(drawn, cohort.random_state, preset, cohort.people)
    return inputs


def reference_people(
    cohort: SimulatedCohort, people: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return people of the same population who are in no cohort.

    Returns
    -------
    inputs : dict
        As `oracle_inputs`.
    phenotypes : np.ndarray
        (people, 82) as measured.
    diagnoses : np.ndarray
        (people, 6) in the order of `DIAGNOSES`.
    """
    preset, lot = PRESETS[cohort.preset], Lot.REFERENCE
    blocks = range(math.ceil(people / _REFERENCE_BLOCK))
    drawn = (
        (draw_block(cohort.random_state, index, preset, lot, _REFERENCE_BLOCK), index, lot)
        for index in blocks
    )
    return _collect(drawn, cohort.random_state, preset, people)


def _collect(
    drawn: Iterator[tuple[Block, int, Lot]], random_state: int, preset: Preset, people: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {}
    for block, index, lot in drawn:
        rng = generator(random_state, Stream.ECG, index, lot)
        person = block.person
        for name, values in (
            ("ecg", _ecg(block.recorded, preset, rng)),
            ("cmr", _cmr(block)),
            ("covariates", np.stack([person.age, person.male, person.height, person.weight], 1)),
            ("truth", block.truth),
            ("phenotypes", block.measured),
            ("diagnoses", person.diagnoses),
        ):
            parts.setdefault(name, []).append(values)
    joined = {name: np.concatenate(values)[:people] for name, values in parts.items()}
    return joined, joined.pop("phenotypes"), joined.pop("diagnoses")


def _ecg(latent: Latent, preset: Preset, rng: np.random.Generator) -> np.ndarray:
    """Return what the ECG of these hearts is drawn from, but for disturbances.

    ``rng`` is the one the ECG itself starts from.
    """
    p = draw_parameters(latent, preset, rng)
    sinus = 1 - latent.af_rhythm  # without P waves, nobody reads their measures
    return np.stack(
        [
            np.log(p.gain),
            p.qrs,
            p.lbbb,
            p.rbbb,
            sinus * (p.pr - 166),
            sinus * (p.p_duration - 96),
            p.p_amplitude,
            sinus * p.p_terminal,
            sinus * p.p_frontal,
            p.qtc,
            p.t_amplitude,
            p.st,
            p.qrs_frontal,
            p.t_frontal,
            p.horizontal,
            sinus * (np.log(p.rmssd) - 3.25),
            60 / latent.heart_rate,
            latent.heart_rate,
            latent.af_rhythm,
            *p.infarct.T,
        ],
        1,
    )


def _cmr(block: Block) -> np.ndarray:
    """Return what the images are drawn from, but for noise and position.

    The phenotypes stand among the inputs, so that even a linear model loses none of them.
    """
    latent, shape = block.imaged, block.shape
    phenotypes = block.truth if latent is block.person else true_phenotypes(latent, shape)
    return np.concatenate(
        [
            phenotypes[:, _DRAWN],
            np.stack(
                [
                    shape.length,
                    shape.shortening,
                    *_by_territory(latent, latent.scar),
                    *_by_territory(latent, latent.ischaemia),
                    60 / latent.heart_rate,
                    latent.heart_rate,
                    latent.af_rhythm,
                    latent.bmi,
                ],
                1,
            ),
        ],
        1,
    )


def _by_territory(latent: Latent, burden: np.ndarray) -> list[np.ndarray]:
    return [burden * (latent.territory == k) for k in range(3)]

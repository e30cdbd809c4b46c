"""Simulated people, block by block: the heart they have, the hearts their data show, the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmark.cohorts.phenotypes import PHENOTYPE_NAMES, PHENOTYPES
from benchmark.cohorts.simulated.geometry import Shape, draw_shape
from benchmark.cohorts.simulated.latent import (
    BLOCK,
    Latent,
    Lot,
    Stream,
    draw_latent,
    generator,
)
from benchmark.cohorts.simulated.mechanics import measure_mechanics
from benchmark.cohorts.simulated.presets import Preset

NOISE_OF_LABELS: Mapping[str, float] = {
    "LVEDV": 0.05,
    "LVESV": 0.09,
    "LVM": 0.07,
    "RVEDV": 0.07,
    "RVESV": 0.11,
    "heart_rate": 0.045,
    "atria": 0.10,
    "aorta": 0.03,
    "pulse_pressure": 0.08,
}
"""Coefficients of variation that segmentation (or the cuff) adds."""

NOISE_OF_SEGMENTS: Mapping[str, tuple[float, float]] = {
    "WT": (0.05, 0.14),
    "Ecc": (0.06, 0.14),
    "Err": (0.10, 0.11),
    "Ell": (0.08, 0.13),
}
"""Coefficients of variation of what all segments of a person share, and of each by itself."""

_GROUPS = {
    group: [k for k, p in enumerate(PHENOTYPES) if p.group == group] for group in NOISE_OF_SEGMENTS
}


_STRANGERS = {Lot.COHORT: Lot.STRANGERS, Lot.REFERENCE: Lot.REFERENCE_STRANGERS}


@dataclass(frozen=True)
class Block:
    """`BLOCK` people simulated together.

    Attributes
    ----------
    person
        Covariates, diagnoses and the heart that the phenotypes are of.
    recorded
        The heart the ECG is recorded from: ``person``, or a stranger's.
    imaged
        The heart that is imaged: ``person``, or a stranger's.
    shape
        Of ``imaged``.
    truth
        (people, 82) phenotypes of ``person`` without error, in the order of `PHENOTYPE_NAMES`.
    measured
        (people, 82) as a segmentation measures them: consistent, so stroke volume is the
        difference of the measured volumes.
    """

    person: Latent
    recorded: Latent
    imaged: Latent
    shape: Shape
    truth: np.ndarray
    measured: np.ndarray


def draw_block(
    random_state: int,
    block: int,
    preset: Preset,
    lot: Lot = Lot.COHORT,
    people: int = BLOCK,
) -> Block:
    """Draw the people of one block, the same whatever the number of blocks.

    ``lot`` and ``people`` are for people outside the cohort: a block of another size holds others.
    """

    def draw(lot: Lot) -> tuple[Latent, Shape]:
        latent = draw_latent(random_state, block, preset, lot, people)
        return latent, draw_shape(latent, generator(random_state, Stream.SHAPE, block, lot))

    person, own_shape = draw(lot)
    recorded, imaged, shape = person, person, own_shape
    if "stranger" in (preset.recorded, preset.imaged):
        stranger, strange_shape = draw(_STRANGERS[lot])
        if preset.recorded == "stranger":
            recorded = stranger
        if preset.imaged == "stranger":
            imaged, shape = stranger, strange_shape
    truth = true_phenotypes(person, own_shape)
    rng = generator(random_state, Stream.MEASUREMENT, block, lot)
    measured = measure(truth, person, preset, rng)
    return Block(person, recorded, imaged, shape, truth, measured)


def true_phenotypes(latent: Latent, shape: Shape) -> np.ndarray:
    """Return (people, 82) phenotypes without error, in the order of `PHENOTYPE_NAMES`."""
    volumes = {
        name: getattr(latent, name.lower())
        for name in ("LVEDV", "LVESV", "LVM", "RVEDV", "RVESV", "AAo_max", "AAo_min")
    }
    volumes |= {"DAo_max": latent.dao_max, "DAo_min": latent.dao_min}
    for side in ("LA", "RA"):
        for moment in ("max", "min"):
            volumes[f"{side}{moment}"] = getattr(latent, f"{side}_{moment}".lower())
    mechanics = measure_mechanics(latent, shape)
    segments = {
        "WT": mechanics.thickness,
        "Ecc": mechanics.circumferential,
        "Err": mechanics.radial,
        "Ell": mechanics.longitudinal,
    }
    return _table(volumes, latent.heart_rate, latent.pulse_pressure, segments)


def measure(
    truth: np.ndarray, latent: Latent, preset: Preset, rng: np.random.Generator
) -> np.ndarray:
    """Return the phenotypes as a segmentation would measure them, (people, 82).

    What follows from other phenotypes is computed from their measured values, so that the labels
    stay consistent with each other. The errors of the two volumes of a chamber (and of the two
    areas of an artery) are correlated; in the ventricles so that stroke volume, ejection fraction
    and output have the coefficients of variation .07, .045, .08 (left) and .09, .06 (right).
    """
    people = latent.age.size
    true = dict(zip(PHENOTYPE_NAMES, truth.T, strict=True))

    def error(name: str) -> float:
        return preset.label_noise * NOISE_OF_LABELS[name]

    def pair(first: str, second: str, errors: tuple[float, float], correlation: float) -> None:
        shared, own = rng.standard_normal((2, people))
        other = correlation * shared + np.sqrt(1 - correlation**2) * own
        measured[first] = true[first] * (1 + errors[0] * shared)
        measured[second] = true[second] * (1 + errors[1] * other)

    measured: dict[str, np.ndarray] = {}
    pair("LVEDV", "LVESV", (error("LVEDV"), error("LVESV")), 0.65)
    pair("RVEDV", "RVESV", (error("RVEDV"), error("RVESV")), 0.70)
    rate, mass, pressure = rng.standard_normal((3, people))
    measured["LVM"] = true["LVM"] * (1 + error("LVM") * mass)
    heart_rate = latent.heart_rate * (1 + error("heart_rate") * rate)
    pulse_pressure = latent.pulse_pressure * (1 + error("pulse_pressure") * pressure)
    for side in ("LA", "RA"):
        pair(f"{side}max", f"{side}min", (error("atria"),) * 2, 0.65)
    for artery in ("AAo", "DAo"):
        pair(f"{artery}_max", f"{artery}_min", (error("aorta"),) * 2, 0.90)
    segments = {}
    for group, (shared, own) in NOISE_OF_SEGMENTS.items():
        columns = _GROUPS[group][:-1]
        deviates = rng.standard_normal((people, len(columns) + 1))
        noise = preset.label_noise * (shared * deviates[:, :1] + own * deviates[:, 1:])
        segments[group] = truth[:, columns] * (1 + noise)
    return _table(measured, heart_rate, pulse_pressure, segments)


def _table(
    volumes: Mapping[str, np.ndarray],
    heart_rate: np.ndarray,
    pulse_pressure: np.ndarray,
    segments: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Complete what is measured by what follows from it; one column per phenotype."""
    columns = dict(volumes)
    for side, largest, smallest in (
        ("LV", "EDV", "ESV"),
        ("RV", "EDV", "ESV"),
        ("LA", "max", "min"),
        ("RA", "max", "min"),
    ):
        full = columns[f"{side}{largest}"]
        columns[f"{side}SV"] = full - columns[f"{side}{smallest}"]
        columns[f"{side}EF"] = 100 * columns[f"{side}SV"] / full
    columns["LVCO"] = columns["LVSV"] * heart_rate / 1000
    for artery in ("AAo", "DAo"):
        largest, smallest = columns[f"{artery}_max"], columns[f"{artery}_min"]
        stretch = (largest - smallest) / smallest
        columns[f"{artery}_distensibility"] = 1e3 * stretch / pulse_pressure
    for group, values in segments.items():
        columns |= {f"{group}_{k + 1}": values[:, k] for k in range(values.shape[1])}
        columns[f"{group}_global"] = values.mean(1)
    return np.stack([columns[name] for name in PHENOTYPE_NAMES], 1)

"""The cardiac state that ECG, cine and labels of a simulated person share.

Means and spreads are those of UK Biobank's imaging visit: cine volumes and ECG intervals as in the
ml4h tensor maps, ejection fractions and indexed mass of healthy people as in Petersen et al., J
Cardiovasc Magn Reson 2017, prevalences of the six diagnoses as in the papers that use them.

How strongly a disease shows in the heart is drawn apart from the diagnosis. Without that
incomplete expression every diagnosis could be read from either modality almost without error.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmark.cohorts.cohort import DIAGNOSES
from benchmark.cohorts.simulated.presets import PRESETS, Preset

BLOCK = 100
"""People simulated together; always all of them, so that nobody depends on how many there are."""


class Stream(enum.IntEnum):
    """Independent streams of random numbers; ECG and images share none."""

    LATENT = 0
    MEASUREMENT = 1
    ECG = 2
    ECG_NOISE = 3
    CINE = 4
    CINE_NOISE = 5
    SHAPE = 6
    ATRIA = 7
    AORTA = 8


class Lot(enum.IntEnum):
    """Sets of people of one population that have no random number in common."""

    COHORT = 0
    STRANGERS = 1
    """Whose hearts are shown in place of the cohort's own by some presets."""
    REFERENCE = 2
    """People outside every cohort, from whom ceilings are learned."""
    REFERENCE_STRANGERS = 3


def generator(
    random_state: int, stream: Stream, index: int, lot: Lot = Lot.COHORT
) -> np.random.Generator:
    """Return the numbers that belong to one stream of one block (or, for noise, one person).

    Philox is counter-based: each (stream, index) of a lot owns 2^128 numbers that no other can
    reach.
    """
    return np.random.Generator(
        np.random.Philox(key=[random_state, int(lot)], counter=[0, 0, index, int(stream)])
    )


PREVALENCE = {"DM": 0.0446, "CAD": 0.0722, "MI": 0.022, "CM": 0.004, "AF": 0.0298, "HF": 0.012}
"""In the order in which they are drawn: later ones depend on earlier ones."""

INTERCEPT = {
    "DM": -3.7605,
    "CAD": -3.6669,
    "MI": -1.6632,
    "CM": -6.1763,
    "AF": -4.7103,
    "HF": -5.1651,
}
"""Log-odds that meet `PREVALENCE`: `derive_intercepts()` with its defaults, rounded."""


@dataclass(frozen=True)
class Latent:
    """One entry per person in every array.

    Volumes in mL, masses in g, ejection fractions in %, heart rate in 1/min, age in years, height
    in cm, weight in kg, body mass index in kg/m2, systolic pressure and pulse pressure in mmHg,
    aortic areas in mm2. Diagnoses and other states are 0 or 1; ``scar`` is the infarct burden from
    0 to 1 in ``territory`` 0 LAD, 1 RCA, 2 LCx; ``ischaemia`` and ``fibrosis`` are burdens from 0
    up.
    """

    male: np.ndarray
    age: np.ndarray
    height: np.ndarray
    weight: np.ndarray
    bmi: np.ndarray
    pressure: np.ndarray
    dm: np.ndarray
    cad: np.ndarray
    mi: np.ndarray
    cm: np.ndarray
    af: np.ndarray
    hf: np.ndarray
    dilated: np.ndarray
    hypertrophic: np.ndarray
    reduced: np.ndarray
    remodelled: np.ndarray
    af_rhythm: np.ndarray
    scar: np.ndarray
    territory: np.ndarray
    ischaemia: np.ndarray
    fibrosis: np.ndarray
    lvedv: np.ndarray
    lvesv: np.ndarray
    lvsv: np.ndarray
    lvef: np.ndarray
    lvco: np.ndarray
    lvm: np.ndarray
    rvedv: np.ndarray
    rvesv: np.ndarray
    rvsv: np.ndarray
    rvef: np.ndarray
    la_max: np.ndarray
    la_min: np.ndarray
    la_size: np.ndarray
    """The standard normal deviate behind ``la_max``, AF and P wave."""
    ra_max: np.ndarray
    ra_min: np.ndarray
    heart_rate: np.ndarray
    pulse_pressure: np.ndarray
    aao_max: np.ndarray
    aao_min: np.ndarray
    dao_max: np.ndarray
    dao_min: np.ndarray

    @property
    def decades(self) -> np.ndarray:
        """Age in decades from 64 years."""
        return (self.age - 64) / 10

    @property
    def diagnoses(self) -> np.ndarray:
        """(people, 6) in the order of `DIAGNOSES`."""
        return np.stack([getattr(self, name.lower()) for name in DIAGNOSES], 1)


def draw_latent(
    random_state: int,
    block: int,
    preset: Preset = PRESETS["default"],
    lot: Lot = Lot.COHORT,
    people: int = BLOCK,
) -> Latent:
    """Draw the cardiac states of one block of people.

    ``people`` is `BLOCK` for a cohort: a block of another size holds other people.
    """
    rng = generator(random_state, Stream.LATENT, block, lot)
    body = _draw_body(rng, people, preset)
    disease = _draw_diseases(rng, body, lambda name, _: INTERCEPT[name])
    heart = _draw_heart(rng, body, disease, preset)
    atria = _draw_atria(generator(random_state, Stream.ATRIA, block, lot), body, heart)
    aorta = _draw_aorta(generator(random_state, Stream.AORTA, block, lot), body)
    states = {name.lower(): values for name, values in disease.items()}
    seen = {name: body[name] for name in body if name not in _UNSEEN}
    return Latent(**seen, **states, **heart, **atria, **aorta)


def derive_intercepts(people: int = 2_000_000, random_state: int = 2_024) -> dict[str, float]:
    """Find by bisection the log-odds that give `PREVALENCE` in a large reference population."""
    rng = generator(random_state, Stream.LATENT, 0, Lot.REFERENCE)
    body = _draw_body(rng, people, PRESETS["default"])
    found: dict[str, float] = {}

    def bisect(name: str, log_odds: np.ndarray) -> float:
        low, high = -25.0, 25.0
        for _ in range(45):
            middle = (low + high) / 2
            if _sigmoid(log_odds + middle).mean() < PREVALENCE[name]:
                low = middle
            else:
                high = middle
        found[name] = (low + high) / 2
        return found[name]

    _draw_diseases(rng, body, bisect)
    return found


_UNSEEN = ("atherosclerosis", "metabolic", "arrhythmic", "size_of_body")


def _draw_body(rng: np.random.Generator, people: int, preset: Preset) -> dict[str, np.ndarray]:
    """Draw what precedes the heart: body, pressure and the liabilities nobody observes."""
    male = (rng.random(people) < 0.48).astype(float)
    z = rng.standard_normal((8, people))
    age = np.clip(64 + 7.6 * z[0], 45, 82) + preset.age
    height = np.where(male > 0, 176 + 6.7 * z[1], 162.5 + 6.2 * z[1])
    bmi = np.where(male > 0, 26.8 * np.exp(0.145 * z[2]), 25.8 * np.exp(0.175 * z[2])) + preset.bmi
    weight = bmi * (height / 100) ** 2
    mosteller = np.sqrt(height * weight / 3600)
    return {
        "male": male,
        "age": age,
        "height": height,
        "weight": weight,
        "bmi": bmi,
        "pressure": 138 + 0.5 * (age - 64) + 4 * (male - 0.5) + 0.9 * (bmi - 26.3) + 18 * z[3],
        "size_of_body": np.log(mosteller / np.where(male > 0, 2.02, 1.74)),
        "atherosclerosis": z[4],
        "metabolic": z[5],
        "arrhythmic": z[6],
        "la_size": z[7],
    }


def _draw_diseases(
    rng: np.random.Generator,
    body: Mapping[str, np.ndarray],
    intercept: Callable[[str, np.ndarray], float],
) -> dict[str, np.ndarray]:
    """Draw the diagnoses in causal order; ``intercept(name, log_odds)`` is asked for each."""
    male, bmi, pressure = body["male"], body["bmi"] - 26.3, body["pressure"] - 138
    decades = (body["age"] - 64) / 10
    disease: dict[str, np.ndarray] = {}

    def normal() -> np.ndarray:
        return rng.standard_normal(male.size)

    def draw(name: str, log_odds: np.ndarray) -> np.ndarray:
        disease[name] = (
            rng.random(male.size) < _sigmoid(log_odds + intercept(name, log_odds))
        ).astype(float)
        return disease[name]

    dm = draw("DM", 0.55 * decades + 0.12 * bmi + 0.35 * male + 0.8 * body["metabolic"])
    cad = draw(
        "CAD",
        0.70 * decades + 0.95 * male + 0.02 * pressure + 0.7 * dm + 0.9 * body["atherosclerosis"],
    )
    mi = draw("MI", np.where(cad > 0, 0.6 * male + 0.5 * body["atherosclerosis"], -np.inf))
    cm = draw("CM", 0.3 * male + 0.2 * decades + normal())
    af = draw(
        "AF",
        0.90 * decades
        + 0.6 * male
        + 0.012 * pressure
        + 0.05 * bmi
        + 0.5 * cad
        + 1.5 * cm
        + 0.9 * body["arrhythmic"]
        + 0.6 * body["la_size"],
    )
    draw(
        "HF",
        0.60 * decades + 1.6 * mi + 2.8 * cm + 1.5 * af + 0.6 * dm + 0.5 * cad + 0.7 * normal(),
    )
    return disease


def _draw_heart(
    rng: np.random.Generator,
    body: Mapping[str, np.ndarray],
    disease: Mapping[str, np.ndarray],
    preset: Preset,
) -> dict[str, np.ndarray]:
    """Draw how the diseases show, then ventricles and rhythm."""
    male, pressure, size_of_body = body["male"], body["pressure"] - 138, body["size_of_body"]
    dm, cad, mi, cm, af, hf = (disease[n] for n in ("DM", "CAD", "MI", "CM", "AF", "HF"))
    decades = (body["age"] - 64) / 10
    people = male.size

    def normal() -> np.ndarray:
        return rng.standard_normal(people)

    def happens(probability: float) -> np.ndarray:
        return (rng.random(people) < probability).astype(float)

    def shows(probability: float) -> np.ndarray:
        return happens(probability * preset.expression)

    expressed = cm * shows(0.6)
    dilated = expressed * happens(0.5)
    hypertrophic = expressed - dilated
    reduced = hf * shows(0.45)
    remodelled = af * shows(0.5)
    af_rhythm = af * shows(0.15)
    old_infarct = mi * shows(0.55) * rng.beta(2, 3, people)
    silent_infarct = 0.5 * (cad - mi) * shows(0.10) * rng.beta(1, 4, people)
    scar = np.clip(old_infarct + silent_infarct + np.abs(0.05 * normal()), 0, 1)
    territory = rng.integers(0, 3, people)
    ischaemia = np.clip(
        cad * shows(0.45) * (0.6 + 0.4 * normal()) + 0.30 * np.abs(normal()), 0, None
    )
    fibrosis = np.abs(0.35 * normal()) + 0.5 * scar + 0.5 * hypertrophic + 0.3 * reduced

    z_size, z_contraction, z_mass, z_rate, z_right = rng.standard_normal((5, people))
    reference = np.where(male > 0, 163.0, 124.0)
    lvedv = reference * np.exp(
        0.85 * size_of_body
        - 0.05 * decades
        + 0.158 * z_size
        - 0.05 * z_rate
        + 0.30 * dilated
        + 0.12 * reduced
        + 0.10 * scar
        - 0.04 * dm
    )
    lvef = np.clip(
        np.where(male > 0, 58.2, 61.2)
        + 4.0 * z_contraction
        - 2.1 * z_size
        - 12 * dilated
        + 3 * hypertrophic
        - 9 * reduced
        - 11 * scar
        - 1.5 * remodelled
        - 0.8 * dm,
        15,
        80,
    )
    lvsv = lvedv * lvef / 100
    lvm = np.where(male > 0, 102.0, 72.0) * np.exp(
        0.55 * size_of_body
        + 0.45 * np.log(lvedv / reference)
        + 0.145 * z_mass
        + 0.0035 * pressure
        + 0.35 * hypertrophic
        + 0.10 * dilated
        + 0.05 * reduced
    )
    rvsv = lvsv * (1 + 0.03 * normal())
    rvef = np.where(male > 0, 54.8, 58.3) + 0.35 * (lvef - 59.3) + 4.6 * z_right
    rvedv = rvsv / np.clip(rvef, 20, 80) * 100
    sinus = 59.0 + 1.2 * (1 - 2 * male) + 9.9 * z_rate + 3 * dm + 4 * reduced
    sinus = np.clip(sinus - 0.25 * (lvef - 59.3), 38, 120)
    fibrillating = np.clip(sinus + 14 + 8 * normal(), 50, 140)
    heart_rate = np.where(af_rhythm > 0, fibrillating, sinus)
    return {
        "dilated": dilated,
        "hypertrophic": hypertrophic,
        "reduced": reduced,
        "remodelled": remodelled,
        "af_rhythm": af_rhythm,
        "scar": scar,
        "territory": territory,
        "ischaemia": ischaemia,
        "fibrosis": fibrosis,
        "lvedv": lvedv,
        "lvesv": lvedv - lvsv,
        "lvsv": lvsv,
        "lvef": lvef,
        "lvco": lvsv * heart_rate / 1000,
        "lvm": lvm,
        "rvedv": rvedv,
        "rvesv": rvedv - rvsv,
        "rvsv": rvsv,
        "rvef": rvsv / rvedv * 100,
        "heart_rate": heart_rate,
    }


def _draw_atria(
    rng: np.random.Generator, body: Mapping[str, np.ndarray], heart: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Draw the volumes of both atria."""
    z_size, z_left, z_right = rng.standard_normal((3, body["male"].size))
    male, decades, size_of_body = body["male"], (body["age"] - 64) / 10, body["size_of_body"]
    remodelled, af_rhythm, reduced = heart["remodelled"], heart["af_rhythm"], heart["reduced"]
    la_max = 64.5 * np.exp(
        0.7 * size_of_body
        + 0.285 * body["la_size"]
        + 0.04 * decades
        + 0.16 * remodelled
        + 0.20 * af_rhythm
        + 0.10 * reduced
    )
    la_ef = 59 - 4.5 * body["la_size"] + 9 * z_left - 4 * remodelled - 16 * af_rhythm
    la_ef = np.clip(la_ef - 4 * reduced, 10, 80)
    ra_max = np.where(male > 0, 85.0, 66.0) * np.exp(
        0.7 * size_of_body
        + 0.275 * (0.5 * body["la_size"] + 0.87 * z_size)
        + 0.12 * remodelled
        + 0.15 * af_rhythm
    )
    ra_ef = np.clip(42.5 - 3 * z_size + 8 * z_right - 12 * af_rhythm, 8, 70)
    return {
        "la_max": la_max,
        "la_min": la_max * (1 - la_ef / 100),
        "ra_max": ra_max,
        "ra_min": ra_max * (1 - ra_ef / 100),
    }


def _draw_aorta(rng: np.random.Generator, body: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Draw the areas of the aorta at the height of the pulmonary artery, and what stretches it."""
    z_stiffness, z_pressure, z_size, z_ascending, z_descending = rng.standard_normal(
        (5, body["male"].size)
    )
    male, pressure, decades = body["male"], body["pressure"] - 138, (body["age"] - 64) / 10
    stiffness = 0.55 * decades + 0.02 * pressure + 0.6 * z_stiffness
    pulse = np.clip(56 + 0.5 * pressure + 3 * decades + 5 * z_pressure, 25, None)
    size = 0.45 * body["size_of_body"] + 0.07 * decades + 0.11 * z_size
    areas = {}
    for name, area, own, distensibility in (
        ("aao", np.where(male > 0, 820.0, 700.0), 0.10 * z_ascending, 1.6e-3),
        ("dao", np.where(male > 0, 480.0, 390.0), 0.08 * z_descending, 2.1e-3),
    ):
        areas[f"{name}_min"] = area * np.exp(size + own)
        stretch = distensibility * np.exp(-0.55 * stiffness) * pulse
        areas[f"{name}_max"] = areas[f"{name}_min"] * (1 + stretch)
    return {"pulse_pressure": pulse, **areas}


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))

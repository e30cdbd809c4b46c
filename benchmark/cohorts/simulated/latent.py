"""The cardiac state that ECG, cine and labels of a simulated person share.

Means and spreads are those of UK Biobank's imaging visit: cine volumes and ECG intervals as in the
ml4h tensor maps, ejection fractions and indexed mass of healthy people as in Petersen et al., J
Cardiovasc Magn Reson 2017, prevalences of the six diagnoses as in the papers that use them.

How strongly a disease shows in the heart is drawn apart from the diagnosis. Without that
incomplete expression every diagnosis could be read from either modality almost without error.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.cohorts.cohort import DIAGNOSES
from benchmark.cohorts.phenotypes import VENTRICULAR10

BLOCK = 100
"""People simulated together; always all of them, so that nobody depends on how many there are."""


class Stream(enum.IntEnum):
    """Independent streams of random numbers; ECG and cine share none."""

    LATENT = 0
    MEASUREMENT = 1
    ECG = 2
    ECG_NOISE = 3
    CINE = 4
    CINE_NOISE = 5


def generator(random_state: int, stream: Stream, index: int) -> np.random.Generator:
    """Return the numbers that belong to one stream of one block (or, for noise, one person).

    Philox is counter-based: each (stream, index) owns 2^128 numbers that no other can reach.
    """
    return np.random.Generator(
        np.random.Philox(key=[random_state, 0], counter=[0, 0, index, int(stream)])
    )


PREVALENCE = {"DM": 0.0446, "CAD": 0.0722, "MI": 0.022, "CM": 0.004, "AF": 0.0298, "HF": 0.012}
"""In the order in which they are drawn: later ones depend on earlier ones."""

INTERCEPT = {
    "DM": -3.7521,
    "CAD": -3.6559,
    "MI": -1.6558,
    "CM": -6.1777,
    "AF": -4.6994,
    "HF": -5.1642,
}
"""Log-odds that meet `PREVALENCE`: `derive_intercepts()` with its defaults, rounded."""

NOISE_OF_LABELS = {
    "LVEDV": 0.05,
    "LVESV": 0.09,
    "LVM": 0.07,
    "RVEDV": 0.07,
    "RVESV": 0.11,
}
"""Coefficients of variation that segmentation adds."""


@dataclass(frozen=True)
class Latent:
    """One entry per person in every array.

    Volumes in mL, masses in g, ejection fractions in %, heart rate in 1/min, age in years, height
    in cm, weight in kg, body mass index in kg/m2, systolic pressure in mmHg. Diagnoses and other
    states are 0 or 1; ``scar`` is the infarct burden from 0 to 1 in ``territory`` 0 LAD, 1 RCA,
    2 LCx; ``ischaemia`` and ``fibrosis`` are burdens from 0 up.
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
    la_size: np.ndarray
    """The standard normal deviate behind ``la_max``, AF and P wave."""
    heart_rate: np.ndarray

    @property
    def decades(self) -> np.ndarray:
        """Age in decades from 64 years."""
        return (self.age - 64) / 10

    @property
    def phenotypes(self) -> np.ndarray:
        """(people, 10) in the order of `VENTRICULAR10`, without measurement noise."""
        return np.stack([getattr(self, name.lower()) for name in VENTRICULAR10], 1)

    @property
    def diagnoses(self) -> np.ndarray:
        """(people, 6) in the order of `DIAGNOSES`."""
        return np.stack([getattr(self, name.lower()) for name in DIAGNOSES], 1)


def concatenate(parts: Sequence[Latent]) -> Latent:
    """Join the people of several blocks."""
    names = [field.name for field in dataclasses.fields(Latent)]
    return Latent(**{n: np.concatenate([getattr(part, n) for part in parts]) for n in names})


def draw_latent(random_state: int, block: int) -> Latent:
    """Draw the cardiac states of one block of `BLOCK` people."""
    rng = generator(random_state, Stream.LATENT, block)
    body = _draw_body(rng)
    disease = _draw_diseases(rng, body, lambda name, _: INTERCEPT[name])
    return _draw_heart(rng, body, disease)


def derive_intercepts(people: int = 2_000_000, random_state: int = 2_024) -> dict[str, float]:
    """Find by bisection the log-odds that give `PREVALENCE` in a large reference population."""
    blocks = range(people // BLOCK)
    rngs = [generator(random_state, Stream.LATENT, block) for block in blocks]
    bodies = [_draw_body(rng) for rng in rngs]
    body = {name: np.concatenate([b[name] for b in bodies]) for name in bodies[0]}
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

    _draw_diseases(generator(random_state, Stream.MEASUREMENT, 0), body, bisect)
    return found


def measure(latent: Latent, random_state: int, block: int) -> np.ndarray:
    """Return the phenotypes as a segmentation would measure them.

    The errors of end-diastolic and end-systolic volume of a ventricle are correlated and stroke
    volume, ejection fraction and output follow from the measured volumes, so that the labels stay
    consistent with each other. The correlations are those that give stroke volume, ejection
    fraction and output the coefficients of variation .07, .045, .08 (left) and .09, .06 (right).

    Returns
    -------
    np.ndarray
        (people, 10) in the order of `VENTRICULAR10`.
    """
    rng = generator(random_state, Stream.MEASUREMENT, block)
    noise = NOISE_OF_LABELS
    measured = {}
    for side, correlation in (("lv", 0.65), ("rv", 0.70)):
        diastole, own = rng.standard_normal((2, latent.age.size))
        systole = correlation * diastole + np.sqrt(1 - correlation**2) * own
        edv = getattr(latent, f"{side}edv") * (1 + noise[f"{side}edv".upper()] * diastole)
        esv = getattr(latent, f"{side}esv") * (1 + noise[f"{side}esv".upper()] * systole)
        measured[f"{side}edv"], measured[f"{side}esv"] = edv, esv
        measured[f"{side}sv"], measured[f"{side}ef"] = edv - esv, 100 * (1 - esv / edv)
    rate, mass = rng.standard_normal((2, latent.age.size))
    heart_rate = latent.heart_rate * (1 + 0.045 * rate)
    measured["lvco"] = measured["lvsv"] * heart_rate / 1000
    measured["lvm"] = latent.lvm * (1 + noise["LVM"] * mass)
    return np.stack([measured[name.lower()] for name in VENTRICULAR10], 1)


def _draw_body(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw what precedes the heart: body, pressure and the liabilities nobody observes."""
    male = (rng.random(BLOCK) < 0.48).astype(float)
    z = rng.standard_normal((8, BLOCK))
    age = np.clip(64 + 7.6 * z[0], 45, 82)
    height = np.where(male > 0, 176 + 6.7 * z[1], 162.5 + 6.2 * z[1])
    bmi = np.where(male > 0, 26.8 * np.exp(0.14 * z[2]), 25.8 * np.exp(0.17 * z[2]))
    pressure = 138 + 0.5 * (age - 64) + 4 * (male - 0.5) + 0.9 * (bmi - 26.3) + 15 * z[3]
    return {
        "male": male,
        "age": age,
        "height": height,
        "bmi": bmi,
        "pressure": pressure,
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
    rng: np.random.Generator, body: Mapping[str, np.ndarray], disease: Mapping[str, np.ndarray]
) -> Latent:
    """Draw how the diseases show, then ventricles, left atrium and rhythm."""
    male, height, bmi, pressure = (body[n] for n in ("male", "height", "bmi", "pressure"))
    dm, cad, mi, cm, af, hf = (disease[n] for n in ("DM", "CAD", "MI", "CM", "AF", "HF"))
    decades = (body["age"] - 64) / 10
    weight = bmi * (height / 100) ** 2
    mosteller = np.sqrt(height * weight / 3600)
    size_of_body = np.log(mosteller / np.where(male > 0, 2.02, 1.74))

    def normal() -> np.ndarray:
        return rng.standard_normal(BLOCK)

    def happens(probability: float) -> np.ndarray:
        return (rng.random(BLOCK) < probability).astype(float)

    expressed = cm * happens(0.6)
    dilated = expressed * happens(0.5)
    hypertrophic = expressed - dilated
    reduced = hf * happens(0.45)
    remodelled = af * happens(0.5)
    af_rhythm = af * happens(0.15)
    old_infarct = mi * happens(0.55) * rng.beta(2, 3, BLOCK)
    silent_infarct = 0.5 * (cad - mi) * happens(0.10) * rng.beta(1, 4, BLOCK)
    scar = np.clip(old_infarct + silent_infarct + np.abs(0.05 * normal()), 0, 1)
    territory = rng.integers(0, 3, BLOCK)
    ischaemia = np.clip(
        cad * happens(0.45) * (0.6 + 0.4 * normal()) + 0.30 * np.abs(normal()), 0, None
    )
    fibrosis = np.abs(0.35 * normal()) + 0.5 * scar + 0.5 * hypertrophic + 0.3 * reduced

    z_size, z_contraction, z_mass, z_rate, z_right = rng.standard_normal((5, BLOCK))
    reference = np.where(male > 0, 163.0, 124.0)
    lvedv = reference * np.exp(
        0.85 * size_of_body
        - 0.05 * decades
        + 0.150 * z_size
        - 0.05 * z_rate
        + 0.30 * dilated
        + 0.12 * reduced
        + 0.10 * scar
        - 0.04 * dm
    )
    lvef = np.clip(
        np.where(male > 0, 57.8, 60.8)
        + 5.2 * z_contraction
        - 1.0 * z_size
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
        + 0.0035 * (pressure - 138)
        + 0.35 * hypertrophic
        + 0.10 * dilated
        + 0.05 * reduced
    )
    rvsv = lvsv * (1 + 0.03 * normal())
    rvef = np.where(male > 0, 54.8, 58.3) + 0.35 * (lvef - 59.3) + 5.6 * z_right
    rvef = np.clip(rvef, 20, 80)
    rvedv = rvsv / rvef * 100
    la_max = 65 * np.exp(
        0.7 * size_of_body
        + 0.24 * body["la_size"]
        + 0.04 * decades
        + 0.16 * remodelled
        + 0.20 * af_rhythm
        + 0.10 * reduced
    )
    sinus = 59.5 + 1.2 * (1 - 2 * male) + 9.6 * z_rate + 3 * dm + 4 * reduced
    sinus = np.clip(sinus - 0.25 * (lvef - 59.3), 38, 120)
    fibrillating = np.clip(sinus + 14 + 8 * normal(), 50, 140)
    heart_rate = np.where(af_rhythm > 0, fibrillating, sinus)
    return Latent(
        male=male,
        age=body["age"],
        height=height,
        weight=weight,
        bmi=bmi,
        pressure=pressure,
        dm=dm,
        cad=cad,
        mi=mi,
        cm=cm,
        af=af,
        hf=hf,
        dilated=dilated,
        hypertrophic=hypertrophic,
        af_rhythm=af_rhythm,
        scar=scar,
        territory=territory,
        ischaemia=ischaemia,
        fibrosis=fibrosis,
        lvedv=lvedv,
        lvesv=lvedv - lvsv,
        lvsv=lvsv,
        lvef=lvef,
        lvco=lvsv * heart_rate / 1000,
        lvm=lvm,
        rvedv=rvedv,
        rvesv=rvedv - rvsv,
        rvsv=rvsv,
        rvef=rvef,
        la_max=la_max,
        la_size=body["la_size"],
        heart_rate=heart_rate,
    )


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))

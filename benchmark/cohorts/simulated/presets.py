"""The populations that can be simulated: one default, and what each of the others changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class Preset:
    """How a population differs from the default one.

    The numbers are factors unless said otherwise; nothing in them depends on the number of people.

    Attributes
    ----------
    summary
        In one line, for people.
    coupling
        How strongly the heart and the body shape the ECG.
    ecg_only
        How much the ECG varies between people for reasons that have nothing to do with the heart.
    expression
        How often a diagnosis shows in the heart; probabilities stop at 1.
    ecg_noise
        Disturbances of the recording.
    image_noise
        Noise of the images.
    label_noise
        Errors of the measured phenotypes.
    age, bmi
        Added to the age (years) and to the body mass index (kg/m2) of everybody.
    random_state
        Of the cohort: presets with equal ones hold the same people in other circumstances.
    recorded, imaged
        Whose heart the ECG and the images show: the person's own, or an unrelated stranger's.
    """

    summary: str
    coupling: float = 1.0
    ecg_only: float = 1.0
    expression: float = 1.0
    ecg_noise: float = 1.0
    image_noise: float = 1.0
    label_noise: float = 1.0
    age: float = 0.0
    bmi: float = 0.0
    random_state: int = 0
    recorded: Literal["own", "stranger"] = "own"
    imaged: Literal["own", "stranger"] = "own"


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "easy": Preset(
            "disease shows more often, the ECG follows the heart more closely, less noise",
            coupling=1.3,
            ecg_only=0.7,
            expression=1.4,
            ecg_noise=0.5,
            image_noise=0.5,
            label_noise=0.5,
        ),
        "default": Preset("people as at UK Biobank's imaging visit"),
        "hard": Preset(
            "disease shows less often, the ECG follows the heart more loosely, more noise",
            coupling=0.7,
            ecg_only=1.3,
            expression=0.6,
            ecg_noise=2.0,
            image_noise=1.5,
            label_noise=1.5,
        ),
        "null": Preset(
            "the ECG is a stranger's: it tells nothing about the person", recorded="stranger"
        ),
        "permuted-pairs": Preset(
            "the images are a stranger's: ECG and labels still belong together", imaged="stranger"
        ),
        "shift": Preset(
            "an external population: older, heavier, recorded with more noise",
            age=5.0,
            bmi=2.0,
            random_state=1,  # external: nobody here has a twin among another preset's people
            ecg_noise=1.5,
            image_noise=1.5,
        ),
    }
)

"""Reading a cohort's artifact, whatever made it."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.cohorts.splits import fraction_rank, split_of

if TYPE_CHECKING:
    import pandas as pd

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
ECG_RATE = 500  # Hz
ECG_SAMPLES = 5000
ECG_MILLIVOLT = 0.005  # one step of the stored int16 is 5 uV, as UK Biobank's devices store it

COVARIATES = ("age", "sex", "height", "weight")
ECG_MEASURES = ("qrs_number", "qrs_duration")  # complexes in 10 s, ms
DIAGNOSES = ("CAD", "AF", "DM", "HF", "CM", "MI")
AS_CODED = MappingProxyType({name: f"{name} as coded" for name in (*DIAGNOSES, "I21")})
"""Diagnoses as published code defines them, to their columns; I21 is another one's infarction."""


class CohortData:
    """Arrays and tables of a cohort, one row per person, read lazily.

    The folder holds ``cohort.json`` (`about`), the arrays and tables below, and ``ids.parquet``,
    mode 0600, with the ``hash_id`` that decides split and label fraction: for real people their
    id, which is nowhere else. Arrays of images a cohort does not have are absent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def _table(self, name: str) -> pd.DataFrame:
        import pandas as pd  # takes longer to import than listing all methods may take

        return pd.read_parquet(self.folder / f"{name}.parquet")

    def _array(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    def has(self, name: str) -> bool:
        """Whether the cohort holds this array."""
        return (self.folder / f"{name}.npy").exists()

    @functools.cached_property
    def about(self) -> dict[str, Any]:
        """``spacing``: mm per pixel of all images, None without any."""
        return json.loads((self.folder / "cohort.json").read_text())

    @functools.cached_property
    def people(self) -> pd.DataFrame:
        """``id`` (SIM-k, or a pseudonym), age (years), sex (1 male), height (cm), weight (kg).

        Where the source measured them, `ECG_MEASURES` of the person's ECG as well.
        """
        return self._table("people")

    @functools.cached_property
    def hash_id(self) -> pd.Series:
        """What split and label fraction are computed from: never shown, logged or written."""
        return self._table("ids")["hash_id"]

    @functools.cached_property
    def phenotypes(self) -> pd.DataFrame:
        """CMR phenotypes in their units, NaN where missing."""
        return self._table("phenotypes")

    @functools.cached_property
    def diagnoses(self) -> pd.DataFrame:
        """Ever diagnosed: 0 or 1, NaN where unknown.

        Where the source has ICD-10 codes, the columns of `AS_CODED` as well.
        """
        return self._table("diagnoses")

    @functools.cached_property
    def ecg(self) -> np.ndarray:
        """(people, 12, 5000) int16 in steps of 5 uV, leads ordered as `LEADS`, memory-mapped."""
        return self._array("ecg")

    @functools.cached_property
    def cine(self) -> np.ndarray:
        """Middle short-axis slice, (people, 1, frames, height, width) uint8, memory-mapped.

        Frame 0 is end-diastole, at the R peak.
        """
        return self._array("cine")

    @functools.cached_property
    def volumes(self) -> np.ndarray:
        """Short-axis stack at ED and ES, (people, 2, slices, height, width) uint8, memory-mapped.

        Slices run from base to apex.
        """
        return self._array("volumes")

    @functools.cached_property
    def long_axis(self) -> np.ndarray:
        """Four-chamber cine, (people, frames, height, width) uint8, memory-mapped."""
        return self._array("long_axis")

    @functools.cached_property
    def masks(self) -> np.ndarray:
        """Truth of ``cine`` at ED and ES, (people, 2, height, width) uint8; simulated people only.

        0 background, 1 left ventricular cavity, 2 myocardium, 3 right ventricular cavity.
        """
        return self._array("masks")

    @functools.cached_property
    def split(self) -> np.ndarray:
        """``train``, ``validation`` or ``test`` per person."""
        return split_of(self.hash_id)

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of one split."""
        return np.flatnonzero(self.split == split)

    def labelled(self, replicate: int, fraction: float) -> np.ndarray:
        """Row numbers of the training people in a label fraction of a replicate."""
        train = self.rows("train")
        if fraction >= 1:
            return train
        return train[fraction_rank(self.hash_id.iloc[train], replicate) < fraction]

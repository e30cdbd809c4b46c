"""Reading a cohort's artifact, whatever made it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.cohorts.splits import fraction_rank, split_of

if TYPE_CHECKING:
    import pandas as pd

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
ECG_RATE = 500  # Hz
ECG_SAMPLES = 5000
ECG_MILLIVOLT = 0.005  # one step of the stored int16 is 5 uV, as UK Biobank's devices store it

COVARIATES = ("age", "sex", "height", "weight")
DIAGNOSES = ("CAD", "AF", "DM", "HF", "CM", "MI")
VENTRICULAR10 = (
    ("LVEDV", "mL"),
    ("LVESV", "mL"),
    ("LVSV", "mL"),
    ("LVEF", "%"),
    ("LVCO", "L/min"),
    ("LVM", "g"),
    ("RVEDV", "mL"),
    ("RVESV", "mL"),
    ("RVSV", "mL"),
    ("RVEF", "%"),
)


class CohortData:
    """Arrays and tables of a cohort, one row per person, read lazily.

    The folder holds ``ecg.npy`` (people, 12, 5000) int16 in steps of 5 uV, leads ordered as
    `LEADS`; ``cine.npy`` (people, slices, frames, height, width) uint8, frame 0 at the R peak;
    ``people.parquet`` (``id`` as shown to people, ``hash_id`` that decides split and fraction,
    covariates), ``phenotypes.parquet`` and ``diagnoses.parquet`` (0, 1 or missing).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def _table(self, name: str) -> pd.DataFrame:
        import pandas as pd  # takes longer to import than listing all methods may take

        return pd.read_parquet(self.folder / f"{name}.parquet")

    @functools.cached_property
    def people(self) -> pd.DataFrame:
        """Ids and covariates: age in years, sex (1 male), height in cm, weight in kg."""
        return self._table("people")

    @functools.cached_property
    def phenotypes(self) -> pd.DataFrame:
        """CMR phenotypes in their units, NaN where missing."""
        return self._table("phenotypes")

    @functools.cached_property
    def diagnoses(self) -> pd.DataFrame:
        """Ever diagnosed: 0 or 1, NaN where unknown."""
        return self._table("diagnoses")

    @functools.cached_property
    def ecg(self) -> np.ndarray:
        """(people, 12, 5000) int16, memory-mapped."""
        return np.load(self.folder / "ecg.npy", mmap_mode="r")

    @functools.cached_property
    def cine(self) -> np.ndarray:
        """(people, slices, frames, height, width) uint8, memory-mapped."""
        return np.load(self.folder / "cine.npy", mmap_mode="r")

    @functools.cached_property
    def split(self) -> np.ndarray:
        """``train``, ``validation`` or ``test`` per person."""
        return split_of(self.people["hash_id"])

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of one split."""
        return np.flatnonzero(self.split == split)

    def labelled(self, replicate: int, fraction: float) -> np.ndarray:
        """Row numbers of the training people in a label fraction of a replicate."""
        train = self.rows("train")
        if fraction >= 1:
            return train
        return train[fraction_rank(self.people["hash_id"].iloc[train], replicate) < fraction]

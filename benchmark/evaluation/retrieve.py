"""Retrieval of similar patients as a stage: one similarity product, every phenotype at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmark.api import Cohort, Context, Predictions, Task
from benchmark.cohorts.cohort import CohortData
from benchmark.evaluation.embed import Embed
from benchmark.evaluation.retrieval import retrieve
from benchmark.stage import Stage

ARRAYS = ("hits", "rank", "matches", "gallery")


@dataclass(frozen=True, kw_only=True)
class Retrieve(Stage):
    """Rank the test people for every test person.

    ``ecg-cmr``: query the ECG and gallery the CMR, both in the shared space, with the own scan
    excluded and, beside it, included, and how near the own scan itself is. Any other modality:
    query and gallery are the pooled features of that modality, centred on the training mean, the
    person themself excluded.
    """

    version: ClassVar[int] = 2
    threads: ClassVar[int] = 2
    embedding: Embed
    modality: str
    task: Task

    fraction: ClassVar[float] = 1.0

    @property
    def cohort(self) -> Cohort:
        """The cohort the features belong to."""
        return self.embedding.method.cohort

    @property
    def label(self) -> str:
        """Say whose features rank, and over which modalities."""
        return f"Retrieve of {self.embedding.method.label}, {self.modality}"

    @property
    def group(self) -> str:
        """List retrievals together."""
        return "Retrieve"

    def run(self, context: Context) -> None:
        """Leave the arrays of `benchmark.evaluation.retrieval.retrieve`."""
        cohort = CohortData(context.open(self.cohort))
        folder = context.open(self.embedding)
        test = cohort.rows("test")
        phenotypes = self.task.targets(cohort).to_numpy(np.float64)[test]
        sigma = np.nanstd(phenotypes, axis=0)
        if self.modality == "ecg-cmr":
            query = np.load(folder / "shared_ecg.npy")[test]
            gallery = np.load(folder / "shared_cmr.npy")[test]
        else:
            features = np.load(folder / f"{self.modality}.npy")
            query = gallery = features[test] - features[cohort.rows("train")].mean(0)
        for suffix in self.suffixes:
            found = retrieve(query, gallery, phenotypes, sigma=sigma, exclude_self=not suffix)
            for name in ARRAYS:
                np.save(context.out / f"{name}{suffix}.npy", found[name])
            np.save(context.out / f"ties{suffix}.npy", found["ties"])
        if self.modality == "ecg-cmr":
            np.save(context.out / "own.npy", found["own"])

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Own scan excluded (no suffix) and, across modalities, included (``+self``)."""
        return ("", "+self") if self.modality == "ecg-cmr" else ("",)

    def predictions(self, folder: Path, cohort: CohortData) -> Predictions:
        """Return the arrays per test person."""
        arrays = {
            f"{name}{suffix}": np.load(folder / f"{name}{suffix}.npy")
            for suffix in self.suffixes
            for name in ARRAYS
        }
        if self.modality == "ecg-cmr":
            arrays["own"] = np.load(folder / "own.npy")
        return Predictions(self.task.names, arrays)

    def estimate(self) -> tuple[float, float]:
        """Return about a second."""
        return 1.0, 1e6

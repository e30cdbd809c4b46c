"""Cardiovascular disease, by two definitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.api import Metric, Task
from benchmark.cohorts.cohort import AS_CODED, DIAGNOSES
from benchmark.evaluation.metrics import AUROC

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class CVD(Task):
    """Ever diagnosed with each of six diseases, natural prevalence, one AUROC each.

    The clean definition: CAD I20-I25, AF I48, DM E10-E14, HF I50, CM I42, MI I21-I22, by prefix of
    the ICD-10 code, from hospital stays and any other source.
    """

    name: ClassVar[str] = "cvd"
    kind: ClassVar[str] = "classification"
    title: ClassVar[str] = "Cardiovascular disease (clean definition)"
    target_names: ClassVar[tuple[str, ...]] = DIAGNOSES
    metrics: ClassVar[tuple[Metric, ...]] = (AUROC(),)
    primary: ClassVar[Mapping[str, str]] = {"ecg": "AUROC"}
    reference: ClassVar[Mapping[str, str]] = {"ecg": "mae", "cmr": "cmr-mae"}
    goal: ClassVar[Mapping[str, str]] = {"ecg": "cmr-supervised"}
    confirmatory: ClassVar[bool] = True
    minimum_training: ClassVar[int] = 2

    def targets(self, cohort: Any) -> pd.DataFrame:
        """Return the diagnoses."""
        return cohort.diagnoses[list(self.names)]


@dataclass(frozen=True, kw_only=True)
class CVDAsCoded(CVD):
    """The diseases as the papers' code defines them, for comparison with what they print.

    CAD, AF, HF, CM and MI as in the code of Alvarez-Florez et al. 2026: hospital codes of four
    characters as they stand (I200-I259, I480-I489, I500-I509, I420-I429), which misses a bare I48,
    and MI is I25, chronic ischaemic disease. DM, which that code lacks, is read in its manner
    (E100-E149); its sudden cardiac death (I46, and the tachycardia I47) is left out. I21 is the
    infarction of the code of Ding et al. 2024, a first occurrence from any source; its AF, HF and
    CM are those of the clean definition. All need ICD-10 codes, which simulated people do not have.
    """

    name: ClassVar[str] = "cvd-as-coded"
    title: ClassVar[str] = "Cardiovascular disease (as the papers' code defines it)"
    target_names: ClassVar[tuple[str, ...]] = tuple(AS_CODED)
    confirmatory: ClassVar[bool] = False
    supervision: ClassVar[str] = "phenotype"
    needs: ClassVar[tuple[str, ...]] = ("icd10",)

    def targets(self, cohort: Any) -> pd.DataFrame:
        """Return the diagnoses by their names."""
        columns = [AS_CODED[name] for name in self.names]
        return cohort.diagnoses[columns].set_axis(list(self.names), axis=1)

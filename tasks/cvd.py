"""Cardiovascular disease."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.api import Metric, Task
from benchmark.evaluation.metrics import AUROC

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class CVD(Task):
    """Ever diagnosed with each of six diseases, natural prevalence, one AUROC each.

    CAD I20-I25, AF I48, DM E10-E14, HF I50, CM I42, MI I21-I22, by prefix of the ICD-10 code.
    """

    name: ClassVar[str] = "cvd"
    kind: ClassVar[str] = "classification"
    title: ClassVar[str] = "Cardiovascular disease"
    target_names: ClassVar[tuple[str, ...]] = ("CAD", "AF", "DM", "HF", "CM", "MI")
    metrics: ClassVar[tuple[Metric, ...]] = (AUROC(),)
    primary: ClassVar[Mapping[str, str]] = {"ecg": "AUROC"}
    reference: ClassVar[Mapping[str, str]] = {"ecg": "mae"}
    minimum_training: ClassVar[int] = 2

    def targets(self, cohort: Any) -> pd.DataFrame:
        """Return the diagnoses."""
        return cohort.diagnoses[list(self.names)]

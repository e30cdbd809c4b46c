"""CMR phenotypes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.api import Metric, Task
from benchmark.cohorts.phenotypes import UNITS, VENTRICULAR10
from benchmark.evaluation.metrics import R2, PearsonR

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Phenotype(Task):
    """The ten ventricular phenotypes of PTACL, UK Biobank fields 24100-24109.

    R2 is 1 - SSE/SST about the test mean, never the squared correlation.
    """

    name: ClassVar[str] = "phenotype"
    kind: ClassVar[str] = "regression"
    title: ClassVar[str] = "CMR phenotypes"
    target_names: ClassVar[tuple[str, ...]] = VENTRICULAR10
    units: ClassVar[Mapping[str, str]] = {name: UNITS[name] for name in VENTRICULAR10}
    metrics: ClassVar[tuple[Metric, ...]] = (R2(), PearsonR())
    primary: ClassVar[Mapping[str, str]] = {"ecg": "R2"}
    reference: ClassVar[Mapping[str, str]] = {"ecg": "mae"}
    needs: ClassVar[tuple[str, ...]] = ("cmr",)
    minimum_training: ClassVar[int] = 10

    def targets(self, cohort: Any) -> pd.DataFrame:
        """Return the phenotypes in their units."""
        return cohort.phenotypes[list(self.target_names)]

"""What an ECG tells of its person and of itself: sex, age, and its complexes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.api import Metric, Task
from benchmark.cohorts.cohort import ECG_MEASURES
from benchmark.evaluation.metrics import AUROC, R2, PearsonR

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Demographics(Task):
    """Age, and number and width of the QRS complexes of the ECG.

    The probe by which encoders of different size were compared in Alvarez-Florez et al. 2026,
    Table 2. Complexes are those that the device counted and measured (UK Biobank fields 22338 and
    12340), or the ones that were simulated; a cohort without them has ages alone.
    """

    name: ClassVar[str] = "demographics"
    kind: ClassVar[str] = "regression"
    title: ClassVar[str] = "Age and QRS complexes"
    target_names: ClassVar[tuple[str, ...]] = ("age", *ECG_MEASURES)
    units: ClassVar[Mapping[str, str]] = {
        "age": "years",
        "qrs_number": "in 10 s",
        "qrs_duration": "ms",
    }
    metrics: ClassVar[tuple[Metric, ...]] = (R2(), PearsonR())
    primary: ClassVar[Mapping[str, str]] = {"ecg": "R2"}
    reference: ClassVar[Mapping[str, str]] = {"ecg": "mae", "cmr": "cmr-mae"}
    supervision: ClassVar[str] = "phenotype"
    given: ClassVar[tuple[str, ...]] = ("covariates",)
    minimum_training: ClassVar[int] = 10

    def targets(self, cohort: Any) -> pd.DataFrame:
        """Return the columns of the people's table, NaN for those it does not have."""
        return cohort.people.reindex(columns=list(self.names)).astype("float64")


@dataclass(frozen=True, kw_only=True)
class Sex(Demographics):
    """Sex (1 male), the classification of the same table."""

    name: ClassVar[str] = "demographics-sex"
    kind: ClassVar[str] = "classification"
    title: ClassVar[str] = "Sex"
    target_names: ClassVar[tuple[str, ...]] = ("sex",)
    units: ClassVar[Mapping[str, str]] = {}
    metrics: ClassVar[tuple[Metric, ...]] = (AUROC(),)
    primary: ClassVar[Mapping[str, str]] = {"ecg": "AUROC"}
    minimum_training: ClassVar[int] = 2

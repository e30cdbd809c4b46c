"""Findings of an ECG reader and of an echocardiographer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.api import Metric, Task
from benchmark.evaluation.metrics import AUROC

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Findings(Task):
    """Whichever of these findings a cohort knows, one AUROC each.

    Of the ECG, as in CODE-15% (Ribeiro et al. 2020): first-degree AV block, right and left bundle
    branch block, sinus bradycardia (below 60 a minute) and tachycardia (above 100). Of the heart,
    as in EchoNext (Elias and Finer 2025): ejection fraction up to 45%, a wall of 13 mm or more.
    People without such labels have rates from their measured ECG, and the others from their CMR.
    """

    name: ClassVar[str] = "findings"
    kind: ClassVar[str] = "classification"
    title: ClassVar[str] = "Findings of ECG readers and echocardiographers"
    target_names: ClassVar[tuple[str, ...]] = (
        *("1dAVb", "RBBB", "LBBB", "SB", "ST"),
        *("low-EF", "thick-wall"),
    )
    metrics: ClassVar[tuple[Metric, ...]] = (AUROC(),)
    primary: ClassVar[Mapping[str, str]] = {"ecg": "AUROC"}
    reference: ClassVar[Mapping[str, str]] = {"ecg": "mae"}
    minimum_training: ClassVar[int] = 2

    def targets(self, cohort: Any) -> pd.DataFrame:
        """Return 1, 0, or NaN where nothing is known."""
        import pandas as pd

        known = cohort.diagnoses.reindex(columns=list(self.target_names)).astype(float)
        rate = 6 * cohort.people.get("qrs_number", pd.Series(float("nan"), known.index))
        ejection = cohort.phenotypes["LVEF"]
        walls = cohort.phenotypes.filter(regex=r"^WT_\d+$").max(axis=1)
        measured = {
            "SB": (rate < 60).where(rate.notna()),
            "ST": (rate > 100).where(rate.notna()),
            "low-EF": (ejection <= 45).where(ejection.notna()),
            "thick-wall": (walls >= 13).where(walls.notna()),
        }
        return known.fillna(pd.DataFrame(measured).astype(float))[list(self.names)]

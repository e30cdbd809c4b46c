"""CMR phenotypes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.api import Metric, Task
from benchmark.cohorts.phenotypes import PHENOTYPES, TARGET_GROUPS, UNITS
from benchmark.evaluation.metrics import R2, PearsonR

if TYPE_CHECKING:
    import pandas as pd

GROUPS = {
    group: tuple(p.name for p in PHENOTYPES if p.group == group)
    for group in dict.fromkeys(p.group for p in PHENOTYPES)
}


@dataclass(frozen=True, kw_only=True)
class Phenotype(Task):
    """The ten ventricular phenotypes of PTACL, UK Biobank fields 24100-24109.

    R2 is 1 - SSE/SST about the test mean, never the squared correlation.
    """

    name: ClassVar[str] = "phenotype"
    kind: ClassVar[str] = "regression"
    title: ClassVar[str] = "CMR phenotypes"
    target_names: ClassVar[tuple[str, ...]] = TARGET_GROUPS["ventricular10"]
    units: ClassVar[Mapping[str, str]] = UNITS
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = GROUPS
    metrics: ClassVar[tuple[Metric, ...]] = (R2(), PearsonR())
    primary: ClassVar[Mapping[str, str]] = {"ecg": "R2"}
    reference: ClassVar[Mapping[str, str]] = {"ecg": "mae", "cmr": "cmr-mae"}
    goal: ClassVar[Mapping[str, str]] = {"ecg": "cmr-supervised"}
    confirmatory: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("cmr",)
    minimum_training: ClassVar[int] = 10

    def targets(self, cohort: Any) -> pd.DataFrame:
        """Return the phenotypes in their units."""
        return cohort.phenotypes[list(self.names)]


@dataclass(frozen=True, kw_only=True)
class ShortAxisPhenotype(Phenotype):
    """The 61 phenotypes that the short axis shows, MMCL's (Turgut et al. 2025, Table V)."""

    name: ClassVar[str] = "phenotype-sax61"
    title: ClassVar[str] = "CMR phenotypes of the short axis"
    target_names: ClassVar[tuple[str, ...]] = TARGET_GROUPS["sax61"]
    confirmatory: ClassVar[bool] = False
    supervision: ClassVar[str] = "phenotype"


@dataclass(frozen=True, kw_only=True)
class EveryPhenotype(Phenotype):
    """All 82 phenotypes of UK Biobank, ECCL's (Ding et al., MICCAI 2024, Table 1)."""

    name: ClassVar[str] = "phenotype-all82"
    title: ClassVar[str] = "All CMR phenotypes"
    target_names: ClassVar[tuple[str, ...]] = TARGET_GROUPS["all82"]
    confirmatory: ClassVar[bool] = False
    supervision: ClassVar[str] = "phenotype"


@dataclass(frozen=True, kw_only=True)
class GlobalPhenotype(Phenotype):
    """The ten and the global wall thickness and strains: Alvarez-Florez et al. 2026, its code."""

    name: ClassVar[str] = "phenotype-global13"
    title: ClassVar[str] = "Global CMR phenotypes"
    target_names: ClassVar[tuple[str, ...]] = TARGET_GROUPS["global13"]
    confirmatory: ClassVar[bool] = False
    supervision: ClassVar[str] = "phenotype"

"""Age, sex, height and weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchmark.api import Method, TrainingPeople, Variant, View
from benchmark.cohorts.views import Covariates

if TYPE_CHECKING:
    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class Tabular(Method):
    """Gradient-boosted trees on age, sex, height and weight, without any ECG.

    MMCL's tabular reference (Turgut et al. 2025, Table I). For retrieval, the z-scored covariates
    are the features.
    """

    paper: ClassVar[str] = "Turgut et al., Medical Image Analysis 101 (2025) 103451"
    variants: ClassVar[Mapping[str, Variant]] = {
        "tabular": Variant(tracks=("harmonised",), role="reference"),
        "tabular@mmcl": Variant(
            tracks=("paper",),
            role="reference",
            protocol="tabular",
            summary="Gradient-boosted trees on age, sex, height and weight, MMCL's search.",
        ),
    }
    head: ClassVar[str] = "xgboost"

    def views(self) -> dict[str, View]:
        """Read the covariates."""
        return {"covariates": Covariates(cohort=self.cohort)}

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make the z-score."""
        from benchmark.encoders import Encoders
        from methods.blocks.linear_map import LinearMap

        (width,) = shapes["covariates"]
        return Encoders(covariates=LinearMap(width, width))

    def fit(self, encoders: Encoders, people: TrainingPeople) -> None:
        """Scale by the training people's mean and SD; a missing value becomes the mean."""
        x = people.view("covariates").astype(np.float64)
        deviation = np.nanstd(x, axis=0)
        encoders.covariates.set(np.nanmean(x, axis=0), np.diag(1 / np.maximum(deviation, 1e-9)))

"""What methods see of the person: age, sex, height and weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchmark.cohorts.views.blockwise import BlockwiseView

if TYPE_CHECKING:
    from benchmark.cohorts.cohort import CohortData


@dataclass(frozen=True, kw_only=True)
class Covariates(BlockwiseView):
    """Age (years), sex (1 male), height (cm) and weight (kg), NaN where missing."""

    modality: ClassVar[str] = "covariates"
    block: ClassVar[int] = 100_000

    @property
    def shape(self) -> tuple[int, ...]:
        """One number per covariate."""
        return (4,)

    def entries(self, data: CohortData, rows: slice) -> np.ndarray:
        """Read the table of people."""
        from benchmark.cohorts.cohort import COVARIATES

        return data.people[list(COVARIATES)].to_numpy(np.float32, na_value=np.nan)[rows]

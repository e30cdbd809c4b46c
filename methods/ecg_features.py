"""Hand-made ECG features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchmark.api import Method, TrainingPeople, Variant, View
from benchmark.cohorts.views import BeatFeatures

if TYPE_CHECKING:
    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class ECGFeatures(Method):
    """Principal components of the median beat, heart rate and intervals; nothing is learned.

    A learned representation that does not beat this reference has shown nothing. Components are
    those of the training people, whitened; beats keep their absolute voltage.
    """

    variants: ClassVar[Mapping[str, Variant]] = {
        "ecg-features": Variant(tracks=("harmonised",), role="reference")
    }
    components: int = 80

    def views(self) -> dict[str, View]:
        """Read the median beat with rate and intervals behind it."""
        return {"ecg": BeatFeatures(cohort=self.cohort)}

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make the projection onto components, with the scalars passed through."""
        from benchmark.encoders import Encoders
        from methods.blocks.linear_map import LinearMap

        (width,) = shapes["ecg"]
        return Encoders(ecg=LinearMap(width, self.components + BeatFeatures.SCALARS))

    def fit(self, encoders: Encoders, people: TrainingPeople) -> None:
        """Find the components on the training people."""
        x = people.view("ecg").astype(np.float64)
        mean = np.nanmean(x, axis=0)
        centred = np.nan_to_num(x - mean)
        beat = x.shape[1] - BeatFeatures.SCALARS
        _, scale, axes = np.linalg.svd(centred[:, :beat], full_matrices=False)
        kept = min(self.components, int((scale > 1e-9 * scale[0]).sum()))
        matrix = np.zeros((x.shape[1], self.components + BeatFeatures.SCALARS))
        matrix[:beat, :kept] = axes[:kept].T / (scale[:kept] / np.sqrt(len(x)))
        deviation = np.maximum(centred[:, beat:].std(axis=0), 1e-9)
        matrix[beat:, self.components :] = np.diag(1 / deviation)
        encoders.ecg.set(mean, matrix)

"""A CMR encoder of one cardiac phase, trained on what the phase shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.api import Batch, Recipe
from benchmark.stage import UNSET, Spec
from methods.blocks.augment import DUAL_CMR_AUGMENT, CMRAugment
from methods.blocks.bases import DUAL_ADAMW, CMRMethod
from methods.blocks.image_backbones import PhasesResNet3D

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from benchmark.encoders import Encoders

TARGETS = {
    "ed": ("LVEDV", "LVM", "RVEDV"),
    "es": ("LVEDV", "LVESV", "LVEF", "RVEDV", "RVESV"),
    "cine": ("LVEDV", "LVESV", "LVEF", "LVM", "RVEDV", "RVESV"),
}
"""Phenotypes by phase."""


@dataclass(frozen=True, kw_only=True)
class PhaseSupervised(CMRMethod):
    """The CMR encoder of one phase, or of the cine, trained on volumes and mass.

    Alvarez-Florez et al., SPIE Medical Imaging 2026: squared error of z-scored phenotypes. Only the
    training people inside the label fraction enter.

    The paper names volumes, mass and strain without a list. `TARGETS` are those of its code, by
    phase: the one published source, and what a still image of that phase can show; the cine's are
    unstated, here their union. The batch of 64 is its code's too. Departures: random initial
    weights, where the code starts the networks from films (3D) and photographs (2D); labels of
    slices and stacks are read from the features themselves, there through one more linear layer of
    768; single precision, there half.
    """

    paper: ClassVar[str] = "Alvarez-Florez et al., SPIE Medical Imaging 2026"
    kind: ClassVar[str] = "cmr-pretraining"

    fraction: float = UNSET
    cmr_encoder: Spec = PhasesResNet3D(phases=("ed",))
    cmr_augment: CMRAugment = DUAL_CMR_AUGMENT
    recipe: Recipe = DUAL_ADAMW.replace(epochs=200, warmup=40 / 200)

    @property
    def phase(self) -> str:
        """``ed``, ``es`` or ``cine``."""
        (phase,) = getattr(self.cmr_encoder, "phases", ("cine",))
        return phase

    @property
    def group(self) -> str:
        """Name with the phase: plans hold several."""
        return f"{type(self).__name__} {self.phase}"

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make encoder and output layer."""
        from benchmark.engine.supervision import Supervision

        encoders, targets = super().build(shapes), len(TARGETS[self.phase])
        encoders.output = Supervision(self.cmr_encoder.width, targets, classification=False)
        return encoders

    def labels(self, cohort: Any) -> pd.DataFrame:
        """Learn the phenotypes of the phase."""
        return cohort.phenotypes[list(TARGETS[self.phase])]

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Squared error of the observed phenotypes."""
        features = encoders.cmr(self.cmr_input(batch)).pooled
        return {"supervised": encoders.output.loss(features, batch.labels)}

"""The supervised CMR network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Method, Recipe, Variant, View
from methods.blocks.augment import CMRAugment
from methods.blocks.backbones import CMRResNet50, CMRSwinT

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class CMRSupervised(Method):
    """ResNet50 trained from random weights on the images and the labels of the task itself.

    MMCL's imaging baseline (Turgut et al. 2025, Tables I, V and VII): end-diastole, end-systole and
    the frame between them as channels. What the images tell, beside what the ECG tells of it. All
    learning happens in the ``finetune`` head, so the method itself has nothing to train.
    """

    paper: ClassVar[str] = "Turgut et al., Medical Image Analysis 101 (2025) 103451"
    variants: ClassVar[Mapping[str, Variant]] = {
        "cmr-supervised": Variant(tracks=("harmonised",), role="reference")
    }
    head: ClassVar[str] = "finetune"

    cmr_encoder: CMRResNet50 | CMRSwinT = CMRResNet50()
    cmr_augment: CMRAugment = CMRAugment()
    recipe: Recipe = Recipe()

    def views(self) -> dict[str, View]:
        """Read the CMR view of the encoder."""
        return {"cmr": self.cmr_encoder.view(self.cohort)}

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make the untrained network."""
        from benchmark.encoders import Encoders

        return Encoders(cmr=self.cmr_encoder.build())

    def cmr_input(self, batch: Batch) -> torch.Tensor:
        """Return the augmented images."""
        return self.cmr_augment(batch.cmr) if batch.training else batch.cmr

"""A CMR encoder trained on labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Recipe
from methods.blocks.augment import ECCL_CMR_AUGMENT, CMRAugment
from methods.blocks.backbones import CMRViT
from methods.blocks.bases import CMRMethod, LearnsTask, scaled_rate
from methods.blocks.image_backbones import CMRSwinT, FramesNetwork

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class CMRLabelled(LearnsTask, CMRMethod):
    """The CMR encoder trained on the targets of the task, as ECCL starts from it.

    Ding et al., MICCAI 2024, section 2.1: the encoder that guides the ECG later on learns first
    what the images say about the very labels, 82 phenotypes together or one disease. Only the
    training people inside the label fraction enter. Batch, rates and decay are the published
    code's, with its AdamW and 400 epochs where the text has Adam and 200.

    Departures: the round is chosen by the validation loss, there by correlation or AUROC with a
    tolerance of 0.015. The harmonised track alone: its transformer, and all diseases in one model
    under a weighted loss, there one model each whose negatives pass in chunks.
    """

    paper: ClassVar[str] = "Ding et al., MICCAI 2024"
    kind: ClassVar[str] = "cmr-pretraining"

    cmr_encoder: FramesNetwork | CMRViT = CMRSwinT()
    cmr_augment: CMRAugment = ECCL_CMR_AUGMENT
    recipe: Recipe = Recipe(
        epochs=400,
        batch_size=128,
        learning_rate=scaled_rate(1e-6, 128),
        weight_decay=0.05,
        patience=10,
        balance="chunks",
    )

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make encoder and output layer."""
        encoders = super().build(shapes)
        encoders.output = self.output(encoders.cmr.width)
        return encoders

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Cross-entropy or squared error over the observed targets."""
        features = encoders.cmr(self.cmr_input(batch)).pooled
        return {"supervised": encoders.output.loss(features, batch.labels)}

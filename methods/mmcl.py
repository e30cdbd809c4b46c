"""Multimodal contrastive learning of ECG and CMR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Recipe, Variant
from benchmark.stage import Stage
from methods.blocks.backbones import CMRViT
from methods.blocks.bases import TwoTower
from methods.cmr_labelled import CMRLabelled
from methods.cmr_simclr import CMRSimCLR
from methods.mae import MAE

if TYPE_CHECKING:
    import torch
    from torch import nn

    from benchmark.encoders import Encoders

# End-diastole, the frame between and end-systole of the middle slice, frames as depth: every
# harmonised CMR encoder is the same transformer, and only its patch embedding fits the view.
THREE_PHASES = CMRViT(frames=3, patch=(1, 12, 12))


@dataclass(frozen=True, kw_only=True)
class MMCL(TwoTower):
    """Masked ECG modelling and CMR SimCLR, then a CLIP loss between the pair.

    Turgut et al. 2025, sections 3.1-3.3. Both encoders stay trainable. ``image_weight`` is lambda,
    the weight of the image-anchored term. Without masked data modelling (``mmcl-wo-mdm``) the ECG
    encoder starts from random weights; the image encoder is pretrained in both.

    Departures: the image encoder is the track's transformer, the paper's a ResNet50; every pair is
    augmented, the paper's with probability 0.95; features are pooled after the encoder's own norm,
    without a fresh one or drop path; AdamW as the paper says, where its code has Adam.
    """

    paper: ClassVar[str] = "Turgut et al., Medical Image Analysis 101 (2025) 103451"
    variants: ClassVar[Mapping[str, Variant]] = {
        "mmcl": Variant(tracks=("harmonised",)),
        "mmcl-wo-mdm": Variant(
            {"ecg": None},
            tracks=("harmonised",),
            summary="MMCL without masked data modelling: a random ECG encoder is aligned.",
        ),
        "mmcl-permuted-pairs": Variant(
            {"permuted": True},
            tracks=("harmonised",),
            role="control",
            summary="MMCL whose images belong to somebody else: nothing can be learned from them.",
        ),
        "mmcl-label-frozen": Variant(
            {"cmr": CMRLabelled(cmr_encoder=THREE_PHASES), "frozen_cmr": True},
            tracks=("harmonised",),
            role="control",
            summary="MMCL towards a frozen CMR encoder trained on labels: ECCL's guide alone.",
        ),
    }

    ecg: Stage | None = MAE()
    cmr: Stage = CMRSimCLR(cmr_encoder=THREE_PHASES)
    cmr_encoder: CMRViT = THREE_PHASES
    temperature: float = 0.1
    image_weight: float = 0.75
    permuted: bool = False
    frozen_cmr: bool = False
    recipe: Recipe = Recipe(epochs=300, batch_size=256, learning_rate=1e-4, weight_decay=1e-4)

    def initial_weights(self) -> dict[str, Stage]:
        """Start from masked data modelling (ECG) and SimCLR (CMR)."""
        return {"cmr": self.cmr} if self.ecg is None else {"ecg": self.ecg, "cmr": self.cmr}

    def frozen(self, encoders: Encoders) -> list[nn.Module]:
        """Nothing, unless the CMR encoder is a guide that was trained on labels."""
        return [encoders.cmr] if self.frozen_cmr else []

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Equations 2-4: the two directions of the CLIP loss, weighted by lambda."""
        import torch

        from methods.blocks.losses import clip_loss

        image = encoders.project_cmr(encoders.cmr(self.cmr_input(batch)).pooled)
        ecg = encoders.project_ecg(encoders.ecg(self.ecg_input(batch)).pooled)
        own = None
        if self.permuted:
            # Batches are shuffled: everybody meets a stranger. The own image must not be among the
            # negatives: the one image that is never the partner would tell whose it is.
            image = image.roll(1, 0)
            own = torch.eye(len(ecg), dtype=torch.bool, device=ecg.device).roll(1, 0)
        return {"clip": clip_loss(image, ecg, self.temperature, self.image_weight, own)}

"""Multimodal contrastive learning of ECG and CMR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Recipe, Variant
from benchmark.stage import Stage
from methods.blocks.augment import (
    MMCL_CMR_AUGMENT,
    MMCL_ECG_AUGMENT,
    CMRAugment,
    ECGAugment,
)
from methods.blocks.backbones import ECGViT
from methods.blocks.bases import MMCL_ADAM, MMCL_CONTRASTIVE_ECG, TwoTower
from methods.blocks.image_backbones import CMRResNet50, CMRViTB16
from methods.cmr_labelled import CMRLabelled
from methods.cmr_simclr import CMRSimCLR
from methods.mae import MAE

if TYPE_CHECKING:
    import torch
    from torch import nn

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class MMCL(TwoTower):
    """Masked ECG modelling and CMR SimCLR, then a CLIP loss between the pair.

    Turgut et al. 2025, sections III and IV-C (arXiv 2308.05764). Both encoders stay trainable;
    either modality of a pair is augmented with probability 0.95. ``image_weight`` is lambda, the
    weight of the image-anchored term. Without masked data modelling (``mmcl-wo-mdm``) the ECG
    encoder starts from random weights and learned positions; the image encoder is pretrained in
    both, and so is the ViT-B/16 of ``mmcl-vit``, with the settings of the ResNet50.

    Of several values tried, the paper does not say which it kept: temperature 0.1, lambda 0.75 and
    learning rate 1e-4 are those of its code's launch scripts, 3e-4 without masked data modelling
    declared. Adam with coupled decay as its code has it, where the paper says AdamW.

    Departure: the learning rate follows updates, there epochs, the first at 0. The harmonised track
    alone reads the three phases with its transformer and the features of both halves of the ECG,
    augments every pair, pools after the encoder's own norm, drops no paths, and has AdamW.
    """

    paper: ClassVar[str] = "Turgut et al., Medical Image Analysis 101 (2025) 103451"
    variants: ClassVar[Mapping[str, Variant]] = {
        "mmcl": Variant(protocol="mmcl"),
        "mmcl-wo-mdm": Variant(
            {
                "ecg": None,
                "ecg_encoder": MMCL_CONTRASTIVE_ECG,
                "recipe": MMCL_ADAM.replace(learning_rate=3e-4),
            },
            summary="MMCL without masked data modelling: a random ECG encoder is aligned.",
            protocol="mmcl",
        ),
        "mmcl-vit": Variant(
            {"cmr": CMRSimCLR(cmr_encoder=CMRViTB16()), "cmr_encoder": CMRViTB16()},
            tracks=("paper",),
            summary="MMCL whose images are encoded by a ViT-B/16 instead of a ResNet50.",
            protocol="mmcl",
        ),
        "mmcl-permuted-pairs": Variant(
            {"permuted": True},
            tracks=("harmonised",),
            role="control",
            summary="MMCL whose images belong to somebody else: what its training does by itself.",
        ),
        "mmcl-label-frozen": Variant(
            {"cmr": CMRLabelled(cmr_encoder=CMRResNet50()), "frozen_cmr": True},
            tracks=("harmonised",),
            role="control",
            summary="MMCL towards a frozen CMR encoder trained on labels: ECCL's guide alone.",
        ),
    }

    ecg: Stage | None = MAE()
    cmr: Stage = CMRSimCLR()
    # Its table goes on from the autoencoder's; without one it starts random and is learned.
    ecg_encoder: ECGViT = MMCL_CONTRASTIVE_ECG.replace(positions="trained")
    cmr_encoder: CMRResNet50 | CMRViTB16 = CMRResNet50()
    ecg_augment: ECGAugment = MMCL_ECG_AUGMENT
    cmr_augment: CMRAugment = MMCL_CMR_AUGMENT
    temperature: float = 0.1
    image_weight: float = 0.75
    permuted: bool = False
    frozen_cmr: bool = False
    recipe: Recipe = MMCL_ADAM.replace(learning_rate=1e-4)

    def frozen(self, encoders: Encoders) -> list[nn.Module]:
        """Nothing, unless the CMR encoder is a guide that was trained on labels."""
        return [encoders.cmr] if self.frozen_cmr else []

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Equations 4-6: the two directions of the CLIP loss, weighted by lambda."""
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

"""Masked autoencoder on the cine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Recipe, Variant
from methods.blocks.augment import PTACL_CMR_AUGMENT, CMRAugment
from methods.blocks.backbones import PTACL_CMR, CMRViT
from methods.blocks.bases import PTACL_ADAMW, CMRMethod
from methods.blocks.masked_autoencoder import Decoder, mask_and_reconstruct

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class CMRMAE(CMRMethod):
    """Self-supervised masked pretraining of the cine encoder, as PTACL starts from it.

    Selivanov et al., MICCAI 2025, sections 3.1 and 4.3: space-time patches, 90% hidden, mean
    squared error on the hidden patches alone. Decoder: 1 layer, 4 heads. By itself it is a
    reference: what the images tell without labels and without any ECG (Table 2).

    Unstated, declared here: decoder width 256; AdamW with learning rate 1e-4, weight decay 0.05 and
    a tenth of the steps as warm-up; batch 256; 400 epochs; the strength of every augmentation. The
    target, "the original uncorrupted input", is read as the augmented cine with nothing hidden.
    """

    paper: ClassVar[str] = "Selivanov et al., MICCAI 2025"
    variants: ClassVar[Mapping[str, Variant]] = {
        "cmr-mae": Variant(tracks=("harmonised",), role="reference"),
        "cmr-mae@ptacl": Variant(tracks=("paper",), role="reference", protocol="ptacl-probe"),
    }
    kind: ClassVar[str] = "cmr-pretraining"

    cmr_encoder: CMRViT = PTACL_CMR
    cmr_augment: CMRAugment = PTACL_CMR_AUGMENT
    mask_ratio: float = 0.9
    decoder: Decoder = Decoder(width=256, depth=1, heads=4)
    recipe: Recipe = PTACL_ADAMW

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make encoder and decoder."""
        from benchmark.encoders import Encoders

        encoder = self.cmr_encoder.build()
        decoder = self.decoder.build(encoder, self.cmr_encoder.position_base)
        return Encoders(cmr=encoder, cmr_decoder=decoder)

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Mean squared error over the hidden patches."""
        masked = mask_and_reconstruct(encoders, "cmr", self.cmr_input(batch), self.mask_ratio)
        return {"mse": masked.error(on="hidden")}

"""Masked autoencoder on the cine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Method, Recipe, Variant, View
from methods.blocks.augment import CMRAugment
from methods.blocks.backbones import CMRViT
from methods.blocks.masked_autoencoder import Decoder, mask_and_reconstruct

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class CMRMAE(Method):
    """Self-supervised masked pretraining of the cine encoder, as PTACL starts from it.

    Selivanov et al., MICCAI 2025, section 2: space-time patches, 90% hidden, mean squared error on
    the hidden patches alone. Decoder: 1 layer, 4 heads; its width is unstated, 256 declared here.
    By itself it is a reference: what the images tell without labels and without any ECG.
    """

    paper: ClassVar[str] = "Selivanov et al., MICCAI 2025"
    variants: ClassVar[Mapping[str, Variant]] = {
        "cmr-mae": Variant(tracks=("harmonised",), role="reference")
    }
    kind: ClassVar[str] = "cmr-pretraining"

    cmr_encoder: CMRViT = CMRViT()
    cmr_augment: CMRAugment = CMRAugment()
    mask_ratio: float = 0.9
    decoder: Decoder = Decoder(width=256, depth=1, heads=4)
    recipe: Recipe = Recipe(epochs=400, batch_size=256, learning_rate=1e-4)

    def views(self) -> dict[str, View]:
        """Read the mid-slice cine."""
        return {"cmr": self.cmr_encoder.view(self.cohort)}

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make encoder and decoder."""
        from benchmark.encoders import Encoders

        encoder = self.cmr_encoder.build()
        decoder = self.decoder.build(encoder, self.cmr_encoder.position_base)
        return Encoders(cmr=encoder, cmr_decoder=decoder)

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Mean squared error over the hidden patches."""
        x = self.cmr_augment(batch.cmr) if batch.training else batch.cmr
        prediction, target, hidden = mask_and_reconstruct(encoders, "cmr", x, self.mask_ratio)
        error = (prediction - target).square().mean(-1)
        return {"mse": (error * hidden).sum() / hidden.sum()}

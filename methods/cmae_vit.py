"""The cross-modal autoencoder, with transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Recipe, Variant
from methods.blocks.augment import ECCL_CMR_AUGMENT, ECCL_ECG_AUGMENT, CMRAugment, ECGAugment
from methods.blocks.backbones import CMRViT, ECGViT
from methods.blocks.bases import ECCL_ECG, TwoTower, scaled_rate
from methods.blocks.image_backbones import PIXEL
from methods.blocks.masked_autoencoder import Decoder

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class CMAEViT(TwoTower):
    """Reconstruct ECG and cine from their own patches, nothing hidden, and pull pairs together.

    Radhakrishnan et al., Nature Communications 14 (2023), as Ding et al., MICCAI 2024, built it
    anew for their Table 1: two transformers instead of two convolutional networks, and the CLIP
    loss at temperature 0.1 between one linear layer on each class token instead of codes that stand
    in for each other. Reconstruction is judged by the mean squared error of every patch. The rate
    of this stage is unstated: the one the paper has for all its training but the masked
    autoencoder's; epochs, batch and decay are those of the published ECCL.

    Departures: the published code compares the cine's patches with its pixels in another order,
    here they match. The harmonised track alone: its transformers, pooled over patches, its
    augmentations and its projectors.
    """

    paper: ClassVar[str] = "Ding et al., MICCAI 2024"
    variants: ClassVar[Mapping[str, Variant]] = {"cmae-vit": Variant(protocol="cmae-vit")}

    ecg_encoder: ECGViT = ECCL_ECG
    ecg_augment: ECGAugment = ECCL_ECG_AUGMENT
    finetune_encoder: ECGViT = ECCL_ECG.replace(positions="trained")
    finetune_augment: ECGAugment = ECCL_ECG_AUGMENT
    cmr_encoder: CMRViT = CMRViT(
        width=768,
        depth=12,
        heads=12,
        patch=(50, 10, 10),
        frames=50,
        size=80,
        spacing=PIXEL,
        pool="cls",
        centred=True,
    )
    cmr_augment: CMRAugment = ECCL_CMR_AUGMENT
    decoder: Decoder = Decoder(width=256, depth=4, heads=4)
    temperature: float = 0.1
    pair_weight: float = 1.0
    hidden: int = 0
    embedding: int = 256
    recipe: Recipe = Recipe(
        epochs=400,
        batch_size=32,
        learning_rate=scaled_rate(1e-5, 32),
        weight_decay=0.05,
        patience=10,
    )

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make encoders, projectors and decoders."""
        encoders = super().build(shapes)
        for modality in ("ecg", "cmr"):
            encoder, settings = getattr(encoders, modality), getattr(self, f"{modality}_encoder")
            decoder = self.decoder.build(encoder, settings.position_base)
            decoder.mask_token.requires_grad_(False)  # nothing is hidden
            encoders.add_module(f"{modality}_decoder", decoder)
        return encoders

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Squared error of both reconstructions plus the CLIP loss between the codes."""
        import torch

        from methods.blocks.losses import clip_loss

        terms, codes = {}, {}
        for modality, x in (("ecg", self.ecg_input(batch)), ("cmr", self.cmr_input(batch))):
            encoder, decoder = getattr(encoders, modality), getattr(encoders, f"{modality}_decoder")
            z = encoder.encode(x)
            everything = torch.arange(encoder.tokens, device=x.device).expand(len(x), -1)
            error = decoder(z, everything) - encoder.patches(x)
            terms[f"mse_{modality}"] = error.square().mean()
            codes[modality] = getattr(encoders, f"project_{modality}")(encoder.features(z).pooled)
        pair = clip_loss(codes["ecg"], codes["cmr"], self.temperature)
        return {**terms, "clip": self.pair_weight * pair}

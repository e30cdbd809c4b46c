"""Masked autoencoder on the ECG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Recipe, Variant
from methods.blocks.bases import ECGMethod
from methods.blocks.masked_autoencoder import Decoder, mask_and_reconstruct

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class MAE(ECGMethod):
    """Masked data modelling of the ECG: hide most patches, reconstruct the signal.

    He et al. 2022 on ECGs as MMCL does it (Turgut et al. 2025, section 3.1): patches of one lead,
    hidden without structure over leads and time; the augmented signal is the target. The loss
    covers all patches, the visible ones too, and adds 1 - NCC, the correlation of signal and
    reconstruction along the time of each lead.
    """

    paper: ClassVar[str] = "Turgut et al., Medical Image Analysis 101 (2025) 103451"
    variants: ClassVar[Mapping[str, Variant]] = {
        "mae": Variant(tracks=("harmonised",)),
        "eccl-wo-cl": Variant(
            tracks=("harmonised",),
            head="finetune",
            summary="ECCL's ablation without alignment: masked data modelling, then fine-tuning.",
        ),
    }

    mask_ratio: float = 0.8
    mse_weight: float = 0.9
    ncc_weight: float = 0.1
    decoder: Decoder = Decoder()
    recipe: Recipe = Recipe(epochs=400, batch_size=128, learning_rate=3.2e-4, weight_decay=0.15)

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make encoder and decoder."""
        from benchmark.encoders import Encoders

        encoder = self.ecg_encoder.build()
        decoder = self.decoder.build(encoder, self.ecg_encoder.position_base)
        return Encoders(ecg=encoder, ecg_decoder=decoder)

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """MSE over every patch and 1 - NCC over every lead."""
        from methods.blocks.losses import correlation_over_time

        x = self.ecg_input(batch)
        prediction, target, _ = mask_and_reconstruct(encoders, "ecg", x, self.mask_ratio)
        by_lead = (len(x), encoders.ecg.grid[0], -1)
        ncc = correlation_over_time(prediction.reshape(by_lead), target.reshape(by_lead))
        return {
            "mse": self.mse_weight * (prediction - target).square().mean(),
            "ncc": self.ncc_weight * (1 - ncc.mean()),
        }

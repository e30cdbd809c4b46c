"""Masked autoencoder on the ECG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from benchmark.api import Batch, Recipe, Variant
from methods.blocks.augment import ECCL_ECG_AUGMENT, MMCL_FINETUNE_AUGMENT
from methods.blocks.backbones import ECGViT
from methods.blocks.bases import (
    DUAL_ECG,
    DUAL_MAE_ADAMW,
    ECCL_ECG,
    MMCL_ECG,
    MMCL_MAE_ADAMW,
    PTACL_ADAMW,
    PTACL_ECG,
    ECGMethod,
)
from methods.blocks.masked_autoencoder import (
    BASE_DECODER,
    Decoder,
    mask_and_reconstruct,
    similarity,
    similarity_heads,
)

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders


def _dual(name: str, width: int, heads: int, decoder: Decoder) -> Variant:
    fields = {
        "ecg_encoder": DUAL_ECG.replace(width=width, heads=heads),
        "finetune_encoder": None,
        "ecg_augment": MMCL_FINETUNE_AUGMENT,
        "mask_ratio": 0.7,
        "similarity_weight": 0.1,
        "decoder": decoder,
        "recipe": DUAL_MAE_ADAMW,
    }
    summary = f"The masked autoencoder of dual-phase in its size ViT {name}."
    paper = "Alvarez-Florez et al., SPIE Medical Imaging 2026"
    return Variant(fields, tracks=("paper",), protocol="dual", summary=summary, paper=paper)


@dataclass(frozen=True, kw_only=True)
class MAE(ECGMethod):
    """Masked data modelling of the ECG: hide most patches, reconstruct the signal.

    He et al. 2022 on ECGs as MMCL does it (Turgut et al. 2025, section 3.1): patches of one lead,
    hidden without structure over leads and time; the augmented signal is the target. The loss
    covers all patches, visible ones too, and adds 1 - NCC, the correlation of signal and
    reconstruction along each lead's time. The last epoch is kept. Fine-tuned, positions are trained
    and features pooled before the final norm, which is not carried over.

    ``mae@eccl`` (Ding et al. 2024): 12 blocks of width 768 on 10 s. Unstated: loss and augmentation
    (MMCL's here), batch (128), decoder (its code family's), weight decay (0.05). Planned are 200
    epochs, its checkpoint is of epoch 294: 400 here, the best by validation loss kept, there by
    NCC.

    ``mae@ptacl`` (Selivanov et al. 2025) scores the hidden patches alone; learned positions, a
    decoder of one layer, four heads. Unstated: its width (256), augmentation (MMCL's; "uncorrupted
    input" is read as the augmented signal, nothing hidden) and training (`PTACL_ADAMW`).

    ``mae@dual-*`` (Alvarez-Florez et al. 2026, Tables 2-3, settings of its code) augments as weakly
    as MMCL's fine-tuning and adds a SimSiam term, on by default there: two maskings of one ECG
    predict each other's mean visible token. Features are the class token, its scripts' default.

    Departures: NCC is centred by the mean, at the commit MMCL used by the variance; patience asks
    for a lower loss, there for one within a tolerance. The harmonised track alone weighs MSE and
    NCC 1 and 0.1 and has no class token for the decoder to attend to.
    """

    paper: ClassVar[str] = "Turgut et al., Medical Image Analysis 101 (2025) 103451"
    variants: ClassVar[Mapping[str, Variant]] = {
        "mae": Variant(tracks=("harmonised",)),
        "eccl-wo-cl": Variant(
            tracks=("harmonised",),
            head="finetune",
            paper="Ding et al., MICCAI 2024",
            summary="ECCL's ablation without alignment: masked data modelling, then fine-tuning.",
        ),
        "mae@mmcl": Variant(tracks=("paper",), protocol="mmcl"),
        "mae@eccl": Variant(
            {
                "ecg_encoder": ECCL_ECG,
                "finetune_encoder": ECCL_ECG.replace(positions="trained"),
                "finetune_augment": ECCL_ECG_AUGMENT,
                "decoder": BASE_DECODER,
                "recipe": Recipe(epochs=400, batch_size=128, learning_rate=8e-4),
            },
            tracks=("paper",),
            protocol="eccl-finetune",
            paper="Ding et al., MICCAI 2024",
            summary="ECCL's ablation without alignment: its masked autoencoder, then fine-tuning.",
        ),
        "mae@ptacl": Variant(
            {
                "ecg_encoder": PTACL_ECG,
                "finetune_encoder": None,
                "mask_ratio": 0.75,
                "loss_on": "hidden",
                "mse_weight": 1.0,
                "ncc_weight": 0.0,
                "decoder": Decoder(width=256, depth=1, heads=4),
                "recipe": PTACL_ADAMW,
            },
            tracks=("paper",),
            protocol="ptacl-probe",
            paper="Selivanov et al., MICCAI 2025",
            summary="PTACL's masked autoencoder under a linear probe.",
        ),
        "mae@dual-tiny": _dual("Tiny", 192, 3, Decoder()),
        "mae@dual-small": _dual("Small", 384, 6, Decoder()),
        "mae@dual-medium": _dual("Medium", 576, 8, Decoder()),
        "mae@dual-base": _dual("Base", 768, 12, BASE_DECODER),
    }

    finetune_encoder: ECGViT | None = MMCL_ECG.replace(positions="trained", pool="mean-then-norm")
    mask_ratio: float = 0.8
    loss_on: Literal["all", "hidden"] = "all"
    mse_weight: float = 0.9
    ncc_weight: float = 0.1
    similarity_weight: float = 0.0
    decoder: Decoder = Decoder()
    recipe: Recipe = MMCL_MAE_ADAMW

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make encoder and decoder and, where the similarity counts, its two heads."""
        from benchmark.encoders import Encoders

        encoder = self.ecg_encoder.build()
        decoder = self.decoder.build(encoder, self.ecg_encoder.position_base)
        heads = similarity_heads(encoder.width) if self.similarity_weight else {}
        return Encoders(ecg=encoder, ecg_decoder=decoder, **heads)

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Squared error and 1 - NCC of the reconstruction, and how far two maskings differ."""
        x = self.ecg_input(batch)
        masked = mask_and_reconstruct(encoders, "ecg", x, self.mask_ratio)
        terms = {"mse": self.mse_weight * masked.error(self.loss_on)}
        if self.ncc_weight:
            terms["ncc"] = self.ncc_weight * (1 - masked.correlation(encoders.ecg.grid[0]))
        if self.similarity_weight:
            another = similarity(encoders, "ecg", x, masked.visible, self.mask_ratio)
            terms["similarity"] = self.similarity_weight * another
        return terms

    def reconstruct(
        self, encoders: Encoders, x: torch.Tensor, keep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Fill in what is hidden; see `Method.reconstruct`."""
        decoded = encoders.ecg_decoder(encoders.ecg.encode(x, keep), keep)
        return decoded, encoders.ecg.patches(x)

"""Patient and temporal alignment contrastive learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from benchmark.api import Batch, Recipe, Variant, View
from benchmark.cohorts.views import RPeaks
from benchmark.stage import Stage
from methods.blocks.backbones import ECGViT
from methods.blocks.bases import TwoTower
from methods.blocks.masked_autoencoder import Decoder
from methods.cmr_mae import CMRMAE
from methods.mae import MAE

if TYPE_CHECKING:
    import torch
    from torch import nn

    from benchmark.encoders import Encoders

# Width 512 is not printed; only it gives the paper's 19 M parameters.
PTACL_ECG = ECGViT(width=512, depth=6, heads=8, patch=50)


@dataclass(frozen=True, kw_only=True)
class PTACL(TwoTower):
    """Contrast patients globally, and the phases of their heartbeats locally.

    Selivanov et al., MICCAI 2025. Global: symmetric InfoNCE between the projected pooled features
    of ECG and cine. Local (``local_weight`` is beta): the ECG tokens between consecutive R peaks,
    resampled to the cine's temporal tokens and averaged over beats and leads, are matched with
    those temporal tokens; negatives are the other phases of the same person, so no projection is
    needed as both encoders share one width. ``local`` "cosine" is the ablation that maximises the
    mean cosine of matching phases instead. Optimiser, batch, projector and what stays frozen
    without pretraining are unstated (nothing, here).

    Departures: the ECG autoencoder reconstructs all patches, the paper's the hidden ones alone, and
    positions are fixed sine-cosine tables, the paper's learned.

    ``sigma`` 0.1 and temperatures 0.1 / 1.0 are the paper's regression model; its retrieval
    figures come from another training (0; 0.07 / 0.07). Here one model serves every task.
    """

    paper: ClassVar[str] = "Selivanov et al., MICCAI 2025"
    variants: ClassVar[Mapping[str, Variant]] = {
        "ptacl": Variant(tracks=("harmonised",)),
        "ptacl-global": Variant(
            {"local_weight": 0.0},
            tracks=("harmonised",),
            summary="PTACL's global loss alone: patients are contrasted, heartbeats are not.",
        ),
        "ptacl-wo-smp": Variant(
            {"ecg": None, "cmr": None},
            tracks=("harmonised",),
            summary="PTACL without masked pretraining: both encoders start random, all trainable.",
        ),
        "ptacl-cossim": Variant(
            {"local": "cosine"},
            tracks=("harmonised",),
            summary="PTACL whose heartbeats are pulled together without negatives (CosSim++).",
        ),
        "ptacl-shuffled-phase": Variant(
            {"local": "shuffled"},
            tracks=("harmonised",),
            role="control",
            summary="PTACL whose cine phases are shuffled: does aligning them help, or the loss?",
        ),
    }

    ecg: Stage | None = MAE(
        ecg_encoder=PTACL_ECG,
        mask_ratio=0.75,
        mse_weight=1.0,
        ncc_weight=0.0,
        decoder=Decoder(width=256, depth=1, heads=4),
    )
    cmr: Stage | None = CMRMAE()
    ecg_encoder: ECGViT = PTACL_ECG
    frozen_blocks: int = 2
    global_temperature: float = 0.1
    local_temperature: float = 1.0
    local: Literal["contrast", "cosine", "shuffled"] = "contrast"
    local_weight: float = 1.0
    sigma: float = 0.1
    hidden: int = 512
    recipe: Recipe = Recipe(epochs=100, batch_size=256, learning_rate=1e-4)

    def views(self) -> dict[str, View]:
        """Read ECG, cine and, for the local loss, the detected R peaks."""
        views = super().views()
        return {**views, "r_peaks": RPeaks(cohort=self.cohort)} if self.local_weight else views

    def initial_weights(self) -> dict[str, Stage]:
        """Start from the two masked autoencoders."""
        starts = {"ecg": self.ecg, "cmr": self.cmr}
        return {part: stage for part, stage in starts.items() if stage is not None}

    def frozen(self, encoders: Encoders) -> list[nn.Module]:
        """Keep the patch embeddings and the first blocks of both encoders as pretrained."""
        return [
            layer
            for part in self.initial_weights()
            for layer in getattr(encoders, part).first_layers(self.frozen_blocks)
        ]

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Global loss plus beta times the local loss."""
        import torch

        from methods.blocks.beats import beat_tokens, phase_alignment, phase_similarity
        from methods.blocks.losses import clip_loss

        x, start = self.ecg_crop(batch)
        ecg = encoders.ecg(self.ecg_augment(x) if batch.training else x)
        cmr = encoders.cmr(self.cmr_input(batch))
        terms = {
            "global": clip_loss(
                encoders.project_ecg(ecg.pooled),
                encoders.project_cmr(cmr.pooled),
                self.global_temperature,
            )
        }
        if self.local_weight:
            times = self.cmr_encoder.times
            beats, valid = beat_tokens(
                ecg.tokens.unflatten(1, encoders.ecg.grid).mean(1),
                batch.r_peaks - start[:, None] / self.ecg_encoder.rate,
                self.ecg_encoder.seconds,
                times,
            )
            phases = cmr.tokens.unflatten(1, (times, -1)).mean(2)
            if self.local == "shuffled":
                phases = phases[:, torch.randperm(times, device=phases.device)]
            if self.local == "cosine":
                local = phase_similarity(beats, phases, valid)
            else:
                local = phase_alignment(beats, phases, valid, self.local_temperature, self.sigma)
            terms["local"] = self.local_weight * local
        return terms

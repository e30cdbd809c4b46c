"""Patient and temporal alignment contrastive learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from benchmark.api import Batch, Recipe, Variant, View
from benchmark.cohorts.views import RPeaks
from benchmark.stage import Stage
from methods.blocks.augment import PTACL_CMR_AUGMENT, CMRAugment, ECGAugment
from methods.blocks.backbones import PTACL_CMR, CMRViT, ECGViT
from methods.blocks.bases import PTACL_ECG, TwoTower
from methods.cmr_mae import CMRMAE
from methods.mae import MAE

if TYPE_CHECKING:
    import torch
    from torch import nn

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class PTACL(TwoTower):
    """Contrast patients globally, and the phases of their heartbeats locally.

    Selivanov et al., MICCAI 2025, sections 3.2 and 4.3. Global: symmetric InfoNCE between the
    projected pooled features of ECG and cine. Local (``local_weight`` is beta): the ECG tokens
    between consecutive R peaks, resampled to the cine's temporal tokens and averaged over beats and
    leads, are matched with those temporal tokens; negatives are the other phases of the same
    person. ``local`` "cosine" is the ablation that maximises the mean cosine of matching phases
    instead. ``sigma`` 0.1 and temperatures 0.1 / 1.0 are the paper's regression model; its
    retrieval figures come from another training (0; 0.07 / 0.07).

    Unstated, declared here: both directions of either loss weigh the same; phase distance is
    |k - t| / (T - 1), not periodic; leads are averaged; nothing is frozen without pretraining;
    projectors 512-512-128; AdamW with learning rate 1e-4, weight decay 0.05 and a tenth of the
    steps as warm-up; batch 256; 100 epochs after 400 of either autoencoder; 26 frames spread over
    the cycle from the R peak, always the same ones, where the paper lists time sampling among its
    augmentations; the strength of every augmentation; features of both halves of a test ECG.

    The harmonised track alone hides 80% of the ECG instead of 75% and scores the visible patches
    too, keeps positions fixed, freezes one block, and ranks people with the regression model.
    """

    paper: ClassVar[str] = "Selivanov et al., MICCAI 2025"
    variants: ClassVar[Mapping[str, Variant]] = {
        "ptacl": Variant(protocol="ptacl"),
        "ptacl-global": Variant(
            {"local_weight": 0.0},
            summary="PTACL's global loss alone: patients are contrasted, heartbeats are not.",
            protocol="ptacl-probe",
        ),
        "ptacl-wo-smp": Variant(
            {"ecg": None, "cmr": None},
            summary="PTACL without masked pretraining: both encoders start random, all trainable.",
            protocol="ptacl-probe",
        ),
        "ptacl-cossim": Variant(
            {"local": "cosine"},
            summary="PTACL whose heartbeats are pulled together without negatives (CosSim++).",
            protocol="ptacl-probe",
        ),
        "ptacl@retrieval": Variant(
            {"sigma": 0.0, "global_temperature": 0.07, "local_temperature": 0.07},
            tracks=("paper",),
            summary="PTACL as it was trained for retrieval: sharper temperatures, no soft targets.",
            protocol="ptacl-probe",
        ),
        "ptacl-global@retrieval": Variant(
            {"local_weight": 0.0, "global_temperature": 0.07},
            tracks=("paper",),
            summary="PTACL's global loss alone, with the temperature of the retrieval models.",
            protocol="ptacl-probe",
        ),
        "ptacl-shuffled-phase": Variant(
            {"local": "shuffled"},
            tracks=("harmonised",),
            role="control",
            summary="PTACL whose cine phases are shuffled: does aligning them help, or the loss?",
        ),
    }

    ecg: Stage | None = MAE.named("mae@ptacl")
    cmr: Stage | None = CMRMAE()
    ecg_encoder: ECGViT = PTACL_ECG
    cmr_encoder: CMRViT = PTACL_CMR
    ecg_augment: ECGAugment = ECGAugment(surrogate_probability=1.0)
    cmr_augment: CMRAugment = PTACL_CMR_AUGMENT
    frozen_blocks: int = 2
    global_temperature: float = 0.1
    local_temperature: float = 1.0
    local: Literal["contrast", "cosine", "shuffled"] = "contrast"
    local_weight: float = 1.0
    sigma: float = 0.1
    recipe: Recipe = Recipe(epochs=100, batch_size=256, learning_rate=1e-4)

    def views(self) -> dict[str, View]:
        """Read ECG, cine and, for the local loss, the detected R peaks."""
        views = super().views()
        return {**views, "r_peaks": RPeaks(cohort=self.cohort)} if self.local_weight else views

    def frozen(self, encoders: Encoders) -> list[nn.Module]:
        """Keep the embeddings and the first blocks of both encoders as pretrained."""
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
                order = torch.rand(phases.shape[:2], device=phases.device).argsort(1)
                phases = phases.gather(1, order[..., None].expand_as(phases))
            if self.local == "cosine":
                local = phase_similarity(beats, phases, valid)
            else:
                local = phase_alignment(beats, phases, valid, self.local_temperature, self.sigma)
            terms["local"] = self.local_weight * local
        return terms

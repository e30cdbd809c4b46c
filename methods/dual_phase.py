"""Contrastive learning of the ECG with two cardiac phases."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Recipe, Variant
from benchmark.stage import Spec, Stage
from methods.blocks.augment import DUAL_CMR_AUGMENT, CMRAugment, ECGAugment
from methods.blocks.backbones import ECGViT
from methods.blocks.bases import DUAL_ADAMW, DUAL_ECG, TwoTower
from methods.blocks.image_backbones import CineResNetLSTM, PhasesResNet3D, SliceResNet50
from methods.mae import MAE
from methods.phase_supervised import PhaseSupervised

if TYPE_CHECKING:
    import torch
    from torch import nn

    from benchmark.encoders import Encoders


def _towards(encoder: Spec) -> dict[str, object]:
    """Return the fields that align the ECG with one encoder."""
    return {"cmr_encoder": encoder, "cmr": (PhaseSupervised(cmr_encoder=encoder),)}


@dataclass(frozen=True, kw_only=True)
class DualPhase(TwoTower):
    """Pull the ECG towards two frozen CMR encoders, of end-diastole and of end-systole.

    Alvarez-Florez et al., SPIE Medical Imaging 2026: the mean of the CLIP losses, temperature 0.07,
    of ECG and end-diastole, ECG and end-systole, and the two phases with each other; with a single
    phase (``dual-phase-3d-ed``), slice (``-2d``) or cine (``-2d-time``) the one loss there is.
    Label-using: the CMR encoders (``cmr``, one per phase) know volumes and mass, from the label
    fraction alone. The ECG is not augmented. Optimiser and drop path are the published code's.

    Departures: losses are symmetric as in the published code, the paper writes one direction;
    frozen encoders are in evaluation mode and frozen whole, in the code batch norms drift and a
    linear layer of 768 is trained; projectors have 512 hidden units as in the paper and read the
    features, in the code they are 768 (CMR; 2,048 of one slice) and 432 (ECG) wide and the ECG
    passes a random layer of 1,000 first; both phases of a heart are flipped alike, in the code each
    on its own, validation included; single precision, there half; ECG features come from the norm
    that was aligned, in the code from the class token, which alignment leaves out; the best round
    is evaluated, in the code the last.

    Departures of the harmonised track: every CMR encoder is the track's transformer, slices or
    frames as depth; each phase's has the whole training budget of a CMR encoder, as each network of
    the paper has its own run.
    """

    paper: ClassVar[str] = "Alvarez-Florez et al., SPIE Medical Imaging 2026"
    variants: ClassVar[Mapping[str, Variant]] = {
        "dual-phase": Variant(protocol="dual"),
        "dual-phase-3d-ed": Variant(
            _towards(PhasesResNet3D(phases=("ed",))),
            protocol="dual",
            summary="Dual-phase with the stack at end-diastole alone.",
        ),
        "dual-phase-2d": Variant(
            _towards(SliceResNet50()),
            protocol="dual",
            summary="Dual-phase with one slice at end-diastole.",
        ),
        "dual-phase-2d-time": Variant(
            _towards(CineResNetLSTM()),
            protocol="dual",
            summary="Dual-phase with the cine of one slice.",
        ),
    }

    ecg: Stage = MAE.named("mae@dual-medium")
    cmr: tuple[Stage, ...] = tuple(
        PhaseSupervised(cmr_encoder=PhasesResNet3D(phases=(phase,))) for phase in ("ed", "es")
    )
    ecg_encoder: ECGViT = DUAL_ECG.replace(
        pool="mean-then-norm", positions="trained", drop_path=0.1
    )
    cmr_encoder: Spec = PhasesResNet3D()
    ecg_augment: ECGAugment = ECGAugment(surrogate=0, jitter=0, rescale=0)
    cmr_augment: CMRAugment = DUAL_CMR_AUGMENT
    temperature: float = 0.07
    hidden: int = 512
    embedding: int = 128
    recipe: Recipe = DUAL_ADAMW.replace(epochs=100, warmup=40 / 100)

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make both encoders, the ECG's projector and one per phase."""
        from methods.blocks.phases import PhasesProjector
        from methods.blocks.vit import projector

        encoders = super().build(shapes)
        sizes = self.cmr_encoder.width, self.hidden, self.embedding
        encoders.project_cmr = PhasesProjector([projector(*sizes) for _ in self.cmr])
        return encoders

    def initial_weights(self) -> dict[str, Stage]:
        """Start from masked data modelling (ECG) and the supervised encoders (CMR)."""
        if len(self.cmr) == 1:
            return {"ecg": self.ecg, "cmr": self.cmr[0]}
        return {"ecg": self.ecg} | {f"cmr.networks.{guide.phase}": guide for guide in self.cmr}

    def frozen(self, encoders: Encoders) -> list[nn.Module]:
        """Keep the CMR encoders as their labels made them."""
        return [encoders.cmr]

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Mean CLIP loss over the pairs of ECG and phases."""
        from methods.blocks.losses import clip_loss

        ecg = encoders.project_ecg(encoders.ecg(self.ecg_input(batch)).pooled)
        phases = encoders.project_cmr.each(encoders.cmr(self.cmr_input(batch)).pooled)
        names = ("ecg", *(guide.phase for guide in self.cmr))
        pairs = list(itertools.combinations(zip(names, (ecg, *phases), strict=True), 2))
        return {
            f"{a}-{b}": clip_loss(u, v, self.temperature) / len(pairs) for (a, u), (b, v) in pairs
        }

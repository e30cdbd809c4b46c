"""Contrastive learning of the ECG with two cardiac phases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.api import Batch, Method, Recipe, Variant, View
from benchmark.stage import UNSET, Stage
from methods.blocks.augment import CMRAugment
from methods.blocks.backbones import CMRViT, ECGViT, PhasesViT
from methods.blocks.bases import TwoTower
from methods.mae import MAE

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn

    from benchmark.encoders import Encoders

DUAL_ECG = ECGViT(width=576, depth=12, heads=8, seconds=10.0)

TARGETS = {
    "ed": ("LVEDV", "LVM", "RVEDV"),
    "es": ("LVEDV", "LVESV", "LVEF", "RVEDV", "RVESV"),
    "cine": ("LVEDV", "LVESV", "LVEF", "LVM", "RVEDV", "RVESV"),
}
"""What each CMR encoder is trained on, from the lists in the paper's code; the cine's is unstated:
their union."""


@dataclass(frozen=True, kw_only=True)
class PhaseSupervised(Method):
    """A CMR encoder for each phase, trained on that phase's volumes and mass.

    Alvarez-Florez et al., SPIE Medical Imaging 2026. The networks share no weights: each learns its
    own targets (`TARGETS`), in one run with one choice of the best round. Only the training people
    inside the label fraction enter.
    """

    paper: ClassVar[str] = "Alvarez-Florez et al., SPIE Medical Imaging 2026"
    kind: ClassVar[str] = "cmr-pretraining"

    fraction: float = UNSET
    cmr_encoder: PhasesViT | CMRViT = PhasesViT()
    cmr_augment: CMRAugment = CMRAugment()
    recipe: Recipe = Recipe(epochs=200, batch_size=64, learning_rate=1e-3, weight_decay=0.005)

    @property
    def phases(self) -> tuple[str, ...]:
        """``ed`` and ``es``, one of them, or ``cine``."""
        return getattr(self.cmr_encoder, "phases", ("cine",))

    def views(self) -> dict[str, View]:
        """Read the CMR view of the encoder."""
        return {"cmr": self.cmr_encoder.view(self.cohort)}

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make encoder and, per phase, an output layer."""
        from benchmark.encoders import Encoders
        from benchmark.engine.supervision import Supervision

        width = self.cmr_encoder.width
        outputs = {
            f"output_{phase}": Supervision(width, len(TARGETS[phase]), classification=False)
            for phase in self.phases
        }
        return Encoders(cmr=self.cmr_encoder.build(), **outputs)

    def labels(self, cohort: Any) -> pd.DataFrame:
        """Learn the phenotypes of the phases, each once."""
        return cohort.phenotypes[self._columns()]

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for phase in self.phases for name in TARGETS[phase]))

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Squared error of each phase's own targets."""
        x = self.cmr_augment(batch.cmr) if batch.training else batch.cmr
        features = encoders.cmr(x).pooled.chunk(len(self.phases), dim=1)
        columns = self._columns()
        terms = {}
        for phase, pooled in zip(self.phases, features, strict=True):
            chosen = batch.labels[:, [columns.index(name) for name in TARGETS[phase]]]
            terms[phase] = getattr(encoders, f"output_{phase}").loss(pooled, chosen)
        return terms


@dataclass(frozen=True, kw_only=True)
class DualPhase(TwoTower):
    """Pull the ECG towards two frozen CMR encoders, of end-diastole and of end-systole.

    Alvarez-Florez et al., SPIE Medical Imaging 2026: the mean of the CLIP losses, temperature 0.07,
    of ECG and end-diastole, ECG and end-systole, and the two phases with each other; with a single
    phase (``dual-phase-3d-ed``), slice (``-2d``) or cine (``-2d-time``) the one loss there is.
    Label-using: the CMR encoders know volumes and mass, from the label fraction alone.

    Departures: losses are symmetric as in the published code, the paper writes one direction;
    frozen encoders are in evaluation mode, in the code they are not; every CMR encoder is the
    track's transformer, slices or frames as depth, there 3D and 2D ResNets and an LSTM over time;
    augmentation moves both phases alike, in the code each is flipped on its own.
    """

    paper: ClassVar[str] = "Alvarez-Florez et al., SPIE Medical Imaging 2026"
    variants: ClassVar[Mapping[str, Variant]] = {
        "dual-phase": Variant(tracks=("harmonised",)),
        "dual-phase-3d-ed": Variant(
            {
                "cmr": PhaseSupervised(cmr_encoder=PhasesViT(phases=("ed",))),
                "cmr_encoder": PhasesViT(phases=("ed",)),
            },
            tracks=("harmonised",),
            summary="Dual-phase with the stack at end-diastole alone.",
        ),
        "dual-phase-2d": Variant(
            {
                "cmr": PhaseSupervised(cmr_encoder=PhasesViT(phases=("ed",), slices=1)),
                "cmr_encoder": PhasesViT(phases=("ed",), slices=1),
            },
            tracks=("harmonised",),
            summary="Dual-phase with one slice at end-diastole.",
        ),
        "dual-phase-2d-time": Variant(
            {"cmr": PhaseSupervised(cmr_encoder=CMRViT()), "cmr_encoder": CMRViT()},
            tracks=("harmonised",),
            summary="Dual-phase with the cine of one slice.",
        ),
    }

    ecg: Stage = MAE(ecg_encoder=DUAL_ECG, mask_ratio=0.7)
    cmr: Stage = PhaseSupervised()
    ecg_encoder: ECGViT = DUAL_ECG
    cmr_encoder: PhasesViT | CMRViT = PhasesViT()
    temperature: float = 0.07
    hidden: int = 512
    embedding: int = 128
    recipe: Recipe = Recipe(epochs=100, batch_size=64, learning_rate=1e-3, weight_decay=0.005)

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make both encoders, the ECG's projector and one per phase."""
        from methods.blocks.phases import PhasesProjector
        from methods.blocks.vit import projector

        encoders = super().build(shapes)
        phases = len(self.cmr.phases)
        encoders.project_cmr = PhasesProjector(
            [projector(self.cmr_encoder.width, self.hidden, self.embedding) for _ in range(phases)]
        )
        return encoders

    def initial_weights(self) -> dict[str, Stage]:
        """Start from masked data modelling (ECG) and the supervised encoders (CMR)."""
        return {"ecg": self.ecg, "cmr": self.cmr}

    def frozen(self, encoders: Encoders) -> list[nn.Module]:
        """Keep the CMR encoders as their labels made them."""
        return [encoders.cmr]

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Mean CLIP loss over the pairs of ECG and phases."""
        import itertools

        from methods.blocks.losses import clip_loss

        ecg = encoders.project_ecg(encoders.ecg(self.ecg_input(batch)).pooled)
        phases = encoders.project_cmr.each(encoders.cmr(self.cmr_input(batch)).pooled)
        named = zip(("ecg", *self.cmr.phases), (ecg, *phases), strict=True)
        pairs = list(itertools.combinations(named, 2))
        return {
            f"{a}-{b}": clip_loss(u, v, self.temperature) / len(pairs) for (a, u), (b, v) in pairs
        }

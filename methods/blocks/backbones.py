"""Settings of the two encoders and what they look at; networks are made in `build`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from benchmark.api import Cohort, View
from benchmark.cohorts.views import CleanECG, EDESVolumes, MidSliceCine, ThreePhases
from benchmark.stage import Spec

if TYPE_CHECKING:
    from methods.blocks.phases import PhasesEncoder
    from methods.blocks.resnet import ResNet50
    from methods.blocks.swin import SwinT
    from methods.blocks.vit import PatchViT

LEADS = 12


@dataclass(frozen=True, kw_only=True)
class ECGViT(Spec):
    """ECG transformer; the defaults are MMCL's (Turgut et al. 2025): 5,363,328 parameters.

    ``positions`` are a fixed sine-cosine table, one that is ``trained`` from there, or ``learned``
    from random values. ``pool`` says where features come from: the mean of the patch tokens after
    the final norm, the class token after it, or a norm of its own on the mean of the tokens.
    ``cleaning`` and ``scaling`` are those of `CleanECG`; ``first_window`` reads the first window
    alone at evaluation.
    """

    width: int = 384
    depth: int = 3
    heads: int = 6
    patch: int = 100
    rate: int = 500
    seconds: float = 5.0
    cls_token: bool = True
    positions: Literal["fixed", "trained", "learned"] = "fixed"
    position_base: float = 10_000.0
    pool: Literal["mean", "cls", "mean-then-norm"] = "mean"
    drop_path: float = 0.0
    cleaning: str = "harmonised"
    scaling: str = "lead-group"
    first_window: bool = False

    @property
    def samples(self) -> int:
        """Samples per lead that enter the network."""
        return round(self.rate * self.seconds)

    def view(self, cohort: Cohort) -> View:
        """Return the cleaned 10 s ECG that crops are cut from."""
        return CleanECG(cohort=cohort, rate=self.rate, window=self.seconds)

    def build(self) -> PatchViT:
        """Make the network with fresh weights."""
        from methods.blocks.vit import PatchViT

        return PatchViT(
            (LEADS, self.samples),
            (1, self.patch),
            self.width,
            self.depth,
            self.heads,
            self.cls_token,
            self.position_base,
        )


@dataclass(frozen=True, kw_only=True)
class CMRViT(Spec):
    """Cine transformer; the defaults are PTACL's (Selivanov et al. 2025).

    ``spacing`` is the mm per pixel it sees; None is whatever the cohort has.
    """

    width: int = 512
    depth: int = 4
    heads: int = 8
    patch: tuple[int, int, int] = (2, 12, 12)
    frames: int = 26
    size: int = 84
    spacing: float | None = None
    cls_token: bool = True
    positions: Literal["fixed", "trained", "learned"] = "fixed"
    position_base: float = 10_000.0
    pool: Literal["mean", "cls", "mean-then-norm"] = "mean"
    drop_path: float = 0.0

    @property
    def times(self) -> int:
        """Temporal tokens."""
        return self.frames // self.patch[0]

    def view(self, cohort: Cohort) -> View:
        """Return the mid-slice cine; three frames mean end-diastole, between, end-systole."""
        if self.frames == 3:
            return ThreePhases(cohort=cohort, size=self.size, spacing=self.spacing)
        return MidSliceCine(cohort=cohort, frames=self.frames, size=self.size, spacing=self.spacing)

    def build(self) -> PatchViT:
        """Make the network with fresh weights."""
        from methods.blocks.vit import PatchViT

        return PatchViT(
            (self.frames, self.size, self.size),
            self.patch,
            self.width,
            self.depth,
            self.heads,
            self.cls_token,
            self.position_base,
        )


@dataclass(frozen=True, kw_only=True)
class PhasesViT(Spec):
    """A transformer for each phase of the short-axis stack, slices as depth.

    ``phases`` names the ones that are read, of ``ed`` and ``es``; the width is that of one.
    """

    phases: tuple[str, ...] = ("ed", "es")
    slices: int = 6
    width: int = 512
    depth: int = 4
    heads: int = 8
    patch: int = 12
    size: int = 84
    spacing: float | None = None
    cls_token: bool = True
    position_base: float = 10_000.0

    def view(self, cohort: Cohort) -> View:
        """Return the central slices at end-diastole and end-systole."""
        return EDESVolumes(cohort=cohort, slices=self.slices, size=self.size, spacing=self.spacing)

    def build(self) -> PhasesEncoder:
        """Make the networks with fresh weights."""
        from methods.blocks.phases import PhasesEncoder
        from methods.blocks.vit import PatchViT

        shape = (self.slices, self.size, self.size)
        networks = [
            PatchViT(
                shape,
                (1, self.patch, self.patch),
                self.width,
                self.depth,
                self.heads,
                self.cls_token,
                self.position_base,
            )
            for _ in self.phases
        ]
        return PhasesEncoder(networks, [("ed", "es").index(phase) for phase in self.phases])


@dataclass(frozen=True, kw_only=True)
class CMRResNet50(Spec):
    """ResNet50 on three phases of the middle slice, MMCL's image encoder (Turgut et al. 2025)."""

    size: int = 210
    spacing: float | None = None

    def view(self, cohort: Cohort) -> View:
        """Return end-diastole, the frame between, and end-systole."""
        return ThreePhases(cohort=cohort, size=self.size, spacing=self.spacing)

    def build(self) -> ResNet50:
        """Make the network with fresh weights."""
        from methods.blocks.resnet import ResNet50

        return ResNet50(3)


@dataclass(frozen=True, kw_only=True)
class CMRSwinT(Spec):
    """Swin-T on the cine, frames as channels, ECCL's CMR encoder (Ding et al. 2024)."""

    frames: int = 50
    size: int = 224
    spacing: float | None = None

    def view(self, cohort: Cohort) -> View:
        """Return the mid-slice cine."""
        return MidSliceCine(cohort=cohort, frames=self.frames, size=self.size, spacing=self.spacing)

    def build(self) -> SwinT:
        """Make the network with fresh weights."""
        from methods.blocks.swin import SwinT

        return SwinT(self.frames, self.size)

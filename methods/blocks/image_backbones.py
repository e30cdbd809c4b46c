"""Settings of the convolutional and image networks that papers encode CMR with.

Every one says what it looks at (`view`) and how wide its features are (``width``). They are made
for 1.8 mm pixels, UK Biobank's, whatever a cohort stores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmark.api import Cohort, View
from benchmark.cohorts.views import EDESVolumes, MidSliceCine, ThreePhases
from benchmark.stage import Spec

if TYPE_CHECKING:
    from torch import nn

PIXEL = 1.8  # mm
REHEARSED = {"size": 48, "spacing": 2.74}
"""What small cohorts store."""


@dataclass(frozen=True, kw_only=True)
class FramesNetwork(Spec):
    """A network for photographs that reads frames of the middle slice as its colours.

    Three frames are end-diastole, end-systole and the one between, more are the cine. ``size`` and
    ``spacing`` (mm) are the pixels that are stored; the network enlarges them to ``resize`` a side
    (None: not at all) after augmentation, where the papers enlarge first. ``centred`` maps [0, 1]
    to [-1, 1].
    """

    frames: int = 3
    size: int = 78
    spacing: float | None = PIXEL
    resize: int | None = 210
    centred: bool = False

    def view(self, cohort: Cohort) -> View:
        """Return the three phases, or the cine."""
        pixels = {"cohort": cohort, "size": self.size, "spacing": self.spacing}
        if self.frames == 3:
            return ThreePhases(**pixels)
        return MidSliceCine(frames=self.frames, **pixels)

    def rehearsal(self) -> dict[str, Any]:
        """Return fewer pixels, frames and channels."""
        return {**REHEARSED, "resize": None, "frames": min(self.frames, 8)}


@dataclass(frozen=True, kw_only=True)
class CMRResNet50(FramesNetwork):
    """ResNet50, MMCL's image encoder (Turgut et al. 2025): 23,508,032 parameters.

    Its window is 78 pixels, enlarged to 210; in its code the window's place is the same in all
    pictures, here it is about the heart. ECCL's ResNet50 (Ding et al. 2024, Table 1) reads
    ``frames=50, size=80, resize=224, centred=True``.
    """

    width: int = 2048

    def build(self) -> nn.Module:
        """Make the network with fresh weights."""
        from methods.blocks.image_networks import FramesAsColours, resnet50

        trunk = resnet50(self.frames, self.width)
        return FramesAsColours(trunk, self.width, self.resize, self.centred)

    def rehearsal(self) -> dict[str, Any]:
        """Return fewer pixels, frames and channels."""
        return {**super().rehearsal(), "width": 256}


@dataclass(frozen=True, kw_only=True)
class CMRSwinT(FramesNetwork):
    """Swin-T, ECCL's CMR encoder (Ding et al. 2024), on 50 frames of 80 pixels enlarged to 224.

    The middle slice as in the paper; its code takes the one with most of the right ventricle.
    """

    frames: int = 50
    size: int = 80
    resize: int | None = 224
    centred: bool = True
    width: int = 768

    def build(self) -> nn.Module:
        """Make the network with fresh weights."""
        from methods.blocks.image_networks import FramesAsColours, swin_t

        trunk = swin_t(self.frames, self.resize or self.size, self.width)
        return FramesAsColours(trunk, self.width, self.resize, self.centred)

    def rehearsal(self) -> dict[str, Any]:
        """Return fewer pixels, frames and channels."""
        return {**super().rehearsal(), "width": 256}


@dataclass(frozen=True, kw_only=True)
class CMRViTB16(FramesNetwork):
    """ViT-B/16 on three phases, the other image encoder of MMCL (Turgut et al. 2025, Table IV).

    Its details are unstated: timm's, read from the class token, 78 pixels enlarged to 224.
    """

    resize: int | None = 224
    width: int = 768
    depth: int = 12
    heads: int = 12

    def build(self) -> nn.Module:
        """Make the network with fresh weights."""
        from methods.blocks.image_networks import FramesAsColours, vit_16

        size = self.resize or self.size
        trunk = vit_16(self.frames, size, self.width, self.depth, self.heads)
        return FramesAsColours(trunk, self.width, self.resize, self.centred)

    def rehearsal(self) -> dict[str, Any]:
        """Return fewer pixels, frames, channels and blocks."""
        return {**super().rehearsal(), "width": 64, "depth": 2, "heads": 2}


@dataclass(frozen=True, kw_only=True)
class CMRFramesViT(CMRViTB16):
    """ViT-B/16 on the cine, the other CMR encoder of ECCL (Ding et al. 2024, Table 1)."""

    frames: int = 50
    size: int = 80
    centred: bool = True


@dataclass(frozen=True, kw_only=True)
class PhasesResNet3D(Spec):
    """A 3D ResNet50 for each phase of the short-axis stack (Alvarez-Florez et al. 2026).

    ``phases`` names the ones that are read, of ``ed`` and ``es``; the width is that of one. The
    paper's window is unstated: 112 pixels declared. Departure: a plain 3D ResNet50, as the paper
    names it, whose features are averaged over slices; its code takes ``slow_r50``, two thirds as
    large, keeps all slices to the end and weighs them with a linear layer.
    """

    phases: tuple[str, ...] = ("ed", "es")
    slices: int = 6
    size: int = 112
    spacing: float | None = PIXEL
    width: int = 2048

    def view(self, cohort: Cohort) -> View:
        """Return the central slices at end-diastole and end-systole."""
        return EDESVolumes(cohort=cohort, slices=self.slices, size=self.size, spacing=self.spacing)

    def build(self) -> nn.Module:
        """Make the networks with fresh weights."""
        from methods.blocks.image_networks import VolumeResNet50
        from methods.blocks.phases import PhasesEncoder

        return PhasesEncoder({phase: VolumeResNet50(self.width) for phase in self.phases})

    def rehearsal(self) -> dict[str, Any]:
        """Return fewer pixels and channels."""
        return {**REHEARSED, "width": 256}


@dataclass(frozen=True, kw_only=True)
class SliceResNet50(PhasesResNet3D):
    """ResNet50 on the middle slice at end-diastole (Alvarez-Florez et al. 2026, "2D")."""

    phases: tuple[str, ...] = ("ed",)
    slices: int = 1

    def build(self) -> nn.Module:
        """Make the network with fresh weights."""
        from methods.blocks.image_networks import FramesAsColours, resnet50
        from methods.blocks.phases import PhasesEncoder

        def network() -> nn.Module:
            return FramesAsColours(resnet50(self.slices, self.width), self.width, centred=True)

        return PhasesEncoder({phase: network() for phase in self.phases})


@dataclass(frozen=True, kw_only=True)
class CineResNetLSTM(Spec):
    """ResNet50 on every frame, read in order by an LSTM (Alvarez-Florez et al. 2026, "2D+time").

    ``frame_width`` is the width of a frame's features, which a linear layer maps to ``width``,
    that of the LSTM. Training 64 people at once holds about 70 GB.
    """

    frames: int = 50
    size: int = 112
    spacing: float | None = PIXEL
    frame_width: int = 2048
    width: int = 768

    def view(self, cohort: Cohort) -> View:
        """Return the mid-slice cine."""
        return MidSliceCine(cohort=cohort, frames=self.frames, size=self.size, spacing=self.spacing)

    def build(self) -> nn.Module:
        """Make the network with fresh weights."""
        from methods.blocks.image_networks import CineLSTM

        return CineLSTM(self.frame_width, self.width)

    def rehearsal(self) -> dict[str, Any]:
        """Return fewer pixels, frames and channels."""
        return {**REHEARSED, "frames": 4, "frame_width": 256, "width": 64}

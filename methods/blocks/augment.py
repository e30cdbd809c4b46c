"""Batched augmentations of ECGs and cines, and the crop they start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark.stage import Spec

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class ECGAugment(Spec):
    """Fourier surrogate, multiplicative jitter and rescaling, after the crop.

    Defaults are MMCL's pretraining values as coded, without its flips. ``surrogate`` is the
    largest phase shift in turns, drawn once per record and shared by its leads; the jitter is
    ``x + amplitude * x * N(0, jitter)``; a record is rescaled by one draw of N(1, rescale),
    here clipped to stay positive: a negative factor would turn the heart upside down.
    """

    surrogate: float = 0.1
    surrogate_probability: float = 0.5
    jitter: float = 0.25
    jitter_amplitude: float = 0.6
    rescale: float = 0.5

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Augment (batch, leads, samples)."""
        import torch

        n = len(x)
        if self.surrogate and self.surrogate_probability:
            spectrum = torch.fft.rfft(x)
            # DC and Nyquist have no phase: turning them would leave the real signals.
            turns = torch.rand(n, 1, spectrum.shape[-1], device=x.device) * self.surrogate
            turns[..., 0] = 0
            if x.shape[-1] % 2 == 0:
                turns[..., -1] = 0
            chosen = torch.rand(n, 1, 1, device=x.device) < self.surrogate_probability
            phase = torch.polar(torch.ones_like(turns), turns * chosen * (2 * torch.pi))
            x = torch.fft.irfft(spectrum * phase, n=x.shape[-1])
        if self.jitter:
            x = x * (1 + self.jitter_amplitude * self.jitter * torch.randn_like(x))
        if self.rescale:
            factor = 1 + self.rescale * torch.randn(n, 1, 1, device=x.device)
            x = x * factor.clamp(min=0.1)
        return x


@dataclass(frozen=True, kw_only=True)
class CMRAugment(Spec):
    """Rotation, shift and intensity, the same for all frames of a cine.

    There is no zoom: it would destroy the size of the heart, which is what volumes are read from.
    ``rotation`` is the largest angle in radians, ``shift`` the largest move as a share of the
    image, ``contrast`` the SD of a gain and ``brightness`` that of an offset.
    """

    rotation: float = 0.25
    shift: float = 0.08
    contrast: float = 0.1
    brightness: float = 0.05

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Augment (batch, channels, frames, rows, columns) in [0, 1]."""
        import torch
        import torch.nn.functional as F  # noqa: N812

        shape, n, (rows, columns) = x.shape, len(x), x.shape[-2:]
        x = x.flatten(1, 2)
        angle = (torch.rand(n, device=x.device) * 2 - 1) * self.rotation
        move = (torch.rand(n, 2, device=x.device) * 2 - 1) * (2 * self.shift)
        cos, sin = angle.cos(), angle.sin()
        theta = torch.stack(
            [torch.stack([cos, -sin, move[:, 0]], 1), torch.stack([sin, cos, move[:, 1]], 1)], 1
        )
        grid = F.affine_grid(theta, [n, x.shape[1], rows, columns], align_corners=False)
        x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
        gain = 1 + self.contrast * torch.randn(n, 1, 1, 1, device=x.device)
        offset = self.brightness * torch.randn(n, 1, 1, 1, device=x.device)
        return (x * gain + offset).reshape(shape)


def random_crop(x: torch.Tensor, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a random window from each record.

    Returns
    -------
    (batch, leads, samples) and the first sample of each window (batch,).
    """
    import torch

    start = torch.randint(0, x.shape[-1] - samples + 1, (len(x),), device=x.device)
    index = start[:, None] + torch.arange(samples, device=x.device)
    return x.gather(-1, index[:, None].expand(-1, x.shape[1], -1)), start

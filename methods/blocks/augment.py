"""Batched augmentations of ECGs and cines, and the crop they start from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark.stage import Spec

if TYPE_CHECKING:
    import torch


SPECTROGRAM_SAMPLES = 120
"""Length of the Fourier transforms of a masked spectrogram."""


@dataclass(frozen=True, kw_only=True)
class ECGAugment(Spec):
    """Fourier surrogate, multiplicative jitter, rescaling, flips and a masked spectrogram.

    They follow the crop, in this order. Defaults are those of MMCL's masked autoencoder as coded
    (Turgut et al. 2025, repositories oetu/mae and oetu/MMCL-ECG-CMR); flips turn time or voltage
    upside down, which is no heart's ECG any more, and are off.

    Parameters
    ----------
    probability
        Of augmenting a record at all.
    surrogate
        Largest phase shift in turns. One is drawn for every frequency of a record and shared by its
        leads.
    surrogate_probability
        Of shifting the phases of a record.
    jitter, jitter_amplitude
        SD of the noise, and the share of each sample it is multiplied with:
        ``x + jitter_amplitude * x * N(0, jitter)``.
    rescale
        SD of the factor around 1 that a record is multiplied with. At 0.5 one in 44 is negative.
    time_flip, sign_flip
        Probability of reversing time, and of reversing all signs.
    spectrogram
        Share of the times, or in every other record of the frequencies, that is erased from the
        short-time Fourier transform, as one block that all leads share.
    """

    probability: float = 1.0
    surrogate: float = 0.1
    surrogate_probability: float = 0.5
    jitter: float = 0.25
    jitter_amplitude: float = 0.6
    rescale: float = 0.5
    time_flip: float = 0.0
    sign_flip: float = 0.0
    spectrogram: float = 0.0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Augment (batch, leads, samples)."""
        import torch

        def some(probability: float) -> torch.Tensor:
            return torch.rand(len(x), 1, 1, device=x.device) < probability

        original = x
        if self.surrogate and self.surrogate_probability:
            spectrum = torch.fft.rfft(x)
            # DC and Nyquist have no phase: turning them would leave the real signals.
            turns = torch.rand(len(x), 1, spectrum.shape[-1], device=x.device) * self.surrogate
            turns[..., 0] = 0
            if x.shape[-1] % 2 == 0:
                turns[..., -1] = 0
            turns = turns * some(self.surrogate_probability)
            phase = torch.polar(torch.ones_like(turns), turns * (2 * torch.pi))
            x = torch.fft.irfft(spectrum * phase, n=x.shape[-1])
        if self.jitter:
            x = x * (1 + self.jitter_amplitude * self.jitter * torch.randn_like(x))
        if self.rescale:
            x = x * (1 + self.rescale * torch.randn(len(x), 1, 1, device=x.device))
        if self.time_flip:
            x = torch.where(some(self.time_flip), x.flip(-1), x)
        if self.sign_flip:
            x = torch.where(some(self.sign_flip), -x, x)
        if self.spectrogram:
            x = _masked_spectrogram(x, self.spectrogram)
        if self.probability < 1:
            x = torch.where(some(self.probability), x, original)
        return x


def _masked_spectrogram(x: torch.Tensor, share: float) -> torch.Tensor:
    import torch

    n, leads, samples = x.shape
    frame = {"n_fft": SPECTROGRAM_SAMPLES, "window": x.new_ones(SPECTROGRAM_SAMPLES)}
    spectrum = torch.stft(x.flatten(0, 1), **frame, return_complex=True).unflatten(0, (n, leads))

    def block(bins: int) -> torch.Tensor:
        size = int(bins * share)
        first = torch.randint(0, bins - size + 1, (n, 1), device=x.device)
        place = torch.arange(bins, device=x.device)
        return (place >= first) & (place < first + size)

    frequencies, times = (block(bins) for bins in spectrum.shape[-2:])
    either = torch.rand(n, 1, 1, device=x.device) < 0.5
    erased = torch.where(either, times[:, None, :], frequencies[:, :, None])
    spectrum = spectrum.masked_fill(erased[:, None], 0)
    return torch.istft(spectrum.flatten(0, 1), **frame, length=samples).view_as(x)


MMCL_FINETUNE_AUGMENT = ECGAugment(surrogate=0.075, jitter=0.2)
# MMCL's loader of pairs, and its loader of ECGs alone, whose last three are not in the paper.
MMCL_ECG_AUGMENT = ECGAugment(surrogate_probability=1.0, probability=0.95)
MMCL_UNIMODAL_AUGMENT = ECGAugment(
    surrogate_probability=1.0, time_flip=0.5, sign_flip=0.5, spectrogram=0.25
)
ECCL_ECG_AUGMENT = ECGAugment(surrogate=0, jitter=0, rescale=0, time_flip=0.33, sign_flip=0.33)


@dataclass(frozen=True, kw_only=True)
class CMRAugment(Spec):
    """Geometry and intensity, the same for all frames of a cine.

    By default there is no zoom: it would destroy the size of the heart, which is what volumes are
    read from.

    Parameters
    ----------
    probability
        Of augmenting a person at all.
    flip
        Probability of a left-right mirror image.
    rotation
        Largest angle in radians; what it brings in from outside repeats the border.
    shift
        Largest move as a share of the image.
    area, ratio
        Smallest share of the image that a random crop keeps, to be enlarged to the whole, and the
        crop's largest aspect ratio.
    colour
        Largest relative change of brightness, of contrast (about the mean) and of saturation (of
        the frames about their mean, as if they were colours), as in torchvision's ``ColorJitter``.
    contrast, brightness
        SD of a gain and of an offset.
    blur
        Largest SD of a Gaussian blur in pixels.
    noise
        SD of noise in every pixel.
    """

    probability: float = 1.0
    flip: float = 0.0
    rotation: float = 0.25
    shift: float = 0.08
    area: float = 1.0
    ratio: float = 1.0
    colour: tuple[float, float, float] = (0.0, 0.0, 0.0)
    contrast: float = 0.1
    brightness: float = 0.05
    blur: float = 0.0
    noise: float = 0.0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Augment (batch, channels, frames, rows, columns) in [0, 1]."""
        import torch

        n = len(x)
        images = self._moved(x.flatten(1, 2))
        if any(self.colour):
            images = _recoloured(images, self.colour)
        if self.contrast or self.brightness:
            gain = 1 + self.contrast * torch.randn(n, 1, 1, 1, device=x.device)
            offset = self.brightness * torch.randn(n, 1, 1, 1, device=x.device)
            images = images * gain + offset
        if self.blur:
            images = _blurred(images, self.blur)
        if self.noise:
            images = images + self.noise * torch.randn_like(images)
        images = images.reshape(x.shape)
        if self.probability < 1:
            chosen = torch.rand(n, *[1] * (x.ndim - 1), device=x.device) < self.probability
            images = torch.where(chosen, images, x)
        return images

    def _moved(self, x: torch.Tensor) -> torch.Tensor:
        """Crop, rotate, shift and mirror (batch, frames, rows, columns) in one interpolation."""
        import torch
        import torch.nn.functional as F  # noqa: N812

        n = len(x)
        angle = (torch.rand(n, device=x.device) * 2 - 1) * self.rotation
        move = (torch.rand(n, 2, device=x.device) * 2 - 1) * (2 * self.shift)
        cos, sin = angle.cos(), angle.sin()
        turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
        if self.area < 1:
            kept = 1 - (1 - self.area) * torch.rand(n, 1, device=x.device)
            stretch = (torch.rand(n, 1, device=x.device) * 2 - 1) * math.log(self.ratio)
            size = (kept * torch.cat([stretch, -stretch], 1).exp()).sqrt().clamp(max=1)
            centre = (torch.rand(n, 2, device=x.device) * 2 - 1) * (1 - size)
            move = move + (turn @ centre[..., None])[..., 0]
            turn = turn * size[:, None]
        theta = torch.cat([turn, move[..., None]], -1)
        if self.flip:
            mirrored = torch.rand(n, 1, device=x.device) < self.flip
            theta[:, 0] = torch.where(mirrored, -theta[:, 0], theta[:, 0])
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _recoloured(x: torch.Tensor, largest: tuple[float, float, float]) -> torch.Tensor:
    """Blend (batch, frames, rows, columns) with black, its mean and the mean of its frames."""
    import torch

    for change, axes in zip(largest, (None, (1, 2, 3), 1), strict=True):
        if change:
            factor = 1 + change * (torch.rand(len(x), 1, 1, 1, device=x.device) * 2 - 1)
            other = 0.0 if axes is None else x.mean(axes, keepdim=True)
            x = (factor * x + (1 - factor) * other).clamp(0, 1)
    return x


def _blurred(x: torch.Tensor, largest: float) -> torch.Tensor:
    """Blur each person's (frames, rows, columns) with an SD of up to ``largest`` pixels."""
    import torch

    # Away from zero, so that a pixel's weight for itself is not 0 / 0.
    sd = (largest * torch.rand(len(x), 1, 1, 1, device=x.device)).clamp(min=0.1)

    def kernel(pixels: int) -> torch.Tensor:
        at = torch.arange(pixels, device=x.device)
        return (-0.5 * ((at[:, None] - at) / sd).square()).softmax(-1)

    return kernel(x.shape[-2]) @ x @ kernel(x.shape[-1]).mT


_PLAIN = CMRAugment(rotation=0, shift=0, contrast=0, brightness=0)
# As coded: the paper has saturation 0.25 and rotates every other image. Departures from what runs
# there: steps in a fixed order, borders repeated where theirs are black, crops wider than the image
# clipped where theirs are drawn again, frames that count the same where torchvision weighs green
# most.
MMCL_CMR_AUGMENT = _PLAIN.replace(
    probability=0.95,
    flip=0.5,
    rotation=math.radians(45),
    area=0.6,
    ratio=4 / 3,
    colour=(0.5, 0.5, 0.5),
)
ECCL_CMR_AUGMENT = _PLAIN.replace(flip=0.5, rotation=math.radians(15), area=0.8, ratio=1.1)
# The paper lists these transformations without a number: those of MMCL, and declared ones for
# what MMCL has not (blur, noise).
PTACL_CMR_AUGMENT = MMCL_CMR_AUGMENT.replace(
    probability=1, colour=(0.5, 0.5, 0), blur=1, noise=0.02
)
DUAL_CMR_AUGMENT = _PLAIN.replace(flip=0.5)


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

"""From a scanner's short-axis stack to the images of a cohort. Pure: no file, no person."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from benchmark.api import UserError
from benchmark.cohorts.ukb.cine import Cine
from benchmark.cohorts.ukb.crop import CROPS, heart_centre
from benchmark.cohorts.ukb.reasons import Reason, Refused
from benchmark.cohorts.views import end_systole, resample_cycle

SLICES = 8
SLICE_DISTANCE = 10.0  # mm, as UK Biobank's protocol has it
WHITE_PERCENTILE = 99.9
LV_CAVITY = 1


@dataclass(frozen=True)
class ImageOptions:
    """How a cohort's images are made.

    Attributes
    ----------
    frames
        Per heart beat; another number is resampled over the cycle.
    size
        Pixels per side.
    spacing
        mm per pixel.
    crop
        Of `benchmark.cohorts.ukb.crop.CROPS`.
    long_axis
        Whether four-chamber cines are kept; people without one are then left out.

    Raises
    ------
    UserError
        For values that give no image.
    """

    frames: int = 50
    size: int = 80
    spacing: float = 1.8
    crop: str = "auto"
    long_axis: bool = False

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise UserError(f"--crop is {self.crop!r}; known: {', '.join(CROPS)}")
        for name, least in (("frames", 2), ("size", 8), ("spacing", 0.1)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise UserError(f"--{name} is {value:g}; at least {least:g} is needed")


@dataclass(frozen=True)
class Images:
    """What a cohort keeps of one person's short-axis stack.

    Attributes
    ----------
    cine
        (1, frames, size, size) uint8, the middle slice.
    volumes
        (2, `SLICES`, size, size) uint8: end-diastole and end-systole, base to apex; black where
        the stack has no slice.
    crop
        How the heart was found, one of `benchmark.cohorts.ukb.crop.CROPS`.
    systole
        Number of the end-systolic frame of the stack.
    resampled
        Whether the stack had another number of frames.
    """

    cine: np.ndarray
    volumes: np.ndarray
    crop: str
    systole: int
    resampled: bool


def assemble_images(stack: Cine, options: ImageOptions) -> Images:
    """Crop around the heart, resample, pick the slices and phases, and scale to uint8.

    The middle slice is number n // 2 of n, or of those that hold the left ventricle where a
    segmentation tells. End-systole is the frame with the smallest left ventricular cavity of the
    segmentation, else `end_systole` of the middle slice. One factor scales all of a person's
    images, so that slices and phases keep their relation: their 99.9th percentile becomes white,
    which a few bright pixels of fat or flow cannot move.

    Parameters
    ----------
    stack
        Short axis, base to apex, end-diastole first.
    options
        Of the cohort.

    Raises
    ------
    Refused
        When no heart is found or the images hold no signal.
    """
    centre, used = heart_centre(stack, options.crop)
    frames = stack.frames
    middle, systole = _ventricle(stack)
    if middle is None:
        middle = len(frames) // 2
    cine = resample(frames[middle], stack.spacing, centre, options)
    if not systole:
        systole = end_systole(cine)
    step = SLICE_DISTANCE / (stack.gap or SLICE_DISTANCE)
    volumes = np.zeros((2, SLICES, options.size, options.size), np.float32)
    for place in range(SLICES):
        number = middle + round((place - SLICES // 2) * step)
        if 0 <= number < len(frames):
            phases = frames[number][[0, systole]]
            volumes[:, place] = resample(phases, stack.spacing, centre, options)
    resampled = len(cine) != options.frames
    if resampled:
        cine = resample_cycle(cine, options.frames)
    white = np.percentile(np.concatenate([cine.ravel(), volumes.ravel()]), WHITE_PERCENTILE)
    return Images(
        cine=to_uint8(cine, white)[None],
        volumes=to_uint8(volumes, white),
        crop=used,
        systole=systole,
        resampled=resampled,
    )


def _ventricle(stack: Cine) -> tuple[int | None, int | None]:
    """Return the middle slice of the left ventricle and end-systole, as a segmentation tells."""
    if stack.segmentation is None:
        return None, None
    cavity = (stack.segmentation == LV_CAVITY).sum(axis=(2, 3))  # slices, segmented frames
    if not cavity.any():
        return None, None
    held = np.flatnonzero(cavity.any(axis=1))
    systole = stack.segmented_frames[int(cavity.sum(axis=0).argmin())]
    return int(held[0] + held[-1] + 1) // 2, systole


def assemble_long_axis(long_axis: Cine, options: ImageOptions) -> np.ndarray:
    """Return (frames, size, size) uint8 from a four-chamber cine.

    Cropped around what moves, as the short axis without a segmentation; under ``fixed`` around
    MMCL's place.

    Raises
    ------
    Refused
        When no heart is found or the images hold no signal.
    """
    centre, _ = heart_centre(long_axis, "fixed" if options.crop == "fixed" else "motion")
    images = resample(long_axis.frames[0], long_axis.spacing, centre, options)
    if len(images) != options.frames:
        images = resample_cycle(images, options.frames)
    return to_uint8(images, np.percentile(images, WHITE_PERCENTILE))


def resample(
    images: np.ndarray,
    spacing: float,
    centre: tuple[float, float],
    options: ImageOptions,
) -> np.ndarray:
    """Cut (..., size, size) float32 around a centre at the options' spacing; black outside.

    Linear. Where pixels become larger the images are smoothed first, as scikit-image's ``resize``
    does, so that detail that is too fine is averaged and not aliased. Pixels of equal size are
    copied unchanged.
    """
    for axis, middle in zip((-2, -1), centre, strict=True):
        images = _resample_axis(images, axis, options.spacing / spacing, middle, options.size)
    return images


def _resample_axis(
    images: np.ndarray, axis: int, step: float, middle: float, size: int
) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    images = images.astype(np.float32, copy=False)
    if step > 1:
        images = gaussian_filter1d(images, (step - 1) / 2, axis, mode="nearest")
    length = images.shape[axis]
    # Begins on a whole pixel: the centre is not known to a fraction of one, and copies stay sharp.
    position = round(middle - step * (size - 1) / 2) + step * np.arange(size)
    before = np.floor(position).astype(int)
    share = position - before
    inside = (position > -0.5) & (position < length - 0.5)
    shape = [-1 if k == axis % images.ndim else 1 for k in range(images.ndim)]
    out = np.float32(0)
    # Not a matrix product, whose rounding depends on the number of threads.
    for tap, weight in ((before, 1 - share), (before + 1, share)):
        weight = np.where(inside, weight, 0).astype(np.float32).reshape(shape)
        out = out + weight * np.take(images, tap, axis, mode="clip")
    return out


def to_uint8(images: np.ndarray, white: float) -> np.ndarray:
    """Scale 0 to black and ``white`` to 255; `Refused` when there is no signal."""
    if not white > 0:
        raise Refused(Reason.NO_SIGNAL)
    return np.rint(np.clip(images * np.float32(255 / white), 0, 255)).astype(np.uint8)

"""What methods see of the CMR: cines, phases and stacks, cropped around the heart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchmark.api import UserError
from benchmark.cohorts.views.blockwise import BlockwiseView

if TYPE_CHECKING:
    from benchmark.cohorts.cohort import CohortData

SAME_PIXELS = 0.01  # pixels that differ by no more than this share are not resampled


@dataclass(frozen=True, kw_only=True)
class ImageView(BlockwiseView):
    """A view of images, as uint8.

    Parameters
    ----------
    size
        Pixels per side, cropped from or padded around the centre.
    spacing
        mm per pixel, to which the cohort's images are resampled linearly; None leaves them as they
        are. Cohorts differ in it, and a pixel should mean the same to a method in all of them.
    """

    modality: ClassVar[str] = "cmr"
    dtype: ClassVar[str] = "uint8"
    source: ClassVar[str] = "cine"
    """Array of `CohortData` that the view is made of."""
    content: ClassVar[str] = "short-axis cine"

    size: int
    spacing: float | None = None

    def select(self, images: np.ndarray) -> np.ndarray:
        """Return what is needed of some people's images, (people, times, ..., height, width)."""
        return images

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Return one person's entry from (times, ..., height, width) uint8 in the view's pixels."""
        raise NotImplementedError

    def entries(self, data: CohortData, rows: slice) -> np.ndarray:
        """Prepare the stored images of some people."""
        if not data.has(self.source):
            raise UserError(f"{type(self).__name__}: this cohort holds no {self.content}")
        ratio = 1.0
        if self.spacing is not None and abs(data.about["spacing"] / self.spacing - 1) > SAME_PIXELS:
            ratio = data.about["spacing"] / self.spacing
        people = self.select(getattr(data, self.source)[rows])
        return np.stack([self.prepare(_resample_pixels(p, ratio, self.size)) for p in people])


@dataclass(frozen=True, kw_only=True)
class MidSliceCine(ImageView):
    """Cine of the middle short-axis slice, min-max scaled per person.

    Parameters
    ----------
    frames
        Over one heart beat, frame 0 at the R peak; another number of frames in the cohort is
        resampled linearly in time, the last frame being followed by the first.
    size, spacing
        As of `ImageView`.
    """

    cost: ClassVar[float] = 0.2e-3

    frames: int = 26
    size: int = 84

    @property
    def shape(self) -> tuple[int, ...]:
        """One channel, frames, height, width."""
        return 1, self.frames, self.size, self.size

    def select(self, images: np.ndarray) -> np.ndarray:
        """Take the middle slice."""
        return images[:, images.shape[1] // 2]

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Resample in time, crop and scale one cine."""
        images = _crop(images, self.size)
        if len(images) != self.frames:
            images = resample_cycle(images, self.frames)
        return _pad(_min_max(images), self.size)[None]


@dataclass(frozen=True, kw_only=True)
class LongAxisCine(MidSliceCine):
    """Four-chamber cine, treated as `MidSliceCine` treats the short axis."""

    source: ClassVar[str] = "long_axis"
    content: ClassVar[str] = "long-axis images"

    def select(self, images: np.ndarray) -> np.ndarray:
        """Take the one plane there is."""
        return images


@dataclass(frozen=True, kw_only=True)
class ThreePhases(ImageView):
    """End-diastole, the frame midway to end-systole, and end-systole, in this order.

    The content of MMCL's view (Turgut et al. 2025), which stacks the same three phases of the
    middle slice as channels. End-diastole is frame 0; see `end_systole`.

    Parameters
    ----------
    size, spacing
        As of `ImageView`.
    """

    cost: ClassVar[float] = 0.4e-3

    @property
    def shape(self) -> tuple[int, ...]:
        """One channel, three phases, height, width."""
        return 1, 3, self.size, self.size

    def select(self, images: np.ndarray) -> np.ndarray:
        """Take the middle slice."""
        return images[:, images.shape[1] // 2]

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Pick, crop and scale the phases of one cine."""
        systole = end_systole(images)
        phases = _crop(images[[0, (systole + 1) // 2, systole]], self.size)
        return _pad(_min_max(phases), self.size)[None]


@dataclass(frozen=True, kw_only=True)
class EDESVolumes(ImageView):
    """Central slices of the short-axis stack at end-diastole and end-systole, base to apex.

    Scaled as one, so that grey levels mean the same in both phases.

    Parameters
    ----------
    slices
        How many; an odd one out is taken at the base.
    size, spacing
        As of `ImageView`.
    """

    source: ClassVar[str] = "volumes"
    content: ClassVar[str] = "short-axis stacks"
    cost: ClassVar[float] = 0.2e-3

    slices: int = 6

    @property
    def shape(self) -> tuple[int, ...]:
        """Two phases, slices, height, width."""
        return 2, self.slices, self.size, self.size

    def select(self, images: np.ndarray) -> np.ndarray:
        """Take the central slices."""
        stored = images.shape[2]
        if self.slices > stored:
            raise UserError(f"EDESVolumes needs {self.slices} slices; this cohort holds {stored}")
        first = (stored - self.slices) // 2
        return images[:, :, first : first + self.slices]

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Crop and scale one person's stacks."""
        return _pad(_min_max(_crop(images, self.size)), self.size)


@dataclass(frozen=True, kw_only=True)
class LeftVentricle(ImageView):
    """Where the left ventricle truly is in the middle slice at end-diastole, cavity and muscle.

    In the pixels of any view of that slice that has the same size and spacing; where pixels are
    resampled, the part of each that it fills.
    """

    modality: ClassVar[str] = "truth"
    source: ClassVar[str] = "masks"
    content: ClassVar[str] = "true segmentation"

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width."""
        return self.size, self.size

    def select(self, images: np.ndarray) -> np.ndarray:
        """Take cavity and muscle, which are 1 and 2."""
        return 255 * np.isin(images[:, :1], (1, 2)).astype(np.uint8)

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Crop one person's mask."""
        return np.rint(_pad(_crop(images, self.size), self.size)[0]).astype(np.uint8)


def end_systole(cine: np.ndarray) -> int:
    """Find the frame of a short-axis cine with the smallest central blood pool.

    As the ventricles contract, bright blood gives way to dark muscle. The mean brightness of the
    pixels that change with the heart beat therefore follows the blood pool; they are weighted by
    how much their SD over time exceeds that of the median pixel, inside the central disc that holds
    the heart. Needs no segmentation and no label. Only frames between 0.1 and 0.7 of the cycle,
    which starts at the R peak, can be end-systolic.

    Parameters
    ----------
    cine
        (frames, height, width) of one slice.
    """
    cine = np.asarray(cine, dtype=np.float32)
    frames, height, width = cine.shape
    y, x = np.ogrid[:height, :width]
    radius = np.hypot((y - (height - 1) / 2) / height, (x - (width - 1) / 2) / width)
    change = cine.std(axis=0)
    weight = np.where(radius < 0.4, np.maximum(change - np.median(change), 0), 0)
    pool = np.tensordot(cine, weight, axes=2)
    first, last = math.ceil(0.1 * frames), int(0.7 * frames)
    return first + int(np.argmin(pool[first : last + 1]))


def resample_cycle(cine: np.ndarray, frames: int) -> np.ndarray:
    """Give a cine (frames, ...) of one heart beat another number of frames, linearly in time.

    The last frame is followed by the first.
    """
    position = np.arange(frames) * len(cine) / frames
    before = position.astype(int)
    share = (position - before).astype(np.float32)[:, None, None]
    return (1 - share) * cine[before] + share * cine[(before + 1) % len(cine)]


def _resample_pixels(images: np.ndarray, ratio: float, size: int) -> np.ndarray:
    """Give images (..., height, width) ``ratio`` times as many pixels a side, about the centre.

    No more than ``size`` a side are made, as the rest would be cropped, and otherwise a number
    that leaves equal borders to be padded.
    """
    if ratio == 1:
        return images
    from scipy import ndimage

    whole = [min(size, max(2, int(extent * ratio))) for extent in images.shape[-2:]]
    shape = [made - (size - made) % 2 for made in whole]
    stack = images.reshape(-1, *images.shape[-2:]).astype(np.float32)
    # Centres fall on centres, so that the same anatomy stays in the middle.
    offset = [
        (extent - 1) / 2 - (made - 1) / 2 / ratio
        for extent, made in zip(images.shape[-2:], shape, strict=True)
    ]
    made = ndimage.affine_transform(
        stack,
        [1, 1 / ratio, 1 / ratio],
        [0, *offset],
        (len(stack), *shape),
        order=1,
        mode="nearest",
    )
    return made.reshape(*images.shape[:-2], *shape)


def _crop(images: np.ndarray, size: int) -> np.ndarray:
    top, left = (max(0, (extent - size) // 2) for extent in images.shape[-2:])
    return images[..., top : top + size, left : left + size]


def _pad(images: np.ndarray, size: int) -> np.ndarray:
    missing = [size - extent for extent in images.shape[-2:]]
    around = [(m // 2, m - m // 2) for m in missing]
    return np.pad(images, [(0, 0)] * (images.ndim - 2) + around)


def _min_max(images: np.ndarray) -> np.ndarray:
    """Scale to [0, 1], stored as uint8; an image without contrast becomes zero."""
    low, high = float(images.min()), float(images.max())
    scaled = (images.astype(np.float32) - low) * (255 / max(high - low, 1e-6))
    return np.rint(scaled).astype(np.uint8)

"""What methods see of a cohort: cleaned ECG, R peaks, beats, cines, phases, stacks, covariates.

An array of uint8 stands for numbers in [0, 1]: its value x means x / 255.

Method files import this module to name their views, so it imports numpy and nothing heavier; the
rest is loaded by the work itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchmark.api import Context, UserError, View

if TYPE_CHECKING:
    from benchmark.cohorts.cohort import CohortData

RECORD_SECONDS = 10.0
SAME_PIXELS = 0.01  # pixels that differ by no more than this share are not resampled
MARK_EVERY = 30.0  # seconds between notes of how far a view is; less is not worth resuming


@dataclass(frozen=True, kw_only=True)
class BlockwiseView(View):
    """A view computed block by block of people, each person independently of all others."""

    pools: ClassVar[bool] = True
    dtype: ClassVar[str] = "float32"
    block: ClassVar[int] = 32
    cost: ClassVar[float] = 0.0
    """Seconds for one person on one core of 2024."""

    def entries(self, data: CohortData, rows: slice) -> np.ndarray:
        """Return (people, *shape) of some people of the cohort."""
        raise NotImplementedError

    def run(self, context: Context) -> None:
        """Compute the blocks that an earlier attempt did not finish."""
        from benchmark.cohorts.cohort import CohortData

        data = CohortData(context.open(self.cohort))
        shape = (len(data.people), *self.shape)
        _fill(context, shape, self.dtype, self.block, lambda rows: self.entries(data, rows))

    def estimate(self) -> tuple[float, float]:
        """From the measured seconds per person; 6,000 people where the cohort does not say."""
        people = getattr(self.cohort, "people", 6000)
        size = math.prod(self.shape) * np.dtype(self.dtype).itemsize
        return 1 + people * self.cost, people * size


def _fill(
    context: Context,
    shape: tuple[int, ...],
    dtype: str,
    block: int,
    compute: Callable[[slice], np.ndarray],
) -> None:
    """Write ``array.npy``, whose rows ``compute`` gives for a slice of people.

    Threads rather than processes: scipy's filters and numpy let go of the interpreter. Two threads
    clean 2.1 times as fast as one and measure beats 1.3 times as fast (two processes: 1.8 and 1.7,
    once started), with nothing to start, to send or to outlive a kill.
    """
    from benchmark.cohorts.arrays import create_array

    people = shape[0]
    path, mark = context.resume / "array.npy", context.resume / "done"
    done = int(mark.read_text()) if mark.exists() else 0
    array = np.load(path, mmap_mode="r+") if done else create_array(path, shape, dtype)
    context.progress(done, people, unit="people")

    def work(rows: slice) -> int:
        array[rows] = compute(rows)
        return rows.stop

    marked = time.monotonic()
    pool = ThreadPoolExecutor(max(1, context.workers))
    try:
        starts = range(done, people, block)
        # map yields in order, so every row before a finished block is finished too.
        for done in pool.map(work, (slice(s, min(s + block, people)) for s in starts)):
            context.progress(done, people, unit="people")
            if time.monotonic() - marked > MARK_EVERY:
                array.flush()  # first, or a power cut could leave the mark without the rows
                _replace(mark, str(done))
                marked = time.monotonic()
    finally:
        pool.shutdown(cancel_futures=True)
    array.flush()
    mark.unlink(missing_ok=True)  # first: a mark without its array could not be resumed from
    path.rename(context.out / "array.npy")


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


# ------------------------------------------------------------------------------------- ECG


@dataclass(frozen=True, kw_only=True)
class ECGView(BlockwiseView):
    """A view of the ECG that a single recording can be given too."""

    def prepare(self, ecg_mv: np.ndarray) -> np.ndarray:
        """Return (people, *shape) from (people, 12, samples) float32 in mV at 500 Hz, up to 10 s.

        What one person gets does not depend, to the last bit, on who else is in the array.
        """
        raise NotImplementedError

    def entries(self, data: CohortData, rows: slice) -> np.ndarray:
        """Prepare the stored records of some people."""
        from benchmark.cohorts.cohort import ECG_MILLIVOLT

        return self.prepare((data.ecg[rows] * ECG_MILLIVOLT).astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class CleanECG(ECGView):
    """Cleaned and scaled ECG.

    Parameters
    ----------
    rate
        Hz.
    seconds
        Kept from the start of the record.
    window
        Seconds of the crops a method is trained on; at evaluation the features of the windows that
        tile the record are averaged.
    recipe
        Who cleans and scales: ``harmonised`` (`benchmark.cohorts.ecg.clean`, then a z-score within
        the three lead groups of what is kept), or a recipe of `benchmark.cohorts.cleaning`, which
        does both to the whole record; ``eccl_trend`` counts the R peaks for its heart rate.
    first_window
        Evaluate the first window alone, as MMCL does.
    """

    COSTS: ClassVar[Mapping[str, float]] = MappingProxyType(
        {
            "harmonised": 3e-3,
            "mmcl_als": 12e-3,
            "eccl_trend": 8e-3,
            "dual_hp_notch_sg": 8e-3,
            "ptacl_wavelet8": 6e-3,
            "none": 0.3e-3,
        }
    )
    """`cost` of every recipe there is."""

    rate: int = 500
    seconds: float = RECORD_SECONDS
    window: float = 5.0
    recipe: str = "harmonised"
    first_window: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.window <= self.seconds <= RECORD_SECONDS:
            raise UserError(
                f"CleanECG needs 0 < window <= seconds <= {RECORD_SECONDS:g}, "
                f"not window {self.window:g} and seconds {self.seconds:g}"
            )
        if self.recipe not in self.COSTS:
            raise UserError(
                f"no cleaning is called {self.recipe!r}; there is {', '.join(self.COSTS)}"
            )

    @property
    def cost(self) -> float:
        """Seconds for one person; most of it is the recipe's."""
        return self.COSTS[self.recipe]

    @property
    def dtype(self) -> str:
        """Half precision, which on scaled records is finer than the device's steps of 5 uV.

        Not on mV as recorded: the offset of an electrode would take all of it.
        """
        return "float32" if self.recipe == "none" else "float16"

    @property
    def shape(self) -> tuple[int, ...]:
        """12 leads by samples."""
        return 12, round(self.seconds * self.rate)

    def crops(self) -> tuple[slice, ...]:
        """Return the windows that tile the record from its start, or the first of them."""
        return self._windows()[:1] if self.first_window else self._windows()

    def _windows(self) -> tuple[slice, ...]:
        size = round(self.window * self.rate)
        return tuple(slice(k * size, (k + 1) * size) for k in range(self.shape[-1] // size))

    def prepare(self, ecg_mv: np.ndarray) -> np.ndarray:
        """Clean, resample and scale records.

        Records shorter than the view get the view's windows spread evenly over them, overlapping,
        so that no window holds anything but signal.
        """
        scaled = self._scaled(ecg_mv).astype(self.dtype)
        if scaled.shape[1:] == self.shape:
            return scaled
        windows = self._windows()
        size, last = windows[0].stop, scaled.shape[-1] - windows[0].stop
        if last < 0:
            from benchmark.cohorts.cohort import ECG_RATE

            raise UserError(
                f"the recording has {ecg_mv.shape[-1] / ECG_RATE:.1f} s of signal; "
                f"the method needs {self.window:g} s"
            )
        out = np.zeros((len(scaled), *self.shape), dtype=self.dtype)
        for window, start in zip(windows, np.linspace(0, last, len(windows)), strict=True):
            out[..., window] = scaled[..., round(start) : round(start) + size]
        return out

    def _scaled(self, ecg_mv: np.ndarray) -> np.ndarray:
        from benchmark.cohorts import cleaning, ecg
        from benchmark.cohorts.cohort import ECG_RATE

        if self.recipe == "harmonised":
            cleaned = ecg.resample(ecg.clean(ecg_mv, ECG_RATE), ECG_RATE, self.rate)
            return ecg.lead_group_zscore(cleaned[..., : self.shape[-1]])
        scaled = cleaning.clean(self.recipe, ecg_mv, ECG_RATE)
        return ecg.resample(scaled, ECG_RATE, self.rate)[..., : self.shape[-1]]


@dataclass(frozen=True, kw_only=True)
class RPeaks(ECGView):
    """Detected R peaks in seconds from the start of the 10 s, NaN behind the last one.

    Parameters
    ----------
    most
        Peaks kept; 40 is 240 beats per minute.
    """

    modality: ClassVar[str] = "timing"
    cost: ClassVar[float] = 5e-3

    most: int = 40

    @property
    def shape(self) -> tuple[int, ...]:
        """One number per peak."""
        return (self.most,)

    def prepare(self, ecg_mv: np.ndarray) -> np.ndarray:
        """Detect the peaks of each record."""
        from benchmark.cohorts import ecg
        from benchmark.cohorts.cohort import ECG_RATE

        out = np.full((len(ecg_mv), self.most), np.nan, dtype=np.float32)
        for row, cleaned in zip(out, ecg.clean(ecg_mv, ECG_RATE), strict=True):
            peaks = ecg.r_peaks(cleaned, ECG_RATE)[: self.most]
            row[: len(peaks)] = peaks
        return out


@dataclass(frozen=True, kw_only=True)
class BeatFeatures(ECGView):
    """Median beat of leads I, II, V1-V6 in mV, then `SCALARS` numbers about rate and intervals.

    The beat runs from 0.25 s before to 0.45 s after the R peak, lead after lead. The scalars are
    heart rate (per minute), log RMSSD (ms, at least 1), QRS duration and QT interval (ms). A record
    with fewer than three beats is NaN throughout, a single scalar where it cannot be measured.

    Parameters
    ----------
    rate
        Hz of the median beat.
    """

    SCALARS: ClassVar[int] = 4
    cost: ClassVar[float] = 7e-3
    before: ClassVar[float] = 0.25
    after: ClassVar[float] = 0.45

    rate: int = 125

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples of eight leads, and the scalars."""
        samples = round((self.before + self.after) * 500)  # before resampling
        return (8 * math.ceil(samples * self.rate / 500) + self.SCALARS,)

    def prepare(self, ecg_mv: np.ndarray) -> np.ndarray:
        """Measure each record."""
        from benchmark.cohorts import ecg
        from benchmark.cohorts.cohort import ECG_RATE

        return np.stack([self._measure(cleaned) for cleaned in ecg.clean(ecg_mv, ECG_RATE)])

    def _measure(self, cleaned: np.ndarray) -> np.ndarray:
        from benchmark.cohorts import ecg
        from benchmark.cohorts.cohort import ECG_RATE

        peaks = ecg.r_peaks(cleaned, ECG_RATE)
        if len(peaks) < 3:
            return np.full(self.shape, np.nan, dtype=np.float32)
        beat = ecg.median_beat(
            cleaned[list(ecg.INDEPENDENT)], peaks, ECG_RATE, self.before, self.after
        )
        beat = ecg.resample(beat, ECG_RATE, self.rate)
        measured = ecg.intervals(cleaned, peaks, ECG_RATE)
        scalars = measured.heart_rate, np.log(max(measured.rmssd, 1)), measured.qrs, measured.qt
        return np.concatenate([beat.ravel(), scalars]).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class MedianBeat(ECGView):
    """Median beat of all 12 leads at 500 Hz, 0.45 s before to 0.75 s after the R peak.

    The 12 x 600 numbers that the cross-modal autoencoder reads (Radhakrishnan et al., Nature
    Communications 14, 2023). Its published code (``ecg_rest_median_raw_10`` of ml4h) divides what
    the device wrote, in steps of 5 uV, by 10, so 1 stands for 50 uV here. UK Biobank's device finds
    that beat itself, by an unpublished method and alignment, and other cohorts have none: it is
    measured here for all alike, after the harmonised cleaning, on beats aligned at their R peaks.

    Finite throughout, because it goes straight into a network: a record of which no whole beat is
    found is a flat line. Other than in the record itself nothing tells of rhythm, so an irregular
    one, as in atrial fibrillation, cannot be seen.
    """

    dtype: ClassVar[str] = "float16"  # finer than a device's step up to 6 mV
    cost: ClassVar[float] = 8e-3
    before: ClassVar[float] = 0.45
    after: ClassVar[float] = 0.75
    unit: ClassVar[float] = 0.05
    """mV that the value 1 stands for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """12 leads by samples."""
        return 12, 600

    def prepare(self, ecg_mv: np.ndarray) -> np.ndarray:
        """Measure each record."""
        from benchmark.cohorts import ecg
        from benchmark.cohorts.cohort import ECG_RATE

        out = np.zeros((len(ecg_mv), *self.shape), dtype=self.dtype)
        for row, cleaned in zip(out, ecg.clean(ecg_mv, ECG_RATE), strict=True):
            peaks = ecg.r_peaks(cleaned, ECG_RATE)
            beat = ecg.median_beat(cleaned, peaks, ECG_RATE, self.before, self.after)
            row[:] = np.nan_to_num(beat / self.unit)
        return out


def prepare_recording(ecg_mv: np.ndarray, rate: float, view: ECGView) -> np.ndarray:
    """Give a single recording the treatment of the people a method was trained on.

    The first 10 s at 500 Hz enter the view, as they do for a cohort.

    Parameters
    ----------
    ecg_mv
        (12, samples) in mV.
    rate
        Hz.
    view
        Of the method's training.

    Returns
    -------
    np.ndarray
        (1, *view.shape) in the view's dtype.

    Raises
    ------
    UserError
        For a recording shorter than one window of a `CleanECG`.
    """
    from benchmark.cohorts import ecg
    from benchmark.cohorts.cohort import ECG_RATE, ECG_SAMPLES

    samples = ecg.resample(ecg_mv, rate, ECG_RATE)[:, :ECG_SAMPLES].astype(np.float32)
    return view.prepare(samples[None])


# ------------------------------------------------------------------------------------- CMR


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


# ------------------------------------------------------------------------------------- covariates


@dataclass(frozen=True, kw_only=True)
class Covariates(BlockwiseView):
    """Age (years), sex (1 male), height (cm) and weight (kg), NaN where missing."""

    modality: ClassVar[str] = "covariates"
    block: ClassVar[int] = 100_000

    @property
    def shape(self) -> tuple[int, ...]:
        """One number per covariate."""
        return (4,)

    def entries(self, data: CohortData, rows: slice) -> np.ndarray:
        """Read the table of people."""
        from benchmark.cohorts.cohort import COVARIATES

        return data.people[list(COVARIATES)].to_numpy(np.float32, na_value=np.nan)[rows]

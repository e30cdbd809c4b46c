"""What methods see of the ECG: cleaned recordings, R peaks, beat features, the median beat."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchmark.api import UserError
from benchmark.cohorts.views.blockwise import BlockwiseView

if TYPE_CHECKING:
    from benchmark.cohorts.cohort import CohortData

RECORD_SECONDS = 10.0


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

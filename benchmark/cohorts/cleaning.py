"""The ECG cleaning of each paper, step by step as its code or text has it, quirks included.

What every method gets in a fair comparison is `benchmark.cohorts.ecg.clean`; these recipes are for
reproducing a paper as published. Their constants count samples, so all of them are for 500 Hz.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from scipy import signal

from benchmark.api import UserError
from benchmark.cohorts import ecg
from benchmark.cohorts.cohort import ECG_RATE

FALLBACK_HEART_RATE = 60.0  # per minute, of a record in which no beat is found
FASTEST_HEART_RATE = 300.0  # per minute; a device that reports more has counted T waves or noise


def clean(
    name: str, ecg_mv: np.ndarray, rate: float, heart_rate: np.ndarray | None = None
) -> np.ndarray:
    """Clean and scale ECGs as a paper does.

    What one person gets does not depend, to the last bit, on who else is in the array.

    Parameters
    ----------
    name
        Of a recipe in `RECIPES`.
    ecg_mv
        (people, 12, samples) in mV, finite, leads ordered as `benchmark.cohorts.cohort.LEADS`.
    rate
        Hz.
    heart_rate
        (people,) per minute, as the device measured it. Used by `eccl_trend`, which takes what is
        missing (None, or NaN for single people) or impossible from the record's own R peaks.

    Returns
    -------
    np.ndarray
        Same shape, float32 for float32 and float64 otherwise, computed in float64. In mV for
        ``none`` and without unit for all others, which end in a scaling; a lead (or group of
        leads) without any variation becomes zero.

    Raises
    ------
    UserError
        For an unknown recipe.
    ValueError
        For another rate than 500 Hz, or an array of another shape.
    """
    if name not in RECIPES:
        raise UserError(f"no cleaning is called {name!r}; there is {', '.join(RECIPES)}")
    if rate != ECG_RATE:
        raise ValueError(f"the recipes are defined at {ECG_RATE} Hz, not {rate:g}; resample first")
    ecg_mv = np.asarray(ecg_mv)
    if ecg_mv.ndim != 3 or ecg_mv.shape[1] != 12:
        raise ValueError(f"(people, 12, samples) is expected, not {ecg_mv.shape}")
    dtype = np.float32 if ecg_mv.dtype == np.float32 else np.float64
    return RECIPES[name](ecg_mv.astype(np.float64), heart_rate).astype(dtype, copy=False)


def mmcl_als(ecg_mv: np.ndarray, heart_rate: np.ndarray | None = None) -> np.ndarray:
    """MMCL: clip, subtract an asymmetric least squares baseline, z-score by lead group.

    Turgut et al., Medical Image Analysis 2025, and ``utils/preprocessing.py`` of its code. Clipping
    comes first and at four SDs of the whole record, about zero and not about the mean, so that it
    cuts tall QRS complexes and drags along an offset. The baseline has lambda 1e7, p 0.3 and five
    iterations; the defaults of the published function, 1e8, 0.01 and ten, are not what runs.
    """
    from pybaselines import Baseline

    x = np.ascontiguousarray(np.nan_to_num(ecg_mv))
    limit = 4 * _rows(x).std(axis=-1)[:, None, None]
    np.clip(x, -limit, limit, out=x)
    fit = Baseline(np.arange(x.shape[-1]), check_finite=False)
    for lead in x.reshape(-1, x.shape[-1]):
        # Iterations are counted from 0: four of them are five solutions.
        lead -= fit.asls(lead, lam=1e7, p=0.3, max_iter=4, tol=0)[0]
    return ecg.lead_group_zscore(x)


def eccl_trend(ecg_mv: np.ndarray, heart_rate: np.ndarray | None = None) -> np.ndarray:
    """ECCL: subtract the trend of a seasonal decomposition, scale each lead to [-1, 1].

    Ding et al., and ``utils/preprocess.py`` of its code. The trend of statsmodels'
    ``seasonal_decompose`` with a period of one beat, cut to whole samples, is a centred moving
    average over that period; for an even one the two outermost of the period + 1 samples count
    half. Within half a beat of either end, where it is not defined, it is held constant. The
    heart rate is a whole number, as the device writes it. The minimum and maximum of each lead
    become -1 and 1, which takes all voltage out of the ECG.
    """
    # A flat lead then stays exactly so: what its sums are rounded by would be scaled up to 1.
    x = ecg_mv - ecg_mv[..., :1]
    for record, rate in zip(x, _heart_rates(ecg_mv, heart_rate), strict=True):
        _subtract_trend(record, int(60 * ECG_RATE / rate))
    x -= x.min(axis=-1, keepdims=True)
    height = x.max(axis=-1, keepdims=True)
    flat = height == 0
    x /= np.where(flat, 1, height)
    x *= 2
    x -= np.where(flat, 0, 1)
    return x


def _subtract_trend(record: np.ndarray, period: int) -> None:
    """Subtract the average over one period around each sample, held constant at the ends."""
    half, samples = period // 2, record.shape[-1]
    total = np.zeros((len(record), samples + 1))
    np.cumsum(record, axis=-1, out=total[:, 1:])
    trend = total[:, 2 * half + 1 :] - total[:, : samples - 2 * half]
    if period % 2 == 0:
        trend -= record[:, 2 * half :] / 2
        trend -= record[:, : samples - 2 * half] / 2
    trend /= period
    record[:, :half] -= trend[:, :1]
    record[:, half : samples - half] -= trend
    record[:, samples - half :] -= trend[:, -1:]


def _heart_rates(ecg_mv: np.ndarray, known: np.ndarray | None) -> np.ndarray:
    """Return whole beats per minute: as known, else from the R peaks, else 60."""
    slowest = 2 * 60 * ECG_RATE / ecg_mv.shape[-1]  # a trend takes two beats

    def impossible(rates: np.ndarray) -> np.ndarray:
        return ~((rates >= slowest) & (rates <= FASTEST_HEART_RATE))

    rates = np.full(len(ecg_mv), np.nan) if known is None else np.array(known, dtype=np.float64)
    for person in np.flatnonzero(impossible(rates)):
        cleaned = ecg.clean(ecg_mv[person], ECG_RATE)
        peaks = ecg.r_peaks(cleaned, ECG_RATE)
        rates[person] = ecg.intervals(cleaned, peaks, ECG_RATE).heart_rate
    rates[impossible(rates)] = max(FALLBACK_HEART_RATE, slowest)
    return np.rint(rates)


def dual_hp_notch_sg(ecg_mv: np.ndarray, heart_rate: np.ndarray | None = None) -> np.ndarray:
    """Dual-phase: high-pass, notch, Savitzky-Golay smoothing, z-score of the record.

    The published code of the dual-phase paper. Zero-phase Butterworth high-pass (0.5 Hz, order 4)
    padded by scipy's default of 15 samples, far less than the filter rings, so that both ends keep
    a transient; zero-phase notch at 60 Hz (Q 40) although the mains in the United Kingdom have
    50 Hz; smoothing over 15 samples by cubic polynomials. The paper z-scores lead by lead, its code
    by one mean and SD over all leads, with 1e-5 (here of mV) added to the SD.
    """
    high_pass = signal.butter(4, 0.5, "highpass", fs=ECG_RATE, output="sos")
    x = signal.sosfiltfilt(high_pass, ecg_mv, axis=-1)
    x = signal.filtfilt(*signal.iirnotch(60, 40, fs=ECG_RATE), x, axis=-1)
    x = signal.savgol_filter(x, 15, 3, axis=-1)
    mean, sd = _rows(x).mean(axis=-1), _rows(x).std(axis=-1)
    return (x - mean[:, None, None]) / (sd + 1e-5)[:, None, None]


def ptacl_wavelet8(ecg_mv: np.ndarray, heart_rate: np.ndarray | None = None) -> np.ndarray:
    """PTACL: leave out bands of an eight-level wavelet transform, z-score by lead group.

    Selivanov et al., MICCAI 2025, names the eight levels, baseline and noise removal and a z-score,
    and no more. The wavelet (db6) and what is left out follow the work it cites, Martis et al.,
    Biomedical Signal Processing and Control 2013, at this sampling rate: the approximation of level
    8 (below 0.98 Hz) and the finest detail (above 125 Hz). The z-score is that of MMCL, by the same
    group.
    """
    import pywt

    bands = pywt.wavedec(ecg_mv, "db6", level=8, axis=-1)
    for left_out in (bands[0], bands[-1]):
        left_out[:] = 0
    # A record of odd length comes back with one sample more.
    x = pywt.waverec(bands, "db6", axis=-1)[..., : ecg_mv.shape[-1]]
    return ecg.lead_group_zscore(x)


def none(ecg_mv: np.ndarray, heart_rate: np.ndarray | None = None) -> np.ndarray:
    """Nothing: mV as recorded."""
    return ecg_mv


def _rows(x: np.ndarray) -> np.ndarray:
    """One contiguous row per record: its sum then does not depend on how many records there are."""
    return np.ascontiguousarray(x).reshape(len(x), -1)


RECIPES: Mapping[str, Callable[[np.ndarray, np.ndarray | None], np.ndarray]] = MappingProxyType(
    {f.__name__: f for f in (mmcl_als, eccl_trend, dual_hp_notch_sg, ptacl_wavelet8, none)}
)
"""Every recipe by name; each takes float64 (people, 12, samples) in mV and heart rates."""

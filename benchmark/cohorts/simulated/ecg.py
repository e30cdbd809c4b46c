"""The 12-lead ECG of a simulated person.

A heart vector (a sum of Gaussian waves, each along a fixed dipole) is drawn per person, repeated
along a rhythm, and seen by the leads through Dower's matrix. The wave model follows McSharry et
al., IEEE Trans Biomed Eng 2003, in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmark.cohorts.cohort import ECG_MILLIVOLT, ECG_RATE, ECG_SAMPLES, LEADS
from benchmark.cohorts.simulated.latent import BLOCK, Latent, Stream, generator

MAX_BEATS = 40
SHORTEST_RR = 330.0  # ms; 40 of them outlast the recording, so that it is always filled

_INDEPENDENT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
# Dower, Machado, Osborne, Clin Cardiol 1980; X left, Y foot, Z back.
DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
_ELECTRODE_NOISE = np.array([0.03] * 2 + [0.10] * 6)
_FIBRILLATORY = DOWER @ np.array([0.010, 0.045, -0.060])  # mV per lead

_BEAT = 600  # samples of a beat, 1.2 s
_R = 225  # the sample of the R peak in it
_BEAT_MS = (np.arange(_BEAT) - _R) * (1000 / ECG_RATE)
_TAPER = np.minimum(
    np.clip(np.arange(_BEAT) / 40, 0, 1), np.clip((_BEAT - 1 - np.arange(_BEAT)) / 60, 0, 1)
)
_SECONDS = np.arange(ECG_SAMPLES) / ECG_RATE
_DRIFT_ANGLE = 2 * np.pi * 0.06 * _SECONDS
_DRIFT = (np.sin(_DRIFT_ANGLE), np.cos(_DRIFT_ANGLE))
_BAND = 100  # Hz, upper edge of the device's filter
_MAINS = 50  # Hz


@dataclass(frozen=True)
class Parameters:
    """What the ECG shows of a person: one entry per person, times in ms, amplitudes in mV.

    ``frontal`` and ``horizontal`` are rotations of the heart vector in degrees, ``leads`` (people,
    8, 3) is the lead field, ``respiration`` is in Hz; ``lbbb`` and ``rbbb`` are 0 or 1 and the
    other entries without a unit are factors on a wave.
    """

    gain: np.ndarray
    qrs: np.ndarray
    lbbb: np.ndarray
    rbbb: np.ndarray
    pr: np.ndarray
    p_duration: np.ndarray
    p_amplitude: np.ndarray
    p_terminal: np.ndarray
    qtc: np.ndarray
    qt: np.ndarray
    t_amplitude: np.ndarray
    st: np.ndarray
    frontal: np.ndarray
    horizontal: np.ndarray
    rmssd: np.ndarray
    leads: np.ndarray
    respiration: np.ndarray
    wander: np.ndarray
    mains: np.ndarray
    muscle: np.ndarray


def draw_ecg(latent: Latent, random_state: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Record 10 s of every person of a block.

    Returns
    -------
    ecg : np.ndarray
        (people, 12, 5000) int16 in steps of 5 uV, leads ordered as `LEADS`.
    r_peaks : np.ndarray
        (people, `MAX_BEATS`) float32, seconds of the R peaks inside the recording, then NaN.
    """
    rng = generator(random_state, Stream.ECG, block)
    parameters = draw_parameters(latent, rng)
    r_samples = _draw_rhythm(latent, parameters, rng)
    beats = beat_templates(latent, parameters)
    ecg = np.empty((BLOCK, len(LEADS), ECG_SAMPLES), np.int16)
    for row in range(BLOCK):
        noise = generator(random_state, Stream.ECG_NOISE, block * BLOCK + row)
        signal = _recording_noise(parameters, row, noise)
        if latent.af_rhythm[row]:
            signal += _fibrillatory_waves(noise)
        _add_beats(signal, beats[row], r_samples[row])
        _store(signal, ecg[row])

    inside = (r_samples >= 0) & (r_samples < ECG_SAMPLES)
    seconds = np.where(inside, r_samples / ECG_RATE, np.nan)
    return ecg, np.sort(seconds, axis=1).astype(np.float32)  # sort puts NaN last


def draw_parameters(latent: Latent, rng: np.random.Generator) -> Parameters:
    """Draw waves, intervals, axes and disturbances given the cardiac state.

    Everything that depends on ``latent`` is what an ECG can tell about the heart; the deviates
    drawn here belong to the ECG alone and hide it.
    """
    n = latent.age.size
    decades, male, rate = latent.decades, latent.male, latent.heart_rate
    mass = np.log(latent.lvm / 88)
    volume = np.log(latent.lvedv / 145)
    fibrosis = latent.fibrosis - 0.3

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal((n, *shape))

    # exp(2 (fibrosis - .3)) has mean 1.12 in this population: .7% of people have LBBB.
    lbbb = rng.random(n) < 0.007 / 1.12 * np.exp(2 * fibrosis)
    rbbb = (rng.random(n) < 0.025 * np.exp(0.3 * decades)) & ~lbbb
    qrs = 89.5 + 14 * mass + 17 * volume + 3 * (male - 0.5) + 6 * normal() + 9 * fibrosis
    qtc = 415 + 8 * (1 - 2 * male) + 4 * decades + 8 * fibrosis / 0.3 + 15 * normal()
    qtc += 2 * latent.dm
    strain = np.clip(0.9 * mass - 0.25, 0, None) + 0.5 * latent.hypertrophic
    repolarisation = (
        1
        - 0.40 * latent.ischaemia
        - 1.2 * strain
        - 0.10 * latent.dm
        - 0.35 * latent.dilated
        - 0.12 * latent.hf
        + 0.25 * normal()
    )
    left_atrium = np.log(latent.la_max / 68)
    return Parameters(
        gain=np.exp(0.55 * mass - 0.016 * (latent.bmi - 26.5) + 0.15 * normal()),
        qrs=np.clip(qrs, 60, 190) + 45 * lbbb + 32 * rbbb,
        lbbb=lbbb.astype(float),
        rbbb=rbbb.astype(float),
        pr=np.clip(
            166 + 5 * decades - 0.35 * (rate - 60) + 5 * latent.la_size + 20 * normal(), 90, 320
        ),
        p_duration=np.clip(96 + 22 * left_atrium + 14 * normal(), 45, 160),
        p_amplitude=np.exp(0.25 * normal()) * (1 - latent.af_rhythm),
        p_terminal=1.26 * left_atrium + 0.3 * normal(),
        qtc=qtc,
        qt=qtc * np.cbrt(60 / rate),  # Fridericia
        t_amplitude=np.clip(
            np.exp(0.28 * normal() - 0.10 * decades - 0.38 * (1 - male)) * repolarisation, -0.7, 2.2
        ),
        st=0.035 * (male - 0.3) - 0.045 * latent.ischaemia - 0.06 * strain + 0.014 * normal(),
        frontal=-1.93 * (latent.bmi - 26.5)
        - 7 * decades
        - 12 * mass
        + 24 * normal()
        + 8 * np.log(latent.rvedv / 152),
        horizontal=13 * normal() - 6 * mass + 75 * np.log(latent.rvedv / latent.lvedv / 1.05),
        rmssd=np.exp(
            3.25 - 0.25 * decades - 0.22 * latent.dm - 0.015 * (rate - 60) + 0.45 * normal()
        ),
        leads=DOWER * (1 + _ELECTRODE_NOISE[:, None] * normal(8, 3)),
        respiration=np.clip(0.24 + 0.04 * normal(), 0.12, 0.40),
        wander=0.060 * np.exp(0.6 * normal()),
        mains=0.004 * np.exp(0.8 * normal()),
        muscle=0.008 * np.exp(0.5 * normal()),
    )


def beat_templates(latent: Latent, parameters: Parameters) -> np.ndarray:
    """Return one beat per person: (people, 8 independent leads, 600) float32 in mV."""
    p = parameters
    n = p.qrs.size
    stretch = p.qrs / 89.5
    waves: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(
        centre: float | np.ndarray,
        width: float | np.ndarray,
        factor: float | np.ndarray,
        *dipole: float | np.ndarray,
    ) -> None:
        """Add a Gaussian wave; centre and width in ms, dipole in mV along X, Y, Z."""
        ones = np.ones(n)
        vector = np.stack([ones * component for component in dipole], 1)
        waves.append((ones * centre, ones * width, vector * np.reshape(factor, (-1, 1))))

    p_centre = -p.pr - 30 * stretch + p.p_duration / 2
    p_width = 0.17 * p.p_duration
    add(p_centre - 0.17 * p.p_duration, p_width, p.p_amplitude, 0.045, 0.085, -0.045)
    add(
        p_centre + 0.20 * p.p_duration,
        p_width,
        p.p_amplitude,
        0.060,
        0.045,
        0.030 + 0.035 * p.p_terminal,
    )
    add(-26 * stretch, 8.5 * stretch, p.gain * (1 - p.lbbb), -0.16, -0.06, -0.30)
    add(-2 * stretch, 10 * stretch, p.gain, 0.95, 0.72, 0.12)
    add(14 * stretch, 10.5 * stretch, p.gain, 0.42, 0.05, 0.72)
    add(30 * stretch, 8.5 * stretch, 1, -0.16, -0.20, 0.24)
    add(48, 16, p.rbbb, -0.45, 0, -0.42)
    add(22, 26, p.lbbb, 0.55, 0.05, 0.55)
    lad, rca, lcx = (latent.scar * (latent.territory == k) for k in range(3))
    add(-18 * stretch, 10 * stretch, 1, -0.55 * lcx, -0.75 * rca, 0.70 * lad - 0.25 * lcx)
    t_peak = p.qt - 40 * stretch - 95
    add(t_peak - 18, 44, p.t_amplitude, 0.26, 0.22, -0.20)
    add(t_peak + 10, 26, p.t_amplitude, 0.143, 0.121, -0.110)

    centres, widths, dipoles = (np.stack(part, 1) for part in zip(*waves, strict=True))
    time = _BEAT_MS.astype(np.float32)
    shapes = np.empty((n, len(waves) + 1, _BEAT), np.float32)
    z = (time - centres[..., None].astype(np.float32)) / widths[..., None].astype(np.float32)
    np.exp(-0.5 * z * z, out=shapes[:, :-1])
    rise = (time - (45 * stretch)[:, None]) / 8
    fall = ((t_peak - 30)[:, None] - time) / 25
    shapes[:, -1] = 1 / ((1 + np.exp(-rise)) * (1 + np.exp(-fall)))
    plateau = p.st[:, None] * np.array([1.0, 0.8, -0.2])
    dipoles = np.concatenate([dipoles, plateau[:, None]], 1)

    a, b = np.deg2rad(p.frontal)[:, None], np.deg2rad(p.horizontal)[:, None]
    x, y, back = np.moveaxis(dipoles, -1, 0)
    x, y = np.cos(a) * x - np.sin(a) * y, np.sin(a) * x + np.cos(a) * y
    x, back = np.cos(b) * x - np.sin(b) * back, np.sin(b) * x + np.cos(b) * back
    rotated = np.stack([x, y, back], 2).astype(np.float32)
    # einsum without BLAS: the order of its sums does not depend on the number of threads.
    vector = np.einsum("nkd,nkt->ndt", rotated, shapes) * _TAPER.astype(np.float32)
    return np.einsum("nld,ndt->nlt", p.leads.astype(np.float32), vector)


def _draw_rhythm(latent: Latent, parameters: Parameters, rng: np.random.Generator) -> np.ndarray:
    """Return the sample of every R peak, (people, `MAX_BEATS`), from before the recording on."""
    mean = (60_000 / latent.heart_rate)[:, None]
    shape = (latent.heart_rate.size, MAX_BEATS)
    phase = 2 * np.pi * rng.random((2, shape[0], 1))
    normal = rng.standard_normal(shape)
    premature = rng.random(shape) < 0.004
    start = rng.random((shape[0], 1))

    seconds = mean / 1000 * np.arange(1, MAX_BEATS + 1)
    variation = (
        0.75 * np.sin(2 * np.pi * parameters.respiration[:, None] * seconds + phase[0])
        + 0.60 * np.sin(2 * np.pi * 0.1 * seconds + phase[1])
        + 0.35 * normal
    )
    sinus = (mean + parameters.rmssd[:, None] * variation) * np.where(premature, 0.75, 1.0)
    fibrillating = mean * np.exp(0.20 * normal)
    rr = np.maximum(np.where(latent.af_rhythm[:, None] > 0, fibrillating, sinus), SHORTEST_RR)
    # The second beat falls before the recording, so that its T wave can reach into it.
    peaks = np.cumsum(rr, axis=1) - rr[:, :1] - rr[:, 1:2] - start * rr[:, 2:3]
    return np.rint(peaks * (ECG_RATE / 1000)).astype(np.int64)


def _recording_noise(p: Parameters, row: int, rng: np.random.Generator) -> np.ndarray:
    """Return muscle noise, mains, respiration and electrode drift, (8, 5000) float32 in mV."""
    leads = len(_INDEPENDENT)
    # Band-limited noise is made from its spectrum: fewer numbers than samples, and no filter.
    bins = _BAND * ECG_SAMPLES // ECG_RATE
    parts = rng.standard_normal((leads, bins, 2), dtype=np.float32)
    spectrum = np.zeros((leads, bins + 1), np.complex64)
    np.multiply(
        parts.view(np.complex64)[..., 0],
        np.float32(p.muscle[row] * ECG_SAMPLES / np.sqrt(4 * bins)),
        out=spectrum[:, 1:],
    )
    phase = 2 * np.pi * rng.random((3, leads))
    spectrum[:, _MAINS * ECG_SAMPLES // ECG_RATE] += (
        p.mains[row] * ECG_SAMPLES / 2 * np.exp(1j * phase[2])
    )
    signal = np.fft.irfft(spectrum, n=ECG_SAMPLES).astype(np.float32, copy=False)

    weight = p.wander[row] * (0.6 + 0.3 * rng.standard_normal(leads))
    angle = (2 * np.pi * p.respiration[row]) * _SECONDS
    tables = np.stack([np.sin(angle), np.cos(angle), *_DRIFT]).astype(np.float32)
    breath, drift = 0.8 * weight, weight
    amounts = np.stack(
        [
            breath * np.cos(phase[0]),
            breath * np.sin(phase[0]),
            drift * np.cos(phase[1]),
            drift * np.sin(phase[1]),
        ],
        1,
    ).astype(np.float32)
    signal += np.einsum("lk,kt->lt", amounts, tables)

    if rng.random() < 0.03:
        # An electrode shifts; the step decays with the time constant of a 0.01 Hz high-pass.
        lead, onset = rng.integers(2, leads), rng.integers(0, ECG_SAMPLES)
        decay = np.exp(-(_SECONDS[: ECG_SAMPLES - onset]) * (2 * np.pi * 0.01))
        signal[lead, onset:] += (0.3 * rng.standard_normal() * decay).astype(np.float32)
    return signal


def _fibrillatory_waves(rng: np.random.Generator) -> np.ndarray:
    """Return f-waves of 5.8 +- 0.5 Hz whose frequency changes every 0.2 s, (8, 5000) in mV."""
    frequency = np.repeat(5.8 + 0.5 * rng.standard_normal(50), ECG_SAMPLES // 50)
    wave = np.sin(2 * np.pi * np.cumsum(frequency) / ECG_RATE + 2 * np.pi * rng.random())
    return (_FIBRILLATORY[:, None] * wave).astype(np.float32)


def _add_beats(signal: np.ndarray, beat: np.ndarray, r_samples: np.ndarray) -> None:
    """Add the part of every beat that falls into the recording."""
    for start in r_samples - _R:
        first, last = max(start, 0), min(start + _BEAT, ECG_SAMPLES)
        if first < last:
            signal[:, first:last] += beat[:, first - start : last - start]


def _store(signal: np.ndarray, out: np.ndarray) -> None:
    """Quantise the independent leads; the limb leads that follow from I and II are derived.

    Derived after quantisation, as a device does, they satisfy Einthoven's and Goldberger's
    identities to one step of 5 uV.
    """
    signal *= np.float32(1 / ECG_MILLIVOLT)
    np.rint(signal, out=signal)
    one, two = signal[0], signal[1]
    derived = {
        "III": two - one,
        "aVR": -(one + two) / 2,
        "aVL": one - two / 2,
        "aVF": two - one / 2,
    }
    for row, name in enumerate(LEADS):
        if name in derived:
            out[row] = np.rint(derived[name])
        else:
            out[row] = signal[_INDEPENDENT.index(name)]

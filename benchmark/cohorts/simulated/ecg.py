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
from benchmark.cohorts.simulated.population import Block
from benchmark.cohorts.simulated.presets import Preset

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
_SECONDS = (np.arange(ECG_SAMPLES) / ECG_RATE).astype(np.float32)
_DRIFT_ANGLE = np.float32(2 * np.pi * 0.06) * _SECONDS
_DRIFT = (np.sin(_DRIFT_ANGLE), np.cos(_DRIFT_ANGLE))
_BAND = 100  # Hz, upper edge of the device's filter
_MAINS = 50  # Hz


@dataclass(frozen=True)
class Parameters:
    """What the ECG shows of a person: one entry per person, times in ms, amplitudes in mV.

    ``p_frontal``, ``qrs_frontal`` and ``t_frontal`` turn the waves in the frontal plane and
    ``horizontal`` all of them in the horizontal one, in degrees; ``infarct`` (people, 3)
    is the burden by territory; ``leads`` (people, 8, 3) is the
    lead field, ``respiration`` is in Hz; ``lbbb`` and ``rbbb`` are 0 or 1 and the
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
    p_frontal: np.ndarray
    qrs_frontal: np.ndarray
    t_frontal: np.ndarray
    horizontal: np.ndarray
    infarct: np.ndarray
    rmssd: np.ndarray
    leads: np.ndarray
    respiration: np.ndarray
    wander: np.ndarray
    mains: np.ndarray
    muscle: np.ndarray


def draw_ecg(
    block: Block, random_state: int, index: int, preset: Preset
) -> tuple[np.ndarray, np.ndarray]:
    """Record 10 s of every person of a block; ``index`` is the block's number.

    Returns
    -------
    ecg : np.ndarray
        (people, 12, 5000) int16 in steps of 5 uV, leads ordered as `LEADS`.
    r_peaks : np.ndarray
        (people, `MAX_BEATS`) float32, seconds of the R peaks inside the recording, then NaN.
    """
    latent = block.recorded
    people = latent.age.size
    rng = generator(random_state, Stream.ECG, index)
    parameters = draw_parameters(latent, preset, rng)
    r_samples = _draw_rhythm(latent, parameters, rng)
    beats = beat_templates(parameters)
    ecg = np.empty((people, len(LEADS), ECG_SAMPLES), np.int16)
    for row in range(people):
        noise = generator(random_state, Stream.ECG_NOISE, index * BLOCK + row)
        signal = _recording_noise(parameters, row, noise)
        if latent.af_rhythm[row]:
            signal += _fibrillatory_waves(noise)
        _add_beats(signal, beats[row], r_samples[row])
        _store(signal, ecg[row])

    inside = (r_samples >= 0) & (r_samples < ECG_SAMPLES)
    seconds = np.where(inside, r_samples / ECG_RATE, np.nan)
    return ecg, np.sort(seconds, axis=1).astype(np.float32)  # sort puts NaN last


def draw_parameters(latent: Latent, preset: Preset, rng: np.random.Generator) -> Parameters:
    """Draw waves, intervals, axes and disturbances given the cardiac state.

    Everything that depends on ``latent`` is what an ECG can tell about the heart; the deviates
    drawn here belong to the ECG alone and hide it.
    """
    n = latent.age.size

    def seen(deviation: np.ndarray) -> np.ndarray:
        return preset.coupling * deviation

    def normal(*shape: int) -> np.ndarray:
        return preset.ecg_only * rng.standard_normal((n, *shape))

    def disturbance() -> np.ndarray:
        return rng.standard_normal(n)

    decades, male = seen(latent.decades), seen(latent.male - 0.48)
    rate = seen(latent.heart_rate - 60)
    fatness = seen(latent.bmi - 26.5)
    mass = seen(np.log(latent.lvm / 88))
    volume = seen(np.log(latent.lvedv / 145))
    left_atrium = seen(np.log(latent.la_max / 66))
    la_size = seen(latent.la_size)
    right = seen(np.log(latent.rvedv / 152))
    balance = seen(np.log(latent.rvedv / latent.lvedv / 1.05))
    fibrosis, ischaemia = seen(latent.fibrosis - 0.3), seen(latent.ischaemia)
    hypertrophic, dilated = seen(latent.hypertrophic), seen(latent.dilated)
    dm, hf = seen(latent.dm), seen(latent.hf)

    # exp(2 (fibrosis - .3)) has mean 1.12 in this population: .7% of people have LBBB.
    lbbb = rng.random(n) < 0.007 / 1.12 * np.exp(2 * fibrosis)
    rbbb = (rng.random(n) < 0.025 * np.exp(0.3 * decades)) & ~lbbb
    qrs = 89.5 + 14 * mass + 17 * volume + 3 * male + 6 * normal() + 9 * fibrosis
    qtc = 417 - 16 * male + 4 * decades + 8 * fibrosis / 0.3 + 17 * normal() + 2 * dm
    strain = np.clip(0.9 * mass - 0.25, 0, None) + 0.5 * hypertrophic
    repolarisation = (
        1 - 0.40 * ischaemia - 1.2 * strain - 0.10 * dm - 0.35 * dilated - 0.20 * hf
    ) + 0.25 * normal()
    # The heart lies flatter in the stout and the old; all waves turn with it.
    position = -1.93 * fatness - 7 * decades + 6 * normal()
    return Parameters(
        gain=np.exp(0.55 * mass - 0.016 * fatness + 0.16 * normal()),
        qrs=np.clip(qrs, 60, 190) + 45 * lbbb + 32 * rbbb,
        lbbb=lbbb.astype(float),
        rbbb=rbbb.astype(float),
        pr=np.clip(166 + 5 * decades - 0.35 * rate + 5 * la_size + 24 * normal(), 90, 320),
        p_duration=np.clip(96 + 24 * left_atrium + 16.5 * normal(), 45, 170),
        p_amplitude=np.exp(0.25 * normal()) * (1 - latent.af_rhythm),
        p_terminal=1.26 * left_atrium + 0.3 * normal(),
        qtc=qtc,
        qt=qtc * np.cbrt(60 / latent.heart_rate),  # Fridericia
        t_amplitude=np.clip(
            np.exp(0.28 * normal() - 0.10 * decades + 0.38 * (male - 0.52)) * repolarisation,
            -0.7,
            2.2,
        ),
        st=0.006 + 0.035 * male - 0.045 * ischaemia - 0.06 * strain + 0.014 * normal(),
        p_frontal=position + 7 * normal(),
        qrs_frontal=position - 12 * mass + 8 * right + 18 * normal(),
        t_frontal=position + 15.5 * normal(),
        horizontal=11 * normal() - 6 * mass + 75 * balance,
        infarct=seen(latent.scar)[:, None] * (latent.territory[:, None] == np.arange(3)),
        rmssd=np.exp(3.25 - 0.25 * decades - 0.22 * dm - 0.015 * rate + 0.45 * normal()),
        leads=DOWER * (1 + _ELECTRODE_NOISE[:, None] * normal(8, 3)),
        respiration=np.clip(0.24 + 0.04 * disturbance(), 0.12, 0.40),
        wander=preset.ecg_noise * 0.060 * np.exp(0.6 * disturbance()),
        mains=preset.ecg_noise * 0.004 * np.exp(0.8 * disturbance()),
        muscle=preset.ecg_noise * 0.008 * np.exp(0.5 * disturbance()),
    )


def beat_templates(parameters: Parameters) -> np.ndarray:
    """Return one beat per person: (people, 8 independent leads, 600) float32 in mV."""
    p = parameters
    n = p.qrs.size
    stretch = p.qrs / 89.5
    waves: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

    def add(
        turn: np.ndarray,
        centre: float | np.ndarray,
        width: float | np.ndarray,
        factor: float | np.ndarray,
        *dipole: float | np.ndarray,
    ) -> None:
        """Add a Gaussian wave; turn in degrees, centre and width in ms, dipole in mV (X, Y, Z)."""
        ones = np.ones(n)
        vector = np.stack([ones * component for component in dipole], 1)
        waves.append((turn, ones * centre, ones * width, vector * np.reshape(factor, (-1, 1))))

    p_centre = -p.pr - 30 * stretch + p.p_duration / 2
    early, late = p_centre - 0.17 * p.p_duration, p_centre + 0.20 * p.p_duration
    width, force = 0.17 * p.p_duration, 0.030 + 0.035 * p.p_terminal
    add(p.p_frontal, early, width, p.p_amplitude, 0.075, 0.059, -0.045)
    add(p.p_frontal, late, width, p.p_amplitude, 0.073, 0.017, force)
    turn = p.qrs_frontal
    add(turn, -26 * stretch, 8.5 * stretch, p.gain * (1 - p.lbbb), -0.16, -0.06, -0.30)
    add(turn, -2 * stretch, 10 * stretch, p.gain, 1.0, 0.65, 0.12)
    add(turn, 14 * stretch, 10.5 * stretch, p.gain, 0.42, 0.05, 0.72)
    add(turn, 30 * stretch, 8.5 * stretch, 1, -0.16, -0.20, 0.24)
    add(turn, 48, 16, p.rbbb, -0.45, 0, -0.42)
    add(turn, 22, 26, p.lbbb, 0.55, 0.05, 0.55)
    lad, rca, lcx = p.infarct.T
    add(turn, -18 * stretch, 10 * stretch, 1, -0.55 * lcx, -0.75 * rca, 0.70 * lad - 0.25 * lcx)
    t_peak = p.qt - 40 * stretch - 95
    add(p.t_frontal, t_peak - 18, 44, p.t_amplitude, 0.315, 0.130, -0.20)
    add(p.t_frontal, t_peak + 10, 26, p.t_amplitude, 0.173, 0.072, -0.110)

    turns, centres, widths, dipoles = (np.stack(part, 1) for part in zip(*waves, strict=True))
    time = _BEAT_MS.astype(np.float32)
    shapes = np.empty((n, len(waves) + 1, _BEAT), np.float32)
    z = (time - centres[..., None].astype(np.float32)) / widths[..., None].astype(np.float32)
    np.exp(-0.5 * z * z, out=shapes[:, :-1])
    rise = (time - (45 * stretch)[:, None]) / 8
    fall = ((t_peak - 30)[:, None] - time) / 25
    shapes[:, -1] = 1 / ((1 + np.exp(-rise)) * (1 + np.exp(-fall)))
    plateau = p.st[:, None] * np.array([1.0, 0.8, -0.2])
    dipoles = np.concatenate([dipoles, plateau[:, None]], 1)
    turns = np.concatenate([turns, p.t_frontal[:, None]], 1)

    a, b = np.deg2rad(turns), np.deg2rad(p.horizontal)[:, None]
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
    angle = np.float32(2 * np.pi * p.respiration[row]) * _SECONDS
    tables = np.stack([np.sin(angle), np.cos(angle), *_DRIFT])
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

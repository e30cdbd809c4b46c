from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.cohorts import ecg
from benchmark.cohorts.recordings import read_recording

HERE = Path(__file__).parent
RATE = 500
TIME = np.arange(10 * RATE) / RATE


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    """The first 10 s of the example recording at 500 Hz."""
    recording = read_recording(HERE.parent / "examples/ptbdb_s0010_re/s0010_re")
    return ecg.resample(recording.ecg_mv, recording.rate, RATE)[:, : 10 * RATE]


def gaussian(centre: float, sd: float) -> np.ndarray:
    return np.exp(-0.5 * ((TIME - centre) / sd) ** 2)


def heart(beats: np.ndarray, qrs: float = 1.5, t: float = 0.4) -> np.ndarray:
    """12 leads with a narrow QRS and a T wave 0.3 s behind it, Einthoven's law kept."""
    shape = sum(qrs * gaussian(b, 0.012) + t * gaussian(b + 0.3, 0.04) for b in beats)
    one, two = 0.6 * shape, 1.0 * shape
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.stack([*limb, *(k * shape for k in (-0.8, -0.5, 0.7, 1.2, 1.4, 1.1))])


def test_einthoven_and_goldberger_hold_after_cleaning(real: np.ndarray) -> None:
    one, two = real[0].astype(float), real[1].astype(float)
    limb = np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2])
    x = ecg.clean(np.concatenate([limb, real[6:]]), RATE)
    assert np.abs(x[0] + x[2] - x[1]).max() < 1e-9
    assert np.abs(x[3:6].sum(axis=0)).max() < 1e-9
    # The stored leads are rounded to 0.5 uV each, nothing more may be added.
    y = ecg.clean(real, RATE)
    assert np.abs(y[0] + y[2] - y[1]).max() < 2e-3


@pytest.mark.parametrize("phase", [0.0, 0.7, 2.1])
def test_wander_of_a_fifth_of_a_hertz_is_removed(real: np.ndarray, phase: float) -> None:
    wander = np.sin(2 * np.pi * 0.2 * TIME + phase)
    left = ecg.clean(real + wander, RATE) - ecg.clean(real, RATE)
    assert np.sqrt((left**2).mean(axis=-1)).max() < 0.05 * np.sqrt((wander**2).mean())


def test_offset_leaves_no_edge_behind(real: np.ndarray) -> None:
    assert np.abs(ecg.clean(real + 3.0, RATE) - ecg.clean(real, RATE)).max() < 1e-6


def test_qrs_beyond_four_sd_keeps_its_height() -> None:
    beats = np.arange(0.5, 10, 1.0)
    x = heart(beats)
    y = ecg.clean(x, RATE)
    centre, before = (beats * RATE).astype(int), ((beats - 0.1) * RATE).astype(int)
    height = y[:, centre] - y[:, before]
    assert height == pytest.approx(x[:, centre] - x[:, before], rel=0.05)
    assert np.abs(y[1, centre]).min() > 4 * y.std()  # where a clip at 4 SD would have cut


def test_real_qrs_keeps_its_height(real: np.ndarray) -> None:
    y = ecg.clean(real, RATE)
    peaks = np.round(ecg.r_peaks(y, RATE) * RATE).astype(int)[1:-1]
    lead = int(np.argmax(np.ptp(y, axis=1)))
    reach = round(0.06 * RATE)
    window = peaks[:, None] + np.arange(-reach, reach)
    assert np.ptp(y[lead][window], axis=1) == pytest.approx(
        np.ptp(real[lead][window], axis=1), rel=0.05
    )


def test_spike_is_bridged_and_leaves_no_bump(real: np.ndarray) -> None:
    spoilt = real.copy()
    spike = slice(2500, 2510)
    spoilt[7, spike] += 20.0
    clean, repaired = ecg.clean(real, RATE), ecg.clean(spoilt, RATE)
    assert np.abs(repaired).max() <= ecg.ARTEFACT_MV
    away = np.r_[0:2490, 2520:5000]
    assert np.abs(repaired - clean)[:, away].max() < 0.02
    assert np.array_equal(np.delete(repaired, 7, axis=0), np.delete(clean, 7, axis=0))
    assert np.abs(repaired[7, spike] - clean[7, spike]).max() < 1.0


def test_lead_that_is_artefact_throughout_becomes_zero() -> None:
    x = heart(np.arange(0.5, 10, 1.0))
    x[6] = 1000 * np.sign(np.sin(2 * np.pi * 7 * TIME + 0.1))
    y = ecg.clean(x, RATE)
    assert np.isfinite(y).all()
    assert (y[6] == 0).mean() > 0.5
    assert np.abs(y).max() <= ecg.ARTEFACT_MV


def test_lead_groups_have_mean_zero_and_variance_one(real: np.ndarray) -> None:
    z = ecg.lead_group_zscore(ecg.clean(real, RATE))
    for group in ecg.LEAD_GROUPS:
        assert z[group].mean() == pytest.approx(0, abs=1e-9)
        assert z[group].var() == pytest.approx(1, abs=1e-6)
    assert z[1].var() != pytest.approx(z[0].var(), rel=0.01)  # not lead by lead


def test_group_without_signal_becomes_zero() -> None:
    x = np.random.default_rng(0).normal(size=(12, 100))
    x[3:6] = 0.25
    assert (ecg.lead_group_zscore(x)[3:6] == 0).all()


def test_1000_to_500_hertz_keeps_a_sine_of_10_hertz() -> None:
    fine = np.arange(10_000) / 1000
    x = ecg.resample(np.sin(2 * np.pi * 10 * fine)[None], 1000, RATE)
    assert x.shape == (1, 5000)
    assert np.abs(x[0] - np.sin(2 * np.pi * 10 * TIME))[50:-50].max() < 2e-3


def test_resampling_holds_an_offset_at_both_ends() -> None:
    x = ecg.resample(np.full((2, 4000), 3.0), 400, RATE)
    assert x == pytest.approx(np.full((2, 5000), 3.0), rel=1e-3)


def test_resampling_removes_what_the_new_rate_cannot_hold() -> None:
    x = ecg.resample(np.sin(2 * np.pi * 180 * TIME), RATE, 100)
    assert np.abs(x[20:-20]).max() < 0.02


@settings(max_examples=20, deadline=None)
@given(people=st.integers(1, 5), samples=st.integers(2000, 2600), seed=st.integers(0, 2**20))
def test_nobody_depends_on_who_else_is_in_the_array(people: int, samples: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(people, 12, samples)).astype(np.float32)
    x[0, 5, 100] = 80

    def treat(x: np.ndarray) -> np.ndarray:
        return ecg.lead_group_zscore(ecg.resample(ecg.clean(x, RATE), RATE, 100))

    together = treat(x)
    assert all(np.array_equal(together[k], treat(x[k])) for k in range(people))


def test_r_peaks_of_the_example_recording() -> None:
    recording = read_recording(HERE.parent / "examples/ptbdb_s0010_re/s0010_re")
    x = ecg.clean(recording.ecg_mv, recording.rate)
    peaks = ecg.r_peaks(x, recording.rate)
    assert len(peaks) == 52  # 38.4 s at 82 beats per minute
    assert np.diff(peaks).min() > 0.65
    assert np.diff(peaks).max() < 0.80


@pytest.mark.parametrize(("name", "beats"), [("code15_01", 6), ("code15_04", 10)])
def test_r_peaks_in_spite_of_electrode_artefacts(name: str, beats: int) -> None:
    recording = read_recording(HERE / f"data/code15/{name}.mat")
    x = ecg.clean(recording.ecg_mv, recording.rate)
    assert np.abs(x).max() <= ecg.ARTEFACT_MV
    assert len(ecg.r_peaks(x, recording.rate)) == beats


@pytest.mark.parametrize("rate", [100, 250, 500, 1000])
@pytest.mark.parametrize("interval", [0.4, 1.0, 1.58])
def test_r_peaks_are_neither_missed_nor_doubled(rate: int, interval: float) -> None:
    beats = np.arange(0.3, 9.9, interval)
    noise = np.random.default_rng(1).normal(scale=0.01, size=(12, len(TIME)))
    x = ecg.clean(ecg.resample(heart(beats) + noise, RATE, rate), rate)
    peaks = ecg.r_peaks(x, rate)
    assert len(peaks) == len(beats)
    assert np.abs(peaks - beats).max() <= 0.02


def test_no_peaks_in_silence() -> None:
    assert len(ecg.r_peaks(np.zeros((12, 5000)), RATE)) == 0


def test_median_beat_ignores_one_odd_beat() -> None:
    beats = np.arange(0.5, 10, 1.0)
    x = heart(beats)
    x[:, 4400:4600] += 3.0  # around the beat at 9 s
    beat = ecg.median_beat(x, beats, RATE)
    assert beat.shape == (12, 125 + 225)
    start = round(2.25 * RATE)
    assert beat == pytest.approx(x[:, start : start + 350], abs=1e-9)
    assert np.argmax(beat[1]) == 125


def test_median_beat_without_a_whole_beat_is_nan() -> None:
    assert np.isnan(ecg.median_beat(np.zeros((12, 5000)), np.array([0.1, 9.9]), RATE)).all()


def test_intervals_of_known_beats() -> None:
    rr = np.tile([0.9, 0.94], 5)
    beats = 0.4 + np.cumsum(rr) - rr[0]
    measured = ecg.intervals(heart(beats), beats, RATE)
    assert measured.heart_rate == pytest.approx(60 / 0.92, rel=0.03)
    assert measured.rmssd == pytest.approx(40, rel=1e-6)
    # A Gaussian of SD 12 ms has fallen to 5% of its steepest slope 42 ms from its centre.
    assert measured.qrs == pytest.approx(84, abs=16)
    # The tangent at a Gaussian's steepest point meets the baseline two SDs from its centre.
    assert measured.qt == pytest.approx(300 + 80 + 42, abs=16)


@pytest.mark.parametrize("stretch", [1.0, 1.5, 2.0])
def test_wider_qrs_measures_longer(stretch: float) -> None:
    beats = np.arange(0.5, 10, 1.0)
    shape = sum(gaussian(b, 0.012 * stretch) + 0.3 * gaussian(b + 0.32, 0.04) for b in beats)
    measured = ecg.intervals(np.tile(shape, (12, 1)), beats, RATE)
    assert measured.qrs == pytest.approx(84 * stretch, rel=0.2)


def test_intervals_need_three_beats() -> None:
    assert np.isnan(ecg.intervals(np.zeros((12, 5000)), np.array([1.0, 2.0]), RATE)).all()

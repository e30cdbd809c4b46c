from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from benchmark.api import Cohort, Stage, UserError, View
from benchmark.cohorts import cleaning, ecg
from benchmark.cohorts.cohort import COVARIATES, ECG_MILLIVOLT, LEADS
from benchmark.cohorts.recordings import read_recording
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.cohorts.simulated.cine import draw_short_axis
from benchmark.cohorts.simulated.population import draw_block
from benchmark.cohorts.simulated.presets import PRESETS, Preset
from benchmark.cohorts.views import (
    BeatFeatures,
    CleanECG,
    Covariates,
    ECGView,
    EDESVolumes,
    LongAxisCine,
    MedianBeat,
    MidSliceCine,
    RPeaks,
    ThreePhases,
    blockwise,
    end_systole,
    prepare_recording,
)
from benchmark.cohorts.views.cmr import _resample_pixels
from methods.blocks.backbones import ECGViT

EXAMPLE = Path(__file__).parent.parent / "examples/ptbdb_s0010_re/s0010_re"
PEOPLE, SLICES, FRAMES, HEIGHT, WIDTH = 75, 3, 20, 40, 50
SYSTOLE = 7


@dataclass(frozen=True, kw_only=True)
class Clinic(Cohort):
    """A few people made from the example recording, shifted in time."""


class Context:
    device = "cpu"

    def __init__(self, root: Path, cohort: Path, workers: int = 1) -> None:
        self.out, self.resume, self.cohort, self.workers = root / "out", root / "r", cohort, workers
        self.out.mkdir(parents=True)
        self.resume.mkdir()
        self.reports: list[float] = []
        self.lost_at = np.inf

    def open(self, stage: Stage) -> Path:
        assert isinstance(stage, Cohort)
        return self.cohort

    def progress(self, done: float, total: float, unit: str = "", note: str = "") -> None:
        assert (total, unit) == (PEOPLE, "people")
        self.reports.append(done)
        if done >= self.lost_at:
            raise RuntimeError("lease lost")


def beating_heart(size: tuple[int, int], frames: int, systole: int) -> np.ndarray:
    """A bright disc in a dark ring that is smallest at the frame of systole."""
    y, x = np.ogrid[: size[0], : size[1]]
    radius = np.hypot(y - size[0] / 2, x - size[1] / 2)
    phase = np.interp(np.arange(frames), [0, systole, frames], [0, 1, 0])
    inner = (10 - 4 * phase)[:, None, None]
    return np.where(radius < inner, 200, np.where(radius < 13, 70, 110)).astype(np.uint8)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clinic")
    recording = read_recording(EXAMPLE)
    half = ecg.resample(recording.ecg_mv, recording.rate, 500)
    starts = np.linspace(0, half.shape[1] - 5000, PEOPLE).astype(int)
    steps = np.stack([np.rint(half[:, s : s + 5000] / ECG_MILLIVOLT) for s in starts])
    steps[5] = 0  # an electrode box that was never switched on
    np.save(folder / "ecg.npy", steps.astype(np.int16))
    rng = np.random.default_rng(0)
    cine = rng.integers(0, 20, (PEOPLE, SLICES, FRAMES, HEIGHT, WIDTH)).astype(np.uint8)
    cine[:, 1] += beating_heart((HEIGHT, WIDTH), FRAMES, SYSTOLE)
    np.save(folder / "cine.npy", cine)
    np.save(folder / "long_axis.npy", cine[:, 0])
    stacks = rng.integers(0, 256, (PEOPLE, 2, 8, HEIGHT, WIDTH)).astype(np.uint8)
    np.save(folder / "volumes.npy", stacks)
    (folder / "cohort.json").write_text(json.dumps({"spacing": 2.0}))
    people = pd.DataFrame({name: rng.normal(size=PEOPLE) for name in COVARIATES})
    people["sex"] = pd.array([1, 0, None] * (PEOPLE // 3), dtype="Int8")
    people.insert(0, "id", [f"P{k}" for k in range(PEOPLE)])
    people.to_parquet(folder / "people.parquet")
    return folder


def compute(view: View, clinic: Path, root: Path, workers: int = 1) -> np.ndarray:
    context = Context(root, clinic, workers)
    view.run(context)
    assert context.reports[0] == 0
    assert context.reports[-1] == PEOPLE
    assert context.reports == sorted(context.reports)
    assert [p.name for p in context.out.iterdir()] == ["array.npy"]
    return np.load(context.out / "array.npy")


VIEWS = [
    CleanECG(cohort=Clinic(), rate=100),
    CleanECG(cohort=Clinic(), rate=500),
    CleanECG(cohort=Clinic(), rate=120, seconds=8.0, window=2.0),
    CleanECG(cohort=Clinic(), recipe="ptacl_wavelet8"),
    CleanECG(cohort=Clinic(), recipe="none", rate=100),
    RPeaks(cohort=Clinic()),
    BeatFeatures(cohort=Clinic()),
    BeatFeatures(cohort=Clinic(), rate=100),
    MidSliceCine(cohort=Clinic()),
    MidSliceCine(cohort=Clinic(), frames=FRAMES, size=16),
    ThreePhases(cohort=Clinic(), size=45),
    MidSliceCine(cohort=Clinic(), frames=FRAMES, size=40, spacing=2.74),
    ThreePhases(cohort=Clinic(), size=45, spacing=1.5),
    EDESVolumes(cohort=Clinic(), size=44),
    EDESVolumes(cohort=Clinic(), size=30, slices=3, spacing=2.74),
    LongAxisCine(cohort=Clinic(), frames=12, size=45),
    Covariates(cohort=Clinic()),
]


@pytest.mark.parametrize("view", VIEWS, ids=lambda v: f"{type(v).__name__}-{v.shape}")
def test_shape_is_known_beforehand_and_workers_change_nothing(
    view: View, clinic: Path, tmp_path: Path
) -> None:
    alone = compute(view, clinic, tmp_path / "1")
    assert alone.shape == (PEOPLE, *view.shape)
    assert alone.dtype == view.dtype
    many = compute(view, clinic, tmp_path / "3", workers=3)
    assert alone.tobytes() == many.tobytes()
    seconds, size = view.estimate()
    assert seconds > 0
    assert size == pytest.approx(6000 * alone[0].nbytes)


def test_killed_view_resumes_where_it_was(
    clinic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "MARK_EVERY", 0.0)
    view = CleanECG(cohort=Clinic(), rate=100)
    whole = compute(view, clinic, tmp_path / "whole")
    context = Context(tmp_path / "killed", clinic)
    context.lost_at = 2 * view.block
    with pytest.raises(RuntimeError, match="lease lost"):
        view.run(context)
    assert not list(context.out.iterdir())
    # The block of the report that raised was finished but not noted.
    context.lost_at, context.reports = np.inf, []
    view.run(context)
    assert context.reports[0] == view.block
    assert np.array_equal(np.load(context.out / "array.npy"), whole)
    assert not list(context.resume.iterdir())


# ------------------------------------------------------------------------------------- ECG


def test_clean_ecg_is_standardised_in_groups(clinic: Path, tmp_path: Path) -> None:
    x = compute(CleanECG(cohort=Clinic(), rate=100), clinic, tmp_path / "x").astype(float)
    seen = np.delete(x, 5, axis=0)
    for group in ecg.LEAD_GROUPS:
        assert np.abs(seen[:, group].mean(axis=(1, 2))).max() < 1e-3
        assert np.abs(seen[:, group].var(axis=(1, 2)) - 1).max() < 1e-3
    assert (x[5] == 0).all()


def test_crops_tile_the_record() -> None:
    assert CleanECG().crops() == (slice(0, 2500), slice(2500, 5000))
    assert CleanECG(rate=100).crops() == (slice(0, 500), slice(500, 1000))
    assert CleanECG(rate=100, window=10.0).crops() == (slice(0, 1000),)
    assert BeatFeatures().crops() is None
    assert MedianBeat().crops() is None


@pytest.mark.parametrize("rate", [500, 100])
def test_first_window_is_the_first_crop_of_the_same_record(rate: int) -> None:
    both = CleanECG(cohort=Clinic(), rate=rate)
    first = both.replace(first_window=True)
    assert first.crops() == both.crops()[:1] == (slice(0, 5 * rate),)
    mv = read_recording(EXAMPLE).ecg_mv
    for samples in (20_000, 7000):  # a short one's second window is filled all the same
        x, y = (prepare_recording(mv[:, :samples], 1000, view) for view in (both, first))
        assert np.array_equal(x, y)


@pytest.mark.parametrize("fields", [{"window": 11.0}, {"seconds": 12.0}, {"window": 0.0}])
def test_impossible_windows_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(UserError, match="window"):
        CleanECG(**fields)


@pytest.mark.parametrize("name", cleaning.RECIPES)
def test_recipe_of_a_paper_is_that_papers_cleaning_and_scaling(name: str, clinic: Path) -> None:
    mv = (np.load(clinic / "ecg.npy")[[0, 5, 40]] * ECG_MILLIVOLT).astype(np.float32)
    x = CleanECG(recipe=name).prepare(mv)
    exact = cleaning.clean(name, mv.astype(np.float64), 500)
    assert np.isfinite(x).all()
    # Storing takes away less than the device's own steps: in each lead, one step times the gain.
    spread = ecg.clean(mv, 500).std(axis=-1)
    gain = exact.std(axis=-1) / np.maximum(spread, 1e-9)
    error = np.abs(x - exact).max(axis=-1)
    assert (error <= np.where(spread > 0, 0.5 * ECG_MILLIVOLT * gain, 1e-6)).all()


def test_recipes_are_cut_and_resampled_behind_their_scaling() -> None:
    mv = ecg.resample(read_recording(EXAMPLE).ecg_mv, 1000, 500)[None, :, :5000].astype(np.float32)
    whole = CleanECG(recipe="mmcl_als").prepare(mv)
    cut = CleanECG(recipe="mmcl_als", seconds=6.0, window=3.0).prepare(mv)
    assert np.array_equal(cut, whole[..., :3000])
    slow = CleanECG(recipe="mmcl_als", rate=100).prepare(mv).astype(float)
    assert np.corrcoef(slow.ravel(), whole.astype(float)[..., ::5].ravel())[0, 1] > 0.99


def test_every_recipe_has_a_cost_and_an_unknown_one_names_them() -> None:
    assert set(CleanECG.COSTS) == {"harmonised", *cleaning.RECIPES}
    assert CleanECG().cost == CleanECG.COSTS["harmonised"]
    assert CleanECG(recipe="mmcl_als").estimate()[0] == 1 + 6000 * CleanECG.COSTS["mmcl_als"]
    with pytest.raises(UserError, match=r"'als'; there is harmonised, mmcl_als") as caught:
        CleanECG(recipe="als")
    assert "\n" not in str(caught.value)


def test_encoders_read_their_papers_cleaning() -> None:
    encoder = ECGViT(cleaning="eccl_trend", seconds=4.0, rate=250, first_window=True)
    expected = CleanECG(
        cohort=Clinic(), recipe="eccl_trend", window=4.0, rate=250, first_window=True
    )
    assert encoder.view(Clinic()) == expected


@pytest.mark.parametrize(
    "view",
    [
        CleanECG(),
        CleanECG(rate=100),
        CleanECG(recipe="eccl_trend"),
        RPeaks(),
        BeatFeatures(),
        MedianBeat(),
    ],
    ids=lambda v: f"{type(v).__name__}-{v.shape}",
)
@pytest.mark.parametrize("shuffle", [False, True])
def test_recording_is_treated_as_the_people_are(
    view: ECGView, shuffle: bool, clinic: Path, tmp_path: Path
) -> None:
    person = 40
    stored = compute(view.replace(cohort=Clinic()), clinic, tmp_path / "x")[person]
    order = np.random.default_rng(0).permutation(12) if shuffle else np.arange(12)
    steps = np.load(clinic / "ecg.npy")[person]
    wfdb.wrsamp(
        "rec",
        fs=500,
        units=["mV"] * 12,
        sig_name=[LEADS[k].lower() for k in order],
        d_signal=steps[order].T,
        fmt=["16"] * 12,
        adc_gain=[200.0] * 12,
        baseline=[0] * 12,
        write_dir=str(tmp_path),
    )
    recording = read_recording(tmp_path / "rec")
    alone = prepare_recording(recording.ecg_mv, recording.rate, view)
    assert alone.shape == (1, *view.shape)
    assert alone.dtype == stored.dtype
    assert alone.tobytes() == stored.tobytes()


def test_recording_at_another_rate_looks_the_same() -> None:
    recording = read_recording(EXAMPLE)
    view = CleanECG(rate=100)
    fast = prepare_recording(recording.ecg_mv, recording.rate, view).astype(float)
    slow = ecg.resample(recording.ecg_mv, 1000, 400)
    assert np.corrcoef(prepare_recording(slow, 400, view).ravel(), fast.ravel())[0, 1] > 0.999


def test_windows_of_a_short_recording_hold_only_signal() -> None:
    mv = read_recording(EXAMPLE).ecg_mv
    x = prepare_recording(mv[:, :7000], 1000, CleanECG())[0]
    assert x.shape == (12, 5000)
    # Windows from 0 and 2 s: they share 3 s.
    assert np.array_equal(x[:, 1000:2500], x[:, 2500:4000])
    assert (np.abs(x).max(axis=0) > 0).all()
    with pytest.raises(UserError, match=r"has 7\.0 s of signal; the method needs 10 s"):
        prepare_recording(mv[:, :7000], 1000, CleanECG(window=10.0))


def test_r_peaks_end_in_nan(clinic: Path, tmp_path: Path) -> None:
    x = compute(RPeaks(cohort=Clinic()), clinic, tmp_path / "x")
    assert np.isnan(x[5]).all()
    count = np.isfinite(np.delete(x, 5, axis=0)).sum(axis=1)
    assert set(count) <= {12, 13, 14}
    for row in np.delete(x, 5, axis=0):
        found = row[np.isfinite(row)]
        assert np.isnan(row[len(found) :]).all()
        assert ((np.diff(found) > 0.6) & (np.diff(found) < 0.85)).all()
        assert 0 <= found[0] < found[-1] < 10


def test_beat_features_are_in_millivolts(clinic: Path, tmp_path: Path) -> None:
    view = BeatFeatures(cohort=Clinic())
    x = compute(view, clinic, tmp_path / "x")
    assert np.isnan(x[5]).all()
    seen = np.delete(x, 5, axis=0)
    assert np.isfinite(seen).all()
    rate, variability, qrs, qt = seen[:, -view.SCALARS :].T
    assert rate == pytest.approx(np.full(len(rate), 82), abs=3)
    assert ((variability > 1) & (variability < 4)).all()
    assert ((qrs > 80) & (qrs < 160)).all()
    assert ((qt > 380) & (qt < 500)).all()
    beats = seen[:, : -view.SCALARS].reshape(len(seen), 8, -1)
    data = np.load(clinic / "ecg.npy", mmap_mode="r")[0] * ECG_MILLIVOLT
    cleaned = ecg.clean(data, 500)
    peaks = ecg.r_peaks(cleaned, 500)
    expected = ecg.median_beat(cleaned[list(ecg.INDEPENDENT)], peaks, 500)
    assert np.ptp(beats[0], axis=-1) == pytest.approx(np.ptp(expected, axis=-1), rel=0.1)


def spikes(at: np.ndarray, lead: int = 1) -> np.ndarray:
    """A record of (12, 5000) in mV: sharp beats of 1 mV in lead II, half in the others."""
    time = np.arange(5000) / 500
    beat = np.exp(-0.5 * ((time[:, None] - at) / 0.008) ** 2).sum(axis=1)
    return np.where(np.arange(12)[:, None] == lead, beat, beat / 2)


def test_median_beat_is_in_tens_of_device_steps_with_its_peak_in_place() -> None:
    record = spikes(0.6 + 0.9 * np.arange(11))
    x = MedianBeat().prepare(record[None].astype(np.float32))[0].astype(float)
    assert x.shape == (12, 600)
    assert (np.abs(x).argmax(axis=-1) == 225).all()  # 0.45 s of 500 Hz
    heights = x[:, 225] - np.median(x, axis=-1)
    assert heights[1] == pytest.approx(20, rel=0.03)  # 1 mV is 200 steps of 5 uV
    assert heights[[0, *range(2, 12)]] == pytest.approx(np.full(11, 10), rel=0.03)
    # 0.9 s later, at the end of the window, the next beat begins.
    assert x[1, 225 + 360 :].max() < 1.5


def test_median_beat_does_not_know_the_rhythm() -> None:
    regular = spikes(0.6 + 1.4 * np.arange(7))
    # As many beats, further apart than the window is long, but irregular.
    irregular = spikes(0.6 + np.cumsum([0, 1.3, 1.55, 1.25, 1.6, 1.3, 1.4]))
    x, y = MedianBeat().prepare(np.stack([regular, irregular]).astype(np.float32)).astype(float)
    assert np.abs(x - y).max() < 0.05 * np.abs(x).max()


def test_record_without_a_whole_beat_is_a_flat_line() -> None:
    rng = np.random.default_rng(0)
    off = np.zeros((12, 5000))
    noise = 0.002 * rng.normal(size=(12, 5000))
    lead_off = spikes(0.6 + 0.9 * np.arange(11)) * (np.arange(12) != 3)[:, None]
    x = MedianBeat().prepare(np.stack([off, noise, lead_off]).astype(np.float32))
    assert np.isfinite(x).all()
    assert (x[0] == 0).all()
    assert (x[2, 3] == 0).all()
    assert np.abs(x[2]).max() > 9
    short = spikes(np.array([0.5]))[None, :, :500].astype(np.float32)
    assert (MedianBeat().prepare(short) == 0).all()  # a second is less than one beat's window


def test_median_beat_of_simulated_people(simulated: Path) -> None:
    """The beat is the median of the device's own steps, by ten, wherever a beat's peak is put."""
    steps = np.load(simulated / "ecg.npy")[:30]
    truth = np.load(simulated / "r_peaks.npy")[:30]
    beats = MedianBeat().prepare((steps * ECG_MILLIVOLT).astype(np.float32)).astype(float)
    alike, heights = [], []
    for beat, record, peaks in zip(beats, steps, truth, strict=True):
        starts = np.round((peaks[(peaks > 0.6) & (peaks < 9)] - 0.45) * 500).astype(int)
        windows = record[:, starts[:, None] + np.arange(600)] / 10
        expected = np.median(windows - np.median(windows, axis=-1, keepdims=True), axis=1)
        here = beat[:, 175:325]
        lags = [expected[:, 175 + lag : 325 + lag] for lag in range(-25, 26)]
        alike.append(max(np.corrcoef(here.ravel(), lag.ravel())[0, 1] for lag in lags))
        heights.append(np.ptp(here) / np.ptp(expected[:, 150:350]))
    assert np.median(alike) > 0.97
    assert np.median(heights) == pytest.approx(1, abs=0.1)


# ------------------------------------------------------------------------------------- CMR


def test_cine_is_the_middle_slice_scaled(clinic: Path, tmp_path: Path) -> None:
    x = compute(MidSliceCine(cohort=Clinic(), frames=FRAMES, size=30), clinic, tmp_path / "x")
    middle = np.load(clinic / "cine.npy")[3, 1, :, 5:35, 10:40].astype(float)
    scaled = 255 * (middle - middle.min()) / (middle.max() - middle.min())
    assert np.abs(x[3, 0] - scaled).max() <= 0.5 + 1e-4
    assert (x.min(axis=(1, 2, 3, 4)) == 0).all()
    assert (x.max(axis=(1, 2, 3, 4)) == 255).all()


def test_cine_is_padded_around_the_centre(clinic: Path, tmp_path: Path) -> None:
    x = compute(MidSliceCine(cohort=Clinic(), frames=FRAMES, size=46), clinic, tmp_path / "x")
    assert (x[..., :3, :] == 0).all()
    assert (x[..., -3:, :] == 0).all()
    assert (x[:, :, :, 3:-3].max(axis=(0, 1, 2)) > 0).all()


def test_frames_are_interpolated_over_the_closed_cycle() -> None:
    cine = np.full((4, 8, 8), 100, dtype=np.uint8)
    cine[:, 0, 0], cine[:, 0, 1] = 0, 200
    cine[:, 4, 4] = [0, 40, 80, 120]
    x = MidSliceCine(frames=8, size=8).prepare(cine)[0, :, 4, 4] / 255 * 200
    # The last new frame lies midway between the last old frame and the first.
    assert x == pytest.approx([0, 20, 40, 60, 80, 100, 120, 60], abs=0.5)


def test_frames_as_they_are_when_the_number_agrees() -> None:
    cine = np.random.default_rng(0).integers(0, 256, (6, 8, 8)).astype(np.uint8)
    cine[0, 0, :2] = 0, 255
    assert np.array_equal(MidSliceCine(frames=6, size=8).prepare(cine)[0], cine)


def test_image_without_contrast_is_zero() -> None:
    flat = np.full((5, 9, 9), 7, dtype=np.uint8)
    assert (MidSliceCine(frames=5, size=12).prepare(flat) == 0).all()
    assert (ThreePhases(size=9).prepare(flat) == 0).all()


def test_three_phases_are_diastole_between_systole(clinic: Path, tmp_path: Path) -> None:
    x = compute(ThreePhases(cohort=Clinic(), size=40), clinic, tmp_path / "x")
    pool = (x[:, 0] > 170).sum(axis=(2, 3))
    assert (pool[:, 0] > pool[:, 1]).all()
    assert (pool[:, 1] > pool[:, 2]).all()
    cine = np.load(clinic / "cine.npy")
    picked = cine[0, 1, [0, (SYSTOLE + 1) // 2, SYSTOLE], :, 5:45].astype(float)
    scaled = 255 * (picked - picked.min()) / (picked.max() - picked.min())
    assert np.abs(x[0, 0] - scaled).max() <= 0.5 + 1e-4


def test_volumes_are_the_central_slices_scaled_as_one(clinic: Path, tmp_path: Path) -> None:
    x = compute(EDESVolumes(cohort=Clinic(), size=30), clinic, tmp_path / "x")
    stored = np.load(clinic / "volumes.npy")[7, :, 1:7, 5:35, 10:40].astype(float)
    scaled = 255 * (stored - stored.min()) / (stored.max() - stored.min())
    assert np.abs(x[7] - scaled).max() <= 0.5 + 1e-4


def test_long_axis_is_treated_as_the_short_axis_is(clinic: Path, tmp_path: Path) -> None:
    x = compute(LongAxisCine(cohort=Clinic(), frames=9, size=36), clinic, tmp_path / "x")
    stored = np.load(clinic / "long_axis.npy")
    expected = [MidSliceCine(frames=9, size=36).prepare(cine) for cine in stored]
    assert np.array_equal(x, expected)


@pytest.mark.parametrize(
    ("view", "name", "what"),
    [
        (MidSliceCine(cohort=Clinic()), "cine", "short-axis cine"),
        (ThreePhases(cohort=Clinic(), size=9), "cine", "short-axis cine"),
        (LongAxisCine(cohort=Clinic()), "long_axis", "long-axis images"),
        (EDESVolumes(cohort=Clinic(), size=9), "volumes", "short-axis stacks"),
    ],
)
def test_cohort_without_the_images(
    view: View, name: str, what: str, clinic: Path, tmp_path: Path
) -> None:
    (tmp_path / "without").mkdir()
    for file in clinic.iterdir():
        if file.name != f"{name}.npy":
            (tmp_path / "without" / file.name).symlink_to(file)
    with pytest.raises(UserError, match=f"this cohort holds no {what}") as caught:
        compute(view, tmp_path / "without", tmp_path / "x")
    assert str(tmp_path) not in str(caught.value)


def test_more_slices_than_there_are(clinic: Path, tmp_path: Path) -> None:
    view = EDESVolumes(cohort=Clinic(), size=9, slices=9)
    with pytest.raises(UserError, match="needs 9 slices; this cohort holds 8"):
        compute(view, clinic, tmp_path / "x")


# ------------------------------------------------------------------------------- pixels


def test_pixels_of_the_view_are_left_alone(clinic: Path, tmp_path: Path) -> None:
    as_stored = compute(MidSliceCine(cohort=Clinic(), size=30), clinic, tmp_path / "0")
    for number, spacing in enumerate((2.0, 2.015, 1.985)):  # the cohort has 2.0
        view = MidSliceCine(cohort=Clinic(), size=30, spacing=spacing)
        assert np.array_equal(compute(view, clinic, tmp_path / f"x{number}"), as_stored)


@pytest.mark.parametrize("spacing", [1.3, 2.74, 4.0])
@pytest.mark.parametrize("size", [32, 33])
def test_anatomy_keeps_its_size_and_its_middle(
    spacing: float, size: int, clinic: Path, tmp_path: Path
) -> None:
    """A disc of 24 mm in the middle, seen with other pixels, is a disc of 24 mm in the middle."""
    stored = 2.0
    y, x = ((np.arange(n) - (n - 1) / 2) * stored for n in (HEIGHT, WIDTH))
    distance = np.hypot(y[:, None], x)
    disc = np.clip((12 - distance) / stored + 0.5, 0, 1) * 200
    folder = tmp_path / "disc"
    folder.mkdir()
    np.save(folder / "cine.npy", np.tile(disc.astype(np.uint8), (PEOPLE, 1, 4, 1, 1)))
    (folder / "people.parquet").symlink_to(clinic / "people.parquet")
    (folder / "cohort.json").symlink_to(clinic / "cohort.json")
    view = MidSliceCine(cohort=Clinic(), frames=4, size=size, spacing=spacing)
    seen = compute(view, folder, tmp_path / "x")[0, 0, 0] / 255
    assert seen.sum() * spacing**2 == pytest.approx(np.pi * 12**2, rel=0.05)
    for axis in (0, 1):
        profile = seen.sum(axis)
        middle = (profile * np.arange(size)).sum() / profile.sum()
        assert middle == pytest.approx((size - 1) / 2, abs=0.05)


def test_resampled_cohorts_look_alike() -> None:
    """One person, imaged with coarse and with fine pixels, gives nearly the same view."""
    drawn = draw_block(0, 0, PRESETS["default"])
    noiseless = Preset("no noise", image_noise=0.0)
    fine = draw_short_axis(drawn, 0, 0, noiseless, frames=16, size=80, spacing=1.8).cine[0, 0]
    coarse = draw_short_axis(drawn, 0, 0, noiseless, frames=16, size=48, spacing=2.74).cine[0, 0]
    view = MidSliceCine(frames=16, size=48, spacing=2.74)
    resampled = view.prepare(_resample_pixels(fine, 1.8 / 2.74, 48))
    expected = view.prepare(coarse)
    assert np.corrcoef(resampled.ravel(), expected.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("frames", [16, 25, 50])
@pytest.mark.parametrize("share", [0.25, 0.36, 0.5])
def test_end_systole_of_a_noisy_drawing(frames: int, share: float) -> None:
    systole = round(share * frames)
    cine = beating_heart((60, 48), frames, systole).astype(float)
    cine += np.random.default_rng(0).normal(scale=20, size=cine.shape)
    assert abs(end_systole(cine) - systole) <= max(1, 0.04 * frames)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    class Anything(Context):
        def progress(self, *_: object, **__: object) -> None:
            pass

    context = Anything(tmp_path_factory.mktemp("simulated"), Path())
    SimulatedCohort(people=100).run(context)
    return context.out


def test_end_systole_of_simulated_people(simulated: Path) -> None:
    cine = np.load(simulated / "cine.npy", mmap_mode="r")
    truth = pd.read_parquet(simulated / "truth.parquet")["es_frame"].to_numpy()
    found = np.array([end_systole(person[0]) for person in cine])
    assert (np.abs(found - truth) <= 1).mean() > 0.95


def test_r_peaks_of_simulated_people(simulated: Path) -> None:
    truth = np.load(simulated / "r_peaks.npy")
    steps = np.load(simulated / "ecg.npy")
    found = RPeaks().prepare((steps * ECG_MILLIVOLT).astype(np.float32))

    def share_with_match(peaks: np.ndarray, others: np.ndarray) -> float:
        hits = []
        for own, other in zip(peaks, others, strict=True):
            inside = own[(own > 0.05) & (own < 9.95)]
            hits.append((np.abs(inside[:, None] - other[np.isfinite(other)]) <= 0.05).any(axis=1))
        return float(np.concatenate(hits).mean())

    assert share_with_match(truth, found) > 0.99  # sensitivity
    assert share_with_match(found, truth) > 0.99  # precision


# ------------------------------------------------------------------------------------- the rest


def test_covariates_keep_missing_values(clinic: Path, tmp_path: Path) -> None:
    x = compute(Covariates(cohort=Clinic()), clinic, tmp_path / "x")
    people = pd.read_parquet(clinic / "people.parquet")
    assert x[:, 0] == pytest.approx(people["age"].to_numpy())
    assert np.array_equal(x[:3, 1], [1, 0, np.nan], equal_nan=True)


def test_naming_a_view_loads_nothing_heavy() -> None:
    code = (
        "import sys, benchmark.cohorts.views\n"
        "print({'torch', 'scipy', 'pandas', 'sleepecg', 'wfdb'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

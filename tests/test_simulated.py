from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from scipy import ndimage
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmark.api import UserError
from benchmark.cohorts.arrays import create_array
from benchmark.cohorts.cohort import COVARIATES, DIAGNOSES, LEADS, CohortData
from benchmark.cohorts.phenotypes import VENTRICULAR10
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.cohorts.simulated import latent as latent_module
from benchmark.cohorts.simulated.cohort import simulate_block
from benchmark.cohorts.simulated.ecg import draw_parameters
from benchmark.cohorts.simulated.geometry import Contours, activation, contours_at, draw_shape
from benchmark.cohorts.simulated.latent import (
    BLOCK,
    INTERCEPT,
    PREVALENCE,
    Latent,
    Stream,
    concatenate,
    derive_intercepts,
    draw_latent,
    generator,
    measure,
)

PEOPLE = 600
TABLES = ("people", "phenotypes", "diagnoses", "truth")
FILES = ("ecg.npy", "cine.npy", "r_peaks.npy", *(f"{name}.parquet" for name in TABLES))


@dataclasses.dataclass
class Folders:
    """The part of a context that a cohort needs."""

    out: Path
    resume: Path
    workers: int = 1
    reports: list[tuple[float, float, str]] = dataclasses.field(default_factory=list)

    @classmethod
    def under(cls, root: Path, workers: int = 1) -> Folders:
        folders = cls(root / "out", root / "resume", workers)
        folders.out.mkdir(parents=True)
        folders.resume.mkdir(exist_ok=True)
        return folders

    def progress(self, done: float, total: float, unit: str = "", note: str = "") -> None:
        self.reports.append((done, total, unit))


def generate(cohort: SimulatedCohort, root: Path, workers: int = 1) -> Folders:
    context = Folders.under(root, workers)
    cohort.run(context)
    return context


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortData:
    context = generate(SimulatedCohort(people=PEOPLE), tmp_path_factory.mktemp("simulated"))
    return CohortData(context.out)


@pytest.fixture(scope="module")
def population() -> Latent:
    return concatenate([draw_latent(1, block) for block in range(200_000 // BLOCK)])


# ------------------------------------------------------------------------------- the stage


def test_folder_is_what_cohort_data_reads(cohort: CohortData) -> None:
    assert cohort.ecg.shape == (PEOPLE, 12, 5000)
    assert cohort.ecg.dtype == np.int16
    assert cohort.cine.shape == (PEOPLE, 1, 16, 48, 48)
    assert cohort.cine.dtype == np.uint8
    assert list(cohort.people.columns) == ["id", *COVARIATES]
    assert list(cohort.people["id"].iloc[[0, -1]]) == ["SIM-000001", "SIM-000600"]
    assert list(cohort.hash_id.iloc[[0, -1]]) == ["9000001", "9000600"]
    assert set(cohort.people["sex"]) == {0.0, 1.0}
    assert list(cohort.phenotypes.columns) == list(VENTRICULAR10)
    assert list(cohort.diagnoses.columns) == list(DIAGNOSES)
    assert np.isin(cohort.diagnoses.to_numpy(), (0.0, 1.0)).all()
    assert {str(dtype) for dtype in cohort.diagnoses.dtypes} == {"float64"}
    assert np.isfinite(cohort.phenotypes.to_numpy()).all()
    for split, share in (("train", 0.70), ("validation", 0.15), ("test", 0.15)):
        assert cohort.rows(split).size == pytest.approx(share * PEOPLE, abs=45)
    truth = pd.read_parquet(cohort.folder / "truth.parquet")
    assert list(truth.columns[-3:]) == ["heart_rate", "af_rhythm", "es_frame"]
    peaks = np.load(cohort.folder / "r_peaks.npy")
    assert peaks.shape == (PEOPLE, 40)
    assert peaks.dtype == np.float32


def test_person_depends_on_neither_number_of_people_nor_workers(
    cohort: CohortData, tmp_path: Path
) -> None:
    people = 230
    context = generate(SimulatedCohort(people=people), tmp_path, workers=2)
    fewer = CohortData(context.out)
    assert np.array_equal(fewer.ecg, cohort.ecg[:people])
    assert np.array_equal(fewer.cine, cohort.cine[:people])
    for table in TABLES:
        name = f"{table}.parquet"
        expected = pd.read_parquet(cohort.folder / name).iloc[:people]
        pd.testing.assert_frame_equal(
            pd.read_parquet(fewer.folder / name), expected, check_exact=True
        )
    assert context.reports[0] == (0, people, "people")
    assert context.reports[-1] == (people, people, "people")
    assert len(context.reports) == 1 + 3


def test_finished_blocks_are_reused_and_missing_ones_made_again(tmp_path: Path) -> None:
    cohort = SimulatedCohort(people=250, size=24, frames=4)
    first = generate(cohort, tmp_path / "a")
    expected = contents(first.out)
    blocks = sorted(first.resume.iterdir())
    assert len(blocks) == 3
    blocks[1].unlink()
    (first.resume / "block-00001.part").write_bytes(b"cut off")
    kept = blocks[0].stat().st_mtime_ns
    for name in FILES:
        (first.out / name).unlink()
    first.reports.clear()
    cohort.run(first)
    assert contents(first.out) == expected
    assert blocks[0].stat().st_mtime_ns == kept
    assert [done for done, *_ in first.reports] == [150, 250]
    assert sorted(first.resume.iterdir()) == blocks


SCRIPT = """
import pathlib, sys, types
from benchmark.cohorts.simulated import SimulatedCohort
if __name__ == "__main__":
    root = pathlib.Path(sys.argv[1])
    (root / "resume").mkdir(parents=True)
    (root / "out").mkdir()
    SimulatedCohort(people=1500).run(types.SimpleNamespace(
        out=root / "out", resume=root / "resume", workers=2, progress=lambda *_, **__: None))
"""


def test_killed_run_leaves_no_workers_and_resumes(tmp_path: Path, cohort: CohortData) -> None:
    script = tmp_path / "script.py"
    root = tmp_path / "run"
    script.write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, script, root])
    wait_until(lambda: len(list(root.glob("resume/block-*.safetensors"))) >= 2)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(alive(child) for child in children))
    finished = {p.name: p.stat().st_mtime_ns for p in root.glob("resume/*.safetensors")}
    assert finished.keys() < {f"block-{b:05d}.safetensors" for b in range(15)}

    context = Folders(root / "out", root / "resume")
    SimulatedCohort(people=300).run(context)
    resumed = CohortData(context.out)
    assert np.array_equal(resumed.ecg, cohort.ecg[:300])
    assert np.array_equal(resumed.cine, cohort.cine[:300])
    assert resumed.phenotypes.equals(cohort.phenotypes.iloc[:300])
    assert all((root / "resume" / n).stat().st_mtime_ns == t for n, t in finished.items())


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_lost_lease_stops_the_workers(tmp_path: Path) -> None:
    class LeaseLostError(Exception):
        pass

    class Losing(Folders):
        def progress(self, done: float, total: float, unit: str = "", note: str = "") -> None:
            if done:
                raise LeaseLostError

    context = Losing.under(tmp_path, workers=2)
    with pytest.raises(LeaseLostError):
        SimulatedCohort(people=1200, size=16, frames=2).run(context)
    assert len(list(context.resume.glob("*.safetensors"))) < 12
    assert not list(context.out.iterdir())


def test_identity() -> None:
    cohort = SimulatedCohort(people=300)
    assert cohort.digest == SimulatedCohort(people=300, spacing=2.74, preset="default").digest
    assert cohort.digest != SimulatedCohort(people=301).digest
    assert cohort.digest != SimulatedCohort(people=300, random_state=1).digest
    assert "workers" not in cohort.describe()
    assert cohort.title == "simulated"
    assert not cohort.inputs
    seconds, size = SimulatedCohort(people=6000).estimate()
    assert seconds < 25
    assert size == pytest.approx(6000 * (120_000 + 16 * 48 * 48), rel=0.01)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "defualt"}, "known: default"),
        ({"people": 0}, "people >= 1"),
        ({"random_state": -1}, "random_state >= 0"),
        ({"frames": 1}, "frames >= 2"),
        ({"spacing": 0.0}, "spacing > 0"),
    ],
)
def test_unusable_fields_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SimulatedCohort(**{"people": 100, **fields})


def test_import_is_light() -> None:
    code = (
        "import sys, benchmark.cohorts.simulated;"
        "print(sorted({'numpy', 'pandas', 'torch', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------- arrays


def test_created_array_has_its_place_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    array = create_array(path, (3, 100_000), np.int16)
    array[1] = 7
    array.flush()
    read = np.load(path, mmap_mode="r", allow_pickle=False)
    assert read.dtype == np.int16
    assert [row.min() for row in read] == [row.max() for row in read] == [0, 7, 0]
    assert path.stat().st_blocks * 512 >= path.stat().st_size


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, None])
def test_array_without_fallocate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(number, "refused")

    if number is None:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    path = tmp_path / "a.npy"
    array = create_array(path, (700, 1000), np.float32)
    assert not array.any()
    assert np.load(path).shape == (700, 1000)
    assert path.stat().st_blocks * 512 >= path.stat().st_size


def test_full_disk_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match=r"No space left.*a\.npy") as caught:
        create_array(tmp_path / "a.npy", (10,), np.uint8)
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------- population


@pytest.mark.parametrize(
    ("name", "mean", "sd"),
    [
        ("lvedv", 146.1, 33.3),
        ("lvesv", 60.8, 18.1),
        ("lvsv", 85.3, 18.9),
        ("lvef", 58.7, 5.6),
        ("lvm", 88.7, 23.9),
        ("rvedv", 153, 40),
        ("rvesv", 68, 25),
        ("rvsv", 85, 19),
        ("rvef", 56.4, 6.3),
        ("la_max", 67.6, 17.7),
        ("heart_rate", 59.9, 9.7),
        ("age", 64, 7.5),
        ("height", 169, 9.3),
        ("weight", 76.3, 15.1),
        ("bmi", 26.6, 4.2),
        ("pressure", 138, 16),
    ],
)
def test_moments_of_the_population(population: Latent, name: str, mean: float, sd: float) -> None:
    values = getattr(population, name)
    assert values.mean() == pytest.approx(mean, rel=0.03)
    assert values.std() == pytest.approx(sd, rel=0.10)


@pytest.mark.parametrize("name", PREVALENCE)
def test_prevalences(population: Latent, name: str) -> None:
    tolerance = 0.15 if name == "CM" else 0.05
    values = getattr(population, name.lower())
    assert values.mean() == pytest.approx(PREVALENCE[name], rel=tolerance)


def test_heart_attacks_happen_to_coronary_patients(population: Latent) -> None:
    assert (population.cad[population.mi > 0] == 1).all()
    assert (population.af[population.af_rhythm > 0] == 1).all()


def test_intercepts_are_those_that_bisection_finds() -> None:
    found = derive_intercepts(people=200_000, random_state=5)
    assert found.keys() == INTERCEPT.keys()
    for name, value in found.items():
        assert value == pytest.approx(INTERCEPT[name], abs=0.05), name


def test_ecg_intervals_of_the_population(population: Latent) -> None:
    p = draw_parameters(population, np.random.default_rng(0))
    for values, mean, sd in (
        (p.qrs, 90.0, 12.2),
        (p.pr, 166.1, 21.3),
        (p.p_duration, 95.1, 15.1),
        (p.qt, 418, 29),
        (p.qtc, 416, 18),
    ):
        assert values.mean() == pytest.approx(mean, rel=0.03)
        assert values.std() == pytest.approx(sd, rel=0.10)
    assert p.lbbb.mean() == pytest.approx(0.007, rel=0.1)
    assert p.rbbb.mean() == pytest.approx(0.025, rel=0.1)


def test_measured_labels_are_consistent_and_as_noisy_as_segmentation(population: Latent) -> None:
    measured = measure(population, 0, 0)
    lvedv, lvesv, lvsv, lvef, _, _, rvedv, rvesv, rvsv, rvef = measured.T
    np.testing.assert_allclose(lvsv, lvedv - lvesv)
    np.testing.assert_allclose(lvef, 100 * lvsv / lvedv)
    np.testing.assert_allclose(rvsv, rvedv - rvesv)
    np.testing.assert_allclose(rvef, 100 * rvsv / rvedv)
    variation = (measured / population.phenotypes).std(0)
    expected = [0.05, 0.09, 0.07, 0.045, 0.08, 0.07, 0.07, 0.11, 0.09, 0.06]
    np.testing.assert_allclose(variation, expected, rtol=0.15)
    ceiling = 1 - ((measured - population.phenotypes) ** 2).mean(0) / measured.var(0)
    published = [0.95, 0.91, 0.90, 0.81, 0.88, 0.93, 0.93, 0.90, 0.86, 0.77]
    np.testing.assert_allclose(ceiling, published, atol=0.025)


def test_streams_share_no_numbers() -> None:
    draws = {
        (state, stream, index): tuple(generator(state, stream, index).random(4))
        for state in (0, 1)
        for stream in Stream
        for index in (0, 1)
    }
    assert len({value for row in draws.values() for value in row}) == 4 * len(draws)


def test_ecg_and_cine_share_only_the_cardiac_state(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = SimulatedCohort(people=100, size=24, frames=4)
    before = simulate_block(cohort, 0)
    original = latent_module.generator
    other = {Stream.ECG: 9, Stream.ECG_NOISE: 9}

    def elsewhere(state: int, stream: Stream, index: int) -> np.random.Generator:
        return original(other.get(stream, state), stream, index)

    for module in ("ecg", "cine"):
        monkeypatch.setattr(f"benchmark.cohorts.simulated.{module}.generator", elsewhere)
    after = simulate_block(cohort, 0)
    assert not np.array_equal(before["ecg"], after["ecg"])
    for name in ("cine", "phenotypes", "diagnoses", "people", "truth"):
        assert np.array_equal(before[name], after[name])


# ------------------------------------------------------------------------------- ECG


def test_limb_leads_keep_their_identities(cohort: CohortData) -> None:
    lead = dict(zip(LEADS, np.moveaxis(np.asarray(cohort.ecg, np.int32), 1, 0), strict=True))
    one_step = 1  # 5 uV
    assert np.abs(lead["I"] + lead["III"] - lead["II"]).max() <= one_step
    assert np.abs(lead["aVR"] + lead["aVL"] + lead["aVF"]).max() <= one_step
    assert np.abs(2 * lead["aVR"] + lead["I"] + lead["II"]).max() <= 2 * one_step
    assert np.abs(2 * lead["aVL"] - lead["I"] + lead["III"]).max() <= 2 * one_step
    assert np.abs(2 * lead["aVF"] - lead["II"] - lead["III"]).max() <= 2 * one_step


def test_amplitudes_and_band_are_those_of_an_ecg(cohort: CohortData) -> None:
    millivolt = cohort.ecg[:200] * 0.005
    v5 = millivolt[:, LEADS.index("V5")]
    v1 = millivolt[:, LEADS.index("V1")]
    assert 0.8 < np.median(v5.max(1)) < 2.5
    assert -2.0 < np.median(v1.min(1)) < -0.5
    assert np.abs(millivolt).max() < 8
    power = np.abs(np.fft.rfft(millivolt[:, 6:] - millivolt[:, 6:].mean(-1, keepdims=True))) ** 2
    frequency = np.fft.rfftfreq(5000, 1 / 500)
    assert power[..., frequency > 110].sum() < 0.01 * power.sum()


def test_true_r_peaks_are_where_the_qrs_is(cohort: CohortData) -> None:
    peaks = np.load(cohort.folder / "r_peaks.npy")
    truth = pd.read_parquet(cohort.folder / "truth.parquet")
    assert np.nanmin(peaks) >= 0
    assert np.nanmax(peaks) < 10
    intervals = np.diff(peaks, axis=1)
    assert np.nanmin(intervals) > 0.32
    count = np.isfinite(peaks).sum(1)
    assert np.abs(count - truth["heart_rate"] / 6).mean() < 1
    late = []
    for row in range(100):
        slope = np.abs(np.diff(cohort.ecg[row].astype(float), axis=1)).sum(0)
        for peak in peaks[row, np.isfinite(peaks[row])]:
            index = round(peak * 500)
            if 100 < index < 4900:
                window = np.convolve(slope[index - 100 : index + 100], np.ones(20), "same")
                late.append(window.argmax() - 100)
    assert np.abs(np.median(late)) <= 5  # 10 ms
    assert (np.abs(late) <= 25).mean() > 0.98


def test_atrial_fibrillation_is_irregular(population: Latent) -> None:
    cohort = SimulatedCohort(people=100, size=8, frames=2)
    found = [b for b in range(600) if population.af_rhythm[b * BLOCK : (b + 1) * BLOCK].any()]
    spread = {0: [], 1: []}
    for block in found[:2]:
        simulated = simulate_block(cohort.replace(random_state=1), block)
        rr = np.diff(simulated["r_peaks"], axis=1)
        variation = np.nanstd(rr, axis=1) / np.nanmean(rr, axis=1)
        for rhythm in (0, 1):
            rows = simulated["truth"][:, -2] == rhythm
            spread[rhythm].extend(variation[rows])
    assert np.median(spread[1]) > 0.10
    assert np.median(spread[0]) < 0.05


# ------------------------------------------------------------------------------- cine


def cut(block: int, s: np.ndarray, heights: np.ndarray) -> tuple[Latent, Contours, np.ndarray]:
    latent = draw_latent(0, block)
    shape = draw_shape(latent, generator(0, Stream.CINE, block))
    return latent, contours_at(latent, shape, s, heights), shape.length


def area(radius: np.ndarray) -> np.ndarray:
    """mm2 of the regions within radii given at equal angles."""
    return np.pi * (radius.astype(float) ** 2).mean(-1)


def test_volumes_of_the_drawn_shapes_are_the_phenotypes() -> None:
    step = 0.005
    heights = np.arange(-0.1, 1.0, step) + step / 2
    s = np.tile([0.0, 1.0], (BLOCK, 1))
    latent, contours, length = cut(3, s, heights)

    def volume(areas: np.ndarray) -> np.ndarray:
        return areas.sum(1) * step * length[:, None] / 1000

    cavity = volume(area(contours.endocardium))
    whole = volume(area(contours.epicardium))
    right = volume(area(contours.right)) - whole
    for drawn, expected in (
        (cavity, np.stack([latent.lvedv, latent.lvesv], 1)),
        (1.05 * (whole - cavity), np.stack([latent.lvm] * 2, 1)),
        (right, np.stack([latent.rvedv, latent.rvesv], 1)),
    ):
        np.testing.assert_allclose(drawn, expected, rtol=0.01)
    assert (contours.epicardium >= contours.endocardium).all()
    assert (contours.right >= contours.epicardium).all()


def test_activation_runs_from_diastole_to_systole_and_back() -> None:
    rr = np.array([0.5, 1.0, 1.4, 1.0])
    s = activation(rr, np.array([0.0, 0.0, 0.0, 1.0]), np.linspace(0, 1, 1001))
    assert s.min() >= 0
    np.testing.assert_allclose(s[:, 0], 0)
    np.testing.assert_allclose(s[:, -1], 0, atol=1e-9)
    np.testing.assert_allclose(s.max(1), 1, atol=1e-3)
    np.testing.assert_allclose(s.argmax(1) / 1000 * rr, 0.29 + 0.07 * rr, atol=0.002)
    late = slice(-200, -150)  # before the atrial kick
    assert (s[1, late] > 0.15).all()
    assert (s[3, late] < 0.01).all()


def left_cavity(picture: np.ndarray) -> int:
    """Count the pixels of the bright region in which the left ventricle's centre lies."""
    row, column = 23, 29
    around = picture[row - 4 : row + 5, column - 4 : column + 5]
    bright = picture > 0.68 * np.percentile(around, 80)
    labels, _ = ndimage.label(bright)
    here = labels[row - 4 : row + 5, column - 4 : column + 5]
    region = labels == np.bincount(here[here > 0]).argmax()
    return int(ndimage.binary_fill_holes(region).sum())


def test_picture_shows_the_geometry_and_the_volume(cohort: CohortData) -> None:
    truth = pd.read_parquet(cohort.folder / "truth.parquet").iloc[:200]
    es = truth["es_frame"].to_numpy()
    rows = np.arange(200)
    drawn = np.array([[left_cavity(cohort.cine[r, 0, f]) for f in (0, es[r])] for r in rows])
    expected = []
    for block in (0, 1):
        latent = draw_latent(0, block)
        s = activation(60 / latent.heart_rate, latent.af_rhythm, np.arange(16) / 16)
        _, contours, _ = cut(block, s, np.array([0.5]))
        areas = area(contours.endocardium[:, 0])
        assert np.array_equal(areas.argmin(1), es[block * BLOCK : (block + 1) * BLOCK])
        frames = es[block * BLOCK : (block + 1) * BLOCK]
        expected.append(np.stack([areas[:, 0], areas[np.arange(BLOCK), frames]], 1))
    ratio = drawn * 2.74**2 / np.concatenate(expected)
    assert np.median(ratio[:, 0]) == pytest.approx(1, abs=0.05)
    assert (np.abs(ratio[:, 0] - 1) < 0.15).mean() > 0.9
    assert np.corrcoef(drawn[:, 0], np.concatenate(expected)[:, 0])[0, 1] > 0.9
    assert np.corrcoef(drawn[:, 0], truth["LVEDV"])[0, 1] > 0.75
    assert np.corrcoef(drawn[:, 1], truth["LVESV"])[0, 1] > 0.75
    assert (drawn[:, 1] < drawn[:, 0]).mean() > 0.98


def test_grey_levels_use_the_range_of_a_byte(cohort: CohortData) -> None:
    cine = np.asarray(cohort.cine[:100])
    assert (cine == 255).mean() < 0.001
    assert 120 < np.median(cine[:, 0, 0, 20:26, 26:32]) < 180  # blood is 150
    assert np.median(cine) < 60


def test_heart_lies_within_the_picture() -> None:
    _, contours, _ = cut(0, np.zeros((BLOCK, 1)), np.array([0.5]))
    reach = contours.right[:, 0, 0].max(-1)  # towards the left side of the picture
    assert (reach + 3 < 65.8 + 15).mean() > 0.95


# ------------------------------------------------------------------------------- information


def explained(features: np.ndarray, target: np.ndarray) -> float:
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 11)))
    return cross_val_score(model, features, target, cv=5, scoring="r2").mean()


def test_ecg_and_covariates_tell_something_but_not_all_about_mass(cohort: CohortData) -> None:
    peaks = np.load(cohort.folder / "r_peaks.npy")
    features = []
    for row in range(PEOPLE):
        at = np.rint(peaks[row, np.isfinite(peaks[row])] * 500).astype(int)
        beats = [cohort.ecg[row, :, r - 40 : r + 50] for r in at if 40 <= r <= 4950]
        median = np.median(beats, axis=0) * 0.005
        features.append(np.concatenate([median.max(1), median.min(1), [np.diff(at).mean()]]))
    mass = cohort.phenotypes["LVM"].to_numpy()
    from_ecg = explained(np.array(features), mass)
    from_covariates = explained(cohort.people[list(COVARIATES)].to_numpy(), mass)
    assert 0.10 < from_ecg < 0.80
    assert 0.35 < from_covariates < 0.80


def test_shuffled_ecg_tells_nothing(cohort: CohortData) -> None:
    strength = cohort.ecg.astype(np.float32).std(-1)
    shuffled = np.random.default_rng(0).permutation(PEOPLE)
    assert explained(strength[shuffled], cohort.phenotypes["LVM"].to_numpy()) < 0.03

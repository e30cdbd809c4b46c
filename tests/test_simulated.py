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
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmark.api import UserError
from benchmark.cohorts.arrays import create_array
from benchmark.cohorts.cohort import COVARIATES, DIAGNOSES, ECG_MEASURES, LEADS, CohortData
from benchmark.cohorts.phenotypes import PHENOTYPE_NAMES
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.cohorts.simulated import latent as latent_module
from benchmark.cohorts.simulated.cohort import simulate_block
from benchmark.cohorts.simulated.latent import Stream
from benchmark.cohorts.simulated.presets import PRESETS

PEOPLE = 400
TABLES = ("people", "phenotypes", "diagnoses", "truth")
ARRAYS = ("ecg", "r_peaks", "cine", "volumes", "long_axis", "masks")
FILES = (*(f"{name}.npy" for name in ARRAYS), *(f"{name}.parquet" for name in TABLES))


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


# ------------------------------------------------------------------------------- the stage


def test_folder_is_what_cohort_data_reads(cohort: CohortData) -> None:
    assert cohort.ecg.shape == (PEOPLE, 12, 5000)
    assert cohort.ecg.dtype == np.int16
    for images, shape in (
        (cohort.cine, (1, 16, 48, 48)),
        (cohort.volumes, (2, 8, 48, 48)),
        (cohort.long_axis, (16, 48, 48)),
        (cohort.masks, (2, 48, 48)),
    ):
        assert images.shape == (PEOPLE, *shape)
        assert images.dtype == np.uint8
    assert cohort.about == {"spacing": 2.74}
    assert list(cohort.people.columns) == ["id", *COVARIATES, *ECG_MEASURES]
    assert list(cohort.people["id"].iloc[[0, -1]]) == ["SIM-000001", "SIM-000400"]
    assert list(cohort.hash_id.iloc[[0, -1]]) == ["9000001", "9000400"]
    assert set(cohort.people["sex"]) == {0.0, 1.0}
    assert list(cohort.phenotypes.columns) == list(PHENOTYPE_NAMES)
    assert list(cohort.diagnoses.columns) == list(DIAGNOSES)
    assert np.isin(cohort.diagnoses.to_numpy(), (0.0, 1.0)).all()
    assert {str(dtype) for dtype in cohort.diagnoses.dtypes} == {"float64"}
    assert np.isfinite(cohort.phenotypes.to_numpy()).all()
    for split, share in (("train", 0.70), ("validation", 0.15), ("test", 0.15)):
        assert cohort.rows(split).size == pytest.approx(share * PEOPLE, abs=45)
    truth = pd.read_parquet(cohort.folder / "truth.parquet")
    assert list(truth.columns) == [*PHENOTYPE_NAMES, "heart_rate", "af_rhythm", "es_frame"]
    peaks = np.load(cohort.folder / "r_peaks.npy")
    assert peaks.shape == (PEOPLE, 40)
    assert peaks.dtype == np.float32


def test_person_depends_on_neither_number_of_people_nor_workers(
    cohort: CohortData, tmp_path: Path
) -> None:
    people = 230
    context = generate(SimulatedCohort(people=people), tmp_path, workers=2)
    fewer = CohortData(context.out)
    for name in ARRAYS:
        few, many = (np.load(c.folder / f"{name}.npy", mmap_mode="r") for c in (fewer, cohort))
        assert few.tobytes() == many[:people].tobytes(), name
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
    blocks = sorted(first.resume.glob("*.safetensors"))
    assert len(blocks) == 3
    blocks[1].unlink()
    (first.resume / "block-00001.part").write_bytes(b"cut off")
    half_written = np.load(first.resume / "cine.npy", mmap_mode="r+")
    half_written[150:200] = 7
    half_written.flush()
    kept = blocks[0].stat().st_mtime_ns
    first.out.rename(tmp_path / "killed before the commit")
    first.out.mkdir()
    first.reports.clear()
    cohort.run(first)
    assert contents(first.out) == expected
    assert blocks[0].stat().st_mtime_ns == kept
    assert [done for done, *_ in first.reports] == [150, 250]
    assert sorted(first.resume.glob("block-*")) == blocks


def test_blocks_are_not_believed_without_their_arrays(tmp_path: Path) -> None:
    cohort = SimulatedCohort(people=150, size=16, frames=2)
    first = generate(cohort, tmp_path)
    expected = contents(first.out)
    (first.resume / "masks.npy").unlink()
    first.out.rename(tmp_path / "killed before the commit")
    first.out.mkdir()
    first.reports.clear()
    cohort.run(first)
    assert contents(first.out) == expected
    assert [done for done, *_ in first.reports] == [0, 100, 150]


def test_arrays_are_stored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = SimulatedCohort(people=50, size=16, frames=2)
    linked = generate(cohort, tmp_path / "a")
    for name in ARRAYS:
        assert (linked.out / f"{name}.npy").samefile(linked.resume / f"{name}.npy")

    def unsupported(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", unsupported)  # as on FAT
    assert contents(generate(cohort, tmp_path / "b").out) == contents(linked.out)


MANY = SimulatedCohort(people=800, size=24, frames=4)
SCRIPT = """
import pathlib, sys, types
from benchmark.cohorts.simulated import SimulatedCohort
if __name__ == "__main__":
    root = pathlib.Path(sys.argv[1])
    (root / "resume").mkdir(parents=True)
    (root / "out").mkdir()
    SimulatedCohort(people=800, size=24, frames=4).run(types.SimpleNamespace(
        out=root / "out", resume=root / "resume", workers=2, progress=lambda *_, **__: None))
"""


def test_killed_run_leaves_no_workers_and_resumes(tmp_path: Path) -> None:
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
    assert finished.keys() < {f"block-{b:05d}.safetensors" for b in range(8)}

    context = Folders(root / "out", root / "resume")
    MANY.run(context)
    assert all((root / "resume" / n).stat().st_mtime_ns == t for n, t in finished.items())
    resumed = CohortData(context.out)
    kept = int(min(finished)[6:11])
    made = min({*range(8)} - {int(name[6:11]) for name in finished})
    for block in (kept, made):
        expected, rows = simulate_block(MANY, block), slice(100 * block, 100 * (block + 1))
        for name in ARRAYS:
            stored = np.load(context.out / f"{name}.npy", mmap_mode="r")[rows]
            assert stored.tobytes() == expected[name].tobytes(), name
        assert np.array_equal(resumed.phenotypes.to_numpy()[rows], expected["phenotypes"])


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


def test_an_external_population_is_of_other_people() -> None:
    states = {name: SimulatedCohort.at("smoke", name).random_state for name in PRESETS}
    assert [name for name, state in states.items() if state != states["default"]] == ["shift"]


def test_identity() -> None:
    cohort = SimulatedCohort(people=300)
    assert cohort.digest == SimulatedCohort(people=300, spacing=2.74, preset="default").digest
    assert cohort.digest != SimulatedCohort(people=301).digest
    assert cohort.digest != SimulatedCohort(people=300, random_state=1).digest
    assert "workers" not in cohort.describe()
    assert cohort.title == "simulated"
    assert not cohort.inputs
    assert SimulatedCohort(people=300, preset="null").title == "simulated-null"


@pytest.mark.parametrize(
    ("scale", "people", "pixels"),
    [
        ("smoke", 300, (16, 48, 2.74)),
        ("tiny", 6_000, (16, 48, 2.74)),
        ("small", 20_000, (50, 64, 2.2)),
        ("full", 40_000, (50, 80, 1.8)),
    ],
)
def test_scales(scale: str, people: int, pixels: tuple[int, int, float]) -> None:
    cohort = SimulatedCohort.at(scale, "hard")
    assert cohort.preset == "hard"
    assert cohort.people == people
    assert (cohort.frames, cohort.size, cohort.spacing) == pixels


def test_estimate_of_the_disk_is_right(cohort: CohortData) -> None:
    _, size = SimulatedCohort(people=PEOPLE).estimate()
    stored = sum((cohort.folder / name).stat().st_size for name in FILES)
    assert size == pytest.approx(stored, rel=0.01)
    _, full = SimulatedCohort.at("full").estimate()
    assert full == pytest.approx(40_000 * (120_000 + (2 * 50 + 16 + 2) * 80 * 80), rel=0.01)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "defualt"}, "known: easy, default, hard, null, permuted-pairs, shift"),
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


def test_ecg_and_cine_share_only_the_cardiac_state(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = SimulatedCohort(people=100, size=24, frames=4)
    before = simulate_block(cohort, 0)
    original = latent_module.generator

    def elsewhere(state: int, stream: Stream, *others: int) -> np.random.Generator:
        assert stream in (Stream.ECG, Stream.ECG_NOISE)
        return original(9, stream, *others)

    monkeypatch.setattr("benchmark.cohorts.simulated.ecg.generator", elsewhere)
    after = simulate_block(cohort, 0)
    assert not np.array_equal(before["ecg"], after["ecg"])
    for name in after.keys() - {"ecg", "r_peaks", "ecg_measures"}:
        assert np.array_equal(before[name], after[name]), name


def test_presets_say_whose_heart_is_shown() -> None:
    cohort = SimulatedCohort(people=100, size=24, frames=4)
    own, null, permuted = (
        simulate_block(cohort.replace(preset=preset), 0)
        for preset in ("default", "null", "permuted-pairs")
    )
    images = {"cine", "volumes", "long_axis", "masks"}
    for other, strange in ((null, {"ecg"}), (permuted, images)):
        for name in ("ecg", "people", "phenotypes", "diagnoses", *images):
            assert np.array_equal(own[name], other[name]) == (name not in strange), name


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

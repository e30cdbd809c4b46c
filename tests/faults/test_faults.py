"""After any fault the same command finishes, and what comes out is what comes out undisturbed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults.grains import totals
from faults.harness import Sweep, differences, interrupt, kill, strike, terminate

from benchmark.engine.lease import Holder
from benchmark.engine.store import ArtifactError, Store
from benchmark.reports.files import DRAFT, replace_file, turn
from benchmark.stage import topological

GRAINS = (sys.executable, "-c", "from faults.grains import main; main()")
HOW = {"inline": ("--executor", "inline"), "local": ("--executor", "local", "--workers", "2")}
ROOT_ALONE = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0,
    reason="only root mounts file systems",
)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    sweep = Sweep(tmp_path_factory.mktemp("quiet"), ["grains", *HOW["inline"]], GRAINS)
    sweep.finish()
    return sweep


@pytest.fixture(params=["inline", pytest.param("local", marks=pytest.mark.nightly)])
def sweep(tmp_path, request):
    """A sweep of which nothing goes on, whatever becomes of the test."""
    made = Sweep(tmp_path, ["grains", *HOW[request.param]], GRAINS)
    yield made
    for pid in made.processes():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def small_disk(tmp_path):
    """A file system in memory, and what changes its options."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system in memory can be mounted here")

    def change(options):
        command = ["mount", "-o", f"remount,{options}", str(folder)]
        return subprocess.run(command, capture_output=True).returncode == 0

    yield folder, change
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def half_done(sweep, process):
    wait_for(lambda: len(sweep.finished()) > 3 or process.poll() is not None)
    assert process.poll() is None, sweep.said()


# ------------------------------------------------------------------------------ processes end


@pytest.mark.parametrize("executor", ["local", pytest.param("inline", marks=pytest.mark.nightly)])
def test_processes_are_killed(quiet, tmp_path, executor):
    sweep = Sweep(tmp_path, ["grains", *HOW[executor]], GRAINS)
    toll = strike(sweep, quiet, 6, seed=3, pause=0.4)
    assert toll.ok, [*toll.lines(), sweep.said()]
    assert toll.kills.total() == 6
    begun = len(sweep.journal.read_text().splitlines())
    assert begun <= toll.stages + toll.interrupted, "nothing was made twice but what was cut off"


@pytest.mark.parametrize("executor", ["inline", pytest.param("local", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("strikes", [interrupt, pytest.param(terminate, marks=pytest.mark.nightly)])
def test_it_is_asked_to_end(quiet, tmp_path, executor, strikes):
    sweep = Sweep(tmp_path, ["grains", *HOW[executor]], GRAINS)
    toll = strike(sweep, quiet, 3, seed=5, pause=0.4, strikes=strikes)
    assert toll.ok, [*toll.lines(), sweep.said()]
    assert not sweep.held()


def test_a_scheduler_that_ends_it_finds_no_lease_afterwards(sweep):
    process = sweep.start()
    half_done(sweep, process)
    process.terminate()
    assert process.wait(30) == 130
    assert not sweep.held()
    assert "interrupted: finished stages are kept" in sweep.said()
    assert "Traceback" not in sweep.said()


def test_two_commands_at_once(quiet, sweep):
    both = [sweep.start(), sweep.start()]
    assert [process.wait(120) for process in both] == [0, 0], sweep.said()
    assert differences(quiet, sweep) == []
    begun = [line.split()[0] for line in sweep.journal.read_text().splitlines()]
    assert len(begun) == len(set(begun)), "each stage is made by one of them"


# -------------------------------------------------------------------------------- files, disks


def damage(sweep, rng, toll):
    """Do something bad to a file of an artifact, whoever is reading it."""
    files = [path for path in sorted(sweep.store.glob("done/*/*")) if path.is_file()]
    if not files:
        return False
    path = rng.choice(files)
    how = rng.choice(["flip", "cut", "empty", "remove"])
    try:
        size = path.stat().st_size
        if how == "remove":
            path.unlink()
        elif how == "flip" and size:
            with path.open("r+b") as file:
                file.seek(place := rng.randrange(size))
                byte = file.read(1)[0] ^ 1 << rng.randrange(8)
                file.seek(place)
                file.write(bytes([byte]))
        else:
            os.truncate(path, rng.randrange(size) if how == "cut" and size else 0)
    except FileNotFoundError:  # set aside a moment ago
        return False
    toll.kills[how] += 1
    return True


@pytest.mark.parametrize(
    ("executor", "seed"),
    [
        ("local", 1),
        *(pytest.param("local", seed, marks=pytest.mark.nightly) for seed in range(2, 6)),
        *(pytest.param("inline", seed, marks=pytest.mark.nightly) for seed in range(1, 6)),
    ],
)
def test_artifacts_are_damaged_while_they_are_read(quiet, tmp_path, executor, seed):
    sweep = Sweep(tmp_path, ["grains", *HOW[executor]], GRAINS)
    toll = strike(sweep, quiet, 10, seed, pause=0.2, strikes=damage)
    # The last may have hit after the end: that is for the next command to find.
    sweep.finish()
    assert quiet.results() == sweep.results(), sweep.said()
    assert toll.codes.keys() <= {0, 1, -signal.SIGKILL, -signal.SIGBUS}, sweep.said()
    # What is whole by its own manifest holds what it holds undisturbed.
    store, right = Store(sweep.store), quiet.artifacts()
    for digest, files in sweep.artifacts().items():
        try:
            store.verify(digest)
        except ArtifactError:
            continue
        assert files == right[digest]


@ROOT_ALONE
def test_the_disk_is_full_again_and_again(quiet, small_disk):
    folder, change = small_disk
    sweep = Sweep(folder, ["grains", *HOW["local"]], GRAINS)
    sweep.log = folder.parent / "log"
    ends = []
    for size in (200, 440, 4000):
        assert change(f"size={size}k")
        ends.append(sweep.run())
        assert "Traceback" not in sweep.said(), sweep.said()
    assert ends[-1] == 0, sweep.said()
    assert ends.count(2) >= 2, ends
    assert set(ends) <= {0, 2}
    assert differences(quiet, sweep) == []
    for line in sweep.said().splitlines():
        if line.startswith("ecgcmr:"):
            assert "full" in line, line


@ROOT_ALONE
@pytest.mark.parametrize("executor", ["inline", pytest.param("local", marks=pytest.mark.nightly)])
def test_the_store_becomes_read_only(quiet, small_disk, executor):
    folder, change = small_disk
    assert change("size=4m")
    sweep = Sweep(folder, ["grains", *HOW[executor]], GRAINS)
    sweep.log = folder.parent / "log"
    sweep.environment["GRAINS_JOURNAL"] = os.devnull
    process = sweep.start()
    half_done(sweep, process)
    wait_for(lambda: change("ro"))  # refused while a file is open for writing
    assert process.wait(60) == 2, sweep.said()
    assert sweep.run() == 2, "nor can it begin"
    assert "Traceback" not in sweep.said(), sweep.said()
    lines = [line for line in sweep.said().splitlines() if line.startswith("ecgcmr:")]
    assert ["Read-only file system" in line for line in lines] == [True, True], lines
    assert change("rw")
    sweep.finish()
    assert differences(quiet, sweep) == []


@pytest.mark.parametrize("executor", ["inline", pytest.param("local", marks=pytest.mark.nightly)])
@pytest.mark.nightly
def test_the_store_is_moved_away_and_back(quiet, tmp_path, executor):
    sweep = Sweep(tmp_path, ["grains", *HOW[executor]], GRAINS)
    process = sweep.start()
    half_done(sweep, process)
    sweep.store.rename(tmp_path / "away")
    assert process.wait(60) == 2, sweep.said()
    assert not sweep.store.exists(), "it is not begun anew in the old place"
    assert "Traceback" not in sweep.said(), sweep.said()
    (tmp_path / "away").rename(sweep.store)
    sweep.finish()
    assert differences(quiet, sweep) == []


# ---------------------------------------------------------------------- what others have left


def test_leftovers_of_an_older_version(quiet, sweep):
    """Whatever lies about: nobody fails on it, and nothing of it shows."""
    stages = topological(totals(3, 2, 0.08))
    store = Store(sweep.store)
    for number, stage in enumerate(stages):
        work = store.root / "work" / stage.digest
        (work / "resume").mkdir(parents=True)
        (work / "out-of-the-past").mkdir()
        (work / "resume" / "rounds.json").write_text(["[1, 2", "[]", '"?"', "\0" * 9][number % 4])
        (work / "stage.json").write_text('{"label": 3}')
    (store.root / "work" / "notes.txt").write_text("not a folder")
    (store.root / "work" / "no-digest").mkdir()
    (store.root / "lease" / f"{stages[0].digest}.json").write_text("")
    gone = Holder.mine().__dict__ | {"pid": 2**22 - 1, "future": 1}
    (store.root / "lease" / f".turn-{stages[1].digest}.json").write_text(json.dumps(gone))
    (store.root / "lease" / f".{stages[1].digest}.draft").write_text("{")
    (store.root / "failed" / f"{stages[2].digest}.json").write_text('{"traceback"')
    (store.root / "durations.jsonl").write_text('["Grain 0.08", "NaN"]\n{}\n[1, 2, 3]\n["Grain')
    (store.root / "lease" / f"{stages[0].digest}.json").unlink()
    sweep.finish()
    assert differences(quiet, sweep) == [], sweep.said()


@pytest.mark.nightly
@pytest.mark.parametrize("left", ["", '{"pid": 7, "of": "a later version"}', "another host"])
def test_a_lease_that_names_nobody_here_is_waited_for_and_taken_over(quiet, sweep, left):
    store = Store(sweep.store)
    if left == "another host":
        elsewhere = Holder.mine().__dict__ | {"host": "elsewhere", "boot_id": "other"}
        left = json.dumps(elsewhere)
    digest = topological(totals(3, 2, 0.08))[0].digest
    (store.root / "lease" / f"{digest}.json").write_text(left)
    began = time.monotonic()
    sweep.finish()
    assert 55 < time.monotonic() - began < 90
    assert differences(quiet, sweep) == []


# -------------------------------------------------------------------------------------- clocks


def test_clocks_are_wrong_and_differ(quiet, sweep):
    def clock(years):
        path = os.pathsep.join(
            [str(Path(__file__).parent / "clock"), sweep.environment["PYTHONPATH"]]
        )
        return {"CLOCK_SHIFT": str(years * 365 * 86400), "PYTHONPATH": path}

    first = sweep.start(**clock(2))
    half_done(sweep, first)
    second = sweep.start(**clock(-10))
    first.kill()
    for path in sweep.store.rglob("*"):
        ahead = time.time() + random.Random(path.name).uniform(-1e9, 1e9)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, (ahead, ahead))
    assert second.wait(120) == 0, sweep.said()
    years = {int(json.loads(m)["finished"][:4]) for m in sweep.finished().values()}
    assert max(years) - min(years) >= 11, "the clocks were indeed wrong"
    sweep.finish()
    assert differences(quiet, sweep) == []


# ---------------------------------------------------------------------- the command line itself


SMOKE = ("run", "--method", "random-init,ecg-features", "--task", "phenotype", "--scale", "smoke")


@pytest.mark.nightly
@pytest.mark.parametrize("strikes", [kill, interrupt, terminate])
def test_boards_after_faults(tmp_path, strikes):
    quiet = Sweep(tmp_path / "quiet", [*SMOKE, *HOW["inline"]])
    quiet.finish()
    sweep = Sweep(tmp_path / "struck", [*SMOKE, *HOW["local"]])
    toll = strike(sweep, quiet, 8, seed=1, pause=3.0, strikes=strikes)
    assert toll.ok, [*toll.lines(), sweep.said()]


@pytest.mark.nightly
def test_half_written_rows_are_named_with_the_way_out(tmp_path):
    sweep = Sweep(tmp_path, [*SMOKE, *HOW["inline"]])
    sweep.finish()
    before = sweep.results()
    rows = next(sweep.boards.glob("rows/*/*/*/random-init.json"))
    os.truncate(rows, rows.stat().st_size // 2)
    (rows.parent / f".{rows.name}.x1y2z3{DRAFT}").write_text("{")
    assert sweep.run() == 2
    assert "Traceback" not in sweep.said()
    assert f"{rows} is not a rows file" in sweep.said()
    assert "remove it and run the same command again" in sweep.said()
    rows.unlink()
    sweep.finish()
    assert sweep.results() == before


def test_what_a_killed_writer_of_boards_has_left_is_removed(tmp_path):
    (tmp_path / f".cvd.md.a1b2c3{DRAFT}").write_text("# Cardio")
    (tmp_path / "cvd.md").write_text("# Cardiovascular disease")
    with turn(tmp_path):
        replace_file(tmp_path / "cvd.csv", "method")
    assert {path.name for path in tmp_path.iterdir()} == {"cvd.csv", "cvd.md"}

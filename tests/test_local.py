from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from steps import Deadly, Device, Failing, Filling, Pooled, Step, Wide, journal
from sweeps import boards, slurm_is_here, sweep

from benchmark.api import UserError
from benchmark.cli import main
from benchmark.engine import lease as lease_module
from benchmark.engine.executors import commands as commands_module
from benchmark.engine.executors import inline, local
from benchmark.engine.executors.commands import bundles, commands, save_plan
from benchmark.engine.progress import Reporter
from benchmark.engine.store import Store
from benchmark.runner import bring
from benchmark.stage import topological

TESTS = Path(__file__).parent


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGCMR_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    return Store()


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "journal"
    path.touch()
    return str(path)


def do(store, *targets, execute=local.execute, workers=2):
    stream = io.StringIO()
    report = execute(targets, store, device="cpu", workers=workers, reporter=Reporter(stream))
    return report, stream.getvalue()


def value(store, stage):
    return int((Store(store.root).open(stage) / "value").read_text())


def tangle(notes, count=6):
    """Return a stage that stands on several others that stand on one."""
    base = Step(key="base", journal=notes)
    middle = [Step(key=f"m{n}", journal=notes, terms=(base,), seconds=0.2) for n in range(count)]
    return Step(key="top", journal=notes, terms=tuple(middle))


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---------------------------------------------------------------------------- what is run


def test_workers_share_the_stages_and_each_runs_once(store, notes):
    top = tangle(notes, count=12)
    report, text = do(store, top)
    assert value(store, top) == 25
    done = journal(notes)
    assert sorted(note["key"] for note in done) == sorted(s.key for s in topological([top]))
    assert len({note["pid"] for note in done}) == 2
    assert os.getpid() not in {note["pid"] for note in done}
    assert report.ok
    assert {outcome.digest for outcome in report.ran} == {s.digest for s in topological([top])}
    numbers = sorted(int(n) for n in re.findall(r"^\[(\d+)/14\] step \w+  done in", text, re.M))
    assert numbers == list(range(1, 15))
    assert "ran 14 stages, found 0" in text

    report, text = do(store, top)
    assert len(journal(notes)) == 14, "nothing is started where nothing is missing"
    assert [len(report.ran), len(report.found)] == [0, 14]


def test_the_report_is_the_inline_executors(store, notes, tmp_path):
    (tmp_path / "obstacle").touch()
    bad = Failing(key="bad", journal=notes, obstacle=str(tmp_path / "obstacle"))
    blocked = Step(key="blocked", journal=notes, terms=(bad,))
    further = Step(key="further", journal=notes, terms=(blocked,))
    top = tangle(notes)
    here, _ = do(Store(tmp_path / "inline"), top, further, execute=inline_execute)
    Path(notes).write_text("")
    there, text = do(store, top, further)
    for kind in ("ran", "found", "failed", "blocked"):
        named = [
            {(outcome.digest, outcome.label, outcome.message) for outcome in getattr(report, kind)}
            for report in (here, there)
        ]
        assert named[0] == named[1], kind
    assert not there.ok
    assert value(store, top) == 13
    assert [note["key"] for note in journal(notes)].count("bad") == 1, "two workers, one attempt"
    assert text.count("RuntimeError: an obstacle") == 2, "as it happens, and in the summary"

    report, text = do(store, further)
    assert [note["key"] for note in journal(notes)].count("bad") == 2
    assert "step bad failed before, trying again" in text
    (tmp_path / "obstacle").unlink()
    report, _ = do(store, further)
    assert report.ok
    assert value(store, further) == 3


def inline_execute(targets, store, **options):
    return inline.execute(targets, store, train=None, **options)


def test_a_damaged_target_is_made_again(store, notes):
    step = Step(key="one", journal=notes)
    do(store, step)
    (store.path(step.digest) / "value").write_text("damaged")
    report, text = do(Store(store.root), step)
    assert "step one" in text
    assert "is damaged (value); it is made again" in text
    assert value(store, step) == 1
    assert len(report.ran) == 1


def test_stages_with_two_threads_get_both_cores_and_their_turn(store, notes, monkeypatch):
    if len(os.sched_getaffinity(0)) != 2:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            pytest.skip("needs two cores")
        command = local.subprocess.Popen

        def two(arguments, **options):
            taskset = ["taskset", "-c", ",".join(map(str, cores[:2]))]
            return command(taskset + arguments, **options)

        monkeypatch.setattr(local.subprocess, "Popen", two)
    small = [Step(key=f"s{n}", journal=notes, seconds=0.3) for n in range(8)]
    wide = [Wide(key=f"wide{n}", journal=notes, seconds=0.1) for n in range(2)]
    do(store, *small, *wide)
    done = sorted(journal(notes), key=lambda note: note["start"])
    assert len(done) == 10
    for note in done:
        if note["key"].startswith("wide"):
            others = [n for n in done if n is not note]
            assert all(n["end"] <= note["start"] or n["start"] >= note["end"] for n in others)


def test_work_that_spreads_gets_the_workers_that_were_asked_for(store, notes):
    pooled = Pooled(key="pooled", journal=notes)
    do(store, pooled, workers=3)
    assert journal(notes)[0]["workers"] == 3


def test_each_accelerator_has_one_worker_and_the_rest_is_done_beside(store, notes, monkeypatch):
    seats = [{"CUDA_VISIBLE_DEVICES": name} for name in ("GPU-a", "GPU-b")]
    monkeypatch.setattr(local, "accelerators", lambda device: seats)
    base = Step(key="base", journal=notes)
    trained = [Device(key=f"d{n}", journal=notes, terms=(base,), seconds=0.5) for n in range(4)]
    scores = [Step(key=f"s{n}", journal=notes, terms=(stage,)) for n, stage in enumerate(trained)]
    stream = io.StringIO()
    report = local.execute(scores, store, workers=1, reporter=Reporter(stream))
    assert report.ok
    where = {note["key"]: note["visible"] for note in journal(notes)}
    assert {where[f"d{n}"] for n in range(4)} == {"GPU-a", "GPU-b"}
    assert {where["base"], *(where[f"s{n}"] for n in range(4))} == {""}


def test_the_executor_follows_from_what_was_asked_for(store, notes, monkeypatch):
    def chosen(**options):
        made = []
        for name in ("inline", "local"):
            module = sys.modules[f"benchmark.engine.executors.{name}"]
            monkeypatch.setattr(module, "execute", lambda *a, name=name, **o: made.append(name))
        bring([], store, **options)
        return made

    assert chosen() == ["inline"]
    assert chosen(workers=1) == ["inline"]
    assert chosen(workers=2) == ["local"]
    assert chosen(workers=2, executor="inline") == ["inline"]
    monkeypatch.setattr(local, "accelerators", lambda device: [{}] * 2)
    assert chosen() == ["local"]


# -------------------------------------------------------------------------------- failures


def test_a_killed_worker_is_replaced(store, notes):
    deadly = Deadly(key="deadly", journal=notes)
    other = tangle(notes)
    report, text = do(store, deadly, other)
    assert report.ok
    assert value(store, deadly) == 1
    assert "a worker was killed by SIGKILL during step deadly; another goes on" in text
    assert len([note for note in journal(notes) if note["key"] == "m0"]) == 1


def test_a_stage_that_always_kills_its_worker_fails_and_the_rest_is_made(store, notes):
    deadly = Deadly(key="deadly", journal=notes, times=99)
    needs = Step(key="needs", journal=notes, terms=(deadly,))
    other = tangle(notes)
    report, _ = do(store, needs, other)
    assert [outcome.label for outcome in report.failed] == ["step deadly"]
    assert "killed by SIGKILL" in report.failed[0].message
    assert "is there enough memory?" in report.failed[0].message
    assert [outcome.label for outcome in report.blocked] == ["step needs"]
    assert value(store, other) == 13
    assert len([note for note in journal(notes) if note["key"] == "deadly"]) == local.DEATHS


def test_a_full_disk_ends_everything_in_one_line(store, notes):
    slow = Step(key="slow", journal=notes, seconds=60)
    started = time.monotonic()
    with pytest.raises(UserError, match="finished stages are kept") as caught:
        do(store, Filling(key="full", journal=notes), slow)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 30
    assert not list(store.held())


def test_workers_that_cannot_begin_are_not_started_for_ever(store, notes, monkeypatch):
    monkeypatch.setattr(local.sys, "executable", shutil.which("false"))
    report, text = do(store, Step(key="one", journal=notes))
    assert text.count("it is not replaced") == 1 or report.blocked
    assert [outcome.message for outcome in report.blocked] == ["nobody has made it"]


DRIVER = """\
import signal, sys
from pathlib import Path
# Whoever runs tests in the background has made them deaf to Ctrl-C, and their children too.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[1])
from steps import Step
from benchmark.engine.executors.local import execute
from benchmark.engine.store import Store
steps = [Step(key=f"slow{n}", journal=sys.argv[2], seconds=60) for n in range(3)]
try:
    execute(steps, Store(), device="cpu", workers=2)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def driver(store, notes):
    """A process with two workers, each of which is at work."""
    command = [sys.executable, "-c", DRIVER, str(TESTS), notes]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: len(list(store.root.glob("work/*/stage.json"))) == 2)
        yield process, psutil.Process(process.pid).children()
    finally:
        process.kill()
        process.wait()


def ended(workers):
    return not any(worker.is_running() and worker.status() != "zombie" for worker in workers)


def test_ctrl_c_ends_the_workers_and_frees_their_leases(store, driver):
    process, workers = driver
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=50)[1]  # of the stages' own 60 s nothing is waited for
    assert process.returncode == 130
    assert len(workers) == 2
    assert ended(workers)
    assert not list(store.held())
    assert text.count("interrupted: finished stages are kept") == 1
    assert "Traceback" not in text


def test_an_interrupt_while_the_store_is_tidied_leaves_no_lease(store, notes, monkeypatch):
    stage, seen = Step(key="one", journal=notes), []
    (store.root / "work" / stage.digest / "out-dead").mkdir(parents=True)

    def interrupted(self):
        seen.extend(store.held())
        raise KeyboardInterrupt

    monkeypatch.setattr(lease_module.Lease, "release", interrupted)
    with pytest.raises(KeyboardInterrupt):
        do(store, stage)
    assert seen == [stage.digest]
    assert not list(store.held())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_when_the_driver_is_killed(store, driver, number):
    process, workers = driver
    process.send_signal(number)
    wait_for(lambda: ended(workers), seconds=50)
    assert len(workers) == 2
    assert not list(store.held())


# ------------------------------------------------------------------------- the worker itself


def test_a_worker_makes_what_it_is_named_with_what_it_needs(store, notes, capfd):
    top = tangle(notes)
    path = save_plan(store.missing([top]), store)
    middle = top.terms[0]
    assert main(["stage", str(path), middle.digest[:16]]) == 0
    assert [note["key"] for note in journal(notes)] == ["base", "m0"]
    capfd.readouterr()
    assert main(["stage", str(path), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert {kind: len(outcomes) for kind, outcomes in told.items()} == {
        "ran": 6,
        "found": 2,
        "failed": 0,
        "blocked": 0,
    }
    assert value(store, top) == 13
    assert main(["stage", str(path), "ffff"]) == 2
    assert "no stage of the plan begin" in capfd.readouterr().err


def test_a_worker_of_one_kind_leaves_the_other_to_others(store, notes):
    base = Step(key="base", journal=notes)
    trained = Device(key="trained", journal=notes, terms=(base,))
    score = Step(key="score", journal=notes, terms=(trained,))
    path = save_plan([base, trained, score], store)
    impatient = ["--patience", "0.1"]
    assert main(["stage", str(path), "--only", "device", *impatient]) == 1
    assert journal(notes) == []
    assert main(["stage", str(path), "--only", "cpu", *impatient]) == 1
    assert [note["key"] for note in journal(notes)] == ["base"]
    assert main(["stage", str(path), "--only", "device"]) == 0
    assert main(["stage", str(path), "--only", "cpu"]) == 0
    assert value(store, score) == 3


def test_a_worker_with_little_patience_leaves_what_others_are_at(store, notes, capfd):
    one, two = (Step(key=name, journal=notes) for name in ("one", "two"))
    path = save_plan([one, two], store)
    claim = store.claim(one)
    assert main(["stage", str(path), "--patience", "0.2"]) == 1
    claim.close()
    assert [note["key"] for note in journal(notes)] == ["two"]
    assert "left to others" in capfd.readouterr().err
    assert main(["stage", str(path), "--patience", "nan"]) == 2


def test_what_failed_is_tried_again_unless_once_was_enough(store, notes, tmp_path):
    (tmp_path / "obstacle").touch()
    bad = Failing(key="bad", journal=notes, obstacle=str(tmp_path / "obstacle"))
    do(store, bad, execute=inline_execute)
    path = save_plan([bad], store)
    attempts = []
    for options in (["--once"], ["--once"], [], ["--once"]):
        assert main(["stage", str(path), *options]) == 1
        attempts.append(len(journal(notes)))
    assert attempts == [2, 2, 3, 3], "the failure from before the plan does not count"


# -------------------------------------------------------------------------------- commands


def test_the_lines_make_everything_when_they_are_run(store, notes, monkeypatch, tmp_path):
    monkeypatch.setattr(commands_module, "BUNDLE_SECONDS", 0.5)
    top = tangle(notes)
    text = commands([top], store, ["status"])
    assert len(re.findall("^ECGCMR_STORE=.* stage ", text, re.M)) == 1 + 3 + 1, (
        "of six stages of 0.2 s two fit into a job"
    )
    assert "# job 2.1; after 1.1; 1 core; about 0.4 s; 2 kB; 2 stages (step m0, step m1)" in text
    assert "# job 3.1; after 2.1, 2.2, 2.3; 1 core" in text
    script = tmp_path / "jobs.sh"
    script.write_text(text)
    environment = {k: v for k, v in os.environ.items() if k != "ECGCMR_STORE"}
    done = subprocess.run(["sh", script], env=environment, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert value(store, top) == 13
    assert "8 stages" in done.stdout, "the last line, asking what there is"
    assert "benchmark stage" not in commands([top], store, ["status"]), "nothing is missing"


def test_jobs_hold_one_kind_of_stage_and_nothing_of_their_own_wave(store, notes):
    base = Step(key="base", journal=notes)
    wave = [Step(key="a", journal=notes, terms=(base,)), Wide(key="b", terms=(base,))]
    wave += [Device(key="c", terms=(base,)), Pooled(key="d", terms=(base,))]
    top = Step(key="top", terms=tuple(wave))
    waves = bundles(topological([top]), store)
    assert [[[stage.key for stage in job.stages] for job in jobs] for jobs in waves] == [
        [["base"]],
        [["a"], ["b"], ["c"], ["d"]],
        [["top"]],
    ]
    names = [[job.name for job in jobs] for jobs in waves]
    for above, jobs in pairwise(zip(names, waves, strict=True)):
        assert all(set(job.needs) <= set(above[0]) for job in jobs[1])
    assert [job.on_device for job in waves[1]] == [False, False, True, False]
    assert [job.threads for job in waves[1]] == [1, 2, 1, 1]


def test_no_job_names_more_stages_than_a_command_line_holds(store):
    (wave,) = bundles([Step(key=str(number)) for number in range(3000)], store)
    assert [len(bundle.stages) for bundle in wave] == [1000, 1000, 1000]


# --------------------------------------------------------------------- through the command line


def test_boards_are_the_inline_executors(ecgcmr, tmp_path):
    made = sweep(ecgcmr, tmp_path, "random-init", "retrieval", 1)
    assert made["local"] == made["inline"]
    where = ["--leaderboards", tmp_path / "again", "--scale", "smoke"]
    what = ["--method", "random-init", "--task", "retrieval"]
    ecgcmr("boards", *what, *where, store=tmp_path / "local")
    assert boards(tmp_path / "again") == made["inline"], "all of it from the store"


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("methods", "seeds"),
    [
        ("mae,ptacl,ecg-features", 2),
        ("mae,mmcl,ptacl,ptacl-global,eccl,simclr,random-init,tabular", 3),
    ],
)
def test_boards_of_a_sweep_are_the_inline_executors(ecgcmr, tmp_path, methods, seeds):
    executors = ["inline", "local", *(["slurm"] if slurm_is_here() else [])]
    made = sweep(ecgcmr, tmp_path, methods, "cvd,phenotype,retrieval", seeds, executors)
    for name in executors[1:]:
        assert made[name] == made["inline"], name

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from benchmark.api import Method, UserError
from benchmark.engine import lease as lease_module
from benchmark.engine import progress as progress_module
from benchmark.engine import provenance
from benchmark.engine.executors import inline
from benchmark.engine.executors.inline import execute
from benchmark.engine.lease import Holder
from benchmark.engine.progress import Reporter, print_plan
from benchmark.engine.store import Store
from benchmark.stage import Stage

CALLS = []


@dataclass(frozen=True, kw_only=True)
class Number(Stage):
    """Leaves its value."""

    value: int = 1

    def run(self, context):
        CALLS.append(self)
        (context.out / "value").write_text(str(self.value))


@dataclass(frozen=True, kw_only=True)
class Sum(Stage):
    """Leaves the sum of its inputs."""

    terms: tuple[Stage, ...] = ()

    def run(self, context):
        CALLS.append(self)
        values = [int((context.open(term) / "value").read_text()) for term in self.terms]
        (context.out / "value").write_text(str(sum(values)))


@dataclass(frozen=True, kw_only=True)
class Deep(Sum):
    """Reads the inputs of its inputs."""

    def run(self, context):
        CALLS.append(self)
        leaves = [leaf for term in self.terms for leaf in term.inputs]
        values = [int((context.open(leaf) / "value").read_text()) for leaf in leaves]
        (context.out / "value").write_text(str(sum(values)))


@dataclass(frozen=True, kw_only=True)
class Broken(Stage):
    """Fails while the file is there."""

    obstacle: str = ""
    user: bool = False
    term: Stage | None = None

    def run(self, context):
        CALLS.append(self)
        (context.resume / "kept").write_text("half")
        if Path(self.obstacle).exists():
            raise (UserError if self.user else KeyError)(f"person {4_000_000} is in the way")
        (context.out / "value").write_text("0")


@dataclass(frozen=True, kw_only=True)
class Hook(Stage):
    """Runs a test's function."""

    name: str = ""

    def run(self, context):
        HOOKS[self.name](context)


@dataclass(frozen=True, kw_only=True)
class Slow(Stage):
    """Notes each run in a file, and takes its time."""

    journal: str = ""
    steps: int = 20

    def run(self, context):
        with Path(self.journal).open("a") as file:
            file.write(f"{os.getpid()}\n")
        checkpoint = context.resume / "step"
        first = int(checkpoint.read_text()) if checkpoint.exists() else 0
        for step in range(first, self.steps):
            context.progress(step, self.steps, "steps")
            draft = checkpoint.with_suffix(".part")  # it may be stopped at any moment
            draft.write_text(str(step))
            draft.replace(checkpoint)
            time.sleep(0.05)
        (context.out / "value").write_text(f"from {first}")


@dataclass(frozen=True, kw_only=True)
class Pretraining(Method):
    """A method."""

    label = group = "pretraining"

    def views(self):
        return {}


@dataclass(frozen=True, kw_only=True)
class Aligned(Pretraining):
    """A method that stands on another."""

    label = group = "aligned"
    part: Stage | None = None
    weight: float = 1.0


HOOKS = {}


@pytest.fixture
def store(tmp_path):
    CALLS.clear()
    HOOKS.clear()
    return Store(tmp_path / "store")


def do(store, *targets, **options):
    """Execute and return the report and what was printed."""
    stream = io.StringIO()
    options.setdefault("train", None)
    report = execute(targets, store, reporter=Reporter(stream), **options)
    return report, stream.getvalue()


def value(store, stage):
    return (Store(store.root).open(stage) / "value").read_text()


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


ONE, TWO = Number(value=1), Number(value=2)
THREE = Sum(terms=(ONE, TWO))
SIX = Sum(terms=(THREE, ONE, TWO))


# ---------------------------------------------------------------------------- what is run


def test_each_stage_runs_once_and_a_second_request_runs_nothing(store):
    report, _ = do(store, SIX, THREE)
    assert value(store, SIX) == "6"
    assert CALLS == [ONE, TWO, THREE, SIX]
    assert [outcome.digest for outcome in report.ran] == [stage.digest for stage in CALLS]
    assert report.ok
    report, text = do(Store(store.root), SIX, THREE)
    assert len(CALLS) == 4
    assert not report.ran
    assert len(report.found) == 4
    assert "ran 0 stages, found 4" in text


def test_inputs_of_what_is_done_are_not_made_again(store):
    do(store, THREE)
    shutil.rmtree(store.path(ONE.digest))
    CALLS.clear()
    report, _ = do(store, THREE)
    assert CALLS == []
    assert report.ok
    do(store, Sum(terms=(THREE,)))
    assert not store.has(ONE.digest)


def test_a_missing_input_of_an_input_is_made_for_whoever_reads_it(store):
    do(store, THREE)
    shutil.rmtree(store.path(ONE.digest))
    deep = Deep(terms=(THREE,))
    report, text = do(store, deep)
    assert value(store, deep) == "3"
    assert f"Number ({ONE.digest[:12]}), which Deep reads, is gone; it is made again" in text
    assert [outcome.label for outcome in report.ran] == ["Number", "Deep"]


def test_only_inputs_can_be_opened(store):
    do(store, TWO)
    HOOKS["peek"] = lambda context: context.open(TWO)
    report, _ = do(store, Hook(name="peek"))
    assert (
        report.failed[0].message == "ValueError: Hook opens Number, which is not among its inputs"
    )


def test_the_manifest_says_how_the_artifact_was_made(store):
    do(store, THREE)
    manifest = store.manifest(THREE.digest)
    assert manifest["inputs"] == [ONE.digest, TWO.digest]
    assert manifest["threads"] == 1
    assert manifest["peak_memory_bytes"] > 1e6
    assert manifest["device"] is None
    assert manifest["provenance"]["code"] == provenance.code_hash(__name__)
    assert manifest["provenance"]["libraries"]["numpy"]
    assert stat.S_IMODE((store.path(THREE.digest) / "value").stat().st_mode) == 0o600


def test_train_goes_to_the_injected_loop(store):
    HOOKS["train"] = lambda context: context.train("trainable")
    seen = []
    do(store, Hook(name="train"), train=lambda trainable, context: seen.append(trainable))
    assert seen == ["trainable"]


def test_threads_are_the_stages_own_and_given_back(store, monkeypatch):
    import threadpoolctl
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(Hook, "threads", 1)
    torch.set_num_threads(2)
    seen = []

    def look(context):
        pools = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
        seen.append((torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], pools))

    HOOKS["look"] = look
    do(store, Hook(name="look"))
    assert seen == [(1, "1", {1})]
    assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (2, "7")


def test_stages_without_torch_do_not_load_it(store):
    code = (
        "import sys, pathlib; sys.argv[1:] = []\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_inline as t\n"
        f"t.do(t.Store(pathlib.Path({str(store.root)!r})), t.SIX)\n"
        "print([m for m in ('torch', 'pandas', 'sklearn', 'rich') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout == "[]\n", answer.stderr


# -------------------------------------------------------------------------------- failures


def test_a_failure_is_kept_shown_masked_blocks_only_its_dependents_and_is_retried(store, tmp_path):
    obstacle = tmp_path / "obstacle"
    obstacle.touch()
    broken = Broken(obstacle=str(obstacle))
    blocked = Sum(terms=(broken, ONE))
    further = Sum(terms=(blocked,))
    report, text = do(store, further, THREE)
    assert value(store, THREE) == "3"
    assert [outcome.digest for outcome in report.failed] == [broken.digest]
    assert [outcome.digest for outcome in report.blocked] == [blocked.digest, further.digest]
    assert not report.ok
    assert "Traceback" in text
    assert "KeyError: 'person [id] is in the way'" in text
    assert str(4_000_000) not in text
    failure = Store(store.root).failure(broken.digest)
    assert "test_inline.py" in failure["traceback"]
    assert str(4_000_000) not in store.failure_path(broken.digest).read_text()
    assert (store.root / "work" / broken.digest / "resume" / "kept").exists()
    assert not list((store.root / "work").glob("*/out-*"))

    CALLS.clear()
    report, text = do(store, further)
    assert [broken] == CALLS
    assert "Broken failed before, trying again" in text
    obstacle.unlink()
    report, text = do(store, further)
    assert value(store, further) == "1"
    assert store.failure(broken.digest) is None
    assert report.ok


def test_what_the_user_can_put_right_is_one_line(store, tmp_path):
    report, text = do(store, Broken(obstacle=str(tmp_path), user=True))
    assert "Traceback" not in text
    assert "Broken failed: person [id] is in the way" in text
    assert len(report.failed) == 1


def test_a_mistake_of_the_user_without_a_word_fails_its_stage_alone(store):
    def refuse(context):
        raise UserError

    HOOKS["refuse"] = refuse
    report, text = do(store, Hook(name="refuse"), ONE)
    assert [len(report.failed), len(report.ran)] == [1, 1]
    assert "Traceback" in text, "or nobody knows where"


def test_the_summary_names_no_class_of_the_users_mistake_and_few_of_the_blocked(store, tmp_path):
    broken = Broken(obstacle=str(tmp_path), user=True)
    readers = [Sum(terms=(broken, *[ONE] * extra)) for extra in range(8)]
    report, text = do(store, *readers)
    assert len(report.blocked) == 8
    summary = text[text.index("ran 1 stage") :]
    assert f"({broken.digest[:12]}): person [id] is in the way\n" in summary
    assert summary.count(": needs ") == 5
    assert summary.rstrip().endswith("  blocked  3 more")


def test_a_stage_cannot_end_the_program(store):
    HOOKS["exit"] = lambda context: sys.exit(0)
    report, _ = do(store, Hook(name="exit"), ONE)
    assert report.failed[0].message == "SystemExit: 0"
    assert value(store, ONE) == "1"


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_interrupt_releases_the_lease_and_is_raised_on(store, wrapped):
    def interrupt(context):
        (context.out / "half").touch()
        (context.resume / "checkpoint").touch()
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            if wrapped:
                sys.exit(1)
            raise

    HOOKS["interrupt"] = interrupt
    stream = io.StringIO()
    stage = Hook(name="interrupt")
    with pytest.raises(KeyboardInterrupt):
        execute([stage], store, train=None, reporter=Reporter(stream))
    assert stream.getvalue().splitlines() == [
        "interrupted: finished stages are kept, and the same command goes on"
    ]
    assert store.holder(stage.digest) is None
    assert store.failure(stage.digest) is None
    left = {path.name for path in (store.root / "work" / stage.digest).iterdir()}
    assert left == {"resume", "stage.json"}


@pytest.mark.parametrize("moment", ["taken", "released"])
def test_an_interrupt_while_a_lease_changes_hands_leaves_none(store, monkeypatch, moment):
    taken, stage = [], ONE

    def interrupted(self, *_):
        taken.append(store.holder(stage.digest))
        raise KeyboardInterrupt

    if moment == "taken":  # but not yet known to the caller
        monkeypatch.setattr(lease_module.Lease, "__init__", interrupted)
    else:
        monkeypatch.setattr(lease_module.Lease, "release", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute([stage], store, train=None, reporter=Reporter(io.StringIO()))
    assert taken[0] is not None
    assert store.holder(stage.digest) is None


class Late:
    """A context manager whose first use is interrupted between its own start and the block's."""

    used = False

    def __init__(self, manager):
        self.manager = manager

    def __enter__(self):
        self.manager.__enter__()
        if not Late.used:
            Late.used = True
            raise KeyboardInterrupt

    def __exit__(self, *error):
        return self.manager.__exit__(*error)


def test_an_interrupt_with_the_lock_in_hand_does_not_wait_for_it(store, monkeypatch):
    locked, flock = lease_module.Leases.locked, lease_module.fcntl.flock
    at_once = lease_module.fcntl.LOCK_NB  # instead of waiting for ever
    monkeypatch.setattr(Late, "used", False)
    monkeypatch.setattr(lease_module.Leases, "locked", lambda self: Late(locked(self)))
    monkeypatch.setattr(lease_module.fcntl, "flock", lambda file, how: flock(file, how | at_once))
    with pytest.raises(KeyboardInterrupt):
        execute([ONE], store, train=None, reporter=Reporter(io.StringIO()))
    assert Late.used


def test_letting_go_leaves_what_another_process_has_taken_over(store):
    stage = ONE
    store.claim(stage)
    path = store.root / "lease" / f"{stage.digest}.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "token": "another"}))
    store.let_go()
    assert store.holder(stage.digest).token == "another"


# ------------------------------------------------------------------------------- corruption


def test_a_damaged_input_is_named_and_made_again(store):
    do(store, THREE)
    flip(store.path(TWO.digest) / "value")
    CALLS.clear()
    fresh = Store(store.root)
    report, text = do(fresh, SIX)
    assert value(store, SIX) == "6"
    assert CALLS == [SIX, TWO, SIX]
    line = f"Number ({TWO.digest[:12]}), which Sum reads, is damaged (value); it is made again"
    assert line in text.splitlines()
    assert report.ok
    assert (store.root / "corrupt" / TWO.digest / "value").read_text() == "3"


def test_a_truncated_file_is_found_and_made_again_with_what_it_needs(store):
    do(store, THREE)
    os.truncate(store.path(THREE.digest) / "value", 0)
    shutil.rmtree(store.path(ONE.digest))
    do(Store(store.root), SIX)
    assert value(store, SIX) == "6"


def test_a_disk_that_damages_everything_does_not_loop_for_ever(store, monkeypatch):
    class Rotten(Store):
        def open(self, stage):
            flip(self.path(stage.digest) / "value")
            self.verify(stage.digest)

    report, _ = do(Rotten(store.root), THREE)
    assert "is damaged: value" in report.failed[0].message
    assert CALLS.count(ONE) == 1 + inline.REBUILDS


def test_an_input_that_cannot_be_made_again_blocks_its_reader(store, tmp_path):
    obstacle = tmp_path / "obstacle"
    broken = Broken(obstacle=str(obstacle))
    middle = Sum(terms=(broken,))
    do(store, middle)
    obstacle.touch()
    os.truncate(store.path(broken.digest) / "value", 0)
    deep = Deep(terms=(middle,))
    report, _ = do(Store(store.root), deep)
    assert [outcome.label for outcome in report.failed] == ["Broken"]
    assert [outcome.label for outcome in report.blocked] == ["Deep"]


# -------------------------------------------------------------------------------- full disk


def full_by_errno(context):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_by_quota(context):
    raise OSError(errno.EDQUOT, "Disk quota exceeded")


def full_in_a_library(context):
    try:
        full_by_errno(context)
    except OSError as error:
        raise RuntimeError("cannot write") from error


def full_in_rust(context):
    raise RuntimeError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("fill", [full_by_errno, full_by_quota, full_in_a_library, full_in_rust])
def test_a_full_disk_is_one_line_and_no_failure(store, fill):
    HOOKS["fill"] = fill
    stage = Hook(name="fill")
    with pytest.raises(UserError, match="finished stages are kept") as caught:
        do(store, ONE, stage)
    assert str(store.root) in str(caught.value)
    assert re.search(r"[\d,]+ MB free", str(caught.value))
    assert "\n" not in str(caught.value)
    assert store.failure(stage.digest) is None
    assert store.holder(stage.digest) is None
    assert store.has(ONE.digest)


@pytest.mark.parametrize("where", ["claim", "commit", "fail"])
def test_a_disk_that_is_full_for_the_store_itself(store, tmp_path, monkeypatch, where):
    from benchmark.engine import store as store_module

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "claim":
        monkeypatch.setattr(store_module.Claim, "__init__", full)
    else:
        monkeypatch.setattr(store_module, "_write", full)
    stage = Broken(obstacle=str(tmp_path)) if where == "fail" else ONE
    with pytest.raises(UserError, match="finished stages are kept"):
        do(store, stage)
    assert store.holder(stage.digest) is None
    assert store.failure(stage.digest) is None
    assert not store.has(stage.digest)


def write_plainly(context):
    (context.out / "big").write_bytes(bytes(4_000_000))


def write_with_numpy(context):
    import numpy as np

    np.save(context.out / "big.npy", np.zeros(4_000_000, np.uint8))


def write_with_torch(context):
    import torch
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1_000_000)}, context.out / "big.safetensors")


def write_with_pytorchs_own_format(context):
    import torch

    torch.save(torch.zeros(1_000_000), context.out / "big.pt")


def write_with_pandas(context):
    import numpy as np
    import pandas as pd

    frame = pd.DataFrame({"x": np.random.default_rng(0).random(500_000)})
    frame.to_parquet(context.out / "big.parquet")


WRITERS = [
    write_plainly,
    write_with_numpy,
    write_with_torch,
    write_with_pytorchs_own_format,
    write_with_pandas,
]


@pytest.mark.parametrize("write", WRITERS)
def test_a_disk_that_is_really_full(tmp_path, write):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs privileges that this user does not have")
    try:
        store = Store(disk / "store")
        HOOKS["write"] = write
        stage = Hook(name="write")
        with pytest.raises(UserError, match=r"full \([12] MB free\)"):
            do(store, ONE, stage)
        assert store.failure(stage.digest) is None
        assert store.has(ONE.digest)
        assert not list(store.root.glob("work/*/out-*"))
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        report, _ = do(store, ONE, stage)
        assert [outcome.label for outcome in report.ran] == ["Hook"]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


# ------------------------------------------------------------------------- several processes


def in_another_process(store, stage):
    command = [sys.executable, __file__, str(store.root), stage.journal]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(condition):
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_identical_commands_run_each_stage_once(store, tmp_path):
    stage = Slow(journal=str(tmp_path / "journal"))
    workers = [in_another_process(store, stage) for _ in range(2)]
    texts = [worker.communicate(timeout=30)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert len(Path(stage.journal).read_text().split()) == 1
    assert value(store, stage) == "from 0"
    waiting = [text for text in texts if "waiting for Slow, running in process" in text]
    assert len(waiting) == 1
    assert waiting[0].count("waiting for") == 1
    assert str(Path(stage.journal).read_text().strip()) in waiting[0]


def test_a_killed_run_goes_on_where_it_was(store, tmp_path):
    stage = Slow(journal=str(tmp_path / "journal"))
    worker = in_another_process(store, stage)
    step = store.root / "work" / stage.digest / "resume" / "step"
    wait_for(lambda: step.exists() and step.read_text() not in ("", "0", "1"))
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    assert step.exists()
    report, _ = do(store, stage)
    first = int(value(store, stage).split()[1])
    assert 2 <= first < 20
    assert len(report.ran) == 1
    assert store.manifest(stage.digest)["resumed"]


def test_a_suspended_run_is_taken_over_and_yields(store, tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(inline, "POLL_SECONDS", 0.1)
    stage = Slow(journal=str(tmp_path / "journal"))
    worker = in_another_process(store, stage)
    step = store.root / "work" / stage.digest / "resume" / "step"
    wait_for(step.exists)
    worker.send_signal(signal.SIGSTOP)
    report, _ = do(store, stage)
    assert len(report.ran) == 1
    worker.send_signal(signal.SIGCONT)
    text = worker.communicate(timeout=20)[1]
    assert worker.returncode == 0, text
    assert "Slow was taken over by another process" in text
    assert "found 1" in text
    assert store.failure(stage.digest) is None
    assert store.manifest(stage.digest)["resumed"]


def test_an_artifact_committed_just_before_the_claim_is_used(store):
    class Late(Store):
        def claim(self, stage, workers=1):
            do(Store(self.root), stage)
            return super().claim(stage, workers)

    report, _ = do(Late(store.root), ONE)
    assert CALLS == [ONE]
    assert [outcome.digest for outcome in report.found] == [ONE.digest]
    assert not report.ran


def test_an_error_after_a_take_over_is_no_failure(store):
    stage, attempts = Hook(name="rob"), []

    def rob(context):
        attempts.append(context.out)
        if len(attempts) == 1:
            gone = replace(Holder.mine(), start=1.0)  # has died since, or we would wait for it
            store._leases._replace(stage.digest, gone)
            shutil.rmtree(context.out)
        (context.out / "value").write_text("0")

    HOOKS["rob"] = rob
    report, text = do(store, stage)
    assert "Hook was taken over by another process" in text
    assert report.ok
    assert len(attempts) == 2
    assert "failed" not in text


def test_other_stages_go_on_while_one_is_waited_for_and_a_failure_there_counts_here(
    store, tmp_path, monkeypatch
):
    claim = store.claim(ONE)
    polls = []

    def fail_elsewhere(seconds):
        polls.append(list(CALLS))
        if len(polls) == 3:
            Store(store.root).fail(ONE, "Traceback\nOops: no", claim.lease.token)
            claim.close()

    monkeypatch.setattr(inline.time, "sleep", fail_elsewhere)
    report, text = do(Store(store.root), THREE, Sum(terms=(TWO,)))
    assert polls[0] == [TWO, Sum(terms=(TWO,))]
    assert [outcome.message for outcome in report.failed] == ["Oops: no"]
    assert [outcome.label for outcome in report.blocked] == ["Sum"]
    assert text.count(f"waiting for Number, running in process {os.getpid()}") == 1
    assert ONE not in CALLS


# --------------------------------------------------------------------------- what is printed


def test_progress_lines_are_rare_and_count_from_where_a_resumed_stage_began(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(progress_module, "BRIEF_SECONDS", 0.0)
    stream = io.StringIO()
    reporter = Reporter(stream)
    reporter.start(ONE, 2, 7)
    for done in range(1000, 4200, 10):
        reporter.progress(done, 4200, "people", note=f"loss 0.5 {4_000_000}")
        clock[0] += 0.1
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[2/7] Number"
    assert lines[1] == "[2/7] Number  2010/4200 people  100/s  0:22 left  loss 0.5 [id]"
    assert len(lines) == 4


def test_a_terminal_gets_a_bar_that_leaves_only_lines_behind(store):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def work(context):
        for step in range(3):
            context.progress(step, 3, "steps", note="[note]")
            time.sleep(0.11)

    HOOKS["work"] = work
    stream = Terminal()
    execute([Hook(name="work")], store, train=None, reporter=Reporter(stream))
    text = stream.getvalue()
    assert "2/3 steps" in text
    assert "[note]" in text
    assert re.search(r"\[1/1\] Hook  done in 0\.\d s", text)


def plan(store, *targets):
    stream = io.StringIO()
    print_plan(targets, store, Reporter(stream))
    return stream.getvalue().splitlines()


def test_the_plan_says_what_runs_what_is_found_and_what_is_shared(store):
    do(store, ONE)
    lines = plan(store, THREE, SIX)
    assert re.fullmatch(
        r"plan: 3 stages to run, 1 found; about \d\.\d s, 300 kB of .* free", lines[0]
    )
    assert lines[1:] == [
        f"  run    Number  about {store.seconds(ONE):.1f} s  shared by 2 stages",
        "  run    Sum x2  about 2.0 s",
        "  found  Number  shared by 2 stages",
    ]
    do(store, SIX)
    assert plan(store, SIX)[0] == "plan: 0 stages to run, 4 found"


def test_the_plan_counts_methods_once_for_all_replicates(store):
    cohort = Number()
    targets = []
    for seed in range(2):
        part = Pretraining(cohort=cohort, seed=seed)
        aligned = Aligned(cohort=cohort, seed=seed, part=part)
        targets += [Sum(terms=(aligned,)), Sum(terms=(aligned.replace(weight=0.0),))]
    lines = "\n".join(plan(store, *targets))
    # Pretraining serves the two settings of Aligned; it is not evaluated itself ...
    assert re.search(r"pretraining x2  about .*  shared by 2 methods", lines)
    # ... until it is a target too.
    targets.append(Sum(terms=(Pretraining(cohort=cohort, seed=0),)))
    lines = "\n".join(plan(store, *targets))
    assert re.search(r"pretraining x2  about .*  shared by 3 methods", lines)
    assert re.search(r"Number  about .*  shared by 3 methods", lines)


# --------------------------------------------------------------------------------- provenance


def test_the_code_hash_follows_project_imports_at_any_depth(tmp_path, monkeypatch):
    for name, text in {
        "methods/__init__.py": "",
        "methods/top.py": "def f():\n    from methods.blocks import inner\n",
        "methods/blocks/__init__.py": "",
        "methods/blocks/inner.py": "from . import deepest\nimport numpy\n",
        "methods/blocks/deepest.py": "X = 1\n",
        "methods/aside.py": "X = 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)

    def hash_after(name=None):
        if name:
            (tmp_path / name).write_text("X = 2\n")
        for function in (provenance.code_hash, provenance._read, provenance._source):
            function.cache_clear()
        return provenance.code_hash("methods.top")

    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    first = hash_after()
    assert hash_after("methods/aside.py") == first
    second = hash_after("methods/blocks/deepest.py")
    assert second != first
    assert hash_after("methods/blocks/inner.py") not in (first, second)
    monkeypatch.undo()
    hash_after()


def test_git_state_is_the_projects_own(tmp_path, monkeypatch):
    def state():
        provenance._git.cache_clear()
        return provenance._git()

    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True, capture_output=True)

    project = tmp_path / "methods"
    project.mkdir()
    (project / "a.py").touch()
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    assert state() == {"git": None, "dirty": None}
    git("init")
    assert state() == {"git": None, "dirty": True}
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-m", "first")
    clean = state()
    assert re.fullmatch("[0-9a-f]{40}", clean["git"])
    assert clean["dirty"] is False
    (tmp_path / "leaderboard.md").touch()
    assert state()["dirty"] is False
    (project / "b.py").touch()
    assert state() == {**clean, "dirty": True}
    monkeypatch.setattr(provenance, "_ROOT", project)
    assert state() == {"git": None, "dirty": None}
    monkeypatch.undo()
    state()


if __name__ == "__main__":
    lease_module.CHECK_SECONDS = 0.0
    target = Slow(journal=sys.argv[2])
    outcome = execute([target], Store(Path(sys.argv[1])), train=None)
    sys.exit(0 if outcome.ok else 1)

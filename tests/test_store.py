from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from benchmark.api import UserError
from benchmark.engine import lease as lease_module
from benchmark.engine import store as store_module
from benchmark.engine.lease import Holder, LeaseLostError, Leases, process_start
from benchmark.engine.store import CorruptArtifactError, MissingArtifactError, Store
from benchmark.stage import Stage

DIGEST = "a" * 64


@dataclass(frozen=True, kw_only=True)
class Numbers(Stage):
    count: int = 3
    source: Stage | None = None


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def make(store, stage, text="some text", seconds=1.0):
    claim = store.claim(stage)
    (claim.out / "sub").mkdir()
    (claim.out / "a.txt").write_text(text)
    (claim.out / "sub" / "b.bin").write_bytes(bytes(range(256)))
    claim.commit(seconds, threads=1)
    claim.close()
    return stage.digest


def in_another_process(*arguments, **options):
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def abandon(leases, **changes):
    """Leave the lease of a holder that is not this process."""
    holder = replace(Holder.mine(), **changes)
    leases._replace(DIGEST, holder)
    return holder


# ---------------------------------------------------------------------------------- folder


def test_the_store_is_private(tmp_path):
    store = Store(tmp_path / "deep" / "store")
    digest = make(store, Numbers())
    store.fail(Numbers(count=4), "text")
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    own = [store.root / "durations.jsonl", store.path(digest) / "manifest.json"]
    own += [store.failure_path(Numbers(count=4).digest), store.root / "lease" / "lock"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in own} == {0o600}
    folders = [path for path in store.root.iterdir() if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


def test_an_empty_folder_is_closed_and_one_with_other_things_keeps_its_mode(tmp_path):
    for name in ("empty", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    (tmp_path / "other" / "thesis.tex").touch()
    Store(tmp_path / "empty")
    Store(tmp_path / "other")
    assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "other" / "done").stat().st_mode) == 0o700


def test_the_environment_names_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGCMR_STORE", str(tmp_path / "there"))
    assert Store().root == tmp_path / "there"
    monkeypatch.delenv("ECGCMR_STORE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store().root == tmp_path / ".cache" / "ecgcmr-bench"


def test_only_who_reads_may_use_a_store_that_cannot_be_written_to(tmp_path, monkeypatch):
    digest = make(Store(tmp_path / "store"), Numbers())

    def refuse(path, mode):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    assert list(Store(tmp_path / "store", reading=True).stages()) == [digest]
    with pytest.raises(UserError, match="Read-only file system; set ECGCMR_STORE"):
        Store(tmp_path / "store")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="Read-only file system; set ECGCMR_STORE"):
        Store(tmp_path / "empty", reading=True)


def test_a_store_that_is_a_file_is_called_one(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="it is a file, no folder; set ECGCMR_STORE"):
        Store(tmp_path / "file")


@pytest.mark.parametrize("below", ["store", "deeper/store", "."])
def test_a_store_that_cannot_be_made_is_one_clear_line(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="ECGCMR_STORE") as caught:
        Store(tmp_path / "file" / below)
    assert str(tmp_path / "file") in str(caught.value)
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------- artifacts


def test_a_commit_leaves_the_files_and_a_manifest_and_nothing_else(store):
    stage = Numbers(source=Numbers(count=1))
    assert not store.has(stage.digest)
    digest = make(store, stage, seconds=2.5)
    assert store.has(digest)
    assert list(store.stages()) == [digest]
    folder = Store(store.root).open(stage)
    assert (folder / "a.txt").read_text() == "some text"
    manifest = Store(store.root).manifest(digest)
    assert manifest["stage"] == stage.describe()
    assert manifest["inputs"] == [Numbers(count=1).digest]
    assert manifest["files"]["sub/b.bin"]["bytes"] == 256
    assert set(manifest["files"]) == {"a.txt", "sub/b.bin"}
    assert manifest["seconds"] == 2.5
    assert list((store.root / "work").iterdir()) == []
    assert [path.name for path in (store.root / "lease").iterdir()] == ["lock"]


def test_a_stage_may_not_leave_a_manifest(store):
    claim = store.claim(Numbers())
    (claim.out / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"manifest\.json"):
        claim.commit(1.0)
    claim.close()
    assert not store.has(Numbers().digest)


def test_the_first_commit_wins(store):
    claim = store.claim(Numbers())
    (claim.out / "a.txt").write_text("second")
    folder = store.path(Numbers().digest)
    folder.mkdir()
    (folder / "manifest.json").write_text("first")
    claim.commit(1.0)
    claim.close()
    assert (folder / "manifest.json").read_text() == "first"
    assert list((store.root / "work").iterdir()) == []


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (lambda folder: flip(folder / "sub" / "b.bin"), "sub/b.bin"),
        (lambda folder: os.truncate(folder / "a.txt", 3), "a.txt"),
        (lambda folder: (folder / "a.txt").unlink(), "a.txt"),
        (lambda folder: os.truncate(folder / "manifest.json", 20), "manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text('{"digest": 1}'), "manifest.json"),
    ],
)
def test_damage_is_found_named_and_set_aside(store, damage, file):
    digest = make(store, Numbers())
    damage(store.path(digest))
    fresh = Store(store.root)
    with pytest.raises(CorruptArtifactError) as caught:
        fresh.open(Numbers())
    assert (caught.value.digest, caught.value.file) == (digest, file)
    fresh.quarantine(digest)
    assert not fresh.has(digest)
    assert (store.root / "corrupt" / digest).is_dir()
    make(fresh, Numbers())
    fresh.verify(digest)


def test_checksums_are_read_once_per_process(store, monkeypatch):
    digest = make(store, Numbers())
    fresh, calls = Store(store.root), []
    real = store_module._sha256
    monkeypatch.setattr(store_module, "_sha256", lambda path: calls.append(path) or real(path))
    for _ in range(3):
        fresh.open(Numbers())
    assert len(calls) == 2
    fresh.verify(digest)
    assert len(calls) == 4


def test_quarantine_spares_what_another_process_made_again(store):
    digest = make(store, Numbers())
    store.quarantine(digest)
    assert store.has(digest)


def test_an_artifact_that_is_gone_is_missing_even_after_it_was_verified(store):
    digest = make(store, Numbers())
    store.open(Numbers())
    shutil.rmtree(store.path(digest))
    with pytest.raises(MissingArtifactError):
        store.open(Numbers())


def test_inputs_of_what_is_done_are_not_missing(store):
    base, middle, top = Numbers(), Numbers(source=Numbers()), Numbers(count=9)
    top = top.replace(source=middle)
    assert store.missing([top, middle]) == [base, middle, top]
    make(store, middle)
    assert store.missing([top, middle]) == [top]


def test_usual_seconds_are_the_median_of_the_latest_few(store):
    assert store.seconds(Numbers()) is None
    for n, seconds in enumerate([1000.0, 1.0, 2.0, 3.0, 4.0, 50.0]):
        make(store, Numbers(count=n), seconds=seconds)
    with (store.root / "durations.jsonl").open("a") as file:
        file.write('half a li\n["Numbers 1"]\n')
    assert Store(store.root).seconds(Numbers()) == 3.0


def test_what_never_ran_here_is_expected_by_its_estimate_and_the_pace_of_others(store):
    lines = [["Training 100", 30.0], ["Training 100", 20.0], ["Training 100", 25.0]]
    lines += [["Cleaning 50", 20.0], ["Score 1", 0.1], ["Head 9", 0.5], ["Broken 100", "NaN"]]
    lines += [["Broken 20", -3.0], ["no estimate", 7.0], ["Broken NaN", 7.0]]
    assert Store(store.root).expected(Numbers()) == Numbers().estimate()[0]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (store.root / "durations.jsonl").write_text(text)
    # (25 + 20) / (100 + 50): short kinds tell of overhead, the rest of nothing.
    assert Store(store.root).expected(Numbers()) == pytest.approx(0.3 * Numbers().estimate()[0])
    make(store, Numbers(), seconds=4.0)
    assert Store(store.root).expected(Numbers()) == 4.0


def test_failures_are_kept_masked_and_cleared_by_success(store):
    stage = Numbers()
    eid = str(4_000_000)
    store.fail(stage, f"Traceback\nKeyError: {eid}_20205_2_0.xml ({eid}) 9{eid}")
    failure = Store(store.root).failure(stage.digest)
    assert failure["label"] == "Numbers"
    assert failure["traceback"].endswith(f"[id]_20205_2_0.xml ([id]) 9{eid}")
    assert not store.has(stage.digest)
    make(store, stage)
    assert store.failure(stage.digest) is None


# ----------------------------------------------------------------------------------- leases


def test_one_claim_at_a_time(store):
    claim = store.claim(Numbers())
    assert store.holder(Numbers().digest).pid == os.getpid()
    assert store.claim(Numbers()) is None
    assert Store(store.root).claim(Numbers()) is None
    assert store.claim(Numbers(count=4)) is not None
    claim.close()
    assert store.claim(Numbers()) is not None


def test_a_killed_worker_is_replaced_at_once_and_its_resume_folder_is_kept(store):
    worker = in_another_process("hold", store.root)
    assert worker.stdout.readline() == "holding\n"
    assert store.claim(Numbers()) is None
    worker.send_signal(signal.SIGKILL)
    # Not waited for yet: a zombie does not hold a lease either.
    deadline = time.monotonic() + 5
    while process_start(worker.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    left = list((store.root / "work" / Numbers().digest).glob("out-*"))
    claim = store.claim(Numbers())
    worker.wait()
    worker.stdout.close()
    assert claim.resumed
    assert (claim.resume / "checkpoint").read_text() == "epoch 3"
    assert len(left) == 1
    assert not left[0].exists()
    assert list(claim.out.iterdir()) == []
    claim.close()
    assert (claim.resume / "checkpoint").exists()


def test_a_pid_that_was_given_to_another_process_is_no_holder(store):
    abandon(store._leases, start=1.0)
    assert store._leases.acquire(DIGEST) is not None


@pytest.mark.parametrize(
    "elsewhere", [{"host": "other"}, {"boot_id": "other"}, {"namespace": "other"}]
)
def test_a_process_elsewhere_is_judged_by_its_beat_alone(store, monkeypatch, elsewhere):
    monkeypatch.setattr(lease_module, "PATIENCE_SECONDS", 0.3)
    leases = store._leases
    holder = abandon(leases, start=1.0, **elsewhere)
    assert leases.acquire(DIGEST) is None
    time.sleep(0.2)
    leases._replace(DIGEST, replace(holder, beat=1))
    assert leases.acquire(DIGEST) is None
    time.sleep(0.2)  # 0.4 s after the first look, 0.2 s after the beat
    assert leases.acquire(DIGEST) is None
    time.sleep(0.2)
    taken = leases.acquire(DIGEST)
    assert taken is not None
    taken.release()


def test_work_of_several_threads_waits_for_free_cores(store, monkeypatch):
    monkeypatch.setattr(lease_module, "PATIENCE_SECONDS", 0.3)
    leases, other = store._leases, "b" * 64
    first = leases.acquire(DIGEST, threads=2, cores=2)
    assert leases.acquire(other, threads=2, cores=2) is None
    assert leases.holder(other) is None, "nobody is at it: it waits for the cores"
    assert leases.acquire(other, threads=1, cores=2) is None, "it would slow the first one down"
    for threads, cores in ((1, 3), (2, 4)):
        leases.acquire(other, threads=threads, cores=cores).release()
    first.release()
    alone = leases.acquire(other, threads=16, cores=2)
    assert alone is not None, "more threads than cores are no reason to wait for ever"
    alone.release()

    abandon(leases, start=1.0, threads=2)  # its process is gone
    leases.acquire(other, threads=2, cores=2).release()
    abandon(leases, host="other", threads=2)
    leases.acquire(other, threads=2, cores=2).release()
    abandon(leases, threads=2)  # lives, but is suspended: its beat stands still
    assert leases.acquire(other, threads=2, cores=2) is None
    time.sleep(0.4)
    leases.acquire(other, threads=2, cores=2).release()


def test_who_waits_for_cores_has_the_next_turn(store, monkeypatch):
    leases, large, small = store._leases, "b" * 64, "c" * 64
    first = leases.acquire(DIGEST, cores=2)
    assert leases.acquire(large, threads=2, cores=2) is None
    assert leases.acquire(small, cores=2) is None, "it would keep the large one waiting"
    other = Leases(store.root / "lease")
    assert other.acquire(small, cores=2) is None
    first.release()
    taken = other.acquire(large, threads=2, cores=2)
    assert taken is not None, "whoever asks: the turn is the stage's"
    taken.release()
    other.acquire(small, cores=2).release()

    # Who no longer asks, or has died, has no turn.
    monkeypatch.setattr(lease_module, "TURN_SECONDS", 0.2)
    first = leases.acquire(DIGEST, cores=2)
    assert leases.acquire(large, threads=2, cores=2) is None
    assert other.acquire(small, cores=2) is None
    time.sleep(0.3)
    other.acquire(small, cores=2).release()
    gone = replace(Holder.mine(threads=2), start=1.0)
    leases._replace(f".turn-{large}", gone)
    other.acquire(small, cores=2).release()
    first.release()
    store.tidy()
    assert not list((store.root / "lease").glob(".turn*"))


def test_work_that_spreads_takes_the_cores_that_are_free(store):
    leases, other = store._leases, "b" * 64
    alone = leases.acquire(DIGEST, cores=4, most=4)
    assert alone.threads == 4
    assert leases.acquire(other, cores=4, most=4) is None
    alone.release()
    leases.acquire(other, cores=4).release()
    first = leases.acquire(DIGEST, threads=3, cores=4)
    rest = leases.acquire(other, cores=4, most=4)
    assert rest.threads == 1
    rest.release()
    first.release()
    more = leases.acquire(DIGEST, cores=4, most=8)
    assert more.threads == 8, "as many as were asked for where nobody else is"
    more.release()
    many = [leases.acquire(f"{n}" * 64, cores=2) for n in range(3)]
    assert all(many), "work of one thread each may share cores"
    for lease in many:
        lease.release()


def test_a_live_holder_beats_and_keeps_its_lease(store, monkeypatch):
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease_module, "PATIENCE_SECONDS", 0.3)
    lease, waiter = store._leases.acquire(DIGEST), Store(store.root)._leases
    deadline = time.monotonic() + 0.8
    while time.monotonic() < deadline:
        assert waiter.acquire(DIGEST) is None
        time.sleep(0.02)
    assert store.holder(DIGEST).beat > 5
    lease.check()
    lease.release()
    assert waiter.holder(DIGEST) is None


def test_a_file_that_cannot_be_read_goes_stale_like_any_other(store, monkeypatch):
    monkeypatch.setattr(lease_module, "PATIENCE_SECONDS", 0.1)
    (store.root / "lease" / f"{DIGEST}.json").write_text("")
    assert store._leases.acquire(DIGEST) is None
    time.sleep(0.15)
    assert store._leases.acquire(DIGEST) is not None


def test_exactly_one_of_many_threads_takes_a_stale_lease_over(store):
    waiters = [Store(store.root)._leases for _ in range(8)]
    for _ in range(20):
        abandon(store._leases, start=1.0)
        barrier, taken = threading.Barrier(len(waiters)), []

        def take(leases, barrier=barrier, taken=taken):
            barrier.wait()
            lease = leases.acquire(DIGEST)
            if lease is not None:
                taken.append(lease)

        threads = [threading.Thread(target=take, args=(leases,)) for leases in waiters]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 1
        taken[0].release()


def test_exactly_one_of_several_processes_takes_a_stale_lease_over(store):
    abandon(store._leases, start=1.0)
    start = store.root / "start"
    workers = [in_another_process("take", store.root, start) for _ in range(4)]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 4
    start.touch()
    answers = [worker.communicate(timeout=20)[0] for worker in workers]
    assert sorted(answers) == ["False\n"] * 3 + ["True\n"]


def test_a_lost_lease_is_noticed_and_commits_nothing(store, monkeypatch):
    monkeypatch.setattr(lease_module, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(lease_module, "PATIENCE_SECONDS", 0.1)
    slow = store.claim(Numbers())  # beats every 5 s: dead to whoever waits 0.1 s
    (slow.out / "a.txt").write_text("slow")
    slow.lease.check()
    waiter = Store(store.root)
    assert waiter.claim(Numbers()) is None
    time.sleep(0.15)
    fast = waiter.claim(Numbers())
    assert not slow.out.exists()
    assert slow.lease.lost
    with pytest.raises(LeaseLostError):
        slow.lease.check()
    slow.out.mkdir()
    with pytest.raises(LeaseLostError):
        slow.commit(1.0)
    slow.close()
    assert not store.has(Numbers().digest)
    assert store.holder(Numbers().digest).token == fast.lease.token
    assert fast.resume.is_dir()
    (fast.out / "a.txt").write_text("fast")
    fast.commit(1.0)
    fast.close()
    assert (store.open(Numbers()) / "a.txt").read_text() == "fast"


def test_a_beat_does_not_bring_back_a_lease_that_was_taken_over(store, monkeypatch):
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.05)
    lease = store._leases.acquire(DIGEST)
    other = abandon(store._leases, host="other")
    time.sleep(0.2)
    assert store.holder(DIGEST) == other
    lease.release()
    assert store.holder(DIGEST) == other


def test_the_lock_does_not_outlive_its_holder_in_a_forked_child(store):
    with store._leases.locked():
        # Inherits the handle of the lock, as a data loader's worker does.
        lock = next(
            int(fd.name)
            for fd in Path("/proc/self/fd").iterdir()
            if fd.exists() and fd.readlink() == store.root / "lease" / "lock"
        )
        child = subprocess.Popen(["sleep", "30"], pass_fds=[lock])
    try:
        done = threading.Event()

        def lock_again():
            with Store(store.root)._leases.locked():
                done.set()

        threading.Thread(target=lock_again, daemon=True).start()
        assert done.wait(5)
    finally:
        child.kill()
        child.wait()


def test_work_left_by_a_worker_that_died_after_its_commit_is_removed(store):
    digest = make(store, Numbers())
    left = store.root / "work" / digest / "resume"
    left.mkdir(parents=True)
    unfinished = store.root / "work" / DIGEST / "resume"
    unfinished.mkdir(parents=True)
    (unfinished.parent / "out-of-a-dead-worker").mkdir()
    store.tidy()
    assert not left.parent.exists()
    assert [path.name for path in unfinished.parent.iterdir()] == ["resume"]


@pytest.mark.parametrize("kept", ["done", "damaged", "failed", "half-written"])
def test_what_must_not_be_kept_is_removed_wherever_it_is(store, kept):
    unwanted, wanted = Numbers(), Numbers(count=4)
    for stage in (unwanted, wanted):
        digest = make(store, stage)
        if kept == "damaged":
            (store.path(digest) / "a.txt").write_text("other")
            store.quarantine(digest)
        elif kept == "failed":
            shutil.rmtree(store.path(digest))
            store.fail(stage, "of somebody")
    if kept == "half-written":
        output = store.root / "work" / unwanted.digest / "out-of-a-dead-worker"
        shutil.move(store.path(unwanted.digest), output)
    count = store.discard(lambda stage: stage["count"] == 3)
    assert count == (kept in ("done", "damaged"))
    left = [path for path in store.root.rglob("*") if unwanted.digest in str(path)]
    assert not [path for path in left if path.is_file()]
    assert [path for path in store.root.rglob("*") if wanted.digest in str(path)]


def hold(root):
    claim = Store(Path(root)).claim(Numbers())
    (claim.resume / "checkpoint").write_text("epoch 3")
    (claim.out / "half").write_text("ha")
    print("holding", flush=True)
    time.sleep(60)


def take(root, start):
    leases = Store(Path(root))._leases
    print("ready", flush=True)
    while not Path(start).exists():
        time.sleep(0.001)
    taken = leases.acquire(DIGEST)
    print(taken is not None, flush=True)
    time.sleep(0.5)  # or the next one would find the lease of a process that is gone


if __name__ == "__main__":
    {"hold": hold, "take": take}[sys.argv[1]](*sys.argv[2:])

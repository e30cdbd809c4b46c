"""Plans, logs and records of jobs that executors have left in a store, and ``ecgcmr gc``."""

import json
import os
import time
from functools import partial

import pytest
from programs import say
from steps import Step

from benchmark.catalogue import Catalogue
from benchmark.engine.executors import jobs
from benchmark.engine.executors.commands import save_plan
from benchmark.engine.plan import read_plan
from benchmark.engine.store import Store
from benchmark.garbage import DAY, Wish, find, remove, text


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Let squeue say something; at first that there are no jobs."""
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    answer = partial(say, folder, "squeue")
    answer()
    return answer


STEP = Step(key="one")


def make(store, stage):
    claim = store.claim(stage)
    (claim.out / "value").write_text("1")
    claim.commit(1.0)
    claim.close()


def grow_old(path, days):
    then = time.time() - days * DAY
    for each in (path, *path.rglob("*")) if path.is_dir() else (path,):
        os.utime(each, (then, then))


def plan(store, days, stage=STEP):
    path = save_plan([stage], store)
    grow_old(path, days)
    return path


def submission(store, name, job, days, stage=STEP):
    folder = store.root / "slurm" / name
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / f"{job}_0_log.err").write_text("slurmstepd: error: killed\n")
    if job:
        jobs.Submission(folder, jobs={job: [stage.digest]}).save()
    grow_old(folder, days)
    return folder


def labels(found):
    return sorted(item.label for item in found.items)


def test_a_plan_goes_when_its_stages_are_there_or_nobody_has_read_it_for_long(store):
    path = plan(store, days=2)
    assert find(store, Wish()).items == [], "a scheduler may yet begin with it"
    assert labels(find(store, Wish(unused_for=DAY))) == [f"plans/{path.name}"]
    grow_old(path, days=40)
    assert labels(find(store, Wish())) == [f"plans/{path.name}"]
    read_plan(path, Catalogue)
    assert find(store, Wish()).items == [], "a job has just read it"
    make(store, STEP)
    assert find(store, Wish()).items == [], "it is not a day old"
    grow_old(path, days=2)
    found = find(store, Wish())
    assert "over: 1, " in text(store, found)
    assert "plan" in text(store, found)
    assert path.exists(), "looking changes nothing"
    assert remove(store, found, Wish()).removed == 1
    assert not path.exists()
    assert store.has(STEP.digest)


def test_a_plan_whose_stage_somebody_is_at_stays(store):
    path = plan(store, days=40)
    claim = store.claim(STEP)
    found = find(store, Wish())
    assert (labels(found), [item.label for item in found.busy]) == ([], [f"plans/{path.name}"])
    claim.close()


def test_what_is_being_written_stays_whoever_asks(store, squeue):
    path = plan(store, days=0)
    path.write_text('{"tar')
    submission(store, "a", "", days=0)
    now = Wish(unused_for=0.0)
    assert find(store, now).items == []
    for left in (path, store.root / "slurm" / "a"):
        grow_old(left, days=2)
    assert labels(find(store, now)) == [f"plans/{path.name}", "slurm/a"]


@pytest.mark.parametrize("state", ["PENDING|Priority", "RUNNING|None", "COMPLETING|None"])
def test_files_of_jobs_that_slurm_has_stay(store, squeue, state):
    folder = submission(store, "a", "7", days=50)
    make(store, STEP)  # by another; the job is still there, and reads and writes its files
    squeue(f"7|{state}|ecgcmr-a")
    wide = Wish(unused_for=0.0)
    for wish in (Wish(), wide):
        found = find(store, wish)
        assert [item.label for item in found.items if item.reason == "over"] == []
        assert [item.reason for item in found.busy] == ["SLURM has jobs of it"]
    squeue("7|COMPLETED|None|ecgcmr-a")
    found = find(store, Wish())
    assert labels(found) == ["slurm/a"]
    squeue(f"7|{state}|ecgcmr-a")  # requeued since
    assert remove(store, found, Wish()).removed == 0
    assert folder.exists()


def test_files_of_jobs_that_have_vanished_go_after_a_day(store, squeue):
    old, young = submission(store, "a", "7", days=1.5), submission(store, "b", "8", days=0.5)
    squeue("7|RUNNING|None|of another program")
    assert labels(find(store, Wish())) == ["slurm/a"]
    assert labels(find(store, Wish(unused_for=DAY / 24))) == ["slurm/a", "slurm/b"]
    assert remove(store, find(store, Wish()), Wish()).removed == 1
    assert (old.exists(), young.exists()) == (False, True)


def test_where_slurm_does_not_answer_its_files_stay(store, squeue):
    folder = submission(store, "a", "7", days=50)
    squeue(code=1)
    found = find(store, Wish())
    assert found.items == []
    assert "SLURM does not answer here" in text(store, found)
    remove(store, found, Wish())
    assert folder.exists()


def test_the_command_removes_them(ecgcmr, store, squeue):
    submission(store, "a", "7", days=2)
    make(store, STEP)
    plan(store, days=2)
    shown = json.loads(ecgcmr("gc", "--json", store=store.root).stdout)
    over = [item for item in shown["items"] if item["reason"] == "over"]
    assert sorted(item["kind"] for item in over) == ["plan", "submission"]
    assert all(item["bytes"] for item in over)
    ecgcmr("gc", "--yes", store=store.root)
    assert not any((store.root / "plans").iterdir())
    assert not any((store.root / "slurm").iterdir())

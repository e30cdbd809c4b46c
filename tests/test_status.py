"""What ``ecgcmr status`` tells of a store, while it is in use and when something is wrong."""

import errno
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from benchmark.cli import main
from benchmark.engine import store as store_module
from benchmark.engine.lease import Holder
from benchmark.engine.store import Store
from benchmark.stage import Stage
from benchmark.status import status, text


@dataclass(frozen=True, kw_only=True)
class Numbers(Stage):
    count: int = 3


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def make(store, stage, **facts):
    claim = store.claim(stage)
    (claim.out / "a.txt").write_text("ten bytes.")
    claim.commit(2.0, **facts)
    claim.close()
    return stage.digest


def test_an_empty_store(store):
    report = status(store)
    assert report["stages"] == 0
    assert report["kinds"] == {}
    assert "0 stages, 0 B" in text(report)
    assert json.loads(json.dumps(report)) == report


def test_a_store_that_cannot_be_written_to_is_shown(store, monkeypatch, capsys):
    make(store, Numbers())

    def refuse(path, mode):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    monkeypatch.setenv("ECGCMR_STORE", str(store.root))
    assert main(["status", "--verify"]) == 0
    assert "all checksums agree" in capsys.readouterr().out
    assert main(["gc"]) == 2


def test_artifacts_are_counted_by_kind(store):
    for count in range(3):
        make(store, Numbers(count=count))
    report = status(store)
    assert report["kinds"] == {"Numbers": {"stages": 3, "bytes": 30, "seconds": 6.0, "changed": 0}}
    assert report["space"]["done"] == 30
    assert report["space"]["free"] > 0


def test_changed_code_under_an_unchanged_version_is_counted(store):
    provenance = {"module": "benchmark.stage", "code": "0" * 64}
    make(store, Numbers(), provenance=provenance)
    report = status(store)
    assert report["kinds"]["Numbers"]["changed"] == 1
    assert "code changed since, same version: 1" in text(report)


def test_running_work_is_named_with_its_process(store):
    claim = store.claim(Numbers())
    (running,) = status(store)["running"]
    assert running["label"] == "Numbers"
    assert running["state"] == "at work"
    assert 0 <= running["seconds"] < 60
    assert "running: Numbers for 0:0" in text(status(store))
    assert status(store)["unfinished"] == []
    claim.close()
    assert status(store)["running"] == []


def test_the_dead_and_the_unfinished_are_told_from_the_living(store):
    claim = store.claim(Numbers())
    (claim.resume / "checkpoint").write_text("epoch 3")
    claim.lease._stop.set()
    store._leases._replace(Numbers().digest, replace(Holder.mine(), start=-1.0))
    (running,) = status(store)["running"]
    assert running["state"] == "dead"
    assert "the next run takes it over" in text(status(store))
    store.claim(Numbers()).close()
    (unfinished,) = status(store)["unfinished"]
    assert unfinished["label"] == "Numbers"
    assert unfinished["bytes"] >= len("epoch 3")
    assert "goes on from there" in text(status(store))


def test_failures_say_how_to_retry_and_where_they_failed(store):
    store.fail(Numbers(), 'Traceback\n  File "x.py", line 3\nValueError: too few')
    report = status(store)
    assert report["failed"][0]["message"] == "ValueError: too few"
    assert "x.py" not in text(report)
    assert "repeat the command" in text(report)
    assert "x.py" in text(report, tracebacks=True)


def test_damage_is_told(store):
    digest, other = make(store, Numbers()), make(store, Numbers(count=4))
    (store.path(digest) / "manifest.json").write_text("{")
    (store.path(other) / "a.txt").write_text("other byte")
    fresh = Store(store.root)
    assert [digest[:12] in line for line in status(fresh)["damaged"]] == [True]
    found = status(fresh, verify=True)["damaged"]
    assert len(found) == 2
    assert "made again by the next run" in text(status(fresh, verify=True))


@pytest.mark.parametrize("manifest", ['{"stage": 3}', "[]", "null", '{"digest": DIGEST}'])
def test_nonsense_in_a_manifest_is_damage_and_no_crash(store, manifest):
    digest = make(store, Numbers())
    written = manifest.replace("DIGEST", f'"{digest}", "files": {{}}')
    (store.path(digest) / "manifest.json").write_text(written)
    assert len(status(Store(store.root))["damaged"]) == 1


def test_prepared_cohorts_are_listed_with_what_is_wrong(store, monkeypatch):
    monkeypatch.setenv("ECGCMR_STORE", str(store.root))
    for name, current in {"ukb": "{", "other": json.dumps({"people": 5, "holds": ["ecg"]})}.items():
        (store.root / "prepared" / name).mkdir(parents=True)
        (store.root / "prepared" / name / "current.json").write_text(current)
    (store.root / "prepared" / "wfdb" / "work-1").mkdir(parents=True)
    (store.root / "prepared" / "never-begun").mkdir()
    found = {cohort["name"]: cohort["problem"] for cohort in status(store)["prepared"]}
    assert found.keys() == {"ukb", "other", "wfdb"}
    assert "damaged" in found["ukb"]
    assert "no plugin" in found["other"]
    assert "not finished" in found["wfdb"]


def test_the_command_prints_one_json(ecgcmr, tmp_path):
    done = ecgcmr("status", "--json", store=tmp_path / "store")
    assert json.loads(done.stdout)["stages"] == 0


def test_opening_an_artifact_is_its_last_use(store, monkeypatch):
    digest = make(store, Numbers())
    import os

    os.utime(store.path(digest), (1.0, 1.0))
    Store(store.root).open(Numbers())
    assert time.time() - store.path(digest).stat().st_mtime < 60


def test_a_store_that_may_only_be_read_still_opens(store, monkeypatch):
    make(store, Numbers())

    def refuse(*_):
        raise PermissionError(1, "Read-only file system")

    monkeypatch.setattr(store_module.os, "utime", refuse)
    assert Store(store.root).open(Numbers()).is_dir()

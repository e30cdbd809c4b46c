"""Inputs that change while a stage reads them, and what earlier attempts have left in its way."""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import dataclass

import pytest

from benchmark.engine.executors.inline import execute
from benchmark.engine.progress import Reporter
from benchmark.engine.store import Store
from benchmark.stage import Stage

HOOKS = {}


@dataclass(frozen=True, kw_only=True)
class Source(Stage):
    """Leaves a value."""

    def run(self, context):
        (context.out / "value").write_text("right")


@dataclass(frozen=True, kw_only=True)
class Reader(Stage):
    """Reads it late: something may happen between the look at its checksum and then."""

    source: Source = Source()

    def run(self, context):
        folder = context.open(self.source)
        left = context.resume / "attempts"
        attempt = 1 + (int(left.read_text()) if left.exists() else 0)
        left.write_text(str(attempt))
        HOOKS["between"](folder)
        (context.out / "value").write_text(f"{(folder / 'value').read_text()} {attempt}")


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "store")
    do(made, Source())
    return made


def do(store, stage):
    stream = io.StringIO()
    report = execute([stage], store, train=None, reporter=Reporter(stream))
    return report, stream.getvalue()


def once(function):
    """Do something to the first that reads, and nothing to the next."""
    told = []

    def between(folder):
        if not told:
            told.append(True)
            function(folder)

    HOOKS["between"] = between


def value(store):
    return (Store(store.root).open(Reader()) / "value").read_text()


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "value").write_text("wrong"),
        lambda folder: os.truncate(folder / "value", 2),
        lambda folder: (folder / "value").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: shutil.rmtree(folder),
        lambda folder: folder.rename(folder.with_name("elsewhere")),
    ],
    ids=["changed", "cut", "gone", "manifest-cut", "manifest-gone", "all-gone", "moved"],
)
def test_what_was_read_from_damaged_inputs_is_not_kept(store, change):
    """However the reader fares, also where it ends well, and nothing of that attempt is left."""
    once(change)
    report, text = do(store, Reader())
    assert report.ok, text
    assert value(store) == "right 1"
    assert "it is made again" in text


def test_what_was_made_again_meanwhile_is_read_again_but_once(store):
    """The one who reads has the old files open, which were damaged."""

    def replace(folder):
        shutil.copytree(folder, folder.with_name("copy"))
        shutil.rmtree(folder)
        folder.with_name("copy").rename(folder)

    once(replace)
    report, text = do(store, Reader())
    assert report.ok
    assert value(store) == "right 1"
    assert "was replaced meanwhile; that stage begins anew" in text

    shutil.rmtree(store.path(Reader().digest))
    HOOKS["between"] = replace  # a file system on which nothing ever stays the same
    report, _ = do(Store(store.root), Reader())
    assert report.ok


def test_an_artifact_without_its_manifest_is_made_again(store):
    (store.path(Source().digest) / "manifest.json").unlink()
    fresh = Store(store.root)
    assert not fresh.has(Source().digest)
    do(fresh, Source())
    fresh.verify(Source().digest)
    assert (store.root / "corrupt" / Source().digest / "value").exists()


def test_a_failure_on_what_an_earlier_attempt_left_is_none(store):
    HOOKS["between"] = lambda folder: None
    left = store.root / "work" / Reader().digest / "resume"
    left.mkdir(parents=True)
    (left / "attempts").write_text("of another version")
    report, text = do(store, Reader())
    assert report.ok
    assert value(store) == "right 1"
    assert "fails on what an earlier attempt has left; it begins anew" in text


def test_a_stage_that_fails_by_itself_is_not_tried_for_ever(store):
    def fail(folder):
        raise RuntimeError("by itself")

    HOOKS["between"] = fail
    left = store.root / "work" / Reader().digest / "resume"
    left.mkdir(parents=True)
    (left / "attempts").write_text("7")
    report, text = do(store, Reader())
    assert [outcome.message for outcome in report.failed] == ["RuntimeError: by itself"]
    assert text.count("it begins anew") == 1
    assert (left / "attempts").read_text() == "1"

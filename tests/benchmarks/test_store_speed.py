"""The store stays quick with ten thousand artifacts: `pytest tests/benchmarks`."""

from __future__ import annotations

import io
import json
import time
from dataclasses import dataclass

import pytest

from benchmark.engine import provenance
from benchmark.engine.executors.inline import execute
from benchmark.engine.progress import Reporter, print_plan
from benchmark.engine.store import Store
from benchmark.garbage import Wish, find
from benchmark.planning import Request, expand, plan
from benchmark.stage import Stage
from benchmark.status import status

COUNT = 10_000


@dataclass(frozen=True, kw_only=True)
class Leaf(Stage):
    number: int = 0

    def run(self, context):
        (context.out / "number").write_text(str(self.number))


@dataclass(frozen=True, kw_only=True)
class Score(Stage):
    leaf: Leaf = Leaf()
    base: Leaf = Leaf(number=-1)


def targets():
    """Fresh stages, whose digests are not yet known, as a new process has them."""
    base = Leaf(number=-1)
    return [Score(leaf=Leaf(number=n), base=base) for n in range(COUNT // 2)]


# As large as a manifest usually is: six kilobytes.
TYPICAL = {
    "inputs": [],
    "files": {},
    "seconds": 1.0,
    "finished": "2026-01-01T00:00:00+00:00",
    "provenance": {
        "module": "benchmark.engine.store",
        "libraries": {f"l{n}": "1" for n in range(400)},
    },
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with ten thousand artifacts, written directly: commits wait for the disk."""
    store = Store(tmp_path_factory.mktemp("speed") / "store")
    stages = {stage.digest: stage for score in targets() for stage in (score.leaf, score)}
    for digest, stage in stages.items():
        folder = store.path(digest)
        folder.mkdir()
        manifest = {**TYPICAL, "digest": digest, "label": stage.label, "stage": stage.describe()}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    lines = [json.dumps([f"{type(stage).__name__} 1", 1.0]) + "\n" for stage in stages.values()]
    (store.root / "durations.jsonl").write_text("".join(lines))
    return store


def test_a_request_that_is_all_found(benchmark, store):
    def request():
        fresh, wanted, reporter = Store(store.root), targets(), Reporter(io.StringIO())
        print_plan(wanted, fresh, reporter)
        return execute(wanted, fresh, train=None, reporter=reporter)

    report = benchmark.pedantic(request, rounds=3)
    assert len(report.found) == COUNT


def test_cached_stages_cost_little(store):
    fresh, wanted, reporter = Store(store.root), targets(), Reporter(io.StringIO())
    started = time.process_time()  # whatever else keeps the machine busy
    print_plan(wanted, fresh, reporter)
    report = execute(wanted, fresh, train=None, reporter=reporter)
    seconds = time.process_time() - started
    assert len(report.found) == COUNT
    assert seconds / COUNT < 5e-3


def test_status_of_everything(benchmark, store):
    started = time.process_time()
    report = benchmark.pedantic(lambda: status(Store(store.root)), rounds=3)
    assert report["stages"] == COUNT
    assert (time.process_time() - started) / 3 < 2


def test_planning_ten_thousand_scores_of_all_methods(benchmark, tmp_path):
    methods, tasks = expand("all", "method"), expand("all", "task")
    request = Request(methods, tasks, replicates=14, scale="smoke")

    started = time.process_time()

    def planned():
        wanted = [job.score for job in plan(request).jobs]
        print_plan(wanted, Store(tmp_path / "empty"), Reporter(io.StringIO()))
        return wanted

    assert len(benchmark.pedantic(planned, rounds=3)) > COUNT
    assert (time.process_time() - started) / 3 < 5


def test_finding_garbage(benchmark, store):
    found = benchmark.pedantic(lambda: find(Store(store.root), Wish()), rounds=3)
    assert found.items == []


def test_listing_everything(benchmark, store):
    assert len(benchmark(lambda: list(store.stages()))) == COUNT


def test_usual_seconds(benchmark, store):
    assert benchmark(lambda: Store(store.root).seconds(Leaf(number=1))) == 1.0


def test_opening_a_verified_artifact(benchmark, store):
    stage = Leaf(number=1)
    assert benchmark(store.open, stage) == store.path(stage.digest)


def test_one_small_stage_from_claim_to_commit(benchmark, tmp_path):
    store, numbers = Store(tmp_path), iter(range(1, COUNT))
    reporter = Reporter(io.StringIO())

    def run():
        execute([Leaf(number=next(numbers))], store, train=None, reporter=reporter)

    benchmark.pedantic(run, rounds=20, warmup_rounds=1)


def test_provenance_of_a_process(benchmark):
    def fresh():
        for function in (provenance._git, provenance._libraries, provenance._hardware):
            function.cache_clear()
        for function in (provenance.code_hash, provenance._read, provenance._source):
            function.cache_clear()
        return provenance.provenance(Store)

    assert benchmark(fresh)["libraries"]
    known = provenance.provenance(Store)
    assert known["code"] == provenance.code_hash("benchmark.engine.store")

"""The store stays quick with ten thousand artifacts: `pytest tests/benchmarks`."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass

import pytest

from benchmark.engine import provenance
from benchmark.engine.executors.inline import execute
from benchmark.engine.progress import Reporter, print_plan
from benchmark.engine.store import Store
from benchmark.stage import Stage

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


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with ten thousand artifacts, written directly: commits wait for the disk."""
    store = Store(tmp_path_factory.mktemp("speed") / "store")
    stages = {stage.digest: stage for score in targets() for stage in (score.leaf, score)}
    for digest, stage in stages.items():
        folder = store.path(digest)
        folder.mkdir()
        manifest = {"digest": digest, "label": stage.label, "files": {}, "seconds": 1.0}
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

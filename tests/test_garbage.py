"""``ecgcmr gc``: what goes and, above all, what stays."""

import io
import json
import os
import time
from dataclasses import dataclass, replace

import pytest

from benchmark.api import UserError
from benchmark.catalogue import Catalogue
from benchmark.engine.executors.inline import execute
from benchmark.engine.lease import Holder
from benchmark.engine.progress import Reporter
from benchmark.engine.store import Store
from benchmark.evaluation.score import Score
from benchmark.garbage import DAY, Wish, as_json, find, remove, seconds_of, text
from benchmark.planning import Request, expand, plan
from benchmark.registry import TRACKS, registry
from benchmark.stage import Stage, topological


@dataclass(frozen=True, kw_only=True)
class Leaf(Stage):
    count: int = 3


SCORE = Score(head=Leaf(), metrics=())


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def make(store, stage, age=0.0):
    claim = store.claim(stage)
    (claim.out / "a.txt").write_text("ten bytes.")
    claim.commit(2.0)
    claim.close()
    grow_old(store, stage, age)
    return stage.digest


def grow_old(store, stage, age):
    then = time.time() - age
    folder = store.path(stage.digest)
    text = (folder / "manifest.json").read_text()
    manifest = json.loads(text)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(then))
    (folder / "manifest.json").write_text(text.replace(manifest["finished"], stamp))
    os.utime(folder, (then, then))
    store._forget(stage.digest)


def rewrite(store, stage, **changes):
    """Let a manifest say that the stage was another one."""
    path = store.path(stage.digest) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["stage"] |= changes
    path.write_text(json.dumps(manifest))
    store._forget(stage.digest)


def reasons(found):
    return {item.digest: item.reason for item in found.items}


def test_nothing_goes_that_todays_code_makes(store):
    make(store, Leaf(), age=1000 * DAY)
    make(store, SCORE)
    found = find(store, Wish())
    assert (found.items, found.spared, found.busy) == ([], [], [])
    assert "nothing to remove" in text(store, found)


@pytest.mark.parametrize(
    "changes",
    [{"version": 0}, {"count": 4}, {"other": 1}, {"name": "Gone"}, {"name": None}],
    ids=["version", "value", "field", "class", "nonsense"],
)
def test_what_todays_code_cannot_make_goes(store, changes):
    kept, gone = make(store, Leaf(count=8)), make(store, Leaf())
    rewrite(store, Leaf(), **changes)
    found = find(store, Wish())
    assert reasons(found) == {gone: "outdated"}
    assert store.has(gone), "looking changes nothing"
    done = remove(store, found, Wish())
    assert done.removed == 1
    assert not store.has(gone)
    assert store.has(kept)


def test_a_broken_plugin_keeps_what_it_may_have_made(store, monkeypatch):
    make(store, Leaf())
    rewrite(store, Leaf(), name="OfABrokenPlugin")
    monkeypatch.setattr(type(registry()), "broken", {"methods.other": "SyntaxError"})
    assert find(store, Wish()).items == []


def test_a_plugin_that_is_not_installed_keeps_what_it_made(store):
    make(store, Leaf())
    rewrite(store, Leaf(), name="Gone")
    path = store.path(Leaf().digest) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["provenance"] = {"module": "package_that_was_uninstalled.method"}
    path.write_text(json.dumps(manifest))
    assert find(store, Wish()).items == []


def test_scores_are_spared_unless_asked_for(store):
    score = make(store, SCORE, age=50 * DAY)
    leaf = make(store, Leaf(), age=50 * DAY)
    found = find(store, Wish(unused_for=30 * DAY))
    assert reasons(found) == {leaf: "unused"}
    assert [item.digest for item in found.spared] == [score]
    assert "--scores" in text(store, found)
    assert len(find(store, Wish(unused_for=30 * DAY, scores=True)).items) == 2


def test_opening_makes_used(store):
    make(store, Leaf(), age=50 * DAY)
    assert find(store, Wish(unused_for=30 * DAY)).items
    store.open(Leaf())
    assert not find(store, Wish(unused_for=30 * DAY)).items


def test_running_work_and_what_it_stands_on_stays(store):
    leaf = make(store, Leaf(), age=50 * DAY)
    other = make(store, Leaf(count=9), age=50 * DAY)
    lately = make(store, Leaf(count=10), age=0.5 * DAY)
    claim = store.claim(SCORE)
    found = find(store, Wish(unused_for=3600.0))
    assert reasons(found) == {other: "unused"}
    assert {item.digest for item in found.busy} == {leaf, lately}
    claim.close()
    assert len(find(store, Wish(unused_for=3600.0)).items) == 3


def test_a_dead_worker_holds_nothing_back(store):
    leaf = make(store, Leaf(), age=50 * DAY)
    store._leases._replace(SCORE.digest, replace(Holder.mine(), start=-1.0))
    assert reasons(find(store, Wish(unused_for=DAY))) == {leaf: "unused"}


def test_what_is_taken_up_between_looking_and_removing_stays(store):
    leaf = make(store, Leaf(), age=50 * DAY)
    found = find(store, Wish(unused_for=DAY))
    lease = store._leases.acquire(leaf)
    assert remove(store, found, Wish()).removed == 0
    lease.release()
    assert store.has(leaf)


def test_unfinished_work_goes_when_nobody_goes_on_with_it(store):
    for count, age in ((1, 0.0), (2, 8 * DAY)):
        claim = store.claim(Leaf(count=count))
        (claim.resume / "checkpoint").write_text("epoch 3")
        claim.close()
        folder = store.root / "work" / Leaf(count=count).digest
        for path in (folder, *folder.rglob("*")):
            os.utime(path, (time.time() - age,) * 2)
    found = find(store, Wish())
    assert reasons(found) == {Leaf(count=2).digest: "abandoned"}
    remove(store, found, Wish())
    assert [path.name for path in (store.root / "work").iterdir()] == [Leaf(count=1).digest]


def test_unfinished_work_of_another_version_goes_at_once(store):
    claim = store.claim(Leaf())
    (claim.resume / "checkpoint").write_text("epoch 3")
    claim.close()
    path = store.root / "work" / Leaf().digest / "stage.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 0'))
    assert reasons(find(store, Wish())) == {Leaf().digest: "abandoned"}


def test_damage_and_old_failures_go(store):
    digest = make(store, Leaf())
    (store.path(digest) / "a.txt").write_text("other")
    store.quarantine(digest)
    broken = make(store, Leaf(count=7))
    (store.path(broken) / "manifest.json").write_text("{")
    store._forget(broken)
    store.fail(Leaf(count=5), "ValueError")
    store.fail(Leaf(count=6), "ValueError")
    path = store.failure_path(Leaf(count=6).digest)
    path.write_text(path.read_text().replace('"version": 1', '"version": 0'))
    found = find(store, Wish())
    assert reasons(found) == {
        digest: "damaged", broken: "damaged", Leaf(count=6).digest: "failure"
    }  # fmt: skip
    remove(store, found, Wish())
    assert list((store.root / "corrupt").iterdir()) == []
    assert not store.path(broken).exists()
    assert [failure["label"] for failure in store.failures()] == ["Leaf"]


def test_a_cohort_goes_by_the_name_of_its_boards(store):
    cohorts = {
        name: registry().cohort("simulated").at(scale, preset)
        for name, scale, preset in (
            ("simulated-smoke", "smoke", "default"), ("simulated-hard", "smoke", "hard"),
        )
    }  # fmt: skip
    digests = {name: make(store, SCORE.replace(head=cohort)) for name, cohort in cohorts.items()}
    for name, digest in digests.items():
        assert reasons(find(store, Wish(cohort=name, scores=True))) == {digest: "cohort"}
    assert len(find(store, Wish(cohort="simulated", scores=True)).items) == 2
    with pytest.raises(UserError, match="did you mean simulated-"):
        find(store, Wish(cohort="simulated-smok"))


def test_a_prepared_cohort_goes_only_by_name(store, monkeypatch):
    monkeypatch.setenv("ECGCMR_STORE", str(store.root))
    folder = store.root / "prepared" / "ukb"
    folder.mkdir(parents=True)
    (folder / "current.json").write_text("{}")
    wide = Wish(unused_for=0.0, cohort="ukb", scores=True)
    remove(store, find(store, wide), wide)
    assert folder.exists()
    with pytest.raises(UserError, match="no cohort 'ukbb' has been prepared"):
        find(store, Wish(prepared="ukbb"))
    wish = Wish(prepared="ukb")
    remove(store, find(store, wish), wish)
    assert not folder.exists()


@pytest.mark.parametrize("name", [".", "..", "ukb/..", "../done", "{elsewhere}"])
def test_a_prepared_cohort_is_a_name_and_no_path(store, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    for folder in (elsewhere, store.root / "prepared" / "ukb"):
        folder.mkdir(parents=True)
    with pytest.raises(UserError, match="has been prepared"):
        find(store, Wish(prepared=name.format(elsewhere=elsewhere)))


def test_everything_that_can_be_asked_for_is_recognised():
    catalogue = Catalogue([])
    for track in TRACKS:
        request = Request(
            methods=expand("all", "method", track),
            tasks=expand("all", "task"),
            scale="smoke",
            track=track,
            fractions=(0.1,),
        )
        stages = topological([job.score for job in plan(request).jobs])
        described = [(json.loads(json.dumps(stage.describe())), stage) for stage in stages]
        missed = [s.label for d, s in described if not catalogue.makes(d, s.digest)]
        assert not missed
        assert len(stages) > 500


def test_what_no_request_names_goes_when_asked_for(store):
    request = Request(methods=("mae",), tasks=("phenotype",), scale="smoke", fractions=(0.1,))
    asked = topological([job.score for job in plan(request).jobs])
    other = registry().method("mae").on_track("harmonised", "smoke")
    recipe = replace(other.recipe, batch_size=7)
    mae = next(stage for stage in asked if type(stage).__name__ == "MAE")
    for stage in (*asked, mae.replace(recipe=recipe)):
        make(store, stage)
    assert find(store, Wish()).items == []
    assert reasons(find(store, Wish(unnamed=True, scores=True))) == {
        mae.replace(recipe=recipe).digest: "unnamed"
    }


@pytest.mark.parametrize(("written", "seconds"), [("30d", 30 * DAY), ("12h", DAY / 2)])
def test_durations(written, seconds):
    assert seconds_of(written) == seconds


@pytest.mark.parametrize("written", ["", "30", "d", "-3d", "3 days", "nan"])
def test_nonsense_durations(written):
    with pytest.raises(UserError, match="12h, 30d or 8w"):
        seconds_of(written)


def test_the_command_changes_nothing_without_yes(ecgcmr, tmp_path):
    store = Store(tmp_path / "store")
    make(store, Leaf())
    rewrite(store, Leaf(), name="Gone")
    shown = ecgcmr("gc", store=store.root).stdout
    assert "add --yes" in shown
    assert store.has(Leaf().digest)
    done = json.loads(ecgcmr("gc", "--yes", "--json", store=store.root).stdout)
    assert done["removed"] == 1
    assert not store.path(Leaf().digest).exists()
    assert done["items"][0]["reason"] == "outdated"


def test_json_of_what_was_found(store):
    make(store, Leaf(), age=50 * DAY)
    record = as_json(store, find(store, Wish(unused_for=DAY)))
    assert record["removed"] is None
    assert record["bytes"] > 10
    assert record["items"][0]["label"] == "Leaf"


@dataclass(frozen=True, kw_only=True)
class Sweeping(Stage):
    """A stage in whose middle somebody else clears the store."""

    leaf: Leaf = Leaf()

    def run(self, context):
        wish = Wish(unused_for=0.0, scores=True)
        store = Store(context.out.parents[2])
        remove(store, find(store, wish), wish)
        (context.out / "a.txt").write_text((context.open(self.leaf) / "a.txt").read_text())


def test_clearing_next_to_a_running_driver_takes_nothing_from_it(store):
    make(store, Leaf(), age=50 * DAY)
    other = make(store, Leaf(count=9), age=50 * DAY)
    stream = io.StringIO()
    report = execute([Sweeping()], store, train=None, reporter=Reporter(stream))
    assert report.ok
    assert [outcome.label for outcome in report.ran] == ["Sweeping"], stream.getvalue()
    assert not store.has(other)

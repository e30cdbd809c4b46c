"""The training loop: who is trained on, what is kept, and that a resumed run is the same run."""

import dataclasses
import hashlib
import io
import json
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import toy
from safetensors.torch import load_file

from benchmark.api import Recipe
from benchmark.cohorts.cohort import CohortData
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.cohorts.splits import split_of
from benchmark.engine import training
from benchmark.engine.batches import Order
from benchmark.engine.executors.inline import execute
from benchmark.engine.store import Store
from benchmark.engine.training import NonFiniteLossError, _schedule, build, train
from benchmark.evaluation.embed import Embed
from benchmark.evaluation.finetune import FineTune
from benchmark.evaluation.heads import LinearHead
from benchmark.evaluation.joint import Joint
from benchmark.evaluation.score import Score
from benchmark.registry import registry
from benchmark.stage import bind
from methods.mae import MAE

COHORT = SimulatedCohort(people=300)
TRAINED = ("mae", "ptacl", "eccl", "dual-phase")


def make(name, **more):
    unbound = registry().method(name).on_track("harmonised", "smoke")
    bound = {"task": registry().task("phenotype"), "fraction": 1.0} | more
    return bind(unbound, cohort=COHORT, seed=0, **bound)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """Folder of the artifact of every input that the tests below train on."""
    store = Store(tmp_path_factory.mktemp("training") / "store")
    stages = [make(name) for name in TRAINED]
    inputs = [item for stage in stages for item in stage.inputs]
    assert execute([*inputs, make("supervised")], store, train=train).ok
    return {digest: store.path(digest) for digest in store.stages()}


class Folders:
    """A context over plain folders, so that a test can put something else in one of them."""

    device, workers = "cpu", 1

    def __init__(self, folder, artifacts, stop_after=None):
        self.out, self.resume = folder / "out", folder / "resume"
        self.out.mkdir(parents=True, exist_ok=True)
        self.resume.mkdir(exist_ok=True)
        self.artifacts, self.stop_after, self.notes = artifacts, stop_after, []

    def open(self, stage):
        return self.artifacts[stage.digest]

    def progress(self, done, total, unit="", note=""):
        self.notes.append(note)
        if self.stop_after is not None and done > self.stop_after:
            raise KeyboardInterrupt


def fields_of(method):
    return {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}


def run(trainable, folder, artifacts, **options):
    context = Folders(folder, artifacts, **options)
    train(trainable, context)
    return load_file(context.out / "weights.safetensors"), context


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", ["mae", "ptacl"])
@pytest.mark.parametrize("stop_after", [9, 17])
def test_a_resumed_training_equals_an_undisturbed_one(tmp_path, artifacts, name, stop_after):
    method = make(name)
    whole, context = run(method, tmp_path / "whole", artifacts)
    with pytest.raises(KeyboardInterrupt):
        run(method, tmp_path / "cut", artifacts, stop_after=stop_after)
    resumed, again = run(method, tmp_path / "cut", artifacts)
    assert any("resumed after round" in note for note in again.notes)
    assert same(whole, resumed)
    history = [json.loads((c.out / "history.json").read_text()) for c in (context, again)]
    assert history[0] == history[1]


def test_a_device_that_is_told_ahead_gets_the_same(tmp_path, artifacts, monkeypatch):
    """Batches read by a thread, losses read an update late, as on a GPU."""
    method = make("ptacl")
    whole, context = run(method, tmp_path / "whole", artifacts)
    monkeypatch.setattr(training, "_ahead", lambda device: True)
    with pytest.raises(KeyboardInterrupt):
        run(method, tmp_path / "ahead", artifacts, stop_after=9)
    ahead, again = run(method, tmp_path / "ahead", artifacts)
    assert same(whole, ahead)
    history = [(c.out / "history.json").read_bytes() for c in (context, again)]
    assert history[0] == history[1]


@pytest.mark.parametrize("how", ["flipped", "cut", "older", "of other weights"])
def test_a_checkpoint_that_cannot_be_used_is_passed_over(tmp_path, artifacts, how):
    method = make("mae")
    with pytest.raises(KeyboardInterrupt):
        run(method, tmp_path, artifacts, stop_after=9)
    checkpoint = tmp_path / "resume" / "last.ckpt"
    content = bytearray(checkpoint.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    elif how == "cut":
        del content[len(content) // 2 :]
    elif how == "older":
        del content[: training.CHECKSUM]
    else:
        state = torch.load(io.BytesIO(content[training.CHECKSUM :]), weights_only=True)
        state["weights"].popitem()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue()
    checkpoint.write_bytes(content)
    again, context = run(method, tmp_path, artifacts)
    assert any("begun anew" in note for note in context.notes)
    assert same(again, run(method, tmp_path / "whole", artifacts)[0])


def poisoned(artifacts, view, rows, folder, value=np.nan):
    array = np.load(artifacts[view.digest] / "array.npy").copy()
    array[rows] = value
    target = folder / view.digest
    target.mkdir(parents=True)
    np.save(target / "array.npy", array)
    return {**artifacts, view.digest: target}


def test_poison_in_a_training_person_is_noticed(tmp_path, artifacts):
    """What the conformance kit shows every method would not go unnoticed in training people."""
    method = make("mae")
    train_rows = CohortData(artifacts[COHORT.digest]).rows("train")
    changed = poisoned(artifacts, method.views()["ecg"], train_rows, tmp_path / "views")
    with pytest.raises(NonFiniteLossError):
        run(method, tmp_path / "run", changed)


def finetune_half():
    method, task = make("supervised"), registry().task("phenotype")
    own = {"modality": "ecg", "task": task, "fraction": 0.5}
    return FineTune(method=method, cohort=COHORT, seed=0, **own)


def test_labels_outside_the_fraction_never_reach_fine_tuning(tmp_path, artifacts):
    cohort = CohortData(artifacts[COHORT.digest])
    head = finetune_half().replace(recipe=Recipe(updates=6, rounds=2, batch_size=8))
    outside = np.setdiff1d(
        np.arange(300), np.r_[cohort.labelled(0, 0.5), cohort.rows("validation")]
    )
    folder = tmp_path / "cohort"
    shutil.copytree(artifacts[COHORT.digest], folder)
    table = cohort.phenotypes.copy()
    table.iloc[outside] = 1e9
    table.to_parquet(folder / "phenotypes.parquet")
    clean, _ = run(head, tmp_path / "clean", artifacts)
    changed, _ = run(head, tmp_path / "changed", {**artifacts, COHORT.digest: folder})
    assert same(clean, changed)


def test_pairs_without_labels_are_aligned_all_the_same(tmp_path, artifacts):
    cohort = CohortData(artifacts[COHORT.digest])
    counts = {}
    for name, method in {"eccl": make("eccl", fraction=0.1), "guide": make("eccl").cmr}.items():
        method = method.replace(recipe=Recipe(updates=2, rounds=1, batch_size=8), fraction=0.1)
        starts = {
            s.digest: artifacts[o.digest]
            for s, o in zip(
                method.initial_weights().values(),
                make("eccl").initial_weights().values(),
                strict=False,
            )
        }
        run(method, tmp_path / name, artifacts | starts)
        record = json.loads((tmp_path / name / "out" / "history.json").read_text())
        counts[name] = record["training_people"]
    assert counts == {"eccl": len(cohort.rows("train")), "guide": len(cohort.labelled(0, 0.1))}


PASSES: list[int] = []


@dataclass(frozen=True, kw_only=True)
class Dictated(MAE):
    """An autoencoder whose validation loss falls, then rises: the second round is the best."""

    def loss(self, encoders, batch):
        terms = super().loss(encoders, batch)
        if batch.training:
            return terms
        PASSES.append(len(batch.ecg))
        people = sum(PASSES) - 1
        return {"mse": terms["mse"] * 0 + (3, 1, 2, 4)[people // VALIDATION_PEOPLE]}


VALIDATION_PEOPLE = int((split_of(str(9_000_000 + k) for k in range(1, 301)) == "validation").sum())


def test_the_round_with_the_best_validation_loss_is_kept(tmp_path, artifacts):
    PASSES.clear()
    recipe = Recipe(updates=8, rounds=4, batch_size=16, learning_rate=3e-3)
    dictated = Dictated(**{**fields_of(make("mae")), "recipe": recipe})
    _, context = run(dictated, tmp_path, artifacts)
    rounds = json.loads((context.out / "history.json").read_text())["history"]
    assert [r["validation"] for r in rounds] == pytest.approx([3, 1, 2, 4])
    content = (context.resume / "last.ckpt").read_bytes()
    checkpoint = torch.load(io.BytesIO(content[training.CHECKSUM :]), weights_only=True)
    kept = load_file(context.out / "weights.safetensors")
    assert checkpoint["best_loss"] == pytest.approx(1)
    assert same(kept, checkpoint["best"])
    assert not same(kept, checkpoint["weights"])


FOLLOWED: list[float] = []


@dataclass(frozen=True, kw_only=True)
class Followed(MAE):
    """An autoencoder that notes when it is told that an update is over."""

    def after_step(self, encoders, progress):
        FOLLOWED.append(progress)


def test_an_update_is_followed_at_its_own_progress(tmp_path, artifacts):
    FOLLOWED.clear()
    recipe = Recipe(updates=4, rounds=2, batch_size=16)
    run(Followed(**{**fields_of(make("mae")), "recipe": recipe}), tmp_path, artifacts)
    assert FOLLOWED == [0.0, 0.25, 0.5, 0.75]


def test_mae_learns(tmp_path, artifacts):
    method = make("mae").replace(
        recipe=Recipe(updates=120, rounds=3, batch_size=16, learning_rate=5e-3, clip_norm=3.0)
    )
    _, context = run(method, tmp_path, artifacts)
    rounds = json.loads((context.out / "history.json").read_text())["history"]
    assert rounds[-1]["validation"] < rounds[0]["validation"]


@dataclass(frozen=True, kw_only=True)
class Exploding(MAE):
    """An autoencoder whose loss is not a number."""

    def loss(self, encoders, batch):
        return {"nan": super().loss(encoders, batch)["mse"] * float("nan")}


@pytest.mark.parametrize("clip_norm", [None, 3.0])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path, artifacts, clip_norm, ahead, monkeypatch
):
    monkeypatch.setattr(training, "_ahead", lambda device: ahead)
    recipe = Recipe(updates=4, rounds=2, batch_size=16, clip_norm=clip_norm)
    exploding = Exploding(**{**fields_of(make("mae")), "recipe": recipe})
    with pytest.raises(NonFiniteLossError, match="update 0"):
        run(exploding, tmp_path, artifacts)


def test_everybody_is_seen_once_before_anybody_twice():
    order = Order("digest", [np.arange(23)], 5)
    seen = np.concatenate([order.at(step) for step in range(23)])
    for number in range(5):
        assert sorted(seen[number * 23 : (number + 1) * 23]) == list(range(23))
    assert not np.array_equal(seen[:23], seen[23:46])
    assert np.array_equal(Order("digest", [np.arange(23)], 5).at(7), seen[35:40])


def test_schedule_warms_up_and_ends_at_zero():
    factors = [_schedule(step, 100, 0.1) for step in range(100)]
    assert factors.index(max(factors)) in (9, 10)
    assert np.all(np.diff(factors[:10]) > 0)
    assert np.all(np.diff(factors[10:]) < 0)
    assert factors[-1] < 0.001


@pytest.mark.parametrize(
    ("recipe", "people", "expected"),
    [
        (Recipe(updates=100, rounds=10), 1000, (10, 10)),
        (Recipe(updates=3, rounds=10), 1000, (3, 1)),
        (Recipe(epochs=4, batch_size=32), 320, (4, 10)),
        (Recipe(epochs=4, batch_size=32), 5, (4, 1)),
        (Recipe(), 1000, (0, 31)),
    ],
)
def test_rounds_and_steps(recipe, people, expected):
    assert recipe.steps(people)[0] == expected[0]
    if expected[0]:
        assert recipe.steps(people) == expected


def test_epochs_are_expected_to_take_as_long_as_their_updates():
    by_updates = toy.ToyMethod(cohort=COHORT, seed=0, recipe=Recipe(updates=260, batch_size=8))
    by_epochs = by_updates.replace(recipe=Recipe(epochs=10, batch_size=8))
    assert by_updates.estimate() == (1 + 4e-3 * 260 * 8, 2e6)
    assert by_epochs.estimate() == by_updates.estimate()  # 210 people are 26 batches


FOUND_NOBODY = 1e-9  # a label fraction in which nobody of a few hundred lies


@pytest.mark.parametrize("task", ["cvd", "phenotype"])
def test_a_fraction_without_labels_is_not_estimable_and_no_failure(tmp_path, task):
    task = registry().task(task)
    shared = {"cohort": toy.COHORT, "seed": 0}
    own = {"task": task, "fraction": FOUND_NOBODY, "seed": 0, "modality": "ecg"}
    taught = toy.ToyLabelled(**shared, task=task, fraction=FOUND_NOBODY)
    untaught = toy.ToyMethod(**shared)
    heads = [
        LinearHead(embedding=Embed(method=taught), **own),
        Joint(method=taught, **own),
        FineTune(method=untaught, recipe=toy.QUICK, cohort=toy.COHORT, **own),
    ]
    scores = [Score(head=head, metrics=task.metrics) for head in heads]
    store = Store(tmp_path / "store")
    for score, folder in zip(scores, toy.bring(store, *scores), strict=True):
        cells = json.loads((folder / "score.json").read_text())["cells"]
        assert {cell["status"] for cell in cells} == {"not estimable"}, score.label
    record = json.loads((store.path(taught.digest) / "history.json").read_text())
    assert (record["labelled_people"], record["history"]) == (0, [])
    assert same(load_file(store.path(taught.digest) / "weights.safetensors"), fresh(taught))


def fresh(trainable):
    return build(trainable).state_dict()


@dataclass(frozen=True, kw_only=True)
class Unlabelled(toy.ToyLabelled):
    """A method whose labels the cohort does not have."""

    unlabelled = True

    def labels(self, cohort):
        return super().labels(cohort) * np.nan


def test_a_cohort_without_labels_is_an_error(tmp_path):
    task = registry().task("phenotype")
    method = Unlabelled(cohort=toy.COHORT, seed=0, task=task, fraction=1.0)
    report = execute([method], Store(tmp_path / "store"), train=train)
    (failure,) = report.failed
    assert failure.message.endswith(
        "Unlabelled (phenotype 1): no training person of the cohort has a label"
    )

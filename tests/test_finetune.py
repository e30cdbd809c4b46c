"""The finetune head: its settings, and who it is shown."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from toy import COHORT, QUICK, ToyECG, ToyMethod, bring, data

from benchmark.api import UserError
from benchmark.cohorts.splits import balance_rank
from benchmark.encoders import Encoders, Features
from benchmark.engine.balance import chunks, matched, shown
from benchmark.engine.batches import Order, People
from benchmark.engine.store import Store
from benchmark.engine.supervision import Supervision
from benchmark.engine.training import build, train
from benchmark.evaluation.finetune import FineTune
from benchmark.registry import registry
from benchmark.stage import bind
from tasks.cvd import CVD
from tasks.phenotype import Phenotype


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("finetune") / "store")


def make(task=None, method=None, **settings):
    task = task or Phenotype()
    head = FineTune(**({"recipe": QUICK} | settings))
    shared = {"cohort": COHORT, "seed": 0, "fraction": 1.0, "modality": "ecg", "task": task}
    return bind(head.replace(method=method or ToyMethod()), **shared)


def shapes(head):
    return {name: view.shape for name, view in head.views().items()}


# ------------------------------------------------------------------------------ settings


def test_the_learning_rate_falls_from_the_output_to_the_embedding():
    """Rates of BEiT's rule, number by number: depth + 1 - layer powers of the decay."""
    head = make(layer_decay=0.5)
    encoders = head.build(shapes(head))
    rates = {
        id(parameter): group["lr"] / QUICK.learning_rate
        for group in head.parameter_groups(encoders)
        for parameter in group["params"]
    }
    assert len(rates) == len(list(encoders.parameters()))
    expected = {"ecg.embed": 0.5**3, "ecg.blocks.0": 0.5**2, "ecg.blocks.1": 0.5}
    for name, parameter in encoders.named_parameters():
        own = [rate for prefix, rate in expected.items() if name.startswith(prefix + ".")]
        assert rates[id(parameter)] == (own[0] if own else 1.0), name


def test_layer_decay_leaves_the_weight_decay_of_matrices_alone():
    head = make(layer_decay=0.5)
    encoders = head.build(shapes(head))
    for group in head.parameter_groups(encoders):
        for parameter in group["params"]:
            matrix = sum(n > 1 for n in parameter.shape) > 1
            assert group.get("weight_decay", 0) == (QUICK.weight_decay if matrix else 0)


def test_without_layer_decay_the_usual_groups_are_used():
    head = make()
    assert head.parameter_groups(head.build(shapes(head))) is None


def test_smoothing_is_torchs_and_touches_training_alone():
    torch.manual_seed(0)
    layer = Supervision(4, 1, classification=True, smoothing=0.2)
    features, labels = torch.randn(9, 4), torch.randint(0, 2, (9, 1)).float()
    logits = torch.cat([torch.zeros(9, 1), layer(features)], dim=1)
    classes = labels[:, 0].long()
    expected = F.cross_entropy(logits, classes, label_smoothing=0.2)
    assert layer.loss(features, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    expected = F.cross_entropy(logits, classes)
    assert layer.eval().loss(features, labels).item() == pytest.approx(expected.item(), rel=1e-6)


def test_balanced_classes_weigh_alike_in_training_and_as_prevalence_asks_on_validation():
    torch.manual_seed(0)
    layer = Supervision(4, 1, classification=True, balanced=True)
    features, labels = torch.randn(8, 4), torch.tensor([[1.0], *[[0.0]] * 7])
    layer.fit(labels.numpy())
    error = F.binary_cross_entropy_with_logits(layer(features), labels, reduction="none")
    assert layer.loss(features, labels).item() == pytest.approx(error.mean().item(), rel=1e-6)
    halves = (error[:1].mean() + error[1:].mean()) / 2
    assert layer.eval().loss(features, labels).item() == pytest.approx(halves.item(), rel=1e-6)


def test_drop_path_skips_blocks_in_training_alone():
    head = make(drop_path=0.9)
    encoders = build(head)
    x = torch.randn(4, 12, 20)
    loose = encoders.train().ecg(x).pooled
    assert not torch.equal(loose, encoders.ecg(x).pooled)
    assert torch.equal(encoders.eval().ecg(x).pooled, encoders.ecg(x).pooled)
    plain = build(make())
    plain.load_state_dict(encoders.state_dict())
    assert torch.equal(plain.train().ecg(x).pooled, encoders.eval().ecg(x).pooled)


def test_pooled_features_are_read_as_they_are():
    head = make(pooling="features")
    encoders = head.build(shapes(head)).eval()
    features = encoders.ecg(torch.randn(4, 12, 20))
    assert torch.equal(encoders.pooling(features), features.pooled)
    assert not list(encoders.pooling.parameters())


def test_attention_pooling_is_one_query_over_the_patch_tokens():
    head = make()
    encoders = head.build(shapes(head)).eval()
    tokens = encoders.ecg(torch.randn(4, 12, 20)).tokens.double()
    pooling = encoders.pooling.double()
    w, b = pooling.attention.in_proj_weight, pooling.attention.in_proj_bias
    q, k, v = (tokens @ m.T + c for m, c in zip(w.chunk(3), b.chunk(3), strict=True))
    q = tokens.mean(1, keepdim=True) @ w.chunk(3)[0].T + b.chunk(3)[0]
    seen = (q @ k.mT / 16**0.5).softmax(-1) @ v  # width 16 is one head
    seen = pooling.norm(pooling.attention.out_proj(seen[:, 0]))
    torch.testing.assert_close(pooling(Features(None, tokens)), seen)


class Flat(torch.nn.Module):
    """An encoder without tokens, as convolutional networks are."""

    width = 24

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(12 * 20, self.width)

    def forward(self, x):
        return Features(self.linear(x.flatten(1)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlatMethod(ToyMethod):
    """A method with an encoder without tokens."""

    def build(self, shapes):
        return Encoders(ecg=Flat())


def test_an_encoder_without_tokens_and_blocks_is_fine_tuned(store):
    settings = {"pooling": "attention", "layer_decay": 0.5, "drop_path": 0.1, "smoothing": 0.1}
    head = make(CVD(only=("AF",)), FlatMethod(), **settings)
    assert head.parameter_groups(head.build(shapes(head))) is None
    (folder,) = bring(store, head)
    assert np.isfinite(np.load(folder / "test.npy")).all()


def test_the_norm_of_a_replaced_pooling_stays_out(store):
    method = ToyMethod(ecg_encoder=ToyECG(pool="mean-then-norm"))
    head = make(method=method)
    folder, start = bring(store, head, head.method)
    before = load_file(start / "weights.safetensors")
    after = load_file(folder / "weights.safetensors")
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {"ecg.pool_norm.weight", "ecg.pool_norm.bias"}


def test_mmcls_fine_tuned_model_has_the_papers_number_of_parameters():
    method = registry().method("mae@mmcl").on_track("paper", "full")
    head = FineTune(method=bind(method, cohort=COHORT, seed=0), modality="ecg", task=CVD())
    with torch.device("meta"):
        encoders = head.build({"ecg": (12, 5000)})
    for module in head.frozen(encoders):
        module.requires_grad_(False)
    trained = sum(p.numel() for p in encoders.parameters() if p.requires_grad)
    output = sum(p.numel() for p in encoders.supervision.parameters())
    two_classes = 2 * 384 + 2  # a softmax of two, where one disease here has one logit
    assert trained - output + two_classes == 6_071_042


# ------------------------------------------------------------------------------ predictions


def test_predictions_are_the_mean_windows_output_in_the_targets_unit(store):
    head = make()
    (folder,) = bring(store, head)
    cohort, history = data(store), json.loads((folder / "history.json").read_text())
    encoders = build(head)
    encoders.load_state_dict(load_file(folder / "weights.safetensors"))
    (view,) = bring(store, head.views()["ecg"])
    x = torch.from_numpy(np.load(view / "array.npy")[cohort.rows("test")])
    with torch.no_grad():
        pool = lambda window: encoders.pooling(encoders.eval().ecg(window))  # noqa: E731
        out = encoders.supervision((pool(x[..., :20]) + pool(x[..., 20:])) / 2)
    expected = out.numpy() * history["deviation"] + history["mean"]
    np.testing.assert_allclose(np.load(folder / "test.npy"), expected, rtol=1e-4)
    train = cohort.phenotypes.iloc[cohort.rows("train")]
    np.testing.assert_allclose(history["mean"], train.mean())


# ------------------------------------------------------------------------------ balance


def test_a_static_sample_has_all_positives_and_as_many_others():
    rng = np.random.default_rng(0)
    positive, rank = rng.random(500) < 0.1, rng.random(500)
    kept = matched(positive, rank)
    assert kept[positive].all()
    assert kept[~positive].sum() == positive.sum()
    assert rank[kept & ~positive].max() < rank[~kept].min()


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_a_sample_that_cannot_be_balanced_is_everybody(share):
    positive = np.arange(10) < 10 * share
    assert matched(positive, np.linspace(0, 1, 10)).all()


def test_chunks_are_eccls():
    """Seven passes for 1,573 positives among 24,908 people (Ding et al.'s code)."""
    positive = np.random.default_rng(0).permutation(24_908) < 1573
    parts = chunks(positive)
    assert len(parts) == 7
    assert all(positive[part].sum() == 1573 for part in parts)
    others = [part[~positive[part]] for part in parts]
    assert [len(own) for own in others[:-1]] == [2 * 1573] * 6
    assert np.array_equal(np.concatenate(others), np.flatnonzero(~positive))


@pytest.mark.parametrize("positives", [0, 4, 9, 10])
def test_few_people_make_one_chunk(positives):
    parts = chunks(np.arange(10) < positives)
    assert len(parts) == 1
    assert np.array_equal(parts[0], np.arange(10))


def test_an_epoch_passes_through_its_parts_in_turn():
    labels = np.r_[np.ones(3), np.zeros(14)]
    parts = shown("chunks", labels, np.zeros(17))
    order = Order("digest", parts, 4)
    assert order.length == 3 + 6 + 3 + 8
    seen = np.concatenate([order.at(step) for step in range(10)])
    first, second = seen[:20], seen[20:]
    for epoch in (first, second):
        assert sorted(epoch[:9]) == list(range(9))
        assert sorted(epoch[9:]) == [0, 1, 2, *range(9, 17)]
    assert not np.array_equal(first, second)


def labels_and_rank(head, store):
    """Return a disease's labels and the ranks of the training people."""
    cohort = data(store)
    train = cohort.rows("train")
    labels = head.task.targets(cohort).to_numpy()[train, 0]
    return labels, balance_rank(cohort.hash_id.iloc[train])


def people_shown(head, store, monkeypatch):
    """Return the training people that a head was shown, and the labels of its batches."""
    found, labels, batch = [], [], People.batch

    def watched(self, chosen, device, **state):
        made = batch(self, chosen, device, **state)
        if state["training"]:
            found.append(self.rows[chosen])
            labels.append(made.labels.numpy())
        return made

    monkeypatch.setattr(People, "batch", watched)
    bring(store, head)
    return np.concatenate(found), np.concatenate(labels)


def balanced(balance, task, **more):
    recipe = dataclasses.replace(QUICK, updates=0, epochs=2, balance=balance)
    return make(task, recipe=recipe, **more)


def test_training_on_a_static_sample(store, monkeypatch):
    head = balanced("static", CVD(only=("AF",)))
    rows, seen = people_shown(head, store, monkeypatch)
    again, _ = people_shown(head.replace(seed=1), store, monkeypatch)
    labels, rank = labels_and_rank(head, store)
    sample = data(store).rows("train")[matched(labels == 1, rank)]
    assert len(sample) == 2 * labels.sum()
    assert {*rows} <= {*sample}
    assert {*again} <= {*sample}, "another replicate is shown the same people"
    assert 0.4 < seen.mean() < 0.6


def counts_of(head, store):
    """Return what a head says it was fitted on."""
    (folder,) = bring(store, head)
    return json.loads((folder / "fit.json").read_text())


def test_those_left_out_of_a_static_sample_are_not_counted(tmp_path):
    store = Store(tmp_path / "store")
    labels, _ = labels_and_rank(balanced("", CVD(only=("AF",))), store)
    positives = int(labels.sum())
    everybody = {"people": len(labels), "positives": positives}
    expected = {
        "": everybody,
        "chunks": everybody,
        "static": {**everybody, "people": 2 * positives},
    }
    for balance, count in expected.items():
        assert counts_of(balanced(balance, CVD(only=("AF",))), store) == {"AF": count}
    values = [counts_of(balanced(balance, Phenotype()), store) for balance in ("", "static")]
    assert values[0] == values[1], "values are not balanced"


def test_training_in_chunks_and_values_are_not_balanced(store, monkeypatch):
    _, labels = people_shown(balanced("chunks", CVD(only=("AF",))), store, monkeypatch)
    assert 0.28 < labels.mean() < 0.4, "a third of an epoch are positives"
    values = [people_shown(balanced(b, Phenotype()), store, monkeypatch) for b in ("", "static")]
    assert len(set(values[0][0])) == len(set(values[1][0])) > 140


def test_balance_is_for_one_disease(store):
    head = balanced("static", CVD())
    bring(store, *head.inputs)
    with pytest.raises(UserError, match="one disease at a time"):
        train(head, Folders(store))


class Folders:
    """A context over plain folders, which may be killed."""

    device, workers = "cpu", 1

    def __init__(self, store, folder=Path(), stop_after=None):
        self.store, self.stop_after = store, stop_after
        self.out, self.resume = folder / "out", folder / "resume"

    def open(self, stage):
        return self.store.path(stage.digest)

    def progress(self, done, total, unit="", note=""):
        if self.stop_after is not None and done > self.stop_after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("balance", ["static", "chunks"])
def test_balanced_training_resumes_where_it_was_killed(store, tmp_path, balance):
    head = balanced(balance, CVD(only=("AF",)))
    bring(store, *head.inputs)
    for name in ("whole", "cut"):
        for part in ("out", "resume"):
            (tmp_path / name / part).mkdir(parents=True)
    train(head, Folders(store, tmp_path / "whole"))
    steps = Order("", shown(balance, *labels_and_rank(head, store)), 16).length // 16
    with pytest.raises(KeyboardInterrupt):
        train(head, Folders(store, tmp_path / "cut", stop_after=steps + 1))
    assert not list((tmp_path / "cut" / "out").iterdir())
    train(head, Folders(store, tmp_path / "cut"))
    weights = [
        load_file(tmp_path / name / "out" / "weights.safetensors") for name in ("whole", "cut")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

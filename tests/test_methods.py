"""What holds for every method in the registry, in every track it is part of."""

import dataclasses
import functools
import json
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
import toy
from safetensors.torch import load_file, save_file

from benchmark.api import Batch, Cohort, Recipe, View
from benchmark.cohorts.cohort import CohortData
from benchmark.cohorts.phenotypes import PHENOTYPE_NAMES
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.engine.store import Store
from benchmark.engine.training import build, load_encoders, train
from benchmark.registry import TRACKS, registry
from benchmark.stage import Stage, bind, has_field, rewrite

COHORT = SimulatedCohort(people=300)
BOUND = {"cohort": COHORT, "seed": 0, "task": registry().task("phenotype"), "fraction": 1.0}
CASES = [(t, n) for t in TRACKS for n, e in registry().methods.items() if t in e.variant.tracks]
HARMONISED = [name for track, name in CASES if track == "harmonised"]
PHENOTYPES = pd.DataFrame(columns=PHENOTYPE_NAMES)
PEOPLE = 30

every_method = pytest.mark.parametrize(("track", "name"), CASES)


def make(name, scale="smoke", track="harmonised", **more):
    entry = registry().method(name)
    return bind(entry.on_track(track, scale), **BOUND | more)


def parts(method):
    """A method and every method it starts from."""
    found = [method]
    for stage in method.initial_weights().values():
        found += parts(stage)
    return found


def stages():
    """Every stage that leaves weights, once, under the first name that leads to it.

    The networks of the papers are slow: what differs from another stage in numbers alone waits for
    the night.
    """
    found, kinds = {}, set()
    for track, name in CASES:
        for stage in parts(make(name, track=track)):
            if stage.digest in found:
                continue
            network = type(getattr(stage, "cmr_encoder", None))
            kind = (track, type(stage), network, *stage.initial_weights())
            late = [pytest.mark.nightly] if track == "paper" and kind in kinds else []
            kinds.add(kind)
            label = f"{track}-{name}-{type(stage).__name__}"
            found[stage.digest] = pytest.param(stage, id=label, marks=late)
    return list(found.values())


STAGES = stages()
every_stage = pytest.mark.parametrize("stage", STAGES)
every_training = pytest.mark.parametrize("stage", [p for p in STAGES if p.values[0].trained])


def values_for(name, view, people, generator):
    """Invented entries of a view (people, *shape)."""
    if name != "r_peaks":
        return torch.rand(people, *view.shape, generator=generator)
    peaks = torch.full((people, *view.shape), float("nan"))
    peaks[:, :11] = torch.arange(11) * 0.9 + torch.rand(people, 1, generator=generator)
    return peaks


def batch_for(method, people=6, training=True):
    generator = torch.Generator().manual_seed(1)
    views = {n: values_for(n, v, people, generator) for n, v in method.views().items()}
    labels = None
    if (table := method.labels(SimpleNamespace(phenotypes=PHENOTYPES))) is not None:
        labels = torch.randn(people, len(table.columns), generator=generator)
    return Batch(views, training=training, progress=0.5, labels=labels)


# ---------------------------------------------------------------------------- identity


@every_method
def test_identity_is_the_same_for_equal_fields(track, name):
    method = make(name, track=track)
    assert method.digest == make(name, track=track).digest
    changed = make(name, track=track, seed=1)
    assert changed.digest != method.digest
    assert changed.recipe_digest == method.recipe_digest


@every_method
def test_views_are_part_of_the_identity(track, name):
    method = make(name, track=track)
    assert set(method.views().values()) <= set(method.inputs)


@every_method
def test_a_method_is_called_what_it_was_asked_for_by(track, name):
    method = make(name, track=track)
    assert method.group == name
    assert method.label == (name if not method.uses_labels else f"{name} ({learned(method)} 1)")
    assert method.replace(variant="").digest == method.digest


def learned(method):
    return "phenotype" if has_field(method, "task") else "labels"


@every_method
def test_fields_hold_only_what_a_digest_may(track, name):
    method = make(name, track=track)
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        assert not isinstance(value, list | dict), field.name
    assert isinstance(method, Stage)


def test_label_use_is_derived_from_the_stages():
    using = {name for track, name in CASES if make(name, track=track).uses_labels}
    eccl = {"eccl", "eccl-wo-ssl", "eccl-triplet", "eccl-resnet50", "eccl-vit", "eccl-wo-task-loss"}
    dual = {"dual-phase", "dual-phase-3d-ed", "dual-phase-2d", "dual-phase-2d-time"}
    assert using == eccl | dual | {"mmcl-label-frozen"}


# ---------------------------------------------------------------------------- networks


@every_training
def test_every_trainable_parameter_receives_a_gradient(stage):
    encoders = build(stage).train()
    for module in stage.frozen(encoders):
        module.eval().requires_grad_(False)
    torch.manual_seed(0)
    with torch.no_grad():  # what starts at zero lets no gradient through at the very first step
        for parameter in encoders.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    sum(stage.loss(encoders, batch_for(stage)).values()).backward()
    trained = {n: p.grad for n, p in encoders.named_parameters() if p.requires_grad}
    assert trained
    # The keys' bias shifts all scores of a softmax alike: its gradient is zero by symmetry.
    assert not [n for n, g in trained.items() if g is None or not g.abs().sum() > 0]


@every_stage
def test_features_do_not_depend_on_the_batch(stage):
    encoders = build(stage).eval()
    for modality in filter(encoders.has, stage.views()):
        view = stage.views()[modality]
        x = torch.rand(3, *view.shape, generator=torch.Generator().manual_seed(0))
        if view.crops() is not None:
            x = x[..., view.crops()[0]]
        with torch.no_grad():
            together = getattr(encoders, modality)(x).pooled
            alone = torch.cat([getattr(encoders, modality)(one[None]).pooled for one in x])
        # Sums over a batch are taken in another order: deep convolutions differ in the fifth digit.
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)


@every_stage
def test_weights_survive_saving_and_loading(stage, tmp_path):
    weights = {}
    for name, value in build(stage).state_dict().items():
        noise = torch.rand(value.shape) if value.is_floating_point() else 1
        weights[name] = (value + noise).contiguous()
    save_file(weights, tmp_path / "weights.safetensors")
    loaded = load_encoders(stage, tmp_path)
    assert same(loaded.state_dict(), weights)
    assert not any(module.training for module in loaded.modules())


# ---------------------------------------------------------------------------- training


class Invented:
    """A context in which cohort, views and pretrained weights are made up on the spot."""

    device, workers = "cpu", 1

    def __init__(self, folder):
        self.folder = folder
        self.people = folder / "people"
        self.people.mkdir(parents=True)
        toy.ToyCohort(number=PEOPLE).run(SimpleNamespace(out=self.people))
        self.test = CohortData(self.people).rows("test")
        assert len(self.test)
        self.out = self.resume = None
        self.poisoned = False

    def open(self, stage):
        if isinstance(stage, Cohort):
            return self.people
        where = self.folder / f"{stage.digest}-{self.poisoned}"
        if not where.exists():
            where.mkdir()
            (self._view if isinstance(stage, View) else self._weights)(stage, where)
        return where

    def _view(self, view, where):
        generator = torch.Generator().manual_seed(2)
        name = "r_peaks" if type(view).__name__ == "RPeaks" else ""
        values = values_for(name, view, PEOPLE, generator).numpy()
        if self.poisoned:
            values[self.test] = 0.3 if name else np.nan
        np.save(where / "array.npy", values)

    def _weights(self, stage, where):
        weights = {k: v.contiguous() for k, v in build(stage).state_dict().items()}
        save_file(weights, where / "weights.safetensors")

    def progress(self, done, total, unit="", note=""):
        pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train a stage for two updates, once for every way it is asked for."""
    context = Invented(tmp_path_factory.mktemp("invented"))

    @functools.cache
    def once(stage, poisoned=False):
        context.poisoned = poisoned
        number = len(list(context.folder.glob("run-*")))
        context.out = context.resume = context.folder / f"run-{number}"
        context.out.mkdir()
        recipe = stage.recipe
        if stage.trained:
            brief = {"updates": 2, "rounds": 1, "epochs": 0, "patience": 0, "batch_size": 3}
            recipe = recipe.replace(**brief, learning_rate=1e-3)
        watched = Watched(stage)
        with mock.patch.object(type(stage), "loss", watched.loss):
            train(stage.replace(recipe=recipe), context)
        watched.weights = load_file(context.out / "weights.safetensors")
        watched.history = json.loads((context.out / "history.json").read_text())["history"]
        return watched

    return once


class Watched:
    """What is seen of a training: the state at its first step, and who was in training mode."""

    def __init__(self, stage):
        self.stage, self.original = stage, type(stage).loss
        self.before, self.frozen, self.modes = None, set(), set()

    @property
    def loss(self):
        watched = self

        def loss(stage, encoders, batch):
            tops = stage.frozen(encoders)
            if watched.before is None:
                watched.before = {k: v.clone() for k, v in encoders.state_dict().items()}
                for name, module in encoders.named_modules():
                    if module in tops:
                        watched.frozen.update(f"{name}.{k}" for k in module.state_dict())
            if batch.training:
                frozen = {module for top in tops for module in top.modules()}
                leaves = [m for m in encoders.modules() if not [*m.children()]]
                watched.modes.update((leaf in frozen, leaf.training) for leaf in leaves)
            return watched.original(stage, encoders, batch)

        return loss


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@every_stage
def test_test_people_never_reach_training_and_a_seed_gives_one_curve(trained, stage):
    clean, poisoned = trained(stage), trained(stage, poisoned=True)
    assert same(clean.weights, poisoned.weights)
    assert clean.history == poisoned.history


@pytest.mark.nightly
@every_training
def test_another_seed_gives_another_curve(trained, stage):
    assert trained(stage).history != trained(stage.replace(seed=1)).history


@every_training
def test_frozen_parts_stay_bit_identical_and_the_rest_moves(trained, stage):
    watched = trained(stage)
    moved = {k for k, v in watched.weights.items() if not torch.equal(v, watched.before[k])}
    assert not moved & watched.frozen
    learnable = {n for n, p in build(stage).named_parameters() if p.requires_grad}
    assert learnable - watched.frozen <= moved
    assert watched.modes == ({(True, False), (False, True)} if watched.frozen else {(False, True)})


# ---------------------------------------------------------------------------- learning


MOST_UPDATES = 1_500  # about two minutes of the slowest stage, the ECG autoencoder

LEARNERS = [  # the partners of permuted pairs are strangers: there is nothing to learn
    n for n in HARMONISED if make(n, "tiny").trained and n != "mmcl-permuted-pairs"
]


@pytest.fixture(scope="module")
def nightly_store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("nightly") / "store")


@pytest.mark.nightly
@pytest.mark.parametrize("name", LEARNERS)
def test_every_method_lowers_its_own_validation_objective(nightly_store, name):
    def cut(spec):
        if not isinstance(spec, Recipe) or spec.updates <= MOST_UPDATES:
            return {}
        return {"updates": MOST_UPDATES}

    cohort = registry().cohort("simulated").at("tiny")
    method = rewrite(make(name, "tiny", cohort=cohort), cut)
    toy.bring(nightly_store, method)
    for stage in parts(method):
        record = json.loads((nightly_store.path(stage.digest) / "history.json").read_text())
        losses = [entry["validation"] for entry in record["history"]]
        assert min(losses) < losses[0], f"{stage.label}: {losses}"


# ---------------------------------------------------------------------------- single methods


def test_methods_share_one_ecg_autoencoder():
    mae = make("mae")
    assert make("eccl").ecg.digest == mae.digest
    assert make("dual-phase").ecg.digest == mae.digest
    assert make("mmcl").ecg.digest == mae.digest
    assert make("ptacl").ecg.digest == mae.digest
    assert make("ptacl-global").cmr.digest == make("ptacl").cmr.digest
    assert make("mmcl-wo-mdm").cmr.digest == make("mmcl").cmr.digest


@pytest.mark.parametrize(
    ("method", "autoencoder"),
    [
        ("mmcl", "mae@mmcl"),
        ("mmcl-vit", "mae@mmcl"),
        ("eccl", "mae@eccl"),
        ("eccl-resnet50", "mae@eccl"),
        ("ptacl", "mae@ptacl"),
        ("ptacl@retrieval", "mae@ptacl"),
        ("dual-phase", "mae@dual-medium"),
        ("dual-phase-2d", "mae@dual-medium"),
    ],
)
def test_each_paper_has_one_ecg_autoencoder(method, autoencoder):
    assert make(method, "full", "paper").ecg.digest == make(autoencoder, "full", "paper").digest


def test_cmr_supervised_is_a_resnet50_on_three_phases():
    method = make("cmr-supervised", "tiny")
    assert method.modalities == ("cmr",)
    assert method.views()["cmr"].shape == (1, 3, 48, 48)
    parameters = build(method).cmr.parameters()
    # torchvision's ResNet50 has 25_557_032, of which 2_049_000 are the 1000-class layer.
    assert sum(p.numel() for p in parameters) == 25_557_032 - 2_049_000


@pytest.mark.parametrize("name", ["cmr-mae", "cmr-simclr", "cmr-supervised"])
def test_images_are_augmented_in_fine_tuning_too(name):
    method = make(name)
    training, validation = batch_for(method), batch_for(method, training=False)
    assert not torch.equal(method.finetuned().cmr_input(training), training.cmr)
    assert torch.equal(method.finetuned().cmr_input(validation), validation.cmr)


def test_variants_differ_where_their_papers_say():
    assert make("ptacl").local_weight == 1
    assert make("ptacl-global").local_weight == 0
    assert "r_peaks" not in make("ptacl-global").views()
    assert make("mmcl-wo-mdm").ecg is None


def test_harmonised_methods_share_backbone_recipe_and_augmentation():
    two_tower = [make(n, "tiny") for n in HARMONISED if registry().method(n).cls.two_tower]
    for field in ("ecg_encoder", "ecg_augment", "cmr_augment", "recipe", "hidden", "embedding"):
        assert len({getattr(m, field).__repr__() for m in two_tower}) == 1, field
    widths = {(m.cmr_encoder.width, m.cmr_encoder.depth, m.cmr_encoder.heads) for m in two_tower}
    assert len(widths) == 1


def test_ptacl_freezes_embeddings_and_first_blocks():
    method = make("ptacl")
    encoders = build(method)
    frozen = {id(p) for m in method.frozen(encoders) for p in m.parameters()}
    names = {n for n, p in encoders.named_parameters() if id(p) in frozen}
    assert {n.split(".")[1] for n in names} == {"embed", "blocks"}
    assert {n.split(".")[2] for n in names if ".blocks." in n} == {"0"}

"""What holds for methods in particular; what holds for all is in `test_conformance`."""

import json

import pytest
import torch
import toy

from benchmark.api import Batch, Recipe
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.engine.store import Store
from benchmark.engine.training import build
from benchmark.registry import TRACKS, registry
from benchmark.stage import bind, has_field, rewrite

COHORT = SimulatedCohort(people=300)
BOUND = {"cohort": COHORT, "seed": 0, "task": registry().task("phenotype"), "fraction": 1.0}
CASES = [(t, n) for t in TRACKS for n, e in registry().methods.items() if t in e.variant.tracks]
HARMONISED = [name for track, name in CASES if track == "harmonised"]

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


def batch_for(method, people=6, training=True):
    generator = torch.Generator().manual_seed(1)
    shapes = {name: view.shape for name, view in method.views().items()}
    views = {n: torch.rand(people, *shape, generator=generator) for n, shape in shapes.items()}
    return Batch(views, training=training, progress=0.5)


# ---------------------------------------------------------------------------- identity


@every_method
def test_a_method_is_called_what_it_was_asked_for_by(track, name):
    method = make(name, track=track)
    assert method.group == name
    assert method.label == (name if not method.uses_labels else f"{name} ({learned(method)} 1)")
    assert method.replace(variant="").digest == method.digest


def learned(method):
    return "phenotype" if has_field(method, "task") else "labels"


def test_label_use_is_derived_from_the_stages():
    using = {name for track, name in CASES if make(name, track=track).uses_labels}
    eccl = {"eccl", "eccl-wo-ssl", "eccl-triplet", "eccl-resnet50", "eccl-vit", "eccl-wo-task-loss"}
    dual = {"dual-phase", "dual-phase-3d-ed", "dual-phase-2d", "dual-phase-2d-time"}
    assert using == eccl | dual | {"mmcl-label-frozen"}


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


@pytest.mark.parametrize(
    "name", ["mae", "cmr-mae", "simclr", "mmcl", "ptacl", "cmae-vit", "dual-phase"]
)
def test_the_scale_of_one_gpu_trains(name):
    cohort = registry().cohort("simulated").at("small")
    method = make(name, "small", cohort=cohort)
    encoders = build(method)
    sum(method.loss(encoders, batch_for(method, people=2)).values()).backward()
    gradients = [p.grad for p in encoders.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)


def test_ptacl_freezes_embeddings_and_first_blocks():
    method = make("ptacl")
    encoders = build(method)
    frozen = {id(p) for m in method.frozen(encoders) for p in m.parameters()}
    names = {n for n, p in encoders.named_parameters() if id(p) in frozen}
    assert {n.split(".")[1] for n in names} == {"embed", "blocks"}
    assert {n.split(".")[2] for n in names if ".blocks." in n} == {"0"}

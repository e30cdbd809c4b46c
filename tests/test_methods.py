"""What holds for every method in the registry."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from benchmark.api import Batch
from benchmark.cohorts.phenotypes import PHENOTYPE_NAMES
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.engine.training import build
from benchmark.listing import count_parameters
from benchmark.registry import registry
from benchmark.stage import Stage, bind
from methods.blocks.backbones import CMRSwinT, CMRViT, ECGViT
from methods.blocks.masked_autoencoder import Decoder
from methods.blocks.vit import normalised_projector, patchify, projector

COHORT = SimulatedCohort(people=300)
BOUND = {"cohort": COHORT, "seed": 0, "task": registry().task("phenotype"), "fraction": 1.0}
NAMES = sorted(registry().methods)
PHENOTYPES = pd.DataFrame(columns=PHENOTYPE_NAMES)
TRAINED = [n for n in NAMES if registry().method(n).on_track("harmonised", "smoke").trained]


def make(name, scale="smoke"):
    entry = registry().method(name)
    return bind(entry.on_track("harmonised", scale), **BOUND)


def batch_for(method, people=6, training=True):
    generator = torch.Generator().manual_seed(1)
    views = {}
    for name, view in method.views().items():
        if name == "r_peaks":
            peaks = torch.full((people, *view.shape), float("nan"))
            peaks[:, :11] = torch.arange(11) * 0.9 + torch.rand(people, 1, generator=generator)
            views[name] = peaks
        else:
            views[name] = torch.rand(people, *view.shape, generator=generator)
    labels = None
    if (table := method.labels(SimpleNamespace(phenotypes=PHENOTYPES))) is not None:
        labels = torch.randn(people, len(table.columns), generator=generator)
    return Batch(views, training=training, progress=0.5, labels=labels)


def parts(method):
    """A method and every method it starts from."""
    found = [method]
    for stage in method.initial_weights().values():
        found += parts(stage)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_identity_is_the_same_for_equal_fields(name):
    assert make(name).digest == make(name).digest
    unbound = registry().method(name).on_track("harmonised", "smoke")
    changed = bind(unbound, **BOUND | {"seed": 1})
    assert changed.digest != make(name).digest
    assert changed.recipe_digest == make(name).recipe_digest


@pytest.mark.parametrize("name", NAMES)
def test_views_are_part_of_the_identity(name):
    method = make(name)
    assert set(method.views().values()) <= set(method.inputs)


@pytest.mark.parametrize("name", TRAINED)
def test_every_trainable_parameter_receives_a_gradient(name):
    for method in parts(make(name)):
        encoders = build(method).train()
        frozen = {id(p) for m in method.frozen(encoders) for p in m.parameters()}
        torch.manual_seed(0)
        sum(method.loss(encoders, batch_for(method)).values()).backward()
        without = [
            n
            for n, p in encoders.named_parameters()
            if p.requires_grad
            and id(p) not in frozen
            and (p.grad is None or not p.grad.abs().sum() > 0)
        ]
        # The keys' bias shifts all scores of a softmax alike: its gradient is zero by symmetry.
        assert not without, f"{method.label}: {without}"


@pytest.mark.parametrize("name", TRAINED)
def test_loss_is_finite_and_follows_the_seed(name):
    method = make(name)
    encoders = build(method)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(sum(method.loss(encoders, batch_for(method)).values()).item())
    assert np.isfinite(losses).all()
    assert losses[0] == losses[1]
    assert losses[0] != losses[2], "augmentation or masking ignores the seed"


@pytest.mark.parametrize("name", NAMES)
def test_features_do_not_depend_on_the_batch(name):
    method = make(name)
    encoders = build(method).eval()
    for modality in method.modalities:
        view = method.views()[modality]
        x = torch.rand(4, *view.shape)
        if view.crops() is not None:
            x = x[..., view.crops()[0]]
        with torch.no_grad():
            together = getattr(encoders, modality)(x).pooled
            alone = torch.cat([getattr(encoders, modality)(x[i : i + 1]).pooled for i in range(4)])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_methods_share_one_ecg_autoencoder():
    mae = make("mae")
    assert make("eccl").ecg.digest == mae.digest
    assert make("dual-phase").ecg.digest == mae.digest
    assert make("mmcl").ecg.digest == mae.digest
    assert make("ptacl").ecg.digest == mae.digest
    assert make("ptacl-global").cmr.digest == make("ptacl").cmr.digest
    assert make("mmcl-wo-mdm").cmr.digest == make("mmcl").cmr.digest


def test_cmr_supervised_is_a_resnet50_on_three_phases():
    method = make("cmr-supervised", "tiny")
    assert method.modalities == ("cmr",)
    assert method.views()["cmr"].shape == (1, 3, 48, 48)
    parameters = build(method).cmr.parameters()
    # torchvision's ResNet50 has 25_557_032, of which 2_049_000 are the 1000-class layer.
    assert sum(p.numel() for p in parameters) == 25_557_032 - 2_049_000


def test_variants_differ_where_their_papers_say():
    assert make("ptacl").local_weight == 1
    assert make("ptacl-global").local_weight == 0
    assert "r_peaks" not in make("ptacl-global").views()
    assert make("mmcl-wo-mdm").ecg is None


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_called_what_it_was_asked_for_by(name):
    method = make(name)
    assert method.label == name
    assert method.replace(variant="").digest == method.digest


def test_harmonised_methods_share_backbone_recipe_and_augmentation():
    two_tower = [make(n, "tiny") for n in NAMES if registry().method(n).cls.two_tower]
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


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("encoder", "parameters"),
    [
        (ECGViT(), 5_363_328),
        (ECGViT(width=768, depth=12, heads=12, seconds=10.0), 85_134_336),
        (ECGViT(width=512, depth=6, heads=8, patch=50), 18_941_952),
        (ECGViT(width=576, depth=12, heads=8, seconds=10.0), 47_925_504),
        (CMRViT(), 12_759_040),
    ],
)
def test_encoders_have_the_papers_parameter_counts(encoder, parameters):
    assert count(encoder.build()) == parameters


def test_mmcl_decoder_has_the_papers_parameter_count():
    encoder = ECGViT().build()
    assert count(Decoder().build(encoder, 10_000.0)) == 1_704_548


def test_swin_t_has_the_papers_parameter_count():
    network = CMRSwinT().build()
    assert count(network.trunk.patch_embed.proj) == 76_896
    # torchvision's Swin-T has 28_288_354, of which 769_000 are the 1000-class layer; 47 channels
    # more make 47 x 4 x 4 inputs more of the 96 that embed a patch.
    assert count(network) == 28_288_354 - 769_000 + 47 * 16 * 96


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (projector(384, 512, 128), 262_784),
        (normalised_projector(384, 4096, 256), 2_629_888),
        (normalised_projector(256, 4096, 256), 2_105_600),
        (normalised_projector(384, 8192, 8192), 70_279_168),
    ],
    ids=["mmcl", "byol", "byol-predictor", "barlowtwins"],
)
def test_projectors_have_the_papers_parameter_counts(network, parameters):
    assert count(network) == parameters


@pytest.mark.parametrize("name", NAMES)
def test_parameters_can_be_counted_before_anything_is_bound(name):
    counted = count_parameters(registry().method(name), "smoke")
    assert (counted > 0) == (name not in ("tabular", "ecg-features"))


def test_token_counts():
    assert ECGViT().build().tokens == 300
    assert ECGViT(width=512, depth=1, heads=8, patch=50).build().tokens == 600
    assert CMRViT().build().grid == (13, 7, 7)


def test_patchify_keeps_patches_whole():
    x = torch.arange(2 * 4 * 6).reshape(2, 4, 6)
    patches = patchify(x, (2, 3))
    assert patches.shape == (2, 4, 6)
    assert patches[0, 1].tolist() == x[0, :2, 3:].reshape(-1).tolist()
    assert patches[1, 2].tolist() == x[1, 2:, :3].reshape(-1).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_fields_hold_only_what_a_digest_may(name):
    method = make(name)
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        assert not isinstance(value, list | dict), field.name
    assert isinstance(method, Stage)


def test_label_use_is_derived_from_the_stages():
    using = {n for n in NAMES if make(n).uses_labels}
    eccl = {"eccl", "eccl-wo-ssl", "eccl-triplet", "eccl-wo-task-loss"}
    dual = {"dual-phase", "dual-phase-3d-ed", "dual-phase-2d", "dual-phase-2d-time"}
    assert using == eccl | dual | {"mmcl-label-frozen"}

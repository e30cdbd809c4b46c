"""MMCL as its paper and code have it: its networks, the direction of its loss, its images."""

import math

import numpy as np
import pytest
import torch

from benchmark.api import Batch
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.encoders import Encoders, Features
from benchmark.engine.training import build
from benchmark.registry import registry
from benchmark.stage import bind
from methods.blocks.augment import CMRAugment
from methods.blocks.losses import nt_xent
from methods.cmr_simclr import CMRSimCLR
from methods.mmcl import MMCL

COHORT = SimulatedCohort(people=300)
UNCHANGED = CMRAugment(rotation=0.0, shift=0.0, contrast=0.0, brightness=0.0)


def paper(name, scale="full"):
    return bind(registry().method(name).on_track("paper", scale), cohort=COHORT, seed=0)


def count(module):
    return sum(p.numel() for p in module.parameters())


class FirstNumbers(torch.nn.Module):
    """Features are the first four numbers of the input."""

    width = 4

    def forward(self, x):
        return Features(x.flatten(1)[:, :4])


def clip_terms(weight, ecg, image):
    """Loss of a batch whose features are given, through the method."""
    same = torch.nn.Identity()
    encoders = Encoders(ecg=FirstNumbers(), cmr=FirstNumbers(), project_ecg=same, project_cmr=same)
    method = MMCL(cohort=COHORT, image_weight=weight)
    views = {"ecg": torch.zeros(len(ecg), 12, 5000).double(), "cmr": image[:, None, None]}
    views["ecg"][:, 0, :4] = ecg
    return method.loss(encoders, Batch(views, training=False, progress=0.0))["clip"]


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_lambda_is_the_weight_of_the_image_anchored_direction(weight):
    rng = np.random.default_rng(0)
    ecg, image = rng.normal(size=(2, 6, 4))
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (image, ecg)]
    cosine = unit[0] @ unit[1].T / 0.1
    scores = cosine if weight else cosine.T  # anchors in rows
    expected = np.mean(
        [math.log(sum(math.exp(s - row[i]) for s in row)) for i, row in enumerate(scores)]
    )
    loss = clip_terms(weight, *(torch.from_numpy(z) for z in (ecg, image)))
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_constant_features_leave_log_batch():
    ones = torch.ones(6, 4).double()
    assert clip_terms(0.75, ones, ones).item() == pytest.approx(math.log(6), rel=1e-9)


def test_networks_have_the_papers_sizes():
    with torch.device("meta"):
        encoders = paper("mmcl").build({})
    assert count(encoders.ecg) == 5_363_328 + 301 * 384
    assert count(encoders.cmr) == 23_508_032
    assert count(encoders.project_ecg) == 262_784
    assert count(encoders.project_cmr) == 1_114_752


def test_nothing_is_frozen_and_everything_pretrained_is_loaded():
    method = paper("mmcl", "smoke")
    encoders = build(method)
    assert method.frozen(encoders) == []
    for part, source in method.initial_weights().items():
        getattr(encoders, part).load_state_dict(getattr(build(source), part).state_dict())
    pretrained = build(method.ecg).ecg
    # The table goes on from the autoencoder's; the norm of the pooled features starts afresh.
    assert encoders.ecg.embed.positions.requires_grad
    torch.testing.assert_close(encoders.ecg.embed.positions, pretrained.embed.positions)
    assert encoders.ecg.norm is None
    assert set(paper("mmcl-wo-mdm").initial_weights()) == {"cmr"}


def test_without_masked_modelling_positions_start_random():
    table = build(paper("mmcl-wo-mdm", "smoke")).ecg.embed.positions
    assert table.requires_grad
    assert table.std().item() == pytest.approx(0.02, rel=0.1)


def test_variants_share_what_they_start_from():
    assert paper("mmcl").ecg.digest == paper("mae@mmcl").digest == paper("mmcl-vit").ecg.digest
    assert paper("mmcl").cmr.digest == paper("mmcl-wo-mdm").cmr.digest
    vit = paper("mmcl-vit")
    assert vit.cmr.cmr_encoder == vit.cmr_encoder != paper("mmcl").cmr_encoder


@pytest.mark.parametrize("track", ["harmonised", "paper"])
def test_image_encoder_sees_what_its_pretraining_saw(track):
    entry = registry().method("mmcl")
    method = bind(entry.on_track(track, "smoke"), cohort=COHORT, seed=0)
    assert method.views()["cmr"].digest == method.cmr.views()["cmr"].digest
    assert method.views()["cmr"].shape[:2] == (1, 3)


def test_one_in_twenty_second_views_is_left_alone():
    x = torch.rand(5, 1, 3, 8, 8)
    method = CMRSimCLR(second_probability=0.0, cmr_augment=UNCHANGED.replace(flip=1.0))
    same = torch.nn.Identity()
    loss = method.loss(Encoders(cmr=FirstNumbers(), contrast=same), Batch({"cmr": x}, True, 0.0))
    flipped, untouched = (FirstNumbers()(z).pooled for z in (x.flip(-1), x))
    torch.testing.assert_close(loss["nt_xent"], nt_xent(flipped, untouched, 0.1))

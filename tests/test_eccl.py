"""ECCL and its re-implementation of the cross-modal autoencoder: what the paper fixes."""

import math

import numpy as np
import pytest
import torch

from benchmark.api import Batch
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.engine.training import build
from benchmark.planning import Request, plan
from benchmark.registry import registry
from benchmark.stage import bind, topological

COHORT = SimulatedCohort(people=300)
PHENOTYPE, CVD = registry().task("phenotype"), registry().task("cvd")
ECCL = ("eccl", "eccl-wo-ssl", "eccl-triplet", "eccl-resnet50", "eccl-vit")


def make(name, scale="smoke", track="paper", task=PHENOTYPE, **fields):
    unbound = registry().method(name).on_track(track, scale).replace(**fields)
    return bind(unbound, cohort=COHORT, seed=0, task=task, fraction=1.0)


def batch_for(method, labels, people=5, training=False):
    generator = torch.Generator().manual_seed(0)
    shapes = {name: view.shape for name, view in method.views().items()}
    views = {n: torch.rand(people, *shape, generator=generator) for n, shape in shapes.items()}
    return Batch(views, training=training, progress=0.5, labels=labels)


def encoded(method, encoders, batch):
    """Features and projections of both modalities, as float64 arrays."""
    found = {}
    for modality in ("ecg", "cmr"):
        x = getattr(method, f"{modality}_input")(batch)
        pooled = getattr(encoders, modality)(x).pooled
        found[modality] = pooled.double().numpy()
        shared = getattr(encoders, f"project_{modality}")(pooled)
        found[f"project_{modality}"] = shared.double().numpy()
    return found


def clip(u, v, temperature):
    u, v = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (u, v))
    logits = u @ v.T / temperature
    own = np.diag(logits)
    both = (np.log(np.exp(m).sum(1)) - own for m in (logits, logits.T))
    return sum(term.mean() for term in both) / 2


# ---------------------------------------------------------------------------- stages


def trainings(methods, task, track="paper"):
    request = Request(
        methods=methods, tasks=(task,), track=track, scale="smoke", fractions=(1.0, 0.1)
    )
    return topological([job.score for job in plan(request).jobs])


def of_kind(stages, kind):
    return [stage for stage in stages if type(stage).__name__ == kind]


def test_one_guide_and_one_autoencoder_serve_every_alignment():
    stages = trainings(ECCL, "phenotype")
    guides = {type(s.cmr_encoder).__name__: s for s in of_kind(stages, "CMRLabelled")}
    assert set(guides) == {"CMRSwinT", "CMRResNet50", "CMRFramesViT"}
    assert len(of_kind(stages, "CMRLabelled")) == 3 * 2, "two label fractions"
    assert len(of_kind(stages, "MAE")) == 1
    assert len(of_kind(stages, "ECCL")) == len(ECCL) * 2
    assert len(of_kind(trainings(ECCL[:3], "phenotype"), "CMRLabelled")) == 2


def test_each_disease_has_its_own_guide_and_model():
    stages = trainings(("eccl", "eccl-triplet"), "cvd")
    models, guides = of_kind(stages, "ECCL"), of_kind(stages, "CMRLabelled")
    assert sorted(s.label for s in models if s.fraction == 1) == sorted(
        f"{name} (cvd/{disease} 1)"
        for name in ("eccl", "eccl-triplet")
        for disease in CVD.target_names
    )
    assert {s.label for s in guides} == {
        f"CMRLabelled (cvd/{disease} {fraction})"
        for disease in CVD.target_names
        for fraction in ("1", "0.1")
    }
    assert {model.cmr.digest for model in models} == {guide.digest for guide in guides}
    assert all(model.cmr.task == model.task for model in models)
    assert len(of_kind(trainings(("eccl",), "cvd", "harmonised"), "ECCL")) == 2


@pytest.mark.parametrize("name", ECCL)
def test_sizes_and_what_is_frozen(name):
    method = make(name, "full", task=registry().task("phenotype-all82"))
    with torch.device("meta"):
        encoders = method.build({})
    assert method.frozen(encoders) == [encoders.cmr]
    count = {n: sum(p.numel() for p in m.parameters()) for n, m in encoders.named_children()}
    assert count["ecg"] == 85_134_336 + 461_568, "with a table of positions that is trained"
    assert count["project_ecg"] == 768 * 256 + 256
    assert count["project_cmr"] == encoders.cmr.width * 256 + 256
    assert count["output"] == 768 * 82 + 82
    assert method.recipe.learning_rate == pytest.approx(8e-5)
    assert method.cmr.recipe.learning_rate == pytest.approx(3.2e-5)


def test_positions_go_on_from_the_autoencoders_table():
    method = make("eccl")
    pretrained, encoders = build(method.ecg), build(method)
    encoders.ecg.load_state_dict(pretrained.ecg.state_dict())
    assert not pretrained.ecg.embed.positions.requires_grad
    assert encoders.ecg.embed.positions.requires_grad
    assert torch.equal(encoders.ecg.embed.positions, pretrained.ecg.embed.positions)


# ---------------------------------------------------------------------------- losses


@torch.no_grad()
def test_loss_is_the_sum_of_alignment_and_squared_error():
    method = make("eccl", task_weight=0.7)
    encoders = build(method).eval()
    labels = torch.randn(5, len(PHENOTYPE.names), generator=torch.Generator().manual_seed(1))
    labels[0, 3] = labels[4, 0] = math.nan
    batch = batch_for(method, labels)
    terms = method.loss(encoders, batch)
    z = encoded(method, encoders, batch)
    weight, bias = (p.double().numpy() for p in encoders.output.linear.parameters())
    error = z["ecg"] @ weight.T + bias - labels.numpy()
    aligned = clip(z["project_ecg"], z["project_cmr"], 0.1)
    assert terms["clip"].item() == pytest.approx(aligned, 1e-4)
    assert terms["task"].item() == pytest.approx(0.7 * np.nanmean(error**2), 1e-4)
    assert terms.keys() == {"clip", "task"}


@torch.no_grad()
def test_triplets_are_euclidean_from_ecg_to_cmr():
    method = make("eccl-triplet")
    encoders = build(method).eval()
    batch = batch_for(method, torch.zeros(5, len(PHENOTYPE.names)))
    z = encoded(method, encoders, batch)
    distance = np.linalg.norm(z["project_ecg"][:, None] - z["project_cmr"][None], axis=-1)
    excess = np.diag(distance)[:, None] - distance + 2.5
    semi_hard = (distance > np.diag(distance)[:, None]) & (excess > 0)
    assert semi_hard.any()
    expected = excess[semi_hard].mean()
    assert method.loss(encoders, batch)["triplet"].item() == pytest.approx(expected, 1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("track", "weight"), [("paper", 1.0), ("harmonised", 9.0)])
def test_a_disease_is_balanced_by_who_is_shown_or_by_weight(track, weight):
    disease = CVD.replace(only=("AF",)) if track == "paper" else CVD
    method = make("eccl", track=track, task=disease)
    for stage in (method, method.cmr):
        assert stage.recipe.balance == ("chunks" if track == "paper" else "")
        output = build(stage).output.train()
        output.fit(np.repeat([[1.0]] + [[0.0]] * 9, len(disease.names), axis=1))
        features = torch.randn(4, output.linear.in_features)
        labels = torch.eye(4)[:, : len(disease.names)]
        labels = torch.nn.functional.pad(labels, (0, len(disease.names) - labels.shape[1]))
        logits = output(features).double().numpy()
        target = labels.numpy()
        entropy = np.logaddexp(0, logits) - target * logits
        expected = np.average(entropy, weights=1 + (weight - 1) * target)
        assert output.loss(features, labels).item() == pytest.approx(expected, 1e-5)


# ---------------------------------------------------------------------------- the autoencoder


def test_the_autoencoder_reconstructs_centred_images_and_whole_ecgs():
    method = make("cmae-vit")
    encoders = build(method).eval()
    batch = batch_for(method, None)
    terms = method.loss(encoders, batch)
    with torch.no_grad():
        z = encoded(method, encoders, batch)
        for modality in ("ecg", "cmr"):
            x = getattr(method, f"{modality}_input")(batch)
            encoder = getattr(encoders, modality)
            decoder = getattr(encoders, f"{modality}_decoder")
            keep = torch.arange(encoder.tokens).expand(len(x), -1)
            target = encoder.patches(x)
            span = (target.min().item(), target.max().item())
            assert span == pytest.approx((0, 1) if modality == "ecg" else (-1, 1), abs=1e-3)
            error = (decoder(encoder.encode(x), keep) - target).double().numpy()
            assert terms[f"mse_{modality}"].item() == pytest.approx((error**2).mean(), 1e-4)
    expected = clip(z["project_ecg"], z["project_cmr"], 0.1)
    assert terms["clip"].item() == pytest.approx(expected, 1e-4)
    assert terms.keys() == {"mse_ecg", "mse_cmr", "clip"}


def test_the_autoencoder_has_the_published_sizes():
    method = make("cmae-vit", "full")
    with torch.device("meta"):
        encoders = method.build({})
    assert encoders.cmr.grid == (1, 8, 8)
    assert encoders.ecg.grid == (12, 50)
    for modality in ("ecg", "cmr"):
        projector = getattr(encoders, f"project_{modality}")
        assert (projector.in_features, projector.out_features) == (768, 256)
        decoder = getattr(encoders, f"{modality}_decoder")
        assert (decoder.embed.out_features, len(decoder.blocks)) == (256, 4)

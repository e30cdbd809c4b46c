"""The ECG methods on the paper track, against their papers."""

import math

import pytest
import torch
from torch import nn

from benchmark.api import Batch
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.encoders import Encoders, Features
from benchmark.engine.training import build
from benchmark.evaluation.finetune import FineTune
from benchmark.registry import registry
from benchmark.stage import bind, rewrite
from methods.blocks import harmonised, paper
from methods.blocks.bases import scaled_rate
from methods.blocks.losses import correlation_over_time
from methods.blocks.masked_autoencoder import visible_places
from methods.blocks.vit import sincos_positions
from methods.mae import MAE

PROTOCOL = {
    "supervised@mmcl": "mmcl",
    "simclr@mmcl": "mmcl",
    "byol@mmcl": "mmcl",
    "clocs@mmcl": "mmcl",
    "barlowtwins@mmcl": "mmcl",
    "mae@mmcl": "mmcl",
    "supervised@eccl": "eccl-finetune",
    "eccl-scratch": "eccl-finetune",
    "mae@eccl": "eccl-finetune",
    "supervised@ptacl": "ptacl-supervised",
    "random-init@ptacl": "ptacl-probe",
    "simclr@ptacl": "ptacl-probe",
    "mae@ptacl": "ptacl-probe",
    "mae@dual-tiny": "dual",
    "mae@dual-small": "dual",
    "mae@dual-medium": "dual",
    "mae@dual-base": "dual",
}


def bound(name, track="paper", scale="smoke"):
    method = registry().method(name).on_track(track, scale)
    return bind(method, cohort=SimulatedCohort(people=300), seed=0)


def made(name, **fields):
    """A method, its networks and eight training recordings, in double precision."""
    method = bound(name).replace(**fields)
    generator = torch.Generator().manual_seed(3)
    ecg = torch.randn(8, *method.views()["ecg"].shape, generator=generator).double()
    return method, build(method).double().train(), Batch({"ecg": ecg}, True, 0.0)


def seeded(function, *arguments):
    torch.manual_seed(5)
    return function(*arguments)


@pytest.mark.parametrize("name", PROTOCOL)
def test_a_recipe_has_its_papers_protocol(name):
    entry = registry().method(name)
    assert entry.variant.tracks == ("paper",)
    assert entry.variant.protocol == PROTOCOL[name]
    assert paper.heads(entry, "smoke")


def test_the_learning_rate_rule():
    assert scaled_rate(1e-5, 128) == pytest.approx(3.2e-4)
    assert bound("mae@mmcl", scale="full").recipe.learning_rate == pytest.approx(3.2e-4)


def test_two_names_of_eccls_scratch_are_one_stage():
    for scale in paper.SCALES:
        assert (
            bound("eccl-scratch", scale=scale).digest
            == bound("supervised@eccl", scale=scale).digest
        )


@pytest.mark.parametrize("name", [n for n in PROTOCOL if n.startswith("mae")])
def test_the_harmonised_track_trains_one_autoencoder_for_all_papers(name):
    theirs = rewrite(MAE.named(name), lambda spec: harmonised.overrides(spec, "smoke"))
    theirs = bind(theirs, cohort=SimulatedCohort(people=300), seed=0)
    assert theirs.digest == bound("mae", "harmonised").digest


def test_fine_tuning_changes_nothing_on_the_harmonised_track():
    for name, entry in registry().methods.items():
        if "harmonised" in entry.variant.tracks:
            method = entry.on_track("harmonised", "tiny")
            method = bind(method, cohort=SimulatedCohort(people=300), seed=0, task="", fraction=1.0)
            assert method.finetuned().digest == method.digest, name


@pytest.mark.parametrize("name", ["mae@mmcl", "mae@eccl", "simclr@mmcl", "supervised@ptacl"])
def test_a_pretrained_encoder_goes_on_in_fine_tuning(name):
    method = bound(name)
    task = registry().task("phenotype")
    stage = FineTune(recipe=method.recipe)
    stage = bind(stage, method=method, modality="ecg", task=task, fraction=1.0, seed=0)
    trained, tuned = build(method).ecg, build(bind(stage, cohort=method.cohort)).ecg
    tuned.load_state_dict(trained.state_dict())
    table = dict(tuned.named_parameters())["embed.positions"]
    if name.startswith("mae"):
        # Fixed in the autoencoder; trained from there afterwards, the class token's from zero.
        assert "embed.positions" not in dict(trained.named_parameters())
        sines = sincos_positions(tuned.grid, tuned.width, method.ecg_encoder.position_base)
        torch.testing.assert_close(table.detach()[1:], sines)
        assert not table[0].any()
    assert table.requires_grad
    torch.testing.assert_close(tuned.blocks[0].attn.qkv.weight, trained.blocks[0].attn.qkv.weight)


def test_fine_tuning_is_augmented_more_weakly():
    pretraining = bound("mae@mmcl", scale="full")
    fine_tuning = pretraining.finetuned()
    assert pretraining.ecg_augment.surrogate == 0.1
    assert pretraining.ecg_augment.jitter == 0.25
    assert fine_tuning.ecg_augment.surrogate == 0.075
    assert fine_tuning.ecg_augment.jitter == 0.2
    # Nobody is augmented when the losses of rounds are compared.
    ecg = torch.randn(2, 12, 5000)
    x = fine_tuning.ecg_input(Batch({"ecg": ecg}, training=False, progress=1.0))
    torch.testing.assert_close(x, ecg[..., :2500], rtol=0, atol=0)


def reconstruction(method, encoders, x):
    """Patches of the signal, what is made of them, and which were hidden."""
    encoder, decoder = encoders.ecg, encoders.ecg_decoder
    keep = visible_places(encoder, x, method.mask_ratio)
    hidden = torch.ones(len(x), encoder.tokens, dtype=torch.bool).scatter(1, keep, False)
    prediction = decoder(encoder.encode(x, keep), keep)
    return encoder.patches(x), prediction, hidden, encoder(x, keep).tokens


@pytest.mark.parametrize("name", ["mae@mmcl", "mae@ptacl", "mae@dual-tiny"])
def test_an_autoencoder_scores_what_its_paper_scores(name):
    method, encoders, batch = made(name)
    encoders.eval()  # batch norms without memory of the call before
    terms = seeded(method.loss, encoders, batch)

    torch.manual_seed(5)
    x = method.ecg_input(batch)
    target, prediction, hidden, tokens = reconstruction(method, encoders, x)
    scored = hidden if name == "mae@ptacl" else torch.ones_like(hidden)
    total, count = 0.0, 0
    for person, place in scored.nonzero().tolist():
        error = (prediction[person, place] - target[person, place]).tolist()
        total += sum(e**2 for e in error) / len(error)
        count += 1
    weight = 1.0 if name == "mae@ptacl" else 0.9
    assert terms["mse"].item() == pytest.approx(weight * total / count, rel=1e-9)

    if name == "mae@ptacl":
        assert set(terms) == {"mse"}
        return
    lead = (len(x), 12, -1)
    ncc = correlation_over_time(prediction.reshape(lead), target.reshape(lead)).mean()
    assert terms["ncc"].item() == pytest.approx(0.1 * (1 - ncc.item()), rel=1e-9)
    if name == "mae@mmcl":
        assert set(terms) == {"mse", "ncc"}
        return
    _, _, again, other = reconstruction(method, encoders, x)
    assert not torch.equal(again, hidden)
    p1, p2 = (encoders.similarity(z.mean(1)) for z in (tokens, other))
    h1, h2 = encoders.predictor(p1), encoders.predictor(p2)
    cosine = nn.CosineSimilarity()
    expected = -(cosine(h1, p2).mean() + cosine(h2, p1).mean()) / 2
    assert terms["similarity"].item() == pytest.approx(0.1 * expected.item(), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "count"), [("mae@dual-small", 887_040), ("mae@dual-medium", 1_329_408)]
)
def test_the_similarity_heads_have_the_published_size(name, count):
    method = bound(name, scale="full")
    with torch.device("meta"):
        encoders = method.build({})
    heads = (encoders.similarity, encoders.predictor)
    assert sum(p.numel() for head in heads for p in head.parameters()) == count


def test_a_second_window_is_sometimes_left_as_it_is():
    method = bound("simclr@mmcl")
    short = method.ecg_encoder.replace(seconds=0.5)
    method = method.replace(ecg_encoder=short, second_probability=0.0)
    batch = Batch({"ecg": torch.randn(400, 12, 260)}, True, 0.0)

    def untouched(windows):
        every = batch.ecg.unfold(-1, short.samples, 1)[:, 0]  # every window of the first lead
        return (every == windows[:, :1]).all(-1).any(-1).double().mean().item()

    torch.manual_seed(0)
    assert [untouched(x) for x in method.windows(batch)] == [0, 1]
    _, second = method.replace(second_probability=0.95).windows(batch)
    assert untouched(second) == pytest.approx(0.05, abs=0.03)


def test_clocs_contrasts_the_two_halves():
    method, encoders, batch = made("clocs@mmcl", second_probability=0.0)
    encoders.eval()
    loss = seeded(method.loss, encoders, batch)["clocs"]
    torch.manual_seed(5)
    halves = batch.ecg.split(method.ecg_encoder.samples, dim=-1)
    views = [method.ecg_augment(halves[0]), halves[1]]
    z = [nn.functional.normalize(encoders.contrast(encoders.ecg(x).pooled)) for x in views]
    total = 0.0
    for i in range(8):
        row = [math.exp((z[0][i] @ z[1][j]).item() / 0.1) for j in range(8)]
        column = [math.exp((z[0][j] @ z[1][i]).item() / 0.1) for j in range(8)]
        total -= (math.log(row[i] / sum(row)) + math.log(column[i] / sum(column))) / 16
    assert loss.item() == pytest.approx(total, rel=1e-9)


def test_byols_copy_has_no_gradient_and_its_own_batch_statistics():
    method, encoders, batch = made("byol@mmcl")
    targets = (encoders.target_ecg, encoders.target_contrast)
    sum(method.loss(encoders, batch).values()).backward()
    assert all(p.grad is None for part in targets for p in part.parameters())
    assert all(p.grad is not None for p in encoders.contrast.parameters())

    norm, slow = encoders.contrast[1], encoders.target_contrast[1]
    with torch.no_grad():
        norm.weight.add_(1.0)
    norm.running_mean.add_(1.0)
    before, weight = slow.running_mean.clone(), slow.weight.clone()
    method.after_step(encoders, 0.0)
    torch.testing.assert_close(slow.running_mean, before, rtol=0, atol=0)
    torch.testing.assert_close(slow.weight, weight + (1 - 0.9996))


@pytest.mark.parametrize(("progress", "tau"), [(0.0, 0.9996), (0.5, 0.9998), (1.0, 1.0)])
def test_byols_tau_rises_from_09996_to_1(progress, tau):
    method = bound("byol@mmcl", scale="full")
    online, slow = nn.Linear(1, 1).double(), nn.Linear(1, 1).double()
    with torch.no_grad():
        online.weight.fill_(1)
        slow.weight.fill_(0)
    parts = {"ecg": online, "contrast": nn.Identity()}
    copies = {"target_ecg": slow, "target_contrast": nn.Identity()}
    method.after_step(Encoders(**parts, **copies), progress)
    assert slow.weight.item() == pytest.approx(1 - tau, abs=1e-12)


class Fixed(nn.Module):
    """An encoder whose features do not depend on its input."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, x):
        return Features(self.features, self.features[:, None])


def barlow_terms(features, redundancy=5e-3):
    method = bound("barlowtwins@mmcl").replace(redundancy=redundancy)
    norm = nn.BatchNorm1d(features.shape[1], affine=False, eps=1e-12).double()
    encoders = Encoders(ecg=Fixed(features), contrast=nn.Identity(), norm=norm)
    ecg = torch.zeros(len(features), *method.views()["ecg"].shape, dtype=torch.float64)
    return method.loss(encoders, Batch({"ecg": ecg}, True, 0.0))


def test_barlow_twins_is_content_with_equal_uncorrelated_views():
    signs = torch.tensor([[1, 1], [1, -1]], dtype=torch.float64)
    hadamard = torch.kron(signs, torch.kron(signs, signs))[:, 1:]  # without the constant column
    assert sum(barlow_terms(hadamard).values()).item() == pytest.approx(0, abs=1e-9)
    twice = torch.cat([hadamard, hadamard], 1)  # each feature has one other that equals it
    terms = barlow_terms(twice)
    assert terms["invariance"].item() == pytest.approx(0, abs=1e-9)
    assert terms["redundancy"].item() == pytest.approx(5e-3 * 14, rel=1e-9)
    alone = barlow_terms(twice, redundancy=0.0)
    assert sum(alone.values()).item() == pytest.approx(0, abs=1e-9)

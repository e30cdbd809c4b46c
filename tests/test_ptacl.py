"""PTACL as its paper has it: sizes, what is frozen, and that beats meet their own phases."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmark.api import Batch
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.encoders import Encoders, Features
from benchmark.engine import training
from benchmark.engine.batches import People
from benchmark.engine.training import build
from benchmark.registry import registry
from benchmark.stage import bind
from methods.blocks.augment import CMRAugment, ECGAugment
from methods.blocks.beats import phase_alignment
from methods.ptacl import PTACL

TIMES = 13
EVERYBODY = torch.ones(3, dtype=torch.bool)


def paper(name, scale="full"):
    unbound = registry().method(name).on_track("paper", scale)
    return bind(unbound, cohort=SimulatedCohort(people=300), seed=0)


def on_meta(method):
    with torch.device("meta"):
        return method.build({})


def trained_weights(encoders, method, part):
    """Numbers of an encoder that the alignment changes, its final norm left out."""
    frozen = {id(p) for m in method.frozen(encoders) for p in m.parameters()}
    encoder = getattr(encoders, part)
    frozen |= {id(p) for p in encoder.norm.parameters()}
    return sum(p.numel() for p in encoder.parameters() if id(p) not in frozen)


def test_alignment_trains_as_many_weights_as_the_paper_says():
    method = paper("ptacl")
    encoders = on_meta(method)
    assert trained_weights(encoders, method, "ecg") == 12_609_536
    assert trained_weights(encoders, method, "cmr") == 6_304_768
    tables = {id(encoders.ecg.embed.positions), id(encoders.cmr.embed.positions)}
    assert tables <= {id(p) for m in method.frozen(encoders) for p in m.parameters()}


def test_without_pretraining_nothing_is_frozen():
    method = paper("ptacl-wo-smp", "smoke")
    assert method.initial_weights() == {}
    assert method.frozen(build(method)) == []


def test_alignment_loads_both_autoencoders():
    method = paper("ptacl", "smoke")
    encoders = build(method)
    for part, source in method.initial_weights().items():
        pretrained = getattr(build(source), part)
        getattr(encoders, part).load_state_dict(pretrained.state_dict())
        table = getattr(encoders, part).embed.positions
        torch.testing.assert_close(table, pretrained.embed.positions, rtol=0, atol=0)
        assert pretrained.embed.positions.requires_grad


def test_alignment_changes_all_but_what_is_frozen(tmp_path, monkeypatch):
    method = paper("ptacl", "smoke")
    rng = np.random.default_rng(0)
    views = {n: rng.random((8, *v.shape), dtype=np.float32) for n, v in method.views().items()}
    views["r_peaks"] = np.arange(40, dtype=np.float32) * rng.uniform(0.8, 1.2, (8, 1))
    people = People(views, np.arange(8), None)
    monkeypatch.setattr(training, "people_of", lambda *_: (people, people, {}))
    start = {}
    for part, source in method.initial_weights().items():
        folder = tmp_path / source.digest
        folder.mkdir()
        weights = build(source).state_dict()
        save_file(weights, folder / "weights.safetensors")
        start |= {name: w for name, w in weights.items() if name.startswith(f"{part}.")}
    seen = []

    def loss(self, encoders, batch, inner=PTACL.loss):
        seen.append([m.training for top in self.frozen(encoders) for m in top.modules()])
        return inner(self, encoders, batch)

    monkeypatch.setattr(PTACL, "loss", loss)
    context = SimpleNamespace(
        device="cpu",
        out=tmp_path,
        resume=tmp_path,
        open=lambda stage: tmp_path / stage.digest,
        progress=lambda *_: None,
    )
    training.train(method, context)
    assert len(seen) > 6  # updates and validation passes
    assert not any(map(any, seen))
    end = load_file(tmp_path / "weights.safetensors")
    kept = {name for name, w in start.items() if torch.equal(end[name], w)}
    frozen = ("embed.", "blocks.0.", "blocks.1.")
    assert kept == {name for name in start if name.split(".", 1)[1].startswith(frozen)}


def test_models_of_one_table_share_their_autoencoders():
    one = paper("ptacl")
    for name in ("ptacl-global", "ptacl-cossim", "ptacl@retrieval", "ptacl-global@retrieval"):
        other = paper(name)
        assert other.digest != one.digest
        assert (other.ecg.digest, other.cmr.digest) == (one.ecg.digest, one.cmr.digest)
    assert paper("mae@ptacl").digest == one.ecg.digest
    assert paper("cmr-mae@ptacl").digest == one.cmr.digest


@pytest.mark.parametrize("name", ["cmr-mae@ptacl", "cmr-simclr@ptacl", "cmr-random-init@ptacl"])
def test_cine_encoders_are_equal(name):
    assert paper(name).cmr_encoder == paper("ptacl").cmr_encoder
    assert sum(p.numel() for p in on_meta(paper(name)).cmr.parameters()) == 12_759_040 + 638 * 512


@pytest.mark.parametrize("temperature", [1.0, 0.07])
def test_without_sigma_every_phase_has_one_partner(temperature):
    beats, phases = torch.randn(2, 3, TIMES, 8, dtype=torch.double)
    cosine = torch.nn.functional.cosine_similarity(beats[:, :, None], phases[:, None], dim=-1)
    partner = torch.arange(TIMES).repeat(3)
    expected = sum(
        torch.nn.functional.cross_entropy(scores.reshape(-1, TIMES) / temperature, partner)
        for scores in (cosine, cosine.mT)
    )
    loss = phase_alignment(beats, phases, EVERYBODY, temperature, sigma=0.0)
    torch.testing.assert_close(loss, expected / 2)


def test_indifferent_targets_leave_log_times_at_best():
    generator = torch.manual_seed(0)
    for _ in range(20):
        beats, phases = torch.randn(2, 3, TIMES, 8, generator=generator, dtype=torch.double)
        loss = phase_alignment(beats, phases, EVERYBODY, 1.0, sigma=1e6)
        assert loss > math.log(TIMES)
    alike = torch.ones(3, TIMES, 8, dtype=torch.double)
    loss = phase_alignment(alike, alike, EVERYBODY, 1.0, sigma=1e6)
    assert loss.item() == pytest.approx(math.log(TIMES), rel=1e-6)


def on_a_circle(turns):
    return torch.stack([torch.cos(2 * math.pi * turns), torch.sin(2 * math.pi * turns)], -1)


class ReadPhase(torch.nn.Module):
    """Tokens are the means of the patches of the first two leads."""

    grid = (12, 50)

    def forward(self, x):
        tokens = x.unflatten(-1, (50, -1)).mean(-1)[:, :2].transpose(1, 2)
        return Features(tokens.mean(1), tokens.repeat(1, 12, 1))


class TellPhase(torch.nn.Module):
    """Token k is the middle of the k-th of 13 parts of the cycle."""

    def forward(self, x):
        tokens = on_a_circle((torch.arange(TIMES) + 0.5) / TIMES).expand(len(x), -1, -1)
        return Features(tokens.mean(1), tokens)


def local_loss(training, **fields):
    """The local loss of six people, each with another heart rate, whose ECGs tell the phase."""
    method = PTACL(
        cohort=SimulatedCohort(people=300),
        ecg_augment=ECGAugment(surrogate=0.0, jitter=0.0, rescale=0.0),
        cmr_augment=CMRAugment(rotation=0.0, shift=0.0, contrast=0.0, brightness=0.0),
        **fields,
    )
    rate, people = method.ecg_encoder.rate, 6
    beat = torch.linspace(0.8, 1.3, people)[:, None]  # seconds
    signal = torch.zeros(people, 12, 10 * rate)
    turns = ((torch.arange(10 * rate) + 0.5) / rate - 0.05) / beat
    signal[:, :2] = on_a_circle(turns).transpose(1, 2)
    peaks = 0.05 + beat * torch.arange(40)
    views = {"ecg": signal, "cmr": torch.zeros(people, 1, 26, 84, 84), "r_peaks": peaks}
    same = torch.nn.Identity()
    encoders = Encoders(ecg=ReadPhase(), cmr=TellPhase(), project_ecg=same, project_cmr=same)
    torch.manual_seed(0)
    return method.loss(encoders, Batch(views, training=training, progress=0.5))["local"]


@pytest.mark.parametrize("training", [False, True])
def test_r_peaks_follow_the_crop(training):
    # Tokens of 0.1 s lie on chords of the circle, whose directions are a little off.
    assert local_loss(training, local="cosine").item() == pytest.approx(-1, abs=2e-3)


def test_shuffled_phases_come_in_an_order_of_everybodys_own(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "methods.blocks.beats.phase_alignment",
        lambda beats, phases, *_: seen.setdefault("phases", phases).sum(),
    )
    local_loss(True, local="shuffled")
    true = on_a_circle((torch.arange(TIMES) + 0.5) / TIMES)
    order = (seen["phases"][:, :, None] - true).norm(dim=-1).argmin(-1)
    assert order.sort().values.tolist() == [list(range(TIMES))] * 6
    assert len({tuple(person) for person in order.tolist()}) == 6

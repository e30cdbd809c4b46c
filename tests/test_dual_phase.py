"""Dual-phase: its loss, its two guides, and that alignment leaves them as they are."""

import itertools
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from benchmark.api import Batch
from benchmark.cohorts.phenotypes import PHENOTYPE_NAMES
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.encoders import Encoders, Features
from benchmark.engine.executors.inline import execute
from benchmark.engine.store import Store
from benchmark.engine.training import build, train
from benchmark.registry import registry
from benchmark.stage import bind, topological
from methods.blocks.image_backbones import CineResNetLSTM, PhasesResNet3D, SliceResNet50
from methods.phase_supervised import TARGETS, PhaseSupervised

COHORT, FEW = SimulatedCohort(people=300), SimulatedCohort(people=80)
NAMES = ("dual-phase", "dual-phase-3d-ed", "dual-phase-2d", "dual-phase-2d-time")
TRACKS = [("harmonised", "smoke"), ("harmonised", "tiny"), ("paper", "smoke"), ("paper", "full")]


def make(name, track="paper", scale="smoke", cohort=COHORT):
    unbound = registry().method(name).on_track(track, scale)
    bound = {"cohort": cohort, "seed": 0, "task": registry().task("phenotype"), "fraction": 1.0}
    return bind(unbound, **bound)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def one_way(a, b, temperature=0.07):
    """Mean of -log softmax of the partner, summed up term by term."""
    total = 0.0
    for i, anchor in enumerate(unit(a)):
        scores = [float(anchor @ other) / temperature for other in unit(b)]
        total += math.log(sum(math.exp(s) for s in scores)) - scores[i]
    return total / len(a)


class Given(nn.Module):
    """Stands for an encoder, or for the projectors of the phases."""

    def __init__(self, *embeddings):
        super().__init__()
        self.embeddings = embeddings

    def forward(self, x):
        return Features(self.embeddings[0])

    def each(self, x):
        return list(self.embeddings)


def loss_of(method, ecg, *phases):
    ecg, *phases = (torch.from_numpy(z) for z in (ecg, *phases))
    encoders = Encoders(
        ecg=Given(ecg), cmr=Given(ecg), project_ecg=nn.Identity(), project_cmr=Given(*phases)
    )
    empty = torch.zeros(len(ecg), 12, method.ecg_encoder.samples)
    batch = Batch({"ecg": empty, "cmr": empty}, training=False, progress=0.0)
    return {name: term.item() for name, term in method.loss(encoders, batch).items()}


@pytest.fixture
def embeddings():
    return np.random.default_rng(0).normal(size=(3, 7, 5))


def test_the_loss_is_the_mean_of_three_symmetric_contrasts(embeddings):
    terms = loss_of(make("dual-phase", scale="full"), *embeddings)
    ecg, ed, es = embeddings
    for name, (a, b) in {"ecg-ed": (ecg, ed), "ecg-es": (ecg, es), "ed-es": (ed, es)}.items():
        expected = (one_way(a, b) + one_way(b, a)) / 2 / 3
        assert terms.pop(name) == pytest.approx(expected, rel=1e-12)
    assert not terms


def test_no_embedding_is_preferred(embeddings):
    method = make("dual-phase", scale="full")
    totals = [sum(loss_of(method, *order).values()) for order in itertools.permutations(embeddings)]
    assert totals == pytest.approx([totals[0]] * 6, rel=1e-12)
    # The formula as the paper prints it goes one way only, and so depends on the order.
    printed = [
        sum(one_way(a, b) for a, b in itertools.combinations(order, 2)) / 3
        for order in itertools.permutations(embeddings)
    ]
    assert max(printed) - min(printed) > 1e-2


@pytest.mark.parametrize(
    ("name", "phase"), [(NAMES[1], "ed"), (NAMES[2], "ed"), (NAMES[3], "cine")]
)
def test_one_guide_gives_one_symmetric_contrast(name, phase, embeddings):
    ecg, guide, _ = embeddings
    terms = loss_of(make(name, scale="full"), ecg, guide)
    expected = (one_way(ecg, guide) + one_way(guide, ecg)) / 2
    assert terms == {f"ecg-{phase}": pytest.approx(expected, rel=1e-12)}


@pytest.mark.parametrize(("track", "scale"), TRACKS)
def test_the_guide_of_end_diastole_is_trained_once(track, scale):
    stages = topological([make(name, track, scale) for name in NAMES[:2]])
    guides = [stage for stage in stages if isinstance(stage, PhaseSupervised)]
    assert [guide.phase for guide in guides] == ["ed", "es"]


@pytest.mark.parametrize("name", NAMES)
def test_the_guides_see_what_is_aligned(name):
    for track, scale in TRACKS:
        method = make(name, track, scale)
        own = method.cmr_encoder
        seen = [phase for guide in method.cmr for phase in getattr(guide.cmr_encoder, "phases", ())]
        assert tuple(seen) == getattr(own, "phases", ())
        assert {guide.views()["cmr"] for guide in method.cmr} == {method.views()["cmr"]}
        assert method.ecg.views()["ecg"] == method.views()["ecg"]
        assert method.uses_labels


def test_both_phases_of_a_heart_are_mirrored_alike_and_in_training_alone():
    method = make("dual-phase")
    hearts = torch.rand(40, *method.views()["cmr"].shape)
    torch.manual_seed(0)
    seen = method.cmr_input(Batch({"cmr": hearts}, training=True, progress=0.0))
    mirrored = torch.stack(
        [(seen - x).abs().amax((2, 3, 4)) < 1e-4 for x in (hearts, hearts.flip(-1))]
    )
    assert mirrored.sum(0).eq(1).all(), "a stack is either as it was or its mirror image"
    assert mirrored[1].all(1).logical_or(mirrored[0].all(1)).all()
    assert 0.25 < mirrored[1].double().mean() < 0.75
    untouched = method.cmr_input(Batch({"cmr": hearts}, training=False, progress=0.0))
    assert torch.equal(untouched, hearts)


def test_the_paper_track_has_the_papers_sizes():
    method = make("dual-phase", scale="full")
    assert method.ecg.digest == make("mae@dual-medium", scale="full").digest
    assert (method.cmr_encoder, method.temperature) == (PhasesResNet3D(), 0.07)
    assert make("dual-phase-2d", scale="full").cmr_encoder == SliceResNet50()
    assert make("dual-phase-2d-time", scale="full").cmr_encoder == CineResNetLSTM()
    with torch.device("meta"):
        encoders = method.build({})
    parts = dict(encoders.named_children())
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    # ViT 576/12/8 with its trained positions and the norm of the mean; 2048-512-128, 576-512-128.
    assert count["ecg"] == 47_925_504 + 601 * 576
    assert count["project_cmr"] == 2 * (2049 * 512 + 513 * 128)
    assert count["project_ecg"] == 577 * 512 + 513 * 128


def test_targets_are_phenotypes():
    assert all(set(names) <= set(PHENOTYPE_NAMES) for names in TARGETS.values())


def test_alignment_leaves_the_guides_bit_identical(tmp_path):
    store, method = Store(tmp_path / "store"), make("dual-phase", cohort=FEW)
    coarse = {"patch": 1000, "depth": 1}  # the ECG's side is not the point here
    method = method.replace(
        ecg=method.ecg.replace(ecg_encoder=method.ecg.ecg_encoder.replace(**coarse)),
        ecg_encoder=method.ecg_encoder.replace(**coarse),
    )
    assert execute([method], store, train=train).ok

    def weights(stage):
        return load_file(store.path(stage.digest) / "weights.safetensors")

    aligned, compared = weights(method), set()
    for guide in method.cmr:
        for name, value in weights(guide).items():
            if name.startswith("cmr."):
                assert torch.equal(aligned[name], value), name
                compared.add(name)
    assert compared == {name for name in aligned if name.startswith("cmr.")}
    # In training mode a batch norm would have counted the batches of the alignment.
    counts = {aligned[name].item() for name in compared if name.endswith("num_batches_tracked")}
    assert counts <= {3, 6}  # what was kept after a round of the guide's own training
    fresh = build(method).state_dict()
    for part in ("ecg.", "project_ecg.", "project_cmr."):
        moved = [n for n in aligned if n.startswith(part) and not torch.equal(aligned[n], fresh[n])]
        assert moved, part

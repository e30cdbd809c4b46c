"""Each loss against an independent float64 computation written from its formula."""

import itertools
import math

import numpy as np
import pytest
import torch

from benchmark.api import Batch, UserError
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.engine.supervision import Supervision
from benchmark.engine.training import build
from benchmark.registry import registry
from benchmark.stage import bind
from methods.blocks.beats import beat_tokens, phase_alignment, phase_similarity
from methods.blocks.losses import (
    all_pairs_clip,
    clip_loss,
    correlation_over_time,
    nt_xent,
    simsiam,
    triplet_loss,
)
from methods.blocks.masked_autoencoder import visible_tokens
from methods.phase_supervised import TARGETS


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cross_entropy_of_diagonal(logits):
    return float(
        np.mean([-math.log(math.exp(r[i]) / np.exp(r).sum()) for i, r in enumerate(logits)])
    )


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("weight", [0.0, 0.5, 0.75, 1.0])
def test_clip_loss_is_the_weighted_sum_of_both_directions(rng, weight):
    u, v = rng.normal(size=(2, 6, 5))
    logits = unit(u) @ unit(v).T / 0.1
    expected = weight * cross_entropy_of_diagonal(logits)
    expected += (1 - weight) * cross_entropy_of_diagonal(logits.T)
    loss = clip_loss(torch.from_numpy(u), torch.from_numpy(v), 0.1, weight)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_clip_loss_of_constant_features_is_log_batch():
    ones = torch.ones(8, 4)
    assert clip_loss(ones, ones, 0.1).item() == pytest.approx(math.log(8), rel=1e-6)


def test_excluded_pairs_are_no_negatives(rng):
    u, v = rng.normal(size=(2, 6, 5))
    excluded = np.roll(np.eye(6, dtype=bool), 1, axis=0)
    logits = np.where(excluded, -np.inf, unit(u) @ unit(v).T / 0.1)
    expected = 0.75 * cross_entropy_of_diagonal(logits)
    expected += 0.25 * cross_entropy_of_diagonal(logits.T)
    given = [torch.from_numpy(x) for x in (u, v, excluded)]
    loss = clip_loss(*given[:2], 0.1, 0.75, given[2])
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    alone = clip_loss(given[0][:1], given[1][:1], 0.1, excluded=torch.ones(1, 1, dtype=torch.bool))
    assert alone.item() == 0


def triplet_by_loops(anchor, other, margin):
    n = len(anchor)
    d = [[math.dist(anchor[i], other[j]) for j in range(n)] for i in range(n)]
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    chosen = [(i, j) for i, j in pairs if d[i][i] < d[i][j] < d[i][i] + margin]
    chosen = chosen or [(i, j) for i, j in pairs if d[i][j] < d[i][i]]
    return sum(d[i][i] - d[i][j] + margin for i, j in chosen) / max(len(chosen), 1), chosen


@pytest.mark.parametrize("margin", [2.5, 1.5, 1e-6])
def test_triplet_loss_against_loops(rng, margin):
    anchor, other = 2 * rng.normal(size=(2, 6, 5))
    expected, chosen = triplet_by_loops(anchor, other, margin)
    semi_hard = any(
        math.dist(anchor[i], other[j]) > math.dist(anchor[i], other[i]) for i, j in chosen
    )
    assert semi_hard == (margin > 1e-3), "the case does not reach both kinds of triplets"
    loss = triplet_loss(torch.from_numpy(anchor), torch.from_numpy(other), margin)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_triplets_told_apart_by_the_margin_have_no_gradient():
    anchor = torch.zeros(3, 2, dtype=torch.float64)
    # Distances 1, 2 and 10: the third is beyond the margin of everybody.
    other = torch.tensor([[1.0, 0], [2, 0], [10, 0]], dtype=torch.float64, requires_grad=True)
    loss = triplet_loss(anchor, other, 1.5)
    loss.backward()
    assert loss.item() == pytest.approx(1 - 2 + 1.5)
    assert other.grad[:, 0].tolist() == [1, -1, 0]


def test_triplets_that_are_all_right_cost_nothing():
    anchor = torch.tensor([[0.0, 0], [9, 0]])
    other = torch.tensor([[1.0, 0], [8, 0]], requires_grad=True)
    loss = triplet_loss(anchor, other, 2.5)
    loss.backward()
    assert loss.item() == 0
    assert other.grad.abs().sum() == 0


def test_nt_xent_against_a_loop(rng):
    a, b = rng.normal(size=(2, 5, 4))
    z = unit(np.concatenate([a, b]))
    total = 0.0
    for i in range(10):
        others = [math.exp(z[i] @ z[j] / 0.1) for j in range(10) if j != i]
        total -= math.log(math.exp(z[i] @ z[(i + 5) % 10] / 0.1) / sum(others))
    loss = nt_xent(torch.from_numpy(a), torch.from_numpy(b), 0.1)
    assert loss.item() == pytest.approx(total / 10, rel=1e-10)


def test_nt_xent_of_orthogonal_views_is_log_3():
    z = torch.eye(4)
    assert nt_xent(z[:2], z[2:], 0.1).item() == pytest.approx(math.log(3), rel=1e-6)


def test_nt_xent_agrees_with_lightly(rng):
    lightly = pytest.importorskip("lightly.loss")
    a, b = (torch.from_numpy(x).float() for x in rng.normal(size=(2, 7, 16)))
    theirs = lightly.NTXentLoss(temperature=0.1)(a, b)
    assert nt_xent(a, b, 0.1).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_correlation_over_time(rng):
    x, y = rng.normal(size=(2, 3, 4, 50))
    found = correlation_over_time(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    for i in range(3):
        for j in range(4):
            assert found[i, j] == pytest.approx(np.corrcoef(x[i, j], y[i, j])[0, 1], rel=1e-9)


def test_correlation_with_a_flat_signal_is_zero_not_nan():
    assert correlation_over_time(torch.ones(2, 10), torch.randn(2, 10)).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("tokens", "ratio", "visible"),
    [(300, 0.8, 59), (600, 0.8, 119), (600, 0.75, 150), (637, 0.9, 63), (600, 0.7, 180)],
)
def test_visible_tokens_truncate_like_the_reference(tokens, ratio, visible):
    assert visible_tokens(tokens, ratio) == visible


@pytest.mark.parametrize("ratio", [0.0, 1.0, 7.0, -0.5])
def test_a_mask_hides_some_patches_and_leaves_some(ratio):
    with pytest.raises(UserError, match="share between 0 and 1"):
        visible_tokens(300, ratio)


def local_loss_by_loops(beats, phases, valid, temperature, sigma):
    people, times, _ = beats.shape
    cosine = np.einsum("ikd,itd->ikt", unit(beats), unit(phases)) / temperature
    total, used = 0.0, 0
    for i in range(people):
        if not valid[i]:
            continue
        used += 1
        for matrix in (cosine[i], cosine[i].T):
            for k in range(times):
                distance = np.abs(k - np.arange(times)) / (times - 1)
                p = np.exp(-0.5 * (distance / sigma) ** 2) if sigma else np.eye(times)[k]
                p = p / p.sum()
                log_q = matrix[k] - np.log(np.exp(matrix[k]).sum())
                total -= 0.5 * (p * log_q).sum() / times
    return total / used


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.5])
def test_phase_alignment_against_loops(rng, sigma):
    beats, phases = rng.normal(size=(2, 4, 13, 6))
    valid = np.array([True, False, True, True])
    loss = phase_alignment(
        *(torch.from_numpy(x) for x in (beats, phases)), torch.from_numpy(valid), 1.0, sigma
    )
    # The target table is float32, as in training.
    expected = local_loss_by_loops(beats, phases, valid, 1.0, sigma)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_phase_alignment_of_equal_tokens_is_log_times():
    same = torch.ones(2, 13, 4)
    loss = phase_alignment(same, same, torch.ones(2, dtype=torch.bool), 1.0, 0.0)
    assert loss.item() == pytest.approx(math.log(13), rel=1e-6)


def test_phase_alignment_without_any_beat_is_zero_and_has_a_gradient():
    beats = torch.randn(2, 8, 4, requires_grad=True)
    loss = phase_alignment(beats, torch.randn(2, 8, 4), torch.zeros(2, dtype=torch.bool), 1.0, 0.1)
    loss.backward()
    assert loss.item() == 0
    assert beats.grad.isfinite().all()


def test_phase_similarity_against_loops(rng):
    beats, phases = rng.normal(size=(2, 4, 13, 6))
    valid = np.array([True, False, True, True])
    cosines = [
        unit(beats[i, k]) @ unit(phases[i, k]) for i in np.flatnonzero(valid) for k in range(13)
    ]
    given = [torch.from_numpy(x) for x in (beats, phases, valid)]
    assert phase_similarity(*given).item() == pytest.approx(-np.mean(cosines), rel=1e-10)
    nobody = phase_similarity(*given[:2], torch.zeros(4, dtype=torch.bool))
    assert nobody.item() == 0


def test_phase_similarity_does_not_see_other_phases(rng):
    beats, phases = (torch.from_numpy(x).requires_grad_() for x in rng.normal(size=(2, 2, 5, 6)))
    cosine = torch.nn.functional.cosine_similarity(beats[0, 2], phases[0, 2], dim=0)
    expected = torch.autograd.grad(-cosine / 10, phases)[0]
    similarity = phase_similarity(beats, phases, torch.ones(2, dtype=torch.bool))
    found = torch.autograd.grad(similarity, phases)[0]
    torch.testing.assert_close(found[0, 2], expected[0, 2])
    moved = beats.detach().clone()
    moved[0, 3] += 1
    again = torch.autograd.grad(phase_similarity(moved, phases, torch.ones(2) > 0), phases)[0]
    torch.testing.assert_close(found[0, 2], again[0, 2], rtol=0, atol=0)


def test_simsiam_is_lightlys_and_moves_predictions_alone(rng):
    from lightly.loss import NegativeCosineSimilarity

    h1, h2, p1, p2 = (torch.from_numpy(x).requires_grad_() for x in rng.normal(size=(4, 6, 5)))
    loss = simsiam([h1, h2], [p1, p2])
    loss.backward()
    cosines = [
        (unit(h.detach().numpy()) * unit(p.detach().numpy())).sum(-1).mean()
        for h, p in ((h1, p2), (h2, p1))
    ]
    assert loss.item() == pytest.approx(-np.mean(cosines), rel=1e-10)
    criterion = NegativeCosineSimilarity()
    theirs = (criterion(h1, p2) + criterion(h2, p1)) / 2
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-10)
    assert [p.grad for p in (p1, p2)] == [None, None]
    assert all(h.grad.abs().sum() > 0 for h in (h1, h2))


VALID = torch.tensor([True, False, True])
DIFFERENTIABLE = {
    "clip": (lambda u, v: clip_loss(u, v, 0.1, 0.75), (5, 4)),
    "nt-xent": (lambda u, v: nt_xent(u, v, 0.1), (4, 5)),
    "triplets": (lambda u, v: triplet_loss(u, v, 2.5), (5, 4)),
    "hard triplets": (lambda u, v: triplet_loss(u, v, 1e-9), (5, 4)),
    "pairs of views": (lambda u, v: all_pairs_clip(torch.cat([u, v]), 0.1), (2, 4, 5)),
    "phases": (lambda u, v: phase_alignment(u, v, VALID, 0.07, 0.1), (3, 5, 4)),
    "equal phases": (lambda u, v: phase_similarity(u, v, VALID), (3, 5, 4)),
    "correlation": (correlation_over_time, (2, 3, 9)),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_both_sides_learn_what_the_value_says(rng, name):
    loss, shape = DIFFERENTIABLE[name]
    given = [torch.from_numpy(rng.normal(size=shape)).requires_grad_() for _ in range(2)]
    assert torch.autograd.gradcheck(loss, given)
    moved = torch.autograd.grad(loss(*given).sum(), given)
    assert all(gradient.abs().sum() > 0 for gradient in moved)


def beat_tokens_by_loops(tokens, peaks, seconds, times):
    n = tokens.shape[1]
    centres = (np.arange(n) + 0.5) * seconds / n
    out, valid = np.zeros((len(tokens), times, tokens.shape[2])), []
    for i, row in enumerate(peaks):
        beats = []
        for a, b in itertools.pairwise(row):
            if not np.isfinite([a, b]).all() or a < 0 or b > seconds or not 0.3 <= b - a <= 2:
                continue
            at = a + (np.arange(times) + 0.5) / times * (b - a)
            beats.append([np.interp(at, centres, column) for column in tokens[i].T])
        valid.append(bool(beats))
        if beats:
            out[i] = np.mean(beats, axis=0).T
    return out, np.array(valid)


def test_beat_tokens_interpolate_between_r_peaks(rng):
    tokens = rng.normal(size=(4, 20, 3))
    peaks = np.full((4, 12), np.nan)
    peaks[0, :7] = np.arange(7) * 0.9 - 0.4  # starts before the window and ends behind it
    peaks[1, :3] = [0.1, 0.25, 4.9]  # too short, too long: no beat
    peaks[2, :5] = [0.5, 1.3, 2.3, 3.0, 4.1]
    found, valid = beat_tokens(
        torch.from_numpy(tokens), torch.from_numpy(peaks), seconds=5.0, times=8
    )
    expected, expected_valid = beat_tokens_by_loops(tokens, peaks, 5.0, 8)
    assert valid.tolist() == expected_valid.tolist() == [True, False, True, False]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_all_pairs_clip_is_the_mean_over_the_66_pairs_of_12_leads(rng):
    views = torch.from_numpy(rng.normal(size=(12, 6, 5)))
    pairs = [clip_loss(views[a], views[b], 0.1) for a, b in itertools.combinations(range(12), 2)]
    assert len(pairs) == 66
    assert all_pairs_clip(views, 0.1).item() == pytest.approx(np.mean(pairs), rel=1e-10)


def test_all_pairs_clip_follows_every_pair(rng):
    views = torch.from_numpy(rng.normal(size=(3, 6, 5))).requires_grad_()
    all_pairs_clip(views, 0.1).backward()
    assert (views.grad.abs().sum(dim=(1, 2)) > 0).all()


def bound(name):
    """A method of the smallest scale."""
    method = registry().method(name).on_track("harmonised", "smoke")
    cohort, task = SimulatedCohort(people=300), registry().task("phenotype")
    return bind(method, cohort=cohort, seed=0, task=task, fraction=1.0)


def made(name):
    """A method with its networks and the two windows its loss will draw."""
    method = bound(name)
    encoders = build(method).train()
    ecg = torch.randn(8, *method.views()["ecg"].shape, generator=torch.manual_seed(3))
    batch = Batch({"ecg": ecg}, training=True, progress=0.0)
    torch.manual_seed(5)
    windows = method.windows(batch)
    torch.manual_seed(5)
    return method, encoders, batch, windows


def test_barlow_twins_is_lightlys():
    from lightly.loss import BarlowTwinsLoss

    method, encoders, batch, windows = made("barlowtwins")
    loss = sum(method.loss(encoders, batch).values())
    z = [encoders.contrast(encoders.ecg(x).pooled) for x in windows]
    expected = BarlowTwinsLoss(lambda_param=method.redundancy)(*z)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_byol_is_lightlys():
    from lightly.loss import NegativeCosineSimilarity

    method, encoders, batch, windows = made("byol")
    for part in ("target_ecg", "target_contrast"):  # away from the online network
        for parameter in getattr(encoders, part).parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    torch.manual_seed(5)
    loss = sum(method.loss(encoders, batch).values())
    predicted = [encoders.predictor(encoders.contrast(encoders.ecg(x).pooled)) for x in windows]
    slow = [encoders.target_contrast(encoders.target_ecg(x).pooled) for x in windows]
    criterion = NegativeCosineSimilarity()
    expected = 2 * (criterion(predicted[0], slow[1]) + criterion(predicted[1], slow[0]))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert -4 <= loss.item() <= 4


def test_byols_copy_follows_slower_and_slower():
    method, encoders, _, _ = made("byol")
    method = method.replace(momentum=0.9)
    encoders.requires_grad_(False)
    before = encoders.target_ecg.embed.weight.clone()
    encoders.ecg.embed.weight.add_(1.0)
    method.after_step(encoders, 0.0)
    torch.testing.assert_close(encoders.target_ecg.embed.weight, before + 0.1)
    method.after_step(encoders, 1.0)
    torch.testing.assert_close(encoders.target_ecg.embed.weight, before + 0.1)


def made_clocs(fields):
    method = bound("clocs").replace(**fields)
    ecg = torch.randn(8, *method.views()["ecg"].shape, generator=torch.manual_seed(3))
    return method, build(method).eval(), Batch({"ecg": ecg}, training=True, progress=0.0)


def test_clocs_reads_halves_and_leads():
    method, encoders, batch = made_clocs({"segments": 2, "leads": False})
    batch.training = False
    half = method.ecg_encoder.samples
    z = [
        encoders.contrast(encoders.ecg(batch.ecg[..., k * half : (k + 1) * half]).pooled)
        for k in range(2)
    ]
    expected = clip_loss(*z, method.temperature)
    torch.testing.assert_close(method.loss(encoders, batch)["clocs"], expected)

    method, encoders, batch = made_clocs({"segments": 1, "leads": True})
    batch.training = False
    alone = batch.ecg.clone()
    alone[:, 1:] = 0  # the view of lead I must not see the others
    tokens = torch.arange(encoders.ecg.tokens).view(12, -1)[0].expand(8, -1)
    a, b = (encoders.ecg(x[..., :half], keep=tokens).pooled for x in (batch.ecg, alone))
    torch.testing.assert_close(a, b)
    assert method.loss(encoders, batch)["clocs"].isfinite()


def aligned(name):
    """A method, its networks, a validation batch (nothing is augmented), and both features."""
    method = bound(name)
    encoders = build(method).double().eval()
    generator = torch.manual_seed(3)
    shapes = {view: v.shape for view, v in method.views().items()}
    views = {v: torch.rand(5, *s, generator=generator).double() for v, s in shapes.items()}
    if "r_peaks" in views:
        views["r_peaks"] = 0.4 + 0.9 * torch.arange(shapes["r_peaks"][0]).double().expand(5, -1)
    labels = torch.randn(5, 10, generator=generator).double()
    labels[0, 3] = float("nan")
    batch = Batch(views, training=False, progress=0.0, labels=labels)
    with torch.no_grad():
        ecg = encoders.ecg(batch.ecg[..., : method.ecg_encoder.samples])
        return method, encoders, batch, ecg, encoders.cmr(batch.cmr)


def clip_by_numpy(u, v, temperature, weight=0.5):
    logits = unit(u.detach().numpy()) @ unit(v.detach().numpy()).T / temperature
    anchored_u, anchored_v = (cross_entropy_of_diagonal(x) for x in (logits, logits.T))
    return weight * anchored_u + (1 - weight) * anchored_v


def test_a_phase_is_supervised_by_its_own_targets():
    guides = bound("dual-phase").cmr
    assert [guide.phase for guide in guides] == ["ed", "es"]
    for guide in guides:
        encoders = build(guide).double().eval()
        x = torch.rand(5, *guide.views()["cmr"].shape).double()
        labels = torch.randn(5, len(TARGETS[guide.phase])).double()
        labels[1, 0] = float("nan")
        batch = Batch({"cmr": x}, training=False, progress=0.0, labels=labels)
        error = encoders.output(encoders.cmr(x).pooled) - labels
        expected = np.nanmean(error.detach().numpy() ** 2)
        assert sum(guide.loss(encoders, batch).values()).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["eccl", "eccl-triplet", "eccl-wo-task-loss"])
def test_eccl_adds_the_labels_to_the_alignment(name):
    method, encoders, batch, ecg, cmr = aligned(name)
    u, v = encoders.project_ecg(ecg.pooled), encoders.project_cmr(cmr.pooled)
    if name == "eccl-triplet":
        expected = triplet_by_loops(u.tolist(), v.tolist(), 2.5)[0]
    else:
        expected = clip_by_numpy(u, v, 0.1)
    if name != "eccl-wo-task-loss":
        error = encoders.output.linear(ecg.pooled) - batch.labels
        expected += np.nanmean(error.detach().numpy() ** 2)
    assert sum(method.loss(encoders, batch).values()).item() == pytest.approx(expected, rel=1e-9)


def test_permuted_pairs_see_strangers_alone():
    method, encoders, batch, ecg, cmr = aligned("mmcl-permuted-pairs")
    image, signal = encoders.project_cmr(cmr.pooled), encoders.project_ecg(ecg.pooled)
    cosine = unit(image.detach().numpy()) @ unit(signal.detach().numpy()).T / 0.1
    total = 0.0
    for i in range(5):
        own_image_left = [math.exp(cosine[i, j]) for j in range(5) if j != i]
        own_ecg_left = [math.exp(cosine[j, i]) for j in range(5) if j != i]
        total -= 0.75 * math.log(math.exp(cosine[i, (i + 1) % 5]) / sum(own_image_left)) / 5
        total -= 0.25 * math.log(math.exp(cosine[(i - 1) % 5, i]) / sum(own_ecg_left)) / 5
    assert method.loss(encoders, batch)["clip"].item() == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("name", ["ptacl", "ptacl-cossim", "ptacl-shuffled-phase"])
def test_ptacl_aligns_beats_with_phases(name):
    method, encoders, batch, ecg, cmr = aligned(name)
    times = method.cmr_encoder.times
    tokens = ecg.tokens.numpy().reshape(5, 12, -1, method.ecg_encoder.width).mean(1)
    beats, valid = beat_tokens_by_loops(tokens, batch.r_peaks.numpy(), 5.0, times)
    assert valid.all()
    phases = cmr.tokens.numpy().reshape(5, times, -1, method.cmr_encoder.width).mean(2)
    torch.manual_seed(7)
    if name == "ptacl-shuffled-phase":
        order = torch.rand(5, times).argsort(1).numpy()  # everybody's own
        phases = np.take_along_axis(phases, order[..., None], axis=1)
    if name == "ptacl-cossim":
        expected = -np.mean((unit(beats) * unit(phases)).sum(-1))
    else:
        expected = local_loss_by_loops(beats, phases, valid, 1.0, 0.1)
    torch.manual_seed(7)
    terms = method.loss(encoders, batch)
    assert terms["local"].item() == pytest.approx(expected, rel=1e-5)
    u, v = encoders.project_ecg(ecg.pooled), encoders.project_cmr(cmr.pooled)
    assert terms["global"].item() == pytest.approx(clip_by_numpy(u, v, 0.1), rel=1e-9)


def test_cmae_reconstructs_what_it_sees():
    method, encoders, batch, ecg, cmr = aligned("cmae-vit")
    terms = method.loss(encoders, batch)
    window = batch.ecg[..., : method.ecg_encoder.samples]
    for modality, features, x in (("ecg", ecg, window), ("cmr", cmr, batch.cmr)):
        encoder, decoder = getattr(encoders, modality), getattr(encoders, f"{modality}_decoder")
        z = decoder.embed(features.tokens) + decoder.positions
        for block in decoder.blocks:
            z = block(z)
        error = decoder.head(decoder.norm(z)) - encoder.patches(x)
        assert terms[f"mse_{modality}"].item() == pytest.approx(error.square().mean().item())
    u, v = encoders.project_ecg(ecg.pooled), encoders.project_cmr(cmr.pooled)
    assert terms["clip"].item() == pytest.approx(clip_by_numpy(u, v, 0.1), rel=1e-9)


@pytest.mark.parametrize("track", ["harmonised", "paper"])
def test_a_cine_is_scored_where_it_was_hidden(track):
    name = {"harmonised": "cmr-mae", "paper": "cmr-mae@ptacl"}[track]
    method = registry().method(name).on_track(track, "smoke")
    method = bind(method, cohort=SimulatedCohort(people=300), seed=0)
    encoders = build(method).double().eval()
    encoder, people = encoders.cmr, 3
    cine = torch.rand(people, *method.views()["cmr"].shape).double()
    torch.manual_seed(5)
    terms = method.loss(encoders, Batch({"cmr": cine}, training=False, progress=0.0))
    torch.manual_seed(5)
    order = torch.rand(people, encoder.tokens).argsort(1)
    keep = order[:, : int(encoder.tokens * (1 - 0.9))]
    made = encoders.cmr_decoder(encoder.encode(cine, keep), keep)
    frames, rows, columns = encoder.patch
    errors = []
    for person in range(people):
        for place in set(range(encoder.tokens)) - set(keep[person].tolist()):
            t, y, x = np.unravel_index(place, encoder.grid)
            patch = cine[person, 0, t * frames : (t + 1) * frames]
            patch = patch[:, y * rows : (y + 1) * rows, x * columns : (x + 1) * columns]
            errors.append((made[person, place] - patch.flatten()).square().mean().item())
    assert terms.keys() == {"mse"}
    assert terms["mse"].item() == pytest.approx(np.mean(errors), rel=1e-9)


def test_a_disease_weighs_positives_by_their_rarity():
    labels = np.array([[1, np.nan, 0], [0, np.nan, 0], [0, np.nan, 0], [np.nan, np.nan, 1.0]])
    supervision = Supervision(4, 3, classification=True).double()
    supervision.fit(labels)
    assert supervision.positive_weight.tolist() == pytest.approx([2, 100, 3])
    features = torch.randn(4, 4, dtype=torch.float64)
    p = 1 / (1 + np.exp(-supervision(features).detach().numpy()))
    total = weights = 0.0
    for i, j in zip(*np.nonzero(np.isfinite(labels)), strict=True):
        weight = (2, 100, 3)[j] if labels[i, j] else 1
        total -= weight * math.log(p[i, j] if labels[i, j] else 1 - p[i, j])
        weights += weight
    loss = supervision.loss(features, torch.from_numpy(labels))
    assert loss.item() == pytest.approx(total / weights, rel=1e-9)

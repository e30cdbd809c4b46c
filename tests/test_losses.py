"""Each loss against an independent float64 computation written from its formula."""

import itertools
import math

import numpy as np
import pytest
import torch

from methods.blocks.beats import beat_tokens, phase_alignment
from methods.blocks.losses import clip_loss, correlation_over_time, nt_xent
from methods.blocks.masked_autoencoder import visible_tokens


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

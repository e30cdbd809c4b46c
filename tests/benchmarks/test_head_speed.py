"""Heads against the same done one by one: `pytest tests/benchmarks/test_head_speed.py`.

Networks are trained beside each other, or one after another with torch's own layers and optimiser;
kernels are solved for all penalties in one array, or by scikit-learn penalty by penalty.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from benchmark.evaluation.kernel import PENALTIES, solutions, tangent_kernel
from benchmark.evaluation.mlp import MLPHead, train_each

WIDTH, PEOPLE, WATCHED = 64, 4200, 900
DISEASES, SEEDS, FRACTIONS = 6, 5, (1.0, 0.1, 0.01)
PHENOTYPES = 82
SETTINGS = MLPHead(epochs=5)


@pytest.fixture(autouse=True)
def one_thread():
    """Keep what is compared from waiting for other work on the machine's cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def diseases():
    """Every disease in every fraction of every seed, each seed with features of its own."""
    rng = np.random.default_rng(0)
    count = SEEDS * len(FRACTIONS) * DISEASES
    splits = []
    for people in (PEOPLE, WATCHED):
        x = rng.normal(size=(SEEDS, people, WIDTH))
        risk = x @ np.random.default_rng(1).normal(size=(WIDTH, DISEASES)) / 8
        sick = (risk + rng.normal(size=risk.shape) > 1.5).astype(float)
        y = np.full((SEEDS, people, SEEDS, len(FRACTIONS), DISEASES), np.nan)
        for seed in range(SEEDS):
            for place, fraction in enumerate(FRACTIONS):
                known = slice(round(fraction * people) if people == PEOPLE else people)
                y[seed, known, seed, place] = sick[seed, known]
        splits.append((x.reshape(-1, WIDTH), y.reshape(-1, count)))
    return *splits, True


def phenotypes():
    """All phenotypes of one embedding, some of them missing for groups of people."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(WIDTH, PHENOTYPES)) / 8
    splits = []
    for people in (PEOPLE, WATCHED):
        x = rng.normal(size=(people, WIDTH))
        y = x @ truth + rng.normal(size=(people, PHENOTYPES))
        missing = rng.random((people, 6)) < 0.03
        y[missing[:, np.arange(PHENOTYPES) % 6]] = np.nan
        splits.append((x, y))
    return *splits, False


def together(training, validation, classify):
    keys = [str(column) for column in range(training[1].shape[1])]
    _, epochs = train_each(
        SETTINGS, training, validation, keys=keys, classify=classify, device="cpu"
    )
    return epochs


def one_by_one(training, validation, classify):
    columns = range(training[1].shape[1])
    return [_alone(training, validation, column, classify) for column in columns]


def _alone(training, validation, column, classify):
    """Train one network as one would by hand; return its best epoch."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

    known, seen = (np.isfinite(labels[:, column]) for _, labels in (training, validation))
    x, xv = (torch.from_numpy(a[0][k]).float() for a, k in ((training, known), (validation, seen)))
    y, yv = (
        torch.from_numpy(a[1][k, column]).float()
        for a, k in ((training, known), (validation, seen))
    )
    model = torch.nn.Sequential(
        torch.nn.Linear(WIDTH, WIDTH // 2),
        torch.nn.GELU(),
        torch.nn.Linear(WIDTH // 2, WIDTH // 4),
        torch.nn.GELU(),
        torch.nn.Linear(WIDTH // 4, 1),
    )
    rates = {"lr": SETTINGS.learning_rate, "weight_decay": SETTINGS.weight_decay}
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), **rates)
    heavy = ((y == 0).sum() / (y == 1).sum().clamp(min=1)).clamp(1, 100)

    def loss(x, y):
        if not classify:
            return mse_loss(model(x)[:, 0], y)
        return binary_cross_entropy_with_logits(model(x)[:, 0], y, pos_weight=heavy)

    size, least, best, state = min(SETTINGS.batch_size, len(x)), np.inf, 0, None
    for epoch in range(1, SETTINGS.epochs + 1):
        order = torch.randperm(len(x))
        for start in range(0, len(x) - size + 1, size):
            rows = order[start : start + size]
            optimiser.zero_grad(set_to_none=True)
            loss(x[rows], y[rows]).backward()
            optimiser.step()
        with torch.no_grad():
            value = loss(xv, yv).item()
        if value < least:
            least, best = value, epoch
            state = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert state is not None
    return best


@pytest.mark.parametrize("train", [together, one_by_one], ids=["together", "one by one"])
@pytest.mark.parametrize("make", [diseases, phenotypes])
def test_networks(benchmark, make, train):
    training, validation, classify = make()
    small = [(x[:300], y[:300, :1]) for x, y in (training, validation)]
    train(*small, classify)  # importing is not what is measured
    epochs = benchmark.pedantic(train, (training, validation, classify), rounds=1, iterations=1)
    assert len(epochs) == {diseases: 90, phenotypes: 82}[make]


def scikit_learns(x, y, penalties):
    from sklearn.kernel_ridge import KernelRidge

    kernel = tangent_kernel(x, x)
    people = np.arange(len(x))
    own = kernel[np.ix_(people, people)]
    models = (KernelRidge(alpha=penalty, kernel="precomputed") for penalty in penalties)
    return np.stack([model.fit(own, y).dual_coef_ for model in models])


@pytest.mark.parametrize("solve", [solutions, scikit_learns], ids=["in place", "scikit-learn"])
def test_kernel_of_all_penalties(benchmark, solve):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2500, 64)), rng.normal(size=(2500, PHENOTYPES))
    solve(x[:50], y[:50], PENALTIES)
    tracemalloc.start()
    solve(x, y, PENALTIES)
    benchmark.extra_info["kernels in memory"] = tracemalloc.get_traced_memory()[1] / (
        8 * len(x) ** 2
    )
    tracemalloc.stop()
    found = benchmark.pedantic(solve, (x, y, PENALTIES), rounds=2, iterations=1)
    assert found.shape == (len(PENALTIES), *y.shape)

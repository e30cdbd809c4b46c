"""Inference for a whole board, 15 methods x 6 diseases x 5 replicates on 6,000 people, beside loops
over the libraries' functions: ``pytest tests/benchmarks -k statistics``.

On a busy machine the seconds of the processor say more: ``--benchmark-timer=time.process_time``.
The loops are run on a few columns, queries or draws only; ``extra_info`` says how many times longer
all of them would take. ``peak_memory`` is that of the work alone, over what its input holds.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmark.api import Predictions
from benchmark.evaluation import bootstrap
from benchmark.evaluation.metrics import AUROC
from benchmark.evaluation.retrieval import KS, retrieve

PEOPLE, METHODS, REPLICATES, DRAWS = 6_000, 15, 5, 2_000
PREVALENCE = (0.07, 0.039, 0.022, 0.022, 0.012, 0.004)
COLUMNS = METHODS * REPLICATES


def measured(benchmark: Callable, work: Callable, **info: float) -> np.ndarray:
    """Time the work, then run it once more for its memory."""
    out = benchmark.pedantic(work, rounds=1, iterations=1)
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    benchmark.extra_info.update(info, peak_memory=peak)
    assert peak < 2e9
    return out


@pytest.fixture(scope="module")
def diseases() -> list[tuple[np.ndarray, np.ndarray]]:
    """Target (N,) and scores (N, 75) of each disease."""
    rng = np.random.default_rng(0)
    found = []
    for prevalence in PREVALENCE:
        y = (np.arange(PEOPLE) < prevalence * PEOPLE).astype(float)
        shared = rng.normal(size=(PEOPLE, 1))
        found.append((y, y[:, None] + shared + rng.normal(size=(PEOPLE, COLUMNS))))
    return found


def test_delong_with_all_covariances(benchmark, diseases):
    def work():
        psi = []
        for y, scores in diseases:
            columns = {"target": np.tile(y[:, None], COLUMNS), "prediction": scores}
            psi.append(AUROC().influence(Predictions(("",) * COLUMNS, columns))[1])
        psi = np.concatenate(psi, axis=1)
        return psi.T @ psi / PEOPLE**2

    gamma = measured(benchmark, work)
    assert gamma.shape == (450, 450)
    assert (np.diag(gamma) > 0).all()


def test_bootstrap_of_the_auroc(benchmark, diseases):
    benchmark.group = "bootstrap of 450 AUROCs"

    def of_one(y, scores):
        statistic = partial(bootstrap.auroc, y, scores)
        return bootstrap.resample(statistic, PEOPLE, DRAWS, key="speed", strata=y)

    def work():
        return np.concatenate([of_one(y, scores) for y, scores in diseases], axis=1)

    out = measured(benchmark, work)
    assert out.shape == (DRAWS, 450)
    assert ((out > 0) & (out < 1)).all()


def test_bootstrap_of_the_auroc_in_a_loop(benchmark, diseases):
    """One column, 100 draws."""
    benchmark.group = "bootstrap of 450 AUROCs"
    y, scores = diseases[0]
    draws = next(bootstrap.weights(PEOPLE, 100, "speed", y))

    def work():
        return np.array([roc_auc_score(y, scores[:, 0], sample_weight=w) for w in draws.T])

    out = measured(benchmark, work, times_this=450 * DRAWS / 100)
    assert out == pytest.approx(bootstrap.auroc(y, scores[:, :1], draws)[:, 0], abs=1e-6)


@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_retrieval_of_82_phenotypes(benchmark, missing):
    benchmark.group = "retrieval"
    rng = np.random.default_rng(1)
    query = rng.normal(size=(PEOPLE, 128))
    y = query[:, :82] + rng.normal(size=(PEOPLE, 82))
    y[rng.random(y.shape) < missing] = np.nan
    sigma = np.nanstd(y, axis=0)

    def work():
        return retrieve(query, query + 1, y, sigma=sigma, exclude_self=True)["hits"]

    assert measured(benchmark, work).shape == (PEOPLE, 82, len(KS))


def test_retrieval_query_by_query(benchmark):
    """Every 60th query and the first of the phenotypes alone, by sorting."""
    benchmark.group = "retrieval"
    rng = np.random.default_rng(1)
    query = rng.normal(size=(PEOPLE, 128)).astype(np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    y = query[:, 0] + rng.normal(size=PEOPLE)

    def work():
        hits = []
        for i in range(0, PEOPLE, 60):
            order = np.argsort(-(query @ query[i]), kind="stable")
            match = np.abs(y[order[order != i]] - y[i]) <= y.std() / 2
            hits.append([match[:k].mean() for k in KS] + [match.argmax()])
        return np.array(hits)

    assert measured(benchmark, work, times_this=60 * 82).shape == (100, len(KS) + 1)

"""Small networks trained side by side against one after another: `pytest tests/benchmarks`."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.evaluation.mlp import MLPHead, train_each

PEOPLE, WIDTH, TARGETS = 2000, 64, 40
SETTINGS = MLPHead(epochs=3)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x, truth = rng.normal(size=(PEOPLE, WIDTH)), rng.normal(size=(WIDTH, TARGETS))
    y = x @ truth / 8 + rng.normal(size=(PEOPLE, TARGETS))
    y[rng.random(y.shape) < 0.05] = np.nan
    return (x[:1500], y[:1500]), (x[1500:], y[1500:])


def trained(data, columns):
    (x, y), (xv, yv) = data
    keys = [str(column) for column in columns]
    options = {"keys": keys, "classify": False, "device": "cpu"}
    predict, _ = train_each(SETTINGS, (x, y[:, columns]), (xv, yv[:, columns]), **options)
    return predict(xv)


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "one by one"])
def test_forty_networks(benchmark, data, batched):
    every = list(range(TARGETS))

    def together():
        return trained(data, every)

    def alone():
        return np.hstack([trained(data, [column]) for column in every])

    trained(data, every[:1])  # importing torch is not what is measured
    out = benchmark.pedantic(together if batched else alone, rounds=1, iterations=1)
    assert out.shape == (500, TARGETS)

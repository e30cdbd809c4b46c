"""Throughput of the ECG views; the figures behind ``cost`` in `benchmark.cohorts.views`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmark.cohorts import ecg
from benchmark.cohorts.views import BeatFeatures, CleanECG, ECGView, RPeaks

PEOPLE = 32


@pytest.fixture(scope="module")
def ecg_mv() -> np.ndarray:
    time = np.arange(5000) / 500
    beat = 1.2 * np.exp(-0.5 * (((time % 0.9) - 0.4) / 0.012) ** 2)
    noise = np.random.default_rng(0).normal(scale=0.02, size=(PEOPLE, 12, 5000))
    return (noise + beat * np.linspace(-1, 1.3, 12)[:, None]).astype(np.float32)


def test_clean(benchmark: Callable, ecg_mv: np.ndarray) -> None:
    cleaned = benchmark.pedantic(ecg.clean, (ecg_mv, 500), rounds=3, warmup_rounds=1)
    assert np.isfinite(cleaned).all()


@pytest.mark.parametrize(
    "view", [CleanECG(rate=100), CleanECG(), RPeaks(), BeatFeatures()], ids=lambda v: str(v.shape)
)
def test_view(benchmark: Callable, ecg_mv: np.ndarray, view: ECGView) -> None:
    entries = benchmark.pedantic(view.prepare, (ecg_mv,), rounds=3, warmup_rounds=1)
    assert entries.shape == (PEOPLE, *view.shape)

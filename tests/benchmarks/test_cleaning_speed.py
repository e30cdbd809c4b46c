"""Throughput of the ECG views, the figures behind ``cost`` in `benchmark.cohorts.views`, and of the
papers' cleaning beside their published arithmetic: ``pytest tests/benchmarks -k recipe``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import spsolve
from statsmodels.tsa.seasonal import seasonal_decompose

from benchmark.cohorts import cleaning, ecg
from benchmark.cohorts.views import BeatFeatures, CleanECG, ECGView, MedianBeat, RPeaks

PEOPLE = 32
RECIPE_PEOPLE = 4
HEART_RATE = 67  # per minute: a period of 447 samples


@pytest.fixture(scope="module")
def ecg_mv() -> np.ndarray:
    time = np.arange(5000) / 500
    beat = 1.2 * np.exp(-0.5 * (((time % 0.9) - 0.4) / 0.012) ** 2)
    noise = np.random.default_rng(0).normal(scale=0.02, size=(PEOPLE, 12, 5000))
    return (noise + beat * np.linspace(-1, 1.3, 12)[:, None]).astype(np.float32)


def test_clean(benchmark: Callable, ecg_mv: np.ndarray) -> None:
    cleaned = benchmark.pedantic(ecg.clean, (ecg_mv, 500), rounds=3, warmup_rounds=1)
    assert np.isfinite(cleaned).all()


VIEWS = [
    CleanECG(rate=100),
    *(CleanECG(recipe=name) for name in CleanECG.COSTS),
    RPeaks(),
    BeatFeatures(),
    MedianBeat(),
]


@pytest.mark.parametrize(
    "view", VIEWS, ids=lambda v: f"{type(v).__name__}-{getattr(v, 'recipe', '')}-{v.shape}"
)
def test_view(benchmark: Callable, ecg_mv: np.ndarray, view: ECGView) -> None:
    entries = benchmark.pedantic(view.prepare, (ecg_mv,), rounds=3, warmup_rounds=1)
    assert entries.shape == (PEOPLE, *view.shape)


def recipe(name: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda ecg_mv: cleaning.clean(name, ecg_mv, 500, np.full(len(ecg_mv), HEART_RATE))


def published_asymmetric_least_squares(ecg_mv: np.ndarray) -> np.ndarray:
    """MMCL's baseline as published: a sparse LU decomposition per lead and iteration."""
    count = ecg_mv.shape[-1]
    second = sparse.diags_array([1.0, -2, 1], offsets=[0, 1, 2], shape=(count - 2, count))
    stiff = (1e7 * (second.T @ second)).tocsc()
    out = np.empty(ecg_mv.shape)
    for index in np.ndindex(ecg_mv.shape[:2]):
        lead, weights = ecg_mv[index].astype(np.float64), np.ones(count)
        for _ in range(5):
            baseline = spsolve(stiff + sparse.diags_array(weights).tocsc(), weights * lead)
            weights = 0.3 * (lead > baseline) + 0.7 * (lead < baseline)
        out[index] = lead - baseline
    return out


def published_trend(ecg_mv: np.ndarray) -> np.ndarray:
    """ECCL's decomposition as published: statsmodels, lead by lead."""
    out = np.empty(ecg_mv.shape)
    for index in np.ndindex(ecg_mv.shape[:2]):
        found = seasonal_decompose(ecg_mv[index], period=30_000 // HEART_RATE)
        out[index] = found.observed - found.trend
    return out


@pytest.mark.parametrize(
    ("group", "work"),
    [
        ("mmcl_als", recipe("mmcl_als")),
        ("mmcl_als", published_asymmetric_least_squares),
        ("eccl_trend", recipe("eccl_trend")),
        ("eccl_trend", published_trend),
        # Here the published arithmetic is the same, run on all leads at once.
        ("dual_hp_notch_sg", recipe("dual_hp_notch_sg")),
        ("ptacl_wavelet8", recipe("ptacl_wavelet8")),
    ],
    ids=["mmcl", "mmcl-published", "eccl", "eccl-published", "dual", "ptacl"],
)
def test_recipe(benchmark: Callable, ecg_mv: np.ndarray, group: str, work: Callable) -> None:
    """The whole recipe of ours against the baseline alone of the published code."""
    benchmark.group = group
    benchmark.extra_info["people"] = RECIPE_PEOPLE
    cleaned = benchmark.pedantic(work, (ecg_mv[:RECIPE_PEOPLE],), rounds=5, warmup_rounds=1)
    assert cleaned.shape == (RECIPE_PEOPLE, 12, 5000)

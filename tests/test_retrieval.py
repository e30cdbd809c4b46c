"""Retrieval against an enumerated toy, closed forms and a plain loop."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmark.api import Predictions
from benchmark.evaluation import retrieval
from benchmark.evaluation.metrics import MeanRank, MedianRank, PrecisionAt
from benchmark.evaluation.retrieval import KS, retrieve

DATA = Path(__file__).parent / "data" / "statistics"
EXPECTED = json.loads((DATA / "expected.json").read_text())


def plain(similarity, y, sigma, exclude_self, ks=KS):
    """One phenotype by loops: (hits, rank, matches)."""
    n = len(y)
    hits, rank, matches = np.full((n, len(ks)), np.nan), np.full(n, np.nan), np.full(n, np.nan)
    for i in range(n):
        if np.isnan(y[i]):
            continue
        gallery = [j for j in range(n) if not np.isnan(y[j]) and not (exclude_self and i == j)]
        gallery.sort(key=lambda j: (-similarity[i, j], j))
        match = [abs(y[i] - y[j]) <= sigma * (0.5 + 1e-9) for j in gallery]
        hits[i] = [sum(match[:k]) / min(k, len(gallery)) for k in ks]
        matches[i] = sum(match)
        if any(match):
            rank[i] = 1 + match.index(True)
    return hits, rank, matches


@pytest.mark.parametrize(
    ("mode", "exclude_self"), [("self_excluded", True), ("self_included", False)]
)
def test_toy(mode, exclude_self):
    with (DATA / "retrieval_toy.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    similarity = np.array([[row[f"s{j}"] for j in range(8)] for row in rows], float)
    y = np.array([[float(row["phenotype"] or "nan")] for row in rows])
    # With unit vectors as gallery a query's similarities are its own coordinates, rescaled.
    r = retrieve(
        similarity, np.eye(8), y, sigma=np.ones(1), exclude_self=exclude_self, ks=(1, 3, 5)
    )
    expected = EXPECTED["retrieval_toy"][mode]
    assert (
        len(expected["per_query"])
        == expected["n_queries"]
        == (~np.isnan(r["rank"])).sum() + (r["matches"] == 0).sum()
    )
    for query in expected["per_query"]:
        i = query["query"]
        assert r["hits"][i, 0] == pytest.approx([query["P1"], query["P3"], query["P5"]], abs=1e-7)
        assert r["matches"][i, 0] == query["n_match"]
        if query["first_rank"] is None:
            assert np.isnan(r["rank"][i, 0])
        else:
            assert r["rank"][i, 0] == query["first_rank"]
    assert np.isnan(r["rank"][7, 0])  # no phenotype
    assert np.isnan(r["hits"][7]).all()
    assert r["gallery"].tolist() == [6 if exclude_self else 7]
    p = Predictions(("y",), {key: r[key] for key in ("rank", "matches", "gallery")})
    assert MeanRank().influence(p)[0][0] == pytest.approx(expected["MnR"])
    assert MedianRank().influence(p)[0][0] == expected["MdR"]
    assert np.nanmean(r["hits"], axis=0)[0] == pytest.approx(
        list(expected["P_at"].values()), abs=1e-7
    )
    assert (r["matches"] == 0).sum() == expected["n_without_match"]
    assert PrecisionAt(k=1).chance(p)[0] == pytest.approx(expected["random_P"])
    assert MeanRank().chance(p)[0] == pytest.approx(expected["random_MnR"])
    assert MedianRank().chance(p)[0] == expected["random_MdR"]


@pytest.mark.parametrize("exclude_self", [True, False])
@pytest.mark.parametrize("depth", [4, 256])
def test_blocks_ties_and_missing_values_equal_a_plain_loop(monkeypatch, exclude_self, depth):
    monkeypatch.setattr(retrieval, "_BLOCK", 17)
    monkeypatch.setattr(retrieval, "_DEPTH", depth)
    rng = np.random.default_rng(0)
    n = 90
    # Few distinct directions with exact cosines: most neighbours are tied.
    q = np.eye(4)[rng.integers(4, size=n)] + np.eye(4)[rng.integers(4, size=n)] * 0.5
    g = np.eye(4)[rng.integers(4, size=n)]
    y = np.round(rng.standard_normal((n, 3)) * 4) / 4
    y[rng.random(y.shape) < 0.3] = np.nan
    y[:60, 2] = np.nan
    y[3] = 30.0
    sigma = np.array([1.0, 0.5, 2.0])
    r = retrieve(q, g, y, sigma=sigma, exclude_self=exclude_self)
    similarity = q.astype(np.float32) / np.linalg.norm(q, axis=1).astype(np.float32)[:, None]
    similarity = similarity @ g.T.astype(np.float32)
    for t in range(3):
        hits, rank, matches = plain(similarity, y[:, t], sigma[t], exclude_self)
        np.testing.assert_allclose(r["hits"][:, t], hits, atol=1e-7)
        np.testing.assert_array_equal(r["rank"][:, t], rank)
        np.testing.assert_array_equal(r["matches"][:, t], matches)
        assert r["gallery"][t] == (~np.isnan(y[:, t])).sum() - exclude_self
    assert r["ties"] == n


def test_random_gaussian_scores_what_theory_says():
    expected = EXPECTED["retrieval_random_gaussian"]
    rng = np.random.default_rng(1)
    n = 5991
    y = rng.standard_normal((n, 1))
    q = rng.standard_normal((n, 16))
    r = retrieve(q, q, y, sigma=np.ones(1), exclude_self=True)
    p = Predictions(("y",), {key: r[key] for key in ("hits", "rank", "matches", "gallery")})
    for k in KS:
        theta, psi = PrecisionAt(k=k).influence(p)
        se = math.sqrt(psi[:, 0] @ psi[:, 0]) / n
        assert abs(theta[0] - PrecisionAt(k=k).chance(p)[0]) < 4 * se
    assert PrecisionAt(k=1).chance(p)[0] == pytest.approx(expected["P_at_1"], abs=0.01)
    assert PrecisionAt(k=1).chance(p)[0] == pytest.approx(math.erf(0.25), abs=0.01)
    assert MeanRank().chance(p)[0] == pytest.approx(7.0, abs=0.7)
    assert MedianRank().chance(p)[0] == 3
    for k, share in expected["cdf"].items():
        assert (r["rank"][:, 0] <= int(k)).mean() == pytest.approx(share, abs=0.02)
    assert r["ties"] == 0


@pytest.mark.parametrize("exclude_self", [True, False])
def test_a_constant_embedding_scores_chance(exclude_self):
    """No free diagonal: with everything tied, the own scan is wherever the person's row is."""
    rng = np.random.default_rng(2)
    n = 120
    q = np.tile(rng.standard_normal(24), (n, 1))
    y = rng.standard_normal((n, 40)) ** 3
    # Each phenotype column in many orders of the people: chance is an average over orders.
    y = np.concatenate([rng.permuted(y, axis=0) for _ in range(20)], axis=1)
    r = retrieve(q, q.copy(), y, sigma=y.std(axis=0), exclude_self=exclude_self)
    assert r["ties"] == n
    p = Predictions(
        tuple(map(str, range(y.shape[1]))),
        {key: r[key] for key in ("hits", "rank", "matches", "gallery")},
    )
    for k in KS:
        scores = PrecisionAt(k=k).influence(p)[0]
        error = scores.std() / math.sqrt(len(scores))
        assert abs(scores.mean() - PrecisionAt(k=k).chance(p).mean()) < 4 * error
    if not exclude_self:
        assert PrecisionAt(k=1).influence(p)[0].mean() < 0.9


def test_match_is_inclusive_at_exactly_half_a_sigma():
    y = np.array([[0.1], [0.3], [0.2]])
    r = retrieve(np.eye(3), np.eye(3), y, sigma=np.array([0.2]), exclude_self=True)
    assert r["matches"][:, 0].tolist() == [1, 1, 2]


def test_a_query_s_scale_does_not_matter():
    rng = np.random.default_rng(3)
    q, g = rng.standard_normal((2, 50, 5))
    y = rng.standard_normal((50, 1))
    a = retrieve(q, g, y, sigma=np.ones(1), exclude_self=True)
    scale = np.float64(2) ** rng.integers(-60, 60, (50, 1))
    b = retrieve(q * scale, g / scale, y, sigma=np.ones(1), exclude_self=True)
    np.testing.assert_array_equal(a["rank"], b["rank"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, g, y, s: (q * (np.arange(9) != 4)[:, None], g, y, s), "1 query .* zeros"),
        (lambda q, g, y, s: (q, g * np.nan, y, s), "gallery embeddings are not finite"),
        (lambda q, g, y, s: (q, g[:5], y, s), "are not"),
        (lambda q, g, y, s: (q, g, y, s * np.nan), "sigma"),
    ],
)
def test_unusable_input_is_named(change, message):
    rng = np.random.default_rng(4)
    q, g = rng.standard_normal((2, 9, 3))
    q, g, y, sigma = change(q, g, rng.standard_normal((9, 1)), np.ones(1))
    with pytest.raises(ValueError, match=message):
        retrieve(q, g, y, sigma=sigma, exclude_self=True)


def test_a_phenotype_nobody_has_scores_nothing():
    q = np.random.default_rng(5).standard_normal((6, 3))
    r = retrieve(q, q, np.full((6, 1), np.nan), sigma=np.array([np.nan]), exclude_self=False)
    assert np.isnan(r["hits"]).all()
    assert np.isnan(r["matches"]).all()
    assert r["gallery"].tolist() == [0]

"""Retrieval against an enumerated toy, closed forms and a plain loop."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark.api import Predictions
from benchmark.evaluation import retrieval
from benchmark.evaluation.metrics import MeanRank, MedianRank, PrecisionAt
from benchmark.evaluation.retrieval import KS, retrieve
from benchmark.evaluation.retrieve import Retrieve
from benchmark.evaluation.score import Score
from benchmark.registry import registry
from benchmark.stage import Stage

DATA = Path(__file__).parent / "data" / "statistics"
EXPECTED = json.loads((DATA / "expected.json").read_text())


def plain(similarity, y, sigma, exclude_self, ks=KS, rng=None, orders=1):
    """One phenotype by loops: (hits, rank, matches), the mean over random orders of the tied."""
    n = len(y)
    hits, rank, matches = np.full((n, len(ks)), np.nan), np.full(n, np.nan), np.full(n, np.nan)
    for i in range(n):
        if np.isnan(y[i]):
            continue
        gallery = [j for j in range(n) if not np.isnan(y[j]) and not (exclude_self and i == j)]
        drawn = []
        for _ in range(orders):
            luck = rng.random(n)
            gallery.sort(key=lambda j: (-similarity[i, j], luck[j]))
            match = [abs(y[i] - y[j]) <= sigma * (0.5 + 1e-9) for j in gallery]
            first = 1 + match.index(True) if any(match) else np.nan
            drawn.append([*(sum(match[:k]) / min(k, len(gallery)) for k in ks), first])
        *hits[i], rank[i] = np.mean(drawn, axis=0)
        matches[i] = sum(match)
    return hits, rank, matches


@pytest.mark.parametrize("exclude_self", [True, False])
@pytest.mark.parametrize("depth", [4, 30, 256])
def test_blocks_and_missing_values_equal_a_plain_loop(monkeypatch, exclude_self, depth):
    monkeypatch.setattr(retrieval, "_BLOCK", 17)
    monkeypatch.setattr(retrieval, "_DEPTH", depth)
    rng = np.random.default_rng(0)
    n = 90
    q, g = rng.standard_normal((2, n, 4))
    y = np.round(rng.standard_normal((n, 4)) * 4) / 4
    y[rng.random(y.shape) < 0.3] = np.nan
    y[:, 3] = rng.standard_normal(n)
    y[:60, 2] = np.nan
    y[3] = 30.0
    sigma = np.array([1.0, 0.5, 2.0, 1.0])
    r = retrieve(q, g, y, sigma=sigma, exclude_self=exclude_self)
    similarity = (q / np.linalg.norm(q, axis=1)[:, None]) @ (
        g / np.linalg.norm(g, axis=1)[:, None]
    ).T
    for t in range(4):
        hits, rank, matches = plain(similarity, y[:, t], sigma[t], exclude_self, rng=rng)
        np.testing.assert_allclose(r["hits"][:, t], hits, atol=1e-7)
        np.testing.assert_array_equal(r["rank"][:, t], rank)
        np.testing.assert_array_equal(r["matches"][:, t], matches)
        assert r["gallery"][t] == (~np.isnan(y[:, t])).sum() - exclude_self
    assert r["ties"] == 0
    own = np.diag(similarity)[:, None]
    np.testing.assert_array_equal(r["own"][:, 0], (similarity > own).sum(axis=1))
    assert (r["own"][:, 1] == 0).all()
    assert (r["own"].sum(axis=1) == n - 1).all()


@pytest.mark.parametrize("exclude_self", [True, False])
def test_people_who_tie_stand_in_every_order(monkeypatch, exclude_self):
    monkeypatch.setattr(retrieval, "_DEPTH", 8)
    rng = np.random.default_rng(1)
    n = 30
    # Few distinct directions with exact cosines: most neighbours are tied.
    q = np.eye(4)[rng.integers(4, size=n)] + np.eye(4)[rng.integers(4, size=n)] * 0.5
    g = np.eye(4)[rng.integers(4, size=n)]
    y = rng.standard_normal((n, 2))
    y[rng.random(n) < 0.3, 1] = np.nan
    sigma = np.nanstd(y, axis=0)
    r = retrieve(q, g, y, sigma=sigma, exclude_self=exclude_self)
    similarity = (q / np.linalg.norm(q, axis=1)[:, None]) @ g.T
    assert r["ties"] == n
    for t in range(2):
        hits, rank, _ = plain(similarity, y[:, t], sigma[t], exclude_self, rng=rng, orders=200)
        np.testing.assert_allclose(r["hits"][:, t], hits, atol=0.18)
        assert np.nanmean(r["hits"][:, t] - hits) == pytest.approx(0, abs=0.005)
        np.testing.assert_allclose(r["rank"][:, t], rank, rtol=0.25)
        assert np.nanmean(r["rank"][:, t] / rank) == pytest.approx(1, abs=0.02)
    # Whoever the people are sorted by, every query scores the same.
    order = rng.permutation(n)
    again = retrieve(q[order], g[order], y[order], sigma=sigma, exclude_self=exclude_self)
    for key in ("hits", "rank", "matches", "own"):
        np.testing.assert_allclose(again[key], r[key][order], rtol=1e-6)


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
@pytest.mark.parametrize("n", [61, 700])
def test_a_constant_embedding_scores_chance(exclude_self, n):
    """No free diagonal, and no order of the people: each query scores its share of matches.

    At such sizes the last columns of a matrix product differ from the others in the last bit.
    """
    rng = np.random.default_rng(2)
    q = np.tile(rng.standard_normal(64), (n, 1))
    y = rng.standard_normal((n, 3)) ** 3
    r = retrieve(q, q.copy(), y, sigma=y.std(axis=0), exclude_self=exclude_self)
    assert r["ties"] == n
    share = r["matches"] / (n - exclude_self)
    for j in range(len(KS)):
        np.testing.assert_allclose(r["hits"][..., j], share, rtol=1e-6)
    first = np.where(r["matches"] > 0, (n - exclude_self + 1) / (r["matches"] + 1), np.nan)
    np.testing.assert_allclose(r["rank"], first)
    assert (r["own"] == [0, n - 1, 0]).all()


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


@dataclass(frozen=True, kw_only=True)
class Features(Stage):
    """Stands for the embedding of a two-tower method, and for the method itself."""

    cohort: Stage | None = None

    @property
    def method(self):
        return self


class People:
    """Six hundred people, the last half of them the test split."""

    def __init__(self, folder):
        rng = np.random.default_rng(6)
        names = registry().task("retrieval").target_names
        self.phenotypes = pd.DataFrame(rng.normal(size=(600, len(names))), columns=list(names))
        self.phenotypes.iloc[::7, 0] = np.nan

    def rows(self, split):
        return np.arange(300, 600) if split == "test" else np.arange(300)


@pytest.mark.parametrize("modality", ["ecg", "ecg-cmr"])
def test_stages_from_features_to_cells(tmp_path, monkeypatch, modality):
    for module in ("retrieve", "score"):
        monkeypatch.setattr(f"benchmark.evaluation.{module}.CohortData", People)
    rng = np.random.default_rng(7)
    features, ranked = tmp_path / "features", tmp_path / "ranked"
    ecg = rng.normal(size=(600, 16))
    arrays = {"shared_ecg": ecg, "shared_cmr": ecg + 2 * rng.normal(size=ecg.shape), "ecg": ecg}
    for folder in (features, ranked):
        folder.mkdir()
    for name, array in arrays.items():
        np.save(features / f"{name}.npy", array)

    class Context:
        out = ranked

        def open(self, stage):
            return {Features: features, Retrieve: ranked}.get(type(stage))

    task = registry().task("retrieval")
    head = Retrieve(embedding=Features(cohort=Features()), modality=modality, task=task)
    head.run(Context())
    Context.out = tmp_path
    Score(head=head, metrics=task.metrics).run(Context())
    cells = json.loads((tmp_path / "score.json").read_text())["cells"]
    influence = np.load(tmp_path / "influence.npy")
    assert influence.shape == (300, len(cells))
    found = {c["metric"]: (c, psi) for c, psi in zip(cells, influence.T, strict=True)}
    wanted = {m.name for m in task.metrics}
    if modality == "ecg":
        assert found.keys() == {m for m in wanted if "+self" not in m and not m.startswith("R@")}
        return
    assert found.keys() == wanted
    assert len([c for c in cells if c["metric"] == "R@1"]) == 1
    cell, psi = found["R@5"]
    query, gallery = (arrays[f"shared_{m}"][300:].astype(np.float32) for m in ("ecg", "cmr"))
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    nearest = np.argsort(-(query @ gallery.T), axis=1)[:, :5]
    own = (nearest == np.arange(300)[:, None]).any(axis=1)
    assert 0.1 < own.mean() < 1
    assert cell == {
        "target": "mean",
        "metric": "R@5",
        "status": "ok",
        "n": 300,
        "n_min": min(own.sum(), 300 - own.sum()),
        "theta": pytest.approx(own.mean()),
        "chance": pytest.approx(5 / 300),
    }
    assert psi == pytest.approx(own - own.mean())

"""From score artifacts in the private store to aggregate rows.

Influence values are read here, turned into variances and comparisons, and dropped.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.api import Method, Metric, Trainable
from benchmark.engine.store import ArtifactError, Store
from benchmark.evaluation.embed import Embed
from benchmark.evaluation.score import MEAN, Score
from benchmark.reports.rows import Cell, row_of, versus_of, without_small_counts
from benchmark.stage import Stage, topological

if TYPE_CHECKING:
    from benchmark.reports.ceilings import Ceilings


@dataclass(frozen=True)
class Scored:
    """One head of a method at one fraction: its score stages, replicate 0 upwards."""

    method: str
    head: str
    modality: str
    fraction: float
    scores: tuple[Score, ...]

    @property
    def recipe_digest(self) -> str:
        """Digest without seed and fraction of the method, its head and its metrics."""
        return self.scores[0].recipe_digest


def cells_of(scored: Scored, store: Store) -> list[Cell]:
    """Return one cell per target and metric."""
    loaded = [_load(store, score) for score in scored.scores]
    first = scored.scores[0]
    metrics = {metric.name: metric for metric in first.metrics}
    cells = []
    for column, cell in enumerate(loaded[0][0]["cells"]):
        parts = [record["cells"][column] for record, _ in loaded]
        metric = metrics[cell["metric"]]
        bad = next((p["status"] for p in parts if p["status"] == "not estimable"), None)
        if bad is None:
            bad = next((p["status"] for p in parts if p["status"] != "ok"), "ok")
        usable = all(part["theta"] is not None for part in parts)
        values: dict[str, Any] = {}
        if usable and bad == "ok":
            psi = np.stack([influence[:, column] for _, influence in loaded], axis=1)
            defined = bool(np.isfinite(psi).all())
            values = {
                "theta": np.array([part["theta"] for part in parts]),
                "psi": psi if defined else None,
                "interval": None if defined else _drawn(store, scored, metric, cell, loaded),
            }
        elif bad == "ok":
            bad = "not estimable"
        cells.append(
            Cell(
                method=scored.method,
                head=scored.head,
                modality=scored.modality,
                target=cell["target"],
                metric=cell["metric"],
                fraction=scored.fraction,
                task_version=first.head.task.version,
                cohort_fingerprint=first.head.cohort.digest,
                recipe_digest=scored.recipe_digest,
                status=bad,
                replicates=tuple(range(len(parts))),
                score_digests=tuple(s.digest for s in scored.scores),
                scale=metric.scale,
                higher_is_better=metric.higher_is_better,
                n=cell["n"],
                positives=cell.get("positives"),
                n_min=cell["n_min"],
                chance=cell["chance"],
                targets=tuple(cell["members"]) if "members" in cell else None,
                unmatched=cell.get("without_match"),
                ties=max(record["ties"] for record, _ in loaded)
                if "ties" in loaded[0][0]
                else None,
                **values,
            )
        )
    if first.head.cohort.simulated:
        return cells
    return [without_small_counts(cell, loaded[0][0]["people"]) for cell in cells]


def rows_file(
    header: Mapping[str, Any],
    own: Sequence[Scored],
    others: Iterable[Sequence[Scored]],
    primary: Mapping[str, str],
    reference: Mapping[str, str],
    store: Store,
    ceilings: Ceilings | None = None,
) -> dict[str, Any]:
    """Return the rows file of one method and task.

    Comparisons: the primary endpoint against every other method, every target against the
    reference method, and all of these against the ceiling of what the method sees, where the
    cohort has ceilings. A reference whose modality differs (covariates) meets the others of its
    task.
    """
    cells, rows = [], []
    for scored in own:
        found = cells_of(scored, store)
        cost = run_of(scored, store)
        cells += found
        rows += [row_of(cell, cost) for cell in found]
    versus = []
    for theirs in others:
        if not theirs:
            continue
        table: dict[tuple, list[Cell]] = {}
        for scored in theirs:
            for cell in cells_of(scored, store):
                table.setdefault((cell.target, cell.metric, cell.fraction), []).append(cell)
        for cell in cells:
            for other in table.get((cell.target, cell.metric, cell.fraction), ()):
                # Covariates stand in both sections of a two-tower task.
                if {other.modality, cell.modality} == {"ecg", "ecg-cmr"}:
                    continue
                family = "ecg-cmr" if "ecg-cmr" in (other.modality, cell.modality) else "ecg"
                if cell.metric != primary.get(family):
                    continue
                tested = reference.get(family) in (cell.method, other.method)
                if cell.target != MEAN and not tested:
                    continue
                entry = versus_of(cell, other)
                if entry is not None:
                    versus.append(entry)
    for cell in cells if ceilings is not None else ():
        if cell.metric in primary.values() and (entry := ceilings.versus(cell)) is not None:
            versus.append(entry)
    return {**header, "rows": rows, "versus": versus}


def run_of(scored: Scored, store: Store) -> dict[str, Any]:
    """Return what the rows of a head cost, summed over replicates, shared stages counted once."""
    manifests: dict[str, tuple[Stage, dict[str, Any]]] = {}
    for stage in topological(scored.scores):
        # A damaged input of finished work is nobody's business here: its cost is left out.
        with contextlib.suppress(ArtifactError):
            manifests[stage.digest] = (stage, store.manifest(stage.digest))
    seconds = {"pretraining_seconds": 0.0, "embedding_seconds": 0.0, "head_seconds": 0.0}
    memory, device, git = 0, None, None
    for stage, manifest in manifests.values():
        if isinstance(stage, Method):
            kind = "pretraining_seconds"
        elif isinstance(stage, Embed):
            kind = "embedding_seconds"
        elif isinstance(stage, Trainable) or stage in [s.head for s in scored.scores]:
            kind = "head_seconds"
        else:
            continue
        seconds[kind] += manifest["seconds"]
        memory = max(memory, manifest.get("peak_memory_bytes") or 0)
        device = manifest.get("device") or device
        git = (manifest.get("provenance") or {}).get("git") or git
    rounded = {name: round(value, 2) for name, value in seconds.items()}
    return {**rounded, "peak_memory_bytes": memory, "device": device, "git_sha": git}


@functools.lru_cache(maxsize=256)
def _load(store: Store, score: Score) -> tuple[dict[str, Any], np.ndarray]:
    folder = store.open(score)
    record = json.loads((folder / "score.json").read_text())
    return record, np.load(folder / "influence.npy")


def _drawn(
    store: Store, scored: Scored, metric: Metric, cell: Mapping[str, Any], loaded: list
) -> tuple[float, float] | None:
    """Percentile interval of a metric without influence values, over people and replicates.

    Draw b resamples the same people in every replicate, and replicates with replacement.
    """
    targets = [c["target"] for c in loaded[0][0]["cells"] if c["metric"] == metric.name]
    place = targets.index(cell["target"])
    files = [store.open(score) / f"draws_{metric.name}.npy" for score in scored.scores]
    if not files[0].exists():
        return None
    draws = np.stack([np.load(file)[:, place] for file in files])
    picked = np.random.default_rng(0).integers(len(draws), size=(draws.shape[1], len(draws)))
    mean = np.take_along_axis(draws.T, picked, axis=1).mean(1)
    lo, hi = np.nanquantile(mean, [0.025, 0.975])
    return float(lo), float(hi)

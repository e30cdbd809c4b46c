"""Score artifacts in the private store, opened as cells: individual-level, never written."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.api import Metric
from benchmark.cohorts.cohort import CohortData
from benchmark.engine.store import Store
from benchmark.evaluation.score import Score, endpoint_targets, means, measured, training_counts
from benchmark.reports.files import grouped
from benchmark.reports.rows import Cell, without_small_counts


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


def cells_of(
    scored: Scored, store: Store, wanted: Callable[[str, str], bool] | None = None
) -> list[Cell]:
    """Return one cell per target and metric; where told, only for those that are ``wanted``."""
    loaded = [_load(store, score) for score in scored.scores]
    return _cells(scored, scored.scores[0].metrics, loaded, store, wanted)


def further_cells(scored: Scored, store: Store) -> list[Cell]:
    """Return one cell per target and further metric of the task, measured now.

    Empty where the store has given away the predictions and kept their scores.
    """
    further = scored.scores[0].head.task.further
    if not further or not all(store.has(score.head.digest) for score in scored.scores):
        return []
    loaded = [_measure(store, score) for score in scored.scores]
    return _cells(scored, further, loaded, store) if loaded[0][0]["cells"] else []


@functools.lru_cache(maxsize=4)
def _people(folder: Path) -> CohortData:
    """Return the cohort in a folder: the split of its people follows from a hash of each."""
    return CohortData(folder)


def _measure(store: Store, score: Score) -> tuple[dict[str, Any], np.ndarray]:
    """Return what `_load` would, of the further metrics."""
    head, task = score.head, score.head.task
    cohort, folder = _people(store.open(head.cohort)), store.open(head)
    predictions = head.predictions(folder, cohort)
    averaged = means(task, endpoint_targets(task, cohort, head.fraction))
    cells: list[dict[str, Any]] = []
    columns: list[np.ndarray] = []
    for metric in task.further:
        if metric.applies(predictions):
            block, values = measured(metric, predictions, task, averaged, training_counts(folder))
            cells += block
            columns += values
    people = len(cohort.rows("test"))
    return {"cells": cells, "people": people}, np.stack(columns or [np.empty(people)], axis=1)


def _cells(
    scored: Scored,
    measures: Sequence[Metric],
    loaded: Sequence[tuple[dict[str, Any], np.ndarray]],
    store: Store,
    wanted: Callable[[str, str], bool] | None = None,
) -> list[Cell]:
    first = scored.scores[0]
    metrics = {metric.name: metric for metric in measures}
    cells = []
    for column, cell in enumerate(loaded[0][0]["cells"]):
        if wanted is not None and not wanted(cell["target"], cell["metric"]):
            continue
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
                cohort_fingerprint=grouped(first.head.cohort.digest),
                recipe_digest=grouped(scored.recipe_digest),
                status=bad,
                replicates=tuple(range(len(parts))),
                score_digests=tuple(s.digest for s in scored.scores),
                scale=metric.scale,
                share=metric.share,
                higher_is_better=metric.higher_is_better,
                n=cell["n"],
                positives=cell.get("positives"),
                # Of a share of people it differs between replicates, each of which is shown.
                n_min=min(part["n_min"] for part in parts),
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


# Every method is compared with every other: a task's scores are read again for each of them.
@functools.lru_cache(maxsize=4096)
def _load(store: Store, score: Score) -> tuple[dict[str, Any], np.ndarray]:
    """Return the record, and influence values that the system keeps in memory as it can."""
    folder = store.open(score)
    record = json.loads((folder / "score.json").read_text())
    # As a plain array, since a column of a memmap costs more to take than to read.
    return record, np.asarray(np.load(folder / "influence.npy", mmap_mode="r"))


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

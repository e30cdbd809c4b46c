"""Ceilings of a task: what oracles reach on the very people and labels that methods are tested on.

``ceilings.json`` stands beside the boards of a simulated cohort:

    {"cohort", "preset", "scale", "cohort_fingerprint",
     "tasks": {name: {"version", "people", "endpoint",
                      "ceilings": [{"modality", "target", "metric", "value", "lo", "hi", ...}]}}}

It holds aggregates alone and follows from the scores of `benchmark.evaluation.oracle.Oracle` and
from which lists of targets the rows average: at few labels a mean may be over fewer diseases, and
its ceiling is the mean over the same ones. Real cohorts have no ceilings, and retrieval has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.api import UserError
from benchmark.engine.store import Store
from benchmark.evaluation.score import MEAN, Score
from benchmark.reports.cells import Scored, cells_of
from benchmark.reports.files import dumps, replace_file, turn
from benchmark.reports.rows import Cell, row_of, versus_of

FILE = "ceilings.json"
ORACLE = "oracle"
"""What comparisons call the other side, its head included."""
FIELDS = ("cohort", "preset", "scale", "cohort_fingerprint", "tasks")
FIGURES = ("status", "value", "lo", "hi", "se", "n", "positives", "chance", "digest")


@dataclass(frozen=True)
class Ceilings:
    """The ceilings of a task with what a paired test needs; individual-level, never written.

    ``cells`` has one for each (modality, target, metric), ``people`` is how many the oracles were
    fitted on.
    """

    cells: Mapping[tuple[str, str, str], Cell]
    people: int

    @classmethod
    def of(cls, scores: Mapping[str, Score], store: Store) -> Ceilings:
        """Read the scores of oracles, by modality."""
        cells = {}
        for modality, score in scores.items():
            for cell in cells_of(Scored(ORACLE, ORACLE, modality, 1.0, (score,)), store):
                cells[modality, cell.target, cell.metric] = cell
        return cls(cells, max((score.head.people for score in scores.values()), default=0))

    def at(
        self, modality: str, target: str, metric: str, targets: tuple[str, ...] | None
    ) -> Cell | None:
        """Return the ceiling of a target, or of the mean over ``targets``; None without one."""
        if target != MEAN and targets is None:
            return self.cells.get((modality, target, metric))
        parts = [self.cells.get((modality, name, metric)) for name in targets or ()]
        if not parts or not all(part and part.usable for part in parts):
            return None
        return replace(
            parts[0],
            target=target,
            theta=np.mean([part.theta for part in parts], axis=0),
            psi=np.mean([part.psi for part in parts], axis=0),
            n=max(part.n for part in parts),
            n_min=min(part.smallest for part in parts),
            positives=None,
            chance=float(np.mean([part.chance for part in parts])),
            targets=tuple(targets),
        )

    def versus(self, cell: Cell) -> dict[str, Any] | None:
        """Compare a cell with the ceiling of what its method sees; None without one.

        An oracle has no replicates: every replicate of the method meets the same predictions.
        """
        ceiling = self.at(cell.modality, cell.target, cell.metric, cell.targets)
        if ceiling is None or not ceiling.usable or ceiling.psi is None:
            return None
        count = len(cell.replicates)
        repeated = replace(
            ceiling,
            fraction=cell.fraction,
            replicates=cell.replicates,
            theta=ceiling.theta.repeat(count),
            psi=ceiling.psi.repeat(count, axis=1),
            score_digests=ceiling.score_digests * count,
        )
        entry = versus_of(cell, repeated)
        return None if entry is None else {**entry, "other_digest": ceiling.digest}

    def section(self, version: int, averaged: Iterable[tuple[str, ...]]) -> dict[str, Any]:
        """Return the publishable part of a task; ``averaged`` are lists of targets of means."""
        singles = {key: cell for key, cell in self.cells.items() if key[1] != MEAN}
        endpoint = next((c.targets for k, c in self.cells.items() if k[1] == MEAN), None) or ()
        entries = [
            _entry(cell) | ({"targets": list(cell.targets)} if cell.targets else {})
            for _, cell in sorted(singles.items())
        ]
        for targets in sorted({tuple(endpoint), *map(tuple, averaged)}):
            for modality, metric in sorted({(key[0], key[2]) for key in singles}):
                cell = self.at(modality, MEAN, metric, targets)
                entries += [] if cell is None else [_entry(cell) | {"targets": list(targets)}]
        return {
            "version": version,
            "people": self.people,
            "endpoint": list(endpoint),
            "ceilings": entries,
        }


def _entry(cell: Cell) -> dict[str, Any]:
    result = row_of(cell)["result"]
    place = {"modality": cell.modality, "target": cell.target, "metric": cell.metric}
    return place | {name: result[name] for name in FIGURES}


def write_ceilings(
    folder: Path, header: Mapping[str, Any], task: str, section: Mapping[str, Any]
) -> Path:
    """Put a task's section into ``ceilings.json``; those of other cohorts do not stay beside it.

    ``header`` holds the first four of `FIELDS`.
    """
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with turn(path.parent):
        old = read_ceilings(folder) or {}
        same = old.get("cohort_fingerprint") == header["cohort_fingerprint"]
        tasks = {**(old["tasks"] if same else {}), task: section}
        replace_file(path, dumps({**header, "tasks": tasks}))
    return path


def read_ceilings(folder: Path) -> dict[str, Any] | None:
    """Read the ceilings beside some boards; None where there are none.

    Raises
    ------
    UserError
        When the file is not one of ceilings.
    """
    path = Path(folder) / FILE
    try:
        file = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} holds no ceilings: {error}") from None
    if not isinstance(file, dict) or not file.keys() >= set(FIELDS):
        raise UserError(f"{path} holds no ceilings: fields are missing")
    return file

"""From score artifacts in the private store to aggregate rows.

Influence values are read here, turned into variances and comparisons, and dropped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmark.api import Method, Trainable
from benchmark.engine.store import ArtifactError, Store
from benchmark.evaluation.embed import Embed
from benchmark.evaluation.score import MEAN
from benchmark.reports.ceilings import Ceilings
from benchmark.reports.cells import Scored, cells_of
from benchmark.reports.rows import Cell, row_of, versus_of
from benchmark.stage import Stage, topological


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

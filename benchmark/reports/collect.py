"""From score artifacts in the private store to aggregate rows.

Influence values are read here, turned into variances and comparisons, and dropped.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmark.api import Cohort, Method, Task, View
from benchmark.engine.store import ArtifactError, Store
from benchmark.evaluation.embed import Embed
from benchmark.evaluation.score import MEAN, Score
from benchmark.reports.ceilings import Ceilings
from benchmark.reports.cells import Scored, cells_of, further_cells
from benchmark.reports.rows import Cell, gap_of, row_of, versus_of
from benchmark.stage import Stage, topological


def rows_file(
    header: Mapping[str, Any],
    own: Sequence[Scored],
    others: Iterable[Sequence[Scored]],
    task: Task,
    store: Store,
    ceilings: Ceilings | None = None,
) -> dict[str, Any]:
    """Return the rows file of one method and task.

    Comparisons: the primary endpoint against every other method, every target against the
    reference method, and all of these against the ceiling of what the method sees, where the
    cohort has ceilings. A reference whose modality differs (covariates) meets the others of its
    task. Gaps: how far the primary endpoint came from the reference to the goal.
    """
    cells, rows = [], []
    for scored in own:
        found = cells_of(scored, store)
        cost = run_of(scored, store)
        cells += found
        rows += [row_of(cell, cost) for cell in (*found, *further_cells(scored, store))]
    versus: list[dict[str, Any] | None] = []
    landmarks: dict[str, dict[tuple, list[Cell]]] = {}
    references = set(task.reference.values())
    against_all = bool(references & {scored.method for scored in own})

    def wanted(theirs: Scored) -> Callable[[str, str], bool]:
        # The rest of a method's many targets is compared with nothing here: see `_compared`.
        every = against_all or theirs.method in references
        primary = set(task.primary.values())
        return lambda target, metric: metric in primary and (every or target == MEAN)

    for theirs in others:
        table: dict[tuple, list[Cell]] = {}
        for scored in theirs:
            for cell in cells_of(scored, store, wanted(scored)):
                table.setdefault((cell.target, cell.metric, cell.fraction), []).append(cell)
        landmarks |= {scored.method: table for scored in theirs[:1]}
        versus += [
            versus_of(cell, other)
            for cell in cells
            for other in table.get((cell.target, cell.metric, cell.fraction), ())
            if _compared(cell, other, task)
        ]
    if ceilings is not None:
        bounded = [cell for cell in cells if cell.metric in task.primary.values()]
        versus += [ceilings.versus(cell) for cell in bounded]
    return {
        **header,
        "rows": rows,
        "versus": [entry for entry in versus if entry is not None],
        "gaps": list(_gaps(cells, landmarks, task)),
    }


def _section(*modalities: str) -> str:
    """Section of a board in which rows stand: images alone and covariates beside the ECG."""
    return "ecg-cmr" if "ecg-cmr" in modalities else "ecg"


def _compared(a: Cell, b: Cell, task: Task) -> bool:
    section = _section(a.modality, b.modality)
    if section == "ecg-cmr" and not {a.modality, b.modality} <= {"ecg-cmr", "covariates"}:
        return False
    if a.metric != task.primary.get(section):
        return False
    # Image encoders have a reference of their own, where they stand in a section of their own.
    shared = {a.modality} & {b.modality}
    references = {task.reference.get(name) for name in (section, *shared)}
    return a.target == MEAN or bool(references & {a.method, b.method})


def _gaps(
    cells: Iterable[Cell], landmarks: Mapping[str, Mapping[tuple, list[Cell]]], task: Task
) -> Iterator[dict[str, Any]]:
    """Yield the gap of every endpoint between every row of the reference and of the goal."""
    for cell in cells:
        section = _section(cell.modality)
        if cell.target != MEAN or cell.metric != task.primary.get(section):
            continue
        what = (cell.target, cell.metric, cell.fraction)
        ends = (task.reference.get(section, ""), task.goal.get(section, ""))
        found = (landmarks.get(name, {}).get(what, ()) for name in ends)
        for reference, goal in itertools.product(*found):
            if (entry := gap_of(cell, reference, goal)) is not None:
                yield entry


def run_of(scored: Scored, store: Store) -> dict[str, Any]:
    """Return what the rows of a head cost, summed over replicates, shared stages counted once.

    Where several devices shared a training, ``device_seconds`` are those of pretraining and head on
    each of them. ``git_sha`` are the commits that made the stages, inputs first: a head may be
    newer than the training it reads. ``-dirty`` stands behind one whose files were changed.
    """
    manifests: dict[str, tuple[Stage, dict[str, Any]]] = {}
    stages = topological(scored.scores)
    for stage in stages:
        # A damaged input of finished work is nobody's business here: its cost is left out.
        with contextlib.suppress(ArtifactError):
            manifests[stage.digest] = (stage, store.manifest(stage.digest))
    seconds = {"pretraining_seconds": 0.0, "embedding_seconds": 0.0, "head_seconds": 0.0}
    memory, device = 0, None
    commits: dict[str, None] = {}
    devices, device_seconds = 1, 0.0
    methods = (stage for stage in stages if isinstance(stage, Method))
    before = {stage.digest for stage in topological(methods)}
    for stage, manifest in manifests.values():
        if isinstance(stage, Cohort | View | Score):
            continue
        if stage.digest in before:
            kind = "pretraining_seconds"
        elif isinstance(stage, Embed):
            kind = "embedding_seconds"
        else:
            kind = "head_seconds"
        seconds[kind] += manifest["seconds"]
        shared = manifest.get("devices") or 1  # older ones do not say
        devices = max(devices, shared)
        if kind != "embedding_seconds":
            device_seconds += manifest["seconds"] * shared
        memory = max(memory, manifest.get("peak_memory_bytes") or 0)
        device = manifest.get("device") or device
        made_by = manifest.get("provenance") or {}
        if commit := made_by.get("git"):
            commits[f"{commit}-dirty" if made_by.get("dirty") else commit] = None
    rounded = {name: round(value, 2) for name, value in seconds.items()}
    made = {"device": device, "git_sha": " ".join(commits) or None}
    run = {**rounded, "peak_memory_bytes": memory, **made}
    if devices > 1:
        run |= {"devices": devices, "device_seconds": round(device_seconds, 2)}
    return run

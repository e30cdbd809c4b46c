"""Scores in the store -> rows -> boards: what of the results is written, and where."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import Task, UserError
from benchmark.engine.store import Store
from benchmark.planning import (
    FRACTIONS,
    MOST_REPLICATES,
    Request,
    ceilings_of,
    jobs_of,
    why_not,
)
from benchmark.registry import registry
from benchmark.stage import Stage

if TYPE_CHECKING:
    from benchmark.reports.boards import TaskInfo
    from benchmark.reports.ceilings import Ceilings

RANKED_TRACK = "harmonised"
OVERRIDDEN = "overridden"
"""Folder beside rows and boards for methods with changed fields: no committed board shows them."""


def homes(request: Request, leaderboards: Path) -> dict[Path, tuple[str, ...]]:
    """Return the folders for rows and boards of the requested methods, and which belong in each."""
    changed = tuple(name for name in request.methods if registry().method(name).changes)
    others = tuple(name for name in request.methods if name not in changed)
    places = {leaderboards: others, leaderboards / OVERRIDDEN: changed}
    return {home: names for home, names in places.items() if names}


def changed_fields(request: Request) -> Iterator[str]:
    """Say of each method with changed fields what runs, and where its rows stay."""
    for name in request.methods:
        entry = registry().method(name)
        parts = []
        for path, told in entry.overrides(request.track, request.scale).items():
            if told["value"] == told["instead_of"]:
                parts.append(f"{path} is {told['value']!r} as it is anyway")
            else:
                text = f"{path} is {told['value']!r} instead of {told['instead_of']!r}"
                why = f", which the {request.track} track fixes for all" if told["fixed"] else ""
                parts.append(f"{text}{why}")
        if parts:
            yield f"{name}: {'; '.join(parts)}. Its rows stay under {OVERRIDDEN}/."


def prepare_folder(request: Request, leaderboards: Path) -> None:
    """Make the folder of the rows and read what is there.

    Raises
    ------
    UserError
        When it cannot be written to or holds something that is no rows file, or no ceilings.
    """
    from benchmark.reports.ceilings import read_ceilings
    from benchmark.reports.rows import read_rows

    rows = leaderboards / "rows" / board_folder(request)
    try:
        rows.mkdir(parents=True, exist_ok=True)
        (leaderboards / board_folder(request)).mkdir(exist_ok=True)
        writable = os.access(rows, os.W_OK)
    except OSError as error:
        raise UserError(f"cannot write to {leaderboards}: {error.strerror}") from None
    if not writable:
        raise UserError(f"cannot write to {leaderboards}: no permission")
    read_rows(rows)
    read_ceilings(leaderboards / board_folder(request))


def scored(
    request: Request,
    store: Store,
    task: Task,
    only: Sequence[str] = (),
    most: int = MOST_REPLICATES,
) -> dict[str, dict[tuple, tuple]]:
    """Return, per method of the track, its score stages that are in the store.

    Methods with changed fields are among them where the request names them; ``only`` these are
    looked for, where some are named.
    They are grouped by (head, modality, fraction); replicates are taken from 0 upwards without a
    gap and up to ``most``, so that equal stores give equal rows. All standard label fractions are
    looked for, not only those of the request.
    """
    fractions = tuple({*FRACTIONS, *request.fractions})
    either = [replace(request, fractions=fractions, modality=m) for m in ("", "cmr")]
    cohort = request.make_cohort()

    known = registry()
    changed = {name: known.method(name) for name in request.methods}
    found: dict[str, dict[tuple, tuple]] = {}
    for name, entry in {**known.methods, **changed}.items():
        if request.track not in entry.variant.tracks or (only and name not in only):
            continue
        groups: dict[tuple, tuple] = {}
        for replicate in range(most):
            grown = False
            jobs = (j for r in either for j in jobs_of(entry, task, cohort, replicate, r))
            for job in jobs:
                key = (job.head, job.modality, job.fraction)
                if len(groups.get(key, ())) == replicate and _usable(job.score, store):
                    groups[key] = (*groups.get(key, ()), job.score)
                    grown = True
            if not grown:
                break
        if groups:
            found[name] = groups
    return found


def _usable(score: Stage, store: Store) -> bool:
    return store.has(score.digest) and store.damage(score) is None


def open_ceilings(request: Request, task: Task, store: Store) -> Ceilings | None:
    """Return the ceilings that are in the store; None without any."""
    from benchmark.reports.ceilings import Ceilings

    scores = {n: s for n, s in ceilings_of(request, task).items() if _usable(s, store)}
    return Ceilings.of(scores, store) if scores else None


def record_ceilings(request: Request, task: Task, ceilings: Ceilings, leaderboards: Path) -> None:
    """Write a task's ceilings, with one for every list of targets that a recorded row averages."""
    from benchmark.reports.ceilings import write_ceilings
    from benchmark.reports.rows import grouped, read_rows

    folder, fingerprint = board_folder(request), grouped(request.make_cohort().digest)
    results = [
        row["result"]
        for rows in rows_folders(request, leaderboards)
        for file in read_rows(*rows.glob(f"*/{task.name}"))
        for row in file["rows"]
    ]
    averaged = {
        tuple(result["targets"])
        for result in results
        if result.get("targets")
        and (result["task_version"], result["cohort_fingerprint"]) == (task.version, fingerprint)
    }
    header = {
        "cohort": request.cohort,
        "preset": None if request.preset == "default" else request.preset,
        "scale": request.scale,
        "cohort_fingerprint": fingerprint,
    }
    section = ceilings.section(task.version, averaged)
    write_ceilings(leaderboards / folder, header, task.name, section)


def own_files(
    request: Request,
    task: Task,
    store: Store,
    ceilings: Ceilings | None,
    most: int = MOST_REPLICATES,
) -> list[dict[str, Any]]:
    """Return the rows files of the requested methods, from the scores in the store.

    Of at most the first ``most`` replicates.
    """
    from benchmark.reports.cells import Scored
    from benchmark.reports.collect import rows_file

    files = []
    available = {
        name: [Scored(name, *key, scores=scores) for key, scores in groups.items()]
        for name, groups in scored(request, store, task, most=most).items()
    }
    for name in request.methods:
        if name not in available:
            continue
        entry = registry().method(name)
        header = {
            "method": name,
            "task": task.name,
            "cohort": request.cohort,
            "preset": None if request.preset == "default" else request.preset,
            "scale": request.scale,
            "track": request.track,
            "role": entry.variant.role,
            "uses_labels": entry.uses_labels,
        }
        if entry.changes:
            header["overrides"] = entry.overrides(request.track, request.scale)
        others = [
            theirs
            for other, theirs in available.items()
            # A published file names no method that only exists here.
            if other != name and (entry.changes or other in registry().methods)
        ]
        files.append(rows_file(header, available[name], others, task, store, ceilings))
    return files


def record(files: Sequence[dict[str, Any]], leaderboards: Path) -> list[str]:
    """Merge rows into the published ones; return what stayed of those, and why."""
    from benchmark.reports.rows import made_again, row_key, write_rows

    kept, rows = [], leaderboards / "rows"
    for file in files:
        stored = {row_key(r): r["result"] for r in write_rows(rows, file)["rows"]}
        reasons = set()
        for row in file["rows"]:
            result, now = row["result"], stored[row_key(row)]
            if now["digest"] != result["digest"]:
                reasons.add("they have more replicates")
            elif made_again(now, result):
                reasons.add(
                    "they come of the same stages, made on another machine or by other code, and "
                    "are compared with more methods"
                )
        kept += [f"{file['method']} on {file['task']}: {why}" for why in sorted(reasons)]
    return kept


def rows_folders(request: Request, leaderboards: Path) -> tuple[Path, ...]:
    """Return where the rows of a board are: those of changed fields stand beside the recorded."""
    own = leaderboards / "rows" / board_folder(request)
    if leaderboards.name == OVERRIDDEN:
        return leaderboards.parent / "rows" / board_folder(request), own
    return (own,)


def render_boards(request: Request, leaderboards: Path) -> dict[str, Path]:
    """Render from rows and ceilings alone: the boards of all tasks that have rows, and the pages.

    All of them, since a page of old and new boards would mix what was computed by other code. Tasks
    that decide come first, diagnostics last. Returns the Markdown files by task.
    """
    from benchmark.reports.boards import render, render_index
    from benchmark.reports.files import turn

    rows = rows_folders(request, leaderboards)
    out = leaderboards / board_folder(request)
    own = rows[-1] / RANKED_TRACK
    tasks = {n: task for n, task in registry().tasks.items() if (own / n).exists()}
    order = sorted(tasks, key=lambda n: (not tasks[n].confirmatory, tasks[n].kind == "diagnostic"))
    tasks = {name: tasks[name] for name in order}
    infos = [board_of(request, task) for task in tasks.values()]
    if leaderboards.name == OVERRIDDEN:
        infos = [replace(info, title=f"{info.title}, with changed fields") for info in infos]
    out.mkdir(parents=True, exist_ok=True)
    with turn(out):  # or who has read the rows first might write last
        render(rows, out, *infos)
        render_index(rows, out, tasks)
    return {name: out / f"{name}.md" for name in tasks}


def board_of(request: Request, task: Task) -> TaskInfo:
    """Return what a board needs to know of its task."""
    from benchmark.evaluation.score import MEAN, means
    from benchmark.reports.boards import Expected, TaskInfo
    from benchmark.reports.rows import grouped

    cohort = request.make_cohort()
    entries = {n: e for n, e in registry().methods.items() if request.track in e.variant.tracks}
    # Whatever this request asks for: a board follows from the rows alone.
    everything = replace(request, fractions=FRACTIONS, modality="")
    jobs = {n: list(jobs_of(e, task, cohort, 0, everything)) for n, e in entries.items()}
    return TaskInfo(
        name=task.name,
        title=task.title,
        version=task.version,
        simulated=cohort.simulated,
        kind=task.kind,
        confirmatory=task.confirmatory,
        metrics=tuple(metric.name for metric in task.metrics),
        primary=task.primary,
        reference=task.reference,
        goal=task.goal,
        units={name: unit for name, unit in task.units.items() if name in task.names},
        groups={
            name.removeprefix(f"{MEAN} of "): targets
            for name, targets in means(task, task.names).items()
            if name != MEAN
        },
        methods=tuple(
            Expected(
                name=name,
                role=entry.variant.role,
                uses_labels=entry.uses_labels,
                places=frozenset((job.modality, job.fraction) for job in jobs[name]),
                heads=frozenset(job.head for job in jobs[name]),
                why_not="" if jobs[name] else why_not(entry, task, cohort, everything),
            )
            for name, entry in entries.items()
        ),
        fractions=(1.0,) if task.predict is not None else FRACTIONS,
        heads=("none",) if task.predict is not None else ("linear",),
        fingerprint=grouped(cohort.digest),
        ceilings=bool(ceilings_of(request, task)),
    )


def board_folder(request: Request) -> str:
    """Return ``<cohort>[-<preset>]-<scale>``."""
    return f"{request.make_cohort().title}-{request.scale}"

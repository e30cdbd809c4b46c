"""The published tables, each number beside what the method here gives in either track.

A table expands to the jobs of exactly its cells, in the paper track on no target that it does not
need; what is in the store already is not done again.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import Task, UserError
from benchmark.planning import Job, Request, jobs_of, why_not
from benchmark.recording import RANKED_TRACK, board_folder
from benchmark.registry import registry
from benchmark.reports.published import ARCHITECTURE, CHANCE, Line, Remark, Table
from benchmark.runner import bring

if TYPE_CHECKING:
    from benchmark.engine.progress import Report, Reporter
    from benchmark.engine.store import Store
    from benchmark.reports.rows import Cell
    from benchmark.stage import Stage

MOST_DECIMALS = 3
NOT_RUN, NOT_APPLICABLE = "not run", "not applicable"


@dataclass(frozen=True)
class Value:
    """What stands here for a published number; without ``mean``, ``status`` says why.

    ``note`` explains the status, or a number of replicates below what was asked for.
    """

    line: Line
    method: str
    head: str = ""
    mean: float | None = None
    sd: float | None = None
    replicates: int = 0
    status: str = ""
    note: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus the published, in the printed unit; None where they must not be compared."""
        if self.mean is None or not self.line.compare:
            return None
        return self.mean - float(self.line.printed["mean"])


@dataclass
class Reproduction:
    """A table with our values, the stages behind them, and where it is.

    The place is None after a dry run, and where the work was left to a scheduler.
    """

    table: Table
    request: Request
    values: list[Value] = field(default_factory=list)
    report: Report | None = None
    path: Path | None = None
    targets: tuple[Stage, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything that was to run is there."""
        return self.report is None or self.report.ok


@dataclass(frozen=True)
class Source:
    """The jobs of one cell block, one a replicate; without any, ``reason`` says why."""

    jobs: tuple[Job, ...] = ()
    reason: str = ""


def reproduce(
    table: Table,
    request: Request,
    store: Store,
    leaderboards: Path,
    *,
    dry_run: bool = False,
    reporter: Reporter | None = None,
    **execution: Any,
) -> Reproduction:
    """Run what a table needs and write it, with our values, as Markdown.

    Parameters
    ----------
    table
        One of `tables`.
    request
        Track, scale, cohort and replicates; methods and tasks are the table's.

    Raises
    ------
    UserError
        When the folder of the leaderboards cannot be written to.
    """
    from benchmark.engine.progress import Reporter, print_plan

    reporter = reporter or Reporter()
    firsts = {_key(line, request): line for line in reversed(table.lines)}
    sources = {key: _source(line, table, request) for key, line in reversed(firsts.items())}
    targets = tuple({j.score.digest: j.score for s in sources.values() for j in s.jobs}.values())
    done = Reproduction(table, request, targets=targets)
    print_plan(targets, store, reporter)
    if dry_run:
        said = {
            f"{NOT_APPLICABLE}: {' '.join(firsts[key].row(table.rows))}: {source.reason}": None
            for key, source in sources.items()
            if source.reason
        }
        for text in said:
            reporter.line(text)
        return done
    path = leaderboards / board_folder(request) / "reproduce" / request.track
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror}") from None
    if targets:
        done.report = bring(targets, store, reporter=reporter, **execution)
        if done.report.queued:
            return done
    cells = {key: _cells(source, store) for key, source in sources.items()}
    for line in table.lines:
        key = _key(line, request)
        done.values.append(_value(line, sources[key], cells[key], request))
    done.path = path / f"{table.name.lower().replace(' ', '-')}.md"
    done.path.write_text(markdown(done))
    return done


def _key(line: Line, request: Request) -> tuple[str, ...]:
    method = line.methods.get(request.track, line.without)
    return method, line.task, line.head, line.modality


def _source(line: Line, table: Table, request: Request) -> Source:
    """Return the jobs of a line in every replicate."""
    name = line.methods.get(request.track)
    if name is None:
        return Source(reason=line.without)
    try:
        # Also what a plugin that does not import leaves out.
        entry = registry().method(name)
    except UserError as error:
        return Source(reason=str(error))
    if line.kind == ARCHITECTURE:
        return Source()
    task = _part(table, registry().task(line.task), request)
    # Every two-tower method is asked for ecg-cmr anyway.
    modality = "" if line.modality == "ecg-cmr" else line.modality
    request = dataclasses.replace(request, modality=modality, fractions=(1.0,))
    cohort = request.make_cohort()
    jobs = tuple(
        job
        for replicate in range(request.replicates)
        for job in jobs_of(entry, task, cohort, replicate, request)
        if job.modality == line.modality
        and (request.track == RANKED_TRACK or job.head == line.head)
    )
    return Source(jobs, "" if jobs else why_not(entry, task, cohort, request))


def _part(table: Table, task: Task, request: Request) -> Task:
    """Return the task, restricted in the paper track to what the table prints of it.

    The harmonised track learns a task with all its targets, and shares the cells of its boards.
    """
    if request.track == RANKED_TRACK:
        return task
    lines = (line for line in table.lines if line.task == task.name)
    wanted = {name for line in lines for name in line.members(task)}
    if table.groups:
        wanted = {n for group in task.groups.values() if wanted & {*group} for n in group}
    only = tuple(name for name in task.target_names if name in wanted)
    return task if only == task.target_names else task.replace(only=only)


def _cells(source: Source, store: Store) -> dict[tuple[str, str], Cell]:
    """Return the cells, by target and metric, of the replicates that are in the store."""
    from benchmark.reports.cells import Scored, cells_of

    def there(job: Job) -> bool:
        return store.has(job.score.digest) and store.damage(job.score) is None

    jobs = list(itertools.takewhile(there, source.jobs))
    if not jobs:
        return {}
    first, scores = jobs[0], tuple(job.score for job in jobs)
    scored = Scored(first.method.name, first.head, first.modality, first.fraction, scores)
    return {(cell.target, cell.metric): cell for cell in cells_of(scored, store)}


def _value(
    line: Line, source: Source, cells: Mapping[tuple[str, str], Cell], request: Request
) -> Value:
    import numpy as np

    method = line.methods.get(request.track, "")
    value = functools.partial(Value, line, method, source.jobs[0].head if source.jobs else "")
    if source.reason:
        return value(status=NOT_APPLICABLE, note=source.reason)
    if line.kind == ARCHITECTURE:
        return value(mean=_architecture(line, request), replicates=1)
    members = line.members(registry().task(line.task))
    if not members:
        return value(status=NOT_APPLICABLE, note="the cohorts have no such target")
    if not cells:
        return value(status=NOT_RUN)
    own = [cells[name, line.metric] for name in members]
    unusable = next((cell for cell in own if not cell.usable), None)
    if unusable is not None:
        return value(status=unusable.status)
    if line.kind == CHANCE:
        theta = np.array([np.mean([cell.chance for cell in own])])
    else:
        theta = np.mean([cell.theta for cell in own], axis=0)
    theta, made = theta * line.factor, len(own[0].replicates)
    return value(
        mean=float(theta.mean()),
        sd=float(theta.std(ddof=1)) if len(theta) > 1 else None,
        replicates=made,
        note="" if made == request.replicates else f"{made} of {request.replicates} replicates",
    )


def _architecture(line: Line, request: Request) -> float:
    """Return a fact about the ECG encoder of a method; parameters in millions."""
    from benchmark.listing import count_parameters

    entry = registry().method(line.methods[request.track])
    if line.target == "parameters":
        # As papers count them: without the table of positions.
        counted = count_parameters(entry, request.scale, request.track)
        return counted[line.modality]["parameters"] / 1e6
    return float(getattr(entry.on_track(request.track, request.scale).ecg_encoder, line.target))


# ---------------------------------------------------------------------------------- the text


def markdown(done: Reproduction) -> str:
    """Return the table in the paper's own layout: ours, published and difference in each cell."""
    table, notes = done.table, Footnotes()
    text = [f"# {table.name}: {table.title}", f"Published: {table.citation}. {_setting(done)}"]
    values = {id(value.line): value for value in done.values}
    for lines in table.parts():
        part = [values[id(line)] for line in lines]
        metrics = list(dict.fromkeys(line.printed["metric"] for line in lines))
        if len(metrics) == 1 and "metric" not in table.columns and metrics != ["value"]:
            text.append(f"{metrics[0]}:")
        shared = [r for r in lines[0].remarks if all(r in x.remarks for x in lines)]
        text += [remark.text for remark in shared]
        text.append(_grid(table, part, notes, shared))
    text.append("\n".join(notes.lines()))
    return "\n\n".join(block for block in text if block) + "\n"


def _setting(done: Reproduction) -> str:
    request = done.request
    if all(line.kind == ARCHITECTURE for line in done.table.lines):
        return f"Here: {request.track} track, scale {request.scale}."
    count = f"{request.replicates} replicate" + ("s" if request.replicates > 1 else "")
    cohort = request.make_cohort()
    said = [f"Here: {request.track} track, scale {request.scale}, cohort {cohort.title}, {count}."]
    if request.track == RANKED_TRACK:
        said.append(
            "All methods have the same encoders, head and budget of a stage: counterparts of the "
            "published rows, not reproductions."
        )
    elif request.scale != "full":
        said.append("Networks and budgets are cut to a rehearsal, whose numbers mean nothing.")
    if cohort.simulated:
        said.append(
            "Simulated hearts are not UK Biobank: a difference to a published number tells of "
            "other people, not of an implementation."
        )
    said.append("± is the SD over replicates.")
    return "\n".join(said)


class Footnotes:
    """Numbers texts in the order in which they are first used."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, texts: Sequence[str]) -> str:
        """Return what stands behind a cell, such as `` [1] [3]``."""
        numbers = [self._numbers.setdefault(t, len(self._numbers) + 1) for t in texts if t]
        return "".join(f" [{number}]" for number in numbers)

    def lines(self) -> Iterator[str]:
        """Give the list below the table."""
        return (f"- [{number}] {text}" for text, number in self._numbers.items())


def _grid(table: Table, values: Sequence[Value], notes: Footnotes, shared: Sequence[Remark]) -> str:
    from tabulate import tabulate

    columns = list(dict.fromkeys(value.line.row(table.columns) for value in values))
    printed: dict[tuple[str, ...], dict[tuple[str, ...], Value]] = {}
    for value in values:
        row = printed.setdefault(value.line.row(table.rows), {})
        row[value.line.row(table.columns)] = value
    body = []
    for row, own in printed.items():
        method = next(iter(own.values())).method
        cells = [_texts(own[c], notes, shared) if c in own else ("-",) * 3 for c in columns]
        first = [*row, f"`{method}`" if method else "here", *(cell[0] for cell in cells)]
        blank = [""] * len(row)
        body.append(first)
        body.append([*blank, "published", *(cell[1] for cell in cells)])
        body.append([*blank, "difference", *(cell[2] for cell in cells)])
    heads = [*table.rows, "", *(" ".join(column) for column in columns)]
    align = ["left"] * (len(table.rows) + 1) + ["right"] * len(columns)
    return tabulate(body, heads, tablefmt="pipe", colalign=align, disable_numparse=True)


def _texts(value: Value, notes: Footnotes, shared: Sequence[Remark]) -> tuple[str, str, str]:
    """Return what is printed for ours, the published and the difference."""
    printed = value.line.printed
    decimals = min(len(printed["mean"].partition(".")[2]), MOST_DECIMALS)
    ours = value.status
    if value.mean is not None:
        ours = f"{value.mean:.{decimals}f}"
        ours += "" if value.sd is None else f" ± {value.sd:.{decimals}f}"
    ours += notes.mark([value.note])
    own = [remark for remark in value.line.remarks if remark not in shared]
    published = printed["mean"] + (f" ± {printed['std']}" if printed["std"] else "")
    published += notes.mark([remark.text for remark in own if remark.compare])
    if value.line.compare:
        difference = "-"
        if value.difference is not None:
            difference = f"{round(value.difference, decimals) + 0.0:+.{decimals}f}"  # no -0
    else:
        marks = notes.mark([remark.text for remark in own if not remark.compare])
        difference = f"not compared{marks}"
    return ours, published, difference


def as_json(done: Reproduction) -> dict[str, Any]:
    """Return the table for programs."""
    request = done.request
    return {
        "table": done.table.name,
        "citation": done.table.citation,
        "track": request.track,
        "scale": request.scale,
        "cohort": request.make_cohort().title,
        "replicates": request.replicates,
        "cells": [
            {
                **{name: value.line.printed[name] for name in _SHOWN},
                "kind": value.line.kind,
                "here": {
                    "method": value.method or None,
                    "head": value.head or None,
                    "task": value.line.task or None,
                    "mean": value.mean,
                    "sd": value.sd,
                    "replicates": value.replicates,
                    "status": value.status or "ok",
                    "note": value.note or None,
                },
                "published": {name: _number(value.line.printed[name]) for name in ("mean", "std")},
                "difference": value.difference,
                "compared": value.line.compare,
                "remarks": [remark.text for remark in value.line.remarks],
            }
            for value in done.values
        ],
    }


_SHOWN = ("modality", "method", "variant", "eval", "task", "target", "metric")


def _number(text: str) -> float | None:
    value = float(text or "nan")
    return value if math.isfinite(value) else None

"""The papers' numbers beside ours, table by table, from board documents alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from benchmark.reports.boards.info import TRACK
from benchmark.reports.boards.recorded import MEAN, group_target
from benchmark.reports.page.figures import Point, agreement
from benchmark.reports.published import ARCHITECTURE, CHANCE, QUOTED, Line, Table

NOT_RUN = "not run"
MOST_DECIMALS = 3
NORMAL = 1.96
FEWEST = 3  # points of a plot
TASK = "published"
Cells = Mapping[tuple[str, str, str, str], Mapping[str, Any]]
"""Method, modality, target and metric to a cell of a board document."""


@dataclass(frozen=True)
class Pair:
    """One published number and ours, as text; ``notes`` count from 1.

    ``z`` is the difference in standard errors of both numbers.
    """

    row: str
    column: str
    method: str
    published: str
    ours: str
    difference: str
    z: str
    compare: bool
    notes: Sequence[int]


@dataclass(frozen=True)
class Beside:
    """A published table; ``where`` and ``labels`` choose it as they do a section."""

    where: Mapping[str, str]
    labels: Mapping[str, str]
    title: str
    citation: str
    pairs: Sequence[Pair]
    figures: Sequence[tuple[str, Markup]]
    notes: Sequence[str]
    shared: Sequence[str]


def beside(documents: Sequence[Mapping[str, Any]], published: Mapping[str, Table]) -> list[Beside]:
    """Return every published table of results with what the boards have for it.

    Tables of facts about networks are left out: no board holds them.
    """
    boards = {document["task"]: document for document in documents}
    cells = {task: _cells(document) for task, document in boards.items()}
    found = []
    for table in published.values():
        lines = [line for line in table.lines if line.kind != ARCHITECTURE]
        if not lines:
            continue
        numbers: dict[str, int] = {}
        shared = [r for r in lines[0].remarks if all(r in line.remarks for line in lines)]
        pairs = [
            _pair(table, line, boards.get(line.task), cells.get(line.task, {}), numbers, shared)
            for line in lines
        ]
        found.append(
            Beside(
                where={"task": TASK, "table": table.name},
                labels={"task": "Published beside ours", "table": table.name},
                title=f"{table.name}: {table.title}",
                citation=table.citation,
                pairs=[pair for pair, _ in pairs],
                figures=_figures([point for _, point in pairs if point]),
                notes=list(numbers),
                shared=[remark.text for remark in shared],
            )
        )
    return found


def _cells(document: Mapping[str, Any]) -> Cells:
    """All cells at all labels, those of the first head of each modality first."""
    found: dict[tuple[str, str, str, str], Mapping[str, Any]] = {}
    for section in document["sections"]:
        if section["fraction"] == 1.0:
            for cell in section["cells"]:
                key = (cell["method"], cell["modality"], cell["target"], cell["metric"])
                found.setdefault(key, cell)
    return found


def _pair(
    table: Table,
    line: Line,
    document: Mapping[str, Any] | None,
    cells: Cells,
    numbers: dict[str, int],
    shared: Sequence[Any],
) -> tuple[Pair, tuple[str, Point] | None]:
    """Return what the table shows of a line and, where both numbers are there, what a plot does."""
    printed = line.printed
    decimals = min(len(printed["mean"].partition(".")[2]), MOST_DECIMALS)
    method = line.methods.get(TRACK, "")
    ours, why = _ours(line, method, document, cells)
    reasons = [remark.text for remark in line.remarks if remark not in shared]
    reasons += ["quoted in that paper, from elsewhere"] if line.kind == QUOTED else []
    reasons += [why] if why else []
    value = ours and ours["value"]
    difference, z, point = "-", "-", None
    if value is not None and not line.compare:
        difference = "not compared"
    elif value is not None:
        difference = f"{value * line.factor - float(printed['mean']):+z.{decimals}f}"
        error = line.se
        known = error is not None and ours["se"] is not None
        if known:
            distance = value - float(printed["mean"]) / line.factor
            z = f"{distance / math.hypot(error, ours['se']):+z.1f}"
        half = None if error is None else NORMAL * error * line.factor
        ends = (None if ours[end] is None else ours[end] * line.factor for end in ("lo", "hi"))
        point = Point(float(printed["mean"]), half, value * line.factor, *ends)
    pair = Pair(
        row=" · ".join(dict.fromkeys(filter(None, line.row(table.rows)))),
        column=" ".join(filter(None, dict.fromkeys((line.title, printed["metric"])))),
        method=method or "-",
        published=printed["mean"] + (f" ± {printed['std']}" if printed["std"] else ""),
        ours=_shown(ours, line.factor, decimals),
        difference=difference,
        z=z,
        compare=line.compare,
        notes=[numbers.setdefault(reason, len(numbers) + 1) for reason in reasons],
    )
    return pair, point and (printed["metric"], point)


def _figures(points: Sequence[tuple[str, Point]]) -> list[tuple[str, Markup]]:
    """Return a plot for each printed metric with enough points to look at."""
    groups: dict[str, list[Point]] = {}
    for metric, point in points:
        groups.setdefault(metric, []).append(point)
    return [
        (metric, agreement(own, f"Published {metric} and ours; the table has the values."))
        for metric, own in groups.items()
        if len(own) >= FEWEST
    ]


def _ours(
    line: Line, method: str, document: Mapping[str, Any] | None, cells: Cells
) -> tuple[Mapping[str, Any] | None, str]:
    """Return our number, or nothing and where not plain why."""
    if not method:
        return None, f"no counterpart: {line.without}" if line.without else ""
    if document is None:
        return None, f"the task {line.task} has no board here"
    names = _members(line, document)
    if not names:
        return None, "the cohorts have no such target"
    own = [cells.get((method, line.modality, name, line.metric)) for name in names]
    if any(cell is None or cell["value"] is None for cell in own):
        return next((cell for cell in own if cell is not None), None) if len(own) == 1 else None, ""
    name = "chance" if line.kind == CHANCE else "value"
    mean = math.fsum(cell[name] for cell in own) / len(own)
    # The board's own mean brings an interval along, where it is over the same targets.
    whole = cells.get((method, line.modality, _together(line, names, document), line.metric))
    interval = whole is not None and name == "value"
    heads = dict.fromkeys(cell["head"] for cell in own)
    first = document["sections"][0]["head"]
    why = "" if name == "chance" or [*heads] == [first] else f"ours: {', '.join(heads)} head"
    return {"value": mean} | {n: whole[n] if interval else None for n in ("lo", "hi", "se")}, why


def _members(line: Line, document: Mapping[str, Any]) -> Sequence[str]:
    """Targets whose mean is meant."""
    if not line.group:
        return [line.target] if line.target else []
    if line.group != "all":
        return document["groups"].get(line.group, [])
    means = {MEAN, *map(group_target, document["groups"])}
    found = (cell["target"] for section in document["sections"] for cell in section["cells"])
    return [name for name in dict.fromkeys(found) if name not in means]


def _together(line: Line, names: Sequence[str], document: Mapping[str, Any]) -> str:
    """Return the target of the board that is the mean over exactly these, if there is one."""
    if len(names) == 1:
        return names[0]
    if any({*section["endpoint"]} == {*names} for section in document["sections"]):
        return MEAN
    return group_target(line.group)


def _shown(ours: Mapping[str, Any] | None, factor: float, decimals: int) -> str:
    if ours is None:
        return NOT_RUN
    if ours["value"] is None:
        return ours["status"]
    shown = f"{ours['value'] * factor:.{decimals}f}"
    if ours["lo"] is None:
        return shown
    ends = (f"{ours[end] * factor:.{decimals}f}" for end in ("lo", "hi"))
    return f"{shown} [{', '.join(ends)}]"

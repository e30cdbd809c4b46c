"""Published orderings, and whether the recorded rows put the same two methods in the same order.

An ordering is one method's printed number above another's in the same column of a table, or its
mean over the columns above the other's. Its counterpart here is the recorded paired comparison of
the two at all labels. Boards pair every two methods on the mean of their primary metric, and on a
single target only with the task's reference; elsewhere the order of the two values remains, which
no test stands behind.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmark.api import Task
from benchmark.registry import registry
from benchmark.reports.boards.info import NO_HEAD, Expected
from benchmark.reports.boards.recorded import MEAN, Difference, group_target
from benchmark.reports.boards.recorded import Line as Row
from benchmark.reports.boards.sections import Compared
from benchmark.reports.published import Line, Table
from benchmark.reports.rows import OK

SAME, OPPOSITE = "same", "opposite"
APART, OPEN, UNTESTED = "told apart", "not told apart", "untested"
NOT_RUN, NO_NUMBER = "not run", "no number"
ALL_LABELS = 1.0
NORMAL = 1.96
"""Standard errors on either side of a 95% interval."""
TIE = 1e-9
"""Below every printed difference; means of equal numbers differ by less."""

Key = tuple[str, str]
"""A method and the modality it reads: what stands in a printed row."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """What is scored: a metric, and the targets or groups of targets whose mean it is of."""

    metric: str
    targets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Ordering:
    """Two methods in published order, and what is recorded of the same two.

    Attributes
    ----------
    table, task
        Where it is printed, and whose rows are its counterpart.
    above, below
        Methods here; the first has the better published number.
    published, here
        The endpoints: what the paper prints, and what the rows hold.
    gap, error
        How far the published number is above, in the metric's unit, and the standard error of
        that over the paper's test people; None where they are not known. Taken as of two samples,
        so that it is too large for two methods on the same people.
    order
        `SAME`, `OPPOSITE` (also of two equal values), or why there is none: `NOT_RUN`, `NO_NUMBER`.
    strength
        `APART` where the 95% interval of the paired difference excludes 0, else `OPEN`;
        `UNTESTED` where the rows hold no such comparison; empty without an order.
    value, difference
        How far the first is above here, and the comparison where there is one; positive where the
        order is the same.
    """

    table: str
    task: str
    above: Key
    below: Key
    published: Endpoint
    here: Endpoint
    gap: float
    error: float | None
    order: str
    strength: str = ""
    value: float | None = None
    difference: Difference | None = None

    @property
    def close(self) -> bool:
        """Whether the paper's own test people leave open which of the two is better."""
        return self.error is not None and self.gap < NORMAL * self.error


def by_column(table: Table, boards: Mapping[str, Compared]) -> list[Ordering]:
    """Return the orderings within the columns of a table, ties left out.

    Parameters
    ----------
    table
        One of `benchmark.reports.published.tables`.
    boards
        The recorded rows of each task; lines of other tasks are passed over.
    """
    found: list[Ordering] = []
    for name, lines in _by_task(table, boards).items():
        columns: dict[tuple[str, ...], list[Line]] = {}
        for line in lines:
            columns.setdefault((line.title, line.printed["metric"]), []).append(line)
        for column in columns.values():
            task = registry().task(name)
            target = _target(column[0], task)
            if target is None:
                continue
            what = (target, column[0].metric, ALL_LABELS)
            endpoint = _over(column[:1], task)
            printed = {_key(line): [line] for line in column}
            found += _pairs(table, task, boards[name], printed, endpoint, endpoint, what)
    return found


def by_mean(table: Table, boards: Mapping[str, Compared]) -> list[Ordering]:
    """Return the orderings of means over the columns that two rows of a table both have.

    Of several metrics the boards' primary one is taken, or the first. The counterpart is the
    board's endpoint, which may be over other targets of the same task, or in another metric.
    """
    found: list[Ordering] = []
    for name, lines in _by_task(table, boards).items():
        task, board = registry().task(name), boards[name]
        printed_ones = list(dict.fromkeys(line.metric for line in lines))
        section = "ecg-cmr" if any(line.modality == "ecg-cmr" for line in lines) else "ecg"
        primary = task.primary.get(section)
        if primary is None:
            continue
        metric = primary if primary in printed_ones else printed_ones[0]
        printed: dict[Key, list[Line]] = {}
        for line in lines:
            if line.metric == metric and _target(line, task) is not None:
                printed.setdefault(_key(line), []).append(line)
        what = (MEAN, primary, ALL_LABELS)
        results = (board.at(row_of(task, key).place, *what) for key in printed)
        over = next((tuple(r["targets"]) for r in results if r and r.get("targets")), ())
        here = Endpoint(metric=primary, targets=over)
        found += _pairs(table, task, board, printed, None, here, what)
    return found


def _by_task(table: Table, boards: Mapping[str, Compared]) -> dict[str, list[Line]]:
    """Return the lines whose order means something and whose method is here, by task."""
    known, found = registry().methods, {}
    for line in table.lines:
        if line.order and line.methods.get("harmonised") in known and line.task in boards:
            found.setdefault(line.task, []).append(line)
    return found


def _key(line: Line) -> Key:
    return line.methods["harmonised"], line.modality


def _target(line: Line, task: Task) -> str | None:
    """Return the target under which rows hold what a line is about; None where there is none."""
    if line.group:
        return MEAN if line.group == "all" else group_target(line.group)
    return line.target if line.target in task.target_names else None


def _pairs(
    table: Table,
    task: Task,
    board: Compared,
    printed: Mapping[Key, list[Line]],
    published: Endpoint | None,
    here: Endpoint,
    what: tuple[str, str, float],
) -> Iterator[Ordering]:
    """Yield the orderings of every two rows; without ``published``, over the columns of both."""
    directions = {metric.name: 1 if metric.higher_is_better else -1 for metric in task.metrics}
    for one, other in itertools.combinations(printed, 2):
        shared = {x.title for x in printed[one]} & {x.title for x in printed[other]}
        sides = {k: [x for x in printed[k] if x.title in shared] for k in (one, other)}
        if not shared:
            continue
        metric = sides[one][0].metric
        gap = directions[metric] * (_mean(sides[one]) - _mean(sides[other]))
        if abs(gap) < TIE:
            continue
        above, below = (one, other) if gap > 0 else (other, one)
        errors = [_error(side) for side in sides.values()]
        yield Ordering(
            table=table.name,
            task=task.name,
            above=above,
            below=below,
            published=published or _over(sides[one], task),
            here=here,
            gap=abs(gap),
            error=None if None in errors else math.hypot(*errors),
            **_found(board, task, above, below, what, directions[what[1]]),
        )


def _mean(lines: Iterable[Line]) -> float:
    return fmean(float(line.printed["mean"]) / line.factor for line in lines)


def _error(lines: Iterable[Line]) -> float | None:
    """Return the standard error of a mean over columns: at most the mean of theirs."""
    errors = [line.se for line in lines]
    return None if None in errors else fmean(errors)


def _over(lines: Sequence[Line], task: Task) -> Endpoint:
    names = (
        [line.group] if line.group not in ("", "all") else line.members(task) for line in lines
    )
    over = dict.fromkeys(itertools.chain.from_iterable(names))
    return Endpoint(metric=lines[0].metric, targets=tuple(over))


def row_of(task: Task, key: Key) -> Row:
    """Return where a method's rows are, under its own head."""
    name, modality = key
    head = NO_HEAD if task.predict is not None else registry().method(name).head
    return Row(Expected(name=name), head, modality, None)


def _found(
    board: Compared, task: Task, above: Key, below: Key, what: tuple[str, str, float], sign: int
) -> dict[str, object]:
    """Return what the rows say of two methods."""
    rows = [row_of(task, key) for key in (above, below)]
    results = [board.at(row.place, *what) for row in rows]
    if None in results:
        # What has other targets of the task was run, and has not this one.
        ran = all(board.scored(row.place, ALL_LABELS) for row in rows)
        return {"order": NO_NUMBER if ran else NOT_RUN}
    if any(result["status"] != OK for result in results):
        return {"order": NO_NUMBER}
    difference = board.tested(*rows[::sign], what)
    if difference is None or difference.lo is None:
        value = sign * (results[0]["value"] - results[1]["value"])
        return {"order": SAME if value > 0 else OPPOSITE, "strength": UNTESTED, "value": value}
    apart = difference.lo > 0 or difference.hi < 0
    return {
        "order": SAME if difference.value > 0 else OPPOSITE,
        "strength": APART if apart else OPEN,
        "value": difference.value,
        "difference": difference,
    }

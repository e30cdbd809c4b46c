"""Which published orderings reappear in the recorded rows, as Markdown.

What an ordering and its counterpart are: `benchmark.reports.orderings`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmark.planning import Request
from benchmark.recording import RANKED_TRACK, board_of, rows_folders
from benchmark.registry import registry
from benchmark.reports.boards.sections import Compared
from benchmark.reports.boards.text import BLANK, signed, table
from benchmark.reports.orderings import (
    APART,
    NO_NUMBER,
    NOT_RUN,
    OPEN,
    OPPOSITE,
    SAME,
    UNTESTED,
    Endpoint,
    Key,
    Ordering,
    by_column,
    by_mean,
)
from benchmark.reports.published import Table
from benchmark.reports.rows import read_rows

FEW = 6  # more targets than this are counted, not named
STRENGTHS = (APART, OPEN, UNTESTED)


def boards(
    request: Request, leaderboards: Path, tasks: Iterable[str] | None = None
) -> dict[str, Compared]:
    """Return the recorded rows of tasks, by default of all, that have any.

    Parameters
    ----------
    request
        Whose people and scale; the track is the ranked one.
    """
    folders = [folder / RANKED_TRACK for folder in rows_folders(request, leaderboards)]
    found = {}
    for name in registry().tasks if tasks is None else tasks:
        files = read_rows(*(folder / name for folder in folders))
        if files:
            found[name] = Compared(files, board_of(request, registry().task(name)))
    return found


def of_table(published: Table, request: Request, leaderboards: Path) -> str:
    """Return the counts of one table and what became of its paper's claims; empty without any."""
    tasks = dict.fromkeys(line.task for line in published.lines if line.task)
    recorded = boards(request, leaderboards, tasks)
    found = (by_mean(published, recorded), by_column(published, recorded))
    if not any(found):
        return ""
    parts = ["Orderings of this table in the recorded rows:", counts([published], recorded)]
    if made := claims([published], recorded):
        parts += [f"`{published.proposed}` minus each other row, on the mean:", made]
    return "\n\n".join(parts)


def counts(tables: Iterable[Table], recorded: Mapping[str, Compared]) -> str:
    """Return how many orderings of each table came out how, in a line for its means and columns."""
    rows, sums = [], {kind: [] for kind in ("means", "columns")}
    for published in tables:
        every = {"means": by_mean(published, recorded), "columns": by_column(published, recorded)}
        tasks = dict.fromkeys(x.task for found in every.values() for x in found)
        for task in tasks:
            for kind, found in every.items():
                own = [x for x in found if x.task == task]
                if own:
                    rows.append([published.name, f"`{task}`", _what(kind, own), *_counted(own)])
                    sums[kind] += own
    if len(rows) > len(sums):
        rows += [["**all**", "", f"**{kind}**", *_counted(own)] for kind, own in sums.items()]
    heads = ["paper's table", "board", "orderings of", "number"]
    heads += [f"{strength}: {SAME} / {OPPOSITE}" for strength in STRENGTHS]
    return table([*heads, "none here", "open in the paper"], rows)


def _counted(orderings: Sequence[Ordering]) -> list[str]:
    found = Counter((x.order, x.strength) for x in orderings)
    pairs = [f"{found[SAME, s]} / {found[OPPOSITE, s]}" for s in STRENGTHS]
    absent = found[NOT_RUN, ""] + found[NO_NUMBER, ""]
    known = [x for x in orderings if x.error is not None]
    close = f"{sum(x.close for x in known)} of {len(known)}" if known else BLANK
    return [
        str(len(orderings)),
        *(BLANK if pair == "0 / 0" else pair for pair in pairs),
        str(absent) if absent else BLANK,
        close,
    ]


def _what(kind: str, orderings: Sequence[Ordering]) -> str:
    """Return what is compared: of means both endpoints, where they are not the same."""
    if kind != "means":
        return kind
    widest = max((x.published for x in orderings), key=lambda e: len(e.targets))
    here = orderings[0].here
    if (widest.metric, {*widest.targets}) == (here.metric, {*here.targets}):
        return f"means: {_endpoint(here)}"
    return f"means: {_endpoint(widest)}; here {_endpoint(here)}"


def _endpoint(endpoint: Endpoint) -> str:
    named = len(endpoint.targets) <= FEW
    over = ", ".join(endpoint.targets) if named else f"{len(endpoint.targets)} targets"
    return f"{endpoint.metric} of {over or 'none yet'}"


def claims(tables: Iterable[Table], recorded: Mapping[str, Compared]) -> str:
    """Return what papers propose against the other rows of their tables, on the means.

    Tables that print the same two numbers share a line.
    """
    lines: dict[tuple[str, ...], list[str]] = {}
    for published in tables:
        for x in by_mean(published, recorded):
            sides = {x.above[0]: (1, x.above, x.below), x.below[0]: (-1, x.below, x.above)}
            if published.proposed in sides:
                sign, proposed, other = sides[published.proposed]
                order = ", ".join(part for part in (x.order, x.strength) if part)
                text = (f"`{x.task}`", _name(proposed), _name(other), *_differences(x, sign), order)
                lines.setdefault(text, []).append(published.name)
    return _listed(lines, "proposed", "order here")


def turned(tables: Iterable[Table], recorded: Mapping[str, Compared]) -> str:
    """Return the orderings of means that are the other way round here, and told apart."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for published in tables:
        for x in by_mean(published, recorded):
            if (x.order, x.strength) == (OPPOSITE, APART):
                text = (f"`{x.task}`", _name(x.above), _name(x.below), *_differences(x, 1))
                lines.setdefault(text, []).append(published.name)
    return _listed(lines, "published above")


def _listed(lines: Mapping[tuple[str, ...], Sequence[str]], first: str, *more: str) -> str:
    heads = ["paper's table", "board", first, "minus", "published", "here", *more]
    rows = [[_joined(names), *text] for text, names in lines.items()]
    return table(heads, rows) if rows else ""


def _differences(x: Ordering, sign: int) -> tuple[str, str]:
    """Return the published difference and ours, better being positive."""
    published = signed({"value": sign * x.gap, "lo": None, "hi": None, "se": x.error})
    published += " (open)" if x.close else ""
    if x.difference is None:
        return published, BLANK
    d = x.difference
    lo, hi = sorted((sign * d.lo, sign * d.hi))
    return published, signed({"value": sign * d.value, "lo": lo, "hi": hi, "se": math.sqrt(d.v)})


def _name(key: Key) -> str:
    name, modality = key
    return f"`{name}`" + (" (CMR)" if modality == "cmr" else "")


def _joined(names: Sequence[str]) -> str:
    """Return ``MMCL Table I, II`` for tables; a paper's name stands once."""
    said, paper = [], ""
    for name in names:
        before, number = name.rsplit(" ", 1)
        said.append(number if before == paper else name)
        paper = before
    return ", ".join(said)

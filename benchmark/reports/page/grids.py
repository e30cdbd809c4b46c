"""Tables of shaded cells: pairs of methods, targets, further metrics."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.reports.boards import text
from benchmark.reports.boards.info import LEVEL
from benchmark.reports.boards.reader import positives_text
from benchmark.reports.boards.recorded import MEAN, group_target
from benchmark.reports.page.places import Document, Section

STEPS = (0.01, 0.03, 0.1)
"""Differences from which a cell is shaded light, middle and dark."""
DOT = "•"  # an adjusted p or q of at most `LEVEL`


@dataclass(frozen=True)
class Grid:
    """A table of shaded differences.

    ``facts`` are rows about the columns, below their names; ``rows`` hold a name and cells of
    (text, shade). Shades go from -3 (much worse) to 3, None for a cell that is no difference.
    """

    columns: Sequence[str]
    facts: Sequence[tuple[str, Sequence[str]]]
    rows: Sequence[tuple[str, Sequence[tuple[str, int | None]]]]


def matrix(section: Section) -> Grid | None:
    """Differences of all pairs, row minus column, as a triangle."""
    pairs = {}
    for pair in section["pairs"]:
        pairs[pair["a"], pair["b"]] = pair["difference"], pair["p_holm"]
        pairs[pair["b"], pair["a"]] = -pair["difference"], pair["p_holm"]
    met = {name for pair in pairs for name in pair}
    names = [x["method"] for x in section["lines"] if x["method"] in met]
    if len(names) < 2:
        return None
    rows = []
    for i, a in enumerate(names[:-1]):
        cells = [("", None)] * i
        for b in names[i + 1 :]:
            found = pairs.get((a, b))
            cells.append(("?", None) if found is None else _shaded(*found))
        rows.append((a, cells))
    return Grid(names[1:], [], rows)


def _shaded(difference: float, p: float | None, higher: bool = True) -> tuple[str, int]:
    """Thousandths with their shade; a dot where the adjusted p is small, brackets without one."""
    size = sum(abs(difference) >= step for step in STEPS)
    shown = f"{1000 * difference:+.0f}" if round(1000 * difference) else "0"
    shown = f"({shown})" if p is None else shown + (DOT if p <= LEVEL else "")
    return shown, size if (difference > 0) == higher else -size


def heat(document: Document, section: Section) -> Grid | None:
    """Differences to the reference per target; the reference's own values in its row."""
    cells = [c for c in section["cells"] if c["metric"] == section["metric"]]
    cells = [c for c in cells if c["target"] != MEAN]
    table: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for cell in cells:
        table[cell["target"]].setdefault(cell["method"], cell)
    if not table:
        return None
    endpoint = [target for target in section["endpoint"] if target in table]
    means = [t for t in map(group_target, document["groups"]) if t in table]
    rest = sorted(table.keys() - {*endpoint, *means}, key=text.natural)
    targets = [*means, *endpoint, *rest]
    compared = any(c["difference"] is not None for c in cells)
    facts = [("n", [_fact(table[t], "n") for t in targets])]
    if any(c["positives"] is not None for c in cells):
        counts = [next(iter(table[t].values()))["positives"] for t in targets]
        shown = [text.BLANK if count is None else positives_text(count) for count in counts]
        facts.append(("positives", shown))
    facts.append(("chance", [_fact(table[t], "chance") for t in targets]))
    if compared:
        resolves = [_typical_resolvable(table[t].values()) for t in targets]
        facts.append(("resolves", resolves))
    rows = []
    for line in section["lines"]:
        found = [table[t].get(line["method"]) for t in targets]
        if any(found):
            own = not compared or line["method"] == section["reference"]
            higher = section["higher_is_better"]
            rows.append((line["method"], [_heat_cell(cell, own, higher) for cell in found]))
    return Grid(targets, facts, rows)


def _heat_cell(cell: Mapping[str, Any] | None, own: bool, higher: bool) -> tuple[str, int | None]:
    if cell is None:
        return "not run", None
    if own or cell["difference"] is None:
        return (cell["status"] if cell["value"] is None else f"{cell['value']:.3f}"), None
    return _shaded(cell["difference"], 1.0 if cell["q"] is None else cell["q"], higher)


def _fact(cells: Mapping[str, Mapping[str, Any]], name: str) -> str:
    known = [cell[name] for cell in cells.values() if cell[name] is not None]
    if not known:
        return text.BLANK
    return f"{known[0]:.3g}" if isinstance(known[0], float) else str(known[0])


def _typical_resolvable(cells: Iterable[Mapping[str, Any]]) -> str:
    """Median of the methods' resolvable differences, in thousandths."""
    known = [x for cell in cells if (x := cell["resolvable"]) is not None]
    return f"{1000 * statistics.median(known):.0f}" if known else text.BLANK


def other_metrics(section: Section) -> Grid | None:
    """Means over targets under every metric but the endpoint's."""
    cells = {(c["method"], c["metric"]): c for c in section["cells"] if c["target"] == MEAN}
    metrics = {metric for _, metric in cells} - {section["metric"]}
    metrics = sorted(metrics, key=text.natural)
    if not metrics:
        return None
    columns = [
        {method: cell for (method, name), cell in cells.items() if name == metric}
        for metric in metrics
    ]
    rows = []
    for line in section["lines"]:
        found = [column.get(line["method"]) for column in columns]
        if any(found):
            shown = [text.BLANK if cell is None else text.estimate(cell) for cell in found]
            rows.append((line["method"], [(cell, None) for cell in shown]))
    return Grid(metrics, [("chance", [_fact(column, "chance") for column in columns])], rows)

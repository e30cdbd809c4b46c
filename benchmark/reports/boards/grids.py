"""Tables of methods by targets or metrics."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmark.reports.boards.info import LEVEL, RANKED_BLOCKS, WIDEST
from benchmark.reports.boards.reader import positives_text
from benchmark.reports.boards.recorded import MEAN, group_target
from benchmark.reports.boards.text import (
    BLANK,
    NOT_COMPARED,
    Record,
    estimate,
    natural,
    number,
    places,
    signed,
    table,
)


def over_groups(section: Record, document: Record) -> list[str]:
    """Return the means over groups of targets."""
    targets = [group_target(name) for name in document["groups"]]
    found = {c["target"] for c in section["cells"] if c["metric"] == section["metric"]}
    targets = [target for target in targets if target in found]
    if not targets:
        return []
    names = [target.removeprefix(group_target("")) for target in targets]
    columns = [(target, section["metric"]) for target in targets]
    caption = f"Mean {section['metric']} over groups of targets (secondary):"
    return [
        caption,
        _grid(section, names, columns, ("chance",)),
        *_differences(section, names, columns),
    ]


def per_target(section: Record, document: Record) -> list[str]:
    """Return the targets one by one, where they are few enough to be read."""
    metric = section["metric"]
    groups = {group_target(name) for name in document["groups"]}
    found = dict.fromkeys(
        cell["target"]
        for cell in section["cells"]
        if cell["metric"] == metric and cell["target"] not in {MEAN, *groups}
    )
    targets = [t for t in section["endpoint"] if t in found]
    targets += sorted(found.keys() - set(targets), key=natural)
    if not targets:
        return []
    if len(targets) > WIDEST:
        return [f"{metric} of each of the {len(targets)} targets: in the CSV and JSON files."]
    columns = [(target, metric) for target in targets]
    facts = ("n", "positives", "chance")
    return [
        f"{metric} per target (secondary):",
        _grid(section, targets, columns, facts),
        *_differences(section, targets, columns),
    ]


def other_metrics(section: Record) -> list[str]:
    """Return the means of all metrics but the endpoint's, the own scan's apart."""
    found = {c["metric"] for c in section["cells"] if c["target"] == MEAN} - {section["metric"]}
    ordered = sorted(found, key=natural)
    parts = []
    for own, caption in (
        (False, "Other metrics, mean over targets:"),
        (True, "With the own scan in the gallery:"),
    ):
        metrics = [metric for metric in ordered if metric.endswith("+self") == own]
        if metrics:
            columns = [(MEAN, metric) for metric in metrics]
            parts += [caption, _grid(section, metrics, columns, ("chance",))]
    return parts


def _by_column(section: Record) -> dict[tuple[str, str, str], Record]:
    return {(c["method"], c["target"], c["metric"]): c for c in section["cells"]}


def _grid(
    section: Record,
    names: Sequence[str],
    columns: Sequence[tuple[str, str]],
    facts: Sequence[str],
) -> str:
    """Table of methods by (target, metric), headed by what is the same for all methods."""
    cells = _by_column(section)
    methods = [line["method"] for line in section["lines"] if line["digest"]]
    rows = []
    for fact in facts:
        known = [_known(cells, methods, column, fact) for column in columns]
        if any(value is not None for value in known):
            rows.append([f"*{fact}*", *(_fact(value, fact) for value in known)])
    for method in methods:
        found = [cells.get((method, *column)) for column in columns]
        # Only a search across modalities can find the own scan.
        rows.append([method, *(estimate(cell) if cell else BLANK for cell in found)])
    return table(["method", *names], rows)


def _known(cells: Record, methods: Sequence[str], column: tuple[str, str], fact: str) -> Any:
    found = (cells.get((method, *column)) for method in methods)
    return next((cell[fact] for cell in found if cell and cell[fact] is not None), None)


def _fact(value: Any, fact: str) -> str:
    if value is None:
        return BLANK
    if fact == "positives":
        return positives_text(value)
    return f"{value:.4g}" if fact == "chance" else str(value)


def _differences(
    section: Record, names: Sequence[str], columns: Sequence[tuple[str, str]]
) -> list[str]:
    """Return the ranked methods' differences to the reference, a dot where q is small."""
    cells = _by_column(section)
    methods = [
        line["method"]
        for line in section["lines"]
        if line["block"] in RANKED_BLOCKS
        and line["digest"]
        and line["method"] != section["reference"]
    ]
    if not any(
        (cell := cells.get((method, *column))) and cell["difference"] is not None
        for method in methods
        for column in columns
    ):
        return []
    resolves = (_median_resolvable(cells, methods, column) for column in columns)
    rows = [["*resolves (median)*", *resolves]]
    for method in methods:
        shown = []
        for column in columns:
            cell = cells.get((method, *column))
            if cell is None or cell["value"] is None:
                shown.append(BLANK if cell is None else cell["status"])
            elif cell["difference"] is None:
                shown.append(NOT_COMPARED)
            else:
                ends = {"lo": None, "hi": None, "se": cell["difference_se"]}
                dot = " ·" if cell["q"] is not None and cell["q"] <= LEVEL else ""
                shown.append(signed({"value": cell["difference"], **ends}, interval=False) + dot)
        rows.append([method, *shown])
    caption = f"Difference to {section['reference']} (· q at most 5%):"
    return [caption, table(["method", *names], rows)]


def _median_resolvable(cells: Record, methods: Iterable[str], column: tuple[str, str]) -> str:
    found = [
        cell["resolvable"]
        for method in methods
        if (cell := cells.get((method, *column))) and cell["resolvable"] is not None
    ]
    if not found:
        return BLANK
    middle = statistics.median(found)
    return number(middle, places(middle / 3))

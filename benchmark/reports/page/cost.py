"""The endpoint of every section against what it cost to reach."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from benchmark.reports.boards import text
from benchmark.reports.boards.cost import commits, shared
from benchmark.reports.boards.sections import title
from benchmark.reports.page.figures import Axis, scatter
from benchmark.reports.page.places import where_of
from benchmark.reports.page.views import mark_of

LEAST = 0.1  # seconds; what took less is drawn there


@dataclass(frozen=True)
class CostView:
    """A section's scatter plot and the table that says which number is which method."""

    where: Mapping[str, str]
    labels: Mapping[str, str]
    title: str
    subtitle: str
    figure: Markup
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def cost_views(
    documents: Iterable[Mapping[str, Any]], costs: Iterable[Mapping[str, Any]]
) -> list[CostView]:
    """Return a view of each section in which somebody's cost is known."""
    fields = ("method", "task", "track", "modality", "head", "fraction")
    known = {tuple(cost[name] for name in fields): cost for cost in costs}
    views = []
    for document in documents:
        for section in document["sections"]:
            found = []
            for line in section["lines"]:
                where = (document["task"], document["track"], line["modality"], line["head"])
                cost = known.get((line["method"], *where, section["fraction"]))
                if line["value"] is not None and cost and cost["replicates"]:
                    found.append((_seconds(cost), line, cost))
            if found:
                views.append(_view(document, section, sorted(found, key=lambda x: x[0])))
    return views


def _seconds(cost: Mapping[str, Any]) -> float:
    """Pretraining and head of one replicate, on each device that shared it."""
    return cost["device_seconds"] / cost["replicates"]


def _view(
    document: Mapping[str, Any],
    section: Mapping[str, Any],
    found: Sequence[tuple[float, Mapping[str, Any], Mapping[str, Any]]],
) -> CostView:
    seconds = [max(s, LEAST) for s, _, _ in found]
    marks = [
        (str(number), s, mark_of(line))
        for number, (s, (_, line, _)) in enumerate(zip(seconds, found, strict=True), start=1)
    ]
    powers = range(math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds))) + 1)
    if len(powers) < 2:
        powers = range(powers[0], powers[0] + 2)
    ticks = tuple((10.0**p, f"{10.0**p:g}") for p in powers)
    x = Axis(ticks[0][0], ticks[-1][0], ticks, log=True)
    ends = [v for _, line, _ in found for v in (line["value"], line["lo"], line["hi"])]
    y = Axis.over([v for v in ends if v is not None])
    where, labels = where_of(document, section)
    caption = f"{section['metric']} against seconds of pretraining and head; see the table."
    x_title = "seconds of pretraining and head, one replicate"
    several = shared([cost for _, _, cost in found])
    if several:
        caption = caption.replace("seconds", "device seconds")
        x_title = f"device {x_title}"
    rows = [
        [str(number), line["method"], text.estimate(line), f"{total:.1f}", *_parts(cost, several)]
        for number, (total, line, cost) in enumerate(found, start=1)
    ]
    return CostView(
        where=where,
        labels=labels,
        title=document["title"],
        subtitle=title(section),
        figure=scatter(marks, x, y, x_title, caption),
        columns=[
            "no.",
            "method",
            f"{section['metric']} [95% interval]",
            "device time [s]" if several else "total [s]",
            "pretraining [s]",
            "head [s]",
            "embedding [s]",
            "memory [GiB]",
            "replicates",
            "device",
            *(["devices"] if several else []),
            "git",
        ],
        rows=rows,
    )


def _parts(cost: Mapping[str, Any], several: bool) -> list[str]:
    """Seconds of one replicate, memory and provenance."""
    count = cost["replicates"]
    each = (cost[f"{name}_seconds"] for name in ("pretraining", "head", "embedding"))
    return [
        *(text.BLANK if s is None else f"{s / count:.1f}" for s in each),
        text.number((cost["peak_memory_bytes"] or 0) / 2**30 or None, 2),
        str(count),
        cost["device"] or text.BLANK,
        *([str(cost["devices"])] if several else []),
        commits(cost),
    ]

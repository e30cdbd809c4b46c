"""Scores against the share of labels, from recorded rows (Turgut et al. 2025, Figure 5)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmark.evaluation.score import MEAN
from benchmark.names import file_name
from benchmark.pictures.common import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Drawing,
    Kind,
    NotApplicable,
    Subject,
    new_figure,
    pretty,
)
from benchmark.registry import registry
from benchmark.reports.rows import read_file

DASHES = ((0, (1, 1)), (0, (5, 2, 1, 2)), (0, (3, 1)), (0, (8, 2)))
"""Of the unranked references, grey, behind the curve."""
Points = Mapping[float, Mapping[str, Any]]
"""Share of labels to the result of a row, fewest first."""


@dataclass(frozen=True)
class Panel:
    """The endpoint of a task, or one of its diseases: the curves of the method and of others."""

    title: str
    metric: str
    reference: str
    curves: Mapping[str, Points]


class LowData(Kind):
    """Curves over the label fractions, with intervals, beside the references'."""

    name = "low-data"
    title = "Low-data curves"
    caption = (
        "Each primary endpoint, and each disease on its own, against the share of training labels "
        "(logarithmic). Band: 95% interval. A point is missing where there are too few positives, "
        "or where a mean would be over fewer targets."
    )
    source = "Turgut et al. 2025, Figure 5"
    suffix = "svg"

    def recipes(self, subject: Subject) -> dict[str, str]:
        """Return what the rows say: they are what is drawn."""
        return {
            panel.title.partition(":")[0]: result["recipe_digest"]
            for panel in _panels(subject)
            for result in panel.curves[subject.name].values()
        }

    def stage(self, subject: Subject) -> None:
        """Nothing: rows are enough."""

    def draw(self, subject: Subject) -> Drawing:
        """Draw a panel for every endpoint and disease with a curve."""
        from matplotlib.lines import Line2D

        panels = _panels(subject)
        results = [x for p in panels for x in p.curves[subject.name].values()]
        # Of real people a count may read ">1234".
        people = max((x["n"] for x in results), key=lambda n: int(str(n).lstrip("<>")))
        replicates = max(x["replicates"] for x in results)
        rows = math.ceil(len(panels) / 2)
        told = "replicate 0" if replicates == 1 else f"{replicates} replicates"
        title = f"{subject.name}: scores with fewer labels"
        figure = new_figure(1.3 + 1.7 * rows, title, subject, people, told)
        grid = figure.subplots(rows, 2, squeeze=False).ravel()
        others = dict.fromkeys(n for p in panels for n in p.curves if n != subject.name)
        dashes = dict(zip((n for n in others if n != panels[0].reference), DASHES, strict=False))
        fractions = sorted({f for p in panels for f in p.curves[subject.name]})
        for axes, panel in zip(grid, panels, strict=False):
            _draw_panel(axes, panel, subject.name, dashes)
            axes.set_xlim(fractions[0] / 1.4, fractions[-1] * 1.4)
            axes.set_xticks(fractions, [f"{100 * f:g}" for f in fractions])
            axes.minorticks_off()
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes in grid[len(panels) - 2 : len(panels)]:
            axes.set_xlabel("training labels [%]")
        keys = [Line2D([], [], color=BLUE, lw=2, marker="o", ms=4, label=subject.name)]
        if panels[0].reference in others:
            keys.append(Line2D([], [], color=ORANGE, lw=1.4, label=panels[0].reference))
        keys += [Line2D([], [], color=GREY, lw=1.1, ls=ls, label=n) for n, ls in dashes.items()]
        keys.append(Line2D([], [], color=GREEN, lw=1.1, ls=(0, (1, 2)), label="chance"))
        figure.legend(handles=keys, loc="outside lower center", ncols=3, fontsize=8)
        numbers = {
            panel.title: {
                f"{fraction:g}": {key: x[key] for key in ("value", "lo", "hi")}
                for fraction, x in panel.curves[subject.name].items()
            }
            for panel in panels
        }
        return Drawing(figure, _alt(subject.name, panels), people, numbers)


def _panels(subject: Subject) -> list[Panel]:
    """Return endpoints of the tasks that decide, then single diseases, that have a curve."""
    panels = sorted(_every_panel(subject), key=lambda p: not p.title.endswith(MEAN))
    if not panels:
        raise NotApplicable("no row of it has scores at two shares of the labels")
    return panels


def _every_panel(subject: Subject) -> Iterator[Panel]:
    known = registry()
    references = [n for n, e in known.methods.items() if e.variant.role == "reference"]
    for task in known.tasks.values():
        own = _file(subject, task.name, subject.name)
        if own is None or not task.confirmatory or not own["rows"]:
            continue
        modality, head = own["rows"][0]["modality"], own["rows"][0]["head"]
        reference = task.reference.get(modality, "")
        names = dict.fromkeys((subject.name, reference, *references))
        files = {n: file for n in names if (file := _file(subject, task.name, n)) is not None}
        metric = task.primary.get(modality, next(iter(task.primary.values())))
        for target in (MEAN, *(task.names if task.kind == "classification" else ())):
            found = {n: _points(f, target, metric, modality, head) for n, f in files.items()}
            curves = {name: points for name, points in found.items() if len(points) > 1}
            if subject.name in curves:
                yield Panel(f"{task.name}: {target}", metric, reference, curves)


def _file(subject: Subject, task: str, method: str) -> Mapping[str, Any] | None:
    for folder in subject.rows:
        path = folder / subject.request.track / task / f"{file_name(method)}.json"
        if path.exists():
            return read_file(path)
    return None


def _points(
    file: Mapping[str, Any], target: str, metric: str, modality: str, head: str
) -> dict[float, Mapping[str, Any]]:
    wanted = {"target": target, "metric": metric, "modality": modality, "head": head}
    found = {
        row["fraction"]: row["result"]
        for row in file["rows"]
        if wanted.items() <= row.items() and row["result"].get("value") is not None
    }
    if not found:
        return {}
    # At few labels a mean may be over fewer targets: another quantity, not a point of a curve.
    whole = found[max(found)].get("targets")
    return {f: x for f, x in sorted(found.items()) if x.get("targets") == whole}


def _draw_panel(axes, panel: Panel, own: str, dashes: Mapping[str, Any]) -> None:
    for name, points in panel.curves.items():
        x, y = list(points), [result["value"] for result in points.values()]
        if name == own:
            band = [(f, p["lo"], p["hi"]) for f, p in points.items() if p["lo"] is not None]
            if band:
                axes.fill_between(*zip(*band, strict=True), color=BLUE, alpha=0.18, lw=0)
            axes.plot(x, y, color=BLUE, lw=2, marker="o", ms=4, zorder=4)
        elif name == panel.reference:
            axes.plot(x, y, color=ORANGE, lw=1.4, zorder=3)
        elif name in dashes:
            axes.plot(x, y, color=GREY, lw=1.1, ls=dashes[name])
    chance = {f: p["chance"] for f, p in panel.curves[own].items() if p["chance"] is not None}
    axes.plot(list(chance), list(chance.values()), color=GREEN, lw=1.1, ls=(0, (1, 2)))
    axes.set(xscale="log", title=panel.title)
    axes.set_ylabel(pretty(panel.metric))
    axes.locator_params(axis="y", nbins=5)


def _alt(method: str, panels: list[Panel]) -> str:
    found = []
    for panel in panels:
        points = panel.curves[method]
        few, all_ = min(points), max(points)
        found.append(
            f"{panel.title}, {pretty(panel.metric)} {points[few]['value']:.2f} at {100 * few:g}% "
            f"and {points[all_]['value']:.2f} at {100 * all_:g}%"
        )
    return f"Scores of {method} against the share of training labels. {'; '.join(found)}."

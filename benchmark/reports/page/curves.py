"""Small curves, one panel for each method: over label fractions, and over cut-offs of a search."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from benchmark.reports.boards.recorded import MEAN
from benchmark.reports.page.figures import Axis, Curve, panel
from benchmark.reports.page.places import Document, Section, where_of


@dataclass(frozen=True)
class Panels:
    """Small curves, one per method, that belong to several sections."""

    where: Mapping[str, str]
    title: str
    text: str
    panels: Sequence[tuple[str, Markup]]


def low_data_curves(document: Document) -> Iterable[Panels]:
    """Yield, for each modality and head with several label fractions, every method's curve."""
    groups: dict[tuple[str, str], list[Section]] = defaultdict(list)
    for section in document["sections"]:
        groups[section["modality"], section["head"]].append(section)
    for (modality, head), sections in groups.items():
        found = [s for s in sections if any(x["digest"] for x in s["lines"])]
        sections = sorted(found, key=lambda s: s["fraction"])
        # At few labels a mean may be over fewer targets: another quantity, not a point of a curve.
        scored = [s for s in sections if any(x["value"] is not None for x in s["lines"])]
        endpoint = scored[-1]["endpoint"] if scored else []
        others = [s for s in sections if s["endpoint"] != endpoint]
        sections = [s for s in sections if s["endpoint"] == endpoint]
        points: dict[str, list[tuple[float, Mapping[str, Any]]]] = defaultdict(list)
        for section in reversed(sections):  # so that panels come in the order of all labels
            for line in (x for x in section["lines"] if x["value"] is not None):
                points[line["method"]].insert(0, (section["fraction"], line))
        if len({x for own in points.values() for x, _ in own}) < 2:
            continue
        shown = {name: own for name, own in points.items() if len(own) > 1}
        fractions = [section["fraction"] for section in sections]
        ticks = tuple((f, f"{100 * f:g}%") for f in fractions)
        x = Axis(min(fractions) / 1.3, max(fractions) * 1.3, ticks, log=True)
        level = [(s["fraction"], s["chance"]) for s in sections if s["chance"] is not None]
        metric, reference = sections[0]["metric"], sections[0]["reference"]
        yield Panels(
            where={"task": document["task"], "modality": modality, "head": head},
            title=f"Low-data curves: {metric} against the share of labels",
            text=_curves_text(reference, "logarithmic") + _left_out(others),
            panels=_panels({n: _curve(n, own) for n, own in shown.items()}, reference, level, x),
        )


def cutoff_curves(document: Document, section: Section) -> Iterable[Panels]:
    """Yield a figure for each metric that is taken at several cut-offs, as ``P@1`` to ``P@15``."""
    families: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for metric in dict.fromkeys(cell["metric"] for cell in section["cells"]):
        if found := re.fullmatch(r"(.+)@(\d+)(\+self)?", metric):
            families[found[1], found[3] or ""][int(found[2])] = metric
    means = {(c["method"], c["metric"]): c for c in section["cells"] if c["target"] == MEAN}
    where, _ = where_of(document, section)
    for (stem, suffix), cutoffs in sorted(families.items()):
        if len(cutoffs) < 3:
            continue
        ks = sorted(cutoffs)
        curves, level = {}, []
        for line in section["lines"]:
            own = [(k, means.get((line["method"], cutoffs[k]))) for k in ks]
            own = [(k, cell) for k, cell in own if cell and cell["value"] is not None]
            if len(own) > 1:
                curves[line["method"]] = _curve(line["method"], own)
                level = level or [(k, c["chance"]) for k, c in own if c["chance"] is not None]
        if not curves:
            continue
        x = Axis(0, max(ks) + 1, tuple((k, str(k)) for k in ks))
        own_scan = ", the own scan in the gallery" if suffix else ""
        yield Panels(
            where=where,
            title=f"{stem}@k against k{own_scan}",
            text=_curves_text(section["reference"], "linear", "the exact expectation of chance"),
            panels=_panels(curves, section["reference"], level, x),
        )


def _left_out(sections: Sequence[Section]) -> str:
    means = [
        f"{100 * section['fraction']:g}% of labels, where the mean is over "
        f"{', '.join(section['endpoint']) or 'nothing'}"
        for section in sections
    ]
    return f" Left out: {'; '.join(means)}." if means else ""


def _curve(name: str, points: Sequence[tuple[float, Mapping[str, Any]]]) -> Curve:
    threads: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for x, line in points:
        values = line.get("values") or ()
        if len(values) > 1:
            for seed, value in zip(line["seeds"], values, strict=True):
                threads[seed].append((x, value))
    band = [(x, p["lo"], p["hi"]) for x, p in points if p["lo"] is not None]
    return Curve(
        name=name,
        x=tuple(x for x, _ in points),
        y=tuple(p["value"] for _, p in points),
        band=tuple(band) if len(band) > 1 else (),
        replicates=tuple(tuple(thread) for thread in threads.values() if len(thread) > 1),
    )


def _panels(
    curves: Mapping[str, Curve],
    reference: str | None,
    level: Sequence[tuple[float, float]],
    x: Axis,
) -> list[tuple[str, Markup]]:
    ends = itertools.chain.from_iterable(
        (*c.y, *(e for _, *band in c.band for e in band)) for c in curves.values()
    )
    y = Axis.over([*ends, *(value for _, value in level)], most=4)
    other = curves.get(reference)
    return [
        (name, panel(curve, None if name == reference else other, level, x, y, name))
        for name, curve in curves.items()
    ]


def _curves_text(reference: str | None, axis: str, chance: str = "chance") -> str:
    other = f", broken line: {reference}" if reference else ""
    return (
        f"One panel for each method, all with the same axes (the horizontal one {axis}). Thick "
        f"line: mean over replicates, thin lines: single replicates, band: 95% intervals{other}, "
        f"dotted line: {chance}."
    )

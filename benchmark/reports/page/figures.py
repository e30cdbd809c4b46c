"""Figures of the page as SVG, drawn here so that equal results give equal bytes everywhere.

Elements are built with the standard library's ElementTree, which escapes what it writes. All
marks of a kind are one path: a dot is a line of no length with round ends. Where a figure is as
wide as its container, the plot is stretched under strokes that do not scale, and text is placed
by percent, so that letters and dots keep their size on a telephone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

WIDTH = 1000  # units across a stretched plot
LEFT, SPAN = 40.0, 57.0  # percent of a forest plot: where the plot starts, and how wide it is
ROW, HEADER, AXIS = 22, 17, 30  # pixels
LONGEST = 24  # letters of a name beside a plot


@dataclass(frozen=True)
class Mark:
    """A value with its interval, and the replicates it is the mean of; ``shape`` is its block."""

    name: str
    shape: str
    value: float
    lo: float | None = None
    hi: float | None = None
    replicates: tuple[float, ...] = ()


@dataclass(frozen=True)
class Curve:
    """Values along x with a band where there are intervals, and one thin line per replicate."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    band: tuple[tuple[float, float, float], ...] = ()
    replicates: tuple[tuple[tuple[float, float], ...], ...] = ()


@dataclass(frozen=True)
class Point:
    """A published value, half of its 95% interval, and ours with its interval, None unknown."""

    x: float
    half: float | None
    y: float
    lo: float | None
    hi: float | None


@dataclass(frozen=True)
class Axis:
    """A range of data, linear or logarithmic, and where it is labelled."""

    lo: float
    hi: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    @classmethod
    def over(cls, values: Iterable[float], most: int = 6) -> Axis:
        """Span values with a little room, labelled at round numbers, at most ``most`` of them."""
        values = list(values)
        lo, hi = min(values), max(values)
        room = 0.04 * (hi - lo) or 0.05 * abs(hi) or 0.5
        lo, hi = lo - room, hi + room
        power = 10.0 ** math.floor(math.log10((hi - lo) / most))
        step = next(s * power for s in (1, 2, 5, 10, 20) if (hi - lo) / (s * power) <= most)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(lo / step), math.floor(hi / step)
        at = [k * step for k in range(first, last + 1)]
        return cls(lo, hi, tuple((t, f"{t:.{decimals}f}") for t in at))

    def at(self, value: float) -> float:
        """Return where a value lies, from 0 to 1."""
        lo, hi, value = (math.log10(v) if self.log else v for v in (self.lo, self.hi, value))
        return min(max((value - lo) / (hi - lo), 0.0), 1.0)


def forest(
    blocks: Mapping[str, Sequence[Mark]], lines: Sequence[tuple[str, float, str]], title: str
) -> Markup:
    """Return a forest plot.

    Parameters
    ----------
    blocks
        Heading to marks, best first.
    lines
        Name, value and kind (``chance`` or ``ceiling``) of levels to draw across.
    title
        What the figure is called for those who do not see it.
    """
    marks = [mark for block in blocks.values() for mark in block]
    known = [x for m in marks for x in (m.value, m.lo, m.hi, *m.replicates) if x is not None]
    axis = Axis.over([*known, *(value for _, value, _ in lines)])
    top = HEADER * len(lines) + 4
    rows = len(marks) + sum(bool(block) for block in blocks.values())
    bottom = top + ROW * rows
    root = _figure(title, height=bottom + AXIS)
    plot = _add(
        root,
        "svg",
        {
            "x": f"{LEFT:g}%",
            "width": f"{SPAN:g}%",
            "height": bottom + AXIS,
            "viewBox": f"0 0 {WIDTH} {bottom + AXIS}",
            "preserveAspectRatio": "none",
        },
    )

    def x(value: float) -> str:
        return _n(WIDTH * axis.at(value))

    def percent(value: float) -> str:
        return f"{LEFT + SPAN * axis.at(value):.1f}%"

    _path(plot, "grid", (f"M{x(t)} {top}V{bottom}" for t, _ in axis.ticks))
    for i, (name, value, kind) in enumerate(lines):
        y = HEADER * (i + 1) - 4
        side = {"text-anchor": "end"} if axis.at(value) > 0.5 else {}
        shift = -5 if side else 5
        _path(plot, kind, [f"M{x(value)} {y - 9}V{bottom}"])
        _add(
            root, "text", {"class": "level", "x": percent(value), "dx": shift, "y": y} | side, name
        )
    y = top
    intervals, values, replicates = {}, {}, {}
    for heading, block in blocks.items():
        if block:
            _add(root, "text", {"class": "heading", "x": 0, "y": y + 15}, heading)
            y += ROW
        for mark in block:
            middle = y + 9
            _label(root, mark.name, f"{LEFT - 1:g}%", middle + 4)
            if mark.lo is not None and mark.hi is not None:
                span = f"M{x(mark.lo)} {middle}H{x(mark.hi)}"
                intervals.setdefault(mark.shape, []).append(span)
            values.setdefault(mark.shape, []).append(f"M{x(mark.value)} {middle}h0")
            if len(mark.replicates) > 1:
                found = replicates.setdefault("replicate", [])
                found += [f"M{x(v)} {middle + 6}h0" for v in mark.replicates]
            y += ROW
    for kind, groups in (("interval", intervals), ("value", values), ("", replicates)):
        for shape, found in groups.items():
            _path(plot, f"{kind} {shape}".strip(), found)
            if (kind, shape) == ("value", "unranked"):
                _path(plot, "hole", found)
    for value, text in axis.ticks:
        _add(root, "text", {"class": "tick", "x": percent(value), "y": bottom + 16}, text)
    return _markup(root)


def panel(
    curve: Curve,
    other: Curve | None,
    level: Sequence[tuple[float, float]],
    x: Axis,
    y: Axis,
    title: str,
) -> Markup:
    """Return one of many small plots: a curve, another to compare with, and a level of chance."""
    left, right, top, bottom = 34, 162, 6, 100
    root = _figure(title, width=168, height=120)

    def point(a: float, b: float) -> str:
        return f"{_n(left + (right - left) * x.at(a))} {_n(bottom - (bottom - top) * y.at(b))}"

    def line(points: Iterable[tuple[float, float]]) -> str:
        return "M" + "L".join(point(a, b) for a, b in points)

    _path(root, "grid", (f"M{point(x.lo, t)}H{right}" for t, _ in y.ticks))
    for value, text in y.ticks:
        place = _n(bottom - (bottom - top) * y.at(value) + 3.5)
        _add(root, "text", {"class": "tick side", "x": left - 4, "y": place}, text)
    for value, text in x.ticks:
        place = _n(left + (right - left) * x.at(value))
        _add(root, "text", {"class": "tick", "x": place, "y": bottom + 15}, text)
    if curve.band:
        upper = [(a, hi) for a, _, hi in curve.band]
        lower = [(a, lo) for a, lo, _ in reversed(curve.band)]
        _path(root, "band", [line([*upper, *lower]) + "Z"])
    if level:
        _path(root, "chance", [line(level)])
    _path(root, "thin", (line(points) for points in curve.replicates))
    if other is not None:
        _path(root, "other", [line(zip(other.x, other.y, strict=True))])
    points = list(zip(curve.x, curve.y, strict=True))
    _path(root, "curve", [line(points)])
    _path(root, "value", (f"M{point(a, b)}h0" for a, b in points))
    return _markup(root)


def scatter(
    marks: Sequence[tuple[str, float, Mark]], x: Axis, y: Axis, x_title: str, title: str
) -> Markup:
    """Return numbered values against x, each with its interval; who is who is told elsewhere."""
    left, span, top, bottom = 10.0, 86.0, 10, 330
    root = _figure(title, height=bottom + 46)

    def percent(value: float) -> str:
        return f"{left + span * x.at(value):.1f}%"

    def height(value: float) -> str:
        return _n(bottom - (bottom - top) * y.at(value))

    for value, text in y.ticks:
        h = height(value)
        ends = {"x1": f"{left:g}%", "x2": f"{left + span:g}%", "y1": h, "y2": h}
        _add(root, "line", {"class": "grid"} | ends)
        place = {"x": f"{left - 1:g}%", "y": h, "dy": 4}
        _add(root, "text", {"class": "tick side"} | place, text)
    for value, text in x.ticks:
        _add(root, "text", {"class": "tick", "x": percent(value), "y": bottom + 18}, text)
    _add(root, "text", {"class": "tick", "x": f"{left + span / 2:g}%", "y": bottom + 38}, x_title)
    taken: list[tuple[float, float]] = []
    for number, seconds, mark in marks:
        place = percent(seconds)
        if mark.lo is not None and mark.hi is not None:
            ends = {"x1": place, "x2": place, "y1": height(mark.lo), "y2": height(mark.hi)}
            _add(root, "line", {"class": f"interval {mark.shape}"} | ends)
        h = height(mark.value)
        dot = {"x1": place, "x2": place, "y1": h, "y2": h}
        _add(_add(root, "line", {"class": f"value {mark.shape}"} | dot), "title", {}, mark.name)
        if mark.shape == "unranked":
            _add(root, "line", {"class": "hole"} | dot)
        centre = x.at(seconds), bottom - (bottom - top) * y.at(mark.value)
        dx, dy = _free(centre, taken)
        side = {"text-anchor": "end"} if dx < 0 else {}
        spot = {"class": "number", "x": place, "y": h, "dx": dx, "dy": dy}
        _add(root, "text", spot | side, number)
    return _markup(root)


def agreement(points: Sequence[Point], title: str) -> Markup:
    """Return ours against published values with the intervals of both, and where they are equal."""
    left, span, top, bottom = 12.0, 84.0, 10, 300
    spread = [v for p in points for v in (p.x - (p.half or 0), p.x + (p.half or 0))]
    x = Axis.over(spread)
    y = Axis.over([v for p in points for v in (p.y, p.lo, p.hi) if v is not None])
    root = _figure(title, height=bottom + 46)
    box = {"x": f"{left:g}%", "width": f"{span:g}%", "height": bottom, "overflow": "hidden"}
    view = {"viewBox": f"0 0 {WIDTH} {bottom}", "preserveAspectRatio": "none"}
    plot = _add(root, "svg", box | view)

    def across(value: float) -> str:
        return _n(WIDTH * x.at(value))

    def height(value: float) -> str:
        return _n(bottom - (bottom - top) * y.at(value))

    _path(plot, "grid", (f"M0 {height(t)}H{WIDTH}" for t, _ in y.ticks))
    lo, hi = max(x.lo, y.lo), min(x.hi, y.hi)
    if lo < hi:
        _path(plot, "equal", [f"M{across(lo)} {height(lo)}L{across(hi)} {height(hi)}"])
    ours = (f"M{across(p.x)} {height(p.lo)}V{height(p.hi)}" for p in points if p.lo is not None)
    theirs = (
        f"M{across(p.x - p.half)} {height(p.y)}H{across(p.x + p.half)}"
        for p in points
        if p.half is not None
    )
    _path(plot, "interval", [*ours, *theirs])
    _path(plot, "value", (f"M{across(p.x)} {height(p.y)}h0" for p in points))
    for value, text in y.ticks:
        place = {"x": f"{left - 1:g}%", "y": height(value), "dy": 4}
        _add(root, "text", {"class": "tick side"} | place, text)
    for value, text in x.ticks:
        at = f"{left + span * x.at(value):.1f}%"
        _add(root, "text", {"class": "tick", "x": at, "y": bottom + 18}, text)
    middle = f"{left + span / 2:g}%"
    _add(root, "text", {"class": "tick", "x": middle, "y": bottom + 38}, "published")
    _add(root, "text", {"class": "level", "x": 0, "y": top}, "ours")
    return _markup(root)


def _free(centre: tuple[float, float], taken: list[tuple[float, float]]) -> tuple[int, int]:
    """Return the first offset at which a number meets no other, and take that place."""
    offsets = [(dx, dy) for dy in (-5, 12, -17, 24, -29, 36) for dx in (6, -6)]
    for dx, dy in offsets:
        at = centre[0] * WIDTH * 0.7 + 2 * dx, centre[1] + dy
        if all(abs(at[0] - a) > 14 or abs(at[1] - b) > 11 for a, b in taken):
            taken.append(at)
            return dx, dy
    return offsets[0]


def _figure(title: str, height: int, width: int | str = "100%") -> ElementTree.Element:
    attributes = {"role": "img", "aria-label": title, "width": str(width), "height": str(height)}
    return ElementTree.Element("svg", attributes)


def _add(
    parent: ElementTree.Element, tag: str, attributes: Mapping[str, object], text: str = ""
) -> ElementTree.Element:
    values = {name: str(value) for name, value in attributes.items()}
    element = ElementTree.SubElement(parent, tag, values)
    element.text = text or None
    return element


def _path(parent: ElementTree.Element, kind: str, parts: Iterable[str]) -> None:
    if found := "".join(parts):
        _add(parent, "path", {"class": kind, "d": found})


def _label(parent: ElementTree.Element, name: str, x: str, y: int) -> None:
    shown = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
    element = _add(parent, "text", {"class": "name", "x": x, "y": y}, shown)
    if shown != name:
        _add(element, "title", {}, name)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _markup(root: ElementTree.Element) -> Markup:
    return Markup(ElementTree.tostring(root, encoding="unicode"))

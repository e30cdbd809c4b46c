"""The papers' numbers, and how each is read: ``published.csv`` and ``published.toml``.

The first holds every number of thirteen tables as printed; the second says which method, head,
task, target and metric stand for it here, and why some must not be compared.
"""

from __future__ import annotations

import csv
import functools
import math
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.api import Task, UserError
from benchmark.registry import suggestion

PUBLISHED = Path(__file__).resolve().parents[2] / "leaderboards"
ARCHITECTURE, CHANCE, QUOTED, REPRODUCIBLE = "architecture", "chance", "quoted", "reproducible"
KINDS = (REPRODUCIBLE, QUOTED, ARCHITECTURE, CHANCE)


@dataclass(frozen=True)
class Remark:
    """A footnote.

    ``compare`` is False where the two numbers must not be set against each other, ``order`` where
    the published one must not even be put above or below another of its table.
    """

    text: str
    compare: bool = True
    order: bool = True


@dataclass(frozen=True)
class Line:
    """One published number and what produces it here.

    Attributes
    ----------
    printed
        The line of ``published.csv``, as text.
    kind
        One of `KINDS`.
    methods
        The method by track; a track without a counterpart is missing.
    without
        Why there is no counterpart in the harmonised track.
    head
        The paper track's; the harmonised track has one head for each method.
    modality, task, metric
        As a job has them; for an architecture there are neither task nor metric.
    target
        A target, or an attribute of the ECG encoder; empty where the cohorts have none such.
    group
        Instead of a target, the group of the task's whose mean is meant; ``all`` for every target.
    title
        What heads the target's column.
    factor
        From the metric's unit to the printed one.
    remarks
        Footnotes.
    people, positives, seeds
        Test people, positives among them, and runs whose spread is printed; 0 where the paper does
        not say.
    """

    printed: Mapping[str, str]
    kind: str
    methods: Mapping[str, str]
    without: str
    head: str
    modality: str
    task: str
    target: str
    group: str
    title: str
    metric: str
    factor: float
    remarks: tuple[Remark, ...]
    people: int = 0
    positives: int = 0
    seeds: int = 0

    @property
    def se(self) -> float | None:
        """Standard error over test people and runs, in the metric's unit; None where unknown.

        Over people from their number alone: Hanley and McNeil's (Radiology 143:29, 1982) of an
        AUROC, that of normal variables of R2 and r, and of P@k that of a share, which is too large
        where k is above 1, as the former are of means over targets.
        """
        value = float(self.printed["mean"]) / self.factor
        variance = _variance(self.metric, value, self.people, self.positives)
        if variance is None:
            return None
        if self.seeds and self.printed["std"]:
            variance += (float(self.printed["std"]) / self.factor) ** 2 / self.seeds
        return math.sqrt(variance)

    @property
    def compare(self) -> bool:
        """Whether a difference means anything."""
        return all(remark.compare for remark in self.remarks)

    @property
    def order(self) -> bool:
        """Whether being above or below another number of the same table means anything."""
        return self.kind == REPRODUCIBLE and all(remark.order for remark in self.remarks)

    def members(self, task: Task) -> tuple[str, ...]:
        """Return the targets whose mean it is."""
        if self.group:
            return task.target_names if self.group == "all" else task.groups[self.group]
        return (self.target,) if self.target else ()

    def row(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the values of some columns, as they head a row or a column."""
        return tuple(self.title if name == "target" else self.printed[name] for name in names)


def _variance(metric: str, value: float, people: int, positives: int) -> float | None:
    if not people:
        return None
    if metric == "AUROC" and positives:
        others = people - positives
        one, two = value / (2 - value), 2 * value**2 / (1 + value)
        squares = (positives - 1) * (one - value**2) + (others - 1) * (two - value**2)
        return (value * (1 - value) + squares) / (positives * others)
    if metric == "R2" and value >= 0:
        return 4 * value * (1 - value) ** 2 / people
    if metric == "r":
        return (1 - value**2) ** 2 / people
    return value * (1 - value) / people if metric.startswith("P@") else None


@dataclass(frozen=True)
class Table:
    """A table of a paper, lines in printed order.

    ``rows`` and ``columns`` name the columns of ``published.csv`` that tell printed rows and
    columns apart, ``blocks`` the printed targets of each part. ``groups``: a model of the paper
    learns a whole group of targets. ``proposed``: the harmonised method for what it proposes.
    """

    name: str
    title: str
    citation: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    blocks: tuple[tuple[str, ...], ...]
    groups: bool
    lines: tuple[Line, ...]
    proposed: str = ""

    def parts(self) -> list[tuple[Line, ...]]:
        """Return the lines of each printed part."""
        if not self.blocks:
            return [self.lines]
        return [tuple(x for x in self.lines if x.printed["target"] in b) for b in self.blocks]


@functools.cache
def tables() -> dict[str, Table]:
    """Return every published table by name, such as ``MMCL Table II``.

    Raises
    ------
    ValueError
        When a published line does not meet exactly one table and one method.
    """
    if not (PUBLISHED / "published.csv").exists():
        return {}
    with (PUBLISHED / "published.csv").open(newline="") as file:
        printed = list(csv.DictReader(file))
    with (PUBLISHED / "published.toml").open("rb") as file:
        rules = tomllib.load(file)
    found = {}
    for paper in rules["paper"]:
        own = [line for line in printed if line["source"] == paper["source"]]
        for table in paper["table"]:
            name = f"{paper['name']} {table['table']}"
            lines = tuple(
                _line(line, table, paper, rules) for line in own if line["table"] == table["table"]
            )
            found[name] = Table(
                name=name,
                title=table["title"],
                citation=paper["citation"],
                rows=tuple(table["rows"]),
                columns=tuple(table["columns"]),
                blocks=tuple(map(tuple, table.get("blocks", ()))),
                groups=table.get("groups", False),
                proposed=paper["proposed"],
                lines=lines,
            )
    if sum(len(table.lines) for table in found.values()) != len(printed):
        raise ValueError("published.toml: some lines of published.csv are in no table, or in two")
    return found


def _line(
    printed: dict[str, str],
    table: Mapping[str, Any],
    paper: Mapping[str, Any],
    rules: Mapping[str, Any],
) -> Line:
    fitting = [rule for rule in paper["method"] if _fits(rule, printed)]
    if len(fitting) != 1:
        raise ValueError(f"published.toml: {len(fitting)} methods for {printed}")
    (rule,) = fitting
    metric, factor = rules["metric"][printed["metric"]]
    target = rules["target"].get(printed["target"], {})
    architecture = printed["task"] == ARCHITECTURE
    test = paper.get("test", {})
    return Line(
        printed=printed,
        kind=ARCHITECTURE if architecture else rule.get("kind", REPRODUCIBLE),
        methods={track: rule[track] for track in ("paper", "harmonised") if track in rule},
        without=rule.get("without", ""),
        head=rule.get("head", rules["head"][printed["eval"]]),
        modality=rules["modality"][printed["modality"]],
        task=table["task"][printed["task"]],
        target="" if "group" in target else target.get("name", printed["target"]),
        group=target.get("group", ""),
        title=target.get("title", printed["target"]),
        metric=metric,
        factor=factor,
        remarks=tuple(_remark(remark) for remark in paper["remark"] if _fits(remark, printed)),
        people=test.get("people", {}).get(printed["task"], 0),
        positives=test.get("positives", {}).get(printed["target"], 0),
        seeds=test.get("seeds", 0),
    )


def _remark(rule: Mapping[str, Any]) -> Remark:
    compare = rule.get("compare", True)
    return Remark(rule["text"], compare, rule.get("order", compare))


def _fits(rule: Mapping[str, Any], printed: Mapping[str, str]) -> bool:
    return all(
        printed[name] in (wanted if isinstance(wanted, list) else [wanted])
        for name, wanted in rule.items()
        if name in printed
    )


ROMAN = {"i": "1", "ii": "2", "iii": "3", "iv": "4", "v": "5", "vi": "6", "vii": "7"}


def find(name: str) -> Table:
    """Return a table, however its name is written; raises `UserError` with the nearest names."""
    names = {_spelt(known): known for known in _all()}
    if _spelt(name) not in names:
        raise UserError(f"no table is called {name!r}; {suggestion(name, tables())}")
    return tables()[names[_spelt(name)]]


def _spelt(name: str) -> tuple[str, ...]:
    *words, number = name.lower().split() or [""]
    return (*words, ROMAN.get(number, number))


def _all() -> dict[str, Table]:
    if not tables():
        raise UserError(
            f"the published tables are not here ({PUBLISHED / 'published.csv'}): a clone of the "
            "repository, installed with pip install -e, has them"
        )
    return tables()


def overview_json() -> list[dict[str, Any]]:
    """Return the tables, and how many numbers each has, as plain JSON."""
    return [
        {"table": name, "title": table.title, "values": len(table.lines)}
        for name, table in _all().items()
    ]


def overview() -> str:
    """Return the list of tables, and what kinds of numbers they hold."""
    width = max(map(len, _all()))
    lines = [
        f"  {name:<{width}}  {len(table.lines):>4} values  {table.title}"
        for name, table in _all().items()
    ]
    every = [line for table in _all().values() for line in table.lines]
    kinds = Counter(line.kind for line in every)
    said = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS)
    apart = sum(not line.compare for line in every)
    lines += [f"{len(every)} values: {said}; {apart} of them are shown but not compared"]
    return "\n".join(lines)

"""One section of a board: a modality, label fraction and head, its methods and their tests.

Families. All pairs of a ranked block, and of the block with the reference, at one fraction are one
family under Holm's correction, in which no pair counts as less variable between replicates than all
are; nor does one to a reference among those of its block. In a primary section that of the
label-free methods is primary; that of the methods that learn labels is secondary everywhere. Per
target, the differences of a block to the reference over all targets of the primary metric are one
family under Benjamini and Hochberg's; the means over groups of targets are another. Blocks never
share a family, so that a method that learns labels takes nothing from those that do not.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmark.evaluation.multiplicity import holm, letters, rank_intervals
from benchmark.evaluation.statistics import family_variances, label_factor
from benchmark.reports.boards.cells import cells_of, scored
from benchmark.reports.boards.info import (
    BLOCKS,
    DIAGNOSTIC,
    LABEL_FREE,
    LEVEL,
    MODALITIES,
    NO_HEAD,
    NOT_RUN,
    RANKED_BLOCKS,
    UNRANKED,
    TaskInfo,
)
from benchmark.reports.boards.limits import Limits
from benchmark.reports.boards.recorded import MEAN, Difference, Line, Recorded, What
from benchmark.reports.boards.text import rounded

WARN = 0.01  # share of queries without any match, or decided by ties, that is worth a warning


@dataclass(frozen=True)
class Family:
    """Tests and adjusted p per pair of names, and what follows for one ranked block."""

    tests: dict[tuple[str, str], Difference]
    p: dict[frozenset[str], float]
    ranks: dict[str, tuple[int, int]]
    letters: dict[str, str]
    members: int
    pairs: int
    primary: bool
    outsider: str | None
    """The reference, where it is no member."""


def sections(recorded: Recorded, limits: Limits) -> Iterable[Section]:
    """Yield every section of a board, in order."""
    info = recorded.info
    scored = {(m, f) for method in info.methods for m, f in method.places or ()}
    for modality in MODALITIES:
        found = recorded.heads(modality)
        expected = modality in info.primary
        if info.kind == DIAGNOSTIC:
            expected = any(m == modality for m, _ in scored)
            found |= {key[1] for key in recorded.results if key[2] == modality}
        # Evaluating the image encoders is asked for by name: no place is kept free for it.
        if not (expected or found):
            continue
        heads = [*info.heads, *sorted(found - set(info.heads))]
        for fraction, head in itertools.product(info.fractions, heads):
            yield Section(recorded, limits, modality, fraction, head)


@dataclass(frozen=True)
class Section:
    """The methods of one modality, fraction and head, and everything that is said of them."""

    recorded: Recorded
    limits: Limits
    modality: str
    fraction: float
    head: str

    @property
    def info(self) -> TaskInfo:
        """The task's."""
        return self.recorded.info

    @property
    def metric(self) -> str:
        """Metric of the endpoint."""
        return self.info.primary.get(self.modality, self.info.leading)

    @property
    def is_primary(self) -> bool:
        """Whether its endpoint is: then so is the family of its label-free methods."""
        return is_primary(self.info, self.modality, self.head, LABEL_FREE)

    @cached_property
    def everybody(self) -> list[Line]:
        """Everybody's place: by block, best value first, then those without a value."""
        where = (self.modality, self.metric, self.fraction, self.head)
        found = (self.recorded.line(method, *where) for method in self.recorded.methods)

        def order(line: Line) -> tuple:
            block = BLOCKS.index(line.method.block)
            if line.value is None:
                return block, 1, 0.0
            return block, 0, -line.value if line.result["higher_is_better"] else line.value

        return sorted((line for line in found if line is not None), key=order)

    @cached_property
    def lines(self) -> list[Line]:
        """Those that are shown: everybody but who is not run."""
        return [line for line in self.everybody if line.name not in self.not_run]

    @cached_property
    def not_run(self) -> list[str]:
        """Names of who is not run; with a further head, of all ranked ones without a row."""
        if self.head == self.info.heads[0]:
            return [line.name for line in self.everybody if line.status == NOT_RUN]
        return [
            line.name
            for line in self.everybody
            if line.result is None and (line.method.block != UNRANKED or line.status == NOT_RUN)
        ]

    @property
    def what(self) -> tuple[str, str, float]:
        """The endpoint."""
        return MEAN, self.metric, self.fraction

    @cached_property
    def higher_is_better(self) -> bool:
        """Direction of the endpoint."""
        return next((x.result["higher_is_better"] for x in self.lines if x.result), True)

    @cached_property
    def reference(self) -> Line | None:
        """The line all others are compared with."""
        return self._named(self.info.reference.get(self.modality))

    def _named(self, name: str | None) -> Line | None:
        return next((line for line in self.everybody if line.name == name and line.result), None)

    @cached_property
    def families(self) -> dict[str, Family]:
        """The family of each ranked block; none for a diagnostic."""
        if self.info.kind == DIAGNOSTIC:
            return {}
        return {block: self._family(block) for block in RANKED_BLOCKS}

    def _family(self, block: str) -> Family:
        members = [x for x in self.lines if x.method.block == block and x.value is not None]
        pairs = list(itertools.combinations(members, 2))
        reference = self.reference
        outsider = reference is not None and reference.value is not None
        outsider = outsider and bool(members) and reference not in members
        pairs += [(line, reference) for line in members] if outsider else []
        tested = {
            (a.name, b.name): d
            for a, b in pairs
            if (d := self.recorded.difference(a, b, self.what)) is not None
        }
        tested = _floored(tested)
        adjusted = dict(zip(tested, holm([d.p for d in tested.values()]).tolist(), strict=True))
        names = [line.name for line in members]
        better = [
            (a, b) if self._sign * d.value > 0 else (b, a)
            for (a, b), d in tested.items()
            if adjusted[a, b] <= LEVEL and {a, b} <= set(names)
        ]
        shown = len(names) >= 2
        return Family(
            tests=tested,
            p={frozenset(pair): p for pair, p in adjusted.items()},
            ranks=rank_intervals(names, better) if shown else {},
            letters=letters(names, better) if shown else {},
            members=len(names),
            pairs=len(pairs),
            primary=is_primary(self.info, self.modality, self.head, block),
            outsider=reference.name if outsider else None,
        )

    def tested(self, a: Line, b: Line | None, what: What) -> Difference | None:
        """Return a minus b as tested in their family, or among the differences to one reference."""
        d = self.recorded.difference(a, b, what)
        if d is None:
            return None
        families = self.families.values() if what == self.what else ()
        alike = [family.tests for family in families]
        alike += [
            self._columns.get((x.method.block, y.name, what), {}) for x, y in ((a, b), (b, a))
        ]
        for tests in alike:
            if test := tests.get((a.name, b.name), tests.get((b.name, a.name))):
                return d.with_variance(test.v, test.nu)
        return d

    @cached_property
    def _columns(self) -> dict[tuple[str, str, What], dict[tuple[str, str], Difference]]:
        """The differences of a ranked block to one line, by block, that line and what is scored.

        To the reference per target and metric, to other references on the endpoint. Not to a
        control: it shares with its own method what others do not.
        """
        columns: dict[tuple, dict[tuple[str, str], Difference]] = defaultdict(dict)
        for line in self.lines:
            if line.method.block not in RANKED_BLOCKS or self.info.kind == DIAGNOSTIC:
                continue
            cells = [(self.reference, (*column, self.fraction)) for column in scored(self, line)]
            cells += [(x, self.what) for x in self.lines if x.method.role == "reference"]
            for other, what in cells:
                d = self.recorded.difference(line, other, what)
                if d is not None and line != other:
                    columns[line.method.block, other.name, what][line.name, other.name] = d
        return {key: _floored(tests) for key, tests in columns.items()}

    @property
    def _sign(self) -> int:
        return 1 if self.higher_is_better else -1

    def record(self) -> dict[str, Any]:
        """Return the section as the board document holds it."""
        results = [line.result for line in self.lines if line.result]
        endpoint = next((r["targets"] for r in results if r.get("targets")), ())
        chance = next((r["chance"] for r in results if r["value"] is not None), None)
        families = {
            block: {
                "primary": f.primary,
                "members": f.members,
                "outsider": f.outsider,
                "pairs": f.pairs,
                "compared": len(f.p),
            }
            for block, f in self.families.items()
            if f.members
        }
        return {
            "modality": self.modality,
            "fraction": self.fraction,
            "head": self.head,
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "reference": self.info.reference.get(self.modality),
            "goal": self.info.goal.get(self.modality),
            "endpoint": list(endpoint),
            "chance": rounded(chance),
            "primary": self.is_primary,
            "families": families,
            "not_run": self.not_run,
            "lines": [self._line_record(line) for line in self.lines],
            "pairs": list(self._pairs()),
            "cells": cells_of(self),
        }

    # ------------------------------------------------------------------ lines

    def _line_record(self, line: Line) -> dict[str, Any]:
        result = line.result or {}
        family = self.families.get(line.method.block)
        rank = family.ranks.get(line.name) if family else None
        share = self.limits.share((*line.place, *self.what)) if result else None
        return {
            "method": line.name,
            "block": line.method.block,
            "role": line.method.role,
            "head": line.head,
            "modality": line.modality,
            "status": line.status,
            "why": line.why,
            **{name: rounded(result.get(name)) for name in ("value", "lo", "hi", "se")},
            "values": [rounded(x) for x in result.get("values", ())],
            "seeds": result.get("seeds", []),
            **{name: result.get(name) for name in ("replicates", "n", "positives")},
            "chance": rounded(result.get("chance")),
            "share_of_ceiling": rounded(share),
            "rank": list(rank) if rank else None,
            "letters": family.letters.get(line.name) if family else None,
            "difference": self._compared(line),
            "gap_closed": self._gap(line),
            "label_factor": self._label_factor(line),
            **{name: result.get(name) for name in ("unmatched", "ties")},
            "notes": result.get("notes", []),
            "digest": result.get("digest"),
        }

    def _compared(self, line: Line) -> dict[str, Any] | None:
        """Return the difference to the reference."""
        if line == self.reference:
            return None
        d = self.tested(line, self.reference, self.what)
        if d is None:
            return None
        family = self.families.get(line.method.block)
        p_holm = family.p.get(frozenset((line.name, self.reference.name))) if family else None
        return {
            **_difference(d),
            "p": rounded(d.p),
            "p_holm": rounded(p_holm),
            "resolvable": rounded(d.resolvable),
            "replicates": d.replicates,
        }

    def _gap(self, line: Line) -> dict[str, Any] | None:
        goal = self._named(self.info.goal.get(self.modality))
        if not (line.result and goal and self.reference) or line in (goal, self.reference):
            return None
        entry = self.recorded.gap(line, self.reference, goal, self.what)
        if entry is None or entry["value"] is None:
            return None
        return {name: rounded(entry[name]) for name in ("value", "lo", "hi")}

    def _label_factor(self, line: Line) -> dict[str, Any] | None:
        """Share of labels with which the reference reaches the line's score."""
        reference = self.reference
        if reference is None or line == reference or line.value is None:
            return None
        over = line.result.get("targets")
        curve = {}
        for fraction in self.info.fractions:
            at = self.recorded.at(reference.place, MEAN, self.metric, fraction)
            # At few labels a mean may be over fewer targets: another quantity.
            if at and at["value"] is not None and at.get("targets") == over:
                curve[fraction] = self._sign * at["value"]
        if len(curve) < 2:
            return None
        found = label_factor(list(curve), list(curve.values()), self._sign * line.value)
        return None if found is None else {"fraction": rounded(found[0]), "bound": found[1]}

    def _pairs(self) -> Iterable[dict[str, Any]]:
        for a, b in itertools.combinations(self.lines, 2):
            d = self.tested(a, b, self.what)
            if d is None:
                continue
            pair = frozenset((a.name, b.name))
            found = [f.p[pair] for f in self.families.values() if pair in f.p]
            ends = () if d.lo is None else (self._sign * d.lo, self._sign * d.hi)
            lo, hi = sorted(ends) or (None, None)
            yield {
                "a": a.name,
                "b": b.name,
                "difference": rounded(self._sign * d.value),
                "lo": rounded(lo),
                "hi": rounded(hi),
                "se": rounded(math.sqrt(d.v)),
                "p": rounded(d.p),
                "p_holm": rounded(found[0]) if found else None,
            }


class Compared(Recorded):
    """Rows of a board, of which two are compared as the board has it, wherever that is shown."""

    @cached_property
    def _sections(self) -> list[Section]:
        return list(sections(self, Limits(self, self.info, None)))

    def tested(self, a: Line, b: Line, what: What) -> Difference | None:
        """Return a minus b as tested in their family, or between the two where they have none."""
        own_first = sorted(self._sections, key=lambda section: section.modality != a.modality)
        for section in (x for x in own_first if x.fraction == what[2]):
            lines = {line.place: line for line in section.lines}
            if a.place in lines and b.place in lines:
                return section.tested(lines[a.place], lines[b.place], what)
        return self.difference(a, b, what)


def _floored(tests: dict[tuple[str, str], Difference]) -> dict[tuple[str, str], Difference]:
    variances = zip(tests.items(), family_variances(tests), strict=True)
    return {names: d.with_variance(*variance) for (names, d), variance in variances}


def is_primary(info: TaskInfo, modality: str, head: str, block: str) -> bool:
    """Whether a family is: label-free methods, first modality and head of a confirmatory task."""
    place, first = (modality, head), (next(iter(info.primary), None), info.heads[0])
    return info.confirmatory and block == LABEL_FREE and place == first


def title(section: Mapping[str, Any]) -> str:
    """Return what heads a section."""
    parts = [MODALITIES.get(section["modality"], section["modality"])]
    if section["head"] != NO_HEAD:
        parts += [f"{100 * section['fraction']:g}% of labels", f"{section['head']} head"]
    return ", ".join(parts)


def _difference(d: Difference) -> dict[str, Any]:
    return {
        "value": rounded(d.value),
        "lo": rounded(d.lo),
        "hi": rounded(d.hi),
        "se": rounded(math.sqrt(d.v)),
    }

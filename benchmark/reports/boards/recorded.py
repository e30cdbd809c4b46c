"""The rows of one task that may stand beside each other, and the comparisons that fit them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmark.evaluation.statistics import difference_test, resolvable_difference
from benchmark.reports.boards.info import (
    NOT_APPLICABLE,
    NOT_RUN,
    OTHER,
    TRACK,
    UNRANKED,
    Expected,
    TaskInfo,
)

MEAN = "mean"  # the target of primary endpoints
Place = tuple[str, str, str]
"""Method, head and modality."""
What = tuple[str, str, float]
"""Target, metric and label fraction."""


@dataclass(frozen=True)
class Line:
    """A method's place in a section: where its row was found, and the row's result if any.

    ``absent`` says why there is none, ``why`` more of it.
    """

    method: Expected
    head: str
    modality: str
    result: Mapping[str, Any] | None
    absent: str = NOT_RUN
    why: str = ""

    @property
    def name(self) -> str:
        """Of the method."""
        return self.method.name

    @property
    def place(self) -> Place:
        """Where its rows are."""
        return self.method.name, self.head, self.modality

    @property
    def value(self) -> float | None:
        """Mean over replicates of the endpoint."""
        return self.result["value"] if self.result else None

    @property
    def status(self) -> str:
        """``ok``, or why there is no value."""
        return self.result["status"] if self.result else self.absent


@dataclass(frozen=True)
class Difference:
    """One line minus another, in the metric's own direction; ``p`` two-sided.

    Components as in `benchmark.evaluation.statistics.Pair`.
    """

    value: float
    lo: float | None
    hi: float | None
    p: float
    v: float
    nu: float | None
    replicates: int
    v_subj: float
    s2: float
    e2: float
    sigma2: float
    n_min: int

    def with_variance(self, v: float, nu: float | None) -> Difference:
        """Return the same difference, tested with another variance."""
        if (v, nu) == (self.v, self.nu):
            return self
        lo, hi, p = difference_test(self.value, v, nu)
        return replace(self, lo=lo, hi=hi, p=p, v=v, nu=nu)

    @property
    def resolvable(self) -> float | None:
        """True difference that the test would find with 80% power."""
        return None if self.nu is None else resolvable_difference(self.v, self.nu)


class Recorded:
    """Rows of one task version and cohort; those of others are kept apart.

    Attributes
    ----------
    files
        The task's files.
    fingerprint
        Of the people.
    results, others
        What may be compared, and what may not, by `Place` and `What`.
    methods
        Expected ones, then those that are only found.
    """

    def __init__(self, files: Iterable[Mapping[str, Any]], info: TaskInfo) -> None:
        self.info = info
        self.files = [f for f in files if f["task"] == info.name and f["track"] == TRACK]
        self.fingerprint = info.fingerprint or self._usual_fingerprint()
        self.results: dict[tuple, Mapping[str, Any]] = {}
        self.others: dict[tuple, Mapping[str, Any]] = {}
        for file in self.files:
            for row in file["rows"]:
                where = self.results if self._comparable(row["result"]) else self.others
                where[file["method"], row["head"], row["modality"], *_what(row)] = row["result"]
        self._found = _places(self.results)
        self._elsewhere = _places(self.others)
        self._scored: dict[tuple[Place, float], list[tuple[str, str]]] = defaultdict(list)
        for key in self.results:
            self._scored[key[:3], key[5]].append((key[3], key[4]))
        self._versus: dict[tuple, Mapping[str, Any]] = {}
        self._gaps: dict[tuple, Mapping[str, Any]] = {}
        for file in self.files:
            for entry in file["versus"]:
                a = (file["method"], entry["head"], entry["modality"])
                b = (entry["other"], entry["other_head"], entry["other_modality"])
                if self._fits(a, b, entry):
                    self._versus[a, b, *_what(entry)] = entry
            for entry in file.get("gaps", ()):
                digests = (entry[f"{part}digest"] for part in ("", "reference_", "goal_"))
                self._gaps[*digests, *_what(entry)] = entry
        found = {
            f["method"]: Expected(name=f["method"], role=f["role"], uses_labels=f["uses_labels"])
            for f in self.files
        }
        known = {method.name: method for method in info.methods}
        self.methods = [*known.values(), *(m for n, m in found.items() if n not in known)]

    def _usual_fingerprint(self) -> str:
        """Return that of most methods with rows of this task version; a tie goes by the digest."""
        count = Counter(
            fingerprint
            for file in self.files
            for fingerprint in {
                row["result"]["cohort_fingerprint"]
                for row in file["rows"]
                if row["result"]["task_version"] == self.info.version
            }
        )
        return min(count, key=lambda f: (-count[f], f), default="")

    def _comparable(self, result: Mapping[str, Any]) -> bool:
        version, fingerprint = result["task_version"], result["cohort_fingerprint"]
        return version == self.info.version and fingerprint == self.fingerprint

    def _fits(self, a: Place, b: Place, entry: Mapping[str, Any]) -> bool:
        """Whether a comparison is about exactly the rows of both files."""
        row_a = self.results.get((*a, *_what(entry)))
        row_b = self.results.get((*b, *_what(entry)))
        if row_a is None or row_b is None:
            return False
        if (row_a["digest"], row_b["digest"]) != (entry["digest"], entry["other_digest"]):
            return False
        # The same stages, made on another machine, give numbers that are a little different.
        means = _common_means(row_a, row_b)
        if means is None or entry["difference"] is None:
            return True
        difference = means[0] - means[1]
        return math.isclose(entry["difference"], difference, rel_tol=1e-6, abs_tol=1e-9)

    def at(self, place: Place, target: str, metric: str, fraction: float) -> Mapping | None:
        """Return a result."""
        return self.results.get((*place, target, metric, fraction))

    def scored(self, place: Place, fraction: float) -> list[tuple[str, str]]:
        """Return the targets and metrics that have a result."""
        return self._scored.get((place, fraction), [])

    def heads(self, modality: str) -> set[str]:
        """Return the heads under which ranked methods have rows."""
        ranked = {method.name for method in self.methods if method.block != UNRANKED}
        return {key[1] for key in self.results if key[0] in ranked and key[2] == modality}

    def difference(self, a: Line, b: Line | None, what: What) -> Difference | None:
        """Return a minus b, from whichever of the two files has it."""
        if b is None:
            return None
        for sign, pair in ((1, (a.place, b.place)), (-1, (b.place, a.place))):
            entry = self._versus.get((*pair, *what))
            if entry is None or entry["p"] is None:
                continue
            ends = [None if entry[e] is None else sign * entry[e] for e in ("lo", "hi")]
            lo, hi = ends[::sign]
            value = sign * entry["difference"]
            parts = {n: math.nan if entry[n] is None else entry[n] for n in ("s2", "e2", "sigma2")}
            rest = {n: entry[n] for n in ("p", "v", "nu", "replicates", "v_subj")}
            # Rows of older versions lack it; nu is n_min - 1, or less by a spread of replicates.
            n_min = entry.get("n_min", round(entry["nu"]) + 1)
            return Difference(value, lo, hi, **rest, **parts, n_min=n_min)
        return None

    def gap(self, line: Line, reference: Line, goal: Line, what: What) -> Mapping | None:
        """Return the recorded gap closed between exactly these rows."""
        results = [x.result for x in (line, reference, goal)]
        entry = self._gaps.get((*(result["digest"] for result in results), *what))
        if entry is None or entry["value"] is None or (means := _common_means(*results)) is None:
            return entry
        a, base, end = means
        share = (a - base) / (end - base)
        return entry if math.isclose(entry["value"], share, rel_tol=1e-6, abs_tol=1e-9) else None

    def versus_ceiling(self, oracle: str) -> dict[tuple, Mapping[str, Any]]:
        """Return the comparisons with ceilings, which have no rows, by `Place` and `What`."""
        return {
            (file["method"], entry["head"], entry["modality"], *_what(entry)): entry
            for file in self.files
            for entry in file["versus"]
            if entry["other"] == oracle and entry["p"] is not None
        }

    def line(
        self, method: Expected, modality: str, metric: str, fraction: float, head: str
    ) -> Line | None:
        """Return the place a method has in a section; None where it can have none."""
        what = (MEAN, metric, fraction)
        if result := self.at((method.name, head, modality), *what):
            return Line(method, head, modality, result)
        near = (modality, "covariates", *(["cmr"] if modality == "ecg" else []))
        if method.block == UNRANKED:
            # References may be tied to a head of their own, or read covariates or images only, and
            # stand in every section all the same.
            places = [x for x in self._found.get((method.name, *what), ()) if x[1] in near]
            if places:
                own_head, own = min(places, key=lambda x: (x[1] != modality, x))
                result = self.at((method.name, own_head, own), *what)
                return Line(method, own_head, own, result)
            elsewhere = any(m in near for _, m in self._elsewhere.get((method.name, *what), ()))
        else:
            near = (modality,)
            elsewhere = (head, modality) in self._elsewhere.get((method.name, *what), ())
        if elsewhere:
            return Line(method, head, modality, None, OTHER)
        # A ranked method that is tied to another head is not missing under this one.
        fits = method.heads is None or head in method.heads or method.block == UNRANKED
        if fits and (method.places is None or any((m, fraction) in method.places for m in near)):
            return Line(method, head, modality, None, NOT_RUN)
        places = {f for m, f in method.places or () if m in near}
        if method.places and not places:
            return None  # an ECG encoder has no place among those that search CMR
        why = method.why_not
        if method.heads and not fits:
            why = f"{' or '.join(sorted(method.heads))} head only"
        elif places:
            why = f"{', '.join(f'{100 * f:g}%' for f in sorted(places))} of labels only"
        return Line(method, head, modality, None, NOT_APPLICABLE, why)


def group_target(group: str) -> str:
    """Return the target under which the mean over a group of targets is scored."""
    return f"mean of {group}"


def _common_means(*results: Mapping[str, Any]) -> list[float] | None:
    """Return the means over the replicates that all results have; None without any."""
    by_seed = [dict(zip(r["seeds"], r["values"], strict=False)) for r in results]
    common = set.intersection(*(set(values) for values in by_seed))
    if not common:
        return None
    return [math.fsum(v[seed] for seed in common) / len(common) for v in by_seed]


def _what(row: Mapping[str, Any]) -> What:
    return row["target"], row["metric"], row["fraction"]


def _places(results: Mapping[tuple, Any]) -> dict[tuple, Sequence[tuple[str, str]]]:
    """Heads and modalities by method and `What`."""
    found: dict[tuple, list[tuple[str, str]]] = defaultdict(list)
    for method, head, modality, *what in results:
        found[method, *what].append((head, modality))
    return found

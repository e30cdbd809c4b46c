"""``ecgcmr compare``: two methods on every task, in numbers and in a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.api import Cohort, Metric, Task, UserError
from benchmark.engine.store import Store
from benchmark.evaluation.multiplicity import holm
from benchmark.evaluation.score import MEAN
from benchmark.evaluation.statistics import posterior
from benchmark.names import suggestion
from benchmark.planning import MODALITIES, Request, jobs_of, why_not
from benchmark.recording import RANKED_TRACK, scored
from benchmark.registry import registry
from benchmark.reports.boards.info import (
    DIAGNOSTIC,
    LEVEL,
    NOT_APPLICABLE,
    NOT_RUN,
    Expected,
    TaskInfo,
)
from benchmark.reports.boards.recorded import Difference, Line, Recorded
from benchmark.reports.cells import Scored
from benchmark.reports.collect import rows_file
from benchmark.reports.files import grouped
from benchmark.trained import recorded_file

MARGIN = 0.01
"""Difference below which two scores are practically equal, of metrics that end at 1."""
SURE = 0.95


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two methods on one endpoint; ``value`` is None without a score, ``status`` why."""

    method: str
    head: str
    modality: str
    status: str
    value: float | None = None
    lo: float | None = None
    hi: float | None = None
    replicates: int = 0
    uses_labels: bool = False


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two methods on one task's endpoint.

    Attributes
    ----------
    task, title, kind, metric, higher_is_better, targets
        What was scored: the mean of ``targets`` targets.
    modality, fraction
        Section of the board, and share of the labels.
    simulated, n
        Whether the test people are simulated, and how many they are.
    a, b
        The two methods.
    difference, lo, hi, p
        a minus b in the metric's own direction with its 95% interval, and the paired two-sided
        test; None where the two were not compared.
    p_holm
        Corrected for the number of comparisons made together.
    replicates
        Trainings that both have.
    margin, worse, within, better
        Probability that a is worse than b by more than the margin, within it, and better by more,
        from a flat prior; None where the metric has no margin.
    reason
        Why there is no comparison.
    """

    task: str
    title: str
    kind: str
    metric: str
    higher_is_better: bool
    modality: str
    fraction: float
    simulated: bool
    a: Side
    b: Side
    n: int | str | None = None
    targets: int = 0
    difference: float | None = None
    lo: float | None = None
    hi: float | None = None
    p: float | None = None
    p_holm: float | None = None
    replicates: int = 0
    margin: float | None = None
    worse: float | None = None
    within: float | None = None
    better: float | None = None
    reason: str = ""

    @property
    def verdict(self) -> str:
        """Return who is better beyond chance, ``equal`` within the margin, ``open`` or ``none``."""
        if self.difference is None:
            return "none"
        if self.p_holm is not None and self.p_holm <= LEVEL:
            return "a" if (self.difference > 0) == self.higher_is_better else "b"
        return "equal" if self.within is not None and self.within >= SURE else "open"


def compare(
    a: str,
    b: str,
    request: Request,
    store: Store,
    leaderboards: Path,
    *,
    head: str = "",
    margin: float = MARGIN,
) -> list[Pair]:
    """Compare two methods on the primary endpoint of every task of a request.

    Recorded rows are read; where they do not compare this pair, the scores in the store. Nothing is
    trained.

    Parameters
    ----------
    request
        Tasks, people and scale; the first fraction is the one that is compared; ``modality``
        restricts to one encoder.
    head
        What both are read under; empty: each method's own.

    Raises
    ------
    UserError
        When the two are one method, there is no such head, or the margin is no positive number.
    """
    first, second = registry().method(a), registry().method(b)
    heads = {entry.head for entry in registry().methods.values()} | {"none"}
    if head and head not in heads:
        raise UserError(f"no head is called {head!r}; {suggestion(head, heads)}")
    if first.name == second.name:
        raise UserError("a method is not compared with itself; name two")
    if not 0 < margin < 1:
        raise UserError(f"--margin is {margin:g}; it lies between 0 and 1")
    if request.track != RANKED_TRACK:
        raise UserError(f"methods are compared in the {RANKED_TRACK} track alone")
    names = (first.name, second.name)
    tasks = [registry().task(name) for name in request.tasks]
    tasks.sort(key=lambda task: (not task.confirmatory, task.kind == DIAGNOSTIC))
    pairs = [
        pair
        for task in tasks
        for pair in _pairs(names, task, request, store, leaderboards, head, margin)
    ]
    tested = [pair for pair in pairs if pair.p is not None]
    adjusted = holm([pair.p for pair in tested])
    corrected = {id(pair): float(p) for pair, p in zip(tested, adjusted, strict=True)}
    return [replace(pair, p_holm=corrected.get(id(pair))) for pair in pairs]


def _pairs(
    names: tuple[str, str],
    task: Task,
    request: Request,
    store: Store,
    leaderboards: Path,
    head: str,
    margin: float,
) -> Iterator[Pair]:
    """Yield the comparisons of one task, one for each modality that has a primary endpoint."""
    cohort, fraction = request.make_cohort(), request.fractions[0]
    fraction = 1.0 if task.predict is not None else fraction
    files = (recorded_file(name, task, request, leaderboards) for name in names)
    recorded = _recorded([file for file in files if file is not None], task, cohort)
    stored: Recorded | None = None
    metrics = {metric.name: metric for metric in task.metrics}
    for modality, metric in _sections(task, request.modality):
        what = (MEAN, metric, fraction)
        lines = [_line(recorded, name, modality, what, head) for name in names]
        found = recorded.difference(*lines, what) if all(lines) else None
        if found is None and task.kind != DIAGNOSTIC:
            if stored is None:
                stored = _recorded(_from_store(names, task, request, store), task, cohort)
            own = [_line(stored, name, modality, what, head) for name in names]
            # Scores of the store replace recorded ones together, or the numbers would not match.
            if all(own) and (difference := stored.difference(*own, what)):
                lines, found = own, difference
            elif not all(lines):
                lines = [x or y for x, y in zip(lines, own, strict=True)]
        sides = [
            _side(name, line, task, modality, request, head)
            for name, line in zip(names, lines, strict=True)
        ]
        yield _pair(task, metrics[metric], modality, fraction, cohort, sides, lines, found, margin)


def _sections(task: Task, modality: str) -> list[tuple[str, str]]:
    """Return modalities and their primary metric; the first metric where none is primary."""
    leading = next(iter(task.primary.values()), task.metrics[0].name)
    if modality:
        return [(modality, task.primary.get(modality, leading))]
    return list(task.primary.items()) or [("", leading)]


def _from_store(
    names: Sequence[str], task: Task, request: Request, store: Store
) -> list[dict[str, Any]]:
    """Return rows files of the two methods alone, of the scores that are in the store."""
    groups = scored(request, store, task, names)
    available = {
        name: [Scored(name, *key, scores=scores) for key, scores in groups[name].items()]
        for name in names
        if name in groups
    }
    files = []
    for name, own in available.items():
        entry = registry().method(name)
        header = {"method": name, "task": task.name, "track": RANKED_TRACK}
        header |= {"role": entry.variant.role, "uses_labels": entry.uses_labels}
        others = [theirs for other, theirs in available.items() if other != name]
        files.append(rows_file(header, own, others, task, store))
    return files


def _recorded(files: Sequence[Mapping[str, Any]], task: Task, cohort: Cohort) -> Recorded:
    info = TaskInfo(
        name=task.name,
        title=task.title,
        version=task.version,
        simulated=cohort.simulated,
        kind=task.kind,
        primary=task.primary,
        reference=task.reference,
        methods=(),
        fingerprint=grouped(cohort.digest),
    )
    return Recorded(files, info)


def _line(
    recorded: Recorded, name: str, modality: str, what: tuple[str, str, float], head: str
) -> Line | None:
    """Return a method's row in a section; None without one.

    A reference that reads the images or the covariates stands in the section of the ECG.
    """
    near = [modality] if modality else ["ecg", "ecg-cmr", "cmr"]
    near += ["cmr", "covariates"] if modality == "ecg" else ["covariates"]
    places = sorted(
        (near.index(key[2]), key[1] != registry().method(name).head, key[1], key[2])
        for key in recorded.results
        if key[0] == name and key[3:] == what and key[2] in near and head in ("", key[1])
    )
    if not places:
        return None
    _, _, own_head, own = places[0]
    result = recorded.at((name, own_head, own), *what)
    return Line(Expected(name=name), own_head, own, result)


def _side(
    name: str, line: Line | None, task: Task, modality: str, request: Request, head: str
) -> Side:
    entry = registry().method(name)
    if line is None:
        return Side(
            method=name,
            head="",
            modality="",
            status=_absent(name, task, modality, request, head),
            uses_labels=entry.uses_labels,
        )
    result = line.result
    return Side(
        method=name,
        head=line.head,
        modality=line.modality,
        status=result["status"],
        value=result["value"],
        lo=result["lo"],
        hi=result["hi"],
        replicates=result["replicates"],
        uses_labels=entry.uses_labels,
    )


def _absent(name: str, task: Task, modality: str, request: Request, head: str) -> str:
    """Return why a method has no row: it cannot, or nobody has run it."""
    entry, cohort = registry().method(name), request.make_cohort()
    asked = replace(request, modality=modality if modality in MODALITIES else "")
    jobs = list(jobs_of(entry, task, cohort, 0, asked))
    if not jobs:
        return f"{NOT_APPLICABLE}: {why_not(entry, task, cohort, asked)}"
    if modality not in ("", *(job.modality for job in jobs)):
        return f"{NOT_APPLICABLE}: it has nothing to search from one modality to the other with"
    if head not in ("", *(job.head for job in jobs)):
        return f"{NOT_APPLICABLE}: its head is {jobs[0].head}"
    return NOT_RUN


def _pair(
    task: Task,
    metric: Metric,
    modality: str,
    fraction: float,
    cohort: Cohort,
    sides: Sequence[Side],
    lines: Sequence[Line | None],
    found: Difference | None,
    margin: float,
) -> Pair:
    a, b = sides
    results = [line.result for line in lines if line is not None]
    facts: dict[str, Any] = {}
    if results:
        facts = {"n": results[0]["n"], "targets": len(results[0].get("targets") or ())}
    if task.kind == DIAGNOSTIC:
        facts["reason"] = "a diagnostic: it looks into representations and is never tested"
    elif missing := next((side for side in sides if side.value is None), None):
        facts["reason"] = f"{missing.method}: {missing.status}"
    elif found is None:
        facts["reason"] = "their recorded rows were never paired, and the store lacks the scores"
    else:
        facts |= {"difference": found.value, "lo": found.lo, "hi": found.hi, "p": found.p}
        facts["replicates"] = found.replicates
        if metric.bounds[1] == 1 and found.nu is not None:
            sign = 1 if metric.higher_is_better else -1
            belief = posterior(sign * found.value, found.v, found.nu, margin)
            facts |= {"margin": margin, **asdict(belief)}
    return Pair(
        task=task.name,
        title=task.title,
        kind=task.kind,
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        modality=modality or a.modality or b.modality,
        fraction=fraction,
        simulated=cohort.simulated,
        a=a,
        b=b,
        **facts,
    )

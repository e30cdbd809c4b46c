"""What `benchmark.compare` found, for people and for programs."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmark.compare import SURE, Pair, Side
from benchmark.reports.boards.info import NOT_RUN

WIDTH = 100
SEES = {"ecg": "the ECG", "cmr": "the images", "covariates": "age, sex and size alone"}
BETTER = {
    "classification": "{} told the two groups of people apart better than {}",
    "regression": "predictions of {} agreed better with the measured values than those of {}",
    "retrieval": "people found by {} were more alike than those found by {}",
}
"""What it means to score better, by the kind of the task."""
HEADS = {
    "linear": "a linear probe",
    "mlp": "a small network on frozen features",
    "finetune": "fine-tuning",
    "xgboost": "boosted trees",
}


def text(pairs: Sequence[Pair], place: Sequence[str] = ()) -> str:
    """Return the table, a sentence for every comparison and what holds for all of them.

    Parameters
    ----------
    place
        Options that say which cohort and scale, for the command that runs what is missing.
    """
    shown = [pair for pair in pairs if pair.a.value is not None or pair.b.value is not None]
    parts = [_table(shown)] if shown else []
    parts += [_wrapped(sentence(pair, _tests(pairs))) for pair in shown if _compared(pair)]
    if absent := [pair for pair in shown if not _compared(pair)]:
        reasons = (f"{pair.task} from {pair.modality}: {pair.reason}" for pair in absent)
        parts.append("\n".join(["Not compared:", *(f"- {reason}" for reason in reasons)]))
    parts += [_wrapped(note) for note in _notes(pairs)]
    if silent := sorted({pair.task for pair in pairs} - {pair.task for pair in shown}):
        parts.append(_wrapped(f"Neither has a score on: {', '.join(silent)}."))
    if missing := _missing(pairs, place):
        parts.append(missing)
    return "\n\n".join(parts)


def _missing(pairs: Sequence[Pair], place: Sequence[str]) -> str:
    """Return the command that runs what nobody has run."""
    absent = [(s.method, p.task) for p in pairs for s in (p.a, p.b) if s.status == NOT_RUN]
    if not absent:
        return ""
    methods, tasks = (dict.fromkeys(names) for names in zip(*absent, strict=True))
    fraction = min(pair.fraction for pair in pairs)  # retrieval has no other than 1
    labels = [] if fraction == 1 else ["--fractions", f"{fraction:g}"]
    asked = ["--method", ",".join(methods), "--task", ",".join(tasks), *labels, *place]
    return f"{shlex.join(['ecgcmr', 'run', *asked])} runs what is missing."


def as_json(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return everything for programs, the sentences included."""
    found = [
        asdict(pair) | {"verdict": pair.verdict, "sentence": sentence(pair, _tests(pairs))}
        for pair in pairs
    ]
    return {"comparisons": found, "notes": _notes(pairs)}


def sentence(pair: Pair, tests: int = 1) -> str:
    """Return what a clinician may take from one comparison, in two or three sentences.

    Parameters
    ----------
    tests
        How many comparisons ``p_holm`` is corrected for.
    """
    if not _compared(pair):
        names = f"{pair.a.method} and {pair.b.method}"
        return f"{_opening(pair)}: {names} were not compared ({pair.reason})."
    return _judgement(pair, tests) + _unequal(pair)


def _judgement(pair: Pair, tests: int) -> str:
    a, b = pair.a, pair.b
    winner, loser = (b, a) if pair.verdict == "b" else (a, b)
    numbers = f"{_metric(pair)} {winner.value:.3f} against {loser.value:.3f}"
    corrected = f"; {pair.p_holm:.2g} corrected for {tests} comparisons" if tests > 1 else ""
    chance = f"({_p(pair.p)}{corrected if pair.p_holm >= 0.001 else ''})"
    if pair.verdict in ("a", "b"):
        what = BETTER.get(pair.kind, "{} scored better than {}")
        what = what.format(winner.method, loser.method)
        return (
            f"{_opening(pair)}: {what}: {numbers}{_lower(pair)}. "
            f"The difference, {_difference(pair, winner)}, is larger than chance explains {chance}."
            f"{_small(pair)}"
        )
    said = (
        f"{_opening(pair)}: {a.method} and {b.method} cannot be told apart: {numbers}"
        f"{_lower(pair)}. The difference, {_difference(pair, a)}, is within what chance explains "
        f"{chance}."
    )
    if pair.margin is None:
        return f"{said} That is no proof that they are equal."
    if pair.verdict == "equal":
        return (
            f"{said} They are practically equal: the probability that they differ by less than "
            f"{pair.margin:g} is {_percent(pair.within)}."
        )
    return (
        f"{said} That is no proof that they are equal: the probability of a difference below "
        f"{pair.margin:g} is {_percent(pair.within)}."
    )


def _unequal(pair: Pair) -> str:
    """Say what the values and the difference stand on where trainings of one are missing."""
    counts = {pair.a.replicates, pair.b.replicates}
    if counts == {pair.replicates}:
        return ""
    return (
        f" The values are means over {pair.a.replicates} and {pair.b.replicates} replicates, the "
        f"difference is over the {pair.replicates} that both have."
    )


def _small(pair: Pair) -> str:
    if pair.within is None or pair.within < SURE:
        return ""
    share = _percent(pair.within)
    return f" It is small: the probability that it is below {pair.margin:g} is {share}."


def _opening(pair: Pair) -> str:
    people = "simulated test people" if pair.simulated else "test people"
    count = "test people" if pair.n is None else f"{pair.n} {people}"
    labels = "" if pair.fraction == 1 else f", with {100 * pair.fraction:g}% of the labels"
    search = " among images, by ECG" if pair.modality == "ecg-cmr" else ""
    return f"{pair.title}{search}{labels}, on {count}"


def _metric(pair: Pair) -> str:
    mean = "mean " if pair.targets > 1 else ""
    over = f" of {pair.targets} targets" if pair.targets > 1 else ""
    return f"{mean}{pair.metric}{over}"


def _lower(pair: Pair) -> str:
    return "" if pair.higher_is_better else " (lower is better)"


def _difference(pair: Pair, first: Side) -> str:
    """Return the difference as first minus second, signed as the metric is, with its interval."""
    sign = 1 if first is pair.a else -1
    value = f"{sign * pair.difference:.3f}"
    if pair.lo is None or pair.hi is None:
        return value
    lo, hi = sorted((sign * pair.lo, sign * pair.hi))
    return f"{value} [{lo:.3f} to {hi:.3f}]"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _percent(share: float) -> str:
    return "over 99%" if share > 0.99 else "under 1%" if share < 0.01 else f"{100 * share:.0f}%"


def _tests(pairs: Sequence[Pair]) -> int:
    return sum(pair.p is not None for pair in pairs)


def _compared(pair: Pair) -> bool:
    return pair.difference is not None


def _notes(pairs: Sequence[Pair]) -> list[str]:
    """Return what a reader must know of all comparisons: trainings, people, unequal conditions."""
    notes = []
    compared = [pair for pair in pairs if _compared(pair)]
    if any(pair.replicates == 1 for pair in compared):
        notes.append(
            "One training of each: this is a statement about these two trained networks. Another "
            "training of the same methods may differ by more; several replicates would tell."
        )
    if any(side.value is not None for side in _either(pairs)) and pairs[0].simulated:
        notes.append(
            "The people are simulated: this says how the methods learn, not how they would do in "
            "patients."
        )
    for side in _either(pairs):
        if side.modality in ("cmr", "covariates"):
            notes.append(f"{side.method} reads {SEES[side.modality]}, not the ECG.")
    heads = {frozenset((p.a.head, p.b.head)) for p in compared if p.a.head != p.b.head}
    if heads:
        names = {side.method: HEADS.get(side.head, side.head) for side in _either(compared)}
        told = " and ".join(f"{name} by {head}" for name, head in names.items())
        notes.append(f"They are read in different ways: {told}.")
    labelled = {side.method for side in _either(pairs) if side.uses_labels}
    if len(labelled) == 1:
        notes.append(
            f"{labelled.pop()} saw labels while it learned its representation; the other did not."
        )
    return notes


def _either(pairs: Sequence[Pair]) -> list[Side]:
    """Return each method once for every modality and head."""
    sides = {(s.method, s.modality): s for p in pairs for s in (p.a, p.b) if s.value is not None}
    return list(sides.values())


def _table(pairs: Sequence[Pair]) -> str:
    from tabulate import tabulate

    rows = [
        (
            pair.task,
            _inputs(pair),
            f"{pair.metric}{'' if pair.higher_is_better else ' (lower is better)'}",
            _score(pair.a),
            _score(pair.b),
            _difference(pair, pair.a) if _compared(pair) else "not compared",
            "" if pair.p is None else _p(pair.p),
            "" if pair.p_holm is None else _p(pair.p_holm),
        )
        for pair in pairs
    ]
    a, b = pairs[0].a.method, pairs[0].b.method
    heads = ("task", "from", "metric", a, b, f"{a} - {b}", "p", "p (Holm)")
    return tabulate(rows, headers=heads, tablefmt="github", disable_numparse=True)


def _inputs(pair: Pair) -> str:
    """Return what the two read: a section of the ECG holds references that read something else."""
    return " / ".join(dict.fromkeys(s.modality or pair.modality for s in (pair.a, pair.b)))


def _score(side: Side) -> str:
    if side.value is None:
        return side.status.partition(":")[0]
    interval = "" if side.lo is None else f" [{side.lo:.3f}, {side.hi:.3f}]"
    return f"{side.value:.3f}{interval}"


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)

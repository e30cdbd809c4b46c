"""Decisions of the regression gate: what was measured, what it was before, and the verdict.

Four layers, cheapest first: frozen metrics (A), fingerprints of every method (B), a learning smoke
against stored reference seeds (C), and recorded rows (D). In C the test people are fixed, so
training seeds are the only noise and a t test over seeds is right; on a board, which speaks about
people, it would not be. Nothing is run or opened here (`benchmark.check` does that).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from benchmark.evaluation.multiplicity import holm
from benchmark.evaluation.score import MEAN
from benchmark.evaluation.statistics import Comparison
from benchmark.reports.rows import KEY, OK

PASS, INCONCLUSIVE, REGRESSION = "pass", "inconclusive", "regression"
EXIT_CODES = {PASS: 0, REGRESSION: 1, INCONCLUSIVE: 3}

ALPHA = 0.01
"""Chance of a false alarm of one run, over all endpoints together."""
TOLERANCE = 0.005
"""A drop of an endpoint that nobody minds, of AUROC, R2 or P@k."""
MARGIN = 0.01
"""A changed recipe must not be worse than this, of AUROC, R2 or P@k."""
EQUAL = 1e-4
"""Results of equal seeds that differ by less are the same up to rounding."""
SHOWN = 20  # reasons of a layer in a summary


@dataclass
class Verdict:
    """What one layer compared and found.

    Attributes
    ----------
    layer
        Its letter and name.
    compared
        Values that were held against one another; none is a regression of the gate itself.
    wrong, unsure
        Reasons against a pass, and reasons why nothing can be said.
    notes
        What a reader should know of a pass.
    """

    layer: str
    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def outcome(self) -> str:
        """Return `PASS`, `INCONCLUSIVE` or `REGRESSION`."""
        if self.wrong or not self.compared:
            return REGRESSION
        return INCONCLUSIVE if self.unsure else PASS

    @property
    def reasons(self) -> list[str]:
        """Why it is no pass."""
        nothing = [] if self.compared else ["nothing was compared"]
        return nothing + self.wrong + [f"cannot tell: {text}" for text in self.unsure]


def overall(verdicts: Sequence[Verdict]) -> str:
    """Return the worst outcome; without any layer a regression."""
    found = {verdict.outcome for verdict in verdicts} or {REGRESSION}
    return next(o for o in (REGRESSION, INCONCLUSIVE, PASS) if o in found)


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as Markdown, short enough for a pull request."""
    text = [f"## Regression gate: {overall(verdicts)}", ""]
    text += ["| layer | compared | result | seconds |", "|---|---:|---|---:|"]
    text += [f"| {v.layer} | {v.compared:,} | {v.outcome} | {v.seconds:.0f} |" for v in verdicts]
    for verdict in verdicts:
        lines = [*verdict.reasons, *verdict.notes]
        if not lines:
            continue
        text += ["", f"**{verdict.layer}**", ""]
        text += [f"- {line}" for line in lines[:SHOWN]]
        text += [f"- and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join(text) + "\n"


# ----------------------------------------------------------------------- A and B: frozen values

Close = Callable[[np.ndarray, np.ndarray], bool]


def within(tolerance: float) -> Close:
    """Return a test of absolute agreement; what is not a number agrees with itself alone."""
    return lambda old, new: bool(np.allclose(old, new, rtol=0, atol=tolerance, equal_nan=True))


def relative(tolerance: float) -> Close:
    """Return a test of agreement relative to the largest of the stored numbers."""

    def close(old: np.ndarray, new: np.ndarray) -> bool:
        return within(tolerance * float(np.abs(old).max(initial=0.0)))(old, new)

    return close


def frozen(stored: Any, measured: Any, close: Close, verdict: Verdict, at: str = "") -> None:
    """Hold nested values against stored ones and tell the verdict what differs.

    A list of floats is one value, in which only ``close`` decides; whole numbers and texts are
    compared exactly, and so is what there is.
    """
    if isinstance(stored, Mapping) and isinstance(measured, Mapping):
        for name in stored.keys() | measured.keys():
            place = f"{at}, {name}" if at else str(name)
            if name not in measured:
                verdict.wrong.append(f"{place}: missing")
            elif name not in stored:
                verdict.wrong.append(f"{place}: has no reference; ecgcmr golden writes it")
        for name in stored:
            if name in measured:
                place = f"{at}, {name}" if at else str(name)
                frozen(stored[name], measured[name], close, verdict, place)
        return
    verdict.compared += 1
    old, new = _floats(stored), _floats(measured)
    if old is None or new is None:
        same = type(stored) is type(measured) and stored == measured
    else:
        same = old.shape == new.shape and close(old, new)
    if not same:
        verdict.wrong.append(f"{at}: {_shown(stored)} became {_shown(measured)}")


def _floats(value: Any) -> np.ndarray | None:
    """Return numbers with a decimal point, None being not-a-number; None for anything else."""
    values = value if isinstance(value, list) else [value]
    if not any(isinstance(v, float) or v is None for v in values):
        return None
    if not all(isinstance(v, float) or v is None for v in values):
        return None
    return np.array([math.nan if v is None else v for v in values])


def _shown(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    text = ", ".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in values)
    return f"[{text}]" if isinstance(value, list) else text


# ----------------------------------------------------------------------- C: seeds against seeds


@dataclass(frozen=True)
class Drop:
    """How far the mean of an endpoint fell, and whether chance explains it (``p`` after Holm)."""

    endpoint: str
    before: float
    after: float
    t: float
    p: float

    @property
    def red(self) -> bool:
        """Whether the drop is larger than chance and larger than anybody minds."""
        return self.p <= ALPHA and self.before - self.after > TOLERANCE

    def __str__(self) -> str:
        return (
            f"{self.endpoint}: {self.before:.4f} became {self.after:.4f} "
            f"(t {self.t:.1f}, p {self.p:.2g} after Holm)"
        )


def same_recipe(
    reference: Mapping[str, Sequence[float]], fresh: Mapping[str, Sequence[float]]
) -> list[Drop]:
    """Test whether endpoints fell: pooled t over seeds, one-sided, Holm over the endpoints.

    Parameters
    ----------
    reference, fresh
        Values by endpoint, one a seed, higher being better; at least two of each.
    """
    found = []
    for endpoint, values in fresh.items():
        old, new = (np.asarray(v, float) for v in (reference[endpoint], values))
        degrees = len(old) + len(new) - 2
        spread = ((old - old.mean()) ** 2).sum() + ((new - new.mean()) ** 2).sum()
        error = math.sqrt(spread / degrees * (1 / len(old) + 1 / len(new)))
        drop = float(old.mean() - new.mean())
        t = drop / error if error > 0 else math.copysign(math.inf, drop) if drop else 0.0
        p = float(stats.t.sf(t, degrees))
        found.append((endpoint, float(old.mean()), float(new.mean()), -t, p))
    adjusted = holm([p for *_, p in found])
    return [Drop(*drop[:-1], float(p)) for drop, p in zip(found, adjusted, strict=True)]


# ----------------------------------------------------------------------- D: recorded rows


def noninferior(difference: float, lo: float, hi: float, margin: float = MARGIN) -> str:
    """Judge a changed recipe by the 95% interval of new minus old, higher being better."""
    if lo > -margin:
        return PASS
    return REGRESSION if hi < 0 and difference < -margin / 2 else INCONCLUSIVE


Paired = Callable[[Mapping[str, Any], Mapping[str, Any]], Comparison | None]
FILE = ("cohort", "preset", "scale", "track", "task", "method")


def recorded(
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    endpoints: Mapping[str, frozenset[str]],
    paired: Paired,
) -> Verdict:
    """Hold rows files against those of an earlier state.

    Every cell must still be there, with its replicates, about the same people, with a number. The
    endpoints alone decide about values: where the recipe is the same by seeds (as `same_recipe`),
    where it changed by non-inferiority.

    Parameters
    ----------
    before, after
        Contents of rows files.
    endpoints
        Task to the metrics whose mean over targets is an endpoint.
    paired
        Compares an old and a new row, new minus old, over the people; None where their
        predictions are not in the store.
    """
    verdict = Verdict("D recorded rows")
    new_files = {_place(file): file for file in after}
    broken: dict[tuple[str, str], list[str]] = {}
    old_values: dict[str, list[float]] = {}
    new_values: dict[str, list[float]] = {}
    equal, aside = 0, []
    for file in before:
        where = "/".join(_place(file))
        if _place(file) not in new_files:
            verdict.wrong.append(f"{where}: all rows are missing")
            continue
        rows = {_key(row): row for row in new_files[_place(file)]["rows"]}
        metrics = endpoints.get(file["task"], frozenset())
        for row in file["rows"]:
            cell = " ".join(map(str, _key(row)))
            name, other = f"{where} {cell}", rows.get(_key(row))
            for text in _broken(row, other):
                broken.setdefault((where, text), []).append(cell)
            if not _comparable(row, other):
                continue
            verdict.compared += 1
            old, new = row["result"], other["result"]
            if old["status"] != OK:
                equal += old["status"] == new["status"]
                continue
            sign = 1 if old["higher_is_better"] else -1
            shared = sorted({*old["seeds"]} & {*new["seeds"]})
            mine, theirs = (
                sign * np.array([result["values"][result["seeds"].index(s)] for s in shared])
                for result in (old, new)
            )
            if np.abs(mine - theirs).max() <= EQUAL:
                equal += 1
            elif row["target"] != MEAN or row["metric"] not in metrics:
                aside.append(name)
            elif old["recipe_digest"] != new["recipe_digest"]:
                _judge(name, row, other, sign, paired, verdict)
            elif len(shared) > 1:
                old_values[name], new_values[name] = mine.tolist(), theirs.tolist()
            elif (mine - theirs).mean() > TOLERANCE:
                text = f"{mine[0]:.4f} became {theirs[0]:.4f}; one seed is no test"
                verdict.unsure.append(f"{name}: {text}")
    for (where, text), cells in broken.items():
        more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        verdict.wrong.append(f"{where} {cells[0]}{more}: {text}")
    for drop in same_recipe(old_values, new_values):
        (verdict.wrong if drop.red else verdict.notes).append(str(drop))
    if aside:
        text = f"{len(aside):,} cells that are no endpoint differ, first {aside[0]}"
        verdict.notes.insert(0, text)
    verdict.notes.insert(0, f"{equal:,} of {verdict.compared:,} cells are equal")
    return verdict


def _broken(row: Mapping[str, Any], other: Mapping[str, Any] | None) -> Iterator[str]:
    """Give what no statistics excuse."""
    if other is None:
        yield "the row is missing"
        return
    old, new = row["result"], other["result"]
    for name, text in _SAME_PEOPLE.items():
        if old[name] != new[name]:
            yield f"{text} was {old[name]}, is {new[name]}"
    if lost := sorted({*old["seeds"]} - {*new["seeds"]}):
        yield f"replicates {', '.join(map(str, lost))} are missing"
    if old["status"] == OK and not _is_known(old):
        yield "no number to be held against"
    elif old["status"] == OK and not _is_known(new):
        yield f"no number any more ({new['status']})"


def _is_known(result: Mapping[str, Any]) -> bool:
    """Whether there is a number in every replicate; files of others may hold what is none."""
    values = [result["value"], *result["values"]]
    return result["status"] == OK and all(v is not None and math.isfinite(v) for v in values)


_SAME_PEOPLE = {
    "task_version": "the version of the task",
    "cohort_fingerprint": "the fingerprint of the people",
    "n": "n",
    "positives": "the number of positives",
}


def _comparable(row: Mapping[str, Any], other: Mapping[str, Any] | None) -> bool:
    """Whether both are about the same people and the same question, and the new one is known."""
    if other is None:
        return False
    old, new = row["result"], other["result"]
    same = all(old[name] == new[name] for name in _SAME_PEOPLE)
    known = old["status"] != OK or (_is_known(old) and _is_known(new))
    return same and known and (old["status"] != OK or bool({*old["seeds"]} & {*new["seeds"]}))


def _judge(
    name: str,
    row: Mapping[str, Any],
    other: Mapping[str, Any],
    sign: int,
    paired: Paired,
    verdict: Verdict,
) -> None:
    found = paired(row, other)
    if found is None:
        difference, lo, hi = unpaired(row["result"], other["result"])
        how = "unpaired, from rows alone: the interval is too wide, ask for the predictions"
    else:
        difference, lo, hi = found.difference, found.lo, found.hi
        how = "paired over people"
    if sign < 0:
        difference, lo, hi = -difference, -hi, -lo
    outcome = noninferior(difference, lo, hi) if math.isfinite(lo + hi) else INCONCLUSIVE
    text = f"{name}: changed recipe {difference:+.4f} [{lo:+.4f}, {hi:+.4f}], {how}"
    lists = {PASS: verdict.notes, REGRESSION: verdict.wrong, INCONCLUSIVE: verdict.unsure}
    lists[outcome].append(text)


def unpaired(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return new minus old with a 95% interval from two rows' own variances.

    The people are the same, which the rows cannot tell: their noise is counted twice instead of
    cancelling.
    """
    difference = new["value"] - old["value"]
    if None in (old["v"], new["v"], old["nu"], new["nu"]):
        return difference, math.nan, math.nan
    half = float(stats.t.ppf(0.975, min(old["nu"], new["nu"])) * math.sqrt(old["v"] + new["v"]))
    return difference, difference - half, difference + half


def _place(file: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(file[name]) for name in FILE if file[name] is not None)


def _key(row: Mapping[str, Any]) -> tuple:
    return tuple(row[name] for name in KEY)

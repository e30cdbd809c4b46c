"""Layer D of the regression gate: recorded rows against those of an earlier state.

Every cell must still be there, with its replicates, about the same people, with a number. The
endpoints alone decide about values: under the same recipe by seeds, under a changed one by
non-inferiority over people. Nothing is run or opened here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from benchmark.evaluation.score import MEAN
from benchmark.evaluation.statistics import Comparison
from benchmark.reports.gate import (
    EQUAL,
    INCONCLUSIVE,
    PASS,
    REGRESSION,
    TOLERANCE,
    Verdict,
    same_recipe,
)
from benchmark.reports.rows import KEY, OK

MARGIN = 0.01
"""A changed recipe must not be worse than this, of AUROC, R2 or P@k."""
CONFIRM = 2
"""A drop is confirmed by so many times the seeds that showed it, all of them fresh."""


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
    most: int,
) -> Verdict:
    """Hold rows files against those of an earlier state.

    Under the same recipe the seeds that both have are tested as `same_recipe` does. What fell is
    tested again with seeds that are new, `CONFIRM` times as many; until there are so many, nothing
    can be said.

    Parameters
    ----------
    before, after
        Contents of rows files.
    endpoints
        Task to the metrics whose mean over targets is an endpoint.
    paired
        Compares an old and a new row, new minus old, over the people; None where their
        predictions are not in the store.
    most
        Seeds that a run can have.
    """
    verdict = Verdict("D recorded rows")
    new_files = {_place(file): file for file in after}
    broken: dict[tuple[str, str], list[str]] = {}
    seeds: dict[str, _Seeds] = {}
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
                seeds[name] = _Seeds.of(file, old, new, sign, most)
            elif (mine - theirs).mean() > TOLERANCE:
                text = f"{mine[0]:.4f} became {theirs[0]:.4f}; one seed is no test"
                verdict.unsure.append(f"{name}: {text}")
    for (where, text), cells in broken.items():
        more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        verdict.wrong.append(f"{where} {cells[0]}{more}: {text}")
    _judge_seeds(seeds, verdict)
    if aside:
        text = f"{len(aside):,} cells that are no endpoint differ, first {aside[0]}"
        verdict.notes.insert(0, text)
    verdict.notes.insert(0, f"{equal:,} of {verdict.compared:,} cells are equal")
    return verdict


@dataclass(frozen=True)
class _Seeds:
    """Values of an endpoint under one recipe, higher being better.

    ``old`` of all recorded seeds, ``again`` of those measured anew, ``fresh`` of seeds that were
    not recorded, of which a confirmation needs ``needed``; ``ask`` is what to run for them.
    """

    old: list[float]
    again: list[float]
    fresh: list[float]
    needed: int
    ask: str

    @classmethod
    def of(
        cls,
        file: Mapping[str, Any],
        old: Mapping[str, Any],
        new: Mapping[str, Any],
        sign: int,
        most: int,
    ) -> _Seeds:
        before, after = (dict(zip(r["seeds"], r["values"], strict=True)) for r in (old, new))
        again = [sign * value for seed, value in after.items() if seed in before]
        fresh = [sign * value for seed, value in after.items() if seed not in before]
        needed = min(CONFIRM * len(again), most - len(before))
        ask = f"ecgcmr run --method {file['method']} --task {file['task']}"
        ask += f" --seeds {len(before) + needed} --cohort {file['cohort']}"
        ask += f" --preset {file['preset']}" if file["preset"] else ""
        ask += f" --scale {file['scale']}"
        return cls([sign * value for value in before.values()], again, fresh, needed, ask)


def _judge_seeds(seeds: Mapping[str, _Seeds], verdict: Verdict) -> None:
    """Tell the verdict which endpoints fell under the same recipe, in two stages."""
    old = {name: own.old for name, own in seeds.items()}
    drops = same_recipe(old, {name: own.again for name, own in seeds.items()})
    red = {drop.endpoint: drop for drop in drops if drop.red}
    verdict.notes += [str(drop) for drop in drops if not drop.red]
    fresh = {}
    for name, drop in red.items():
        own = seeds[name]
        if own.needed < 2:
            verdict.wrong.append(f"{drop}; there are no further seeds to confirm it with")
        elif len(own.fresh) < own.needed:
            verdict.unsure.append(f"{drop}; fresh seeds confirm or clear it: {own.ask}")
        else:
            fresh[name] = own.fresh
    for drop in same_recipe(old, fresh):
        first = f"{red[drop.endpoint]}, and with {len(fresh[drop.endpoint])} fresh seeds"
        if drop.red:
            verdict.wrong.append(f"{first} {drop.after:.4f} (p {drop.p:.2g})")
        else:
            verdict.notes.append(f"{first} no more: {drop.after:.4f} (p {drop.p:.2g})")


def _broken(row: Mapping[str, Any], other: Mapping[str, Any] | None) -> Iterator[str]:
    """Give what no statistics excuse."""
    if other is None:
        yield "the row is missing"
        return
    old, new = row["result"], other["result"]
    for name, text in _SAME_PEOPLE.items():
        if old[name] != new[name]:
            yield f"{text} was {old[name]}, is {new[name]}"
    # Chance of a search follows from who matches whom, so from the phenotypes and their spread.
    before, after = old.get("chance"), new.get("chance")
    if None not in (before, after) and not math.isclose(before, after, rel_tol=1e-6):
        yield f"the score of chance was {before:.6g}, is {after:.6g}"
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

"""Aggregate results as files: one JSON per method and task, safe to publish.

A file is ``<cohort>[-<preset>]-<scale>/<track>/<task>/<method>.json``:

    {"method", "task", "cohort", "preset", "scale", "track", "role", "uses_labels", "overrides",
     "rows": [{"head", "modality", "target", "metric", "fraction", "result", "run"}],
     "versus": [{"head", "modality", "target", "metric", "fraction", "other", ...}],
     "gaps": [{"head", "modality", "target", "metric", "fraction", "reference", "goal", ...}]}

``result``, ``versus`` and ``gaps`` follow from the scores alone and so are equal wherever those
are; a file without ``gaps`` has none. ``overrides`` stands in files of methods with changed fields
alone: each field's value, the one instead of which, and whether the track fixes it. ``run`` tells
what it cost (`RUN_FIELDS`, and `SHARED_FIELDS` where several devices shared a training). Nothing in
a file is about one person.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.api import UserError
from benchmark.evaluation.statistics import Scale, compare, estimate, gap_closed
from benchmark.names import file_name
from benchmark.reports.files import dumps, grouped, plain, replace_file, turn

KEY = ("head", "modality", "target", "metric", "fraction")
FILE_FIELDS = (
    "method",
    "task",
    "cohort",
    "preset",
    "scale",
    "track",
    "role",
    "uses_labels",
)
OTHERS = {
    "versus": ("other", "other_head", "other_modality"),
    "gaps": (
        *("reference", "reference_head", "reference_modality"),
        *("goal", "goal_head", "goal_modality"),
    ),
}
"""Lists of what is said of a row and others, and the fields that tell the others."""
RUN_FIELDS = (
    "pretraining_seconds",
    "embedding_seconds",
    "head_seconds",
    "peak_memory_bytes",
    "device",
    "git_sha",
)
SHARED_FIELDS = ("devices", "device_seconds")
"""More of a ``run`` in which several devices shared a training; rows without them mean one."""
# Not done here: the store may hold less than was recorded.
REPAIR = "take it back from git, or remove it and run the same command again"
OK, NOT_ESTIMABLE = "ok", "not estimable"
ONE_CHECKPOINT = "one checkpoint"
MINIMUM_POSITIVES = 10  # no interval below
UNDERPOWERED = 50  # positives below which a missing difference says little
SMALLEST_COUNT = 5  # UK Biobank: no published figure is about fewer people
FEW, FEW_PEOPLE = f"<{SMALLEST_COUNT}", f"fewer than {SMALLEST_COUNT} people"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """All that is known of one method, head, modality, target, metric and fraction.

    Attributes
    ----------
    method, head, modality, target, metric, fraction
        What was scored; ``target`` is ``mean`` for the mean over ``targets``.
    task_version, cohort_fingerprint, recipe_digest
        What makes rows comparable: the recipe digest leaves seed and fraction out.
    status
        ``ok``, or in words why there is no number.
    replicates
        The replicate integers, ascending, aligned with ``theta`` and ``score_digests``.
    theta
        (S,) metric per replicate.
    psi
        (N, S) influence values of the test people; None where undefined (median rank).
        Individual-level: never written.
    interval
        The 95% interval where psi is None.
    score_digests
        Digest of each replicate's score stage.
    scale
        Scale of the interval, as the metric declares it.
    n, positives
        Test people scored, and positives among them for classification; in words once
        `without_small_counts` has withheld a number.
    n_min
        People the estimate hinges on; by default the smaller class, else n. For a mean over
        targets the smallest of theirs.
    unmatched, ties
        Retrieval: queries without any match, and queries whose k best a tie decided.
    share
        Whether the values are shares of the people, from which counts follow.
    digits
        Significant digits of what is derived from them; None for as many as a file keeps.
    """

    method: str
    head: str
    modality: str
    target: str
    metric: str
    fraction: float
    task_version: int
    cohort_fingerprint: str
    recipe_digest: str
    status: str = OK
    replicates: tuple[int, ...] = ()
    theta: np.ndarray | None = None
    psi: np.ndarray | None = None
    interval: tuple[float, float] | None = None
    score_digests: tuple[str, ...] = ()
    scale: Scale = "raw"
    higher_is_better: bool = True
    n: int | str | None = None
    positives: int | str | None = None
    n_min: int | None = None
    chance: float | None = None
    targets: tuple[str, ...] | None = None
    unmatched: int | str | None = None
    ties: int | str | None = None
    share: bool = False
    digits: int | None = None

    def __post_init__(self) -> None:
        if self.theta is None:
            if self.status == OK:
                raise ValueError("a cell without values needs a status that says why")
            return
        lengths = {len(self.replicates), len(self.theta), len(self.score_digests)}
        if self.psi is not None:
            lengths.add(self.psi.shape[1])
        if len(lengths) > 1:
            raise ValueError("replicates, theta, psi and score digests differ in number")

    @property
    def usable(self) -> bool:
        """Whether there is a number: in every replicate, or the mean would be of fewer."""
        return self.status == OK and bool(np.isfinite(self.theta).all())

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of the sorted score digests: which replicates these numbers are made of."""
        return grouped(hashlib.sha256("\n".join(sorted(self.score_digests)).encode()).hexdigest())

    @property
    def smallest(self) -> int:
        """People the estimate hinges on."""
        if self.n_min is not None:
            return self.n_min
        if self.positives is None:
            return self.n
        return min(self.positives, self.n - self.positives)


def without_small_counts(cell: Cell, people: int) -> Cell:
    """Return what may leave the store of a cell about real people.

    A number that rests on fewer than five people, or five of either class, is withheld with all
    that was derived from it, comparisons included. A count of 1 to 4 reads ``<5``. Where the rest
    of a total would be such a count, the count itself is withheld; of ``n``, whose rest are the
    test people without a value, ``>`` and a limit remain, which then is what intervals count on.
    A share of people is rounded to whole fives of them: two shares, of one search at two cut-offs,
    would tell a small count by their difference.

    Parameters
    ----------
    cell
        With its exact counts.
    people
        All test people, whether they have a value or not.
    """
    n = cell.n or 0
    parts = {name: getattr(cell, name) for name in ("positives", "unmatched", "ties")}
    matched = n - (cell.unmatched or 0)
    if 0 < people - (cell.smallest or 0) < SMALLEST_COUNT:
        # The degrees of freedom would tell what is withheld.
        cell = replace(cell, n_min=people - SMALLEST_COUNT)
    if min(cell.smallest or 0, matched) < SMALLEST_COUNT:
        status = FEW_PEOPLE if cell.status == OK else cell.status
        cell = replace(cell, status=status, theta=None, psi=None, interval=None, chance=None)
    if cell.share and cell.usable:
        cell = _in_fives(cell, n)
    if n < SMALLEST_COUNT:
        return replace(cell, n=FEW if n else 0, **dict.fromkeys(parts))
    parts = {name: _part(count, n) for name, count in parts.items()}
    return replace(cell, n=shown_people(n, people), **parts)


def shown_people(n: int, people: int) -> int | str:
    """Return how many of the test people it may be said that a number about real ones rests on."""
    return f">{people - SMALLEST_COUNT}" if 0 < people - n < SMALLEST_COUNT else n


def _in_fives(cell: Cell, people: int) -> Cell:
    """Return a share of people to the nearest `SMALLEST_COUNT` of them.

    So are its variance and the people it hinges on, which give the share away. What the variances
    of replicates tell beyond it, how many people they agree on, is cut to three digits.
    """
    theta = np.asarray(cell.theta, float)
    coarse = SMALLEST_COUNT * np.round(theta * people / SMALLEST_COUNT) / people
    wider = np.sqrt(coarse * (1 - coarse) / (theta * (1 - theta)))
    rarer = round(people * np.minimum(coarse, 1 - coarse).min())
    return replace(cell, theta=coarse, psi=cell.psi * wider, n_min=rarer, digits=3)


def _part(count: int | None, total: int) -> int | str | None:
    if count is None or 0 < total - count < SMALLEST_COUNT:
        return None
    return FEW if 0 < count < SMALLEST_COUNT else count


def row_of(cell: Cell, run: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the publishable row of a cell; ``run`` is kept apart, see above."""
    result: dict[str, Any] = {
        "status": cell.status,
        "value": None,
        "lo": None,
        "hi": None,
        "se": None,
        "values": [],
        "replicates": len(cell.score_digests),
        "seeds": list(cell.replicates),
        "v_subj": None,
        "s2": None,
        "e2": None,
        "sigma2": None,
        "v": None,
        "nu": None,
        "n": cell.n,
        "positives": cell.positives,
        "chance": cell.chance,
        "higher_is_better": cell.higher_is_better,
        "notes": [],
        "digest": cell.digest,
        "recipe_digest": cell.recipe_digest,
        "cohort_fingerprint": cell.cohort_fingerprint,
        "task_version": cell.task_version,
    }
    for name in ("targets", "unmatched", "ties"):
        if getattr(cell, name) is not None:
            result[name] = getattr(cell, name)
    if cell.usable:
        result |= _numbers(cell)
        result["notes"] = _notes(cell)
    elif cell.status == OK:
        result["status"] = NOT_ESTIMABLE
    key = {name: getattr(cell, name) for name in KEY}
    return plain({**key, "result": result, "run": dict(run or {})})


def _numbers(cell: Cell) -> dict[str, Any]:
    theta = np.asarray(cell.theta, float)
    numbers: dict[str, Any] = {"value": theta.mean().item(), "values": theta.tolist()}
    if cell.psi is None:
        numbers["lo"], numbers["hi"] = cell.interval or (None, None)
        return numbers
    if not np.isfinite(cell.psi).all():
        return numbers
    e = estimate(theta, cell.psi, cell.smallest, cell.scale)
    numbers |= {name: getattr(e, name) for name in ("v_subj", "s2", "e2", "sigma2", "v", "nu")}
    numbers["se"] = math.sqrt(e.v)
    if cell.positives is None or cell.positives >= MINIMUM_POSITIVES:
        numbers["lo"], numbers["hi"] = e.lo, e.hi
    if cell.digits is not None:
        derived = {n: x for n, x in numbers.items() if isinstance(x, float) and n != "value"}
        numbers |= {name: float(f"{x:.{cell.digits}g}") for name, x in derived.items()}
    return numbers


def _notes(cell: Cell) -> list[str]:
    notes = [ONE_CHECKPOINT] if len(cell.replicates) == 1 else []
    if cell.positives is not None and cell.positives < MINIMUM_POSITIVES:
        notes.append(f"fewer than {MINIMUM_POSITIVES} positives: no interval")
    elif cell.positives is not None and cell.positives < UNDERPOWERED:
        notes.append(f"underpowered: fewer than {UNDERPOWERED} positives")
    return notes


def versus_of(a: Cell, b: Cell) -> dict[str, Any] | None:
    """Compare two methods on the replicates both have; None where there is nothing to compare.

    Shared stages and label subsets tie replicate r of one method to replicate r of the other, so
    the differences per replicate are what is tested. The entry belongs into the file of ``a``.

    Raises
    ------
    ValueError
        When the two are not the same target, metric, fraction, cohort and task version.
    """
    for name in ("target", "metric", "fraction", "task_version", "cohort_fingerprint"):
        if getattr(a, name) != getattr(b, name):
            raise ValueError(f"{a.method} and {b.method} differ in {name}: nothing to compare")
    if not (a.usable and b.usable) or a.psi is None or b.psi is None:
        return None
    common = sorted(set(a.replicates) & set(b.replicates))
    if not common or not (np.isfinite(a.psi).all() and np.isfinite(b.psi).all()):
        return None
    ia = [a.replicates.index(r) for r in common]
    ib = [b.replicates.index(r) for r in common]
    c = compare(
        np.asarray(a.theta)[ia],
        a.psi[:, ia],
        np.asarray(b.theta)[ib],
        b.psi[:, ib],
        min(a.smallest, b.smallest),
    )
    entry = {name: getattr(a, name) for name in KEY}
    entry |= {"other": b.method, "other_head": b.head, "other_modality": b.modality}
    entry |= {"digest": a.digest, "other_digest": b.digest}
    fields = ("replicates", "difference", "lo", "hi", "v_subj", "s2", "e2", "sigma2", "v", "nu")
    entry |= {name: getattr(c, name) for name in (*fields, "p", "n_min")}
    return plain(entry)


def gap_of(a: Cell, reference: Cell, goal: Cell) -> dict[str, Any] | None:
    """Return the share of the way from a reference to a goal that a method covers.

    On the replicates that all three have. None where there is nothing to compare, or no way: the
    goal is not above the reference. The entry belongs into the file of ``a``.
    """
    parts = (a, reference, goal)
    if any(not part.usable or part.psi is None for part in parts):
        return None
    common = sorted(set.intersection(*(set(part.replicates) for part in parts)))
    if not common or not all(np.isfinite(part.psi).all() for part in parts):
        return None
    sign = 1 if a.higher_is_better else -1
    columns = []
    for part in parts:
        chosen = [part.replicates.index(r) for r in common]
        columns += [sign * np.asarray(part.theta)[chosen], sign * part.psi[:, chosen]]
    gap = gap_closed(*columns, min(part.smallest for part in parts))
    if not math.isfinite(gap.value):
        return None
    entry = {name: getattr(a, name) for name in KEY}
    for name, part in (("reference", reference), ("goal", goal)):
        entry |= {name: part.method, f"{name}_digest": part.digest}
        entry |= {f"{name}_head": part.head, f"{name}_modality": part.modality}
    entry |= {"digest": a.digest, "replicates": len(common)}
    return plain({**entry, "value": gap.value, "lo": gap.lo, "hi": gap.hi})


def merge(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """Put new rows into a file.

    Between rows of one recipe digest, task version and cohort fingerprint, fewer replicates never
    replace more; a changed recipe always replaces. Rows of the same digest with other numbers come
    of another machine, or of code that rounds differently: the new ones replace the recorded where
    they are compared with every method that those are, since a comparison is about exactly these
    numbers. Comparisons and gaps stay while the row they are about does. Beside the newest
    comparison with a method an older one is kept that has more replicates in common, since either
    may be the one that fits the other method's file.
    """
    if old is None:
        return _sorted(new)
    for name in ("method", "task", "cohort", "preset", "scale", "track"):
        if old.get(name) != new.get(name):
            raise ValueError(f"rows of another {name}: {old.get(name)!r} and {new.get(name)!r}")
    rows = {row_key(row): row for row in old["rows"]}
    scores = {
        row["result"]["digest"]
        for row in new["rows"]
        if (before := rows.get(row_key(row))) and made_again(before["result"], row["result"])
    }
    # All of them: not every row of a score is compared, nor does every number differ.
    again = {row_key(row) for row in new["rows"] if row["result"]["digest"] in scores}
    if again and _partners(old, again) <= _partners(new, again):
        old = _without(old, again)
    elif again:
        new = _without(new, again)
    rows = {row_key(row): row for row in old["rows"]}
    for row in new["rows"]:
        before = rows.get(row_key(row))
        if before is None or not _is_poorer(row["result"], before["result"]):
            rows[row_key(row)] = row
    digests = {key: row["result"]["digest"] for key, row in rows.items()}
    kept: dict[str, dict[tuple, list[dict[str, Any]]]] = {name: {} for name in OTHERS}
    for name, found in kept.items():
        for entry in [*new.get(name, ()), *old.get(name, ())]:
            if digests.get(row_key(entry)) != entry["digest"]:
                continue
            same = found.setdefault((*row_key(entry), *(entry[o] for o in OTHERS[name])), [])
            if not same or (len(same) == 1 and entry["replicates"] > same[0]["replicates"]):
                same.append(entry)
    lists = {n: [e for same in found.values() for e in same] for n, found in kept.items()}
    return _sorted({**new, "rows": list(rows.values()), **lists})


def made_again(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two results are of the same stages, and of different numbers all the same."""
    if a["digest"] != b["digest"] or not (a["values"] and b["values"]):
        return False
    return not np.allclose(a["values"], b["values"], rtol=1e-9, atol=1e-12, equal_nan=True)


def _partners(file: Mapping[str, Any], keys: set[tuple]) -> set[tuple]:
    """Return with whom the rows of these keys are compared."""
    fields = OTHERS["versus"]
    return {
        (*row_key(entry), *(entry[name] for name in fields))
        for entry in file["versus"]
        if row_key(entry) in keys
    }


def _without(file: Mapping[str, Any], keys: set[tuple]) -> dict[str, Any]:
    lists = ("rows", *OTHERS)
    return {**file, **{n: [e for e in file.get(n, ()) if row_key(e) not in keys] for n in lists}}


def _is_poorer(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    identity = ("recipe_digest", "task_version", "cohort_fingerprint")
    same = all(new[name] == old[name] for name in identity)
    return same and new["replicates"] < old["replicates"]


def row_key(row: Mapping[str, Any]) -> tuple:
    """Return what tells a row, or what is said of it, from the others of its file."""
    return tuple(row[name] for name in KEY)


def _sorted(file: Mapping[str, Any]) -> dict[str, Any]:
    """Order the lists, so that equal contents give equal bytes."""
    others = [name for names in OTHERS.values() for name in names]
    others += ["other_digest", "reference_digest", "goal_digest"]

    def order(entry: Mapping[str, Any]) -> tuple:
        return (*map(str, row_key(entry)), *(entry.get(o, "") for o in others))

    lists = {name: sorted(file.get(name, ()), key=order) for name in ("rows", *OTHERS)}
    return {**file, **lists}


def rows_path(root: Path, file: Mapping[str, Any]) -> Path:
    """Return where the file of a method and task lives under ``root``."""
    parts = [file["cohort"], file.get("preset"), file["scale"]]
    folder = "-".join(part for part in parts if part)
    return Path(root) / folder / file["track"] / file["task"] / f"{file_name(file['method'])}.json"


def write_rows(root: Path, new: Mapping[str, Any]) -> dict[str, Any]:
    """Merge rows into their file under ``root``, replace it at once and return what it holds.

    Processes take turns, so that neither loses the rows of the other.
    """
    missing = [name for name in (*FILE_FIELDS, "rows", "versus") if name not in new]
    if missing:
        raise ValueError(f"a rows file needs {', '.join(missing)}")
    path = rows_path(root, new)
    path.parent.mkdir(parents=True, exist_ok=True)
    with turn(path.parent):
        old = read_file(path) if path.exists() else None
        merged = merge(old, new)
        replace_file(path, dumps(merged))
    return merged


def read_file(path: Path) -> dict[str, Any]:
    """Read one rows file.

    Raises
    ------
    UserError
        When it is not one.
    """
    try:
        file = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a rows file: {error}; {REPAIR}") from None
    if not isinstance(file, dict) or not {*FILE_FIELDS, "rows", "versus"} <= file.keys():
        raise UserError(f"{path} is not a rows file: fields are missing; {REPAIR}")
    return file


def read_rows(*folders: Path) -> list[dict[str, Any]]:
    """Read every rows file below the folders, in the order of their paths."""
    return [
        read_file(path)
        for folder in folders
        for path in sorted(Path(folder).rglob("*.json"))
        if not path.name.startswith(".")
    ]

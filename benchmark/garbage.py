"""What nothing needs in the store: found first, and removed only when that was asked for.

Nothing here decides by age alone what is current: a stage is *outdated* when the description in its
manifest, read back into today's classes, no longer has its digest. What somebody is at work on,
and what that work stands on, is left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmark.api import Cohort, UserError
from benchmark.catalogue import Catalogue
from benchmark.engine.executors import leftovers
from benchmark.engine.executors.jobs import SILENT
from benchmark.engine.progress import amount
from benchmark.engine.store import ArtifactError, Store
from benchmark.registry import TRACKS, registry, suggestion, track_module
from benchmark.stage import topological
from benchmark.status import size_of

SCORE = "Score"
"""The stage that boards and comparisons are made of: small, and the sum of hours."""
ABANDONED_DAYS = 7.0
"""Unfinished work that nobody has touched for longer is not waited for."""
GRACE_DAYS = 1.0
"""While somebody is at work in the store, what was used so lately may be what comes next."""
DAY = 86400.0
REASONS = {
    "outdated": "today's code has no such stage: another version, other fields, another input",
    "unnamed": "no method, task and scale asks for it",
    "unused": "not used for that long",
    "cohort": "made from that cohort",
    "damaged": "damaged, and set aside",
    "abandoned": "unfinished, and nobody goes on with it",
    "failure": "a failure of a stage that is no more",
    "prepared": "the prepared cohort itself",
    "over": "plans, and logs of jobs that have ended",
}


@dataclass(frozen=True)
class Wish:
    """What is to go besides what today's code can no longer make.

    ``unused_for`` is in seconds; ``cohort`` a name as of a board's folder (``ukb``, ``simulated``,
    ``simulated-null``, ``simulated-smoke``); ``prepared`` the name of a prepared cohort, whose
    files and everything made from them go; ``unnamed`` adds what no registered method asks for at
    any scale; ``scores`` does not spare the scores.
    """

    unused_for: float | None = None
    cohort: str = ""
    prepared: str = ""
    unnamed: bool = False
    scores: bool = False


@dataclass(frozen=True)
class Item:
    """Something to be removed: where it lies, what it is, why it goes and how much that frees."""

    digest: str
    kind: str
    label: str
    reason: str
    bytes: int


@dataclass
class Garbage:
    """What goes, and what would go but for a rule.

    ``spared`` are scores; ``busy`` is in use, or was lately while somebody is at work.
    """

    items: list[Item] = field(default_factory=list)
    spared: list[Item] = field(default_factory=list)
    busy: list[Item] = field(default_factory=list)
    removed: int | None = None
    """How many were removed; None before `remove`."""


def seconds_of(text: str) -> float:
    """Return the seconds that ``30d``, ``12h`` or ``2w`` are.

    Raises
    ------
    UserError
        When the text is no such duration.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text.strip())
    if match is None:
        raise UserError(f"{text!r} is no duration; write 12h, 30d or 8w")
    return float(match[1]) * {"h": DAY / 24, "d": DAY, "w": 7 * DAY}[match[2]]


def find(store: Store, wish: Wish) -> Garbage:
    """Return what goes by a wish; nothing is changed.

    Raises
    ------
    UserError
        When no cohort of that name is known or prepared.
    """
    manifests: dict[str, dict[str, Any]] = {}
    found, broken = Garbage(), []
    for digest in store.stages():
        try:
            manifest = store.manifest(digest, keep=False)
            manifests[digest] = {k: manifest[k] for k in ("stage", "label", "inputs", "finished")}
            made_by = manifest.get("provenance") or {}
            manifests[digest]["module"] = made_by.get("module")
        except (ArtifactError, KeyError):
            broken.append(digest)
    catalogue = Catalogue(manifest["module"] for manifest in manifests.values())
    if wish.cohort:
        _check_cohort(wish.cohort, catalogue, manifests.values())
    # A name that is found there, and no path: what is removed must not lie elsewhere.
    prepared = store.root / "prepared"
    if wish.prepared and wish.prepared not in {p.name for p in prepared.glob("[!.]*/")}:
        raise UserError(f"no cohort {wish.prepared!r} has been prepared")
    named = _named(catalogue, manifests) if wish.unnamed else None
    in_use, working = _in_use(store, manifests)
    now = time.time()

    def add(item: Item, used: float) -> None:
        recent = working and now - used < GRACE_DAYS * DAY
        if item.digest in in_use or recent:
            found.busy.append(item)
        elif item.kind == SCORE and not wish.scores and item.reason != "damaged":
            found.spared.append(item)
        else:
            found.items.append(item)

    for digest, manifest in manifests.items():
        used = _last_use(store, digest, manifest["finished"])
        reason = _reason(digest, manifest, wish, catalogue, named, now - used)
        if reason:
            size = _freed(store.path(digest))
            kind = manifest["stage"]["name"]
            add(Item(digest, kind, manifest["label"], reason, size), used)
    for digest in broken:
        add(Item(digest, "", digest[:12], "damaged", _freed(store.path(digest))), 0.0)
    for path in (store.root / "corrupt").iterdir():
        item = Item(path.name, "", path.name[:12], "damaged", size_of(path))
        found.items.append(item)
    for item, used in _leftovers(store, wish, catalogue, now):
        add(item, used)
    for left in leftovers.leftovers(store):
        label = str(left.path.relative_to(store.root))
        size = 0
        with contextlib.suppress(FileNotFoundError):  # somebody else clears the store too
            size = size_of(left.path) if left.path.is_dir() else left.path.lstat().st_size
        item = Item("", left.kind, label, left.busy or "over", size)
        limit = left.limit if wish.unused_for is None else min(left.limit, wish.unused_for)
        if now - left.used > limit:
            kept = left.busy or not in_use.isdisjoint(left.digests)
            (found.busy if kept else found.items).append(item)
    if wish.prepared:
        size = size_of(store.root / "prepared" / wish.prepared)
        item = Item("", "", f"prepared cohort {wish.prepared}", "prepared", size)
        (found.busy if working else found.items).append(item)
    return found


def remove(store: Store, found: Garbage, wish: Wish) -> Garbage:
    """Remove what was found, save for what somebody has taken up since.

    Raises
    ------
    UserError
        When the prepared cohort is being prepared.
    """
    gone = 0
    if any(item.reason == "prepared" for item in found.items):
        _remove_prepared(store.root / "prepared" / wish.prepared)
    over = {store.root / item.label for item in found.items if item.reason == "over"}
    gone += leftovers.remove(store, over) if over else 0
    for item in found.items:
        if item.reason == "over":
            continue
        if item.reason == "prepared":
            gone += 1
        elif item.reason == "failure":
            store.clear_failure(item.digest)
            gone += 1
        elif item.reason == "damaged" and (store.root / "corrupt" / item.digest).exists():
            shutil.rmtree(store.root / "corrupt" / item.digest, ignore_errors=True)
            gone += 1
        else:
            gone += store.remove(item.digest)
    return replace(found, removed=gone)


def _remove_prepared(folder: Path) -> None:
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except BlockingIOError:
        raise UserError(
            f"the cohort {folder.name} is being prepared; wait until that is done"
        ) from None
    finally:
        os.close(handle)


# ------------------------------------------------------------------------------- what goes


def _reason(
    digest: str,
    manifest: Mapping[str, Any],
    wish: Wish,
    catalogue: Catalogue,
    named: set[str] | None,
    idle: float,
) -> str:
    """Return why an artifact goes, or nothing."""
    described = manifest["stage"]
    if not catalogue.makes(described, digest):
        return "outdated"
    for name in filter(None, (wish.cohort, wish.prepared)):
        if name in catalogue.cohorts_of(described):
            return "cohort"
    if wish.unused_for is not None and idle > wish.unused_for:
        return "unused"
    if named is not None and digest not in named:
        return "unnamed"
    return ""


def _leftovers(
    store: Store, wish: Wish, catalogue: Catalogue, now: float
) -> Iterator[tuple[Item, float]]:
    """Yield unfinished work and failures that go, each with when it was last touched."""
    limit = ABANDONED_DAYS * DAY
    limit = limit if wish.unused_for is None else min(limit, wish.unused_for)
    for path in (store.root / "work").iterdir():
        claimed = store.claimed(path.name) or {}
        touched = max((p.lstat().st_mtime for p in (path, *path.rglob("*"))), default=0.0)
        known = claimed.get("stage")
        stale = known is not None and not catalogue.makes(known, path.name)
        if stale or store.has(path.name) or now - touched > limit:
            label = claimed.get("label", path.name[:12])
            yield Item(path.name, "", label, "abandoned", size_of(path)), touched
    for failure in store.failures():
        at = datetime.fromisoformat(failure["at"]).timestamp()
        old = wish.unused_for is not None and now - at > wish.unused_for
        if old or not catalogue.makes(failure["stage"], failure["digest"]):
            size = store.failure_path(failure["digest"]).stat().st_size
            yield Item(failure["digest"], "", failure["label"], "failure", size), at


def _last_use(store: Store, digest: str, finished: str) -> float:
    """Return when an artifact was made or opened last; see `Store.open`."""
    made = datetime.fromisoformat(finished).timestamp()
    try:
        return max(made, store.path(digest).stat().st_mtime)
    except FileNotFoundError:
        return made


def _freed(folder: Path) -> int:
    """Bytes that removing a folder frees: files of a prepared cohort have a second name."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            state = path.lstat()
            total += state.st_size if state.st_nlink == 1 else 0
    return total


def _in_use(store: Store, manifests: Mapping[str, Mapping[str, Any]]) -> tuple[set[str], bool]:
    """Return what running work is and stands on, at any depth, and whether there is any.

    A holder that is certainly gone works no more; of any other one cannot be sure.
    """
    running = []
    for digest in store.held():
        holder = store.holder(digest)
        if holder is None or not holder.gone():
            running.append(digest)
    used: set[str] = set()
    waiting = list(running)
    while waiting:
        digest = waiting.pop()
        if digest in used:
            continue
        used.add(digest)
        record = manifests.get(digest) or store.claimed(digest) or {}
        waiting += record.get("inputs", ())
    return used, bool(running)


def _check_cohort(name: str, catalogue: Catalogue, manifests: Iterable[Mapping[str, Any]]) -> None:
    known = set(registry().cohorts)
    known = known.union(*(catalogue.cohorts_of(m["stage"]) for m in manifests))
    if name not in known:
        raise UserError(f"nothing is made from a cohort called {name!r}; {suggestion(name, known)}")


def _named(catalogue: Catalogue, manifests: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the digests of everything that a request could ask for.

    Asked are all methods and tasks, with the cohorts, replicates and fractions that the store has.
    """
    from benchmark.planning import FRACTIONS, Request, ceilings_of, jobs_of

    seeds, fractions, cohorts = {0}, set(FRACTIONS), {}
    for manifest in manifests.values():
        for name, value in _walk(manifest["stage"]):
            if name == "seed" and isinstance(value, int):
                seeds.add(value)
            elif name == "fraction" and isinstance(value, float):
                fractions.add(value)
        with contextlib.suppress(LookupError):
            spec = catalogue.spec(manifest["stage"])
            if isinstance(spec, Cohort):
                cohorts[spec.digest] = spec
    named: set[str] = set()
    known = registry()
    for track in TRACKS:
        for scale in track_module(track).SCALES:
            for cohort in cohorts.values():
                preset = getattr(cohort, "preset", "default")
                request = Request((), (), fractions=tuple(sorted(fractions)), scale=scale,
                                  track=track, cohort=cohort.name, preset=preset)  # fmt: skip
                with contextlib.suppress(UserError):  # of a cohort that has been prepared anew
                    if request.make_cohort().digest == cohort.digest:
                        named |= _asked(request, cohort, seeds, known, jobs_of, ceilings_of)
    return named


def _asked(
    request: Any, cohort: Cohort, seeds: set[int], known: Any, jobs_of: Any, ceilings_of: Any
) -> set[str]:
    entries = [e for e in known.methods.values() if request.track in e.variant.tracks]
    wanted = []
    for task in known.tasks.values():
        wanted += ceilings_of(request, task).values()
        for modality in ("", "cmr"):
            asked = replace(request, modality=modality)
            for entry in entries:
                for seed in seeds:
                    wanted += [j.score for j in jobs_of(entry, task, cohort, seed, asked)]
    return {stage.digest for stage in topological(wanted)}


def _walk(described: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(described, dict):
        for name, value in described.items():
            yield name, value
            yield from _walk(value)
    elif isinstance(described, list):
        for value in described:
            yield from _walk(value)


# ------------------------------------------------------------------------------- for people


def as_json(store: Store, found: Garbage) -> dict[str, Any]:
    """Return everything that goes, item by item."""
    return {
        "store": str(store.root),
        "removed": found.removed,
        "bytes": sum(item.bytes for item in found.items),
        "items": [asdict(item) for item in found.items],
        "scores_kept": [asdict(item) for item in found.spared],
        "in_use": [asdict(item) for item in found.busy],
    }


def text(store: Store, found: Garbage) -> str:
    """Return what goes, by reason, and what was kept."""
    lines = [f"store: {store.root}"]
    for reason, meaning in REASONS.items():
        chosen = [item for item in found.items if item.reason == reason]
        if chosen:
            size = amount(sum(item.bytes for item in chosen))
            lines.append(f"{reason}: {len(chosen):,}, {size} ({meaning})")
            kinds = Counter(item.kind or item.label for item in chosen).most_common()
            shown = [f"{name} {n}" if n > 1 else name for name, n in kinds[:12]]
            more = [f"and {len(kinds) - 12} more kinds"] if len(kinds) > 12 else []
            lines.append(f"    {', '.join(shown + more)}")
    if found.spared:
        size = amount(sum(item.bytes for item in found.spared))
        lines.append(f"kept: {len(found.spared):,} scores, {size} (--scores removes them too)")
    if found.busy:
        lines.append(f"kept: {len(found.busy):,} in use, or used in the last day by running work")
        silent = sum(item.reason == SILENT.reason for item in found.busy)
        lines += [f"    {silent} of jobs that may run yet: {SILENT.reason}"] if silent else []
    size = amount(sum(item.bytes for item in found.items))
    if not found.items:
        lines.append("there is nothing to remove")
    elif found.removed is None:
        lines.append(f"{len(found.items):,} in all, {size}; to remove them, add --yes")
    else:
        lines.append(f"removed {found.removed:,} of {len(found.items):,}, {size}")
    return "\n".join(lines)

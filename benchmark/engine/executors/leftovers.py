"""What executors leave in the store: plans of shell lines, and submissions to SLURM."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.engine.executors.commands import PLANS
from benchmark.engine.executors.jobs import FOLDER, SILENT, states, submissions
from benchmark.engine.store import Store

DAY = 86400.0
LIMIT = DAY
"""How long all of it stays."""
PLAN_LIMIT = 30 * DAY
"""How long a plan stays that is not done: a scheduler we cannot ask may yet begin with it."""


@dataclass(frozen=True)
class Leftover:
    """Files that somebody may still need.

    Attributes
    ----------
    path
        A plan's file, or a submission's folder.
    kind
        ``plan`` or ``submission``.
    digests
        Of what it is for.
    used
        When it was used last, in seconds since the epoch.
    limit
        Seconds without use after which it is not needed.
    busy
        Why it must not go; empty where it may.
    """

    path: Path
    kind: str
    digests: frozenset[str]
    used: float
    limit: float = LIMIT
    busy: str = ""


def leftovers(store: Store) -> Iterator[Leftover]:
    """Yield everything that executors have left in a store."""
    for path in (store.root / PLANS).glob("*"):
        targets, used = _targets(path), _used(path)
        limit = LIMIT if all(map(store.has, targets)) else PLAN_LIMIT
        yield Leftover(path, "plan", targets, used, limit, "" if targets else _begun(used))
    recorded = {submission.folder: submission for submission in submissions(store)}
    folders = list((store.root / FOLDER).glob("*/"))
    # Asked after the folders were found: of a job that was submitted before then, it has heard.
    known = states() if recorded else {}
    for folder in folders:
        submission, used = recorded.get(folder), _used(folder, *folder.rglob("*"))
        if submission is None:
            yield Leftover(folder, "submission", frozenset(), used, busy=_begun(used))
            continue
        busy = SILENT.reason if known is None else ""
        if known is not None and submission.live(known):
            busy = "SLURM has jobs of it"
        digests = frozenset().union(*submission.jobs.values())
        yield Leftover(folder, "submission", digests, used, busy=busy)


def remove(store: Store, paths: Collection[Path]) -> int:
    """Remove leftovers, save for what is needed by now; return how many have gone."""
    gone = 0
    for leftover in list(leftovers(store)):
        if leftover.path in paths and not leftover.busy:
            if leftover.kind == "plan":
                leftover.path.unlink(missing_ok=True)
            else:
                shutil.rmtree(leftover.path, ignore_errors=True)
            gone += not leftover.path.exists()
    return gone


def _targets(plan: Path) -> frozenset[str]:
    """Return what a plan is for; nothing where that cannot be read any more."""
    try:
        return frozenset(json.loads(plan.read_bytes())["targets"])
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def _used(*paths: Path) -> float:
    """Return when the latest of some files was written; 0 where none is there any more."""
    found = [0.0]
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            found.append(path.stat().st_mtime)
    return max(found)


def _begun(used: float) -> str:
    """Return that something without content is being written, where that may be so."""
    return "it is being written" if time.time() - used < LIMIT else ""

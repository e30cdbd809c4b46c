"""What ``ecgcmr status`` shows: what the store holds, who is at work in it, what went wrong."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmark.engine.executors.jobs import array_of, queued, stuck, summary
from benchmark.engine.progress import amount, clock
from benchmark.engine.provenance import code_hash
from benchmark.engine.store import ArtifactError, Store

SILENT_SECONDS = 60.0
"""A worker elsewhere that has not been heard of for longer is taken for dead."""


@dataclass
class Kind:
    """All artifacts of one class of stages.

    ``changed`` counts those whose code is another today, under the same version: their result may
    not be what today's code would give.
    """

    stages: int = 0
    bytes: int = 0
    seconds: float = 0.0
    changed: int = 0


def status(store: Store, verify: bool = False) -> dict[str, Any]:
    """Return what the store holds, as plain JSON.

    Parameters
    ----------
    store
        It is only read, and may be in use.
    verify
        Compare every file with its checksum; otherwise only manifests are read.

    Returns
    -------
    dict
        ``kinds`` (as `Kind`, by name of the stage), ``running``, ``queued`` (jobs of SLURM, running
        ones among them: job, state, reason, digests of stages), ``unfinished`` (work that a run
        goes on with), ``failed``, ``damaged``, ``prepared`` cohorts, and ``space``: bytes of all of
        these and bytes ``free``.
    """
    kinds: dict[str, Kind] = {}
    damaged: list[str] = []
    for digest in store.stages():
        try:
            if verify:
                store.verify(digest)
            manifest = store.manifest(digest, keep=False)
            name = manifest["stage"]["name"]
            size = sum(file["bytes"] for file in manifest["files"].values())
            seconds = manifest["seconds"]
        except ArtifactError as error:
            damaged.append(str(error))
            continue
        except (KeyError, TypeError):
            damaged.append(f"artifact {digest[:12]} is damaged: its manifest lacks something")
            continue
        kind = kinds.setdefault(name, Kind())
        kind.stages += 1
        kind.bytes += size
        kind.seconds += seconds
        made_by = manifest.get("provenance") or {}
        module = made_by.get("module")
        if module is not None and made_by.get("code") != code_hash(module):
            kind.changed += 1
    running = list(_running(store))
    held = {stage["digest"] for stage in running}
    return {
        "store": str(store.root),
        "stages": sum(kind.stages for kind in kinds.values()),
        "kinds": {name: asdict(kind) for name, kind in sorted(kinds.items())},
        "running": running,
        "queued": queued(store),
        "unfinished": [stage for stage in _unfinished(store) if stage["digest"] not in held],
        "failed": [
            {
                "digest": failure["digest"],
                "label": failure["label"],
                "message": failure["traceback"].strip().splitlines()[-1],
                "at": failure["at"],
                "traceback": failure["traceback"],
            }
            for failure in store.failures()
        ],
        "damaged": damaged,
        "verified": verify,
        "prepared": list(prepared_cohorts(store.root)),
        "space": {
            "done": sum(kind.bytes for kind in kinds.values()),
            "work": size_of(store.root / "work"),
            "corrupt": size_of(store.root / "corrupt"),
            "prepared": size_of(store.root / "prepared"),
            "free": shutil.disk_usage(store.root).free,
        },
    }


def _running(store: Store) -> Iterator[dict[str, Any]]:
    for digest in store.held():
        holder, claimed = store.holder(digest), store.claimed(digest) or {}
        if holder is None:  # released a moment ago, or a file that nobody understands
            continue
        try:
            silent = time.time() - (store.root / "lease" / f"{digest}.json").stat().st_mtime
        except FileNotFoundError:
            continue
        alive = holder.here() or silent < SILENT_SECONDS
        yield {
            "digest": digest,
            "label": claimed.get("label", digest[:12]),
            "host": holder.host,
            "pid": holder.pid,
            "threads": holder.threads,
            "seconds": _since(claimed.get("began")),
            "state": "at work" if alive and not holder.gone() else "dead",
        }


def _since(began: str | None) -> float | None:
    if began is None:
        return None
    return max(0.0, time.time() - datetime.fromisoformat(began).timestamp())


def _unfinished(store: Store) -> Iterator[dict[str, Any]]:
    """Yield the work that was begun by somebody who has stopped or died."""
    for folder in (store.root / "work").iterdir():
        claimed = store.claimed(folder.name) or {}
        yield {
            "digest": folder.name,
            "label": claimed.get("label", folder.name[:12]),
            "bytes": size_of(folder),
        }


def prepared_cohorts(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the cohorts that `ecgcmr prepare` has made, and why one must not be used."""
    folder = root / "prepared"
    if not folder.is_dir():
        return
    from benchmark.api import UserError
    from benchmark.registry import registry

    for path in sorted(folder.iterdir()):
        if not (path / "current.json").exists() and not any(path.glob("work-*")):
            continue  # somebody asked wrongly, and nothing was begun
        found = {"name": path.name, "bytes": size_of(path), "people": None, "holds": []}
        found["problem"] = None
        kind = registry().cohorts.get(path.name)
        try:
            current = json.loads((path / "current.json").read_bytes())
            found["people"], found["holds"] = current["people"], list(current["holds"])
            if kind is None:
                found["problem"] = "no plugin that is installed knows this cohort"
            else:
                kind.at("")  # says whether it may still be used
        except FileNotFoundError:
            found["problem"] = "its preparation is not finished; run the same command again"
        except (OSError, ValueError, KeyError, TypeError):
            found["problem"] = "it is damaged; prepare it again"
        except UserError as error:
            found["problem"] = str(error)
        yield found


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder; 0 where there is none."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size  # noqa: PTH118
            except FileNotFoundError:
                continue  # somebody is at work in there
    return total


def text(report: dict[str, Any], tracebacks: bool = False) -> str:
    """Return the report for people."""
    lines = [f"store: {report['store']}"]
    for name, kind in report["kinds"].items():
        note = f"  code changed since, same version: {kind['changed']}" if kind["changed"] else ""
        size, seconds = amount(kind["bytes"]), f"{kind['seconds']:.0f} s"
        lines.append(f"  {name:<18} {kind['stages']:>6}  {size:>8}  {seconds:>8}{note}".rstrip())
    space = report["space"]
    parts = [f"{report['stages']:,} stages, {amount(space['done'])}"]
    parts += [f"{amount(space[name])} {what}" for name, what in OTHER_SPACE.items() if space[name]]
    lines.append(f"{', '.join(parts)}; {amount(space['free'])} free")
    for cohort in report["prepared"]:
        people = "" if cohort["people"] is None else f" {cohort['people']:,} people,"
        line = f"prepared: {cohort['name']},{people} {amount(cohort['bytes'])}"
        lines.append(line + (f": {cohort['problem']}" if cohort["problem"] else ""))
    for stage in report["running"]:
        where = f"process {stage['pid']} on {stage['host']}"
        if stage["state"] == "dead":
            lines.append(f"dead: {stage['label']}, {where}; the next run takes it over")
        else:
            since = "" if stage["seconds"] is None else f" for {clock(stage['seconds'])}"
            lines.append(f"running: {stage['label']}{since}, {where}")
    if report["queued"]:
        arrays = dict.fromkeys(array_of(job["job"]) for job in report["queued"])
        said = summary((job["state"], job["reason"]) for job in report["queued"])
        lines.append(f"SLURM's jobs {' '.join(arrays)}: {said}")
        lines += stuck((job["job"], job["reason"]) for job in report["queued"])
    for stage in report["unfinished"]:
        line = f"unfinished: {stage['label']}, {amount(stage['bytes'])}"
        lines.append(f"{line}; a run that needs it goes on from there")
    lines += _failures(report["failed"], tracebacks)
    lines += [f"damaged: {text}" for text in report["damaged"]]
    if report["damaged"]:
        lines.append("damaged artifacts are made again by the next run that needs them")
    elif report["verified"]:
        lines.append("all checksums agree")
    return "\n".join(lines)


OTHER_SPACE = {
    "prepared": "of prepared cohorts",
    "work": "of unfinished work",
    "corrupt": "of damaged artifacts (ecgcmr gc removes them)",
}


def _failures(failed: list[dict[str, Any]], tracebacks: bool) -> list[str]:
    lines = []
    for failure in failed:
        place = f"({failure['digest'][:12]}, {failure['at']})"
        lines.append(f"failed: {failure['label']} {place}: {failure['message']}")
        if tracebacks:
            lines += [f"    {line}" for line in failure["traceback"].rstrip().splitlines()]
    if failed:
        more = "" if tracebacks else "; ecgcmr status --tracebacks says where it failed"
        lines.append(f"to retry, repeat the command that needs it{more}")
    return lines

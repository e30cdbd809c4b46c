"""The board document: everything a board says, as plain JSON, the only input of its renderings.

It follows from ``result``, ``versus`` and ``gaps`` of the rows and from ceilings alone, so that
equal results give equal bytes. Numbers have six significant digits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.reports.boards.info import DIAGNOSTIC, LEVEL, RANKED_BLOCKS, TRACK, TaskInfo
from benchmark.reports.boards.limits import Limits
from benchmark.reports.boards.reader import reading
from benchmark.reports.boards.recorded import MEAN, Recorded
from benchmark.reports.boards.sections import is_primary, sections
from benchmark.reports.boards.text import rounded
from benchmark.reports.files import grouped
from benchmark.reports.rows import MINIMUM_POSITIVES, UNDERPOWERED

FOLDER = ("cohort", "preset", "scale")
TRIAL = "smoke"  # the scale that tries the code


def document(
    files: Sequence[Mapping[str, Any]], info: TaskInfo, ceilings: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the board document of a task.

    Parameters
    ----------
    files
        Rows files of one cohort, preset and scale, of any task and track.
    info
        The task.
    ceilings
        The file of ceilings of the same people, if there is one.
    """
    recorded = Recorded(files, info)
    limits = Limits(recorded, info, ceilings)
    places = {tuple(file[name] for name in FOLDER): None for file in recorded.files}
    cohort, preset, scale = next(iter(sorted(places, key=str)), (None, None, None))
    record = {
        "task": info.name,
        "title": info.title,
        "kind": info.kind,
        "version": info.version,
        "track": TRACK,
        "cohort": cohort,
        "preset": preset,
        "scale": scale,
        "simulated": info.simulated,
        "fingerprint": recorded.fingerprint,
        "units": dict(info.units),
        "groups": {name: list(targets) for name, targets in info.groups.items()},
        "plan": plan(info),
        "leaks": limits.leaks(),
        "leak_cells": len(limits.above),
        "leak_unchecked": len(limits.bounded()) - len(limits.above),
        "no_ceilings": limits.why_none,
        "ceiling_people": limits.people,
        "ceiling_endpoint": list(limits.endpoint),
        "ceilings": [_ceiling(entry) for entry in limits.entries.values()],
        "others": _others(recorded),
        "sections": [section.record() for section in sections(recorded, limits)],
    }
    return {**record, "reading": reading(record)}


def plan(info: TaskInfo) -> dict[str, Any]:
    """Return what was fixed before any result, with its digest."""
    ranked = [method for method in info.methods if method.role == "ranked"]
    families = [
        {
            "modality": modality,
            "fraction": fraction,
            "block": block,
            "primary": is_primary(info, modality, info.heads[0], block),
            "members": members,
        }
        for modality in info.primary
        for fraction in info.fractions
        for block in RANKED_BLOCKS
        if (
            members := sorted(
                method.name
                for method in ranked
                if method.block == block
                and (method.places is None or (modality, fraction) in method.places)
            )
        )
    ]
    fixed = {
        "task": info.name,
        "version": info.version,
        "track": TRACK,
        "endpoints": {m: f"mean {metric} over targets" for m, metric in info.primary.items()},
        "head": info.heads[0],
        "confirmatory": info.confirmatory,
        "reference": dict(info.reference),
        "goal": dict(info.goal),
        "families": families,
        "corrections": {"pairs": "Holm", "per target": "Benjamini-Hochberg"},
        "replicate variance of a pair": "at least its family's mean, on its degrees of freedom",
        "level": LEVEL,
        "positives": {"interval": MINIMUM_POSITIVES, "powered": UNDERPOWERED},
    }
    text = json.dumps(fixed, sort_keys=True, separators=(",", ":"))
    return {"digest": grouped(hashlib.sha256(text.encode()).hexdigest()), **fixed}


def _ceiling(entry: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {name: rounded(entry[name]) for name in ("value", "lo", "hi", "se", "chance")}
    place = {name: entry[name] for name in ("modality", "target", "metric", "status")}
    over = {"targets": entry["targets"]} if entry["target"] == MEAN else {}
    return place | numbers | over


def _others(recorded: Recorded) -> list[dict[str, Any]]:
    """Endpoints of another cohort or task version."""
    return [
        {
            **dict(zip(("method", "head", "modality", "target", "metric"), key[:5], strict=True)),
            "fraction": key[5],
            "status": result["status"],
            **{name: rounded(result[name]) for name in ("value", "lo", "hi", "se")},
            "version": result["task_version"],
            "fingerprint": result["cohort_fingerprint"],
        }
        for key, result in sorted(recorded.others.items())
        if key[3] == MEAN and key[4] == recorded.info.primary.get(key[2], recorded.info.leading)
    ]


def folder_name(record: Mapping[str, Any]) -> str:
    """Return ``<cohort>[-<preset>]-<scale>``."""
    return "-".join(record[name] for name in FOLDER if record[name])


def caveat(record: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what not to take the numbers for, as a keyword and a sentence; None of real people."""
    if record["scale"] == TRIAL:
        return (
            f"Scale {TRIAL}.",
            "A trial of the code by a few updates: these numbers mean nothing.",
        )
    if record["simulated"]:
        done = "shown" if record["kind"] == DIAGNOSTIC else "ranked"
        return "Simulated people.", (
            f"What is {done} here is learning behaviour under a small budget, not clinical "
            "performance."
        )
    return None

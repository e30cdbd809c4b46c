"""What rows cost, from their ``run``: a table of its own, since no board depends on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.reports.boards.text import BLANK, csv_text, labels, number, short, table
from benchmark.reports.rows import RUN_FIELDS, SHARED_FIELDS

KEY = ("method", "task", "track", "modality", "head", "fraction")
FIELDS = (*KEY, "replicates", *RUN_FIELDS)


def costs(files: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One record per method, task, track, modality, head and fraction: its most costly row."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for file in files:
        for row in file["rows"]:
            fields = {**file, **row}
            run = {**row["run"], "replicates": row["result"]["replicates"]}
            groups.setdefault(tuple(fields[name] for name in KEY), []).append(run)
    records = []
    for key, runs in sorted(groups.items()):
        record = dict(zip(KEY, key, strict=True))
        for name in ("replicates", *RUN_FIELDS, *SHARED_FIELDS):
            known = [run[name] for run in runs if run.get(name) is not None]
            record[name] = max(known, default=None)
        made_at = dict.fromkeys(sha for run in runs for sha in (run.get("git_sha") or "").split())
        record["git_sha"] = " ".join(made_at) or None
        if record["devices"] is None:
            alone = sum(record[f"{name}_seconds"] or 0 for name in ("pretraining", "head"))
            record |= {"devices": 1, "device_seconds": alone}
        records.append(record)
    return records


def commits(record: Mapping[str, Any]) -> str:
    """Return the commits that made the stages of a record, shortened."""
    found = (sha.partition("-") for sha in (record["git_sha"] or "").split())
    return ", ".join(short(sha) + "".join(dirty) for sha, *dirty in found) or BLANK


def shared(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether several devices shared a training; else nothing is written of it."""
    return any(record["devices"] > 1 for record in records)


def cost_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the records of `costs` as CSV."""
    fields = (*FIELDS, *SHARED_FIELDS) if shared(records) else FIELDS
    rounded = ({**r, "device_seconds": round(r["device_seconds"], 2)} for r in records)
    return csv_text(fields, ({name: record[name] for name in fields} for record in rounded))


def cost_markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the cost table: seconds summed over replicates, peak memory, device, code."""
    several = shared(records)
    rows = [
        [
            *(str(record[name]) for name in ("method", "task", "track", "modality", "head")),
            labels(record["head"], record["fraction"]),
            str(record["replicates"]),
            *(number(record[f"{s}_seconds"], 1) for s in ("pretraining", "embedding", "head")),
            number((record["peak_memory_bytes"] or 0) / 2**30 or None, 2),
            record["device"] or BLANK,
            *([str(record["devices"]), number(record["device_seconds"], 1)] if several else []),
            commits(record),
        ]
        for record in records
    ]
    headers = ["method", "task", "track", "modality", "head", "labels", "replicates"]
    headers += ["pretraining [s]", "embedding [s]", "head [s]", "process memory [GiB]"]
    headers += ["device", *(["devices", "device time [s]"] if several else []), "git"]
    text = (
        "Seconds are sums over replicates, measured where each stage first ran; a stage that "
        "methods share is counted in each. Process memory is the largest the process had while "
        "one of the stages ran, whatever else it still held."
    )
    if several:
        text += (
            " Device time is pretraining and head, the seconds of a training times the devices "
            "that shared it; process memory is of one of their processes."
        )
    return "\n\n".join(["# Cost", text, table(headers, rows)]) + "\n"

"""What rows cost, from their ``run``: a table of its own, since no board depends on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.reports.boards.text import BLANK, csv_text, labels, number, short, table
from benchmark.reports.rows import RUN_FIELDS

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
        for name in ("replicates", *RUN_FIELDS):
            known = [run[name] for run in runs if run.get(name) is not None]
            record[name] = max(known, default=None)
        records.append(record)
    return records


def cost_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the records of `costs` as CSV."""
    return csv_text(FIELDS, records)


def cost_markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the cost table: seconds summed over replicates, peak memory, device, code."""
    rows = [
        [
            *(str(record[name]) for name in ("method", "task", "track", "modality", "head")),
            labels(record["head"], record["fraction"]),
            str(record["replicates"]),
            *(number(record[f"{s}_seconds"], 1) for s in ("pretraining", "embedding", "head")),
            number((record["peak_memory_bytes"] or 0) / 2**30 or None, 2),
            record["device"] or BLANK,
            short(record["git_sha"]) if record["git_sha"] else BLANK,
        ]
        for record in records
    ]
    headers = ["method", "task", "track", "modality", "head", "labels", "replicates"]
    headers += ["pretraining [s]", "embedding [s]", "head [s]", "process memory [GiB]"]
    headers += ["device", "git"]
    text = (
        "Seconds are sums over replicates, measured where each stage first ran; a stage that "
        "methods share is counted in each. Process memory is the largest the process had while "
        "one of the stages ran, whatever else it still held."
    )
    return "\n\n".join(["# Cost", text, table(headers, rows)]) + "\n"

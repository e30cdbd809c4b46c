"""A run's own endpoints, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.reports.boards.reader import replicates_text
from benchmark.reports.boards.recorded import MEAN
from benchmark.reports.boards.text import (
    BLANK,
    estimate,
    labels,
    modality_name,
    natural,
    short,
    table,
)


def own_rows(files: Sequence[Mapping[str, Any]], fractions: Sequence[float]) -> str:
    """Return the endpoints of some files as a table, without ranks or comparisons.

    A file with none of these label fractions (retrieval needs no labels) shows those it has.
    """
    rows = []
    for file in files:
        endpoints = [row for row in file["rows"] if row["target"] == MEAN]
        asked = [row for row in endpoints if row["fraction"] in fractions] or endpoints
        order = lambda r: (r["modality"], -r["fraction"], r["head"], natural(r["metric"]))  # noqa: E731
        for row in sorted(asked, key=order):
            result = row["result"]
            chance = BLANK if result["chance"] is None else f"{result['chance']:.4g}"
            n = BLANK if result["n"] is None else str(result["n"])
            place = [file["task"], file["method"], modality_name(row["modality"])]
            place += [row["head"], labels(row["head"], row["fraction"]), row["metric"]]
            counts = [replicates_text(result["replicates"]), n, chance]
            rows.append([*place, estimate(result), *counts, f"`{short(result['digest'])}`"])
    headers = ["task", "method", "modality", "head", "labels", "metric", "value [95% interval]"]
    headers += ["replicates", "n", "chance", "digest"]
    return table(headers, rows)

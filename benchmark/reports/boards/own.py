"""A run's own endpoints and where they stand on a board, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.reports.boards.markdown import alarm, heading, ranked_blocks
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


def off_board(
    document: Mapping[str, Any], files: Sequence[Mapping[str, Any]], fractions: Sequence[float]
) -> list[float]:
    """Return the label fractions asked for that files have rows of and a board has no place for."""
    rows = [row for file in files if file["task"] == document["task"] for row in file["rows"]]
    scored = {row["fraction"] for row in rows if row["head"] != "none"}
    shown = {section["fraction"] for section in document["sections"]}
    return [fraction for fraction in fractions if fraction in scored - shown]


def own_sections(
    document: Mapping[str, Any], files: Sequence[Mapping[str, Any]], fractions: Sequence[float]
) -> str:
    """Return the endpoint's tables of the sections of a board in which files have rows.

    Where primary sections are among them, these alone; nothing per target.

    Parameters
    ----------
    document
        The board.
    files
        Rows files, of any task.
    fractions
        The label fractions that were asked for; a board with none of these shows those it has.
    """
    own = {
        (file["method"], row["head"], row["modality"])
        for file in files
        if file["task"] == document["task"]
        for row in file["rows"]
    }
    holding = {
        i: {line["modality"] for line in section["lines"] if _place(line) in own}
        for i, section in enumerate(document["sections"])
    }
    sections = [(s, holding[i]) for i, s in enumerate(document["sections"]) if holding[i]]
    # A reference stands in sections of other modalities too; it is at home in that of its own.
    found = [s for s, seen in sections if s["modality"] in seen] or [s for s, _ in sections]
    found = [s for s in found if s["fraction"] in fractions] or found
    found = [s for s in found if s["primary"]] or found
    parts = [*heading(document), *alarm(document)]
    for section in found:
        parts += ranked_blocks(section, document)
    return "\n\n".join(parts)


def _place(line: Mapping[str, Any]) -> tuple[str, str, str] | None:
    return (line["method"], line["head"], line["modality"]) if line["digest"] else None

"""A board as CSV: one record for each target and metric of each line.

What only the endpoint has (rank, family, digest of all the line's records) stands in its record
alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmark.reports.boards.info import NOT_RUN
from benchmark.reports.boards.recorded import MEAN
from benchmark.reports.boards.text import PRIMARY, csv_text

FIELDS = (
    *("modality", "fraction", "section_head", "block", "method", "head", "row_modality"),
    *("target", "metric", "status", "value", "lo", "hi", "se", "replicates", "n", "positives"),
    *("chance", "difference", "difference_lo", "difference_hi", "difference_replicates"),
    *("p", "p_holm", "q", "resolvable"),
    *("ceiling", "ceiling_lo", "ceiling_hi", "share_of_ceiling"),
    *("ceiling_difference", "ceiling_p", "ceiling_p_holm"),
    *("gap_closed", "gap_closed_lo", "gap_closed_hi", "label_factor", "label_factor_bound"),
    *("family", "rank_lo", "rank_hi", "letters", "notes", "digest"),
)
_CELL = (
    *("target", "metric", "status", "value", "lo", "hi", "se", "n", "positives", "chance"),
    *("difference", "difference_lo", "difference_hi", "p", "q", "resolvable"),
)


def csv_of(document: Mapping[str, Any]) -> str:
    """Return the CSV of a board document."""
    return csv_text(FIELDS, list(_records(document)))


def _records(document: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for section in document["sections"]:
        lines = {line["method"]: line for line in section["lines"]}
        empty = {"target": MEAN, "metric": section["metric"]}
        for name in section["not_run"]:
            yield {**_section(section), "method": name, **empty, "status": NOT_RUN}
        for line in section["lines"]:
            if line["digest"] is None:
                yield {**_section(section), **_line(line), **empty, "status": line["status"]}
        for cell in section["cells"]:
            line = lines[cell["method"]]
            record = {**_section(section), **_line(line), **_cell(cell)}
            record["notes"] = "; ".join(cell["notes"])
            if (cell["target"], cell["metric"]) == (MEAN, section["metric"]):
                record |= _endpoint(line, section)
            yield record


def _section(section: Mapping[str, Any]) -> dict[str, Any]:
    names = {"modality": "modality", "fraction": "fraction", "section_head": "head"}
    return {field: section[name] for field, name in names.items()}


def _line(line: Mapping[str, Any]) -> dict[str, Any]:
    names = ("block", "method", "head", "replicates")
    return {**{name: line[name] for name in names}, "row_modality": line["modality"]}


def _cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    record = {name: cell[name] for name in _CELL}
    if ceiling := cell.get("ceiling"):
        names = {"ceiling": "value", "ceiling_lo": "lo", "ceiling_hi": "hi"}
        record |= {field: ceiling[name] for field, name in names.items()}
        record["share_of_ceiling"] = cell["share_of_ceiling"]
        names = ("difference", "p", "p_holm")
        record |= {f"ceiling_{name}": ceiling.get(name) for name in names}
    return record


def _endpoint(line: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    """Return what only the endpoint has."""
    difference, gap = line["difference"] or {}, line["gap_closed"] or {}
    factor, rank = line["label_factor"] or {}, line["rank"] or (None, None)
    family = section["families"].get(line["block"])
    return {
        "family": PRIMARY[family["primary"]] if family else "",
        "difference_replicates": difference.get("replicates"),
        "p_holm": difference.get("p_holm"),
        "gap_closed": gap.get("value"),
        "gap_closed_lo": gap.get("lo"),
        "gap_closed_hi": gap.get("hi"),
        "label_factor": factor.get("fraction"),
        "label_factor_bound": factor.get("bound"),
        "rank_lo": rank[0],
        "rank_hi": rank[1],
        "letters": line["letters"],
        "digest": line["digest"],
    }

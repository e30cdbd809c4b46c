"""The cells of a section: every target and metric of every line."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from benchmark.evaluation.multiplicity import benjamini_hochberg
from benchmark.reports.boards.info import RANKED_BLOCKS
from benchmark.reports.boards.recorded import MEAN, Line, group_target
from benchmark.reports.boards.text import natural, rounded
from benchmark.reports.rows import ONE_CHECKPOINT

if TYPE_CHECKING:
    from benchmark.reports.boards.sections import Section


def cells_of(section: Section) -> list[dict[str, Any]]:
    """Return every target and metric of every line; q where the primary metric is tested."""
    records = []
    for line in section.lines:
        for target, metric in scored(section, line):
            records.append((line, _cell(section, line, target, metric)))
    groups = {group_target(name) for name in section.info.groups}
    for block, of_groups in itertools.product(RANKED_BLOCKS, (False, True)):
        family = [
            cell
            for line, cell in records
            if line.method.block == block
            and cell["metric"] == section.metric
            and cell["target"] != MEAN
            and (cell["target"] in groups) == of_groups
            and cell["p"] is not None
        ]
        q = benjamini_hochberg([cell["p"] for cell in family])
        for cell, adjusted in zip(family, q, strict=True):
            cell["q"] = rounded(float(adjusted))
    return [cell for _, cell in records]


def scored(section: Section, line: Line) -> list[tuple[str, str]]:
    """Return the targets and metrics that a line has a result of, in the order they are shown."""
    if line.result is None:
        return []
    order = {target: i for i, target in enumerate(line.result.get("targets", ()))}
    return sorted(
        section.recorded.scored(line.place, section.fraction),
        key=lambda x: (
            *(x[1] != section.metric, natural(x[1]), x[0] != MEAN),
            *(order.get(x[0], len(order)), natural(x[0])),
        ),
    )


def _cell(section: Section, line: Line, target: str, metric: str) -> dict[str, Any]:
    key = (*line.place, target, metric, section.fraction)
    result = section.recorded.results[key]
    d = None
    if line != section.reference:
        d = section.tested(line, section.reference, (target, metric, section.fraction))
    cell = {
        "method": line.name,
        "head": line.head,
        "modality": line.modality,
        "target": target,
        "metric": metric,
        **{name: rounded(result[name]) for name in ("value", "lo", "hi", "se", "chance")},
        "n": result["n"],
        "positives": result["positives"],
        "status": result["status"],
        "difference": rounded(d.value) if d else None,
        "difference_lo": rounded(d.lo) if d else None,
        "difference_hi": rounded(d.hi) if d else None,
        "difference_se": rounded(math.sqrt(d.v)) if d else None,
        "p": rounded(d.p) if d else None,
        "q": None,
        "resolvable": rounded(d.resolvable) if d else None,
        "notes": [note for note in result["notes"] if note != ONE_CHECKPOINT],
    }
    ceiling, above = section.limits.ceiling(key), section.limits.above.get(key)
    if ceiling is not None:
        cell["ceiling"] = {name: rounded(ceiling[name]) for name in ("value", "lo", "hi")}
        cell["share_of_ceiling"] = rounded(section.limits.share(key))
    if above is not None:
        cell["ceiling"] |= {
            "difference": rounded(above.entry["difference"]),
            "p": rounded(above.p),
            "p_holm": rounded(above.p_holm),
        }
    return cell

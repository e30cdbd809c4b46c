"""What the page shows of each section of a board document, in words and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from benchmark.reports.boards import text
from benchmark.reports.boards.endpoint import warnings
from benchmark.reports.boards.info import (
    DIAGNOSTIC,
    LABEL_FREE,
    LABEL_USING,
    NOT_APPLICABLE,
    UNRANKED,
)
from benchmark.reports.boards.reader import checkpoints_text, family_text, resolves_text
from benchmark.reports.boards.recorded import MEAN
from benchmark.reports.boards.sections import title as section_title
from benchmark.reports.page.descriptive import mean_ranks, wins
from benchmark.reports.page.figures import Axis, Mark, forest
from benchmark.reports.page.grids import DOT, Grid, heat, matrix, other_metrics
from benchmark.reports.page.places import Document, Section, where_of

BLOCKS = {
    LABEL_FREE: "Ranked: learned without labels",
    LABEL_USING: "Ranked: learned with labels",
    UNRANKED: "References and controls, not ranked",
}
DIAGNOSTIC_BLOCKS = {
    LABEL_FREE: "Learned without labels",
    LABEL_USING: "Learned with labels",
    UNRANKED: "References and controls",
}
ORACLES = {
    "ecg": "ceiling of the ECG",
    "cmr": "ceiling of the CMR",
    "covariates": "ceiling of the covariates",
    "truth": "without measurement noise",
}


@dataclass(frozen=True)
class Bar:
    """An interval within a table cell, in percent of the cell."""

    value: float
    lo: float
    width: float


@dataclass(frozen=True)
class Row:
    """A line of the main table: its cells under `View.columns`."""

    cells: Mapping[str, str]
    origin: str
    bar: Bar | None
    top: bool


@dataclass(frozen=True)
class View:
    """All that is shown of one section."""

    where: Mapping[str, str]
    labels: Mapping[str, str]
    title: str
    subtitle: str
    document: Document
    section: Section
    reader: Sequence[str]
    checkpoints: str
    warnings: Sequence[str]
    apart: Sequence[str]
    columns: Sequence[tuple[str, str]]
    blocks: Sequence[tuple[str, Sequence[Row]]]
    winners: str
    forest: Markup | None
    matrix: Grid | None
    wins: Grid | None
    ranks: Sequence[tuple[str, Markup]]
    heat: Grid | None
    others: Grid | None

    @property
    def not_applicable(self) -> str:
        """Who has no place in the section, and why."""
        return text.not_applicable(self.section)

    @property
    def compared(self) -> bool:
        """Whether the cells per target are differences."""
        return any(cell["difference"] is not None for cell in self.section["cells"])


def view_of(document: Document, section: Section) -> View:
    """Return what is shown of a section."""
    where, names = where_of(document, section)
    lines = section["lines"]
    ranked = document["kind"] != DIAGNOSTIC
    columns, blocks = _main_table(document, section)
    top = [x["method"] for x in lines if _is_top(x)]
    return View(
        where=where,
        labels=names,
        title=document["title"],
        subtitle=section_title(section),
        document=document,
        section=section,
        reader=list(_reader(document, section)),
        checkpoints=_checkpoints(lines),
        warnings=warnings(lines),
        apart=list(_apart(document, section)),
        columns=columns,
        blocks=blocks,
        winners=_winners(top, lines) if ranked else "",
        forest=_forest(document, section),
        matrix=matrix(section) if ranked else None,
        wins=wins(document, section) if ranked else None,
        ranks=mean_ranks(document, section) if ranked else [],
        heat=heat(document, section),
        others=other_metrics(section),
    )


# ------------------------------------------------------------------------------ the main table


def _main_table(document: Document, section: Section) -> tuple[list, list]:
    names = DIAGNOSTIC_BLOCKS if document["kind"] == DIAGNOSTIC else BLOCKS
    scale = _scale(section["lines"])
    reference = section["reference"]
    columns = {
        "method": "method",  # stays in sight when the rest is scrolled
        "rank": "rank",
        "letters": "group",
        "value": f"{section['metric']} [95% interval]",
        "bar": "interval",
        "difference": f"difference to {reference} [95% interval]",
        "p": "p (Holm)",
        "resolvable": "resolves",
        "gap": "gap closed",
        "label": f"labels {reference} needs",
        "share": "share of ceiling",
        "replicates": "replicates",
        "n": "n",
        "digest": "digest",
    }
    blocks = []
    for block, heading in names.items():
        members = [
            line
            for line in section["lines"]
            if line["block"] == block and line["status"] != NOT_APPLICABLE
        ]
        if family := section["families"].get(block):
            heading += f" ({text.PRIMARY[family['primary']]} family)"
        if members:
            blocks.append((heading, [_row(line, section, scale) for line in members]))
    cells = [row for _, rows in blocks for row in rows]
    kept = [
        (key, name)
        for key, name in columns.items()
        if (key == "bar" and any(row.bar for row in cells))
        or any(row.cells.get(key, text.BLANK) != text.BLANK for row in cells)
    ]
    return kept, blocks


def _row(line: Mapping[str, Any], section: Section, scale: Axis | None) -> Row:
    d, factor = line["difference"], line["label_factor"]
    cells = {
        "rank": text.rank(line["rank"]),
        "letters": line["letters"] or text.BLANK,
        "method": line["method"],
        "value": text.estimate(line),
        "difference": text.compared(line, section),
        "p": text.p_value(d["p_holm"]) if d else text.BLANK,
        "resolvable": text.resolves(d),
        "gap": text.gap_closed(line, section),
        "label": text.labels_needed(factor),
        "share": text.percent(line["share_of_ceiling"]),
        "replicates": str(line["replicates"] or text.BLANK),
        "n": text.BLANK if line["n"] is None else str(line["n"]),
        "digest": text.short(line["digest"]) if line["digest"] else text.BLANK,
    }
    bar = None
    if scale is not None and line["value"] is not None and line["lo"] is not None:
        lo, hi = 100 * scale.at(line["lo"]), 100 * scale.at(line["hi"])
        bar = Bar(100 * scale.at(line["value"]), lo, hi - lo)
    return Row(cells, text.origin(line, section), bar, _is_top(line))


def _is_top(line: Mapping[str, Any]) -> bool:
    """Whether it shares the letter of the best of its block."""
    return line["block"] != UNRANKED and "a" in (line["letters"] or "")


def _winners(top: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> str:
    if not top:
        return ""
    ranked = [x for x in lines if x["letters"]]
    if len(top) == len(ranked):
        return "Shaded: all of them, since no paired test tells any two of a block apart."
    return (
        "Shaded: the methods of each block that share the letter a, the first group; nothing is "
        "claimed about their order."
    )


def _scale(lines: Iterable[Mapping[str, Any]]) -> Axis | None:
    known = [x for line in lines for x in (line["value"], line["lo"], line["hi"]) if x is not None]
    return Axis.over(known) if known else None


# ------------------------------------------------------------------------------ reader's box


def _checkpoints(lines: Sequence[Mapping[str, Any]]) -> str:
    """Say which rows are one checkpoint."""
    scored = [x for x in lines if x["value"] is not None]
    single = [x["method"] for x in scored if x["replicates"] == 1]
    if not single:
        return ""
    if len(single) == len(scored):
        return (
            "every row comes from a single training. Intervals and tests cover "
            "the test people only; another training of the same method may rank elsewhere."
        )
    names = ", ".join(single)
    return f"{names} come from a single training; their intervals cover people only."


def _reader(document: Document, section: Section) -> Iterable[str]:
    """Yield what is to be known of this section, then of the whole board."""
    over = f" over {', '.join(section['endpoint'])}" if section["endpoint"] else ""
    if document["kind"] == DIAGNOSTIC:
        yield f"Shown: mean {section['metric']}{over}."
    else:
        yield f"Endpoint ({text.PRIMARY[section['primary']]}): mean {section['metric']}{over}."
        families = [
            f"{family_text(block, family)} ({family['compared']} of {family['pairs']} pairs "
            "compared)"
            for block, family in section["families"].items()
        ]
        each = ", each its own" if len(families) > 1 else ""
        yield f"Families under Holm's correction here{each}: {'; '.join(families) or 'none'}."
        for block in section["families"]:
            if checkpoints := checkpoints_text(section, block):
                yield f"{block.capitalize()} methods: {checkpoints}"
        if resolves := resolves_text(section):
            yield resolves
    # The dot of a Markdown table, as it is drawn here.
    yield from (line.replace("(·)", f"({DOT})") for line in document["reading"])
    if document["no_ceilings"]:
        yield document["no_ceilings"]
    elif document["leak_cells"] and not document["leaks"]:
        rest = document["leak_unchecked"]
        yield (
            f"Leak check: none of the {document['leak_cells']} cells exceeds the ceiling of what "
            "its method sees (one-sided paired tests, Holm's correction over all of them, 5%)."
            + (f" {rest} more were not compared with theirs." if rest else "")
        )


def _apart(document: Document, section: Section) -> Iterable[str]:
    """Yield the endpoints of another cohort or task version that would stand here."""
    for other in document["others"]:
        if all(other[key] == section[key] for key in ("modality", "fraction", "metric")):
            yield (
                f"{other['method']} ({other['head']} head) {text.estimate(other)}, task version "
                f"{other['version']}, cohort {text.short(other['fingerprint'])}"
            )


# ------------------------------------------------------------------------------ figures


def _forest(document: Document, section: Section) -> Markup | None:
    names = DIAGNOSTIC_BLOCKS if document["kind"] == DIAGNOSTIC else BLOCKS
    blocks = {
        heading: [mark_of(x) for x in section["lines"] if x["block"] == block and _scored(x)]
        for block, heading in names.items()
    }
    if not any(blocks.values()):
        return None
    levels = [(name, value, "ceiling") for name, value in _ceilings(document, section)]
    if section["chance"] is not None:
        levels.insert(0, (f"chance {section['chance']:.3g}", section["chance"], "chance"))
    title = f"Forest plot of {section['metric']}; the same values are in the table above."
    return forest(blocks, levels, title)


def mark_of(line: Mapping[str, Any]) -> Mark:
    """Return a line as a mark of a figure."""
    return Mark(
        name=line["method"],
        shape=line["block"],
        value=line["value"],
        lo=line["lo"],
        hi=line["hi"],
        replicates=tuple(line["values"] or ()),
    )


def _scored(line: Mapping[str, Any]) -> bool:
    return line["value"] is not None


def _ceilings(document: Document, section: Section) -> list[tuple[str, float]]:
    found = {}
    for entry in document["ceilings"]:
        wanted = (entry["target"], entry["metric"]) == (MEAN, section["metric"])
        over = entry.get("targets")
        if wanted and entry["value"] is not None and over in (None, section["endpoint"]):
            name = ORACLES.get(entry["modality"], f"ceiling of {entry['modality']}")
            found[f"{name} {entry['value']:.3g}"] = entry["value"]
    return sorted(found.items(), key=lambda item: item[1])

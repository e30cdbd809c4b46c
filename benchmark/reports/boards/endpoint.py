"""Tables about the endpoint of a section: the ranking, the hurdles, the provenance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmark.reports.boards.info import RANKED_BLOCKS, UNRANKED
from benchmark.reports.boards.reader import replicates_text
from benchmark.reports.boards.sections import WARN
from benchmark.reports.boards.text import (
    BLANK,
    NOT_COMPARED,
    Record,
    compared,
    estimate,
    gap_closed,
    labels_needed,
    of_common,
    origin,
    p_value,
    percent,
    rank,
    resolves,
    short,
    signed,
    table,
)

STRONGEST = 2  # references that every method is set against


def ranking(section: Record, members: list[Record], ranked: bool) -> str:
    """Return the table of a block; columns that nobody in the section has are left out."""
    every = section["lines"]
    reference = section["reference"]
    columns: dict[str, Callable[[Record], str]] = {}
    if ranked:
        columns["rank"] = lambda x: rank(x["rank"])
        columns["group"] = lambda x: x["letters"] or BLANK
    columns["method"] = lambda x: x["method"] if ranked else _with_origin(x, section)
    columns[f"{section['metric']} [95% interval]"] = estimate
    if any(x["method"] == reference for x in every):
        columns[f"difference to {reference} [95% interval]"] = lambda x: compared(x, section)
        if ranked:
            columns["p (Holm)"] = lambda x: p_value((x["difference"] or {}).get("p_holm"))
    if any(x["gap_closed"] for x in every):
        columns["gap closed"] = lambda x: gap_closed(x, section)
    if ranked and any(x["label_factor"] for x in every):
        columns[f"labels {reference} needs"] = lambda x: labels_needed(x["label_factor"])
    if any(x["share_of_ceiling"] is not None for x in every):
        columns["share of ceiling"] = lambda x: percent(x["share_of_ceiling"])
    return table(list(columns), [[show(x) for show in columns.values()] for x in members])


def _with_origin(line: Record, section: Record) -> str:
    """Name with the head and modality in which a reference was found, where not the section's."""
    said = origin(line, section)
    return f"{line['method']} ({said})" if said else line["method"]


def against_references(section: Record) -> list[str]:
    """Set each ranked method beside what a learned representation must beat, and the controls.

    References that look at the hearts themselves are no hurdle for an ECG encoder.
    """
    members = [
        x for x in section["lines"] if x["block"] in RANKED_BLOCKS and x["value"] is not None
    ]
    rest = [x for x in section["lines"] if x["block"] == UNRANKED and x["value"] is not None]
    own = (section["modality"], "covariates")
    hurdles = [x for x in rest if x["role"] == "reference" and x["modality"] in own][:STRONGEST]
    controls = [x for x in rest if x["role"] == "control"]
    columns = [*hurdles, *controls]
    pairs = {}
    for pair in section["pairs"]:
        for turn, key in ((1, (pair["a"], pair["b"])), (-1, (pair["b"], pair["a"]))):
            # Pairs are turned so that more is better; a board shows values and their differences.
            sign = turn if section["higher_is_better"] else -turn
            ends = () if pair["lo"] is None else (sign * pair["lo"], sign * pair["hi"])
            lo, hi = sorted(ends) or (None, None)
            pairs[key] = {"value": sign * pair["difference"], "lo": lo, "hi": hi, "se": pair["se"]}
    if not (columns and members and pairs):
        return []
    rows = [
        [
            x["method"],
            *(
                signed(d) + of_common(x, y)
                if (d := pairs.get((x["method"], y["method"])))
                else NOT_COMPARED
                for y in columns
            ),
        ]
        for x in members
    ]
    against = "strongest references" + (" and the controls" if controls else "")
    caption = f"Against the {against} (difference [95% interval], uncorrected):"
    return [caption, table(["method", *(f"minus {x['method']}" for x in columns)], rows)]


def warnings(lines: Iterable[Record]) -> list[str]:
    """Name retrievals with too many ties or queries without any match."""
    says = {"unmatched": "queries without any match", "ties": "queries with a tie at a cut-off"}
    found = [
        f"{line['method']}: {100 * line[field] / line['n']:.1f}% {text}"
        for line in lines
        for field, text in says.items()
        if _is_count(line[field]) and _is_count(line["n"])
        if line[field] > WARN * line["n"]
    ]
    return [f"Warning: {'; '.join(found)}."] if found else []


def _is_count(value: Any) -> bool:
    """Whether a count is there and not withheld, as small ones of real people are."""
    return isinstance(value, int)


def provenance(lines: Iterable[Record]) -> str:
    """Return what each line was made of, and what its comparison could have found."""
    lines = list(lines)

    optional: dict[str, Callable[[Record], Any]] = {
        "without a match": lambda line: line["unmatched"],
        "ties at a cut-off": lambda line: line["ties"],
        "n": lambda line: line["n"],
        "resolves": lambda line: resolves(d) if (d := line["difference"]) else None,
    }
    shown = {k: show for k, show in optional.items() if any(show(x) is not None for x in lines)}
    rows = []
    for line in lines:
        facts = (show(line) for show in shown.values())
        digest = f"`{short(line['digest'])}`" if line["digest"] else BLANK
        shown_facts = [BLANK if fact is None else str(fact) for fact in facts]
        rows.append([line["method"], replicates_text(line["replicates"]), *shown_facts, digest])
    return table(["method", "replicates", *shown, "digest"], rows)

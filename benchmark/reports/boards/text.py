"""How numbers, names and tables are written."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from benchmark.reports.boards.info import MODALITIES, NO_HEAD, NOT_APPLICABLE
from benchmark.reports.files import grouped

BLANK, NOT_COMPARED = "-", "not compared"
Record = Mapping[str, Any]
"""A part of the board document."""
PRIMARY = {True: "primary", False: "secondary"}
"""What a family or an endpoint is called."""
DIGITS = 6  # a standard error is seldom below a thousandth


def short(digest: str) -> str:
    """Return the first 12 digits, grouped."""
    return grouped(digest.replace("-", "")[:12])


def labels(head: str, fraction: float) -> str:
    """Share of labels a head was fitted on; ranking by similarity uses none."""
    return BLANK if head == NO_HEAD else f"{100 * fraction:g}%"


def modality_name(modality: str) -> str:
    """Return what a person calls a modality."""
    return MODALITIES.get(modality, modality)


def places(se: float | None) -> int:
    """Decimals that leave the standard error two significant digits."""
    if not se or not math.isfinite(se):
        return 4
    # Rounded first, since 0.0996 is 0.10 and not 0.100.
    return min(max(1 - math.floor(math.log10(float(f"{se:.1e}"))), 0), 6)


def estimate(entry: Mapping[str, Any]) -> str:
    """Return a value with its interval to the digits its error leaves it, or why there is none."""
    if entry["value"] is None:
        return entry["status"]
    digits = places(entry["se"])
    if entry["se"] is None and entry["lo"] is not None:
        digits = 1  # the median rank: multiples of one half, averaged
    text = f"{entry['value']:z.{digits}f}"
    if entry["lo"] is None:
        return text
    return f"{text} [{entry['lo']:z.{digits}f}, {entry['hi']:z.{digits}f}]"


def signed(difference: Mapping[str, Any], *, interval: bool = True) -> str:
    """Return a difference, with its interval, to the digits that its error leaves it."""
    lo, hi = difference["lo"], difference["hi"]
    digits = places(difference["se"])
    text = f"{difference['value']:+z.{digits}f}"
    return f"{text} [{lo:+z.{digits}f}, {hi:+z.{digits}f}]" if interval and lo is not None else text


def rank(interval: Sequence[int] | None) -> str:
    """Return the places a method can have."""
    if interval is None:
        return BLANK
    lo, hi = interval
    return str(lo) if lo == hi else f"{lo}-{hi}"


def p_value(p: float | None) -> str:
    """Return p to two digits."""
    if p is None:
        return BLANK
    return "<0.001" if p < 0.001 else f"{p:.2g}"


def compared(line: Record, section: Record) -> str:
    """Return the difference to the section's reference, or why there is none."""
    if line["method"] == section["reference"]:
        return "reference"
    if line["value"] is None or section["reference"] is None:
        return BLANK
    d = line["difference"]
    if d is None:
        return NOT_COMPARED
    return signed(d) + of_common(line, named(section, section["reference"]))


def named(section: Record, method: str | None) -> Record | None:
    """Return a method's line in a section, if it has one."""
    return next((line for line in section["lines"] if line["method"] == method), None)


def in_common(*lines: Record) -> int:
    """Return how many replicates all of some lines have: what a comparison of them is of."""
    return len(set.intersection(*(set(line["seeds"]) for line in lines)))


def of_common(*lines: Record | None) -> str:
    """Say of how many replicates a comparison is, where one of its values is of more."""
    known = [line for line in lines if line is not None]
    count = in_common(*known)
    if all(line["replicates"] == count for line in known):
        return ""
    return f" (of the {count} common replicate{'s' * (count > 1)})"


def not_applicable(section: Record) -> str:
    """Return who has no place in a section and why, those of one reason together."""
    reasons: dict[str, list[str]] = {}
    for line in section["lines"]:
        if line["status"] == NOT_APPLICABLE:
            reasons.setdefault(line["why"], []).append(line["method"])
    return "; ".join(
        ", ".join(names) + (f" ({why})" if why else "") for why, names in reasons.items()
    )


def resolves(d: Record | None) -> str:
    """Return the true difference that a comparison would find with 80% power."""
    return BLANK if d is None else number(d["resolvable"], places(d["se"]))


def origin(line: Record, section: Record) -> str:
    """Say what sets a reference apart: its own head or modality, or being a control."""
    own = [modality_name(line["modality"])] if line["modality"] != section["modality"] else []
    own += [f"{line['head']} head"] if line["head"] != section["head"] else []
    own += ["control"] if line["role"] == "control" else []
    return ", ".join(own)


def gap_closed(line: Record, section: Record) -> str:
    """Return the share of the way to the goal, with its interval where there is one."""
    gap = line["gap_closed"]
    if gap is None:
        return BLANK
    ends = "" if gap["lo"] is None else f" [{percent(gap['lo'])}, {percent(gap['hi'])}]"
    way = (named(section, section[end]) for end in ("reference", "goal"))
    return percent(gap["value"]) + ends + of_common(line, *way)


def labels_needed(factor: Record | None) -> str:
    """Return the share of labels with which the reference is as good."""
    if factor is None:
        return BLANK
    bound = "" if factor["bound"] == "=" else factor["bound"]
    return f"{bound}{two_digits(100 * factor['fraction'])}%"


def number(x: float | None, digits: int) -> str:
    """Return a number with so many decimals."""
    return BLANK if x is None or not math.isfinite(x) else f"{x:z.{digits}f}"


def two_digits(x: float) -> str:
    """Return a number to two significant digits, without an exponent."""
    return f"{float(f'{x:.2g}'):g}"


def percent(share: float | None) -> str:
    """Return a share in whole percent."""
    return BLANK if share is None else f"{round(100 * share)}%"


def rounded(x: float | None) -> float | None:
    """Return what a board keeps of a number: its significant digits; None when not finite."""
    # Turning a pair around makes -0 of a difference of 0.
    return None if x is None or not math.isfinite(x) else float(f"{x:.{DIGITS}g}") + 0.0


def natural(text: str) -> list:
    """Order with P@3 before P@10 and the variants with the own scan last."""
    parts = re.split(r"(\d+)", text)
    return [text.endswith("+self"), [(p.isdigit(), int(p) if p.isdigit() else p) for p in parts]]


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def csv_text(fields: Sequence[str], records: Iterable[Mapping[str, Any]]) -> str:
    """Return records as CSV, blank where a field is missing."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def json_text(value: Any, depth: int = 4, indent: str = "") -> str:
    """Return JSON that reads in a diff: one line for each record, whatever is inside it."""
    inner = value.values() if isinstance(value, dict) else value
    if not (depth and isinstance(value, dict | list) and any(map(_nested, inner))):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    deeper = f"{indent} "
    parts = [json_text(item, depth - 1, deeper) for item in inner]
    if isinstance(value, dict):
        parts = [f"{json.dumps(name)}: {part}" for name, part in zip(value, parts, strict=True)]
    open_, close = "{}" if isinstance(value, dict) else "[]"
    body = f",\n{deeper}".join(parts)
    return f"{open_}\n{deeper}{body}\n{indent}{close}"


def _nested(value: Any) -> bool:
    return isinstance(value, dict | list)

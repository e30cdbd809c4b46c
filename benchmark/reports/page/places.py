"""Where a section of a board stands on the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.reports.boards import text
from benchmark.reports.boards.info import NO_HEAD

Document = Mapping[str, Any]
Section = Mapping[str, Any]


def where_of(document: Document, section: Section) -> tuple[dict[str, str], dict[str, str]]:
    """Return the keys by which a section is chosen, and how each is called."""
    modality, head, fraction = section["modality"], section["head"], section["fraction"]
    where = {
        "task": document["task"],
        "modality": modality,
        "fraction": f"{fraction:g}",
        "head": head,
    }
    names = {
        "task": document["title"],
        "modality": text.modality_name(modality),
        "fraction": f"{100 * fraction:g}% of labels",
        "head": "no head" if head == NO_HEAD else f"{head} head",
    }
    return where, names

"""One self-contained HTML page for all boards of a cohort and scale, and one for their cost.

Everything is rendered here, once, from board documents: tables and SVG alike. A script only shows
one view at a time and sorts; without it all views follow one another, complete. No document is
embedded beside its rendering, nothing is loaded but pictures that lie beside the page, and a policy
in it lets run no script but its own, whatever a method is called.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from benchmark.reports.boards.document import caveat, folder_name
from benchmark.reports.boards.text import short
from benchmark.reports.page.beside import beside
from benchmark.reports.page.cost import cost_views
from benchmark.reports.page.curves import cutoff_curves, low_data_curves
from benchmark.reports.page.views import view_of

if TYPE_CHECKING:
    from jinja2 import Template

    from benchmark.reports.page.pictures import Gallery
    from benchmark.reports.published import Table

FOLDER = Path(__file__).parent
KEYS = {
    "task": "Task",
    "table": "Published table",
    "picture": "Picture",
    "modality": "Modality",
    "fraction": "Share of labels",
    "head": "Head",
}
"""What views are chosen by, in this order."""


def page(
    documents: Sequence[Mapping[str, Any]],
    published: Mapping[str, Table],
    galleries: Sequence[Gallery] = (),
) -> str:
    """Return ``index.html``: every board, and the papers' numbers beside ours.

    Parameters
    ----------
    documents
        Board documents of one cohort, preset and scale, in the order in which they are shown.
    published
        The papers' tables by name, as `benchmark.reports.published.tables` returns them.
    galleries
        The pictures beside the page, `benchmark.reports.page.pictures.galleries`.
    """
    documents = [document for document in documents if document["cohort"] is not None]
    views = [view_of(d, section) for d in documents for section in d["sections"]]
    panels = [panels for d in documents for panels in low_data_curves(d)]
    panels += [p for d in documents for s in d["sections"] for p in cutoff_curves(d, s)]
    tables = beside(documents, published) if documents else []
    footer = (
        "Rendered from the committed rows and pictures alone; equal results give equal pages. "
        "Every number is also in the CSV files beside this page; what it cost is in cost.html."
    )
    blocks = {"views": views, "panels": panels, "tables": tables, "galleries": galleries}
    return _render("Leaderboard", documents, footer, **blocks)


def cost_page(documents: Sequence[Mapping[str, Any]], costs: Sequence[Mapping[str, Any]]) -> str:
    """Return ``cost.html``: the endpoint of every section against what it cost.

    Parameters
    ----------
    documents
        As for `page`.
    costs
        Records of `benchmark.reports.boards.cost.costs`.
    """
    documents = [document for document in documents if document["cohort"] is not None]
    footer = (
        "Seconds are measured where a stage first ran, and a stage that methods share is counted "
        "in each: they compare methods run on one machine, no others. Boards do not depend on them."
    )
    return _render("Cost", documents, footer, costs=cost_views(documents, costs))


def _render(kind: str, documents: Sequence[Mapping[str, Any]], footer: str, **blocks: Any) -> str:
    first = documents[0] if documents else None
    name = folder_name(first) if first else "nothing run yet"
    script = _asset("page.js")
    kinds = ("views", "tables", "galleries", "costs")
    told = [block for kind in kinds for block in blocks.get(kind, ())]
    switches = {key: (legend, _values(key, told)) for key, legend in KEYS.items()}
    text = _template().render(
        title=f"{kind}: {name}",
        heading=f"{kind}: {name}",
        facts=_facts(documents),
        caveat=caveat(first) if first else None,
        simulated=bool(first and first["simulated"]),
        footer=footer,
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        css=Markup(_asset("page.css")),
        switches={key: switch for key, switch in switches.items() if switch[1]},
        **dict.fromkeys(("views", "panels", "tables", "galleries", "costs"), ()) | blocks,
    )
    return text.lstrip() + "\n"


def _facts(documents: Sequence[Mapping[str, Any]]) -> str:
    """Say whose boards these are: one may be older than a change of the people."""
    tasks: dict[str, list[str]] = {}
    for document in documents:
        tasks.setdefault(short(document["fingerprint"]), []).append(document["task"])
    if not tasks:
        return ""
    one = len(tasks) == 1
    found = [digest if one else f"{digest} ({', '.join(of)})" for digest, of in tasks.items()]
    who = "Fingerprint" if one else "Not the same people: fingerprints"
    return f"{who} {', '.join(found)}, {documents[0]['track']} track"


def _values(key: str, blocks: Sequence[Any]) -> dict[str, str]:
    """Values of a key, in order of appearance, and how they are called."""
    return {b.where[key]: b.labels[key] for b in blocks if key in b.where}


@functools.cache
def _asset(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html")

"""``ecgcmr pictures``: what methods do, drawn after the papers' figures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from benchmark.api import UserError
from benchmark.cli.common import (
    add_execution,
    add_place,
    command,
    execution,
    make_request,
    relative,
)

KINDS = """\
kinds:
  predicted       predicted against measured phenotypes, as densities
  low-data        scores against the share of labels, from recorded rows
  similarity      where in the image the ECG agrees with it, over the left ventricle
  alignment       heart beat segments against cine frames, mean over people
  reconstruction  a masked ECG on 12 leads, filled in
  latent          t-SNE of the shared space before and after alignment

Of real people only predicted, low-data and alignment are drawn: the others show single people.

examples:
  ecgcmr pictures                                   of the methods on the board, all kinds
  ecgcmr pictures --method ptacl,ptacl-global --kind alignment
"""


def add(commands: Any) -> None:
    """Add the command."""
    pictures = command(
        commands, "pictures", _pictures, "draw what methods do, for the boards' page and for papers"
    )
    pictures.epilog, pictures.formatter_class = KINDS, argparse.RawDescriptionHelpFormatter
    pictures.add_argument(
        "--method",
        default="",
        metavar="NAMES",
        help="methods, separated by commas, 'all' or 'references' (default: the ranked ones that "
        "align ECG and CMR, and the one all are compared with)",
    )
    pictures.add_argument(
        "--kind", default="all", metavar="NAMES", help="kinds, separated by commas (default all)"
    )
    add_place(pictures)
    add_execution(pictures)
    pictures.add_argument("--json", action="store_true", help="for programs")


def _pictures(options: argparse.Namespace) -> int:
    from benchmark.engine.store import Store
    from benchmark.pictures import choose_kinds, draw, usual_methods
    from benchmark.planning import expand
    from benchmark.recording import homes, prepare_folder, render_boards, rows_folders

    kinds = choose_kinds(options.kind)
    methods = expand(options.method, "method") if options.method else usual_methods()
    request = make_request(options, methods=methods, fractions=(1.0,))
    places = homes(request, options.leaderboards)
    for home in places:
        prepare_folder(request, home)
    made = draw(
        request,
        kinds,
        Store(),
        options.leaderboards,
        **execution(options),
    )
    for home in places:
        if made.files and (rows_folders(request, home)[-1] / request.track).exists():
            render_boards(request, home)
    if options.json:
        told = ("kind", "method", "reason")
        found = {
            "files": [str(path) for path in made.files],
            "skipped": [dict(zip(told, entry, strict=True)) for entry in made.skipped],
            "failed": [dict(zip(told, entry, strict=True)) for entry in made.failed],
        }
        print(json.dumps(found, indent=1))
    else:
        for path in made.files:
            print(relative(path))
        for text in (*_lines("no", made.skipped), *_lines("failed:", made.failed)):
            print(text, file=sys.stderr)
    if not made.files and not made.failed:
        raise UserError("none of these pictures applies to these methods: nothing was drawn")
    return 1 if made.failed else 0


def _lines(word: str, entries: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """Say each reason once."""
    methods: dict[tuple[str, str], list[str]] = {}
    for kind, method, reason in entries:
        methods.setdefault((kind, reason), []).append(method)
    for (kind, reason), names in methods.items():
        yield f"{word} {kind} of {', '.join(names)}: {reason}"

"""``ecgcmr list``: what there is."""

from __future__ import annotations

import argparse
import json
from typing import Any

from benchmark.cli.common import command

EXAMPLES = """\
examples:
  ecgcmr list                                  everything, and where plugins come from
  ecgcmr list methods --track paper            the papers' own recipes
  ecgcmr list methods --parameters             how large the networks are
  ecgcmr list tasks --json
"""


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "list methods, tasks, cohorts or scales"
    show = command(commands, "list", _list, purpose, examples=EXAMPLES)
    kinds = ("methods", "tasks", "cohorts", "scales")
    show.add_argument("kind", nargs="?", choices=kinds, help="all of them when left out")
    show.add_argument("--json", action="store_true", help="for programs")
    show.add_argument(
        "--parameters", action="store_true", help="count the parameters of methods (imports torch)"
    )
    show.add_argument("--track", help="only methods of this track: harmonised or paper")
    show.add_argument(
        "--scale", help="at which parameters are counted (default tiny; full in the paper track)"
    )


def _list(options: argparse.Namespace) -> int:
    from benchmark.listing import listing, text

    tables = listing(options.kind, options.parameters, options.track, options.scale)
    if options.json:
        print(json.dumps(tables[options.kind] if options.kind else tables, indent=1))
    else:
        print(text(tables))
    return 0

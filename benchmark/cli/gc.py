"""``ecgcmr gc``: remove from the store what nothing needs."""

from __future__ import annotations

import argparse
import json
from typing import Any

from benchmark.cli.common import command

EXAMPLES = """\
Without options: artifacts that today's code cannot make any more (a stage has another version,
other fields or another input), damaged ones, unfinished work that was left for a week, failures of
stages that are no more, plans whose stages are all there (others after a month), logs and records
of SLURM's jobs that ended more than a day ago. What somebody is at work on, what that work stands
on, and what SLURM still has jobs of, stays.

examples:
  ecgcmr gc                              what would go, and how much that is
  ecgcmr gc --yes                        remove it
  ecgcmr gc --unused-for 30d --yes       and all that no command has opened for 30 days
  ecgcmr gc --cohort simulated-smoke     what was made from one cohort, as folders of boards are
                                         called: simulated-smoke, simulated-null, ukb
"""


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "remove from the store what nothing needs"
    gc = command(commands, "gc", _gc, purpose, examples=EXAMPLES)
    gc.add_argument("--yes", action="store_true", help="remove; without it, nothing is changed")
    gc.add_argument(
        "--unused-for", metavar="TIME", help="also what was not used for so long: 12h, 30d, 8w"
    )
    gc.add_argument("--cohort", default="", metavar="NAME", help="also what was made from a cohort")
    gc.add_argument(
        "--prepared",
        default="",
        metavar="NAME",
        help="also a cohort that ecgcmr prepare made, and everything made from it",
    )
    gc.add_argument(
        "--unnamed",
        action="store_true",
        help="also what no registered method, task and scale asks for, such as settings that have "
        "changed since, methods with overridden fields and what pictures stand on",
    )
    gc.add_argument("--scores", action="store_true", help="do not spare the scores of what goes")
    gc.add_argument("--json", action="store_true", help="for programs")


def _gc(options: argparse.Namespace) -> int:
    from benchmark.engine.store import Store
    from benchmark.garbage import Wish, as_json, find, remove, seconds_of, text

    wish = Wish(
        unused_for=seconds_of(options.unused_for) if options.unused_for is not None else None,
        cohort=options.cohort,
        prepared=options.prepared,
        unnamed=options.unnamed,
        scores=options.scores,
    )
    store = Store()
    found = find(store, wish)
    if options.yes:
        found = remove(store, found, wish)
    print(json.dumps(as_json(store, found), indent=1) if options.json else text(store, found))
    return 0

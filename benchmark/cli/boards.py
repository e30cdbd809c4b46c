"""``ecgcmr boards``: the boards, rendered again from their rows."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.cli.common import add_place, command, make_request, relative

EXAMPLES = """\
examples:
  ecgcmr boards --scale smoke --leaderboards MY_BOARDS
  ecgcmr boards --method all --task all       with the rows of what has been made elsewhere
  ecgcmr boards --method all --seeds 3        of three replicates, while more are being made
"""


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "render the boards again from their rows"
    boards = command(commands, "boards", _boards, purpose, examples=EXAMPLES)
    boards.add_argument(
        "--method",
        metavar="NAMES",
        help="methods whose rows are first written from what is in the store, or 'all'",
    )
    boards.add_argument("--task", default="all", metavar="NAMES", help="their tasks (default all)")
    boards.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="rows of the first N replicates alone (default: of all in the store)",
    )
    add_place(boards)


def _boards(options: argparse.Namespace) -> int:
    from benchmark.recording import board_folder, prepare_folder, render_boards

    request = make_request(options)
    if options.seeds is not None and not options.method:
        raise UserError("--seeds is of the rows that --method writes; name methods, or 'all'")
    if options.method:
        _record(options)
    rows = options.leaderboards / "rows" / board_folder(request) / request.track
    if not rows.exists():
        raise UserError(f"there are no rows to render under {rows}; ecgcmr run writes them")
    prepare_folder(request, options.leaderboards)
    for board in render_boards(request, options.leaderboards).values():
        print(relative(board))
    return 0


def _record(options: argparse.Namespace) -> None:
    """Write the rows of what is in the store."""
    from benchmark.engine.progress import Reporter
    from benchmark.engine.store import Store
    from benchmark.planning import MOST_REPLICATES, expand
    from benchmark.runner import run

    most = MOST_REPLICATES if options.seeds is None else options.seeds
    if not 1 <= most <= MOST_REPLICATES:
        raise UserError(f"--seeds is {most}; it is between 1 and {MOST_REPLICATES}")
    methods, tasks = expand(options.method, "method"), expand(options.task, "task")
    request = make_request(options, methods, tasks)
    with Path(os.devnull).open("w") as silent:  # most of what could be there may never be wanted
        silently = {"executor": "none", "reporter": Reporter(silent)}
        done = run(request, Store(), options.leaderboards, render=False, most=most, **silently)
    if done.kept:
        more = f", and {len(done.kept) - 1} more" if done.kept[1:] else ""
        print(f"the boards keep the recorded rows of {done.kept[0]}{more}")

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
    add_place(boards)


def _boards(options: argparse.Namespace) -> int:
    from benchmark.recording import board_folder, prepare_folder, render_boards

    request = make_request(options)
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
    from benchmark.planning import expand
    from benchmark.runner import run

    methods, tasks = expand(options.method, "method"), expand(options.task, "task")
    request = make_request(options, methods, tasks)
    with Path(os.devnull).open("w") as silent:  # most of what could be there may never be wanted
        silently = {"executor": "none", "reporter": Reporter(silent)}
        run(request, Store(), options.leaderboards, render=False, **silently)

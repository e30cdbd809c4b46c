"""``ecgcmr boards``: the boards, rendered again from their rows."""

from __future__ import annotations

import argparse
from typing import Any

from benchmark.api import UserError
from benchmark.cli.common import add_place, command, make_request, relative

EXAMPLES = """\
example:
  ecgcmr boards --scale smoke --leaderboards MY_BOARDS
"""


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "render the boards again from their rows"
    boards = command(commands, "boards", _boards, purpose, examples=EXAMPLES)
    add_place(boards)


def _boards(options: argparse.Namespace) -> int:
    from benchmark.runner import board_folder, prepare_folder, render_boards

    request = make_request(options)
    rows = options.leaderboards / "rows" / board_folder(request) / request.track
    if not rows.exists():
        raise UserError(f"there are no rows to render under {rows}; ecgcmr run writes them")
    prepare_folder(request, options.leaderboards)
    for board in render_boards(request, options.leaderboards).values():
        print(relative(board))
    return 0

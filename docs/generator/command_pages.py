"""The reference of the command line, from its own parser."""

from __future__ import annotations

import argparse
import os

from benchmark.cli import parser

COLUMNS = 92

INTRODUCTION = """\
# Command line

What `ecgcmr COMMAND --help` prints, for every command. Exit codes: 0 done, 1 something failed,
2 asked wrongly (one line says what to do next), 3 inconclusive (`check` alone).
"""


def pages() -> dict[str, str]:
    """Return the page by its path."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(COLUMNS)  # argparse wraps its help at the terminal's width
    try:
        text = "\n".join([INTRODUCTION, *_sections(parser(), 2)])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return {"reference/commands.md": text}


def _sections(command: argparse.ArgumentParser, depth: int) -> list[str]:
    """Return the help of a command, then that of the commands below it."""
    help_text = command.format_help().rstrip()
    found = [f"{'#' * depth} {command.prog}\n\n```text\n{help_text}\n```\n"]
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            # An alias is another name of the same parser.
            for below in dict.fromkeys(action.choices.values()):
                found += _sections(below, min(depth + 1, 3))
    return found

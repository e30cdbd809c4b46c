"""``ecgcmr privacy``: ids and data of single people, looked for."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmark.cli.common import command

EXAMPLES = """\
examples:
  ecgcmr privacy                     the repository one stands in
  ecgcmr privacy --history           and all its commits
  ecgcmr privacy paper/figures       some files

exit code: 0, or 1 when something was found
"""


def add(commands: Any) -> None:
    """Add the command."""
    privacy = command(
        commands,
        "privacy",
        _privacy,
        "look for ids and data of single people in everything that git would see",
        examples=EXAMPLES,
    )
    privacy.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="files and folders (default: the repository one stands in)",
    )
    privacy.add_argument(
        "--history", action="store_true", help="every commit of every branch and tag as well"
    )
    privacy.add_argument("--json", action="store_true", help="for programs")


def _privacy(options: argparse.Namespace) -> int:
    from benchmark.privacy_scan import scan

    report = scan(options.paths, history=options.history)
    print(json.dumps(report.as_json(), indent=1) if options.json else report.text())
    return 0 if report.ok else 1

"""``ecgcmr status``: what the store holds."""

from __future__ import annotations

import argparse
import json
from typing import Any

from benchmark.cli.common import command


def add(commands: Any) -> None:
    """Add the command."""
    status = command(commands, "status", _status, "what the store holds, and whether it is sound")
    status.add_argument(
        "--verify", action="store_true", help="compare every file with its checksum"
    )
    status.add_argument("--json", action="store_true", help="for programs")


def _status(options: argparse.Namespace) -> int:
    from benchmark.engine.store import Store
    from benchmark.listing import status

    report = status(Store(), verify=options.verify)
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        print(report["text"])
    return 1 if report["damaged"] else 0

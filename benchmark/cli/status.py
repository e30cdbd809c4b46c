"""``ecgcmr status``: what the store holds."""

from __future__ import annotations

import argparse
import json
from typing import Any

from benchmark.cli.common import command

EXAMPLES = """\
examples:
  ecgcmr status                  what is done, running, failed and prepared
  ecgcmr status --tracebacks     where the failed stages failed
  ecgcmr status --verify         read every file: is all as it was written?

exit code: 0, or 1 when something is damaged
"""


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "what the store holds, who is at work in it, and whether it is sound"
    status = command(commands, "status", _status, purpose, examples=EXAMPLES)
    status.add_argument(
        "--verify", action="store_true", help="compare every file with its checksum"
    )
    status.add_argument("--tracebacks", action="store_true", help="of the stages that failed")
    status.add_argument("--json", action="store_true", help="for programs")


def _status(options: argparse.Namespace) -> int:
    from benchmark.engine.store import Store
    from benchmark.status import status, text

    report = status(Store(reading=True), verify=options.verify)
    print(json.dumps(report, indent=1) if options.json else text(report, options.tracebacks))
    return 1 if report["damaged"] else 0

"""``ecgcmr doctor``: whether this installation can do its work."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmark.cli.common import LEADERBOARDS, command

EXAMPLES = """\
examples:
  ecgcmr doctor            versions, device, store, boards and plugins, each with the next step
  ecgcmr doctor --json     for a bug report

exit code: 0, or 1 when there is a problem; warnings do not count
"""


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "whether this installation can do its work"
    doctor = command(commands, "doctor", _doctor, purpose, examples=EXAMPLES)
    doctor.add_argument(
        "--leaderboards",
        type=Path,
        default=LEADERBOARDS,
        metavar="DIR",
        help="where rows and boards are to go",
    )
    doctor.add_argument("--json", action="store_true", help="for programs")


def _doctor(options: argparse.Namespace) -> int:
    from benchmark.doctor import as_json, examine, text

    findings = examine(options.leaderboards)
    print(json.dumps(as_json(findings), indent=1) if options.json else text(findings))
    return 1 if any(finding.state == "problem" for finding in findings) else 0

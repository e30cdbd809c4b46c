"""``ecgcmr show``: a few simulated people, drawn."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmark.cli.common import command

EXAMPLES = """\
example:
  ecgcmr show cohort --preset hard --out hard.png
"""


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "draw a few simulated people: ECG, heart, phenotypes"
    sheet = command(commands, "show", _show, purpose, examples=EXAMPLES)
    sheet.add_argument("what", choices=("cohort",), help="what to draw")
    sheet.add_argument("--cohort", default="simulated", help="cohort (default simulated)")
    sheet.add_argument("--preset", default="default", help="preset of the simulated cohort")
    sheet.add_argument("--scale", default="small", help="scale of the images (default small)")
    sheet.add_argument(
        "--out",
        type=Path,
        metavar="FILE.png",
        help="where to write (default cohort-TITLE.png in the current folder)",
    )


def _show(options: argparse.Namespace) -> int:
    from benchmark.cohorts.show import contact_sheet
    from benchmark.registry import registry

    kind = registry().cohort(options.cohort)
    print(contact_sheet(kind, options.preset, options.scale, options.out))
    return 0

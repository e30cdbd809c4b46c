"""``ecgcmr neighbours``: one recording seen through an encoder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmark.cli.common import add_device, add_place, command, make_request

EXAMPLES = """\
example:
  ecgcmr neighbours examples/ptbdb_s0010_re/s0010_re --method ptacl --k 10
"""


def add(commands: Any) -> None:
    """Add the command."""
    near = command(
        commands,
        "neighbours",
        _neighbours,
        "similar people and predicted phenotypes for one ECG recording",
        examples=EXAMPLES,
    )
    near.add_argument(
        "record",
        type=Path,
        help="a WFDB record (.hea), a MATLAB file (.mat) or UK Biobank's .xml",
    )
    near.add_argument(
        "--method", required=True, metavar="NAME", help="the method whose encoder is used"
    )
    near.add_argument("--k", type=int, default=5, help="how many people (default 5)")
    near.add_argument("--json", action="store_true", help="for programs")
    add_device(near)
    add_place(near)


def _neighbours(options: argparse.Namespace) -> int:
    from benchmark.engine.store import Store
    from benchmark.neighbours import as_json, neighbours

    request = make_request(options, methods=(options.method,), fractions=(1.0,))
    found = neighbours(options.record, options.method, options.k, request, Store(), options.device)
    print(as_json(found) if options.json else found.text())
    return 0

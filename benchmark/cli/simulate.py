"""``ecgcmr simulate``: simulated people in raw formats."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.cli.common import command

EXAMPLES = """\
example:
  ecgcmr simulate --as-ukb rehearsal --people 20     prints the command that prepares them
"""


def add(commands: Any) -> None:
    """Add the command."""
    simulate = command(
        commands,
        "simulate",
        _simulate,
        "write simulated people in the raw formats of UK Biobank, to rehearse prepare with",
        examples=EXAMPLES,
    )
    simulate.add_argument(
        "--as-ukb", required=True, type=Path, metavar="DIR", help="an empty or new folder"
    )
    simulate.add_argument(
        "--people", type=int, default=10, metavar="N", help="how many (default 10; 22 MB each)"
    )
    simulate.add_argument(
        "--first", type=int, default=1, metavar="K", help="number of the first one (default 1)"
    )
    simulate.add_argument("--preset", default="default", help="of the simulated cohort")
    simulate.add_argument(
        "--grammar",
        default="ukbconv",
        choices=("ukbconv", "r", "field-name", "dx", "stata"),
        help="how the tables name their columns (default ukbconv)",
    )
    simulate.add_argument(
        "--layout",
        default="flat",
        choices=("flat", "rap"),
        help="flat, as ukbfetch downloads (default), or the tree of the Research Analysis Platform",
    )


def _simulate(options: argparse.Namespace) -> int:
    from benchmark.cohorts.ukb.write import Simulation, write_ukb
    from benchmark.engine.progress import Reporter

    gone = 0 if options.people == 1 else 1  # or nobody is left to prepare
    simulation = Simulation(
        people=options.people, first=options.first, preset=options.preset, withdrawn=gone
    )
    reporter = Reporter()

    def progress(done: int, total: int) -> None:
        if not done:  # nothing is announced before the options are found sound
            reporter.begin(f"writing {total:,} simulated people as UK Biobank's files")
        reporter.progress(done, total, "people")

    try:
        files = write_ukb(options.as_ukb, simulation, options.grammar, options.layout, progress)
    except OSError as error:
        raise UserError(f"{options.as_ukb} cannot be written: {error.strerror}") from None
    finally:
        reporter.stop()
    command = ["ecgcmr", "prepare", "ukb", "--raw", files.raw, "--table", *files.tables]
    command += ["--withdrawn", files.withdrawn]
    who = "1 person" if simulation.people == 1 else f"{simulation.people:,} people"
    print(f"{who}, {simulation.withdrawn or 'none'} of them withdrawn; now run:")
    print(shlex.join(map(str, command)))
    return 0

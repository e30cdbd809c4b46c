"""The command line, ``ecgcmr``. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from benchmark import __version__
from benchmark.api import UserError
from benchmark.privacy import mask_messages

COMMANDS = (
    "run",
    "list",
    "show",
    "status",
    "boards",
    "gate",
    "reproduce",
    "neighbours",
    "prepare",
    "simulate",
    "privacy",
)
"""Modules of this package, each of which adds its command, in the order of ``--help``."""

EPILOG = """\
examples:
  ecgcmr run --method ptacl --task retrieval       train, evaluate, print the board
  ecgcmr run --method references --task all        the references on every task
  ecgcmr run --method mae,mmcl --task cvd --dry-run   what would run, and how long it takes
  ecgcmr list methods                              what there is
  ecgcmr neighbours RECORD --method ptacl          similar people for a recording of your own
  ecgcmr reproduce "MMCL Table II"                 a published table, beside our numbers
  ecgcmr check                                     whether a change made something worse

Finished work is kept in $ECGCMR_STORE (default ~/.cache/ecgcmr-bench) and never done twice; a
killed command goes on where it stopped.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0 done, 1 something failed, 2 asked wrongly.

    ``check`` also returns 3: inconclusive.
    """
    # libgomp's threads wait for each other by spinning, by default for so long that a training
    # step takes thirty times longer as soon as something else uses one of the cores. To be set
    # before torch is loaded; a value of the user's own stays.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    mask_messages()
    try:
        options = parser().parse_args(arguments)
        return options.run(options)
    except UserError as error:
        print(f"ecgcmr: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) is gone; so is the need to print.
        sys.stderr.close()
        return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    whole = argparse.ArgumentParser(
        prog="ecgcmr",
        description="Train and fairly compare ECG representations guided by cardiac MRI.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"ecgcmr-bench {__version__}")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"benchmark.cli.{name}").add(commands)
    return whole

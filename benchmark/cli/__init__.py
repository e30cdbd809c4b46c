"""The command line, ``ecgcmr``. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from errno import EDQUOT, ENOSPC
from typing import NoReturn

from benchmark import __version__
from benchmark.api import UserError
from benchmark.names import suggestion
from benchmark.privacy import mask_messages

COMMANDS = (
    "run",
    "list",
    "new",
    "show",
    "stage",
    "status",
    "boards",
    "gate",
    "reproduce",
    "compare",
    "neighbours",
    "export",
    "embed",
    "pictures",
    "prepare",
    "simulate",
    "privacy",
    "doctor",
    "store",
    "gc",
    "completion",
)
"""Modules of this package, each of which adds its command, in the order of ``--help``."""

EPILOG = """\
examples:
  ecgcmr run --method ptacl --task retrieval       train, evaluate, print the board
  ecgcmr run --method references --task all        the references on every task
  ecgcmr run --method mae,mmcl --task cvd --dry-run   what would run, and how long it takes
  ecgcmr run --method 'ptacl[sigma=0.2]' --task cvd   a method with a field changed
  ecgcmr list methods                              what there is
  ecgcmr new method my-idea                        a method of your own to start from
  ecgcmr neighbours RECORD --method ptacl          similar people for a recording of your own
  ecgcmr compare ptacl mae                         two methods on every task, in words
  ecgcmr export --method ptacl                     an encoder as a folder of its own
  ecgcmr embed RECORDINGS --method ptacl --out FILE   a table of features
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
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could stand here
        from benchmark.cli.completion import complete

        complete(parser())
    try:
        options = parser().parse_args(arguments)
        options.arguments = [*(sys.argv[1:] if arguments is None else arguments)]
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
    except Exception as error:
        if isinstance(error, OSError) and (text := _of_the_system(error)):
            print(f"ecgcmr: {text}", file=sys.stderr)
            return 2
        traceback.print_exc()
        report = (
            "this is a fault of ecgcmr; report it with the lines above and ecgcmr doctor --json"
        )
        print(f"ecgcmr: {report}", file=sys.stderr)
        return 1


def _of_the_system(error: OSError) -> str:
    """Return what the user has to know of a file or a disk; empty for any other fault."""
    place = "" if error.filename is None else f"{error.filename}: "
    if error.errno in (ENOSPC, EDQUOT):
        return f"{place}the disk is full; make room and run the same command again"
    return (
        f"{place}{error.strerror}; name another file or folder, or free this one" if place else ""
    )


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong and what to do."""

    def error(self, message: str) -> NoReturn:
        """End the program with exit code 2."""
        wrong = re.fullmatch(r"(.*invalid choice: '(.*)') \(choose from (.*)\)", message)
        if wrong:
            known = wrong[3].replace("'", "").split(", ")
            message = f"{wrong[1]}; {suggestion(wrong[2], known)}"
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    whole = Parser(
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

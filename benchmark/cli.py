"""The command line, ``ecgcmr``. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark import __version__
from benchmark.api import UserError
from benchmark.privacy import mask_logs

ROOT = Path(__file__).resolve().parent.parent

EPILOG = """\
examples:
  ecgcmr run --method ptacl --task retrieval       train, evaluate, print the board
  ecgcmr run --method references --task all        the references on every task
  ecgcmr run --method mae,mmcl --task cvd --dry-run   what would run, and how long it takes
  ecgcmr list methods                              what there is
  ecgcmr neighbours RECORD --method ptacl          similar people for a recording of your own

Finished work is kept in $ECGCMR_STORE (default ~/.cache/ecgcmr-bench) and never done twice; a
killed command goes on where it stopped.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0 done, 1 something failed, 2 asked wrongly."""
    # libgomp's threads wait for each other by spinning, by default for so long that a training
    # step takes thirty times longer as soon as something else uses one of the cores. To be set
    # before torch is loaded; a value of the user's own stays.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    mask_logs()
    try:
        options = _parser().parse_args(arguments)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecgcmr",
        description="Train and fairly compare ECG representations guided by cardiac MRI.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ecgcmr-bench {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = _command(commands, "run", _run, "train and evaluate methods on tasks, write the boards")
    run.add_argument(
        "--method",
        required=True,
        metavar="NAMES",
        help="methods, separated by commas; 'all', or 'references' for the rows all are read "
        "against",
    )
    run.add_argument("--task", required=True, metavar="NAMES", help="tasks, or 'all'")
    run.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="replicates: everything random is redrawn in each (default 1: a claim about one "
        "checkpoint; 3 for a comparison)",
    )
    run.add_argument(
        "--fractions",
        default="1.0,0.1,0.01",
        metavar="LIST",
        help="shares of the training labels (default 1.0,0.1,0.01, nested)",
    )
    _add_place(run)
    _add_device(run)
    run.add_argument(
        "--workers", type=int, metavar="N", help="worker processes (default: the usable cores)"
    )
    run.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    run.add_argument("--json", action="store_true", help="print the requested rows as JSON")

    show = _command(commands, "list", _list, "list methods, tasks, cohorts or scales")
    kinds = ("methods", "tasks", "cohorts", "scales")
    show.add_argument("kind", nargs="?", choices=kinds, help="all of them when left out")
    show.add_argument("--json", action="store_true", help="for programs")
    show.add_argument(
        "--parameters", action="store_true", help="count the parameters of methods (imports torch)"
    )
    show.add_argument("--scale", default="tiny", help="at which parameters are counted")

    status = _command(commands, "status", _status, "what the store holds, and whether it is sound")
    status.add_argument(
        "--verify", action="store_true", help="compare every file with its checksum"
    )
    status.add_argument("--json", action="store_true", help="for programs")

    boards = _command(commands, "boards", _boards, "render the boards again from their rows")
    _add_place(boards)

    near = _command(
        commands,
        "neighbours",
        _neighbours,
        "similar people and predicted phenotypes for one ECG recording",
    )
    near.add_argument("record", type=Path, help="a WFDB record (.hea) or a MATLAB file (.mat)")
    near.add_argument(
        "--method", required=True, metavar="NAME", help="the method whose encoder is used"
    )
    near.add_argument("--k", type=int, default=5, help="how many people (default 5)")
    near.add_argument("--json", action="store_true", help="for programs")
    _add_device(near)
    _add_place(near)
    return parser


def _command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=function)
    return parser


def _add_device(parser: argparse.ArgumentParser) -> None:
    devices = ("auto", "cpu", "cuda", "mps")
    parser.add_argument("--device", default="auto", choices=devices, help="default auto")


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cohort", default="simulated", help="cohort (default simulated)")
    parser.add_argument("--preset", default="default", help="preset of the simulated cohort")
    parser.add_argument("--scale", default="tiny", help="scale (default tiny; see list scales)")
    parser.add_argument(
        "--leaderboards",
        type=Path,
        default=ROOT / "leaderboards",
        metavar="DIR",
        help="where rows and boards go",
    )


def _run(options: argparse.Namespace) -> int:
    from benchmark.engine.store import Store
    from benchmark.runner import Request, expand, run

    request = Request(
        methods=expand(options.method, "method"),
        tasks=expand(options.task, "task"),
        replicates=options.seeds,
        fractions=_fractions(options.fractions),
        cohort=options.cohort,
        preset=options.preset,
        scale=options.scale,
    )
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers is {options.workers}; at least 1 is needed")
    outcome = run(
        request,
        Store(),
        options.leaderboards,
        device=options.device,
        workers=options.workers,
        dry_run=options.dry_run,
    )
    if outcome.report is not None:
        _print_results(request, outcome, options)
    return 0 if outcome.ok else 1


def _print_results(request: Any, outcome: Any, options: argparse.Namespace) -> None:
    """Print this run's rows, then the boards they stand on."""
    from benchmark.reports.boards import own_rows
    from benchmark.reports.rows import dumps

    if options.json:
        print(dumps({"files": outcome.files}), end="")
        return
    print(own_rows(outcome.files, request.fractions))
    for text in outcome.kept:
        print(f"the board keeps the recorded rows of {text}: they have more replicates")
    for board in outcome.boards:
        print()
        print(board.read_text().rstrip())
        print(f"\nboard: {_relative(board)}")


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _fractions(text: str) -> tuple[float, ...]:
    try:
        values = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--fractions is {text!r}; it is a list such as 1.0,0.1") from None
    if not values:
        raise UserError("--fractions names no fraction")
    return tuple(dict.fromkeys(values))


def _list(options: argparse.Namespace) -> int:
    from benchmark.listing import listing, text

    tables = listing(options.kind, options.parameters, options.scale)
    if options.json:
        print(json.dumps(tables[options.kind] if options.kind else tables, indent=1))
    else:
        print(text(tables))
    return 0


def _status(options: argparse.Namespace) -> int:
    from benchmark.engine.store import Store
    from benchmark.listing import status

    report = status(Store(), verify=options.verify)
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        print(report["text"])
    return 1 if report["damaged"] else 0


def _boards(options: argparse.Namespace) -> int:
    from benchmark.registry import registry
    from benchmark.runner import Request, prepare_folder, render_board

    tasks = tuple(registry().tasks)
    request = Request(
        methods=(), tasks=tasks, cohort=options.cohort, preset=options.preset, scale=options.scale
    )
    prepare_folder(request, options.leaderboards)
    for name in tasks:
        path = render_board(request, registry().task(name), options.leaderboards)
        print(_relative(path))
    return 0


def _neighbours(options: argparse.Namespace) -> int:
    from benchmark.engine.store import Store
    from benchmark.neighbours import as_json, neighbours
    from benchmark.runner import Request

    request = Request(
        methods=(options.method,),
        tasks=(),
        fractions=(1.0,),
        cohort=options.cohort,
        preset=options.preset,
        scale=options.scale,
    )
    found = neighbours(options.record, options.method, options.k, request, Store(), options.device)
    print(as_json(found) if options.json else found.text())
    return 0


if __name__ == "__main__":
    sys.exit(main())

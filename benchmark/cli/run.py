"""``ecgcmr run``: train, evaluate, write the boards."""

from __future__ import annotations

import argparse
import json
from typing import Any

from benchmark.cli.common import (
    add_commands,
    add_execution,
    add_place,
    add_track,
    command,
    execution,
    fractions_of,
    make_request,
    print_commands,
    relative,
)

EXAMPLES = """\
examples:
  ecgcmr run --method ptacl --task retrieval
  ecgcmr run --method all --task all --seeds 3
  ecgcmr run --method mae,mmcl --task cvd --fractions 1.0,0.1 --dry-run
  ecgcmr run --method 'ptacl[sigma=0.2]' --task phenotype --scale smoke
  ecgcmr run --method all --task all --workers 8          eight processes beside each other
  ecgcmr run --method all --task all --executor slurm --detach   as jobs of SLURM
  ecgcmr run --method all --task all --commands > jobs.sh  for a scheduler of your own

exit code: 0 all is there, 1 something failed (what is done is kept), 2 asked wrongly
"""


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "train and evaluate methods on tasks, write the boards"
    run = command(commands, "run", _run, purpose, aliases=("bench",), examples=EXAMPLES)
    run.add_argument(
        "--method",
        required=True,
        metavar="NAMES",
        help="methods, separated by commas; 'all', or 'references' for the rows all are read "
        "against; 'ptacl[sigma=0.2,ecg.mask_ratio=0.7]' changes fields",
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
    run.add_argument(
        "--modality",
        default="",
        metavar="NAME",
        help="the encoder to evaluate: ecg, cmr (default: the ECG's where a method has two)",
    )
    add_place(run)
    add_track(run)
    add_execution(run)
    run.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    add_commands(run)
    run.add_argument(
        "--json",
        action="store_true",
        help="print the requested rows as JSON (with --dry-run the plan)",
    )


def _run(options: argparse.Namespace) -> int:
    from benchmark.engine.store import Store
    from benchmark.planning import expand
    from benchmark.runner import run

    request = make_request(
        options,
        methods=expand(options.method, "method", options.track),
        tasks=expand(options.task, "task"),
        replicates=options.seeds,
        fractions=fractions_of(options.fractions),
        track=options.track,
        modality=options.modality,
    )
    store = Store()
    outcome = run(
        request,
        store,
        options.leaderboards,
        dry_run=options.dry_run or options.commands,
        **execution(options),
    )
    if options.commands:
        print_commands(options, outcome.targets, store)
    elif outcome.report is None or outcome.report.queued:
        if options.json:
            print(json.dumps(outcome.plan, indent=1))
    else:
        _print_results(request, outcome, options)
    return 0 if outcome.ok else 1


def _print_results(request: Any, outcome: Any, options: argparse.Namespace) -> None:
    """Print this run's rows, then where they stand, and where the rest of the boards is."""
    from benchmark.reports.boards import off_board, own_rows, own_sections
    from benchmark.reports.rows import dumps

    if options.json:
        print(dumps({"files": outcome.files}), end="")
        return
    if any(file["rows"] for file in outcome.files):
        print(own_rows(outcome.files, request.fractions))
    for text in outcome.kept:
        print(f"the board keeps the recorded rows of {text}")
    for board in outcome.boards:
        document = json.loads(board.with_suffix(".json").read_text())
        print(f"\n{own_sections(document, outcome.files, request.fractions)}")
        if missing := off_board(document, outcome.files, request.fractions):
            said = ", ".join(f"{100 * fraction:.4g}%" for fraction in missing)
            rows = relative(board.parent.parent / "rows" / board.parent.name)
            print(f"\nno place on the board for {said} of labels: see the rows above and in {rows}")
        print(f"\nthe whole board: {relative(board)}")

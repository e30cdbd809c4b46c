"""``ecgcmr reproduce``: a published table beside our numbers."""

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
    make_request,
    print_commands,
    relative,
)

EXAMPLES = """\
examples:
  ecgcmr reproduce                             which tables there are
  ecgcmr reproduce "MMCL Table II" --dry-run   what it would train, and how long that takes
  ecgcmr reproduce "PTACL Table 1" --track paper --scale full --cohort ukb
"""


def add(commands: Any) -> None:
    """Add the command."""
    tables = command(
        commands,
        "reproduce",
        _reproduce,
        "a table of one of the papers, its numbers beside those of the methods here",
        examples=EXAMPLES,
    )
    tables.add_argument(
        "table",
        nargs="?",
        metavar="TABLE",
        help="such as 'MMCL Table II'; without it, the tables there are",
    )
    tables.add_argument("--seeds", type=int, default=1, metavar="N", help="replicates (default 1)")
    add_place(tables)
    add_track(tables)
    add_execution(tables)
    tables.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    add_commands(tables)
    tables.add_argument("--json", action="store_true", help="for programs")


def _reproduce(options: argparse.Namespace) -> int:
    from benchmark.reports.published import find, overview, overview_json

    if options.table is None:
        print(json.dumps(overview_json(), indent=1) if options.json else overview())
        return 0
    table = find(options.table)
    from benchmark.engine.store import Store
    from benchmark.orderings import of_table
    from benchmark.recording import RANKED_TRACK
    from benchmark.reproduce import as_json, markdown, reproduce

    request = make_request(options, replicates=options.seeds, fractions=(1.0,), track=options.track)
    store = Store()
    done = reproduce(
        table,
        request,
        store,
        options.leaderboards,
        dry_run=options.dry_run or options.commands,
        **execution(options),
    )
    if options.commands:
        print_commands(options, done.targets, store)
    elif done.path is not None:
        if options.json:
            print(json.dumps(as_json(done), indent=1))
        else:
            print(markdown(done))
            if request.track == RANKED_TRACK and (
                said := of_table(table, request, options.leaderboards)
            ):
                print(f"{said}\n")
            print(f"table: {relative(done.path)}")
    return 0 if done.ok else 1

"""``ecgcmr stage``: the part of a plan's work that one process takes on."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.cli.common import (
    add_device,
    add_devices,
    add_workers,
    command,
    device_count,
    worker_count,
)

EXAMPLES = """\
examples:
  ecgcmr stage PLAN                        all of the plan's targets, beside whoever is at it too
  ecgcmr stage PLAN 0f3a2b9c4d5e6f70       one stage, with whatever it needs that is not there
  ecgcmr stage PLAN --only device          what is done on the GPU; others make the rest

ecgcmr run --commands writes a plan, and lines that call this command.

exit code: 0 all is there, 1 something failed or was left to others, 2 asked wrongly
"""


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "make stages of a plan, together with other processes"
    stage = command(commands, "stage", _stage, purpose, examples=EXAMPLES)
    stage.add_argument("plan", type=Path, metavar="PLAN", help="file that --commands has named")
    stage.add_argument(
        "digests",
        nargs="*",
        metavar="DIGEST",
        help="stages of it, by the beginning of their digest (default: all targets)",
    )
    stage.add_argument(
        "--only",
        choices=("cpu", "device"),
        default="",
        help="device: what trains or embeds; cpu: everything else",
    )
    stage.add_argument(
        "--patience",
        type=float,
        default=math.inf,
        metavar="SECONDS",
        help="how long to wait while others are at everything that is left (default: for ever)",
    )
    stage.add_argument(
        "--once",
        action="store_true",
        help="do not try again what has failed since the plan was written",
    )
    stage.add_argument("--json", action="store_true", help="what became of each, for programs")
    stage.add_argument("--driven", action="store_true", help=argparse.SUPPRESS)
    add_device(stage)
    add_devices(stage)
    add_workers(stage)


def _stage(options: argparse.Namespace) -> int:
    from benchmark.engine.executors.worker import attach, orderly_end

    if not options.driven:
        with orderly_end():
            return _work(options, None)
    relay = attach()
    try:
        return _work(options, relay)
    except UserError as error:
        relay.send(error=str(error))
        return 2


def _work(options: argparse.Namespace, reporter: Any) -> int:
    from benchmark.catalogue import Catalogue
    from benchmark.engine.executors.inline import Share
    from benchmark.engine.plan import read_plan
    from benchmark.engine.store import Store
    from benchmark.runner import bring

    if not options.patience >= 0:
        raise UserError(f"--patience is {options.patience}; it is a number of seconds")
    plan = read_plan(options.plan, Catalogue)
    targets = [plan.find(digest) for digest in options.digests or plan.targets]
    retry = not (options.once or options.driven)
    report = bring(
        targets,
        Store(),
        executor="inline",
        device=options.device,
        devices=device_count(options),
        workers=worker_count(options),
        reporter=reporter,
        share=Share(options.only, options.patience, plan.tried, retry),
    )
    if options.json:
        kinds = ("ran", "found", "failed", "blocked")
        told = {kind: [outcome._asdict() for outcome in getattr(report, kind)] for kind in kinds}
        print(json.dumps(told, indent=1))
    return 0 if report.ok else 1

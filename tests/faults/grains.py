"""A sweep of small stages that start at once, for faults that strike at random moments.

``ecgcmr grains`` makes them through any executor and writes what came out as a board. The command
exists in this module alone, and stands where the command line's own would.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.cli.common import add_execution, command, execution
from benchmark.stage import Stage

ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class Grain(Stage):
    """Numbers that follow from its name and its inputs, in rounds that survive a kill."""

    key: str = ""
    terms: tuple[Stage, ...] = ()
    kilobytes: int = 64
    seconds: float = field(default=0.1, metadata={"identity": False})

    @property
    def label(self):
        return f"grain {self.key}"

    def estimate(self):
        return self.seconds, 1e3 * self.kilobytes

    def run(self, context):
        with Path(os.environ["GRAINS_JOURNAL"]).open("a") as file:
            file.write(f"{self.digest} {os.getpid()}\n")
        import numpy as np

        arrays = [np.load(context.open(t) / "array.npy", mmap_mode="r") for t in self.terms]
        checkpoint = context.resume / "rounds.json"
        values = json.loads(checkpoint.read_text()) if checkpoint.exists() else []
        for number in range(len(values), ROUNDS):
            context.progress(number, ROUNDS, "rounds")
            time.sleep(self.seconds / ROUNDS)
            text = f"{self.key} {number} {[float(array.sum()) for array in arrays]}"
            values.append(int(hashlib.sha256(text.encode()).hexdigest()[:8], 16))
            draft = checkpoint.with_suffix(".part")
            draft.write_text(json.dumps(values))
            draft.replace(checkpoint)
        numbers = np.random.default_rng(values).random(128 * self.kilobytes)
        np.save(context.out / "array.npy", numbers)


@dataclass(frozen=True, kw_only=True)
class Total(Stage):
    """The sum of a grain: what a board would show."""

    grain: Grain = Grain()

    @property
    def label(self):
        return f"total of {self.grain.key}"

    def estimate(self):
        return 0.01, 100

    def run(self, context):
        import numpy as np

        total = np.load(context.open(self.grain) / "array.npy").sum()
        (context.out / "total").write_text(f"{total:.15g}")


def totals(width: int, depth: int, seconds: float) -> list[Total]:
    """Return the targets of a sweep: chains of grains that share their first."""
    base = Grain(key="base", seconds=seconds)
    result = []
    for column in range(width):
        grain = base
        for row in range(depth):
            grain = Grain(key=f"{column}.{row}", terms=(grain, base), seconds=seconds)
            result.append(Total(grain=grain))
    return result


def add(commands: Any) -> None:
    """Add the command."""
    parser = command(commands, "grains", _grains, "make grains")
    parser.add_argument("--width", type=int, default=3)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.08)
    parser.add_argument("--leaderboards", type=Path, required=True)
    add_execution(parser)


def _grains(options: Any) -> int:
    from benchmark.engine.store import Store
    from benchmark.reports.files import replace_file
    from benchmark.runner import bring

    store, targets = Store(), totals(options.width, options.depth, options.seconds)
    report = bring(targets, store, **execution(options))
    if report.ok:
        board = {t.label: (store.open(t) / "total").read_text() for t in targets}
        options.leaderboards.mkdir(parents=True, exist_ok=True)
        replace_file(options.leaderboards / "board.json", json.dumps(board, indent=1))
    return 0 if report.ok else 1


def main() -> None:
    """Run the command line with this one command."""
    from benchmark import cli

    sys.modules["benchmark.cli.grains"] = sys.modules[__name__]
    cli.COMMANDS = ("grains",)
    sys.exit(cli.main())

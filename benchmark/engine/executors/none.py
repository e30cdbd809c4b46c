"""No executor: what other processes have made, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmark.engine.executors.context import Train
from benchmark.engine.executors.inline import mend
from benchmark.engine.executors.local import outcomes
from benchmark.engine.progress import Report, Reporter
from benchmark.engine.store import Store
from benchmark.stage import Stage


def execute(
    targets: Sequence[Stage],
    store: Store,
    *,
    train: Train | None = None,
    device: str = "auto",
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Report:
    """Report what of the targets is there, what failed, and what nobody has made yet.

    Parameters
    ----------
    targets
        Stages that are wanted.
    store
        Where artifacts are found.
    train, device, workers
        Not used.
    reporter
        Where lines are printed; by default stderr.
    """
    reporter = reporter or Reporter()
    started = time.monotonic()
    mend(targets, store, reporter)
    report = outcomes(targets, store.missing(targets), store, frozenset())
    reporter.summary(report, time.monotonic() - started)
    return report

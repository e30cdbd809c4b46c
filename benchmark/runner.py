"""From a request to its boards: plan, execute, record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmark.api import Context, Trainable, UserError
from benchmark.engine.progress import Report, Reporter, print_plan
from benchmark.engine.store import Store
from benchmark.planning import MOST_REPLICATES, Request, ceilings_of, plan
from benchmark.recording import (
    RANKED_TRACK,
    changed_fields,
    homes,
    open_ceilings,
    own_files,
    prepare_folder,
    record,
    record_ceilings,
    render_boards,
)
from benchmark.stage import Stage


def bring(
    targets: Sequence[Stage],
    store: Store,
    *,
    executor: str = "auto",
    device: str = "auto",
    workers: int | None = None,
    reporter: Reporter | None = None,
    devices: int = 1,
    **settings: Any,
) -> Report:
    """Bring stages into the store.

    Parameters
    ----------
    targets
        Stages that are wanted.
    store
        Where artifacts are found and committed.
    executor
        One of `benchmark.engine.executors.EXECUTORS`; ``auto``: local where several workers were
        asked for or there are several accelerators, else inline.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    workers
        Number of processes.
    reporter
        Where lines are printed; by default stderr.
    devices
        How many devices share the training of one stage.
    settings
        Of the executor's own.
    """
    from benchmark.engine.executors.inline import REBUILDS
    from benchmark.engine.executors.local import accelerators
    from benchmark.engine.executors.worker import orderly_end

    here = executor in ("auto", "inline", "local")
    there = accelerators(device) if here and (devices > 1 or executor == "auto") else []
    if here and device != "cpu" and len(there) < devices > 1:
        text = f"--devices is {devices}, and there are {len(there)} GPUs here; ask for fewer, or "
        raise UserError(f"{text}let as many processes share a training with --device cpu")
    if executor == "auto":
        several = (workers or 1) > 1 or len(there) > devices
        executor = "local" if several else "inline"
    if devices > 1 and executor in ("local", "slurm"):
        settings["devices"] = devices
    execute = import_module(f"benchmark.engine.executors.{executor}").execute

    def train(trainable: Trainable, context: Context) -> int:
        from benchmark.engine import training  # torch, only where something is trained

        return training.train(trainable, context, devices)

    common = {"device": device, "workers": workers, "reporter": reporter}
    with orderly_end():
        for _ in range(REBUILDS + 1):
            report = execute(targets, store, train=train, **common, **settings)
            # What other processes have made is looked at before it is read, except by a worker.
            whole = settings.get("share") or not any(map(store.damage, targets))
            if whole or report.queued or not report.ok:
                break
    return report


def run(
    request: Request,
    store: Store,
    leaderboards: Path,
    *,
    dry_run: bool = False,
    render: bool = True,
    most: int = MOST_REPLICATES,
    reporter: Reporter | None = None,
    **execution: Any,
) -> Outcome:
    """Plan, execute as `bring` is told to by ``execution``, write rows and ``render`` the boards.

    A row is of all replicates in the store, also of those not asked for, but of at most ``most``.

    Raises
    ------
    UserError
        When nothing of what was asked for applies.
    """
    reporter = reporter or Reporter()
    wanted = plan(request)
    places = homes(request, leaderboards)
    if not dry_run:
        for home in places:
            prepare_folder(request, home)  # before hours of work, not after
    for text in changed_fields(request):
        reporter.line(text)
    for text in wanted.not_applicable:
        reporter.line(f"not applicable: {text}")
    if not wanted.jobs:
        raise UserError("none of the methods applies to the task: nothing to run")
    scores = [job.score for job in wanted.jobs]
    tasks = {job.task.name: job.task for job in wanted.jobs}
    for task in tasks.values():
        scores += ceilings_of(request, task).values()
    targets = list({score.digest: score for score in scores}.values())
    planned = print_plan(targets, store, reporter)
    if dry_run:
        return Outcome(plan=planned, targets=targets)
    report = bring(targets, store, reporter=reporter, **execution)
    outcome = Outcome(report=report, plan=planned, targets=targets)
    if report.queued:  # what there is by now is no result
        return outcome
    for task in tasks.values():
        ceilings = open_ceilings(request, task, store)
        files = own_files(request, task, store, ceilings, most)
        outcome.files += files
        for home, names in places.items():
            outcome.kept += record([f for f in files if f["method"] in names], home)
            if ceilings is not None:
                record_ceilings(request, task, ceilings, home)
    if render and request.track == RANKED_TRACK:
        # Each paper's own recipe stands beside that paper's numbers alone.
        for home in places:
            boards = render_boards(request, home)
            outcome.boards += [boards[name] for name in tasks if name in boards]
        for board in outcome.boards:
            for text in json.loads(board.with_suffix(".json").read_text())["leaks"]:
                reporter.line(f"LEAK ALARM on {board.stem}: {text}")
    return outcome


@dataclass
class Outcome:
    """What a run left behind.

    Attributes
    ----------
    report
        What became of the stages; None for a dry run.
    plan
        What was to be done; see `print_plan`.
    targets
        The stages that were wanted for themselves.
    files
        The rows of this run, as they would be written to an empty folder.
    kept
        Methods and tasks whose recorded rows stay, and why.
    boards
        The rendered Markdown files.
    """

    report: Report | None = None
    plan: dict[str, Any] = field(default_factory=dict)
    targets: Sequence[Stage] = ()
    files: list[dict[str, Any]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    boards: list[Path] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is there, or is to be by a scheduler."""
        return self.report is None or self.report.ok

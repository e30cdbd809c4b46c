"""What a person sees of the work: the plan before, progress during, the summary after.

All of it goes to stderr; stdout is for results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from benchmark.api import Method
from benchmark.engine.lease import Holder
from benchmark.engine.store import Store
from benchmark.privacy import mask
from benchmark.stage import Stage, topological

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_SECONDS = 10.0
"""At most one progress line in this time where there is no terminal."""
DRAW_SECONDS = 0.1
BRIEF_SECONDS = 3.0
"""Stages expected to be shorter are announced once, when they are done."""
MOST_BLOCKED = 5
"""Lines of the summary for what was blocked: one failure can block hundreds of stages."""


class Outcome(NamedTuple):
    """What became of one stage; seconds are of its own work in this run."""

    label: str
    digest: str
    seconds: float = 0.0
    message: str = ""


@dataclass
class Report:
    """What became of all stages of a run."""

    ran: list[Outcome] = field(default_factory=list)
    found: list[Outcome] = field(default_factory=list)
    failed: list[Outcome] = field(default_factory=list)
    blocked: list[Outcome] = field(default_factory=list)
    queued: list[Outcome] = field(default_factory=list)  # of a scheduler, and not waited for

    @property
    def ok(self) -> bool:
        """Whether every target is in the store, or with `queued` will be."""
        return not self.failed and not self.blocked


class Reporter:
    """Prints lines, and a live progress bar where stderr is a terminal.

    Nothing is drawn from a thread, so that workers may be forked at any moment.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._label = self._position = ""
        self._first: tuple[float, float] | None = None
        self._shown = 0.0

    def line(self, text: str) -> None:
        """Print one line (or several)."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def start(self, stage: Stage, number: int, total: int) -> None:
        """Announce a stage that is about to run."""
        self.begin(stage.label, f"[{number}/{total}] ", brief=stage.estimate()[0] <= BRIEF_SECONDS)

    def begin(self, label: str, position: str = "", brief: bool = False) -> None:
        """Announce work that is about to begin; what is brief is announced once it is done."""
        self.stop()
        self._label, self._position = label, position
        self._first, self._shown = None, time.monotonic()
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}", markup=False), BarColumn())
            self._bar = Progress(
                *columns,
                TextColumn("{task.fields[figures]}", markup=False),
                console=Console(file=self._stream),
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._bar.add_task(f"{self._position}{self._label}", figures="")
            self._bar.start()
        elif not brief:
            self.line(f"{self._position}{self._label}")

    def progress(self, done: float, total: float, unit: str = "", note: str = "") -> None:
        """Show how far the running stage is, as often as a reader can follow."""
        now = time.monotonic()
        # A resumed stage begins in the middle: only what is done from here on makes the rate.
        self._first = self._first or (now, done)
        interval = LINE_SECONDS if self._bar is None else DRAW_SECONDS
        if now - self._shown < interval:
            return
        self._shown = now
        text = figures(done, total, unit, mask(note), done - self._first[1], now - self._first[0])
        if self._bar is None:
            self.line(f"{self._position}{self._label}  {text}")
        else:
            self._bar.update(self._task, completed=done, total=total, figures=text)
            self._bar.refresh()

    def finish(self, seconds: float) -> None:
        """Announce that the running stage is done."""
        self.stop()
        self.line(f"{self._position}{self._label}  done in {duration(seconds)}")

    def stop(self) -> None:
        """Take the progress bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def waiting(self, stage: Stage, holder: Holder | None) -> None:
        """Say who is at work on a stage that this run needs, or that the cores are taken."""
        if holder is None:
            self.line(f"{stage.label} waits: another run is using this machine's cores")
        else:
            where = f"process {holder.pid} on {holder.host}"
            self.line(f"waiting for {stage.label}, running in {where}")

    def summary(self, report: Report, seconds: float) -> None:
        """Print what became of everything."""
        parts = [f"ran {_count(len(report.ran), 'stage')}", f"found {len(report.found)}"]
        parts += [f"failed {len(report.failed)}"] if report.failed else []
        parts += [f"blocked {len(report.blocked)}"] if report.blocked else []
        parts += [f"queued {len(report.queued)}"] if report.queued else []
        self.line(f"{', '.join(parts)} in {duration(seconds)}")
        for outcome in report.failed:
            self.line(f"  failed   {outcome.label} ({outcome.digest[:12]}): {outcome.message}")
        for outcome in report.blocked[:MOST_BLOCKED]:
            self.line(f"  blocked  {outcome.label} ({outcome.digest[:12]}): {outcome.message}")
        if (more := len(report.blocked) - MOST_BLOCKED) > 0:
            self.line(f"  blocked  {more:,} more")


def print_plan(
    targets: Sequence[Stage], store: Store, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Print which stages will run, which are found, which are shared, and what it will cost.

    Times are those that the store expects. Stages with one label (replicates, fractions) share a
    line.

    Returns
    -------
    dict
        The same as plain JSON: ``run`` and ``found`` stages, ``seconds``, ``bytes``, ``free``.
    """
    reporter = reporter or Reporter()
    run = store.missing(targets)
    digests = {stage.digest for stage in run}
    closure = topological(targets)
    found = [s for s in closure if s.digest not in digests and store.has(s.digest)]
    shared = _shared(closure)

    seconds, size = {}, {}
    for stage in run:
        seconds[stage.digest] = store.expected(stage)
        size[stage.digest] = stage.estimate()[1]
    cost = ""
    if run:
        cost = (
            f"; about {duration(sum(seconds.values()))}, {amount(sum(size.values()))} of "
            f"{amount(store.free())} free"
        )
    reporter.line(f"plan: {_count(len(run), 'stage')} to run, {len(found)} found{cost}")
    if sum(size.values()) > store.free():
        reporter.line("  too little room: the run will stop when the disk of the store is full")
    for kind, stages in (("run", run), ("found", found)):
        for label, group in _by_group(stages).items():
            parts = [f"  {kind:5}  {label}" + (f" x{len(group)}" if len(group) > 1 else "")]
            if kind == "run":
                parts.append(f"about {duration(sum(seconds[digest] for digest in group))}")
            uses = [shared[digest] for digest in group if digest in shared]
            parts += [max(uses)[1]] if uses else []
            reporter.line("  ".join(parts))
    return {
        "run": [{"label": s.label, "digest": s.digest, "seconds": seconds[s.digest]} for s in run],
        "found": [{"label": s.label, "digest": s.digest} for s in found],
        "seconds": sum(seconds.values()),
        "bytes": sum(size.values()),
        "free": store.free(),
    }


def _shared(closure: Sequence[Stage]) -> dict[str, tuple[int, str]]:
    """Return for each stage with several users their number, and how to say it.

    Methods that stand on a stage, at any depth, are counted once for all their replicates; a
    stage that fewer than two methods stand on is shared by the stages that read it.
    """
    users: dict[str, list[Stage]] = {}
    for stage in closure:
        for item in stage.inputs:
            users.setdefault(item.digest, []).append(stage)
    methods: dict[str, set[str]] = {}
    said = {}
    for stage in reversed(closure):
        above = users.get(stage.digest, [])
        names = set().union(*(methods[user.digest] for user in above))
        # A pretrained part that is itself a method counts as one only where it is evaluated too.
        if isinstance(stage, Method) and not (above and all(isinstance(u, Method) for u in above)):
            names.add(stage.recipe_digest)
        methods[stage.digest] = names
        if len(names) > 1:
            said[stage.digest] = (len(names), f"shared by {len(names)} methods")
        elif len(above) > 1:
            said[stage.digest] = (len(above), f"shared by {len(above)} stages")
    return said


def _by_group(stages: Sequence[Stage]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for stage in stages:
        groups.setdefault(stage.group, []).append(stage.digest)
    return groups


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def figures(done: float, total: float, unit: str, note: str, recent: float, seconds: float) -> str:
    """Return ``1200/4200 people  350/s  0:08 left  note``; ``recent`` was done in ``seconds``."""
    parts = [f"{done:.0f}/{total:.0f} {unit}".rstrip()]
    if recent > 0 and seconds > 0:
        rate = recent / seconds
        parts.append(f"{rate:.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
        parts.append(f"{clock((total - done) / rate)} left")
    if note:
        parts.append(note)
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Return `clock`'s form, or tenths of a second below ten."""
    return f"{seconds:.1f} s" if seconds < 10 else clock(seconds)


def clock(seconds: float) -> str:
    """Return ``0:08``, ``12:30`` or ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def amount(size: float) -> str:
    """Return a number of bytes with a unit."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"

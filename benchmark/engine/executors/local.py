"""The local executor: worker processes beside each other on this machine.

Each worker is ``ecgcmr stage``: an inline executor that takes what is free and most urgent. Leases
keep two from one stage, and stages from each other's cores. So this process only starts workers,
replaces those that die, prints what they say, and reads from the store what became of everything.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmark.api import UserError
from benchmark.engine.executors.context import Train, torch_device
from benchmark.engine.executors.inline import REBUILDS, mend
from benchmark.engine.executors.worker import STOP_SECONDS, position
from benchmark.engine.plan import write_plan
from benchmark.engine.progress import Outcome, Report, Reporter
from benchmark.engine.provenance import usable_cores
from benchmark.engine.store import ArtifactError, Store
from benchmark.stage import Stage, topological

DEATHS = 3
"""How many workers one stage may cost before it counts as failed."""
IDLE_DEATHS = 10
"""How many may be killed in a row before any of them begins a stage."""


def execute(
    targets: Sequence[Stage],
    store: Store,
    *,
    train: Train | None = None,
    device: str = "auto",
    workers: int | None = None,
    reporter: Reporter | None = None,
    devices: int = 1,
) -> Report:
    """Bring the targets into the store with several processes.

    Where there are accelerators, one worker each does what is done on a device, and ``workers``
    others the rest. A worker that is killed is replaced. When this process ends, however it does,
    its workers end too: finished stages are kept, and trainings go on from their last round.

    Parameters
    ----------
    targets
        Stages that are wanted; their classes are importable.
    store
        Where artifacts are found and committed.
    train
        Not used: a worker has the harness's own training loop.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    workers
        Number of processes beside those with an accelerator; by default half the usable cores,
        since most stages keep two busy.
    reporter
        Where lines are printed; by default stderr.
    devices
        How many devices share the training of one stage.

    Returns
    -------
    Report
        Stages that ran, were found, failed, or were blocked by a failure.

    Raises
    ------
    UserError
        When the disk of the store is full, the device is not here, or no worker could begin.
    KeyboardInterrupt
        Raised on, workers ended and leases released.
    """
    reporter = reporter or Reporter()
    started = time.monotonic()
    seats = _seats(device, workers, devices)
    try:
        store.tidy()
        mend(targets, store, reporter)
        missing = store.missing(targets)
        tried = frozenset(failure["token"] for failure in store.failures())
        if missing:
            _work(targets, store, seats, tried, reporter, workers or usable_cores())
    except KeyboardInterrupt:
        store.let_go()
        reporter.line("interrupted: finished stages are kept, and the same command goes on")
        raise
    report = outcomes(targets, missing, store, tried)
    reporter.summary(report, time.monotonic() - started)
    return report


def _work(
    targets: Sequence[Stage],
    store: Store,
    seats: Sequence[_Seat],
    tried: frozenset[str],
    reporter: Reporter,
    most: int,
) -> None:
    """Have a crew make what is missing, and another what turned out damaged meanwhile.

    A worker of one kind that finds such a stage of the other leaves it: who makes that kind may
    have nothing to do any more and be gone.
    """
    with TemporaryDirectory(prefix="ecgcmr-") as folder:
        plan = Path(folder) / "plan.json"
        for _ in range(REBUILDS + 1):
            missing = store.missing(targets)
            failed = any(failure["token"] not in tried for failure in store.failures())
            if not missing or failed:
                return
            write_plan(plan, missing, tried)
            crew = _Crew(plan, missing, store, reporter, most)
            crew.work(seats)
            if crew.short:
                return


def accelerators(device: str = "auto") -> list[dict[str, str]]:
    """Return for each accelerator of this machine the environment that leaves only that one."""
    present = any(path for name in ("nvidia[0-9]*", "kfd") for path in Path("/dev").glob(name))
    if device == "cpu" or (device == "auto" and sys.platform == "linux" and not present):
        return []  # without torch, whose import takes seconds
    found = torch_device(device)
    if found != "cuda":
        return [{}] if found != "cpu" else []
    import torch

    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = asked.split(",") if asked else [str(n) for n in range(torch.cuda.device_count())]
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names[: torch.cuda.device_count()]]


def outcomes(
    targets: Sequence[Stage], missing: Sequence[Stage], store: Store, tried: frozenset[str]
) -> Report:
    """Read from the store what became of stages that others were to make.

    Parameters
    ----------
    targets
        Stages that are wanted.
    missing
        Those that were not there before, inputs before their users.
    store
        Of all of them.
    tried
        Tokens of the failures from before.
    """
    report = Report()
    todo = {stage.digest for stage in missing}
    bad: dict[str, str] = {}
    for stage in topological(targets):
        if store.has(stage.digest):
            if stage.digest in todo:
                seconds = 0.0
                with contextlib.suppress(ArtifactError):  # whoever reads it makes it again
                    seconds = store.manifest(stage.digest, keep=False)["seconds"]
                report.ran.append(Outcome(stage.label, stage.digest, seconds))
            else:
                report.found.append(Outcome(stage.label, stage.digest))
            continue
        if stage.digest not in todo:
            continue
        needs = [bad[item.digest] for item in stage.inputs if item.digest in bad]
        failure = store.failure(stage.digest)
        if needs:
            where, message = report.blocked, f"needs {min(needs)}"
        elif failure is not None and failure["token"] not in tried:
            where, message = report.failed, failure["traceback"].strip().splitlines()[-1]
        else:
            where, message = report.blocked, "nobody has made it"
        bad[stage.digest] = stage.label
        where.append(Outcome(stage.label, stage.digest, message=message))
    return report


@dataclass(frozen=True)
class _Seat:
    """A place for a worker: which stages it makes, on what."""

    device: str
    kind: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    devices: int = 1


def _seats(device: str, workers: int | None, devices: int = 1) -> list[_Seat]:
    if device not in ("auto", "cpu"):
        torch_device(device)  # before hours of work, not after
    found = accelerators(device)
    seats = []
    for first in range(0, len(found) - devices + 1, devices):
        names: dict[str, str] = {}
        for own in found[first : first + devices]:
            names = {key: f"{names[key]},{own[key]}" if names else own[key] for key in own}
        seats.append(_Seat("auto" if device == "auto" else device, "device", names, devices))
    kind = "cpu" if seats else ""
    number = workers or max(1, usable_cores() // 2)
    environment = {"CUDA_VISIBLE_DEVICES": ""} if seats else {}
    return seats + [_Seat("cpu", kind, environment, 1 if seats else devices)] * number


@dataclass(eq=False)
class _Worker:
    """A running worker, and what it has said last."""

    seat: _Seat
    process: subprocess.Popen[str]
    stage: str = ""
    error: str = ""


class _Crew:
    """All workers of one call of `execute`."""

    def __init__(
        self, plan: Path, missing: Sequence[Stage], store: Store, reporter: Reporter, most: int
    ) -> None:
        self._plan, self._store, self._reporter, self._most = plan, store, reporter, most
        self._stages = {stage.digest: stage for stage in missing}
        self._numbers: dict[str, int] = {}
        self._deaths: Counter[str] = Counter()
        self._idle_deaths = 0
        self._said: queue.SimpleQueue[tuple[_Worker, str | None]] = queue.SimpleQueue()
        self._running: list[_Worker] = []
        self.short = False
        """Whether a worker was not replaced."""

    def work(self, seats: Sequence[_Seat]) -> None:
        """Run workers until each has found nothing more to do."""
        try:
            for seat in seats:
                # No more than there are stages for.
                if sum(worker.seat.kind == seat.kind for worker in self._running) < self._of(seat):
                    self._start(seat)
            while self._running:
                worker, text = self._said.get()
                if text is None:
                    self._ended(worker)
                else:
                    self._hear(worker, text)
        finally:
            self._stop()

    def _of(self, seat: _Seat) -> int:
        """Count the stages that a seat is for."""
        kinds = {"": (False, True), "cpu": (False,), "device": (True,)}[seat.kind]
        return sum(stage.on_device in kinds for stage in self._stages.values())

    def _start(self, seat: _Seat) -> None:
        command = [sys.executable, "-P", "-m", "benchmark", "stage", str(self._plan), "--driven"]
        command += ["--device", seat.device, "--workers", str(self._most)]
        command += ["--only", seat.kind] if seat.kind else []
        command += ["--devices", str(seat.devices)] if seat.devices > 1 else []
        # Modules are found as they were here, wherever the command was started.
        path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
        here = {"ECGCMR_STORE": str(self._store.root), "PYTHONPATH": path}
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **here, **seat.environment},
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
        )
        worker = _Worker(seat, process)
        self._running.append(worker)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()

    def _listen(self, worker: _Worker) -> None:
        """Queue what a worker says, and that it has ended."""

        def read() -> None:
            for line in worker.process.stdout:
                self._said.put((worker, line))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        worker.process.wait()
        # Processes that it has started may live on, and keep its end of the pipe.
        _kill(worker)
        reader.join()
        self._said.put((worker, None))

    def _hear(self, worker: _Worker, text: str) -> None:
        try:
            message = json.loads(text)
            if "begin" in message:
                worker.stage, self._idle_deaths = message["begin"], 0
            worker.error = message.get("error", worker.error)
            line = message.get("text")
        except (ValueError, TypeError, AttributeError):
            line = text.rstrip("\n")  # cut off in the middle of a word
        if line is not None:
            mark = position(worker.stage)
            if line.startswith(mark):
                number = self._numbers.setdefault(worker.stage, len(self._numbers) + 1)
                total = max(number, len(self._stages))
                line = f"[{number}/{total}] {line.removeprefix(mark)}"
            self._reporter.line(line)

    def _ended(self, worker: _Worker) -> None:
        """Replace a worker that has died."""
        self._running.remove(worker)
        code = worker.process.returncode
        if worker.error:
            raise UserError(worker.error)
        if code in (0, 1):  # all that it could do is done, or something has failed
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        stage = self._stages.get(worker.stage)
        if stage is None or self._store.has(stage.digest):
            self._idle_deaths += 1
            if code > 0 or self._idle_deaths > IDLE_DEATHS:
                self._reporter.line(f"a worker {how}; it is not replaced")
                self.short = True
                return
            self._reporter.line(f"a worker {how}; another takes its place")
        else:
            self._deaths[stage.digest] += 1
            if self._deaths[stage.digest] >= DEATHS:
                text = f"its worker {how}, as {DEATHS} did; is there enough memory?"
                self._store.fail(stage, text, secrets.token_hex(8))
                self._reporter.line(f"{stage.label} failed: {text}")
            else:
                self._reporter.line(f"a worker {how} during {stage.label}; another goes on")
        self._start(worker.seat)

    def _stop(self) -> None:
        """End all workers: in good order, then by force."""
        try:
            for worker in self._running:
                with contextlib.suppress(OSError):
                    worker.process.stdin.close()
            deadline = time.monotonic() + STOP_SECONDS / 2
            for worker in self._running:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            for worker in self._running:
                _kill(worker)
                worker.process.wait()
            self._store.tidy()


def _kill(worker: _Worker) -> None:
    """Kill a worker and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.process.pid, signal.SIGKILL)

"""The inline executor: stages one by one, in this process."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmark.api import Context, Trainable, UserError
from benchmark.engine.lease import Lease, LeaseLostError
from benchmark.engine.progress import Outcome, Report, Reporter
from benchmark.engine.provenance import PeakMemory, provenance, usable_cores
from benchmark.engine.store import ArtifactError, Claim, Store
from benchmark.privacy import mask
from benchmark.stage import Stage, topological

POLL_SECONDS = 0.5
REBUILDS = 2
"""How often one input is made again in a run before its reader counts as failed."""

Train = Callable[[Trainable, Context], None]


def execute(
    targets: Sequence[Stage],
    store: Store,
    *,
    train: Train,
    device: str = "auto",
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Report:
    """Bring the targets into the store, running what is missing and nothing else.

    Several processes, also on several machines, may do this with one store: a stage at which
    somebody else is working is left to them and waited for.

    Parameters
    ----------
    targets
        Stages that are wanted.
    store
        Where artifacts are found and committed.
    train
        The harness's training loop, behind `Context.train`.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    workers
        Number of worker processes a stage may use; by default the usable cores.
    reporter
        Where lines are printed; by default stderr.

    Returns
    -------
    Report
        Stages that ran, were found, failed, or were blocked by a failure.

    Raises
    ------
    UserError
        When the disk of the store is full, or the device is not here.
    KeyboardInterrupt
        Raised on, leases released.
    """
    reporter = reporter or Reporter()
    started = time.monotonic()
    if device != "auto":
        torch_device(device)  # before hours of work, not after
    store.tidy()
    run = _Run(store, train, device, workers or usable_cores(), reporter)
    try:
        run.bring(targets)
    except KeyboardInterrupt:
        reporter.line("interrupted: finished stages are kept, and the same command goes on")
        raise
    reporter.summary(run.report, time.monotonic() - started)
    return run.report


def torch_device(asked: str) -> str:
    """Return ``asked``, or for ``auto`` the best device there is.

    Raises
    ------
    UserError
        When it is not here.
    """
    if asked == "cpu":
        return asked
    import torch

    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked == "auto":
        return next((name for name, here in found.items() if here), "cpu")
    if not found.get(asked):
        raise UserError(f"there is no device {asked!r} here; ecgcmr doctor says what there is")
    return asked


class StageContext:
    """What a running stage is given; implements `benchmark.api.Context`."""

    def __init__(
        self,
        stage: Stage,
        store: Store,
        claim: Claim,
        *,
        train: Train,
        device: str,
        workers: int,
        reporter: Reporter,
    ) -> None:
        self.out: Path = claim.out
        self.resume: Path = claim.resume
        self.workers = workers
        self._stage, self._store = stage, store
        self._lease: Lease = claim.lease
        self._train, self._device, self._reporter = train, device, reporter

    @functools.cached_property
    def device(self) -> str:
        """The torch device; only asking for it may import torch."""
        # Read when CUDA starts; without it deterministic algorithms refuse to multiply matrices.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        import torch

        # For every stage that asks, training or not: a resumed process must not differ.
        torch.use_deterministic_algorithms(True)
        return torch_device(self._device)

    @functools.cached_property
    def _allowed(self) -> frozenset[str]:
        return frozenset(stage.digest for stage in topological(self._stage.inputs))

    def open(self, stage: Stage) -> Path:
        """Return the folder of an input's artifact, its checksums verified.

        Raises
        ------
        ValueError
            When the stage is no input, at any depth: its digest would not follow from the
            running stage's, and nothing would make sure that it is there.
        ArtifactError
            When it is missing or damaged; the executor makes it again and the stage runs anew.
        """
        if stage.digest not in self._allowed:
            raise ValueError(
                f"{self._stage.label} opens {stage.label}, which is not among its inputs"
            )
        return self._store.open(stage)

    def progress(self, done: float, total: float, unit: str = "", note: str = "") -> None:
        """Report how far the work is; raises `LeaseLostError` after a take-over."""
        self._lease.check()
        self._reporter.progress(done, total, unit, note)

    def train(self, trainable: Trainable) -> None:
        """Run the harness's training loop and leave the best weights in ``out``."""
        self._train(trainable, self)


class _Run:
    """The state of one call of `execute`."""

    def __init__(
        self, store: Store, train: Train, device: str, workers: int, reporter: Reporter
    ) -> None:
        self.report = Report()
        self._store, self._reporter = store, reporter
        self._hooks = {"train": train, "device": device, "workers": workers, "reporter": reporter}
        self._pending: dict[str, Stage] = {}
        self._bad: dict[str, str] = {}  # failed or blocked: digest to label
        self._deeper: dict[str, set[str]] = {}  # inputs of inputs that are made again, by reader
        self._busy: dict[str, str] = {}  # somebody else's: digest to token of the lease
        self._announced: set[str] = set()
        self._rebuilt: Counter[str] = Counter()
        self._started = 0

    def bring(self, targets: Sequence[Stage]) -> None:
        for stage in targets:
            if self._store.has(stage.digest) and (damage := self._store.damage(stage)):
                self._reporter.line(
                    f"{stage.label} ({stage.digest[:12]}) is damaged ({mask(damage)}); "
                    "it is made again"
                )
                self._store.quarantine(stage.digest)
        self._pending = {stage.digest: stage for stage in self._store.missing(targets)}
        for stage in topological(targets):
            if stage.digest not in self._pending and self._store.has(stage.digest):
                self.report.found.append(Outcome(stage.label, stage.digest))
        while self._pending:
            moved = False
            for digest, stage in list(self._pending.items()):
                needed = {i.digest for i in stage.inputs} | self._deeper.get(digest, set())
                bad = [self._bad[item] for item in needed if item in self._bad]
                if bad:
                    self._settle(stage, self.report.blocked, message=f"needs {min(bad)}")
                    moved = True
                elif not needed & self._pending.keys():
                    moved |= self._attempt(stage)
            if not moved:
                self._wait()

    def _settle(
        self, stage: Stage, where: list[Outcome], seconds: float = 0.0, message: str = ""
    ) -> None:
        where.append(Outcome(stage.label, stage.digest, seconds, message))
        del self._pending[stage.digest]
        if where is self.report.failed or where is self.report.blocked:
            self._bad[stage.digest] = stage.label

    def _wait(self) -> None:
        for digest in self._busy.keys() & self._pending.keys() - self._announced:
            self._announced.add(digest)
            self._reporter.waiting(self._pending[digest], self._store.holder(digest))
        time.sleep(POLL_SECONDS)

    def _attempt(self, stage: Stage) -> bool:
        """Try to settle a stage whose inputs are there; False when somebody else is at it."""
        store, digest = self._store, stage.digest
        try:
            workers = self._hooks["workers"]
            claim = None if store.has(digest) else store.claim(stage, workers)
            if claim is None and not store.has(digest):
                holder = store.holder(digest)
                self._busy[digest] = holder.token if holder is not None else ""
                return False
            try:
                if store.has(digest):  # also when it was committed just before the claim
                    self._settle(stage, self.report.found)
                elif not self._failed_elsewhere(stage):
                    self._run(stage, claim)
            finally:
                if claim is not None:
                    claim.close()
        except OSError as error:
            if store.is_full([error]):
                raise store.full() from None
            raise
        return True

    def _failed_elsewhere(self, stage: Stage) -> bool:
        """Whether the worker that was waited for failed: trying again would fail as well."""
        failure = self._store.failure(stage.digest)
        if failure is None:
            return False
        if failure["token"] != self._busy.get(stage.digest):
            self._reporter.line(f"{stage.label} failed before, trying again")
            return False
        message = failure["traceback"].strip().splitlines()[-1]
        self._settle(stage, self.report.failed, message=message)
        return True

    def _run(self, stage: Stage, claim: Claim) -> None:
        self._started += 1
        total = self._started + len(self._pending) - 1
        self._reporter.start(stage, self._started, total)
        context = StageContext(stage, self._store, claim, **self._hooks)
        try:
            with _private_files(), _threads(stage), PeakMemory() as memory:
                started = time.perf_counter()
                stage.run(context)
                seconds = time.perf_counter() - started
            claim.commit(
                seconds,
                peak_memory_bytes=memory.bytes,
                peak_gpu_memory_bytes=memory.gpu_bytes,
                device=context.__dict__.get("device"),  # where the stage asked for one
                threads=stage.threads,
                provenance=provenance(type(stage)),
            )
        except BaseException as error:  # SystemExit too: a library must not end the whole run
            self._reporter.stop()
            self._handle(stage, claim, error)
        else:
            self._reporter.finish(seconds)
            self._settle(stage, self.report.ran, seconds)

    def _handle(self, stage: Stage, claim: Claim, error: BaseException) -> None:
        """Tell a failure of the stage from what only looks like one."""
        causes = list(_causes(error))
        if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
            # Lightning, for one, turns it into SystemExit(1).
            raise KeyboardInterrupt from None
        # After a take-over the new holder has removed our folder, and any error may follow.
        if any(isinstance(cause, LeaseLostError) for cause in causes) or claim.lease.lost:
            self._reporter.line(f"{stage.label} was taken over by another process")
            return
        unusable = next((cause for cause in causes if isinstance(cause, ArtifactError)), None)
        if unusable is not None and self._rebuilt[unusable.digest] < REBUILDS:
            self._rebuild(stage, unusable)
            return
        if self._store.is_full(causes):
            # Both so that the space returns, and before the message counts it: a removed file
            # keeps its blocks while a writer in the traceback's frames has it open.
            for cause in causes:
                traceback.clear_frames(cause.__traceback__)
            claim.close()
            raise self._store.full() from None
        # What the user can put right is one line; anything else needs its traceback.
        brief = isinstance(error, UserError)
        text = f"{error}" if brief else "".join(traceback.format_exception(error))
        self._store.fail(stage, text, claim.lease.token)
        self._reporter.line(f"{stage.label} failed" + (": " if brief else "\n") + mask(text))
        self._settle(stage, self.report.failed, message=mask(_last_line(error)))

    def _rebuild(self, reader: Stage, unusable: ArtifactError) -> None:
        """Put an unusable input in front of its reader, which stays pending."""
        digest = unusable.digest
        stage = next(s for s in topological(reader.inputs) if s.digest == digest)
        what = f"{stage.label} ({digest[:12]})"
        how = f"is damaged ({mask(unusable.file)})" if self._store.has(digest) else "is gone"
        self._reporter.line(f"{what}, which {reader.label} reads, {how}; it is made again")
        self._rebuilt[digest] += 1
        self._deeper.setdefault(reader.digest, set()).add(digest)
        self._store.quarantine(digest)
        self.report.found = [found for found in self.report.found if found.digest != digest]
        self._pending = {s.digest: s for s in self._store.missing([stage])} | self._pending


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from: libraries wrap what they meet."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _last_line(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()


@contextlib.contextmanager
def _private_files() -> Iterator[None]:
    """Let the stage, its worker processes included, make files that only the user can read."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def _threads(stage: Stage) -> Iterator[None]:
    """Give a stage its number of threads, in every library that has a pool of its own.

    The variables reach libraries that are loaded while the stage runs, and its worker processes;
    threadpoolctl those that are loaded already. torch is imported only for a stage that trains.
    """
    from threadpoolctl import threadpool_limits

    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(stage.threads)))
    if isinstance(stage, Trainable):
        import torch
    else:
        torch = sys.modules.get("torch")
    torch_before = torch.get_num_threads() if torch else 0
    try:
        with threadpool_limits(stage.threads):
            if torch:
                torch.set_num_threads(stage.threads)
            yield
    finally:
        if torch:
            torch.set_num_threads(torch_before)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

"""The inline executor: stages one by one, in this process."""

from __future__ import annotations

import math
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmark.api import Trainable, UserError
from benchmark.engine.executors.context import (
    StageContext,
    Train,
    private_files,
    threads_of,
    torch_device,
)
from benchmark.engine.lease import LeaseLostError
from benchmark.engine.plan import by_urgency
from benchmark.engine.progress import Outcome, Report, Reporter
from benchmark.engine.provenance import PeakMemory, provenance, usable_cores
from benchmark.engine.store import ArtifactError, Claim, ReplacedArtifactError, Store
from benchmark.privacy import mask
from benchmark.stage import Stage, topological

POLL_SECONDS = 0.5
"""How long, at most, until a waiting worker looks again."""
FIRST_POLL_SECONDS = 0.02
REBUILDS = 2
"""How often one input is made again in a run before its reader counts as failed."""

KINDS = ("cpu", "device")


@dataclass(frozen=True)
class Share:
    """How a worker that is one of several goes about its part of the work.

    Attributes
    ----------
    kind
        The stages it makes: ``device`` for those done on `Context.device`, ``cpu`` for the others,
        empty for all. What is of the other kind is left to others.
    patience
        Seconds without anything to do, because others are at it, after which it leaves.
    tried
        Tokens of the failures from before the work that these workers share.
    retry
        Whether what has failed since is tried again, once.
    """

    kind: str = ""
    patience: float = math.inf
    tried: frozenset[str] = frozenset()
    retry: bool = True

    def takes(self, stage: Stage) -> bool:
        """Whether a stage is of its kind."""
        return self.kind in ("", KINDS[stage.on_device])


def execute(
    targets: Sequence[Stage],
    store: Store,
    *,
    train: Train,
    device: str = "auto",
    workers: int | None = None,
    reporter: Reporter | None = None,
    share: Share | None = None,
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
    share
        The part of it that this process takes on, where it is one of several.

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
    run = _Run(store, train, device, workers or usable_cores(), reporter, share)
    try:
        if share is None:  # workers leave it to whoever started them
            store.tidy()
        run.bring(targets)
    except KeyboardInterrupt:
        store.let_go()
        reporter.line("interrupted: finished stages are kept, and the same command goes on")
        raise
    reporter.summary(run.report, time.monotonic() - started)
    return run.report


def mend(targets: Sequence[Stage], store: Store, reporter: Reporter) -> None:
    """Set damaged targets aside, so that they are made again."""
    for stage in targets:
        if store.has(stage.digest) and (damage := store.damage(stage)):
            reporter.line(
                f"{stage.label} ({stage.digest[:12]}) is damaged ({mask(damage)}); it is made again"
            )
            store.quarantine(stage.digest)


class _Run:
    """The state of one call of `execute`."""

    def __init__(
        self,
        store: Store,
        train: Train,
        device: str,
        workers: int,
        reporter: Reporter,
        share: Share | None,
    ) -> None:
        self.report = Report()
        self._store, self._reporter = store, reporter
        self._share, self._order = share or Share(), by_urgency if share else None
        self._workers = workers
        self._hooks = {"train": train, "device": device, "reporter": reporter}
        self._pending: dict[str, Stage] = {}
        self._bad: dict[str, str] = {}  # failed or blocked: digest to label
        self._deeper: dict[str, set[str]] = {}  # inputs of inputs that are made again, by reader
        self._busy: dict[str, str] = {}  # somebody else's: digest to token of the lease
        self._announced: set[str] = set()
        self._rebuilt: Counter[str] = Counter()
        self._started = 0
        self._cores_taken = False
        self._idle_since, self._naps = math.inf, 0

    def bring(self, targets: Sequence[Stage]) -> None:
        mend(targets, self._store, self._reporter)
        missing = self._store.missing(targets)
        if self._order:
            missing = self._order(missing, self._store)
        self._pending = {stage.digest: stage for stage in missing}
        for stage in topological(targets):
            if stage.digest not in self._pending and self._store.has(stage.digest):
                self.report.found.append(Outcome(stage.label, stage.digest))
        while any(self._share.takes(stage) for stage in self._pending.values()):
            if self._pass():
                self._idle_since, self._naps = math.inf, 0
            elif not self._wait():
                for stage in list(self._pending.values()):
                    self._settle(stage, self.report.blocked, message="left to others")

    def _pass(self) -> bool:
        """Settle what can be settled, until something has run: whatever is urgent comes first.

        It ends too where the cores are taken, since nothing else would be given them.
        """
        moved, started, self._cores_taken = False, self._started, False
        for digest, stage in list(self._pending.items()):
            needed = {i.digest for i in stage.inputs} | self._deeper.get(digest, set())
            bad = [self._bad[item] for item in needed if item in self._bad]
            if bad:
                self._settle(stage, self.report.blocked, message=f"needs {min(bad)}")
                moved = True
            elif not needed & self._pending.keys():
                moved |= self._attempt(stage)
                if self._started > started or self._cores_taken:
                    break
        return moved

    def _settle(
        self, stage: Stage, where: list[Outcome], seconds: float = 0.0, message: str = ""
    ) -> None:
        where.append(Outcome(stage.label, stage.digest, seconds, message))
        del self._pending[stage.digest]
        if where is self.report.failed or where is self.report.blocked:
            self._bad[stage.digest] = stage.label

    def _wait(self) -> bool:
        """Wait for others; False when patience is over."""
        now = time.monotonic()
        self._idle_since = min(self._idle_since, now)
        if now - self._idle_since >= self._share.patience:
            return False
        for digest in self._busy.keys() & self._pending.keys() - self._announced:
            self._announced.add(digest)
            self._reporter.waiting(self._pending[digest], self._store.holder(digest))
        # Often at first, since what others are at may take a moment; a long wait costs nothing.
        time.sleep(min(POLL_SECONDS, FIRST_POLL_SECONDS * 2**self._naps))
        self._naps = min(self._naps + 1, 10)
        return True

    def _attempt(self, stage: Stage) -> bool:
        """Try to settle a stage whose inputs are there; False when somebody else is at it."""
        store, digest = self._store, stage.digest
        try:
            claim, mine = None, self._share.takes(stage)
            if mine and not store.has(digest):
                claim = store.claim(stage, self._workers)
            if claim is None and not store.has(digest):
                if not (mine and self._share.retry) and self._failed_elsewhere(stage):
                    return True
                holder = store.holder(digest)
                self._cores_taken = mine and holder is None
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
            raise store.unusable(error) from None
        return True

    def _failed_elsewhere(self, stage: Stage) -> bool:
        """Whether another worker of this run failed: trying again would fail as well."""
        failure = self._store.failure(stage.digest)
        if failure is None:
            return False
        mine = self._share.takes(stage)
        old = failure["token"] in self._share.tried or (self._share.retry and mine)
        if old and failure["token"] != self._busy.get(stage.digest):
            if mine:
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
            with private_files(), threads_of(stage), PeakMemory() as memory:
                started = time.perf_counter()
                stage.run(context)
                seconds = time.perf_counter() - started
            if error := self._unusable(context):
                raise error
            claim.commit(
                seconds,
                peak_memory_bytes=memory.bytes,
                peak_gpu_memory_bytes=memory.gpu_bytes,
                device=context.__dict__.get("device"),  # where the stage asked for one
                devices=context.devices,
                threads=stage.threads,
                provenance=provenance(type(stage)),
            )
        except BaseException as error:  # SystemExit too: a library must not end the whole run
            self._reporter.stop()
            self._handle(stage, claim, error, context)
        else:
            self._reporter.finish(seconds)
            self._settle(stage, self.report.ran, seconds)

    def _unusable(self, context: StageContext) -> ArtifactError | None:
        """Return why what a stage has read cannot be trusted, if so.

        A file system may give one file several inodes, so being replaced counts once.
        """
        for error in context.unusable_inputs():
            if not isinstance(error, ReplacedArtifactError) or not self._rebuilt[error.digest]:
                return error
        return None

    def _handle(
        self, stage: Stage, claim: Claim, error: BaseException, context: StageContext
    ) -> None:
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
        # Whatever was raised may come from an input that was damaged after it had been opened.
        unusable = unusable or self._unusable(context)
        if unusable is not None and self._rebuilt[unusable.digest] < REBUILDS:
            # An attempt that has read what was damaged may have left its mark there.
            claim.start_over()
            self._rebuild(stage, unusable)
            return
        if self._store.is_full(causes):
            # Both so that the space returns, and before the message counts it: a removed file
            # keeps its blocks while a writer in the traceback's frames has it open.
            for cause in causes:
                traceback.clear_frames(cause.__traceback__)
            claim.close()
            raise self._store.full() from None
        # A training finds out by itself, and has more to lose where the fault is another. What has
        # failed before did not fail on what a killed attempt left.
        poisoned = claim.resumed and self._store.failure(stage.digest) is None
        if poisoned and not isinstance(stage, Trainable):
            claim.start_over()
            self._reporter.line(
                f"{stage.label} fails on what an earlier attempt has left; it begins anew"
            )
            return
        # What the user can put right is one line; anything else needs its traceback.
        brief = isinstance(error, UserError) and bool(str(error).strip())
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
        if isinstance(unusable, ReplacedArtifactError):
            how, then = "was replaced meanwhile", "that stage begins anew"
        else:
            then = "it is made again"
        self._reporter.line(f"{what}, which {reader.label} reads, {how}; {then}")
        self._rebuilt[digest] += 1
        self._deeper.setdefault(reader.digest, set()).add(digest)
        self._store.quarantine(digest)
        self.report.found = [found for found in self.report.found if found.digest != digest]
        lost = self._store.missing([stage])
        if not all(self._share.takes(stage) for stage in lost):
            # Those who make such stages may have left: whoever started us all has to.
            self._settle(reader, self.report.blocked, message=f"needs {stage.label}")
            return
        self._pending = {s.digest: s for s in lost} | self._pending


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from: libraries wrap what they meet."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _last_line(error: BaseException) -> str:
    if isinstance(error, UserError) and str(error).strip():  # its name would tell nothing
        return str(error).strip().splitlines()[-1]
    return traceback.format_exception_only(error)[-1].strip()

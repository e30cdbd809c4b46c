"""The SLURM executor: jobs that make stages of a plan, each a worker like those of other executors.

Everything is submitted at once, through submitit: stages are bundled into jobs, and the jobs of one
wave that ask for the same become an array, which waits until the arrays it stands on have *ended*,
in whatever way. So no job that is lost takes others with it: whoever needs what it was to make
makes that too. This process has nothing to do then but to watch, and to submit again what is still
missing at the end; it may as well be gone. Jobs and this process meet in the store alone.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmark.api import UserError
from benchmark.engine.executors.commands import bundles
from benchmark.engine.executors.context import Train
from benchmark.engine.executors.inline import mend
from benchmark.engine.executors.jobs import (
    FOLDER,
    PLAN,
    RefusedError,
    State,
    Submission,
    array_of,
    states,
    stuck,
    submissions,
    submit,
    summary,
    tidy,
)
from benchmark.engine.executors.local import outcomes
from benchmark.engine.executors.resources import Resources, Settings
from benchmark.engine.plan import write_plan
from benchmark.engine.progress import Report, Reporter, duration
from benchmark.engine.store import Store
from benchmark.stage import Stage

LOST = 3
"""How many jobs one stage may cost before it counts as failed."""
ARRAY = 1000
"""Jobs in one array, at most; clusters allow 1,001 unless they are set up otherwise."""
POLL_SECONDS = (1.0, 15.0)
"""How long until this process looks again: at first, and at most."""


def execute(
    targets: Sequence[Stage],
    store: Store,
    *,
    train: Train | None = None,
    device: str = "auto",
    workers: int | None = None,
    reporter: Reporter | None = None,
    devices: int = 1,
    options: Sequence[str] = (),
    detach: bool = False,
) -> Report:
    """Bring the targets into the store with jobs of SLURM.

    Jobs that are in SLURM's hands already, from an earlier call, are not submitted again.

    Parameters
    ----------
    targets
        Stages that are wanted; their classes are importable.
    store
        Where artifacts are found and committed; the nodes see it under the same path.
    train
        Not used: a worker has the harness's own training loop.
    device
        ``auto``, ``cpu`` or ``cuda``; ``auto``: where the partition has GPUs, jobs ask for one for
        what is done on a device.
    workers
        Jobs of one array that run at the same time, at most.
    reporter
        Where lines are printed; by default stderr.
    devices
        How many devices share the training of one stage.
    options
        ``KEY=VALUE`` of sbatch, for all jobs; ``cpu.KEY=VALUE`` or ``device.KEY=VALUE`` for those
        without or with what is done on a device.
    detach
        Submit and return.

    Returns
    -------
    Report
        Stages that ran, were found, failed, or were blocked by a failure; with ``detach`` those
        that are queued.

    Raises
    ------
    UserError
        When there is no SLURM, an option is none, no node has as many devices, or SLURM refuses
        what it is given.
    KeyboardInterrupt
        Raised on; the jobs go on.
    """
    reporter = reporter or Reporter()
    settings = Settings.parse(options)
    started = time.monotonic()
    mend(targets, store, reporter)
    missing = store.missing(targets)
    if missing:
        _check()
        watch = _Watch(missing, store, reporter, Resources(settings, device, devices), workers)
        try:
            if detach:
                watch.submit()
            else:
                watch.bring()
        except KeyboardInterrupt:
            reporter.line(f"interrupted: {watch.left_running()}")
            raise
        report = watch.report(targets)
    else:
        report = outcomes(targets, missing, store, frozenset())
    reporter.summary(report, time.monotonic() - started)
    if report.queued:
        reporter.line(watch.left_running())
    return report


def _check() -> None:
    if shutil.which("sbatch") is None or shutil.which("squeue") is None:
        raise UserError(
            "there is no SLURM here (sbatch is not on the path); log in where jobs are submitted, "
            "or choose another --executor"
        )
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UserError(
            "the slurm executor needs submitit: python -m pip install 'ecgcmr-bench[slurm]'"
        ) from None
    # It prints to stdout, where results go.
    logging.getLogger("submitit").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def _undivided() -> Iterator[None]:
    """Let Ctrl-C wait: jobs that SLURM has taken and nobody has written down are found no more."""
    if threading.current_thread() is not threading.main_thread():
        yield  # which alone is told of signals
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {n: signal.signal(n, lambda number, _: came.append(number)) for n in numbers}
    # For sbatch, which inherits it: Ctrl-C in a terminal reaches that too.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


class _Watch:
    """The state of one call of `execute`."""

    def __init__(
        self,
        missing: Sequence[Stage],
        store: Store,
        reporter: Reporter,
        resources: Resources,
        parallel: int | None,
    ) -> None:
        self._store, self._reporter, self._resources = store, reporter, resources
        self._parallel = parallel or ARRAY
        self._stages = {stage.digest: stage for stage in missing}
        self._told: set[str] = set()
        self._lost: Counter[str] = Counter()
        self._said = ""
        self._stuck: set[tuple[str, str]] = set()
        self._counted: set[tuple[str, str]] = set()
        recorded = list(submissions(store))
        known = states()  # asked after: of a job that was submitted before, it has heard
        if known is None:
            raise UserError(
                "SLURM does not answer (squeue failed): nothing was submitted; try again"
            )
        self._known = known
        self._ends = {key: state for key, state in known.items() if state.over}
        # What others, or this command before it was interrupted, have in SLURM's hands already.
        self._submissions = [submission for submission in recorded if self._live([submission])]
        before = frozenset(failure["token"] for failure in store.failures())
        # A failure since the jobs were submitted is of this work, and not tried again by it.
        self._tried = before.intersection(*(s.tried for s in self._submissions))
        if live := self._live():
            reporter.line(f"SLURM has {len(live)} jobs for this already, which stay as they are")

    def bring(self) -> None:
        """Submit, watch, and submit again what was lost."""
        while todo := self._todo():
            self._submit(todo)
            self._wait()
            self._count_losses()

    def submit(self) -> None:
        """Submit what SLURM has no job for yet, and leave it at that."""
        self._submit(self._todo())

    def report(self, targets: Sequence[Stage]) -> Report:
        """Return what became of everything; what SLURM has a job for is queued."""
        report = outcomes(targets, list(self._stages.values()), self._store, self._tried)
        waiting = set().union(*(ours for _, ours in self._live().values()))
        report.queued = [outcome for outcome in report.blocked if outcome.digest in waiting]
        report.blocked = [outcome for outcome in report.blocked if outcome.digest not in waiting]
        tidy(self._store)
        return report

    def left_running(self) -> str:
        """Return what a person has to know about jobs that nobody watches."""
        arrays = " ".join(sorted({array_of(job) for job in self._live()}, key=int))
        if not arrays:
            return "SLURM has no job for this any more, and the same command goes on"
        return (
            f"SLURM goes on without this command: ecgcmr status shows its jobs, the same command "
            f"waits for them and writes the boards, scancel {arrays} ends them"
        )

    def _todo(self) -> list[Stage]:
        """Return what is missing and has not failed, nor stands on a failure, inputs first."""
        done, bad = set(self._store.stages()), set(self._failures())
        todo = []
        for digest, stage in self._stages.items():
            if any(item.digest in bad for item in stage.inputs):
                bad.add(digest)
            elif digest not in done and digest not in bad:
                todo.append(stage)
        return todo

    def _failures(self) -> dict[str, dict[str, Any]]:
        """Return what has failed in the course of this work, by digest."""
        kept = (f for f in self._store.failures() if f["token"] not in self._tried)
        return {failure["digest"]: failure for failure in kept if failure["digest"] in self._stages}

    def _live(self, of: Iterable[Submission] | None = None) -> dict[str, tuple[State, set[str]]]:
        """Return the jobs in SLURM's hands that make something of ours: their states, and what."""
        return {
            job: (state, ours)
            for submission in (self._submissions if of is None else of)
            for job, state in submission.live(self._known).items()
            if (ours := self._stages.keys() & set(submission.jobs[job]))
        }

    def _submit(self, todo: Sequence[Stage]) -> None:
        """Give SLURM what it has no job for yet."""
        maker = {digest: job for job, (_, ours) in self._live().items() for digest in ours}
        new = [stage for stage in todo if stage.digest not in maker]
        if not new:
            return
        submission = self._prepare(new)
        told = []
        for wave in bundles(new, self._store, self._resources.devices):
            for asked, group in self._resources.grouped(wave, self._lost):
                for begin in range(0, len(group), ARRAY):
                    part = [bundle.stages for bundle in group[begin : begin + ARRAY]]
                    inputs = {i.digest for stages in part for s in stages for i in s.inputs}
                    after = {array_of(maker[digest]) for digest in inputs & maker.keys()}
                    try:
                        with _undivided():
                            ids = submit(
                                submission,
                                part,
                                asked,
                                store=self._store,
                                after=sorted(after, key=int),
                                parallel=self._parallel,
                            )
                            made = [[stage.digest for stage in stages] for stages in part]
                            submission.jobs |= dict(zip(ids, made, strict=True))
                            submission.save()
                            for job in ids:
                                maker.update(dict.fromkeys(submission.jobs[job], job))
                                self._known[submission.name, job] = State("PENDING", "None")
                    except RefusedError as error:
                        self._refused(submission, str(error), maker)
                        return
                    told.append(f"  job {array_of(ids[0])} x{len(ids)}: {asked}")
        count = len(submission.jobs)
        self._reporter.line(f"submitted {count} jobs for {len(new)} stages, each with")
        self._reporter.line("\n".join(told))

    def _prepare(self, new: Sequence[Stage]) -> Submission:
        folder = self._store.root / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        name = time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)
        submission = Submission(folder / name, self._tried)
        submission.logs.mkdir(mode=0o700, parents=True)
        write_plan(submission.folder / PLAN, new, self._tried)
        self._submissions.append(submission)
        return submission

    def _refused(self, submission: Submission, text: str, maker: dict[str, str]) -> None:
        if not submission.jobs:
            self._submissions.remove(submission)
            shutil.rmtree(submission.folder)
        if not maker:
            raise UserError(f"SLURM refuses the job: {text}")
        # A limit on the number of jobs, most likely.
        self._reporter.line(f"SLURM takes no more jobs for now ({text}); the rest is for later")

    def _wait(self) -> None:
        """Watch until SLURM has no job of ours any more."""
        pause, longest = POLL_SECONDS
        while True:
            self._tell()
            live = self._live()
            if not live:
                return
            fresh = {(job, state.reason) for job, (state, _) in live.items()} - self._stuck
            for line in stuck(sorted(fresh)):
                self._reporter.line(line)
            self._stuck |= fresh
            said = summary(state for state, _ in live.values())
            if said != self._said:
                self._said = said
                self._reporter.line(f"SLURM: {said}")
            time.sleep(pause)
            pause = min(pause * 1.2, longest)
            self._ask()

    def _ask(self) -> None:
        known = states()
        if known is not None:
            self._known = known
            self._ends.update((key, state) for key, state in known.items() if state.over)
        elif self._said != "silent":
            # Nothing follows from that: jobs are neither lost nor done.
            self._said = "silent"
            self._reporter.line("SLURM does not answer (squeue failed); it is asked again")

    def _tell(self) -> None:
        """Print what has become of stages since the last time."""
        # All names at once, and no question for each: a network file system that has been asked for
        # a file remembers for a minute that it is not there.
        made = self._stages.keys() & set(self._store.stages()) - self._told
        for digest in (digest for digest in self._stages if digest in made):
            self._told.add(digest)
            place = f"[{len(self._told)}/{len(self._stages)}] {self._stages[digest].label}"
            seconds = self._store.manifest(digest, keep=False)["seconds"]
            self._reporter.line(f"{place}  done in {duration(seconds)}")
        for digest, failure in self._failures().items():
            if digest not in self._told:
                self._told.add(digest)
                last = failure["traceback"].strip().splitlines()[-1]
                self._reporter.line(f"{failure['label']} failed: {last}")

    def _count_losses(self) -> None:
        """Note which stages have cost a job: all they need is there, and they are not."""
        done = set(self._store.stages())
        for stage in self._todo():
            if not all(item.digest in done for item in stage.inputs):
                continue
            found = next(self._jobs_of(stage), None)
            if found is None or (found[1], stage.digest) in self._counted:
                continue  # SLURM took no more jobs
            submission, job = found
            self._counted.add((job, stage.digest))
            state = self._ends.get((submission.name, job))
            what = f"job {job}" + (f" ({state.state.lower()})" if state else "")
            self._lost[stage.digest] += 1
            if state is not None and state.state == "CANCELLED":
                text = f"{what} was ended by somebody"
            elif self._lost[stage.digest] >= LOST:
                words = submission.last_words(job)
                text = f"{what} has ended without it, as {LOST} have; see {words}"
            else:
                self._reporter.line(f"{what} has ended without {stage.label}: once more")
                continue
            self._store.fail(stage, text, secrets.token_hex(8))

    def _jobs_of(self, stage: Stage) -> Iterator[tuple[Submission, str]]:
        """Yield the jobs that were to make a stage, the latest submission's first."""
        for submission in reversed(self._submissions):
            for job, digests in submission.jobs.items():
                if stage.digest in digests:
                    yield submission, job

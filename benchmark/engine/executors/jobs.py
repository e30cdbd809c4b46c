"""Jobs that were submitted to SLURM for a store: what each is to make, and what SLURM says of it.

A submission is a folder below ``slurm/`` of the store: ``plan.json``; ``jobs.json``, by which any
later command knows them; ``jobs/`` with submitit's files and what the jobs print.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.engine.executors.reasons import advice
from benchmark.engine.executors.resources import Asked
from benchmark.engine.executors.worker import STOP_SECONDS
from benchmark.engine.plan import SHORT
from benchmark.engine.store import Store
from benchmark.stage import Stage

FOLDER, PLAN = "slurm", "plan.json"
OVER = frozenset(
    [
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
        *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
    ]
)
"""States of jobs that never run again; SLURM itself forgets them after some minutes."""
SLURM_SAYS = ("srun:", "slurmstepd", "submitit ")
"""How lines begin that are not the worker's."""
ANSWER_SECONDS = 60.0
"""How long SLURM may take to answer a question."""
TIMEOUTS = 20
"""How often a job that has run out of time goes on, with what was done."""
WHERE = frozenset({"SLURM_CONF", "SLURM_CLUSTERS", "SBATCH_CLUSTERS", "SLURM_CONF_SERVER"})
"""Variables of the environment that say which SLURM is meant."""
LINGER_SECONDS = 30.0
"""How long a job outlives its worker after SIGTERM, where SLURM may yet ask it to go on later."""


class State(NamedTuple):
    """What SLURM says of a job: ``PENDING`` and the like, and what it waits for."""

    state: str
    reason: str

    @property
    def over(self) -> bool:
        """Whether it never runs again."""
        return self.state in OVER


SILENT = State("UNKNOWN", "SLURM does not answer here")
"""What is known of a job where nobody can be asked."""


@dataclass
class Submission:
    """Some stages that were given to SLURM at once.

    Attributes
    ----------
    folder
        Of its files.
    tried
        Tokens of the failures that were known by then.
    jobs
        Digests of what each job is to make, by the job's id: ``12`` or, in an array, ``12_3``.
    """

    folder: Path
    tried: frozenset[str] = frozenset()
    jobs: dict[str, list[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The comment that its jobs carry: ids may begin anew when a cluster is set up again."""
        return f"ecgcmr-{self.folder.name}"

    @property
    def logs(self) -> Path:
        """Where submitit keeps its files."""
        return self.folder / "jobs"

    def last_words(self, job: str) -> str:
        """Return where a job's errors are, and the last of them that is not SLURM's."""
        path, said = self.logs / f"{job}_0_log.err", ""
        with contextlib.suppress(OSError):
            lines = path.read_text(errors="replace").splitlines()
            own = [line for line in lines if line.strip() and not line.startswith(SLURM_SAYS)]
            said = f": {own[-1].strip()}" if own else ""
        return f"{path}{said}"

    def made(self, store: Store) -> bool:
        """Whether everything it was for is there."""
        return all(store.has(digest) for digests in self.jobs.values() for digest in digests)

    def save(self) -> None:
        """Write down the jobs there are by now."""
        draft = self.folder / ".jobs.json"
        draft.write_text(json.dumps({"tried": sorted(self.tried), "jobs": self.jobs}))
        draft.replace(self.folder / "jobs.json")

    def live(self, states: dict[tuple[str, str], State]) -> dict[str, State]:
        """Return its jobs that SLURM still has something to do for, by id."""
        found = {job: states.get((self.name, job)) for job in self.jobs}
        return {job: state for job, state in found.items() if state and not state.over}


def submissions(store: Store) -> Iterator[Submission]:
    """Yield what was submitted for a store and is not done, the oldest first."""
    for path in sorted((store.root / FOLDER).glob("*/jobs.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            record = json.loads(path.read_bytes())
            yield Submission(path.parent, frozenset(record["tried"]), record["jobs"])


def states() -> dict[tuple[str, str], State] | None:
    """Return what SLURM says of this user's jobs, by comment and id; None when it says nothing."""
    command = ["squeue", "--noheader", "--array", "--me", "--states=all", "--format=%i|%T|%r|%k"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = {}
    for line in done.stdout.splitlines():
        parts = line.strip().split("|", 3)
        if len(parts) == 4:  # else of another's comment of several lines, or a cluster's name
            job, state, reason, comment = parts
            found[comment, job] = State(state, reason)
    return found


def tidy(store: Store) -> None:
    """Remove the files of submissions of which everything has been made."""
    made = [submission for submission in submissions(store) if submission.made(store)]
    # Asked after they were found: of a job that was submitted before then, it has heard.
    known = states() if made else None
    if known is not None:
        for submission in made:
            if not submission.live(known):
                shutil.rmtree(submission.folder, ignore_errors=True)


def queued(store: Store) -> list[dict[str, Any]]:
    """Return the jobs that SLURM has, or may have, for a store, as plain JSON."""
    waiting = list(submissions(store))
    known = states() if waiting else {}
    if known is None:
        perhaps = [submission for submission in waiting if not submission.made(store)]
        found = [(submission, dict.fromkeys(submission.jobs, SILENT)) for submission in perhaps]
    else:
        found = [(submission, submission.live(known)) for submission in waiting]
    return [
        {"job": job, "state": state.state, "reason": state.reason, "stages": submission.jobs[job]}
        for submission, live in found
        for job, state in live.items()
    ]


def array_of(job: str) -> str:
    """Return the id by which one waits for a job's whole array, or ends it."""
    return job.partition("_")[0]


def stuck(live: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each reason that keeps jobs from beginning and does not pass by itself.

    ``live`` holds for each job its id and SLURM's reason.
    """
    waiting: dict[str, list[str]] = {}
    for job, reason in live:
        waiting.setdefault(reason, []).append(job)
    lines = []
    for reason, jobs in waiting.items():
        arrays = " ".join(dict.fromkeys(map(array_of, jobs)))
        if todo := advice(reason, arrays):
            lines.append(
                f"SLURM does not begin {len(jobs)} of the jobs ({reason}), which does not pass by "
                f"itself: {todo}"
            )
    return lines


def summary(live: Iterable[tuple[str, str]]) -> str:
    """Return how many jobs there are in each state, and what the pending ones wait for.

    ``live`` holds for each its state and reason, as `State` does.
    """
    live = list(live)
    counts = Counter(state.lower() for state, _ in live)
    parts = [f"{number} {name}" for name, number in sorted(counts.items())]
    reasons = {reason for state, reason in live if state in ("PENDING", SILENT.state)} - {"None"}
    return ", ".join(parts) + (f" ({', '.join(sorted(reasons))})" if reasons else "")


class RefusedError(Exception):
    """SLURM does not take a job."""


def submit(
    submission: Submission,
    bundles: Sequence[Sequence[Stage]],
    asked: Asked,
    *,
    store: Store,
    after: Sequence[str] = (),
    parallel: int,
) -> list[str]:
    """Submit jobs that ask for the same, as an array; return their ids.

    Parameters
    ----------
    submission
        What they are part of.
    bundles
        What each is to make.
    asked
        What each asks for.
    store
        Where it is made.
    after
        Ids of the jobs and arrays that have to have ended before, in whatever way.
    parallel
        How many may run at the same time.

    Raises
    ------
    RefusedError
        When SLURM does not take them.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    own: dict[str, Any] = {"requeue": True}
    if after:
        own["dependency"] = f"afterany:{':'.join(after)}"
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    executor = SlurmExecutor(submission.logs, TIMEOUTS, python=f"{shlex.quote(sys.executable)} -P")
    executor.update_parameters(
        job_name="ecgcmr",
        comment=submission.name,
        time=asked.minutes,
        array_parallelism=parallel,
        # A step is not given the cores of its job unless it asks for them too.
        srun_args=[f"--cpus-per-task={asked.cpus}"],
        # Modules are found as they were here, whatever SLURM hands on.
        setup=[
            f"export ECGCMR_STORE={shlex.quote(str(store.root))}",
            f"export PYTHONPATH={shlex.quote(path)}",
            *asked.setup,
        ],
        additional_parameters={**asked.options, **own},
    )
    program = [sys.executable, "-P", "-m", "benchmark", "stage", str(submission.folder / PLAN)]
    options = ["--once", *asked.worker]
    works = [Work((*program, *(s.digest[:SHORT] for s in part), *options)) for part in bundles]
    try:
        with _clean_environment():
            return [job.job_id for job in executor.submit_array(works)]
    except (FailedJobError, FailedSubmissionError) as error:
        raise RefusedError(" ".join(str(error).split())) from None


@contextlib.contextmanager
def _clean_environment() -> Iterator[None]:
    """Hide from sbatch what stands above the options of a job in it.

    That is what SBATCH_ variables say, of which `Settings` knows, and the limits of the job that
    this process may itself be part of. Where SLURM is configured stays.
    """
    hidden = [k for k in os.environ if k.startswith(("SLURM_", "SBATCH_")) and k not in WHERE]
    kept = {name: os.environ.pop(name) for name in hidden}
    try:
        yield
    finally:
        os.environ.update(kept)


class Work:
    """What a job does: it has a worker make stages, and ends it in good order.

    submitit keeps it, as a pickle of a few strings, beside its other files in the store, and calls
    `checkpoint` when SLURM announces that time is up; then the job goes on later, in another place.

    Parameters
    ----------
    command
        Of the worker.
    """

    def __init__(self, command: tuple[str, ...]) -> None:
        self.command = command
        self._worker: subprocess.Popen[bytes] | None = None
        self._terminated = False

    def __call__(self) -> None:
        """Run the worker; ends the process with its exit code."""
        # Libraries take SLURM's variables for an order to train on several nodes, or to requeue.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SUBMITIT_"))}
        signal.signal(signal.SIGTERM, self._pass_on)
        self._worker = subprocess.Popen(self.command, env=kept)
        # Not wait(): a signal's handler, which waits too, would find its lock taken for ever.
        while (code := self._worker.poll()) is None:
            time.sleep(0.1)
        if self._terminated:
            # Where preemption begins so, submitit's own signal may follow; else SLURM ends it.
            time.sleep(LINGER_SECONDS)
        sys.exit(code if code >= 0 else 128 - code)

    def checkpoint(self) -> Any:
        """End the worker, and return what the job does when it runs again: the same."""
        from submitit.helpers import DelayedSubmission

        self._end()
        return DelayedSubmission(Work(self.command))

    def _pass_on(self, *_: Any) -> None:
        self._terminated = True
        if self._worker is not None:
            self._worker.terminate()

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.terminate()
            deadline = time.monotonic() + STOP_SECONDS
            while self._worker.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            self._worker.kill()

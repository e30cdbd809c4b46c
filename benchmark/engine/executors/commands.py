"""Plain command lines instead of an executor: for schedulers that ecgcmr does not speak to.

A line is a job: some stages of the plan, and nothing that a job above it has not made. Jobs of one
wave are independent of each other.
"""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.api import Trainable
from benchmark.engine.plan import SHORT, write_plan
from benchmark.engine.progress import amount, duration
from benchmark.engine.store import Store
from benchmark.stage import Stage

PLANS = "plans"
"""Folder of the store."""
BUNDLE_SECONDS = 600.0
"""How long a job may take: shorter stages share one, which starts Python and torch once."""
BUNDLE_STAGES = 1000
"""How many it may name, however short they are: no scheduler takes a line of any length."""

HEAD = """\
# {count} jobs for {stages} stages; about {seconds} in all.
#
# As it is, sh runs one job after another. For a scheduler submit each line by itself, to begin once
# the jobs that the comment above it names have ended, whether they succeeded or not: what a failed
# stage blocks ends at once. Jobs meet in one store, on one file system; a job that was killed is
# simply run again. To try failed stages again, write these lines anew.
"""


@dataclass(frozen=True)
class Bundle:
    """A job: stages of one kind and one wave.

    Attributes
    ----------
    name
        ``2.1`` is the first of the second wave.
    stages
        What it makes.
    needs
        Names of the bundles whose stages these stand on.
    seconds
        About how long it takes.
    devices
        How many of them share each of its trainings; 1 where nothing is trained.
    """

    name: str
    stages: tuple[Stage, ...]
    needs: tuple[str, ...]
    seconds: float
    devices: int = 1

    @property
    def on_device(self) -> bool:
        """Whether it is done on an accelerator, where there is one."""
        return self.stages[0].on_device

    @property
    def threads(self) -> int:
        """Cores that one of its stages keeps busy, on one device."""
        return max(stage.threads for stage in self.stages)

    def cores(self, gpus: bool) -> int:
        """Return how many it keeps busy: its threads on each GPU, or shared by all processes."""
        return self.devices * (self.threads if gpus else max(1, self.threads // self.devices))

    @property
    def pools(self) -> bool:
        """Whether it spreads over more cores, where it is given them."""
        return any(stage.pools for stage in self.stages)


def bundles(missing: Sequence[Stage], store: Store, devices: int = 1) -> list[list[Bundle]]:
    """Group stages into waves of bundles; ``missing`` has inputs before their users.

    ``devices`` share the training of one stage.
    """
    depth: dict[str, int] = {}
    waves: list[list[Stage]] = []
    for stage in missing:
        above = [depth[item.digest] + 1 for item in stage.inputs if item.digest in depth]
        depth[stage.digest] = max(above, default=0)
        if depth[stage.digest] == len(waves):
            waves.append([])
        waves[depth[stage.digest]].append(stage)
    names: dict[str, str] = {}
    result = []
    for number, wave in enumerate(waves, start=1):
        jobs = []
        for stages in _bundled(wave, store, devices):
            needs = {names[i.digest] for s in stages for i in s.inputs if i.digest in names}
            name = f"{number}.{len(jobs) + 1}"
            names.update((stage.digest, name) for stage in stages)
            seconds = sum(store.expected(stage) for stage in stages)
            own = _sharing(stages[0], devices)
            after = tuple(sorted(needs, key=_order))
            jobs.append(Bundle(name, tuple(stages), after, seconds, own))
        result.append(jobs)
    return result


def _bundled(wave: Sequence[Stage], store: Store, devices: int) -> Iterator[list[Stage]]:
    """Yield the stages of a wave by what they ask for, none together longer than a bundle."""
    kinds: dict[tuple[bool, int, bool, int], list[Stage]] = {}
    for stage in wave:
        kind = (stage.on_device, stage.threads, stage.pools, _sharing(stage, devices))
        kinds.setdefault(kind, []).append(stage)
    for stages in kinds.values():
        bundle: list[Stage] = []
        seconds = 0.0
        for stage in stages:
            own = store.expected(stage)
            full = seconds + own > BUNDLE_SECONDS or len(bundle) == BUNDLE_STAGES
            if bundle and full:
                yield bundle
                bundle, seconds = [], 0.0
            bundle.append(stage)
            seconds += own
        yield bundle


def _sharing(stage: Stage, devices: int) -> int:
    return devices if isinstance(stage, Trainable) and stage.trained else 1


def _order(name: str) -> tuple[int, ...]:
    return tuple(map(int, name.split(".")))


def commands(
    targets: Sequence[Stage],
    store: Store,
    finish: Sequence[str],
    device: str = "auto",
    devices: int = 1,
) -> str:
    """Return a shell script that makes the targets, and leave its plan in the store.

    Parameters
    ----------
    targets
        Stages that are wanted.
    store
        Where they are to be made; the jobs see it under the same path.
    finish
        Arguments of the command that follows when all is done.
    device
        As `Context.device`.
    devices
        How many of them share the training of one stage.
    """
    missing = store.missing(targets)
    # Each line can stand alone: a scheduler passes on neither folder nor environment.
    program = f"ECGCMR_STORE={shlex.quote(str(store.root))} {shlex.quote(sys.executable)}"
    program += " -m benchmark"
    jobs: list[list[Bundle]] = []
    lines = []
    if missing:
        plan = save_plan(missing, store)
        jobs = bundles(missing, store, devices)
        for number, wave in enumerate(jobs, start=1):
            lines.append(f"\n# wave {number} of {len(jobs)}, jobs: {len(wave)}\n")
            for bundle in wave:
                digests = [stage.digest[:SHORT] for stage in bundle.stages]
                own = ["stage", str(plan), *digests, "--once", "--device", device]
                if bundle.devices > 1:
                    own += ["--devices", str(bundle.devices)]
                about = _describe(bundle, device)
                lines += [f"# {about}\n", f"{program} {shlex.join(own)}\n"]
    count = sum(map(len, jobs))
    seconds = duration(sum(bundle.seconds for wave in jobs for bundle in wave))
    head = HEAD.format(count=count, stages=len(missing), seconds=seconds)
    last = "\n# after all of them: what is written from the store\n"
    last += f"cd {shlex.quote(str(Path.cwd()))} && {program} {shlex.join(finish)}\n"
    return head + "".join(lines) + last


def save_plan(missing: Sequence[Stage], store: Store) -> Path:
    """Leave a plan in the store, named by what it holds, and return its file."""
    tried = {failure["token"] for failure in store.failures()}
    text = "\n".join([*sorted(stage.digest for stage in missing), *sorted(tried)])
    folder = store.root / PLANS
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:SHORT]}.json"
    write_plan(path, missing, tried)
    return path


def _describe(bundle: Bundle, device: str) -> str:
    labels = list(dict.fromkeys(stage.group for stage in bundle.stages))
    what = ", ".join(labels[:3]) + (f" and {len(labels) - 3} kinds more" if labels[3:] else "")
    several, gpus = bundle.devices > 1, device != "cpu"
    cores = bundle.cores(gpus)
    where = f"{cores} {'core' if cores == 1 else 'cores'}"
    where += " or more" if bundle.pools else ""
    if bundle.on_device and (gpus or not several):
        where += f", {bundle.devices} GPUs" if several else ", a GPU where there is one"
    size = amount(sum(stage.estimate()[1] for stage in bundle.stages))
    after = f"after {', '.join(bundle.needs)}" if bundle.needs else "at once"
    many = f"{len(bundle.stages)} stages ({what})" if bundle.stages[1:] else what
    parts = (f"job {bundle.name}", after, where, f"about {duration(bundle.seconds)}", size, many)
    return "; ".join(parts)

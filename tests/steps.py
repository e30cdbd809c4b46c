"""Stages that other processes can make too: what they do is written into a folder of the test's."""

import errno
import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from benchmark.stage import Spec, Stage


@dataclass(frozen=True, kw_only=True)
class Settings(Spec):
    """Nested, but no stage."""

    weights: tuple[float, ...] = ()
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Step(Stage):
    """Notes when it ran and where, and leaves the sum of its inputs and one."""

    journal: str = ""
    key: str = ""
    seconds: float = 0.0
    terms: tuple[Stage, ...] = ()
    settings: Settings = Settings()
    hint: str = field(default="", metadata={"identity": False})

    @property
    def label(self):
        return f"step {self.key}"

    def estimate(self):
        return self.seconds, 1e3

    def run(self, context):
        started = time.monotonic()
        self.work(context)
        for step in range(int(self.seconds / 0.05)):
            context.progress(step, self.seconds / 0.05, "steps")
            time.sleep(0.05)
        values = [int((context.open(term) / "value").read_text()) for term in self.terms]
        (context.out / "value").write_text(str(1 + sum(values)))
        self.note(started, workers=context.workers)

    def work(self, context):
        """Do what makes a kind of step."""

    def note(self, started, **more):
        record = {"key": self.key, "pid": os.getpid(), "start": started, "end": time.monotonic()}
        record["visible"] = os.environ.get("CUDA_VISIBLE_DEVICES")
        with Path(self.journal).open("a") as file:
            file.write(json.dumps(record | more) + "\n")


@dataclass(frozen=True, kw_only=True)
class Wide(Step):
    """Keeps two cores busy."""

    threads: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class Pooled(Step):
    """Spreads."""

    pools: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Device(Step):
    """Is done on a device."""

    on_device: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Failing(Step):
    """Fails while its obstacle is there."""

    obstacle: str = ""

    def work(self, context):
        if Path(self.obstacle).exists():
            self.note(time.monotonic())
            raise RuntimeError("an obstacle")


@dataclass(frozen=True, kw_only=True)
class Deadly(Step):
    """Kills its worker as often as it is told."""

    times: int = 1

    def work(self, context):
        self.note(time.monotonic())
        deaths = Path(self.journal).read_text().count(f'"{self.key}"')
        if deaths <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class Resumed(Step):
    """Goes on where an earlier attempt has stopped, and notes where that was."""

    def run(self, context):
        mark = context.resume / "step"
        first = int(mark.read_text()) if mark.exists() else 0
        self.note(time.monotonic(), first=first)
        for step in range(first, int(self.seconds / 0.1)):
            context.progress(step, self.seconds / 0.1, "steps")
            time.sleep(0.1)
            draft = mark.with_suffix(".part")  # it may be killed at any moment
            draft.write_text(str(step + 1))
            draft.replace(mark)
        (context.out / "value").write_text("1")


@dataclass(frozen=True, kw_only=True)
class Filling(Step):
    """Finds the disk full."""

    def work(self, context):
        raise OSError(errno.ENOSPC, "No space left on device")


def journal(path):
    """Return what the steps have noted."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]

"""What passes between a worker process and the one that has started it.

The worker writes a JSON object a line to its standard output: what to print, which stage it is at,
why it cannot go on. Its standard input is a lifeline: the pipe closes when the other side stops its
workers and also when it dies, even by SIGKILL, and then the worker ends as by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from benchmark.engine.lease import Holder
from benchmark.engine.progress import BRIEF_SECONDS, Report, Reporter
from benchmark.stage import Stage

STOP_SECONDS = 10.0
"""How long a worker that is to end may take, before it is killed with all it has started."""


class Relay(Reporter):
    """Has another process print, which knows how many stages there are in all.

    Where `Reporter` puts a stage's number, this puts its `position`.
    """

    def line(self, text: str) -> None:
        """Have one line (or several) printed."""
        self.send(text=text)

    def start(self, stage: Stage, number: int, total: int) -> None:
        """Announce a stage that is about to run."""
        self.send(begin=stage.digest)
        self.begin(stage.label, position(stage.digest), stage.estimate()[0] <= BRIEF_SECONDS)

    def waiting(self, stage: Stage, holder: Holder | None) -> None:
        """Say nothing: it is mostly another worker of the same run."""

    def summary(self, report: Report, seconds: float) -> None:
        """Say nothing: the other side sums up."""

    def send(self, **message: str) -> None:
        """Write a message; nobody may be there any more to read it."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(json.dumps(message) + "\n")
            self._stream.flush()


def position(digest: str) -> str:
    """Return what stands in front of a stage's label until its number is known."""
    return f"[{digest}] "


def attach() -> Relay:
    """Make this process a worker: take over its standard output, and watch its standard input."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no message
    # A shell that started the command in the background has made it ignore the signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_watch, name="lifeline", daemon=True).start()
    return Relay(stream)


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """Let the signals by which batch systems announce the end do what Ctrl-C does, once.

    Killed at once, a worker would leave a lease that workers on other machines wait for. SIGTERM
    announces preemption and cancelling, SIGUSR2 (from submitit) that time is up; both may come.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # which alone is told of signals
        return
    numbers, owner = (signal.SIGTERM, signal.SIGUSR2), os.getpid()

    def interrupt(number: int, _: Any) -> None:
        if os.getpid() != owner:  # forked, and ended so by the pool that it is part of
            os._exit(128 + number)
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(STOP_SECONDS)
    # Deep in a library that does not return to Python, or in one that has swallowed the signal.
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)

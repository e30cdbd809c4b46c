"""The processes of a training on several devices. Imports torch.

The process that runs the stage is the first. It starts the others, one per further device, which do
all that it does except writing, and end with it. They meet through a file in a private folder: no
port is open for anybody else on the machine to talk to.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.strategies import DDPStrategy

from benchmark.api import Context, Trainable, UserError
from benchmark.privacy import mask_messages
from benchmark.stage import Stage

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others, which may be at what only one of them has to do."""
END_SECONDS = 10.0
WATCH_SECONDS = 0.5
GRACE_SECONDS = 2.0
"""How long after the death of another process this one may find its own error, which says more."""

Assemble = Callable[[bool], Fabric]
"""Makes the Fabric of a process; told whether every update reaches every parameter that is trained.

Where not, DistributedDataParallel has to look for those that it need not wait for.
"""
Assist = Callable[[Trainable, "Helping", Assemble], None]


class Opening:
    """A context that remembers the folders it has opened, for other processes to open."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.folders: dict[str, Path] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def open(self, stage: Stage) -> Path:
        """Return the folder of an input's artifact; see `benchmark.api.Context`."""
        self.folders[stage.digest] = self._context.open(stage)
        return self.folders[stage.digest]


class Helping:
    """The context of a process that helps: it reads what the first one has opened."""

    workers = 1

    def __init__(self, folders: dict[str, Path], resume: Path, device: str) -> None:
        self._folders, self.resume, self.device = folders, resume, device

    def open(self, stage: Stage) -> Path:
        """Return a folder whose checksums the first process has verified."""
        return self._folders[stage.digest]

    def progress(self, done: float, total: float, unit: str = "", note: str = "") -> None:
        """Say nothing: the first process does."""


class _Place(LightningEnvironment):
    """Tells lightning which of the processes this is, whatever a scheduler's variables say."""

    creates_processes_externally = True

    def __init__(self, rank: int, devices: int) -> None:
        super().__init__()
        self._rank = rank
        self.set_global_rank(rank)
        self.set_world_size(devices)

    def local_rank(self) -> int:
        return self._rank

    def node_rank(self) -> int:
        return 0


@contextlib.contextmanager
def together(
    trainable: Trainable, context: Opening, devices: int, assist: Assist
) -> Iterator[Assemble]:
    """Start the other processes, which ``assist``, and yield what makes this one's Fabric.

    Raises
    ------
    UserError
        When one of the others was killed.
    RuntimeError
        When one of them failed at what this one has not failed at.
    """
    threads = torch.get_num_threads()
    # On CPUs all of them share the cores that the stage was given.
    share = max(1, threads // devices) if context.device == "cpu" else threads
    spawn = multiprocessing.get_context("spawn")
    with TemporaryDirectory(prefix="ecgcmr-") as folder:
        meeting = Path(folder) / "meeting"
        told = (trainable, context.folders, context.resume, context.device)
        helpers: list[BaseProcess] = []
        over, lost = threading.Event(), threading.Event()
        watch = threading.Thread(target=_watch, args=(helpers, over, lost), daemon=True)
        try:
            with _uninterrupted():
                for rank in range(1, devices):
                    own = (assist, *told, meeting, rank, devices, share)
                    helper = spawn.Process(target=_help, args=own, daemon=True)
                    helper.start()
                    helpers.append(helper)
            torch.set_num_threads(share)
            for rank, helper in enumerate(helpers, start=1):
                while not _arrived(meeting, rank).exists():  # nobody is waited for who has died
                    if helper.exitcode is not None:
                        raise RuntimeError("nobody to train with")
                    helper.join(0.05)
            assemble = _join(meeting, context.device, 0, devices, trainable.recipe.precision)
            watch.start()
            yield assemble
            _end(watch, over)
            for helper in helpers:
                helper.join(END_SECONDS)
        except Exception as error:
            _end(watch, over)
            # What is wrong with the training itself is known to all of them; after an abort any
            # error may follow.
            if lost.is_set() or type(error) is RuntimeError or isinstance(error, dist.DistError):
                for rank, helper in enumerate(helpers, start=1):
                    helper.join(1.0)
                    if helper.exitcode:
                        text = f"training on {devices} devices: the process of device {rank} "
                        if helper.exitcode > 0:  # it has said why
                            raise RuntimeError(f"{text}ended with {helper.exitcode}") from error
                        how = f"was killed by {signal.Signals(-helper.exitcode).name}"
                        after = "is there enough memory? The same command goes on"
                        raise UserError(f"{text}{how}; {after}") from error
            raise
        finally:
            _end(watch, over)
            torch.set_num_threads(threads)
            for helper in helpers:
                helper.kill()
                helper.join()
            if dist.is_initialized():
                dist.destroy_process_group()


def _watch(helpers: list[BaseProcess], over: threading.Event, lost: threading.Event) -> None:
    """End what this process does with another that has died, and say so.

    Between GPUs it would wait for that one until `PATIENCE` is over; between CPUs it sees the
    connection end.
    """
    while not over.wait(WATCH_SECONDS):
        if any(helper.exitcode for helper in helpers):
            break
    if not over.wait(GRACE_SECONDS):
        lost.set()
        dist.group.WORLD.abort()


def _end(watch: threading.Thread, over: threading.Event) -> None:
    over.set()
    if watch.is_alive():
        watch.join(END_SECONDS)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Keep Ctrl-C from processes that are started, also while they import what they need.

    The first one is told of it, and ends them.
    """
    resource_tracker.ensure_running()  # whose own start would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _arrived(meeting: Path, rank: int) -> Path:
    return meeting.with_name(f"{meeting.name}-{rank}")


def _join(meeting: Path, device: str, rank: int, devices: int, precision: Any) -> Assemble:
    """Meet the other processes."""
    backend = "nccl" if device == "cuda" else "gloo"
    # Nothing of it leaves the machine.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    where: dict[str, Any] = {"rank": rank, "world_size": devices, "timeout": PATIENCE}
    if device == "cuda":
        torch.cuda.set_device(rank)
        # Connects at once, while all are known to live: NCCL's own first wait cannot be ended.
        where["device_id"] = torch.device("cuda", rank)
    dist.init_process_group(backend, init_method=meeting.as_uri(), **where)

    def assemble(all_reached: bool) -> Fabric:
        fabric = Fabric(
            accelerator=device,
            devices=devices,
            strategy=DDPStrategy(find_unused_parameters=not all_reached),
            precision=precision,
            plugins=[_Place(rank, devices)],
        )
        fabric.launch()
        return fabric

    return assemble


def _help(
    assist: Assist,
    trainable: Trainable,
    folders: dict[str, Path],
    resume: Path,
    device: str,
    meeting: Path,
    rank: int,
    devices: int,
    threads: int,
) -> None:
    """Be one of the other processes."""
    mask_messages()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for good, whatever a library lets through
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(threads)
    _arrived(meeting, rank).touch()
    assemble = _join(meeting, device, rank, devices, trainable.recipe.precision)
    assist(trainable, Helping(folders, resume, device), assemble)
    dist.destroy_process_group()

"""What a running stage is given, and what is done to the process around it."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmark.api import Context, Trainable, UserError
from benchmark.engine.lease import Lease
from benchmark.engine.progress import Reporter
from benchmark.engine.store import ArtifactError, Claim, Marks, ReplacedArtifactError, Store
from benchmark.stage import Stage, topological

Train = Callable[[Trainable, Context], int]
"""Trains, and returns how many devices shared it."""


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
    """What a running stage is given; implements `benchmark.api.Context`.

    Attributes
    ----------
    devices
        How many devices shared its training; None without one.
    """

    def __init__(
        self,
        stage: Stage,
        store: Store,
        claim: Claim,
        *,
        train: Train,
        device: str,
        reporter: Reporter,
    ) -> None:
        self.out: Path = claim.out
        self.resume: Path = claim.resume
        self._stage, self._store = stage, store
        self._lease: Lease = claim.lease
        self.workers = claim.lease.threads  # no more than it was given
        self._train, self._device, self._reporter = train, device, reporter
        self._opened: dict[Stage, Marks] = {}
        self.devices: int | None = None

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
        folder = self._store.open(stage)
        self._opened.setdefault(stage, self._store.marks(stage))
        return folder

    def unusable_inputs(self) -> Iterator[ArtifactError]:
        """Yield what is wrong with inputs since they were opened.

        A file that changes after it was verified is read without an error, above all where it is
        mapped into memory.
        """
        for stage, marks in self._opened.items():
            try:
                self._store.open(stage)
            except ArtifactError as error:
                yield error
            else:
                if self._store.marks(stage) != marks:
                    yield ReplacedArtifactError(stage.digest, "")

    def progress(self, done: float, total: float, unit: str = "", note: str = "") -> None:
        """Report how far the work is; raises `LeaseLostError` after a take-over."""
        self._lease.check()
        self._reporter.progress(done, total, unit, note)

    def train(self, trainable: Trainable) -> None:
        """Run the harness's training loop and leave the best weights in ``out``."""
        self.devices = self._train(trainable, self)


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Let the stage, its worker processes included, make files that only the user can read."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def threads_of(stage: Stage) -> Iterator[None]:
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

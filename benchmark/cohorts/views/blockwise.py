"""What all views share: computed block by block of people, resumable, in threads."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchmark.api import Context, View

if TYPE_CHECKING:
    from benchmark.cohorts.cohort import CohortData

MARK_EVERY = 30.0  # seconds between notes of how far a view is; less is not worth resuming


@dataclass(frozen=True, kw_only=True)
class BlockwiseView(View):
    """A view computed block by block of people, each person independently of all others."""

    pools: ClassVar[bool] = True
    dtype: ClassVar[str] = "float32"
    block: ClassVar[int] = 32
    cost: ClassVar[float] = 0.0
    """Seconds for one person on one core of 2024."""

    def entries(self, data: CohortData, rows: slice) -> np.ndarray:
        """Return (people, *shape) of some people of the cohort."""
        raise NotImplementedError

    def run(self, context: Context) -> None:
        """Compute the blocks that an earlier attempt did not finish."""
        from benchmark.cohorts.cohort import CohortData

        data = CohortData(context.open(self.cohort))
        shape = (len(data.people), *self.shape)
        _fill(context, shape, self.dtype, self.block, lambda rows: self.entries(data, rows))

    def estimate(self) -> tuple[float, float]:
        """From the measured seconds per person; 6,000 people where the cohort does not say."""
        people = getattr(self.cohort, "people", 6000)
        size = math.prod(self.shape) * np.dtype(self.dtype).itemsize
        return 1 + people * self.cost, people * size


def _fill(
    context: Context,
    shape: tuple[int, ...],
    dtype: str,
    block: int,
    compute: Callable[[slice], np.ndarray],
) -> None:
    """Write ``array.npy``, whose rows ``compute`` gives for a slice of people.

    Threads rather than processes: scipy's filters and numpy let go of the interpreter. Two threads
    clean 2.1 times as fast as one and measure beats 1.3 times as fast (two processes: 1.8 and 1.7,
    once started), with nothing to start, to send or to outlive a kill.
    """
    from benchmark.cohorts.arrays import create_array

    people = shape[0]
    path, mark = context.resume / "array.npy", context.resume / "done"
    done = int(mark.read_text()) if mark.exists() else 0
    array = np.load(path, mmap_mode="r+") if done else create_array(path, shape, dtype)
    context.progress(done, people, unit="people")

    def work(rows: slice) -> int:
        array[rows] = compute(rows)
        return rows.stop

    marked = time.monotonic()
    pool = ThreadPoolExecutor(max(1, context.workers))
    try:
        starts = range(done, people, block)
        # map yields in order, so every row before a finished block is finished too.
        for done in pool.map(work, (slice(s, min(s + block, people)) for s in starts)):
            context.progress(done, people, unit="people")
            if time.monotonic() - marked > MARK_EVERY:
                array.flush()  # first, or a power cut could leave the mark without the rows
                _replace(mark, str(done))
                marked = time.monotonic()
    finally:
        pool.shutdown(cancel_futures=True)
    array.flush()
    mark.unlink(missing_ok=True)  # first: a mark without its array could not be resumed from
    path.rename(context.out / "array.npy")


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)

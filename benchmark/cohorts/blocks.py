"""Work on many people, cut into blocks that survive a kill and spread over worker processes.

A cohort is made block by block; each block is one file, written in one rename, and what an earlier
attempt has finished is not done again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def block_file(folder: Path, block: int) -> Path:
    """Return the file of a block."""
    return folder / f"block-{block:05d}.safetensors"


def missing_blocks(folder: Path, count: int) -> list[int]:
    """Return the blocks that are not there yet; drop what a killed attempt left half-written."""
    for unfinished in folder.glob("*.part"):
        unfinished.unlink()
    return [block for block in range(count) if not block_file(folder, block).exists()]


@contextmanager
def finished_blocks(
    make: Callable[[int], dict[str, np.ndarray]],
    blocks: Sequence[int],
    folder: Path,
    workers: int,
) -> Iterator[Iterator[int]]:
    """Give the numbers of the blocks as they are done, here or in worker processes.

    Parameters
    ----------
    make
        Returns the arrays of a block; picklable when ``workers`` is above 1.
    blocks
        Which.
    folder
        Where `block_file` is written.
    workers
        Processes.
    """
    workers = min(workers, len(blocks))
    if workers <= 1:
        yield (_write_block(make, block, folder) for block in blocks)
        return
    import multiprocessing

    # Not fork: the parent may hold locks of torch's or BLAS's threads.
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        futures = [pool.submit(_write_block, make, block, folder) for block in blocks]
        yield (future.result() for future in as_completed(futures))
    finally:
        pool.shutdown(cancel_futures=True)


def _write_block(make: Callable[[int], dict[str, np.ndarray]], block: int, folder: Path) -> int:
    """Make one block and write it in one rename; return its number."""
    from safetensors.numpy import save

    target = block_file(folder, block)
    part = target.with_suffix(".part")
    # Not save_file, which reports a full disk as its own error type and not as an OSError.
    part.write_bytes(save(make(block)))
    part.replace(target)
    return block


def _start_worker() -> None:
    """Keep to one thread, and end when the parent does: a pool's workers outlive a killed one."""
    import multiprocessing
    import signal
    import threading

    import numpy as np  # noqa: F401 - the limit reaches only libraries already loaded
    from threadpoolctl import threadpool_limits

    from benchmark.privacy import mask_messages

    mask_messages()
    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and ends the pool
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()

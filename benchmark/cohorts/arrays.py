"""Large arrays on disk."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import numpy as np

_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


def create_array(path: Path, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> np.memmap:
    """Make a ``.npy`` file of zeros whose space is reserved, and map it for writing.

    A sparse file would do as well until the disk is full: then writing through the map kills the
    process with SIGBUS, where nothing can be caught.

    Parameters
    ----------
    path
        Where to write; replaced when it exists.
    shape, dtype
        Of the array, which must not be empty.

    Returns
    -------
    np.memmap
        The array in C order, opened for reading and writing.

    Raises
    ------
    OSError
        With ``errno.ENOSPC`` when the disk cannot hold the array; no file is left behind.
    """
    path = Path(path)
    try:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
        with path.open("r+b") as file:
            _reserve(file.fileno(), os.fstat(file.fileno()).st_size, array.offset)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        error.filename = error.filename or str(path)
        raise
    return array


def _reserve(descriptor: int, size: int, header: int) -> None:
    """Give every byte of the file its place on disk; those after the header are still zero."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except AttributeError:  # not offered by macOS and Windows
        pass
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    else:
        return
    zeros = memoryview(bytes(1 << 20))
    os.lseek(descriptor, header, os.SEEK_SET)
    while header < size:
        header += os.write(descriptor, zeros[: size - header])

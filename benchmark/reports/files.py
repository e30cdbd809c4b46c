"""How aggregates become files: canonical, whole or not at all, and one writer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DRAFT = ".draft"


@functools.lru_cache(maxsize=4096)
def grouped(digest: str) -> str:
    """Return a digest as rows hold it, in groups of six.

    Seven decimal digits in a row look like a person's id to the tools that guard repositories.
    """
    return "-".join(digest[i : i + 6] for i in range(0, len(digest), 6))


def plain(value: Any) -> Any:
    """Return JSON types only; floats at 12 significant digits, not-a-number and infinity None."""
    kind = type(value)
    # Files have millions of values, nearly all of these kinds.
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is float:
        return float(f"{value:.12g}") if math.isfinite(value) else None
    if kind is dict:
        return {name: plain(item) for name, item in value.items()}
    if kind is list:
        return [plain(item) for item in value]
    if isinstance(value, str):
        return value
    if isinstance(value, float | np.floating):
        return float(f"{value:.12g}") if math.isfinite(value) else None
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, Sequence | np.ndarray):
        return [plain(item) for item in value]
    raise TypeError(f"a row cannot hold a {type(value).__name__}")


def dumps(file: Mapping[str, Any]) -> str:
    """Canonical text: keys sorted, 12 significant digits, null for unknown, a row on each line."""
    return _lines(plain(file), depth=2) + "\n"


def _lines(value: Any, depth: int) -> str:
    """Write the items of so many levels on lines of their own."""
    if not (depth and value and isinstance(value, dict | list)):
        return json.dumps(value, sort_keys=True, allow_nan=False)
    if isinstance(value, list):
        return "[\n" + ",\n".join(_lines(item, depth - 1) for item in value) + "\n]"
    items = (f"{json.dumps(k)}: {_lines(v, depth - 1)}" for k, v in sorted(value.items()))
    return "{\n" + ",\n".join(items) + "\n}"


@contextlib.contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait for the folder's lock and hold it, so that processes change its files one by one.

    The folder itself is locked: no lock file is left behind among what is published, and what a
    killed process has left half-written is removed.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for draft in Path(folder).glob(f".*{DRAFT}"):
            draft.unlink()
        yield
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a whole file or nothing: readers see the old one until the new one is complete.

    Where processes take turns in a folder, whoever writes there without one may lose its draft.
    """
    descriptor, temporary = tempfile.mkstemp(DRAFT, f".{path.name}.", path.parent)
    try:
        with os.fdopen(descriptor, "wb") as f:
            f.write(content.encode() if isinstance(content, str) else content)
            f.flush()
            os.fsync(f.fileno())  # or a power cut could leave the name without the content
        Path(temporary).chmod(0o644)  # mkstemp's files are private, published ones are not
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise

"""What a container grants: Linux control groups, of both versions."""

from __future__ import annotations

import contextlib
from pathlib import Path


def _cgroup() -> Path:
    """Return the folder of this process's own control group (version 2)."""
    root = Path("/sys/fs/cgroup")
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                own = root / line[3:].lstrip("/")
                return own if own.is_dir() else root
    except OSError:
        pass
    return root


def cpu_limit(folder: Path | None = None) -> float | None:
    """Return how many cores' time the control group grants; None without a limit."""
    folder = folder or _cgroup()
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else float(quota) / float(period)
    with contextlib.suppress(OSError, ValueError):  # version 1
        quota, period = (
            int((folder / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
        )
        return quota / period if quota > 0 else None
    return None


def memory_limit(folder: Path | None = None) -> int | None:
    """Return the bytes of memory that the control group grants; None without a limit."""
    folder = folder or _cgroup()
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limit = (folder / name).read_text().strip()
            return None if limit == "max" else int(limit)
    return None

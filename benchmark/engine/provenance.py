"""Where an artifact came from: recorded in its manifest, never part of its identity."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_PROJECT = ("benchmark", "methods", "tasks")
_SAMPLE_SECONDS = 0.1


def provenance(stage_class: type) -> dict[str, Any]:
    """Return code hash, git state, library versions and hardware, ready for JSON."""
    return {
        "module": stage_class.__module__,
        "code": code_hash(stage_class.__module__),
        **_git(),
        "python": platform.python_version(),
        "libraries": _libraries(),
        "hardware": {**_hardware(), "gpu": _gpu()},
    }


# ------------------------------------------------------------------------------------- code


@functools.cache
def code_hash(module: str) -> str | None:
    """Return the sha256 over a module and all project modules it imports, at any depth.

    Imports are read from the source, those inside functions included, so nothing is imported to
    find out. None for a module without a source file.
    """
    if _source(module) is None:
        return None
    found: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = _source(name)
        if file is None or name in found:
            continue
        found[name], imports = _read(file, name)
        waiting += imports
    parts = (f"{name} {digest.hex()}" for name, digest in sorted(found.items()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@functools.cache
def _read(file: Path, module: str) -> tuple[bytes, tuple[str, ...]]:
    source = file.read_bytes()
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    return hashlib.sha256(source).digest(), tuple(_imports(ast.parse(source), package))


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            # `from package import name` may name a module of the package or something in it.
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (n for n in names if n.partition(".")[0] in (*_PROJECT, package.split(".")[0]))


@functools.cache
def _source(module: str) -> Path | None:
    top, *rest = module.split(".")
    if top in _PROJECT:
        base = _ROOT.joinpath(top, *rest)
        candidates = (base.with_name(base.name + ".py"), base / "__init__.py")
        return next((file for file in candidates if file.is_file()), None)
    if module in sys.modules:
        origin = getattr(sys.modules[module], "__file__", None)
    else:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            return None
        origin = spec.origin if spec else None
    return Path(origin) if origin and origin.endswith(".py") and Path(origin).is_file() else None


# ------------------------------------------------------------------------------- environment


@functools.cache
def _git() -> dict[str, Any]:
    state: dict[str, Any] = {"git": None, "dirty": None}
    # Installed without its repository, the project may lie inside somebody else's.
    if not (_ROOT / ".git").exists():
        return state
    command = ["git", "-C", str(_ROOT), "status", "--porcelain=v2", "--branch", "--", *_PROJECT]
    # Without optional locks, or a user's own `git commit` may find the index locked by us.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=5, check=True, env=environment
        )
    except (OSError, subprocess.SubprocessError):
        return state
    lines = answer.stdout.splitlines()
    for line in lines:
        if line.startswith("# branch.oid "):
            oid = line.split()[2]
            state["git"] = None if oid == "(initial)" else oid
    state["dirty"] = any(not line.startswith("#") for line in lines)
    return state


@functools.cache
def _libraries() -> dict[str, str]:
    """Versions of the distributions this project depends on, as far as they are installed."""
    try:
        requirements = importlib.metadata.requires("ecgcmr-bench") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    versions = {}
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)
        if name and "extra ==" not in requirement:
            try:
                versions[name[0]] = importlib.metadata.version(name[0])
            except importlib.metadata.PackageNotFoundError:
                continue
    return versions


@functools.cache
def _hardware() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # not Linux: the processor's family has to do
    return {
        "machine": platform.machine(),
        "cpu": model,
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _gpu() -> str | None:
    """Name of the GPU, where this process has used one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return torch.cuda.get_device_name()


def usable_cores() -> int:
    """Return the CPU cores this process may use, fewer than the machine has in a batch job."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class PeakMemory:
    """Measures the peak resident memory of this process while a block runs.

    The system keeps a high-water mark, but of the whole life of the process, and resetting it
    would spoil what tools outside measure. So the mark is used where the block raised it, and
    samples where an earlier block had been higher. Worker processes are not counted.

    Attributes
    ----------
    bytes
        The peak, once the block is over.
    gpu_bytes
        Peak memory on the GPU, or None where none was used.
    """

    bytes = 0
    gpu_bytes: int | None = None

    def __enter__(self) -> PeakMemory:
        import psutil

        self._process = psutil.Process()
        self._before = _high_water()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory", daemon=True)
        self._thread.start()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        if _high_water() > self._before:
            self.bytes = _high_water()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            self.gpu_bytes = torch.cuda.max_memory_allocated()

    def _sample(self) -> None:
        while True:
            self.bytes = max(self.bytes, self._process.memory_info().rss)
            if self._stop.wait(_SAMPLE_SECONDS):
                return


def _high_water() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

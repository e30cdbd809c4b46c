"""``ecgcmr doctor``: whether this installation can do its work, and what to do where it cannot."""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmark import __version__
from benchmark.engine.limits import cpu_limit, memory_limit
from benchmark.engine.progress import amount
from benchmark.engine.provenance import usable_cores
from benchmark.privacy import store_root

ROOT = Path(__file__).resolve().parent.parent
OURS = ("benchmark", "methods", "tasks")
STORE_HOLDS = {"done", "work", "lease", "failed", "corrupt", "prepared", "secret"}
STORE_HOLDS |= {"durations.jsonl"}
ROOM = 10e9
"""Bytes that all methods at the default scale fit into, with the simulated people."""
LITTLE_ROOM = 1e9
MEMORY = 4e9
"""Bytes that the largest stage of the default scale needs."""
TORCH_SECONDS = 60

# Another process: a torch that does not fit its torchvision, or this processor, may well take the
# process down that imports it.
TORCH_PROBE = """
import json, sys
import torch
found = {"torch": torch.__version__, "threads": torch.get_num_threads()}
found["built_for"] = torch.version.cuda or torch.version.hip
found["cuda"] = torch.cuda.is_available()
found["gpu"] = torch.cuda.get_device_name() if found["cuda"] else None
found["mps"] = torch.backends.mps.is_available()
try:
    import torchvision
    found["torchvision"] = torchvision.__version__
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.9]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5)
    found["pair"] = kept.tolist() == [0]
    if found["cuda"]:
        device = torch.device("cuda")
        ones = torch.ones(64, 64, device=device)
        found["gpu_works"] = float((ones @ ones).sum()) == 64.0 ** 3
except Exception as error:
    found["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps(found))
"""

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``todo`` is the next step where something is not right."""

    check: str
    state: State
    detail: str
    todo: str = ""


def examine(leaderboards: Path = ROOT / "leaderboards") -> list[Finding]:
    """Look at everything a run depends on; nothing is left behind.

    Parameters
    ----------
    leaderboards
        Folder of rows and boards, to which a run has to write.
    """
    # Started first and read last: it takes longer than all else together.
    command = [sys.executable, "-c", TORCH_PROBE]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    probe = subprocess.Popen(command, text=True, **pipes)
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _names,
        _libraries,
        _cores,
        _memory,
        _environment,
        _store,
        lambda: _leaderboards(leaderboards),
        _plugins,
        _prepared,
        _git,
        lambda: _torch(probe),
    ]
    return [finding for check in checks for finding in check()]


def text(findings: list[Finding]) -> str:
    """Return a line for each finding, its next step below, and a summary."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:<8} {finding.check:<{width}}  {finding.detail}")
        if finding.todo:
            lines.append(f"{'':<8} {'':<{width}}  -> {finding.todo}")
    counts = {s: sum(f.state == s for f in findings) for s in ("problem", "warning")}
    said = [f"{n} {state}{'s' if n > 1 else ''}" for state, n in counts.items() if n]
    lines.append(", ".join(said) or "everything is in order")
    return "\n".join(lines)


def as_json(findings: list[Finding]) -> list[dict[str, Any]]:
    """Return the findings as plain JSON."""
    return [asdict(finding) for finding in findings]


# ----------------------------------------------------------------------------- installation


def _python() -> Iterator[Finding]:
    where = f"{platform.python_version()} at {sys.executable}"
    yield Finding("python", "ok", f"{where}, {platform.platform(terse=True)}")
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    if encoding != "utf8":
        detail = f"prints {sys.stdout.encoding or 'bytes'}: letters such as ² become ?"
        yield Finding("output", "warning", detail, "set PYTHONUTF8=1")


def _names() -> Iterator[Finding]:
    """Our three packages have common names: another one first on the path takes their place."""
    hidden = []
    for name in OURS:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
        places = list(spec.submodule_search_locations or []) if spec else []
        places += [spec.origin] if spec and spec.origin and not places else []
        if not any(Path(place).resolve() == ROOT / name for place in places):
            hidden.append(f"{name} ({places[0] if places else 'not found'})")
    if hidden:
        detail = f"not ours: {', '.join(hidden)}"
        todo = "leave that folder, take it from PYTHONPATH, or use an environment of its own"
        yield Finding("packages", "problem", detail, todo)
    else:
        yield Finding("packages", "ok", f"ecgcmr-bench {__version__} in {ROOT}")


def _libraries() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    install = f"{sys.executable} -m pip install -e {ROOT}"
    try:
        needed = [Requirement(r) for r in importlib.metadata.requires("ecgcmr-bench") or []]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("libraries", "problem", "ecgcmr-bench is not installed", install)
        return
    needed = [r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    wrong = []
    for requirement in needed:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, needed {requirement.specifier}")
    if wrong:
        yield Finding("libraries", "problem", "; ".join(wrong), install)
    else:
        yield Finding("libraries", "ok", f"all {len(needed)} are there")


def _torch(probe: subprocess.Popen[str]) -> Iterator[Finding]:
    together = f"{sys.executable} -m pip install --force-reinstall torch torchvision"
    try:
        printed, said = probe.communicate(timeout=TORCH_SECONDS)
    except subprocess.TimeoutExpired:
        probe.kill()
        probe.communicate()
        detail = f"was not imported within {TORCH_SECONDS} s"
        yield Finding("torch", "warning", detail, "is the disk of the environment slow?")
        return
    try:
        found = json.loads(printed.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = (said.strip().splitlines() or [f"its process ended with {probe.returncode}"])[-1]
        yield Finding("torch", "problem", f"cannot be imported: {last}", together)
        return
    pair = f"torch {found['torch']}, torchvision {found.get('torchvision', 'missing')}"
    if found.get("pair"):
        yield Finding("torch", "ok", f"{pair} fit together")
    else:
        detail = f"{pair} do not fit together: {found.get('error', 'wrong result')}"
        yield Finding("torch", "problem", detail, f"{together} (both in one call)")
    yield from _device(found)


def _device(found: dict[str, Any]) -> Iterator[Finding]:
    if found["cuda"]:
        works = found.get("gpu_works", False)
        state: State = "ok" if works else "problem"
        todo = "" if works else "look at nvidia-smi, or run with --device cpu"
        detail = f"{found['gpu']}, CUDA {found['built_for']}"
        yield Finding("device", state, detail if works else f"{detail} does not compute", todo)
    elif found["mps"]:
        yield Finding("device", "ok", "Apple's GPU (mps)")
    elif Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi"):
        if found["built_for"] is None:
            detail, todo = "a GPU is here, but torch is built without CUDA", "install torch for it"
        else:
            detail = f"a GPU is here, but torch for CUDA {found['built_for']} cannot use it"
            todo = "nvidia-smi says which CUDA the driver can; install torch for that one"
        yield Finding("device", "warning", detail, f"{todo}; until then the CPU is used")
    else:
        yield Finding("device", "ok", "CPU; there is no GPU")


# --------------------------------------------------------------------------------- machine


def _cores() -> Iterator[Finding]:
    cores = usable_cores()
    detail = f"{cores} of {os.cpu_count()} may be used"
    granted = cpu_limit()
    if granted is not None and granted < cores:
        detail += f", but only {granted:g} cores' time is granted (cgroup)"
        todo = f"raise the container's limit, or pass --workers {max(1, int(granted))}"
        yield Finding("cores", "warning", detail, todo)
    else:
        yield Finding("cores", "ok", detail)


def _memory() -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory_limit()
    usable = total if limit is None else min(total, limit)
    detail = f"{amount(usable)}" + (" (cgroup limit)" if usable < total else "")
    if usable < MEMORY:
        todo = f"the largest stages at the default scale need {amount(MEMORY)}; use --scale smoke"
        yield Finding("memory", "warning", detail, todo)
    else:
        yield Finding("memory", "ok", detail)


def _environment() -> Iterator[Finding]:
    """Look for settings of the user that a run keeps to and that cost it time or repeatability."""
    wrong = []
    spin = os.environ.get("GOMP_SPINCOUNT", "0")
    if spin.upper() in ("INFINITY", "INFINITE") or (spin.isdigit() and int(spin) > 1_000_000):
        wrong.append(f"GOMP_SPINCOUNT={spin}")
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "active":
        wrong.append("OMP_WAIT_POLICY=active")
    if wrong:
        detail = f"{', '.join(wrong)}: waiting threads keep the cores from those that work"
        yield Finding(
            "threads", "warning", detail, f"unset {' '.join(w.split('=')[0] for w in wrong)}"
        )
    else:
        own = [name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ]
        note = f", whatever {' and '.join(own)} says" if own else ""
        yield Finding("threads", "ok", f"stages set their own number{note}")
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    if workspace not in (None, ":4096:8", ":16:8"):
        detail = f"CUBLAS_WORKSPACE_CONFIG={workspace} makes results on a GPU differ"
        yield Finding("repeatability", "warning", detail, "unset CUBLAS_WORKSPACE_CONFIG")


# ---------------------------------------------------------------------------------- places


def _store() -> Iterator[Finding]:
    root = store_root()
    other = "set ECGCMR_STORE to a folder of your own on another disk"
    nearest = next(p for p in (root, *root.parents) if os.path.lexists(p))
    if not nearest.is_dir():
        yield Finding("store", "problem", f"{nearest} is no folder", other)
        return
    try:
        failed = _cannot(nearest)
    except OSError as error:
        yield Finding("store", "problem", f"cannot write to {nearest}: {error.strerror}", other)
        return
    if failed:
        detail = f"the disk of {root} cannot {', '.join(failed)}: two runs would not be safe"
        yield Finding("store", "problem", detail, other)
    elif nearest != root:
        yield Finding("store", "ok", f"{root} will be made by the first run")
    else:
        yield from _content(root)
    free = shutil.disk_usage(nearest).free
    if free < ROOM:
        state: State = "problem" if free < LITTLE_ROOM else "warning"
        todo = f"make room (ecgcmr gc), or {other}"
        yield Finding("room", state, f"{amount(free)} free, {amount(ROOM)} is comfortable", todo)
    else:
        yield Finding("room", "ok", f"{amount(free)} free")


def _cannot(folder: Path) -> list[str]:
    """Return what the disk of a folder cannot do that the store stands on.

    Raises
    ------
    OSError
        When nothing can be written there at all.
    """
    failed = []
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as name:
        place = Path(name)
        (place / "a").mkdir()
        (place / "a" / "file").write_text("text")
        try:
            (place / "a").rename(place / "b")
        except OSError:
            failed.append("rename folders")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        os.close(os.open(place / "lock", flags))
        try:
            os.close(os.open(place / "lock", flags))
            failed.append("create a file once only")
        except FileExistsError:
            pass
        handle = os.open(place / "lock", os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            failed.append("lock files")
        finally:
            os.close(handle)
    return failed


def _content(root: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(root.stat().st_mode)
    names = {path.name for path in root.iterdir()}
    foreign = sorted(name for name in names - STORE_HOLDS if not name.startswith(".doctor-"))
    if root.stat().st_uid != os.getuid():
        detail = f"{root} belongs to somebody else"
        yield Finding("store", "warning", detail, "use a store of your own")
    elif mode & 0o077 and "done" in names:
        detail = f"{root} can be read by others (mode {mode:o}); it holds data of single people"
        yield Finding("store", "problem", detail, f"chmod 700 {root}")
    else:
        yield Finding("store", "ok", f"{root}, mode {mode:o}, renames and locks work")
    if foreign:
        shown = ", ".join(foreign[:3]) + (" ..." if len(foreign) > 3 else "")
        todo = "give the store a folder of its own"
        yield Finding("store", "warning", f"holds {len(foreign)} foreign things: {shown}", todo)
    damaged = len(list((root / "corrupt").iterdir())) if "corrupt" in names else 0
    if damaged:
        detail = f"{damaged} damaged artifacts were set aside; is the disk sound?"
        yield Finding("store", "warning", detail, "ecgcmr status --verify, then ecgcmr gc --yes")


def _leaderboards(folder: Path) -> Iterator[Finding]:
    nearest = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        yield Finding("leaderboards", "ok", f"{folder} can be written")
    else:
        todo = "pass --leaderboards with a folder of your own"
        yield Finding("leaderboards", "problem", f"cannot write to {folder}", todo)


def _plugins() -> Iterator[Finding]:
    try:
        from benchmark.registry import registry

        found = registry()
    except Exception as error:
        detail = f"the registry does not start: {type(error).__name__}: {error}"
        yield Finding("plugins", "problem", detail.splitlines()[0], "repair that file")
        return
    for name, trace in found.broken.items():
        last = trace.strip().splitlines()[-1]
        todo = "ecgcmr list shows the traceback; mend it or uninstall it"
        yield Finding("plugins", "problem", f"{name} is broken: {last}", todo)
    counts = (len(found.methods), len(found.tasks), len(found.cohorts))
    if not found.broken:
        yield Finding("plugins", "ok", "{} methods, {} tasks, {} cohorts".format(*counts))


def _prepared() -> Iterator[Finding]:
    from benchmark.status import prepared_cohorts

    for cohort in prepared_cohorts(store_root()):
        if cohort["problem"]:
            detail, todo = f"{cohort['name']}: {cohort['problem']}", "see ecgcmr prepare --help"
            yield Finding("cohorts", "warning", detail, todo)
        else:
            yield Finding(
                "cohorts", "ok", f"{cohort['name']}, {cohort['people']:,} people prepared"
            )


def _git() -> Iterator[Finding]:
    if shutil.which("git") is None:
        todo = "install git"
        detail = "is missing: rows will not say which commit made them, and check needs it"
        yield Finding("git", "warning", detail, todo)
    elif not (ROOT / ".git").exists():
        detail = "this is no clone: rows will not say which commit made them"
        yield Finding("git", "warning", detail, "clone the repository to submit rows")
    else:
        yield Finding("git", "ok", "rows will say which commit made them")

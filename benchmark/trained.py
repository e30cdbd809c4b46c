"""A trained method outside of runs: its recorded rows, its encoder, and where files may go."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import Method, Task, UserError
from benchmark.engine.store import Store
from benchmark.planning import MODALITIES, Request, jobs_of
from benchmark.recording import homes
from benchmark.registry import registry, track_module
from benchmark.reports.rows import read_file, rows_path
from benchmark.runner import bring
from benchmark.stage import bind, topological

if TYPE_CHECKING:
    from benchmark.encoders import Encoders


def recorded_file(
    name: str, task: Task, request: Request, leaderboards: Path
) -> dict[str, Any] | None:
    """Return the rows file of a method of the request on a task; None where nothing is recorded."""
    for home, names in homes(request, leaderboards).items():
        if name in names:
            header = {"cohort": request.cohort, "scale": request.scale, "track": request.track}
            header["preset"] = None if request.preset == "default" else request.preset
            path = rows_path(home / "rows", {**header, "task": task.name, "method": name})
            return read_file(path) if path.is_file() else None
    return None


def encoder_stage(
    name: str, request: Request, replicate: int = 0, modality: str = "", task: str = ""
) -> tuple[Method, str]:
    """Return the stage that leaves a method's encoder, as the boards evaluate it, and its modality.

    Parameters
    ----------
    name
        Of the method.
    request
        Cohort, scale and track.
    replicate
        Which of the trainings.
    modality
        Of the encoder; empty: the ECG's where there are two.
    task
        Whose labels were learned, all of them, by a method that learns labels.

    Raises
    ------
    UserError
        When there is no such encoder, or the method learns labels and ``task`` does not say whose.
    """
    entry = registry().method(name)
    cohort = request.make_cohort()
    if replicate < 0:
        raise UserError(f"--replicate is {replicate}; replicates count from 0")
    method = bind(entry.on_track(request.track, request.scale), cohort=cohort, seed=replicate)
    encoded = [m for m in method.modalities if m != "covariates"]
    modality = modality or next(iter(encoded), "")
    if modality not in encoded:
        there = " and ".join(MODALITIES[m] for m in encoded)
        has = f"no encoder of {modality!r}, only of {there}" if there else "no encoder"
        raise UserError(f"{name} has {has}")
    if list(track_module(request.track).heads(entry, request.scale)) == ["finetune"]:
        raise UserError(f"{name} exists fine-tuned only, without features of its own")
    if not entry.uses_labels:
        if task:
            raise UserError(f"--task is {task!r}, but {name} learns no labels: leave it out")
        return method, modality
    if not task:
        known = ", ".join(n for n, t in registry().tasks.items() if t.predict is None)
        raise UserError(f"{name} learns labels: say with --task whose ({known})")
    asked = replace(request, fractions=(1.0,), modality="")
    jobs = jobs_of(entry, registry().task(task), cohort, replicate, asked)
    stages = {
        stage.digest: stage
        for job in jobs
        for stage in topological([job.score])
        if isinstance(stage, entry.cls) and stage.variant == method.variant
    }
    if len(stages) != 1:
        many = f"{len(stages)} encoders, one for each part of it" if stages else "no encoder"
        raise UserError(f"{name} has {many} on {task}: name a task that it learns as a whole")
    return next(iter(stages.values())), modality


def open_encoder(method: Method, modality: str, store: Store, device: str) -> Encoders:
    """Train what is missing and return the parts of a method in evaluation mode, on the CPU.

    Raises
    ------
    UserError
        When it cannot be trained, or leaves no encoder of this modality.
    """
    if not bring([method], store, device=device).ok:
        raise UserError(f"{method.group} could not be trained; see above")
    from benchmark.engine.training import load_encoders

    encoders = load_encoders(method, store.open(method))
    if not encoders.has(modality):
        raise UserError(f"{method.group} leaves no encoder of {MODALITIES[modality]} behind")
    return encoders


def check_private(path: Path, what: str) -> None:
    """Refuse a place where git would see individual-level data.

    Parameters
    ----------
    path
        That is going to be written.
    what
        It is, in words.

    Raises
    ------
    UserError
        When the path lies in a git work tree that does not ignore it.
    """
    folder = path.absolute().parent
    while not folder.is_dir():
        folder = folder.parent
    if shutil.which("git") is None:
        inside = any((parent / ".git").exists() for parent in (folder, *folder.parents))
    else:
        asked = ["git", "-C", str(folder), "check-ignore", "--quiet", str(path.absolute())]
        # 0: ignored, 1: not ignored, 128: no work tree.
        inside = subprocess.run(asked, capture_output=True, check=False).returncode == 1
    if inside:
        raise UserError(
            f"{path} is where git would see it, and {what} are individual-level data: choose "
            "another place, or have git ignore it"
        )


def write_private(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file that only its owner may read, whole or not at all.

    Parameters
    ----------
    path
        To be written or replaced.
    write
        Is given a temporary path with the same ending.

    Raises
    ------
    UserError
        When the place cannot be written to.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=path.suffix, prefix=".part-")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    os.close(descriptor)  # mkstemp's files have mode 0600, which writing into them keeps
    part = Path(name)
    try:
        write(part)
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)

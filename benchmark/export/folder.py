"""``ecgcmr export``: write a trained encoder as a folder, and make sure that it works alone."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark import __version__
from benchmark.api import UserError, View
from benchmark.cohorts.cohort import LEADS
from benchmark.engine.store import Store
from benchmark.export.card import render_card, scores_of
from benchmark.export.networks import (
    example_of,
    networks_of,
    pooled_only,
    weights_of,
    write_program,
)
from benchmark.names import file_name
from benchmark.planning import Request
from benchmark.recording import board_folder
from benchmark.registry import registry
from benchmark.reports.files import grouped
from benchmark.trained import check_private, encoder_stage, open_encoder

if TYPE_CHECKING:
    from torch import nn

FORMAT = "ecgcmr-bench encoder 1"
"""What ``config.json`` says of a folder that was written here."""
LICENCE = "Apache-2.0"
LOADER = Path(__file__).with_name("standalone.py")
VERIFY_SECONDS = 300


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be exported.

    Attributes
    ----------
    method, replicate, modality, task
        As `benchmark.trained.encoder_stage` has them.
    onnx
        Whether a program that onnxruntime runs is written too; the only form of encoders that are
        no transformers.
    permitted_by
        Who allowed weights that were trained on real people to leave the store, and under which
        reference; goes into the card.
    out
        Folder; None is ``exports/`` and a name that says what it holds.
    """

    method: str
    replicate: int = 0
    modality: str = ""
    task: str = ""
    onnx: bool = False
    permitted_by: str = ""
    out: Path | None = None


def export(
    wanted: Wanted, request: Request, store: Store, leaderboards: Path, device: str = "auto"
) -> Path:
    """Write the folder and return it; trains what is missing.

    The loader encodes an example in a process of its own before anything is put in place, and has
    to find the features that the benchmark computes.

    Raises
    ------
    UserError
        When the method has no such encoder, its people are real and nobody permitted it, the place
        holds something else, or the exported encoder does not give the same features.
    """
    entry, cohort = registry().method(wanted.method), request.make_cohort()
    permitted_by = " ".join(wanted.permitted_by.split())
    if not cohort.simulated and not permitted_by:
        raise UserError(
            f"weights learned from the people of {request.cohort} count as individual-level data "
            "until a data officer says otherwise; name who does, and the reference, with "
            "--permitted-by TEXT"
        )
    method, modality = encoder_stage(
        wanted.method, request, wanted.replicate, wanted.modality, wanted.task
    )
    out = wanted.out or Path("exports") / _folder_name(wanted, request, modality)
    _check_place(out)
    if not cohort.simulated:
        check_private(out / "encoder.safetensors", "weights learned from real people")
    encoders = open_encoder(method, modality, store, device)
    encoder, view = getattr(encoders, modality), method.views()[modality]
    networks = networks_of(encoder)
    if networks is None and not wanted.onnx:
        raise UserError(
            f"the standalone loader builds transformers, and the encoder of {wanted.method} is a "
            f"{type(encoder).__name__}: ask for a program of it with --onnx"
        )
    about = {
        "format": FORMAT,
        "method": entry.name,
        "summary": entry.summary,
        "paper": entry.paper,
        "track": request.track,
        "scale": request.scale,
        "cohort": request.cohort,
        "preset": request.preset if cohort.simulated else None,
        "simulated": cohort.simulated,
        "replicate": wanted.replicate,
        "labels": wanted.task or None,
        "modality": modality,
        "stage": grouped(method.digest),
        "cohort_fingerprint": grouped(cohort.digest),
        "licence": LICENCE if cohort.simulated else None,
        "permitted_by": permitted_by or None,
        "networks": networks,
        "input": _input(view),
        "scores": scores_of(method, wanted, request, leaderboards),
        "recipe": method.describe(),
        "made_with": {
            "ecgcmr-bench": __version__,
            **{name: importlib.metadata.version(name) for name in ("torch", "timm")},
        },
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as name:
            part = Path(name) / "folder"
            part.mkdir(mode=0o755 if cohort.simulated else 0o700)
            _write(part, about, encoder, view, wanted.onnx)
            _verify(part)
            for path in part.iterdir():
                path.chmod(0o644 if cohort.simulated else 0o600)
            if out.exists():
                out.rename(Path(name) / "before")
            part.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from None
    return out


def _folder_name(wanted: Wanted, request: Request, modality: str) -> str:
    """Return a name safe for files of what is exported: method, people, track, modality."""
    parts = [wanted.method, board_folder(request), f"replicate-{wanted.replicate}"]
    if modality != "ecg":
        parts.insert(1, modality)
    if request.track != "harmonised":
        parts.insert(1, request.track)
    if wanted.task:
        parts.insert(1, wanted.task)
    return file_name("-".join(parts))


def _check_place(out: Path) -> None:
    """Make sure that nothing would be overwritten but an earlier export.

    Raises
    ------
    UserError
        When the folder holds a file that no export wrote.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(f"{out} is no folder; choose another place with --out")
    if not out.exists():
        return
    try:
        about = json.loads((out / "config.json").read_text())
        own = set(about["files"]) if about["format"] == FORMAT else set()
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    caches = {"__pycache__"}  # Python's, of a loader that was imported
    foreign = sorted({p.name for p in out.iterdir()} - own - {"config.json"} - caches)
    if (out / "config.json").exists() and not own:
        foreign.insert(0, "config.json")
    if foreign:
        raise UserError(
            f"{out} holds {foreign[0]}, which no export wrote; choose another place with --out"
        )


def _input(view: View) -> dict[str, Any]:
    """Return what the encoder must be given, for programs and in words."""
    from benchmark.cohorts import cleaning
    from benchmark.cohorts.views import CleanECG

    fields = {k: v for k, v in view.describe().items() if k not in ("name", "version", "cohort")}
    values = ", ".join(f"{name} {value}" for name, value in fields.items())
    what = (inspect.getdoc(type(view)) or "").partition("\n")[0]
    preparation, text = None, f"{what} ({type(view).__name__}: {values})."
    if isinstance(view, CleanECG):
        if view.recipe == "harmonised":
            preparation = {"rate": view.rate, "window": view.window}
        else:
            steps = inspect.getdoc(cleaning.RECIPES[view.recipe]).replace("\n", " ")
            text += f" The cleaning {view.recipe}: {steps}"
    crops = view.crops()
    return {
        "modality": view.modality,
        "shape": list(view.shape),
        "leads": list(LEADS) if view.shape[:-1] == (len(LEADS),) else None,
        "windows": None if crops is None else [[c.start, c.stop] for c in crops],
        "preparation": preparation,
        "description": " ".join(text.split()),
    }


def _write(folder: Path, about: dict[str, Any], encoder: nn.Module, view: View, onnx: bool) -> None:
    """Write all files; the last one, ``config.json``, names the others with their checksums."""
    import torch
    from safetensors.torch import save_file

    from benchmark.evaluation.embed import encode
    from benchmark.export.standalone import Encoder

    example = example_of(view)
    parts = torch.nn.ModuleDict({view.modality: encoder})
    parts.has = lambda name: name == view.modality
    example["features"], _ = encode(parts, view.modality, example["input"], view.crops(), "cpu")
    about["width"] = int(example["features"].shape[1])
    tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in example.items()}
    save_file(tensors, folder / "example.safetensors")
    window = view.crops()[0].stop - view.crops()[0].start if view.crops() else None
    shape = (*view.shape[:-1], window) if window else view.shape
    if about["networks"] is None:
        write_program(pooled_only(encoder), shape, folder / "encoder.onnx", batches=False)
    else:
        weights = weights_of(encoder)
        save_file(weights, folder / "encoder.safetensors", {"format": "pt"})
        if onnx:
            alone = Encoder(about["networks"]).eval()
            alone.load_state_dict(weights)
            write_program(alone, shape, folder / "encoder.onnx", batches=True)
    shutil.copyfile(LOADER, folder / "load.py")
    (folder / "README.md").write_text(render_card(about, onnx), encoding="utf-8")
    about["files"] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _verify(folder: Path) -> None:
    """Encode the example with the loader alone, in a process of its own.

    Raises
    ------
    UserError
        When its features are not those of the benchmark, or that took too long to see.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-B", "load.py"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=VERIFY_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"the exported encoder was not checked within {VERIFY_SECONDS:g} s; run it again when "
            "the machine is less busy"
        ) from None
    if done.returncode:
        text = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1:]
        raise UserError(
            f"the exported encoder does not give the features it should: {' '.join(text)}"
        )

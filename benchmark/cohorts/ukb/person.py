"""The files of one person after another, read in worker processes: a bad one stops nobody else."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmark.api import UserError
from benchmark.cohorts.cohort import CohortData
from benchmark.cohorts.ukb import cardiosoft, dicom, nifti
from benchmark.cohorts.ukb.cine import Cine
from benchmark.cohorts.ukb.images import (
    SLICES,
    ImageOptions,
    Images,
    assemble_images,
    assemble_long_axis,
)
from benchmark.cohorts.ukb.reasons import Flag, Reason, Refused

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

T = TypeVar("T")


@functools.lru_cache(maxsize=1)
def _job(work: Path) -> tuple[pd.DataFrame, ImageOptions, Path | None]:
    import pandas as pd

    job = json.loads((work / "job.json").read_bytes())
    old = Path(job["old"]) if job["old"] else None
    return pd.read_parquet(work / "plan.parquet"), ImageOptions(**job["images"]), old


def read_block(work: Path, size: int, block: int) -> dict[str, np.ndarray]:
    """Read some people of a plan.

    Parameters
    ----------
    work
        Where the plan is.
    size, block
        How many people a block has, and which one to read.

    Returns
    -------
    dict
        The arrays of `CohortData`, one row per person that is kept, and ``notes``: for every
        person what became of them, as JSON in bytes.
    """
    import numpy as np

    plan, options, old = _job(work)
    square = (options.size, options.size)
    arrays = {
        "ecg": [np.empty((0, 12, 5000), np.int16)],
        "cine": [np.empty((0, 1, options.frames, *square), np.uint8)],
        "volumes": [np.empty((0, 2, SLICES, *square), np.uint8)],
    }
    if options.long_axis:
        arrays["long_axis"] = [np.empty((0, options.frames, *square), np.uint8)]
    notes = []
    for person in plan.iloc[block * size : (block + 1) * size].itertuples():
        try:
            own, note = _read_person(person, options) if person.old < 0 else _take_over(person, old)
        except _RefusedFileError as error:
            notes.append(error.args[0])
            continue
        notes.append({"reason": None, **note})
        for name, parts in arrays.items():
            parts.append(own[name][None])
    joined = {name: np.concatenate(parts) for name, parts in arrays.items()}
    return {**joined, "notes": np.frombuffer(json.dumps(notes).encode(), np.uint8)}


class _RefusedFileError(Exception):
    """A file that cannot be used, with what is noted about it."""


def _read_person(
    person: Any, options: ImageOptions
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return a person's arrays and what is noted about them."""
    ecg = _guarded(person, "ecg", _read_ecg)

    def short_axis(path: Path) -> tuple[Cine, Images]:
        form = nifti if person.short_axis_converted else dicom
        stack = form.read_short_axis(path)
        return stack, assemble_images(stack, options)

    def long_axis(path: Path) -> tuple[Cine, np.ndarray]:
        form = nifti if person.long_axis_converted else dicom
        view = form.read_long_axis(path)
        return view, assemble_long_axis(view, options)

    stack, images = _guarded(person, "short_axis", short_axis)
    flags = set(ecg.flags) | set(stack.flags)
    arrays = {"ecg": ecg.ecg, "cine": images.cine, "volumes": images.volumes}
    if images.resampled:
        flags.add(Flag.RESAMPLED_FRAMES)
    if options.long_axis:
        view, arrays["long_axis"] = _guarded(person, "long_axis", long_axis)
        flags |= view.flags
    return arrays, {"crop": images.crop, "flags": sorted(flags)}


def _read_ecg(path: Path) -> cardiosoft.CardioSoftECG:
    with path.open("rb") as file:
        return cardiosoft.read_ecg(file.read(cardiosoft.MAX_BYTES + 1))


def _guarded(person: Any, name: str, read: Callable[[Path], T]) -> T:
    """Read a person's file; whatever is wrong with it is noted and stops nobody else."""
    path = Path(getattr(person, name))
    try:
        return read(path)
    except MemoryError:
        raise  # says nothing about the file
    except Refused as error:
        reason, detail = error.reason, error.detail
    except OSError as error:
        reason, detail = Reason.UNREADABLE, type(error).__name__
    except Exception as error:
        reason, detail = Reason.UNEXPECTED, type(error).__name__
    root = Path(getattr(person, f"{name}_root"))
    if reason is Reason.UNREADABLE and not root.is_dir():
        # Or everybody would be left out because a network drive is away.
        raise UserError(
            f"the folder {root} is gone; finished work is kept: run again when it is back"
        )
    note = {"reason": reason.name, "detail": detail, "path": str(path)}
    raise _RefusedFileError(note) from None


def _take_over(person: Any, old: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return what an earlier preparation made of the same files."""
    data, notes = _old(old)
    arrays = {
        name: getattr(data, name)[person.old]
        for name in ("ecg", "cine", "volumes", "long_axis")
        if data.has(name)
    }
    note = notes.iloc[person.old]
    return arrays, {"crop": note["crop"], "flags": json.loads(note["flags"])}


@functools.lru_cache(maxsize=1)
def _old(folder: Path) -> tuple[CohortData, pd.DataFrame]:
    import pandas as pd

    return CohortData(folder), pd.read_parquet(folder.parent / "keys.parquet")

"""Cine CMR that somebody has already converted to NIfTI, as ukbb_cardiac (Bai et al. 2018) does.

One folder per visit: ``sa.nii.gz`` and ``la_4ch.nii.gz`` of axes (column, row, slice, frame), and
the segmentations of the short axis if there are any, ``seg_sa.nii.gz`` of all frames or
``seg_sa_ED.nii.gz`` and ``seg_sa_ES.nii.gz``.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark.cohorts.ukb.cine import (
    MAX_PIXELS,
    MIN_FRAMES,
    MIN_SLICES,
    Cine,
    apex_comes_last,
)
from benchmark.cohorts.ukb.quiet import quiet
from benchmark.cohorts.ukb.reasons import Flag, Reason, Refused

MAX_BYTES = 512 << 20  # unpacked; a genuine stack of 64-bit floats has 160 MB
MAX_VALUE = 1e30
MAX_SLICES = 50
MAX_FRAMES = 200


def read_short_axis(folder: Path) -> Cine:
    """Read ``sa.nii.gz`` and the segmentation beside it.

    Parameters
    ----------
    folder
        Of one visit; the files may also be uncompressed.

    Returns
    -------
    Cine
        All slices, base to apex, turned as the scanner shows them.

    Raises
    ------
    Refused
        With the reason; also for a segmentation that does not fit, which would put the crop and
        end-systole in the wrong place.
    """
    image = _read_cine(folder, "sa")
    if image.values.shape[2] < MIN_SLICES:
        raise Refused(Reason.FEW_SLICES, f"{image.values.shape[2]} slices")
    labels, segmented = _read_segmentation(folder, image)
    frames = _turned(image.values, image.axes)
    labels = None if labels is None else _turned(labels, image.axes)
    flags = set()
    in_order, agreed = apex_comes_last(frames, image.axes[2])
    if not agreed:
        flags.add(Flag.ORDER_DISPUTED)
    if not in_order:
        frames = frames[::-1]
        labels = None if labels is None else labels[::-1]
    return Cine(
        frames=_as_uint16(frames),
        spacing=image.spacing,
        gap=float(np.linalg.norm(image.axes[2])),
        rr=image.rr,
        segmentation=None if labels is None else np.ascontiguousarray(labels),
        segmented_frames=segmented,
        flags=frozenset(flags),
    )


def read_long_axis(folder: Path) -> Cine:
    """Read the four-chamber view, ``la_4ch.nii.gz``.

    Parameters
    ----------
    folder
        Of one visit; the file may also be uncompressed.

    Returns
    -------
    Cine
        One slice, turned as the scanner shows it.

    Raises
    ------
    Refused
        With the reason.
    """
    image = _read_cine(folder, "la_4ch")
    if image.values.shape[2] != 1:
        raise Refused(Reason.NOT_A_CINE, f"long axis of {image.values.shape[2]} slices")
    frames = _as_uint16(_turned(image.values, image.axes))
    return Cine(frames=frames, spacing=image.spacing, rr=image.rr)


class _Image(NamedTuple):
    """A NIfTI file: (columns, rows, slices[, frames]), and where its axes count to.

    ``axes`` are the steps of column, row and slice in mm, (3, 3), one per row, in DICOM's patient
    axes; NIfTI's own x and y count the other way. ``interval`` is the step from frame to frame
    as the header has it, and its unit.
    """

    values: np.ndarray
    axes: np.ndarray
    interval: float
    unit: str

    @property
    def spacing(self) -> float:
        """Mm per pixel."""
        column, row, slices = np.linalg.norm(self.axes, axis=1)
        if not (0.1 < column < 10 and 0.1 < row < 10 and 1 < slices < 50):
            raise Refused(Reason.NO_GEOMETRY)
        if max(column, row) > 1.01 * min(column, row):
            raise Refused(Reason.PIXELS_NOT_SQUARE)
        return float(column)

    @property
    def rr(self) -> float | None:
        """Length of the heart beat in ms; ukbb_cardiac writes seconds without saying so."""
        in_seconds = self.unit == "sec" or (self.unit == "unknown" and self.interval < 1)
        rr = self.interval * (1000 if in_seconds else 1) * self.values.shape[3]
        return float(rr) if 100 < rr < 10_000 else None


def _path(folder: Path, name: str) -> Path | None:
    """Find a file, compressed or not."""
    for suffix in (".nii.gz", ".nii"):
        path = folder / f"{name}{suffix}"
        if path.exists():
            return path
    return None


def _read_cine(folder: Path, name: str) -> _Image:
    path = _path(folder, name)
    if path is None:
        raise Refused(Reason.NO_NIFTI)
    image = _read(path)
    shape = image.values.shape
    if len(shape) != 4 or shape[2] > MAX_SLICES or not MIN_FRAMES <= shape[3] <= MAX_FRAMES:
        raise Refused(Reason.NOT_A_CINE, f"{len(shape)} axes")
    return image


def _read(path: Path) -> _Image:
    import nibabel

    content = _unpacked(path)
    try:
        with quiet("nibabel.global"):
            image = nibabel.Nifti1Image.from_bytes(content)
            axes = image.affine[:3, :3].T * [-1.0, -1.0, 1.0]
            interval = float(image.header["pixdim"][4])
            unit = image.header.get_xyzt_units()[1]
            if math.prod(image.shape) > MAX_PIXELS:
                raise Refused(Reason.TOO_LARGE)
            values = np.asarray(image.dataobj)
    except (Refused, MemoryError):
        raise
    except Exception as error:  # of any type: HeaderDataError, ValueError, KeyError, OSError ...
        raise Refused(Reason.NIFTI_DAMAGED, type(error).__name__) from None
    if not values.size or values.dtype.kind not in "iuf":
        raise Refused(Reason.NIFTI_VALUES)
    if not (values.min() > -MAX_VALUE and values.max() < MAX_VALUE):  # false for NaN, too
        raise Refused(Reason.NIFTI_VALUES)
    if not np.isfinite(axes).all():
        raise Refused(Reason.NO_GEOMETRY)
    return _Image(values, axes, interval, unit)


def _unpacked(path: Path) -> bytes:
    """Read a file of bounded size; nibabel would unpack as much as a header asks for."""
    chunks: list[bytes] = []
    size = 0
    try:
        with path.open("rb") as file:
            unpacked = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
            # In pieces: one large read sets its memory aside at once.
            while chunk := unpacked.read(1 << 20):
                chunks.append(chunk)
                size += len(chunk)
                if size > MAX_BYTES:
                    raise Refused(Reason.TOO_LARGE)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Refused(Reason.NIFTI_DAMAGED, type(error).__name__) from None
    except OSError as error:
        raise Refused(Reason.UNREADABLE, type(error).__name__) from None
    if not size:
        raise Refused(Reason.EMPTY_FILE)
    return b"".join(chunks)


def _read_segmentation(folder: Path, image: _Image) -> tuple[np.ndarray | None, tuple[int, ...]]:
    """Read the labels, (columns, rows, slices, segmented frames) uint8, and of which frames."""
    count = image.values.shape[3]
    whole, first = _path(folder, "seg_sa"), _path(folder, "seg_sa_ED")
    if whole is not None:
        return _labels(whole, image, image.values.shape), tuple(range(count))
    if first is None:
        return None, ()
    labels, segmented = [_labels(first, image, image.values.shape[:3])], [0]
    last, systole = _path(folder, "seg_sa_ES"), _path(folder, "sa_ES")
    if last is not None and systole is not None:
        # The number of the frame is nowhere: it is the one whose image was saved as end-systole.
        picture = _read(systole).values
        if picture.shape != image.values.shape[:3]:
            raise Refused(Reason.SEGMENTATION_MISMATCH)
        same = np.flatnonzero((image.values == picture[..., None]).all(axis=(0, 1, 2)))
        if not len(same):
            raise Refused(Reason.SEGMENTATION_MISMATCH)
        labels.append(_labels(last, image, image.values.shape[:3]))
        segmented.append(int(same[0]))
    return np.stack(labels, axis=-1), tuple(segmented)


def _labels(path: Path, image: _Image, shape: tuple[int, ...]) -> np.ndarray:
    labels = _read(path)
    if labels.values.shape != shape or np.abs(labels.axes - image.axes).max() > 0.01:
        raise Refused(Reason.SEGMENTATION_MISMATCH)
    if not np.isin(labels.values, (0, 1, 2, 3)).all():
        raise Refused(Reason.SEGMENTATION_LABELS)
    return labels.values.astype(np.uint8)


def _turned(values: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return (slices, frames, rows, columns) as the scanner shows them.

    Columns count to the patient's left or back, rows to the back or feet. Some converters, such
    as dcm2niix, store rows the other way round, which would mirror the heart.
    """
    if axes[0] @ [1.0, 1.0, 0.0] < 0:
        values = values[::-1]
    if axes[1] @ [0.0, 1.0, -1.0] < 0:
        values = values[:, ::-1]
    return values.transpose(2, 3, 1, 0)


def _as_uint16(frames: np.ndarray) -> np.ndarray:
    """Keep whole numbers of 16 bits; spread any others over them: only contrast matters."""
    low, high = float(frames.min()), float(frames.max())
    if low < 0 or high > 65_535 or (frames.dtype.kind == "f" and (frames % 1).any()):
        frames = np.rint((frames - low) * (65_535 / max(high - low, 1e-300)))
    return np.ascontiguousarray(frames, dtype=np.uint16)

"""Writes cine CMR as UK Biobank hands it out: a flat zip of DICOM files with a manifest.

Series names, 50 frames of 12 bits and the manifest (its name misspelt in many zips, and with a
comma in its unquoted date) are as the public readers of ukbb_cardiac, ml4h and CineMA found them.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

GREY_STEP = 8
"""Stored value per level of a simulated picture: 8 bits spread over the scanner's 12."""

SLICE_THICKNESS, SLICE_DISTANCE = 8.0, 10.0  # mm

# In DICOM's axes: x to the patient's left, y to the back, z to the head.
_TO_APEX = np.array([0.65, -0.55, -0.52]) / np.linalg.norm([0.65, -0.55, -0.52])
_TO_LATERAL = np.cross([0.30, -0.55, 0.78], _TO_APEX)
_TO_LATERAL /= np.linalg.norm(_TO_LATERAL)
_TO_INFERIOR = np.cross(-_TO_APEX, _TO_LATERAL)
_HEART = np.array([30.0, -40.0, 20.0])  # mm, from the middle of the scanner

_CINE_SECONDS = 15  # from one breath-hold to the next
_OVERLAY = 0x6000
_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
_DEFLATE_LEVEL = 1  # of 9: noise hardly shrinks further


@dataclass(frozen=True)
class Examination:
    """Whose images, taken when.

    Attributes
    ----------
    eid
        Stands where a scanner keeps the patient's id.
    taken
        Date and time.
    rr
        Mean heart beat in ms.
    spacing
        mm per pixel.
    """

    eid: int
    taken: datetime
    rr: float
    spacing: float


@dataclass(frozen=True)
class _Series:
    """Pictures under one name.

    ``position`` is the middle of the picture in mm, ``axes`` the directions in which columns and
    rows count up; ``frames`` (files, rows, columns) uint8 with their numbers in the heart beat, and
    for result images the outline drawn over each.
    """

    title: str
    position: np.ndarray
    axes: tuple[np.ndarray, np.ndarray]
    frames: np.ndarray
    numbers: Sequence[int]
    cycle: int
    outlines: np.ndarray | None = None


def write_short_axis(
    path: Path, examination: Examination, stack: np.ndarray, masks: np.ndarray
) -> None:
    """Write the zip of field 20209: one series a slice, and the scanner's result images.

    Parameters
    ----------
    stack
        (slices, frames, rows, columns) uint8, base to apex.
    masks
        Of the same shape; 1 is the left ventricular cavity, which InlineVF outlines at
        end-diastole and end-systole.
    """
    axes = (_TO_LATERAL, _TO_INFERIOR)
    slices, cycle = stack.shape[:2]
    places = [_HEART + (k - (slices - 1) / 2) * SLICE_DISTANCE * _TO_APEX for k in range(slices)]
    series = [
        _Series(f"CINE_segmented_SAX_b{k + 1}", place, axes, frames, range(cycle), cycle)
        for k, (place, frames) in enumerate(zip(places, stack, strict=True))
    ]
    cavity = masks == 1
    phases = [0, int(cavity.sum((0, 2, 3)).argmin())]
    series += [
        _Series(
            "CINE_segmented_SAX_InlineVF",
            place,
            axes,
            stack[k, phases],
            phases,
            cycle,
            _outline(cavity[k, phases]),
        )
        for k, place in enumerate(places)
    ]
    _write_zip(path, examination, series)


def write_long_axis(path: Path, examination: Examination, frames: np.ndarray) -> None:
    """Write the zip of field 20208 with the four-chamber view.

    UK Biobank's has two- and three-chamber views beside it; no simulated picture of them exists,
    and none is made up.

    Parameters
    ----------
    frames
        (frames, rows, columns) uint8, the apex up and the left ventricle to the right.
    """
    axes = (_TO_LATERAL, -_TO_APEX)
    cycle = len(frames)
    _write_zip(
        path,
        examination,
        [_Series("CINE_segmented_LAX_4Ch", _HEART, axes, frames, range(cycle), cycle)],
    )


def _write_zip(path: Path, examination: Examination, series: Sequence[_Series]) -> None:
    manifest = ["filename,patientid,seriesid,series discription,date"]
    day = f"{examination.taken:%b} {examination.taken.day}, {examination.taken.year}"
    misspelt = examination.eid % 2
    with zipfile.ZipFile(path, "w") as archive:

        def add(name: str, content: bytes | str) -> None:
            # A fresh ZipInfo, or the file would tell when it was written and never be the same.
            member = zipfile.ZipInfo(name)
            archive.writestr(member, content, zipfile.ZIP_DEFLATED, compresslevel=_DEFLATE_LEVEL)

        for number, one in enumerate(series):
            for dataset in _datasets(examination, one, number):
                name = f"{dataset.SOPInstanceUID}.dcm"
                add(name, _encode(dataset))
                manifest.append(
                    f"{name},{examination.eid},{dataset.SeriesInstanceUID},{one.title},{day}"
                )
        add("manifest.cvs" if misspelt else "manifest.csv", "\n".join(manifest) + "\n")


def _datasets(examination: Examination, series: _Series, number: int) -> Iterator[Dataset]:
    """Give the files of a series."""
    from pydicom.dataset import Dataset

    frames, rows, columns = series.frames.shape
    right, down = series.axes
    corner = series.position - examination.spacing * (
        (columns - 1) / 2 * right + (rows - 1) / 2 * down
    )
    taken = examination.taken + timedelta(seconds=number * _CINE_SECONDS)
    visit = f"{examination.eid}/{examination.taken:%Y%m%d}"
    for k in range(frames):
        frame = series.numbers[k]
        dataset = Dataset()
        dataset.SpecificCharacterSet = "ISO_IR 100"
        kind = ["DERIVED", "SECONDARY"] if series.outlines is not None else ["ORIGINAL", "PRIMARY"]
        dataset.ImageType = [*kind, "M", "RETRO", "NORM", "DIS2D"]
        dataset.SOPClassUID = _MR_IMAGE
        dataset.SOPInstanceUID = _uid(f"{visit}/{series.title}/{number}/{k}")
        dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = f"{taken:%Y%m%d}"
        dataset.StudyTime = f"{examination.taken:%H%M%S}"
        dataset.SeriesTime = dataset.AcquisitionTime = f"{taken:%H%M%S}.000000"
        dataset.Modality = "MR"
        dataset.Manufacturer = "SIEMENS"
        dataset.StationName = "SIMULATED"
        dataset.StudyDescription = "Heart MRI"
        dataset.SeriesDescription = series.title
        dataset.ManufacturerModelName = "Aera"
        dataset.PatientName = f"{examination.eid}"
        dataset.PatientID = f"{examination.eid}"
        dataset.MRAcquisitionType = "2D"
        dataset.SequenceName = "*tfi2d1_20"
        dataset.SliceThickness = SLICE_THICKNESS
        dataset.SpacingBetweenSlices = SLICE_DISTANCE
        dataset.NominalInterval = round(examination.rr)
        dataset.TriggerTime = round(examination.rr * frame / series.cycle, 1)
        dataset.CardiacNumberOfImages = series.cycle
        dataset.MagneticFieldStrength = 1.5
        dataset.PatientPosition = "HFS"
        dataset.StudyInstanceUID = _uid(visit)
        dataset.SeriesInstanceUID = _uid(f"{visit}/{series.title}/{number}")
        dataset.SeriesNumber = number + 1
        dataset.InstanceNumber = k + 1
        dataset.ImagePositionPatient = _decimals(corner)
        dataset.ImageOrientationPatient = _decimals(np.concatenate([right, down]))
        dataset.SliceLocation = _decimals([series.position @ np.cross(right, down)])[0]
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.Rows, dataset.Columns = rows, columns
        dataset.PixelSpacing = _decimals([examination.spacing] * 2)
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation = 0
        dataset.PixelData = (series.frames[k].astype("<u2") * GREY_STEP).tobytes()
        if series.outlines is not None:
            _add_overlay(dataset, series.outlines[k])
        yield dataset


def _add_overlay(dataset: Dataset, outline: np.ndarray) -> None:
    """Lay a drawing of one bit a pixel over the image."""
    bits = np.packbits(outline.ravel(), bitorder="little").tobytes()
    for element, representation, value in (
        (0x0010, "US", outline.shape[0]),
        (0x0011, "US", outline.shape[1]),
        (0x0040, "CS", "G"),
        (0x0050, "SS", [1, 1]),
        (0x0100, "US", 1),
        (0x0102, "US", 0),
        (0x3000, "OW", bits + bytes(len(bits) % 2)),
    ):
        dataset.add_new((_OVERLAY, element), representation, value)


def _outline(region: np.ndarray) -> np.ndarray:
    """Return the pixels of (pictures, rows, columns) regions that touch the outside."""
    inner = region.copy()
    for axis in (1, 2):
        for shift in (1, -1):
            inner &= np.roll(region, shift, axis)
    return region & ~inner


def _encode(dataset: Dataset) -> bytes:
    """Return the bytes of a DICOM file."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _uid(text: str) -> str:
    """Return a UID that follows from the text and does not show it (ISO/IEC 9834-8)."""
    return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], 'big')}"


def _decimals(values: Sequence[float] | np.ndarray) -> list[float]:
    """Round to what DICOM's decimal strings of 16 characters hold."""
    return [round(float(value), 10) for value in values]

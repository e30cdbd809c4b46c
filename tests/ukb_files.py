"""Tiny files of UK Biobank's raw formats, made without the package's own writer."""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, MRImageStorage

from benchmark.cohorts.cohort import LEADS

DATA = Path(__file__).parent / "data"
EID = 9_000_001
SLICES, FRAMES, ROWS, COLUMNS = 7, 10, 26, 22

# A heart's usual short-axis plane in DICOM's axes: columns to the left and back, rows to the
# feet and back; base to apex is to the left, front and feet.
COLUMN_AXIS = np.array([0.70, 0.71, 0.0]) / np.hypot(0.70, 0.71)
APEX_AXIS = np.array([0.61, -0.6014, -0.5161])
APEX_AXIS -= APEX_AXIS @ COLUMN_AXIS * COLUMN_AXIS
APEX_AXIS /= np.linalg.norm(APEX_AXIS)
ROW_AXIS = np.cross(COLUMN_AXIS, APEX_AXIS)


# ------------------------------------------------------------------------------------------ ECG


def ecg_steps() -> np.ndarray:
    """(12, 5000) in steps of 5 uV, every lead different."""
    steps = np.random.default_rng(3).integers(-200, 200, (12, 5000))
    return steps + 10 * np.arange(12)[:, None]


def numbers(samples: np.ndarray) -> str:
    """Samples as the device writes them: commas, line ends and tabs."""
    return ",".join(
        ("\n\t\t\t" if place % 25 == 0 else "") + str(sample)
        for place, sample in enumerate(samples)
    )


@functools.cache
def _lead_texts() -> dict[str, str]:
    return dict(zip(LEADS, map(numbers, ecg_steps()), strict=True))


def xml(
    leads: list[tuple[str, str]] | None = None,
    *,
    root: str = "CardiologyXML",
    kind: str = "RestECG",
    strip: str = "StripData",
    rate: str = "500",
    resolution: str = "5",
    units: str = "uVperLsb",
    declaration: str = '<?xml version="1.0" encoding="ISO-8859-1"?>',
    encoding: str = "iso-8859-1",
    conclusion: str = "Normal sinus rhythm",
) -> bytes:
    """A CardioSoft file with a median beat before the strip, as all files have."""
    leads = list(_lead_texts().items()) if leads is None else leads
    waves = "".join(f'<WaveformData lead="{lead}">{text}</WaveformData>\n' for lead, text in leads)
    median = "".join(f'<WaveformData lead="{lead}">1,2,3</WaveformData>' for lead in LEADS)
    opening = "".join(f"<{tag}>" for tag in strip.split("/"))
    closing = "".join(f"</{tag}>" for tag in reversed(strip.split("/")))
    return f"""{declaration}
<{root}><ObservationType>{kind}</ObservationType>
<PatientInfo><PID>{EID}</PID><Name><FamilyName>Müller</FamilyName></Name></PatientInfo>
<Interpretation><Conclusion><ConclusionText>{conclusion}</ConclusionText></Conclusion></Interpretation>
<RestingECGMeasurements>
<VentricularRate units="BPM">61</VentricularRate><PQInterval units="ms">166</PQInterval>
<QRSDuration units="ms"> 92 </QRSDuration><PAxis/><RAxis>n/a</RAxis><TAxis>-12</TAxis>
<MedianSamples><SampleRate units="Hz">500</SampleRate>{median}</MedianSamples>
</RestingECGMeasurements>
{opening}<NumberOfLeads>12</NumberOfLeads><SampleRate units="Hz">{rate}</SampleRate>
<Resolution units="{units}">{resolution}</Resolution>
{waves}{closing}
</{root}>""".encode(encoding)


def leads_with(**texts: str) -> list[tuple[str, str]]:
    """All leads, some with another text."""
    return [(lead, texts.get(lead, text)) for lead, text in _lead_texts().items()]


# ---------------------------------------------------------------------------------------- DICOM


def heart(slices: int = SLICES, frames: int = FRAMES) -> np.ndarray:
    """(slices, frames, rows, columns) uint16: a beating disc that shrinks from base to apex."""
    row, column = np.mgrid[:ROWS, :COLUMNS]
    distance = np.hypot(row - 12, column - 10)
    beat = 1 - 0.25 * np.sin(np.pi * np.arange(frames) / frames) ** 2
    radius = np.linspace(9, 3, slices)[:, None] * beat
    blood = np.clip(radius[..., None, None] - distance + 0.5, 0, 1)
    texture = np.random.default_rng(4).integers(0, 40, (slices, 1, ROWS, COLUMNS))
    return (300 + 900 * blood + texture).astype(np.uint16)


def tags(pixels: np.ndarray, slice_: int, frame: int, *, frames: int = FRAMES) -> dict:
    """What a scanner says of a frame of a short-axis slice; slice 0 is the base."""
    return {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": f"1.2.3.{slice_}.{frame}",
        "SeriesInstanceUID": f"1.2.3.{slice_}",
        "SeriesDescription": f"CINE_segmented_SAX_b{slice_ + 1}",
        "SeriesNumber": 10 + slice_,
        "InstanceNumber": frame + 1,
        "AcquisitionDate": "20150830",
        "AcquisitionTime": f"1012{slice_:02d}.5",
        "PatientID": str(EID),
        "PatientName": "Müller",
        "TriggerTime": 96.6 * frame,
        "NominalInterval": 966,
        "CardiacNumberOfImages": frames,
        "ImagePositionPatient": [round(x, 5) for x in -50 + 10.0 * slice_ * APEX_AXIS],
        "ImageOrientationPatient": [round(x, 8) for x in (*COLUMN_AXIS, *ROW_AXIS)],
        "PixelSpacing": [1.8269, 1.8269],
        "SliceThickness": 8,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": pixels.astype("<u2").tobytes(),
    }


def dicom(values: dict, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """A DICOM file; what is None is left out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SpecificCharacterSet = "ISO_IR 100"
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "PixelData" in dataset:
        pixels = dataset.PixelData
        if syntax.is_encapsulated:
            pixels = encapsulate([pixels])
        elif syntax == ExplicitVRBigEndian:
            pixels = np.frombuffer(pixels, "<u2").byteswap().tobytes()
        dataset.add_new("PixelData", "OW", pixels)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


Change = Callable[[int, int, dict], dict | None]


def members(
    change: Change = lambda _slice, _frame, values: values,
    *,
    slices: int = SLICES,
    frames: int = FRAMES,
    syntax: UID = ExplicitVRLittleEndian,
) -> dict[str, bytes]:
    """Members of a short-axis zip; a frame for which ``change`` returns None is left out."""
    stack = heart(slices, frames)
    files = {}
    for slice_ in range(slices):
        for frame in range(frames):
            values = tags(stack[slice_, frame], slice_, frame, frames=frames)
            values = change(slice_, frame, values)
            if values is not None:
                files[f"1.3.12.{slice_}.{frame}.dcm"] = dicom(values, syntax)
    return files


@functools.cache
def _plain_members() -> dict[str, bytes]:
    return members()


def plain_members() -> dict[str, bytes]:
    """Members of a faultless short-axis zip."""
    return dict(_plain_members())


LONG_AXES = {  # columns and rows of the usual planes
    "2Ch": (APEX_AXIS, ROW_AXIS),
    "3Ch": (APEX_AXIS, (COLUMN_AXIS - ROW_AXIS) / np.sqrt(2)),
    "4Ch": (APEX_AXIS, COLUMN_AXIS),
}


def long_axis_members(
    names: dict[str, str], change: Change = lambda _slice, _frame, values: values
) -> dict[str, bytes]:
    """Members of a long-axis zip: views and the descriptions of their series."""
    files = {}
    for number, (view, name) in enumerate(names.items()):
        for frame in range(FRAMES):
            pixels = heart()[number, frame]
            values = tags(pixels, number, frame) | {
                "SeriesDescription": name,
                "SeriesInstanceUID": "1.2.4" if name.endswith("LAX") else f"1.2.4.{number}",
                "ImageOrientationPatient": [round(x, 8) for axis in LONG_AXES[view] for x in axis],
            }
            values = change(number, frame, values)
            if values is not None:
                files[f"1.3.14.{number}.{frame}.dcm"] = dicom(values)
    return files


def write_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip of these members."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


# ---------------------------------------------------------------------------------------- NIfTI


def nifti_affine() -> np.ndarray:
    """The plane of the DICOM files above: NIfTI counts x to the right and y to the front."""
    affine = np.eye(4)
    steps = np.stack([1.8269 * COLUMN_AXIS, 1.8269 * ROW_AXIS, 10 * APEX_AXIS], axis=1)
    affine[:3, :3] = np.array([[-1.0], [-1.0], [1.0]]) * steps
    return affine


def write_nifti(
    path: Path,
    values: np.ndarray,
    affine: np.ndarray | None = None,
    interval: float = 0.0966,
    unit: str | None = None,
) -> Path:
    """A NIfTI file of axes (column, row, slice, frame)."""
    image = nibabel.Nifti1Image(values, nifti_affine() if affine is None else affine)
    if values.ndim == 4:
        image.header["pixdim"][4] = interval
    if unit:
        image.header.set_xyzt_units("mm", unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def as_nifti(stack: np.ndarray) -> np.ndarray:
    """(slices, frames, rows, columns) -> (columns, rows, slices, frames)."""
    return stack.transpose(3, 2, 0, 1)

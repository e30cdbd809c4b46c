"""Every kind of damaged file gives its own reason, and never another exception."""

from __future__ import annotations

import errno
import gzip
import io
import stat
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless
from ukb_files import (
    APEX_AXIS,
    COLUMNS,
    DATA,
    EID,
    FRAMES,
    ROWS,
    SLICES,
    as_nifti,
    dicom,
    ecg_steps,
    heart,
    leads_with,
    long_axis_members,
    members,
    nifti_affine,
    numbers,
    plain_members,
    tags,
    write_nifti,
    write_zip,
    xml,
)

from benchmark.cohorts.ukb import archive, cardiosoft, nifti
from benchmark.cohorts.ukb import dicom as dicom_reader
from benchmark.cohorts.ukb.reasons import Reason, Refused

DECLARATION = '<?xml version="1.0" encoding="ISO-8859-1"?>'
BOMB = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10 if n else "ha"}">' for n in range(10))


def sample(place: int, value: object) -> bytes:
    """A file with one odd sample in lead V2."""
    samples = [str(sample) for sample in ecg_steps()[7]]
    samples[place] = str(value)
    return xml(leads_with(V2=",".join(samples)))


ECGS: dict[str, tuple[Callable[[], bytes], Reason]] = {
    "empty": (lambda: b"", Reason.EMPTY_FILE),
    "21 MB": (lambda: xml() + b" " * (21 << 20), Reason.TOO_LARGE),
    "flood of elements": (lambda: b"<a>" + b"<b/>" * 300_000 + b"</a>", Reason.TOO_LARGE),
    "flood of attributes": (
        lambda: b"<a " + b" ".join(b"b%d=''" % n for n in range(300_000)) + b"/>",
        Reason.TOO_LARGE,
    ),
    "90,000 levels deep": (
        lambda: xml(conclusion="<i>" * 90_000 + "</i>" * 90_000, strip="Other"),
        Reason.NO_STRIP,
    ),
    "binary": (lambda: bytes(range(256)) * 9, Reason.XML_MALFORMED),
    "truncated": (lambda: xml()[:-3000], Reason.XML_MALFORMED),
    "truncated, with umlaut": (lambda: xml()[:300] + b"<<", Reason.XML_MALFORMED),
    "entity bomb": (
        lambda: xml(declaration=f"{DECLARATION}<!DOCTYPE b [{BOMB}]>", conclusion="&a9;"),
        Reason.XML_DTD,
    ),
    "external entity": (
        lambda: xml(
            declaration=f'{DECLARATION}<!DOCTYPE b [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
            conclusion="&x;",
        ),
        Reason.XML_DTD,
    ),
    "document type": (
        lambda: xml(declaration=f'{DECLARATION}<!DOCTYPE b SYSTEM "b.dtd">'),
        Reason.XML_DTD,
    ),
    "latin-1 that says UTF-8": (
        lambda: xml(declaration='<?xml version="1.0" encoding="UTF-8"?>'),
        Reason.XML_ENCODING,
    ),
    "latin-1 that says nothing": (lambda: xml(declaration="").lstrip(), Reason.XML_ENCODING),
    "UTF-16 that says latin-1": (lambda: xml(encoding="utf-16"), Reason.XML_ENCODING),
    "unknown encoding": (
        lambda: xml(declaration='<?xml version="1.0" encoding="klingon"?>'),
        Reason.XML_ENCODING,
    ),
    "encoding of several bytes": (
        lambda: xml(declaration='<?xml version="1.0" encoding="shift_jis"?>'),
        Reason.XML_ENCODING,
    ),
    "other root": (lambda: xml(root="AnnotatedECG"), Reason.NOT_CARDIOSOFT),
    "exercise test": (lambda: xml(kind="ExerciseECG"), Reason.NOT_RESTING),
    "median beat only": (lambda: xml(strip="Other"), Reason.NO_STRIP),
    "250 Hz": (lambda: xml(rate="250"), Reason.WRONG_RATE),
    "rate in words": (lambda: xml(rate="fast"), Reason.WRONG_RATE),
    "resolution in mm": (lambda: xml(units="mmPerLsb"), Reason.WRONG_RESOLUTION),
    "resolution 0": (lambda: xml(resolution="0"), Reason.WRONG_RESOLUTION),
    "resolution nan": (lambda: xml(resolution="nan"), Reason.WRONG_RESOLUTION),
    "11 leads": (lambda: xml(leads_with()[:11]), Reason.MISSING_LEAD),
    "lead of another name": (
        lambda: xml([*leads_with()[:11], ("V7", leads_with()[11][1])]),
        Reason.MISSING_LEAD,
    ),
    "lead twice": (lambda: xml([*leads_with(), leads_with()[3]]), Reason.DUPLICATE_LEAD),
    "4,999 samples": (lambda: xml(leads_with(V2=numbers(ecg_steps()[7, 1:]))), Reason.WRONG_LENGTH),
    "5,001 samples": (
        lambda: xml(leads_with(V2=numbers(np.append(ecg_steps()[7], 1)))),
        Reason.WRONG_LENGTH,
    ),
    "lead without samples": (lambda: xml(leads_with(aVF="")), Reason.WRONG_LENGTH),
    "flood of samples": (lambda: xml(leads_with(aVF="1," * 200_000)), Reason.WRONG_LENGTH),
    "text in numbers": (lambda: sample(3, "12a"), Reason.NOT_NUMERIC),
    "blank sample": (lambda: sample(3, " "), Reason.NOT_NUMERIC),
    "underscore in number": (lambda: sample(3, "1_0"), Reason.NOT_NUMERIC),
    "digits of another script": (lambda: sample(3, "&#x0663;"), Reason.NOT_NUMERIC),
    "nan": (lambda: sample(3, "NaN"), Reason.NOT_FINITE),
    "infinite": (lambda: sample(3, "-inf"), Reason.NOT_FINITE),
    "overflow": (lambda: sample(3, "1e999"), Reason.NOT_FINITE),
    "zeros": (lambda: xml(leads_with(V6=numbers(np.zeros(5000, int)))), Reason.FLAT_LEAD),
    "constant": (lambda: xml(leads_with(V6=numbers(np.full(5000, 9)))), Reason.FLAT_LEAD),
    "sentinel": (lambda: sample(3, -32768), Reason.IMPLAUSIBLE_AMPLITUDE),
    "huge": (lambda: sample(3, "1e308"), Reason.IMPLAUSIBLE_AMPLITUDE),
}


@pytest.mark.parametrize("kind", ECGS)
def test_ecg(kind):
    make, reason = ECGS[kind]
    with pytest.raises(Refused) as refused:
        cardiosoft.read_ecg(make())
    assert refused.value.reason == reason
    assert_discreet(refused.value)


def assert_discreet(refused: Refused, path: Path | None = None) -> None:
    """Nothing of the person is in what a log would show."""
    shown = f"{refused} {refused!r} {refused.args}"
    assert str(EID) not in shown
    assert "ller" not in shown
    assert path is None or str(path.parent) not in shown
    # What it was raised from would be shown with it.
    assert refused.__cause__ is None
    assert refused.__suppress_context__ or refused.__context__ is None


# ------------------------------------------------------------------------------------------ zip

Make = Callable[[Path], Path]


def zipped(**changes: object) -> Make:
    """A faultless zip but for the table of contents' entry of its first member."""

    def make(path: Path) -> Path:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
            for name, content in plain_members().items():
                made.writestr(name, content)
            for attribute, value in changes.items():
                setattr(made.filelist[0], attribute, value)
        return path

    return make


def spoilt(spoil: Callable[[bytes], bytes]) -> Make:
    """A faultless zip whose bytes are changed."""

    def make(path: Path) -> Path:
        path.write_bytes(spoil(write_zip(path, plain_members()).read_bytes()))
        return path

    return make


def renamed(name: str) -> Make:
    def make(path: Path) -> Path:
        files = plain_members()
        stand_in = "x" * len(name)  # zipfile itself writes no such names
        write_zip(path, {stand_in: files.popitem()[1]} | files)
        path.write_bytes(path.read_bytes().replace(stand_in.encode(), name.encode()))
        return path

    return make


def flipped(content: bytes) -> bytes:
    """One bit of the first member's compressed pixels."""
    return content[:3000] + bytes([content[3000] ^ 1]) + content[3001:]


def many(count: int, comment: bytes = b"", **changes: object) -> Make:
    def make(path: Path) -> Path:
        with zipfile.ZipFile(path, "w") as made:
            for number in range(count):
                info = zipfile.ZipInfo(f"{number}.dcm")
                info.comment = comment
                made.writestr(info, b"1234")
            for info in made.filelist:
                for attribute, value in changes.items():
                    setattr(info, attribute, value)
        return path

    return make


def as_directory(path: Path) -> Path:
    path.mkdir()
    return path


ZIPS: dict[str, tuple[Make, Reason]] = {
    "no file": (lambda path: path, Reason.UNREADABLE),
    "folder": (as_directory, Reason.UNREADABLE),
    "empty": (spoilt(lambda _: b""), Reason.EMPTY_FILE),
    "no zip": (spoilt(lambda _: b"404: Not Found" * 9), Reason.ZIP_DAMAGED),
    "truncated": (spoilt(lambda content: content[: len(content) // 2]), Reason.ZIP_DAMAGED),
    "table of contents missing": (
        spoilt(lambda content: content[content.rindex(b"PK\5\6") :]),
        Reason.ZIP_DAMAGED,
    ),
    "bit flipped": (spoilt(flipped), Reason.ZIP_DAMAGED),
    "member smaller than stated": (zipped(file_size=7000), Reason.ZIP_DAMAGED),
    "member larger than stated": (zipped(file_size=700), Reason.ZIP_DAMAGED),
    "zip slip": (renamed("../../x.dcm"), Reason.ZIP_UNSAFE_NAME),
    "absolute name": (renamed("/tmp/x.dcm"), Reason.ZIP_UNSAFE_NAME),
    "subfolder": (renamed("a/x.dcm"), Reason.ZIP_UNSAFE_NAME),
    "backslash": (renamed("a\\x.dcm"), Reason.ZIP_UNSAFE_NAME),
    "drive": (renamed("C:x.dcm"), Reason.ZIP_UNSAFE_NAME),
    "NUL in name": (renamed("x.dcm\0.dcm"), Reason.ZIP_UNSAFE_NAME),
    "line end in name": (renamed("x\n.dcm"), Reason.ZIP_UNSAFE_NAME),
    "link": (
        zipped(create_system=3, external_attr=(stat.S_IFLNK | 0o777) << 16),
        Reason.ZIP_SYMLINK,
    ),
    "name twice": (renamed("1.3.12.0.0.dcm"), Reason.ZIP_DUPLICATE_NAME),
    "encrypted": (zipped(flag_bits=1), Reason.ZIP_ENCRYPTED),
    "bzip2": (lambda path: write_zip(path, plain_members(), zipfile.ZIP_BZIP2), Reason.ZIP_METHOD),
    "bomb": (lambda path: write_zip(path, {"a.dcm": bytes(1 << 21)}), Reason.ZIP_BOMB),
    "member of 5 MB": (
        lambda path: write_zip(path, {"a.dcm": bytes(5 << 20)}, zipfile.ZIP_STORED),
        Reason.ZIP_TOO_LARGE,
    ),
    "over 1 GB": (many(300, file_size=4 << 20), Reason.ZIP_TOO_LARGE),
    "3,001 members": (many(3001), Reason.ZIP_TOO_MANY),
    "table of contents of 5 MB": (many(80, b"." * 65_000), Reason.ZIP_TOO_MANY),
    "manifest only": (
        lambda path: write_zip(path, {"manifest.csv": b"filename"}),
        Reason.ZIP_WITHOUT_DICOM,
    ),
}


@pytest.mark.parametrize("kind", ZIPS)
def test_zip(kind, tmp_path):
    make, reason = ZIPS[kind]
    path = make(tmp_path / f"{EID}_20209_2_0.zip")
    for read in (dicom_reader.read_short_axis, dicom_reader.read_long_axis):
        with pytest.raises(Refused) as refused:
            read(path)
        assert refused.value.reason == reason
        assert_discreet(refused.value, path)


def test_a_drive_that_goes_away_does_not_damage_a_zip(tmp_path, monkeypatch):
    def lost(_self, _size=-1):
        raise OSError(errno.EIO, "Input/output error")

    path = write_zip(tmp_path / "sa.zip", plain_members())
    members = archive.members(path)
    next(members)
    monkeypatch.setattr(archive._CappedFile, "read", lost)
    with pytest.raises(Refused) as refused:
        list(members)
    assert refused.value.reason == Reason.UNREADABLE


def test_a_stream_is_unpacked_no_further_than_stated(tmp_path):
    """Whatever the table of contents says, memory is bounded: here 64 MB hide behind 1,000 B."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.dcm", bytes(64 << 20))
        made.filelist[0].file_size = 1000
    tracemalloc.start()
    with pytest.raises(Refused) as refused:
        list(archive.members(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.reason == Reason.ZIP_DAMAGED
    assert peak < 8 << 20


# ---------------------------------------------------------------------------------------- DICOM

Files = Callable[[], dict[str, bytes]]


def all_with(**values: object) -> Files:
    """A faultless stack but for these tags of all files; None leaves a tag out."""
    return lambda: members(lambda _slice, _frame, one: one | values)


def one_with(**values: object) -> Files:
    """A faultless stack but for these tags of one file."""
    return lambda: replaced(dicom(tags(heart()[2, 4], 2, 4) | values))


def replaced(content: bytes) -> dict[str, bytes]:
    return plain_members() | {"1.3.12.2.4.dcm": content}


def without(*gone: tuple[int, int]) -> Files:
    return lambda: members(lambda slice_, frame, one: None if (slice_, frame) in gone else one)


def slice_with(number: int, **values: object) -> Files:
    return lambda: members(lambda slice_, _frame, one: one | values if slice_ == number else one)


def compressed(name: str, syntax: UID) -> Files:
    """A stack of another software's compressed picture."""
    frame = next(
        pydicom.encaps.generate_frames(
            pydicom.dcmread(DATA / f"pydicom/{name}.dcm").PixelData, number_of_frames=1
        )
    )
    values = {"PixelData": frame, "Rows": 64, "Columns": 64, "BitsStored": 16}
    return lambda: members(lambda _slice, _frame, one: one | values, syntax=syntax)


def deflated() -> dict[str, bytes]:
    """A file that says its tags are deflated: 4 kB that pydicom unpacks to as much as they hold."""
    meta = dicom(tags(heart()[0, 0], 0, 0))
    at = meta.index(b"1.2.840.10008.1.2.1\0")
    bomb = zlib.compressobj(wbits=-15)
    content = bomb.compress(bytes(4 << 20)) + bomb.flush()
    head = bytearray(meta[: at + 20])
    head[at - 2 : at] = struct.pack("<H", 22)
    head[140:144] = struct.pack("<I", struct.unpack("<I", head[140:144])[0] + 2)
    return {"a.dcm": bytes(head[:at]) + b"1.2.840.10008.1.2.1.99" + meta[at + 20 : 400] + content}


def siemens_series() -> dict[str, bytes]:
    """A real header of a diffusion series under a cine's name."""
    scanned = pydicom.dcmread(io.BytesIO(gzip.decompress((DATA / SIEMENS).read_bytes())))
    cine = ("SeriesDescription", "SeriesInstanceUID", "SOPInstanceUID", "ImagePositionPatient")
    pixels = ("ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "PixelData")
    files = {}
    for slice_ in range(SLICES):
        for frame in range(FRAMES):
            values = tags(heart()[slice_, frame], slice_, frame)
            for keyword in (*cine, *pixels):
                setattr(scanned, keyword, values[keyword])
            buffer = io.BytesIO()
            scanned.save_as(buffer)
            files[f"{slice_}.{frame}.dcm"] = buffer.getvalue()
    return files


SIEMENS = "nibabel/siemens_dwi_0.dcm.gz"
SHIFTED = [round(float(x), 5) for x in -50 + (10.0 * SLICES + 6) * APEX_AXIS]

STACKS: dict[str, tuple[Files, Reason]] = {
    "no DICOM": (lambda: replaced(b"\x89PNG" * 99), Reason.DICOM_DAMAGED),
    "empty DICOM": (lambda: replaced(b""), Reason.DICOM_DAMAGED),
    "truncated in the header": (
        lambda: replaced(plain_members()["1.3.12.2.4.dcm"][:200]),
        Reason.DICOM_DAMAGED,
    ),
    "truncated in the pixels": (
        lambda: replaced(plain_members()["1.3.12.2.4.dcm"][:-99]),
        Reason.DICOM_DAMAGED,
    ),
    "damaged RLE": (
        lambda: replaced(
            dicom(tags(heart()[2, 4], 2, 4), UID("1.2.840.10008.1.2.5")),
        ),
        Reason.DICOM_DAMAGED,
    ),
    "JPEG-LS": (compressed("MR_small_jpeg_ls_lossless", JPEGLSLossless), Reason.DICOM_COMPRESSED),
    "JPEG 2000": (compressed("MR_small_jp2klossless", JPEG2000Lossless), Reason.DICOM_COMPRESSED),
    "deflated": (deflated, Reason.DICOM_COMPRESSED),
    "several frames in a file": (one_with(NumberOfFrames=2), Reason.DICOM_MULTIFRAME),
    "colour": (one_with(SamplesPerPixel=3), Reason.DICOM_PIXEL_FORMAT),
    "8 bits": (one_with(BitsAllocated=8, BitsStored=8), Reason.DICOM_PIXEL_FORMAT),
    "negative": (
        one_with(PixelRepresentation=1, PixelData=b"\xff" * (2 * ROWS * COLUMNS)),
        Reason.DICOM_PIXEL_FORMAT,
    ),
    "4096 x 4096": (one_with(Rows=4096, Columns=4096), Reason.DICOM_TOO_LARGE),
    "no rows": (one_with(Rows=0), Reason.DICOM_NO_PIXELS),
    "no pixels": (one_with(PixelData=None), Reason.DICOM_NO_PIXELS),
    "no position": (one_with(ImagePositionPatient=None), Reason.NO_GEOMETRY),
    "infinite position": (one_with(ImagePositionPatient=["1e400", 0, 0]), Reason.NO_GEOMETRY),
    "no orientation": (one_with(ImageOrientationPatient=None), Reason.NO_GEOMETRY),
    "axes not at right angles": (
        one_with(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
        Reason.NO_GEOMETRY,
    ),
    "no pixel spacing": (all_with(PixelSpacing=None), Reason.NO_GEOMETRY),
    "pixel spacing 0": (all_with(PixelSpacing=[0, 0]), Reason.NO_GEOMETRY),
    "oblong pixels": (all_with(PixelSpacing=[1.8, 2.2]), Reason.PIXELS_NOT_SQUARE),
    "no series description": (all_with(SeriesDescription=None), Reason.NO_SERIES_DESCRIPTION),
    "manifest that does not help": (
        lambda: (
            all_with(SeriesDescription=None)()
            | {
                "manifest.csv": b'filename\n\0\n"'
                + np.random.default_rng(1).bytes(100_000).hex().encode()
            }
        ),
        Reason.NO_SERIES_DESCRIPTION,
    ),
    "InlineVF only": (
        all_with(SeriesDescription="CINE_segmented_SAX_InlineVF"),
        Reason.ONLY_INLINE_VF,
    ),
    "other series": (all_with(SeriesDescription="SCOUT"), Reason.NO_CINE),
    "long axis": (
        lambda: long_axis_members({"4Ch": "CINE_segmented_LAX_4Ch"}),
        Reason.NO_CINE,
    ),
    "Siemens header without cardiac tags": (siemens_series, Reason.NO_CARDIAC_TAGS),
    "no trigger time": (one_with(TriggerTime=None), Reason.NO_CARDIAC_TAGS),
    "trigger times and instance numbers repeat": (
        all_with(TriggerTime=0, InstanceNumber=1),
        Reason.IRREGULAR_FRAMES,
    ),
    "trigger time of a day": (one_with(TriggerTime=86_400_000), Reason.IRREGULAR_FRAMES),
    "frame missing among uneven ones": (
        lambda: members(
            lambda slice_, frame, one: (
                None
                if (slice_, frame) == (2, 3)
                else one | {"TriggerTime": 96.6 * frame + (70 if (slice_, frame) == (2, 5) else 0)}
            )
        ),
        Reason.IRREGULAR_FRAMES,
    ),
    "three frames missing": (without((2, 3), (2, 4), (2, 9)), Reason.MISSING_FRAMES),
    "slice with one frame": (without(*((2, n) for n in range(1, FRAMES))), Reason.MISSING_FRAMES),
    "surplus frame": (
        lambda: (
            plain_members()
            | {"x.dcm": dicom(tags(heart()[2, 4], 2, 4) | {"SOPInstanceUID": "1.2.3.99"})}
        ),
        Reason.SURPLUS_FRAMES,
    ),
    "three phases": (lambda: members(frames=3), Reason.NOT_A_CINE),
    "absurd number of frames": (all_with(CardiacNumberOfImages=2**31 - 1), Reason.MISSING_FRAMES),
    "five slices": (lambda: members(slices=5), Reason.FEW_SLICES),
    "slice missing": (without(*((3, n) for n in range(FRAMES))), Reason.BROKEN_STACK),
    "slice shifted": (slice_with(SLICES - 1, ImagePositionPatient=SHIFTED), Reason.BROKEN_STACK),
    "slices of unlike size": (
        slice_with(3, Rows=ROWS - 1, PixelData=bytes(2 * (ROWS - 1) * COLUMNS)),
        Reason.SLICES_DIFFER,
    ),
    "slices of unlike pixels": (slice_with(3, PixelSpacing=[1.7, 1.7]), Reason.SLICES_DIFFER),
    "slices not parallel": (
        slice_with(3, ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        Reason.SLICES_DIFFER,
    ),
    "slices of unlike numbers of frames": (
        slice_with(3, CardiacNumberOfImages=FRAMES + 1),
        Reason.SLICES_DIFFER,
    ),
}


@pytest.mark.parametrize("kind", STACKS)
def test_short_axis(kind, tmp_path):
    make, reason = STACKS[kind]
    path = write_zip(tmp_path / f"{EID}_20209_2_0.zip", make())
    with pytest.raises(Refused) as refused:
        dicom_reader.read_short_axis(path)
    assert refused.value.reason == reason
    assert_discreet(refused.value, path)


LONG_AXES: dict[str, tuple[dict[str, str], Reason]] = {
    "two-chamber only": ({"2Ch": "CINE_segmented_LAX_2Ch"}, Reason.NO_CINE),
    "view not named": ({"2Ch": "CINE_segmented_LAX"}, Reason.NO_CINE),
    "InlineVF only": ({"4Ch": "CINE_segmented_LAX_InlineVF"}, Reason.ONLY_INLINE_VF),
}


@pytest.mark.parametrize("kind", LONG_AXES)
def test_long_axis(kind, tmp_path):
    names, reason = LONG_AXES[kind]
    with pytest.raises(Refused) as refused:
        dicom_reader.read_long_axis(write_zip(tmp_path / "la.zip", long_axis_members(names)))
    assert refused.value.reason == reason


# ---------------------------------------------------------------------------------------- NIfTI


def image(values: np.ndarray, name: str = "sa.nii.gz", **options: object) -> Callable[[Path], None]:
    return lambda folder: write_nifti(folder / name, values, **options)


def content(change: Callable[[bytes], bytes], name: str = "sa.nii.gz") -> Callable[[Path], None]:
    """A faultless image whose bytes are changed."""

    def make(folder: Path) -> None:
        path = write_nifti(folder / name, as_nifti(heart()))
        path.write_bytes(change(path.read_bytes()))

    return make


def header(**fields: object) -> Callable[[Path], None]:
    """A faultless image but for fields of its header."""

    def make(folder: Path) -> None:
        path = write_nifti(folder / "sa.nii", as_nifti(heart()))
        made = bytearray(path.read_bytes())
        parsed = nibabel.Nifti1Header(bytes(made[:348]), check=False)
        for name, value in fields.items():
            parsed[name] = value
        path.write_bytes(parsed.binaryblock + bytes(made[348:]))

    return make


def copied(folder: Path) -> None:
    """Brain images, two time points."""
    folder.mkdir()
    (folder / "sa.nii.gz").write_bytes((DATA / "nibabel/example4d.nii.gz").read_bytes())


def beside(values: np.ndarray, name: str = "seg_sa.nii.gz", **options: object):
    """A faultless image with this segmentation."""

    def make(folder: Path) -> None:
        write_nifti(folder / "sa.nii.gz", as_nifti(heart()))
        write_nifti(folder / name, values, **options)

    return make


def unrelated_systole(folder: Path) -> None:
    beside(np.zeros((COLUMNS, ROWS, SLICES), np.uint8), "seg_sa_ED.nii.gz")(folder)
    write_nifti(folder / "sa_ES.nii.gz", as_nifti(heart())[..., 3] + 1)
    write_nifti(folder / "seg_sa_ES.nii.gz", np.zeros((COLUMNS, ROWS, SLICES), np.uint8))


def stretched(*factors: float) -> np.ndarray:
    return nifti_affine() @ np.diag([*factors, 1])


def with_value(value: float) -> np.ndarray:
    values = as_nifti(heart()).astype(np.float64)
    values[3, 4, 5, 6] = value
    return values


NIFTIS: dict[str, tuple[Callable[[Path], None], Reason]] = {
    "no folder": (lambda folder: None, Reason.NO_NIFTI),
    "end-diastole only": (image(as_nifti(heart())[..., 0], "sa_ED.nii.gz"), Reason.NO_NIFTI),
    "folder instead of file": (
        lambda folder: (folder / "sa.nii.gz").mkdir(parents=True),
        Reason.UNREADABLE,
    ),
    "empty": (content(lambda _: b"", "sa.nii"), Reason.EMPTY_FILE),
    "not compressed": (content(gzip.decompress), Reason.NIFTI_DAMAGED),
    "truncated": (content(lambda made: made[:-3000]), Reason.NIFTI_DAMAGED),
    "truncated, not compressed": (
        content(lambda made: made[:-3000], "sa.nii"),
        Reason.NIFTI_DAMAGED,
    ),
    "bit flipped": (
        content(lambda made: made[:5000] + bytes([made[5000] ^ 1]) + made[5001:]),
        Reason.NIFTI_DAMAGED,
    ),
    "no NIfTI": (content(lambda _: b"text" * 999, "sa.nii"), Reason.NIFTI_DAMAGED),
    "unknown type of data": (header(datatype=999), Reason.NIFTI_DAMAGED),
    "negative size": (
        header(dim=[4, -COLUMNS, ROWS, SLICES, FRAMES, 1, 1, 1]),
        Reason.NIFTI_DAMAGED,
    ),
    "data beyond the end": (header(vox_offset=1e9), Reason.NIFTI_DAMAGED),
    "larger than the file": (
        header(dim=[4, 220, 260, SLICES, FRAMES, 1, 1, 1]),
        Reason.NIFTI_DAMAGED,
    ),
    "absurd size": (header(dim=[4, 30_000, 30_000, 50, 50, 1, 1, 1]), Reason.TOO_LARGE),
    "two frames": (copied, Reason.NOT_A_CINE),
    "no frames": (image(as_nifti(heart())[..., 0]), Reason.NOT_A_CINE),
    "five axes": (image(as_nifti(heart())[..., None]), Reason.NOT_A_CINE),
    "sixty slices": (image(as_nifti(heart(60))), Reason.NOT_A_CINE),
    "five slices": (image(as_nifti(heart(5))), Reason.FEW_SLICES),
    "nan": (image(with_value(np.nan)), Reason.NIFTI_VALUES),
    "infinite": (image(with_value(-np.inf)), Reason.NIFTI_VALUES),
    "huge": (image(with_value(1e300)), Reason.NIFTI_VALUES),
    "infinite slope": (header(scl_slope=1e38, scl_inter=3e38), Reason.NIFTI_VALUES),
    "complex": (image(as_nifti(heart()).astype(np.complex64)), Reason.NIFTI_VALUES),
    "oblong pixels": (
        image(as_nifti(heart()), affine=stretched(1, 1.2, 1)),
        Reason.PIXELS_NOT_SQUARE,
    ),
    "pixels of 0 mm": (header(srow_x=0, srow_y=0, srow_z=0), Reason.NO_GEOMETRY),
    "slices of 100 mm": (image(as_nifti(heart()), affine=stretched(1, 1, 10)), Reason.NO_GEOMETRY),
    "segmentation of another size": (
        beside(np.zeros((COLUMNS, ROWS, SLICES - 1, FRAMES), np.uint8)),
        Reason.SEGMENTATION_MISMATCH,
    ),
    "segmentation of another place": (
        beside(np.zeros((COLUMNS, ROWS, SLICES, FRAMES), np.uint8), affine=stretched(-1, 1, 1)),
        Reason.SEGMENTATION_MISMATCH,
    ),
    "segmentation of five labels": (
        beside(np.full((COLUMNS, ROWS, SLICES, FRAMES), 4, np.uint8)),
        Reason.SEGMENTATION_LABELS,
    ),
    "segmentation of probabilities": (
        beside(np.full((COLUMNS, ROWS, SLICES, FRAMES), 0.5)),
        Reason.SEGMENTATION_LABELS,
    ),
    "end-systole of another image": (unrelated_systole, Reason.SEGMENTATION_MISMATCH),
}


@pytest.mark.parametrize("kind", NIFTIS)
def test_nifti(kind, tmp_path):
    make, reason = NIFTIS[kind]
    folder = tmp_path / str(EID)
    make(folder)
    with pytest.raises(Refused) as refused:
        nifti.read_short_axis(folder)
    assert refused.value.reason == reason
    assert_discreet(refused.value, folder)


def test_nifti_is_unpacked_no_further_than_a_genuine_one(tmp_path, monkeypatch):
    monkeypatch.setattr(nifti, "MAX_BYTES", 1000)
    write_nifti(tmp_path / "sa.nii.gz", as_nifti(heart()))
    with pytest.raises(Refused) as refused:
        nifti.read_short_axis(tmp_path)
    assert refused.value.reason == Reason.TOO_LARGE


def test_nifti_long_axis_of_several_slices(tmp_path):
    write_nifti(tmp_path / "la_4ch.nii.gz", as_nifti(heart()))
    with pytest.raises(Refused) as refused:
        nifti.read_long_axis(tmp_path)
    assert refused.value.reason == Reason.NOT_A_CINE

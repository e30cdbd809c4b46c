"""Every reader of foreign files, as something to throw damaged bytes at."""

from __future__ import annotations

import contextlib
import gzip
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from ukb_files import (
    as_nifti,
    dicom,
    heart,
    long_axis_members,
    members,
    tags,
    write_nifti,
    write_zip,
    xml,
)

from benchmark.api import UserError
from benchmark.cohorts.cohort import LEADS
from benchmark.cohorts.ukb import cardiosoft, nifti
from benchmark.cohorts.ukb import dicom as dicom_reader
from benchmark.cohorts.ukb.reasons import Refused
from benchmark.cohorts.ukb.tables import read_tables, read_withdrawn


@dataclass(frozen=True)
class Target:
    """A reader.

    ``seeds`` makes faultless files in an empty folder and returns their bytes; ``read`` reads one
    that it may write to that folder first, and raises what the reader raises other than a refusal.
    """

    seeds: Callable[[Path], list[bytes]]
    read: Callable[[bytes, Path], object]
    refusal: type[Exception] = Refused

    def __call__(self, content: bytes, folder: Path) -> None:
        with contextlib.suppress(self.refusal):
            self.read(content, folder)


def _small(values: dict) -> dict:
    """The same tags with a picture of 4 x 4, so that mutations meet tags and not pixels."""
    return values | {"Rows": 4, "Columns": 4, "PixelData": values["PixelData"][:32]}


def _four_chamber() -> dict[str, bytes]:
    return long_axis_members(
        {"4Ch": "CINE_segmented_LAX_4Ch"}, lambda _view, _frame, values: _small(values)
    )


_FOUR_CHAMBER = _four_chamber()


def _dicom_seeds(_folder: Path) -> list[bytes]:
    """One frame of the four-chamber view in several transfer syntaxes."""
    plain = _FOUR_CHAMBER["1.3.14.0.4.dcm"]
    values = _small(tags(heart()[0, 4], 0, 4)) | {"SeriesDescription": "CINE_segmented_LAX_4Ch"}
    syntaxes = (ImplicitVRLittleEndian, ExplicitVRBigEndian)
    return [plain, *(dicom(values, syntax) for syntax in syntaxes)]


def _read_dicom(content: bytes, folder: Path) -> None:
    """The damaged file among faultless ones of its series, in a faultless zip."""
    files = _FOUR_CHAMBER | {"1.3.14.0.4.dcm": content}
    dicom_reader.read_long_axis(write_zip(folder / "la.zip", files, zipfile.ZIP_STORED))


def _zip_seeds(folder: Path) -> list[bytes]:
    stack = members(lambda _slice, _frame, values: _small(values), slices=6)
    return [write_zip(folder / "seed.zip", stack).read_bytes()]


def _read_zip(content: bytes, folder: Path) -> None:
    path = folder / "sa.zip"
    path.write_bytes(content)
    dicom_reader.read_short_axis(path)


def _nifti_seeds(folder: Path) -> list[bytes]:
    few = as_nifti(heart()[:, :, 9:15, 7:13]) // 400  # also a segmentation of itself
    path = write_nifti(folder / "seed.nii", few.astype("u2"))
    return [path.read_bytes(), gzip.compress(path.read_bytes())]


def _read_nifti(content: bytes, folder: Path) -> None:
    packed = content.startswith(b"\x1f\x8b")
    names = ("sa.nii.gz", "seg_sa.nii.gz") if packed else ("sa.nii", "seg_sa.nii")
    for name in ("sa.nii.gz", "seg_sa.nii.gz", "sa.nii", "seg_sa.nii"):
        (folder / name).unlink(missing_ok=True)
    (folder / names[0]).write_bytes(content)
    nifti.read_short_axis(folder)
    (folder / names[1]).write_bytes(content)
    nifti.read_short_axis(folder)


def _manifest_seeds(_folder: Path) -> list[bytes]:
    rows = [
        f"{member},P,1.2.4.0,Aug 30, 2015,CINE_segmented_LAX_4Ch" for member in sorted(_UNNAMED)
    ]
    header = "filename,patientid,seriesid,date,series discription"
    return ["\n".join([header, *rows]).encode()]


_UNNAMED = long_axis_members(
    {"4Ch": "?"}, lambda _view, _frame, values: _small(values) | {"SeriesDescription": None}
)


def _read_manifest(content: bytes, folder: Path) -> None:
    files = _UNNAMED | {"manifest.cvs": content}
    dicom_reader.read_long_axis(write_zip(folder / "la.zip", files, zipfile.ZIP_STORED))


def _ecg_seeds(_folder: Path) -> list[bytes]:
    """Short samples: then more of the bytes are markup."""
    leads = [(lead, ",".join("0123456789" * 500)) for lead in LEADS]
    return [xml(leads), xml(leads, strip="Strip/StripData", resolution="4.88")]


HEADERS = (
    "eid,31-0.0,21003-2.0,53-2.0,41270-0.0,41280-0.0",
    "f.eid\tf.31.0.0\tf.21003.2.0\tf.53.2.0\tf.41270.0.0\tf.41280.0.0",
    "eid,p31,p21003_i2,p53_i2,p41270,p41280_a0",
    "participant.eid,participant.p31,participant.p21003_i2,participant.p53_i2,participant.p41270,participant.p41280_a0",
    "n_eid\tn_31_0_0\tn_21003_2_0\tts_53_2_0\ts_41270_0_0\tts_41280_0_0",
)


def _table_seeds(_folder: Path) -> list[bytes]:
    seeds = []
    for header in HEADERS:
        separator = "\t" if "\t" in header else ","
        code = '"[""I210"",""E119""]"' if "p41270" in header else "I210"
        rows = [
            separator.join([str(9_000_001 + n), "1", "63.5", "2016-05-03", code, "2012-01-30"])
            for n in range(3)
        ]
        seeds.append("\n".join([header, *rows, ""]).encode())
    return seeds


def _read_table(content: bytes, folder: Path) -> None:
    path = folder / "table.csv"
    path.write_bytes(content)
    table = read_tables([path], [31, 21003, 53, 41270, 41280])
    for query in (table.numbers, table.text, table.dates):
        for field, instance in ((31, 0), (21003, 2), (53, 2)):
            with contextlib.suppress(UserError):
                query(field, instance)
    with contextlib.suppress(UserError):
        table.listed(41270)
    table.listed_dates(41280)


def _withdrawn_seeds(_folder: Path) -> list[bytes]:
    lines = [str(9_000_001 + n) for n in range(3)]
    return ["\n".join(lines).encode(), "eid\r\n".encode("utf-8-sig") + "\r\n".join(lines).encode()]


def _read_withdrawn(content: bytes, folder: Path) -> None:
    path = folder / "withdrawn.csv"
    path.write_bytes(content)
    read_withdrawn([path])


TARGETS = {
    "cardiosoft": Target(_ecg_seeds, lambda content, _folder: cardiosoft.read_ecg(content)),
    "dicom": Target(_dicom_seeds, _read_dicom),
    "zip": Target(_zip_seeds, _read_zip),
    "manifest": Target(_manifest_seeds, _read_manifest),
    "nifti": Target(_nifti_seeds, _read_nifti),
    "table": Target(_table_seeds, _read_table, UserError),
    "withdrawn": Target(_withdrawn_seeds, _read_withdrawn, UserError),
}

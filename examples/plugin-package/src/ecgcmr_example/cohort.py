"""ECGs that lie as rows of large arrays, a table beside them: CODE-15% and EchoNext."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchmark.api import UserError
from benchmark.cohorts.ecg_cohort import ECGCohort, Exclusion, Records, read_table
from benchmark.cohorts.recordings import Fault, RecordingError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class RowsOfArrays(ECGCohort):
    """ECGs (rows, ..., samples, 12) of a few files, each read from its row: ``file:row``."""

    rate: ClassVar[float]
    """Hz."""
    millivolts: ClassVar[float] = 1.0
    """What a value of 1 is."""

    @classmethod
    def read(cls, root: Path, record: str) -> tuple[np.ndarray, float]:
        """Read one row, without the zeros it may be padded with at both ends."""
        file, _, row = record.rpartition(":")
        try:
            ecg = _read_row(root / file, int(row)).astype(np.float32).reshape(-1, 12)
        except (OSError, ValueError, KeyError) as error:
            raise RecordingError(root / record, Fault.SIGNALS, f"cannot be read: {error}") from None
        recorded = np.flatnonzero(ecg.any(axis=1))
        if not recorded.size:
            raise RecordingError(root / record, Fault.SIGNALS, "nothing but zeros")
        return ecg[recorded[0] : recorded[-1] + 1].T * cls.millivolts, cls.rate

    @classmethod
    def files(cls, root: Path, record: str) -> tuple[Path, ...]:
        """Return the array's file."""
        return (root / record.rpartition(":")[0],)

    @classmethod
    def records(cls, root: Path, table: pd.DataFrame, counts: dict[str, int]) -> Records:
        """Return those of a table with ``person``, ``path`` (NaN without a row) and ``age``.

        People come in the order in which the files hold them, so that these are read from front to
        back; a person's ECGs by age, since neither source gives dates.
        """
        import pandas as pd

        excluded = Counter(
            {
                Exclusion.NO_PATIENT: int(table["person"].isna().sum()),
                Exclusion.NO_SIGNAL: int((table["person"].notna() & table["path"].isna()).sum()),
            }
        )
        table = table.dropna(subset=["person", "path"])
        repeated = table["path"].duplicated(keep=False)  # no telling whose it is
        excluded[Exclusion.REPEATED] = int(repeated.sum())
        table = table[~repeated].sort_values("path", key=lambda paths: paths.map(_place))
        place = pd.Series(range(len(table)), table.index)
        first = place.groupby(table["person"]).transform("min")
        table = table.assign(first=first, place=place).sort_values(["first", "age", "place"])
        about = {"source": cls.__name__, "millivolts": cls.millivolts}
        table = table.drop(columns=["first", "place"]).reset_index(drop=True)
        return Records(root, table, excluded, about, counts)


def _read_row(path: Path, row: int) -> np.ndarray:
    """Read one row of an array; the rest of the file is not touched."""
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False)[row]
    import h5py

    with h5py.File(path, "r") as file:
        return file["tracings"][row]


def _place(path: str) -> tuple[int | str, ...]:
    """Sort row 10 behind row 9, and ``part10`` behind ``part9``."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path))


def _people(column: pd.Series) -> pd.Series:
    """Return ids as text, NA where there is none; a column with gaps has been read as floats."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    whole = numbers.where(numbers % 1 == 0).astype("Int64").astype("string")
    return whole.fillna(column.astype("string"))


def _flags(table: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Return 1.0 and 0.0 for yes and no in whichever spelling, NaN for anything else."""
    yes_no = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0}
    return table[list(names)].apply(lambda c: c.astype(str).str.strip().str.lower().map(yes_no))


def _numbers(column: pd.Series, highest: float) -> pd.Series:
    """Return the numbers above 0 and up to the highest one, NaN for anything else."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    return numbers.where((numbers > 0) & (numbers <= highest))


@dataclass(frozen=True, kw_only=True)
class CODE15(RowsOfArrays):
    """CODE-15%: 345,779 ECGs of 233,770 Brazilian patients (Ribeiro et al. 2021).

    Labels by readers of the ECG. Recordings of seven seconds, which are padded with zeros in the
    files, are left out: the harness compares encoders on ten.
    """

    name: ClassVar[str] = "code15"
    rate: ClassVar[float] = 400.0
    flags: ClassVar[tuple[str, ...]] = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")
    fetch: ClassVar[str] = (
        "fetch 'CODE-15%: a large scale annotated dataset of 12-lead ECGs' from Zenodo (licence "
        "CC BY 4.0), unpack exams.csv and any of exams_part0.hdf5 to exams_part17.hdf5 into one "
        "folder, and give it as --raw"
    )

    @classmethod
    def find(cls, raw: Path) -> Records:
        """Join ``exams.csv`` to the rows of ``exams_part*.hdf5`` by exam.

        The order of the files is another than the table's, and each ends in a row of no exam.
        """
        import pandas as pd

        columns = ["exam_id", "patient_id", "age", "is_male", *cls.flags]
        exams = read_table(raw / "exams.csv", columns, "CODE-15%", cls.fetch)
        rows, unreadable = _exams(raw)
        if not rows:
            raise UserError(f"{raw}: no exams_part*.hdf5 that can be read; {cls.fetch}")
        tracings = pd.DataFrame(rows, columns=["exam_id", "path"])
        exams["exam_id"] = pd.to_numeric(exams["exam_id"], errors="coerce")
        unnamed = ~tracings["exam_id"].isin(exams["exam_id"])
        twice = tracings["exam_id"].duplicated(keep=False)
        exams = exams.merge(tracings[~twice], "left", "exam_id")
        table = pd.DataFrame(
            {
                "person": _people(exams["patient_id"]),
                "path": exams["path"],
                "age": _numbers(exams["age"], 120),
                "sex": _flags(exams, ["is_male"])["is_male"],
                **_flags(exams, cls.flags),
            }
        )
        counts = {
            "files that cannot be read": unreadable,
            "rows of files that belong to no exam": int(unnamed.sum()),
            "rows of files with the exam of another": int((twice & ~unnamed).sum()),
        }
        return cls.records(raw, table, counts)


def _exams(raw: Path) -> tuple[list[tuple[int, str]], int]:
    """Return (exam, ``file:row``) of every row, and how many files cannot be read."""
    import h5py

    rows: list[tuple[int, str]] = []
    unreadable = 0
    for path in sorted(raw.glob("exams_part*.hdf5")):
        try:
            with h5py.File(path, "r") as file:
                exams = file["exam_id"][: len(file["tracings"])]
        except (OSError, KeyError):
            unreadable += 1
        else:
            rows += [(int(exam), f"{path.name}:{row}") for row, exam in enumerate(exams)]
    return rows, unreadable


@dataclass(frozen=True, kw_only=True)
class EchoNext(RowsOfArrays):
    """EchoNext: 100,000 ECGs of 36,286 patients with echocardiography (Elias and Finer 2025).

    Its values are standardised over the whole set. One SD is taken as 0.16 mV, so that what the
    harness knows about amplitudes in mV roughly holds; nobody's are to be read from it. In its
    flags, what was not measured is 0, as is what is absent. Its own split is not used.
    """

    name: ClassVar[str] = "echonext"
    rate: ClassVar[float] = 250.0
    millivolts: ClassVar[float] = 0.16
    flags: ClassVar[dict[str, str]] = {
        "lvef_lte_45_flag": "low-EF",
        "lvwt_gte_13_flag": "thick-wall",
    }
    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test", "no_split")
    fetch: ClassVar[str] = (
        "sign for EchoNext at PhysioNet (doi 10.13026/r9pp-3y42, restricted), and give the folder "
        "with echonext_metadata_100k.csv and EchoNext_*_waveforms.npy as --raw"
    )

    @classmethod
    def find(cls, raw: Path) -> Records:
        """Take the rows of each split's array in the order of the table."""
        import pandas as pd

        own = ["patient_key", "split", "age_at_ecg", "sex", "ventricular_rate", "qrs_duration"]
        name = "echonext_metadata_100k.csv"
        spelt = [path for path in raw.glob("*.csv") if path.name.lower() == name]
        path = spelt[0] if spelt else raw / name
        ecgs = read_table(path, [*own, *cls.flags], "EchoNext", cls.fetch)
        ecgs["path"] = pd.Series(pd.NA, ecgs.index, dtype=object)
        for split in cls.splits:
            array = raw / f"EchoNext_{split}_waveforms.npy"
            of_split = ecgs["split"] == split
            if not array.exists():
                continue
            try:
                rows = len(np.load(array, mmap_mode="r", allow_pickle=False))
            except (OSError, ValueError, EOFError):
                raise UserError(f"{array}: damaged or incomplete; {cls.fetch}") from None
            if rows != of_split.sum():
                raise UserError(f"{array}: {rows:,} rows for {of_split.sum():,} of {path.name}")
            ecgs.loc[of_split, "path"] = [f"{array.name}:{row}" for row in range(rows)]
        if ecgs["path"].isna().all():
            raise UserError(f"{raw}: no EchoNext_*_waveforms.npy; {cls.fetch}")
        sex = ecgs["sex"].astype(str).str.lower().str[:1].map({"m": 1, "1": 1, "f": 0, "0": 0})
        table = pd.DataFrame(
            {
                "person": _people(ecgs["patient_key"]),
                "path": ecgs["path"],
                "age": _numbers(ecgs["age_at_ecg"], 120),
                "sex": sex.astype(float),
                "qrs_number": _numbers(ecgs["ventricular_rate"], 400) / 6,
                "qrs_duration": _numbers(ecgs["qrs_duration"], 400),
                **_flags(ecgs, cls.flags).rename(columns=cls.flags),
            }
        )
        return cls.records(raw, table, {})

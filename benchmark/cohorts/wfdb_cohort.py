"""Public ECGs as a cohort: PTB-XL, or any folder of 12-lead WFDB records.

Nothing is downloaded: ``ecgcmr prepare wfdb`` reads the folder it is given.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.api import UserError
from benchmark.cohorts.ecg_cohort import (
    ECGCohort,
    Exclusion,
    Prepared,
    Records,
    prepare_ecgs,
    read_table,
)
from benchmark.cohorts.recordings import read_recording

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

LAYOUTS = ("auto", "ptbxl", "folder")

FETCH = (
    "fetch PTB-XL 1.0.3 from PhysioNet (project page 'PTB-XL, a large publicly available "
    "electrocardiography dataset', licence CC BY 4.0), or another set of 12-lead WFDB records, "
    "and give the folder it is unpacked into as --raw"
)

PTBXL_FILES = {100: "filename_lr", 500: "filename_hr"}  # columns, by Hz
HIDDEN_AGE = 300  # PTB-XL's age of everybody over 89
OLDEST_AGE = 90  # what stands for it here: 90 or older
HIGHEST_AGE = 120

# SNOMED CT codes that the PhysioNet Challenges of 2020 and 2021 list. Like PTB-XL's AFIB, atrial
# fibrillation leaves out pure flutter.
SNOMED = {
    # Atrial fibrillation; fibrillation and flutter; chronic; paroxysmal; rapid.
    "AF": {"164889003", "195080001", "426749004", "282825002", "314208002"},
    # Myocardial infarction; acute; anterior; old.
    "MI": {"164865005", "57054005", "54329005", "164867002"},
}

_PATIENT_COMMENTS = ("patient id", "patient_id", "patient", "subject id", "subject_id", "subject")
_NO_PATIENT = {"", "n/a", "na", "nan", "none", "unknown"}
# PTB Diagnostic has a folder patient001 per person, MIMIC-IV-ECG one named p and eight digits.
_PATIENT_FOLDER = re.compile(r"patient\d+|p\d{8}")


@dataclass(frozen=True, kw_only=True)
class WFDB(ECGCohort):
    """Public 12-lead ECGs, one recording a person, without CMR."""

    name: ClassVar[str] = "wfdb"

    @classmethod
    def find(cls, raw: Path) -> Records:
        """List the records of PTB-XL or of any folder, as they are found by default."""
        return find_records(Sources(raw))

    @classmethod
    def read(cls, root: Path, record: str) -> tuple[np.ndarray, float]:
        """Read a WFDB record."""
        recording = read_recording(root / record)
        return recording.ecg_mv, recording.rate

    @classmethod
    def files(cls, root: Path, record: str) -> tuple[Path, ...]:
        """Return the header and the signal file, of either kind."""
        return tuple(root / f"{record}{ending}" for ending in (".hea", ".dat", ".mat"))


@dataclass(frozen=True)
class Sources:
    """What ``ecgcmr prepare wfdb`` is given.

    Attributes
    ----------
    raw
        Folder of the database.
    layout
        ``ptbxl`` (its two tables and ``records500``), ``folder`` (every header at any depth), or
        ``auto``: PTB-XL where its table is.
    records100
        Read PTB-XL's copies at 100 Hz, which is done anyway where ``records500`` is missing.
    """

    raw: Path
    layout: str = "auto"
    records100: bool = False


# --------------------------------------------------------------------------------- the records


def find_records(sources: Sources) -> Records:
    """List the records of a folder, with what its tables or headers say about the people.

    Raises
    ------
    UserError
        When the folder is missing, holds no records (the message says what to fetch and where it
        goes), has tables that are not PTB-XL's, or is PTB-XL read as any folder.
    """
    if sources.layout not in LAYOUTS:
        raise UserError(f"no layout is called {sources.layout!r}; there is {', '.join(LAYOUTS)}")
    if not sources.raw.is_dir():
        raise UserError(f"{sources.raw}: no such folder; {FETCH}")
    # Downloads of PhysioNet unpack into a folder named after title and version.
    tables = [
        path.parent
        for pattern in ("ptbxl_database.csv", "*/ptbxl_database.csv")
        for path in sorted(sources.raw.glob(pattern))
    ]
    if sources.layout == "ptbxl" and not tables:
        raise UserError(f"{sources.raw}: no ptbxl_database.csv here; {FETCH}")
    if sources.layout == "folder" and tables:
        # Its copies at 100 Hz would be taken for other people, in train and test at once.
        raise UserError(f"{tables[0]}: this is PTB-XL; leave --layout folder out")
    if sources.layout == "folder" or not tables:
        return _folder(sources.raw)
    if len(tables) > 1:
        raise UserError(f"{sources.raw}: holds PTB-XL twice ({', '.join(map(str, tables))})")
    return _ptbxl(tables[0], sources.records100)


def _ptbxl(root: Path, records100: bool) -> Records:
    """List PTB-XL: Wagner et al., Scientific Data 2020.

    A statement counts whatever its likelihood: 0 means that none was given, and rhythms have no
    other. Infarction is known where the report makes any diagnostic statement, and is the
    superclass MI of ``scp_statements.csv``; atrial fibrillation is known where it names a rhythm.
    """
    import numpy as np
    import pandas as pd

    columns = ["ecg_id", "patient_id", "age", "sex", "height", "weight", "recording_date"]
    columns += ["scp_codes", *PTBXL_FILES.values()]
    table = read_table(root / "ptbxl_database.csv", columns, "PTB-XL", FETCH)
    columns = ["diagnostic", "rhythm", "diagnostic_class"]
    statements = read_table(root / "scp_statements.csv", columns, "PTB-XL", FETCH, index_col=0)
    diagnostic = set(statements.index[statements["diagnostic"] == 1])
    infarction = set(statements.index[statements["diagnostic_class"] == "MI"]) & diagnostic
    rhythm = set(statements.index[statements["rhythm"] == 1])

    low = records100 or not (root / "records500").is_dir()
    if low and not (root / "records100").is_dir():
        raise UserError(f"{root}: has neither records500 nor records100; {FETCH}")
    names = table[PTBXL_FILES[100 if low else 500]].astype(str)
    inside = np.array([_is_inside(root.resolve(), name) for name in names], bool)
    patient = pd.to_numeric(table["patient_id"], errors="coerce")
    known = patient.between(0, 2**53)  # NaN is not
    codes = [_statements(text) for text in table["scp_codes"]]
    age = pd.to_numeric(table["age"], errors="coerce")
    sex = pd.to_numeric(table["sex"], errors="coerce")
    records = pd.DataFrame(
        {
            "person": patient.where(known, 0).astype("int64").astype(str),
            "path": names.str.removesuffix(".hea"),
            "age": _ages(age),
            "sex": sex.map({0: 1.0, 1: 0.0}),  # PTB-XL has 0 for men and 1 for women
            "height": _positive(table["height"]),
            "weight": _positive(table["weight"]),
            "AF": [_stated(found, {"AFIB"}, rhythm) for found in codes],
            "MI": [_stated(found, infarction, diagnostic) for found in codes],
        }
    )
    order = table.assign(date=pd.to_datetime(table["recording_date"], errors="coerce"))
    order = order[known & inside].sort_values(["date", "ecg_id"], kind="stable").index
    records = records.loc[order]
    repeated = records["path"].duplicated()
    excluded = {
        Exclusion.NO_PATIENT: int((~known).sum()),
        Exclusion.OUTSIDE: int((known & ~inside).sum()),
        Exclusion.REPEATED: int(repeated.sum()),
    }
    return Records(
        root,
        records[~repeated].reset_index(drop=True),
        excluded,
        {"source": "PTB-XL", "records": 100 if low else 500},
        {
            "records without statements that can be read": codes.count(None),
            "ages over 89, taken as 90": int((age == HIDDEN_AGE).sum()),
        },
    )


def _is_inside(root: Path, name: str) -> bool:
    try:
        return (root / name).resolve().is_relative_to(root)
    except (OSError, ValueError, RuntimeError):  # a null byte, a name too long, links in a circle
        return False


def _statements(text: Any) -> set[str] | None:
    """Return the SCP-ECG statements of ``{'NORM': 100.0, 'SR': 0.0}``; None for other text."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return {str(code) for code in found} if isinstance(found, dict) else None


def _stated(found: set[str] | None, cases: set[str], kind: set[str]) -> float:
    """Return 1 for a case, 0 where only others of its kind are stated, NaN without any."""
    if not found or not found & (kind | cases):
        return math.nan
    return float(bool(found & cases))


def _folder(root: Path) -> Records:
    """List every header below a folder; comments as the PhysioNet Challenges have them.

    ``#Age``, ``#Sex`` and ``#Dx`` (SNOMED CT codes) are read, whatever their case. A person is a
    patient id in the comments, else a folder of one patient as PTB Diagnostic and MIMIC-IV-ECG
    have it, else the record itself. A diagnosis that no record of the folder states is one the
    source does not code, and missing. Only what an ECG shows is taken: a heart failure that is not
    coded on an ECG was not looked for.
    """
    import pandas as pd

    headers = sorted(root.rglob("*.hea"), key=lambda path: _natural(path.relative_to(root)))
    if not headers:
        raise UserError(f"{root}: no WFDB record (*.hea) here; {FETCH}")
    rows, named, hidden = [], 0, 0
    for header in headers:
        name = header.relative_to(root).with_suffix("").as_posix()
        comments = _comments(header)
        patient = _patient(name, comments)
        named += patient is not None
        codes = set(re.findall(r"\d+", comments.get("dx", "")))
        age = _number(comments.get("age", ""))
        hidden += age == HIDDEN_AGE
        sex = comments.get("sex", comments.get("gender", "")).lower()
        rows.append(
            {
                "person": patient or name,
                "path": name,
                "age": age,
                "sex": {"m": 1.0, "male": 1.0, "f": 0.0, "female": 0.0}.get(sex, math.nan),
                "height": math.nan,
                "weight": math.nan,
                **{d: _stated(codes, cases, codes) for d, cases in SNOMED.items()},
            }
        )
    table = pd.DataFrame(rows)
    table["age"] = _ages(table["age"])
    for diagnosis in SNOMED:
        if not (table[diagnosis] == 1).any():
            table[diagnosis] = math.nan
    counts = {
        "records that name no patient, each taken as a person": len(headers) - named,
        "ages over 89, taken as 90": hidden,
    }
    return Records(root, table, {}, {"source": "folder"}, counts)


def _patient(name: str, comments: Mapping[str, str]) -> str | None:
    """Return the patient id of a record, None where neither comments nor folders give one."""
    for key in _PATIENT_COMMENTS:
        if comments.get(key, "").lower() not in _NO_PATIENT:
            return comments[key]
    folders = [part for part in name.split("/")[:-1] if _PATIENT_FOLDER.fullmatch(part)]
    return folders[-1] if folders else None


def _comments(header: Path) -> dict[str, str]:
    """Return the ``# key: value`` lines of a header, keys in lower case; nothing unreadable."""
    try:
        with header.open("rb") as file:
            text = file.read(1 << 20).decode("utf-8", errors="replace")
    except OSError:  # counted when the record is read
        return {}
    lines = (line.lstrip("#").split(":", 1) for line in text.splitlines() if line.startswith("#"))
    return {words[0].strip(" <>").lower(): words[1].strip() for words in lines if len(words) == 2}


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort ``rec10`` behind ``rec9``."""
    return [
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.split(r"(\d+)", path.as_posix())
    ]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _ages(age: pd.Series) -> pd.Series:
    """Return years: 90 for PTB-XL's hidden ages, NaN for what is no age."""
    age = age.astype(float).replace(HIDDEN_AGE, OLDEST_AGE)
    return age.where(age.between(0, HIGHEST_AGE))


def _positive(values: pd.Series) -> pd.Series:
    import numpy as np
    import pandas as pd

    values = pd.to_numeric(values, errors="coerce").astype(float)
    return values.where((values > 0) & np.isfinite(values))


# ------------------------------------------------------------------------------ the preparation


def prepare(sources: Sources, **how: Any) -> Prepared:
    """Make the ``wfdb`` cohort of the store; ``how`` as in `prepare_ecgs`."""
    return prepare_ecgs(WFDB, lambda: find_records(sources), **how)

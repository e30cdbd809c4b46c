"""Public ECGs as a cohort: PTB-XL, or any folder of 12-lead WFDB records.

Nothing is downloaded. ``ecgcmr prepare wfdb`` reads the folder it is given and leaves, beside the
files that `benchmark.cohorts.prepared` describes,

    report.json    how many people were left out, and why: exact counts
    refused.csv    the refused recordings, by path
"""

from __future__ import annotations

import ast
import csv
import enum
import functools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.api import UserError
from benchmark.cohorts.blocks import block_file, finished_blocks, missing_blocks
from benchmark.cohorts.cohort import COVARIATES, DIAGNOSES, ECG_MILLIVOLT, ECG_RATE, ECG_SAMPLES
from benchmark.cohorts.phenotypes import PHENOTYPE_NAMES
from benchmark.cohorts.prepared import Preparation, PreparedCohort
from benchmark.cohorts.recordings import Fault, RecordingError, read_recording
from benchmark.cohorts.report import Report
from benchmark.privacy import pseudonym

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

VERSION = 1
"""Raised when equal files are read into other arrays: no unfinished work is gone on with."""

BLOCK = 64  # people read together: a second or two of work

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


class Exclusion(enum.StrEnum):
    """Why a record or a person is left out, beside the faults of recordings."""

    NO_PATIENT = "record without a patient id"
    OUTSIDE = "file name that leads out of the folder"
    REPEATED = "recording that another record names too"
    UNEXPECTED = "recording cannot be read for an unforeseen reason"


@dataclass(frozen=True, kw_only=True)
class WFDB(PreparedCohort):
    """Public 12-lead ECGs, one recording a person, without CMR."""

    name: ClassVar[str] = "wfdb"
    command: ClassVar[str] = "ecgcmr prepare wfdb --raw DIR"


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


@dataclass(frozen=True)
class Records:
    """The records of a folder, before any signal is read.

    Attributes
    ----------
    root
        The folder.
    table
        One row per record, first records of a person first: ``person`` (the source's id as text),
        ``path`` (below the root, without ending), the covariates and the diagnoses, NaN where the
        source does not say.
    excluded
        Records left out by now, by reason.
    about
        ``source`` and, for PTB-XL, the ``records`` that are read: content of ``cohort.json``.
    counts
        Of whatever else is worth knowing.
    """

    root: Path
    table: pd.DataFrame
    excluded: Mapping[Exclusion, int]
    about: Mapping[str, Any]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Prepared:
    """What a preparation left behind.

    Attributes
    ----------
    report
        Who is in the cohort and who is not.
    fingerprint
        Of the cohort; None after a dry run.
    """

    report: Report
    fingerprint: str | None = None


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
    table = _read_csv(root / "ptbxl_database.csv", [*columns, "scp_codes", *PTBXL_FILES.values()])
    statements = _read_csv(
        root / "scp_statements.csv", ["diagnostic", "rhythm", "diagnostic_class"], index_col=0
    )
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


def _read_csv(path: Path, columns: Iterable[str], **options: Any) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_csv(path, low_memory=False, **options)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, though PTB-XL has it; {FETCH}") from None
    except (OSError, ValueError) as error:  # also what pandas cannot parse, and bytes not UTF-8
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot read this table: {text}") from None
    if missing := [column for column in columns if column not in table]:
        raise UserError(f"{path}: no column {', '.join(missing)}; is this PTB-XL's table?")
    return table


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


def prepare(
    sources: Sources,
    *,
    workers: int = 1,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
    begin: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int, str], None] = lambda done, total, unit: None,
) -> Prepared:
    """Make the ``wfdb`` cohort of the store, going on where an earlier attempt was killed.

    Everybody's first usable recording: its first ten seconds at 500 Hz, in steps of 5 uV. Shorter
    ones are refused, since what they lack would have to be invented.

    Parameters
    ----------
    sources
        Folder and options.
    workers
        Processes; the result does not depend on it.
    dry_run
        List records and people, but read no signal.
    say
        Told what happens, a line at a time.
    begin
        Told what the progress from here on is of.
    progress
        Told how many of how many people are done.

    Raises
    ------
    UserError
        For what `find_records` refuses, when nobody is left, and when another process prepares
        this cohort. What is wrong with single recordings is counted in the report instead.
    """
    with Preparation(WFDB.name) as preparation:
        say("looking for records")
        records = find_records(sources)
        report = Report(counts={text: n for text, n in records.counts.items() if n})
        people = records.table["person"].nunique()
        report.step(
            "records", len(records.table) + sum(records.excluded.values()), records.excluded
        )
        if dry_run:
            report.step("people whose records would be read", people)
            return Prepared(report)
        work = _plan(preparation, records)
        begin("reading ECGs")
        _read(work, people, workers, progress)
        notes = _join(preparation, work, people)
        kept = _count(preparation, report, notes)
        if not kept:
            say(report.text())
            raise UserError("nobody is left to make a cohort of; the counts above say why")
        return Prepared(report, _finish(preparation, records, kept))


def _plan(preparation: Preparation, records: Records) -> Path:
    """Return the folder of the work, with the plan that the worker processes read."""
    import pandas as pd

    by_person = records.table.groupby("person", sort=False)["path"].agg(list)
    root = records.root.resolve()
    files = [[_state(root / path) for path in paths] for paths in by_person]
    work = preparation.work(
        {"version": VERSION, "root": str(root), "people": [*by_person.items()], "files": files}
    )
    plan = pd.DataFrame({"paths": by_person.map(json.dumps).to_numpy()})
    plan["block"] = plan.index // BLOCK
    plan.to_parquet(work / "plan.parquet", index=False)
    (work / "root").write_text(str(root))
    return work


def _state(record: Path) -> list[list[int] | None]:
    """Return size and time of a record's files, so that work on other files is not gone on with."""
    states: list[list[int] | None] = []
    for ending in (".hea", ".dat", ".mat"):
        try:
            status = record.with_name(record.name + ending).stat()
        except OSError:
            states.append(None)
        else:
            states.append([status.st_size, status.st_mtime_ns])
    return states


def _read(work: Path, people: int, workers: int, progress: Callable[[int, int, str], None]) -> None:
    """Read everybody into blocks, in worker processes."""
    missing = missing_blocks(work, math.ceil(people / BLOCK))
    done = people - sum(min(BLOCK, people - block * BLOCK) for block in missing)
    progress(done, people, "people")
    make = functools.partial(read_block, work)
    with finished_blocks(make, missing, work, workers) as finished:
        for block in finished:
            done += min(BLOCK, people - block * BLOCK)
            progress(done, people, "people")


@functools.lru_cache(maxsize=1)
def _read_plan(work: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(work / "plan.parquet")


def read_block(work: Path, block: int) -> dict[str, np.ndarray]:
    """Read some people of a plan.

    Returns
    -------
    dict
        ``ecg``, one row per person that is kept, and ``notes``: for every person the record that
        was taken and what was wrong with the ones before it, as JSON in bytes.
    """
    import numpy as np

    root, plan = Path((work / "root").read_text()), _read_plan(work)
    ecg, notes = [np.empty((0, 12, ECG_SAMPLES), np.int16)], []
    for paths in plan.loc[plan["block"] == block, "paths"]:
        note: dict[str, Any] = {"taken": None, "refused": []}
        for path, steps, reason, detail in _attempts(root, json.loads(paths)):
            if steps is not None:
                ecg.append(steps[None])
                note["taken"] = path
                break
            note["refused"].append([path, reason, detail])
        notes.append(note)
    return {"ecg": np.concatenate(ecg), "notes": np.frombuffer(json.dumps(notes).encode(), "u1")}


def _attempts(
    root: Path, paths: Iterable[str]
) -> Iterator[tuple[str, np.ndarray | None, str, str]]:
    """Read one record after the other; whatever is wrong with one stops nobody else."""
    for path in paths:
        try:
            steps, reason, detail = first_ten_seconds(root / path), "", ""
        except MemoryError:
            raise  # says nothing about the file
        except RecordingError as error:
            steps, reason, detail = None, error.fault.value, error.detail
        except Exception as error:
            steps, reason, detail = None, Exclusion.UNEXPECTED.value, type(error).__name__
        if steps is None and not root.is_dir():
            # Or everybody would be left out because a network drive is away.
            raise UserError(
                f"the folder {root} is gone; finished work is kept: run again when it is back"
            )
        yield path, steps, reason, detail


def first_ten_seconds(path: Path) -> np.ndarray:
    """Read a recording as a cohort stores it.

    Returns
    -------
    np.ndarray
        (12, 5000) int16 in steps of 5 uV, at 500 Hz. What lies beyond 163 mV, and so is no ECG, is
        cut to the largest number.

    Raises
    ------
    RecordingError
        As `read_recording`, and for less than ten seconds.
    """
    import numpy as np

    from benchmark.cohorts.ecg import resample

    recording = read_recording(path)
    seconds = recording.ecg_mv.shape[1] / recording.rate
    # A second more than is kept, so that the resampling filter's end is cut off.
    cut = recording.ecg_mv[:, : math.ceil(recording.rate * (ECG_SAMPLES / ECG_RATE + 1))]
    ecg_mv = resample(cut, recording.rate, ECG_RATE)[:, :ECG_SAMPLES]
    if ecg_mv.shape[1] < ECG_SAMPLES:
        raise RecordingError(path, Fault.SHORT, f"{seconds:.1f} s of signal; ten are needed")
    largest = np.iinfo(np.int16).max
    return np.clip(np.rint(ecg_mv / ECG_MILLIVOLT), -largest, largest).astype(np.int16)


def _join(preparation: Preparation, work: Path, people: int) -> list[dict[str, Any]]:
    """Join the blocks into the draft's array; return what was noted of each person."""
    from safetensors import safe_open

    from benchmark.cohorts.arrays import create_array

    notes: list[dict[str, Any]] = []
    blocks = [block_file(work, block) for block in range(math.ceil(people / BLOCK))]
    for path in blocks:
        with safe_open(path, "numpy") as block:
            notes += json.loads(block.get_tensor("notes").tobytes())
    kept = sum(note["taken"] is not None for note in notes)
    if kept:
        shape = (kept, 12, ECG_SAMPLES)
        array, first = create_array(preparation.draft() / "ecg.npy", shape, "int16"), 0
        for path in blocks:
            with safe_open(path, "numpy") as block:
                values = block.get_tensor("ecg")
                array[first : first + len(values)] = values
                first += len(values)
        array.flush()
    return notes


def _count(preparation: Preparation, report: Report, notes: list[dict[str, Any]]) -> list[str]:
    """Enter into the report what became of the people; return the records that were taken."""
    reasons: dict[str, enum.StrEnum] = {r.value: r for r in (*Fault, *Exclusion)}
    taken = [note["taken"] for note in notes if note["taken"] is not None]
    # The reason of the first record, the one that was wanted.
    out = Counter(reasons[n["refused"][0][1]] for n in notes if n["taken"] is None)
    refused = [row for note in notes for row in note["refused"]]
    report.step("people", len(notes), out)
    report.step("in the cohort", len(taken))
    report.counts["recordings refused"] = len(refused)
    report.counts["people with a later recording than their first"] = sum(
        note["taken"] is not None and bool(note["refused"]) for note in notes
    )
    with (preparation.folder / "refused.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["record", "reason", "detail"])
        rows.writerows(refused)
    (preparation.folder / "report.json").write_text(json.dumps(report.as_json(), indent=1))
    return taken


def _finish(preparation: Preparation, records: Records, taken: list[str]) -> str:
    """Write tables and ids; return the fingerprint."""
    import numpy as np
    import pandas as pd

    rows = records.table.set_index("path").loc[taken].reset_index(drop=True)
    covariates = rows[list(COVARIATES)]
    people = covariates.copy()
    people.insert(0, "id", [pseudonym(person) for person in rows["person"]])
    missing = np.full((len(rows), len(PHENOTYPE_NAMES)), np.nan)
    return preparation.finish(
        people,
        rows["person"],
        pd.DataFrame(missing, columns=list(PHENOTYPE_NAMES)),
        rows.reindex(columns=list(DIAGNOSES)).astype(float),
        about={"spacing": None, **records.about},
        holds=("ecg", *(["covariates"] if covariates.notna().any(axis=None) else [])),
    )

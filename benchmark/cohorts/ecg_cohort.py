"""A cohort of 12-lead ECGs without CMR, made of files that a user has.

A source of such ECGs is a class of two methods: `ECGCohort.find` lists its records with what is
known of the people, `ECGCohort.read` reads one of them. Checking, resampling, cutting, counting,
resuming and storing are the same for all, and leave, beside the files that
`benchmark.cohorts.prepared` describes,

    report.json    how many people were left out, and why: exact counts
    refused.csv    the refused recordings, by path
"""

from __future__ import annotations

import csv
import enum
import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.api import UserError
from benchmark.cohorts.blocks import block_file, finished_blocks, missing_blocks
from benchmark.cohorts.cohort import (
    COVARIATES,
    DIAGNOSES,
    ECG_MEASURES,
    ECG_MILLIVOLT,
    ECG_RATE,
    ECG_SAMPLES,
)
from benchmark.cohorts.phenotypes import PHENOTYPE_NAMES
from benchmark.cohorts.prepared import Preparation, PreparedCohort
from benchmark.cohorts.recordings import Fault, RecordingError, checked
from benchmark.cohorts.report import Report
from benchmark.privacy import pseudonym

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

VERSION = 1
"""Raised when equal recordings are stored as other arrays: no unfinished work is gone on with."""

BLOCK = 64  # people read together: a second or two of work


class Exclusion(enum.StrEnum):
    """Why a record or a person is left out, beside the faults of recordings."""

    NO_PATIENT = "record without a patient id"
    NO_SIGNAL = "record whose signal is in none of the files"
    OUTSIDE = "file name that leads out of the folder"
    REPEATED = "recording that another record names too"
    UNEXPECTED = "recording cannot be read for an unforeseen reason"


@dataclass(frozen=True)
class Records:
    """The records of a folder, before any signal is read.

    Attributes
    ----------
    root
        The folder.
    table
        One row per record, first records of a person first: ``person`` (the source's id as text)
        and ``path`` (what `ECGCohort.read` is given). Everything else is optional, NaN where the
        source does not say: the covariates, the measures of the ECG, and diagnoses or other labels
        (1 yes, 0 no), which become the cohort's table ``diagnoses``.
    excluded
        Records left out by now, by reason.
    about
        ``source`` and whatever else the arrays depend on: content of ``cohort.json``.
    counts
        Of whatever else is worth knowing.
    """

    root: Path
    table: pd.DataFrame
    excluded: Mapping[enum.StrEnum, int] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A record of two people would put one of them into training and test at once.
        if self.table["path"].duplicated().any() or self.table[["person", "path"]].isna().any(
            axis=None
        ):
            raise ValueError("every record has a path of its own, and a person")


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


@dataclass(frozen=True, kw_only=True)
class ECGCohort(PreparedCohort):
    """12-lead ECGs without CMR, one recording a person: everybody's first usable one.

    A subclass sets ``name``, and what `find` and `read` do.
    """

    reading: ClassVar[int] = 1
    """Raised when `read` gives other signals for equal files: unfinished work is dropped."""

    @classmethod
    def find(cls, raw: Path) -> Records:
        """List the records of a folder, reading no signal.

        Raises
        ------
        UserError
            Where there are none: what to fetch, from where, and what to give.
        """
        raise NotImplementedError

    @classmethod
    def read(cls, root: Path, record: str) -> tuple[np.ndarray, float]:
        """Read one record, in whatever process.

        What makes a signal useless (missing samples, flat leads, too short) is found by the
        harness; an error that is raised costs this record alone, and is counted.

        Returns
        -------
        np.ndarray
            (12, samples) in mV, leads in the order of `benchmark.cohorts.cohort.LEADS`.
        float
            Hz.
        """
        raise NotImplementedError

    @classmethod
    def files(cls, root: Path, record: str) -> tuple[Path, ...]:
        """Return the files a record is read from: when one has changed, all is read anew."""
        raise NotImplementedError

    @classmethod
    def prepare(cls, raw: Path, **how: Any) -> Prepared:
        """Make the cohort of a folder; ``how`` as in `prepare_ecgs`."""
        return prepare_ecgs(cls, lambda: cls.find(raw), **how)


def read_table(
    path: Path, columns: Iterable[str], source: str, fetch: str, **options: Any
) -> pd.DataFrame:
    """Read a CSV table that a source comes with.

    Parameters
    ----------
    path
        The file.
    columns
        Which must be there.
    source
        Whose table it is.
    fetch
        What a user without it is told to do.
    options
        Of `pandas.read_csv`.

    Raises
    ------
    UserError
        When it is missing, cannot be read, or is another table.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, low_memory=False, **options)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, though {source} has it; {fetch}") from None
    except (OSError, ValueError) as error:  # also what pandas cannot parse, and bytes not UTF-8
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot read this table: {text}") from None
    if missing := [column for column in columns if column not in table]:
        raise UserError(f"{path}: no column {', '.join(missing)}; is this {source}'s table?")
    return table


def prepare_ecgs(
    cohort: type[ECGCohort],
    find: Callable[[], Records],
    *,
    workers: int = 1,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
    begin: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int, str], None] = lambda done, total, unit: None,
) -> Prepared:
    """Make such a cohort of the store, going on where an earlier attempt was killed.

    Everybody's first usable recording: its first ten seconds at 500 Hz, in steps of 5 uV. Shorter
    ones are refused, since what they lack would have to be invented.

    Parameters
    ----------
    cohort
        Which.
    find
        Lists the records.
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
        For what ``find`` refuses, when nobody is left, and when another process prepares this
        cohort. What is wrong with single recordings is counted in the report instead.
    """
    with Preparation(cohort.name) as preparation:
        say("looking for records")
        records = find()
        report = Report(counts={text: n for text, n in records.counts.items() if n})
        people = records.table["person"].nunique()
        report.step(
            "records", len(records.table) + sum(records.excluded.values()), records.excluded
        )
        if dry_run:
            report.step("people whose records would be read", people)
            return Prepared(report)
        work = _plan(preparation, cohort, records)
        begin("reading ECGs")
        _read(cohort, work, people, workers, progress)
        notes = _join(preparation, work, people)
        kept = _count(preparation, report, notes)
        if not kept:
            say(report.text())
            raise UserError("nobody is left to make a cohort of; the counts above say why")
        return Prepared(report, _finish(preparation, records, kept))


def _plan(preparation: Preparation, cohort: type[ECGCohort], records: Records) -> Path:
    """Return the folder of the work, with the plan that the worker processes read."""
    import pandas as pd

    by_person = records.table.groupby("person", sort=False)["path"].agg(list)
    root = records.root.resolve()
    state = functools.lru_cache(maxsize=None)(_state)
    files = [[[*map(state, cohort.files(root, path))] for path in paths] for paths in by_person]
    work = preparation.work(
        {
            "version": [VERSION, cohort.reading],
            "root": str(root),
            "people": [*by_person.items()],
            "files": files,
        }
    )
    plan = pd.DataFrame({"paths": by_person.map(json.dumps).to_numpy()})
    plan["block"] = plan.index // BLOCK
    plan.to_parquet(work / "plan.parquet", index=False)
    (work / "root").write_text(str(root))
    return work


def _state(path: Path) -> tuple[int, int] | None:
    """Return size and time of a file, so that work on other files is not gone on with."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _read(
    cohort: type[ECGCohort],
    work: Path,
    people: int,
    workers: int,
    progress: Callable[[int, int, str], None],
) -> None:
    """Read everybody into blocks, in worker processes."""
    missing = missing_blocks(work, math.ceil(people / BLOCK))
    done = people - sum(min(BLOCK, people - block * BLOCK) for block in missing)
    progress(done, people, "people")
    make = functools.partial(read_block, cohort, work)
    with finished_blocks(make, missing, work, workers) as finished:
        for block in finished:
            done += min(BLOCK, people - block * BLOCK)
            progress(done, people, "people")


@functools.lru_cache(maxsize=1)
def _read_plan(work: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(work / "plan.parquet")


def read_block(cohort: type[ECGCohort], work: Path, block: int) -> dict[str, np.ndarray]:
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
        for path, steps, reason, detail in _attempts(cohort, root, json.loads(paths)):
            if steps is not None:
                ecg.append(steps[None])
                note["taken"] = path
                break
            note["refused"].append([path, reason, detail])
        notes.append(note)
    return {"ecg": np.concatenate(ecg), "notes": np.frombuffer(json.dumps(notes).encode(), "u1")}


def _attempts(
    cohort: type[ECGCohort], root: Path, paths: Iterable[str]
) -> Iterator[tuple[str, np.ndarray | None, str, str]]:
    """Read one record after the other; whatever is wrong with one stops nobody else."""
    for path in paths:
        try:
            steps = first_ten_seconds(root / path, *cohort.read(root, path))
            reason, detail = "", ""
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


def first_ten_seconds(path: Path, ecg_mv: np.ndarray, rate: float) -> np.ndarray:
    """Return a recording as a cohort stores it.

    Parameters
    ----------
    path
        What errors call it.
    ecg_mv
        (12, samples) in mV.
    rate
        Hz.

    Returns
    -------
    np.ndarray
        (12, 5000) int16 in steps of 5 uV, at 500 Hz. What lies beyond 163 mV, and so is no ECG, is
        cut to the largest number.

    Raises
    ------
    RecordingError
        As `benchmark.cohorts.recordings.checked`, and for less than ten seconds.
    """
    import numpy as np

    from benchmark.cohorts.ecg import resample

    recording = checked(path, ecg_mv, rate, path.name)
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
    covariates = rows.reindex(columns=list(COVARIATES)).astype(float)
    measures = rows[[name for name in ECG_MEASURES if name in rows]].astype(float)
    people = pd.concat([covariates, measures], axis=1)
    people.insert(0, "id", [pseudonym(person) for person in rows["person"]])
    labels = rows.columns.difference(["person", *people.columns, *DIAGNOSES], sort=False)
    missing = np.full((len(rows), len(PHENOTYPE_NAMES)), np.nan)
    return preparation.finish(
        people,
        rows["person"],
        pd.DataFrame(missing, columns=list(PHENOTYPE_NAMES)),
        rows.reindex(columns=[*DIAGNOSES, *labels]).astype(float),
        about={"spacing": None, **records.about},
        holds=("ecg", *(["covariates"] if covariates.notna().any(axis=None) else [])),
    )

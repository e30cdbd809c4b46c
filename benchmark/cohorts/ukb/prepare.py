"""From UK Biobank's bulk downloads to a prepared cohort: ``ecgcmr prepare ukb``.

Everything is about single persons and stays in the private store: `benchmark.cohorts.prepared`
gives the layout, to which this module adds

    files-<folder>.parquet   listings of the raw folders
    withdrawn.txt            everybody who was ever on a list of withdrawn people
    report.json              how many people were left out, and why: exact counts
    refused.csv              the refused files, by path
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import math
import os
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import UserError
from benchmark.cohorts.blocks import block_file, finished_blocks, missing_blocks
from benchmark.cohorts.prepared import (
    Preparation,
    data_folder,
    is_intact,
    read_current,
    write_current,
)
from benchmark.cohorts.report import Report
from benchmark.cohorts.ukb.cohort import UKB, WITHDRAWN, among
from benchmark.cohorts.ukb.files import BulkFiles, find_files
from benchmark.cohorts.ukb.images import SLICES, ImageOptions
from benchmark.cohorts.ukb.labels import (
    ECG,
    FIELDS,
    LONG_AXIS,
    SHORT_AXIS,
    as_coded,
    covariates,
    diagnoses,
    ecg_measures,
    phenotypes,
    same_visit,
)
from benchmark.cohorts.ukb.person import read_block
from benchmark.cohorts.ukb.reasons import Reason
from benchmark.cohorts.ukb.tables import read_tables, read_withdrawn
from benchmark.privacy import pseudonym

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

VERSION = 1
"""Raised when equal files are read into other arrays: nothing of an earlier cohort is reused."""

FILES = {"ecg": ECG, "short_axis": SHORT_AXIS, "long_axis": LONG_AXIS}

BLOCK = 16
"""People read together: about ten seconds' work, which is what a kill may cost a worker."""

Say = Callable[[str], None]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Sources:
    """What ``ecgcmr prepare ukb`` is given.

    Attributes
    ----------
    raw
        Folders with the bulk files, at any depth.
    tables
        Tables with the fields of `benchmark.cohorts.ukb.labels`.
    withdrawn
        Lists of withdrawn people; empty when the user has said that there is none.
    images
        How the images are made.
    when
        Time rule of the diagnoses; see `benchmark.cohorts.ukb.labels.diagnoses`.
    """

    raw: tuple[Path, ...]
    tables: tuple[Path, ...]
    withdrawn: tuple[Path, ...] = ()
    images: ImageOptions = ImageOptions()
    when: str = "ever"

    @property
    def fields(self) -> tuple[int, ...]:
        """Bulk fields of which everybody needs a file, of one visit."""
        return (ECG, SHORT_AXIS, *([LONG_AXIS] if self.images.long_axis else []))

    def command(self) -> str:
        """Return the command that was given, with every path absolute."""
        words = ["ecgcmr", "prepare", "ukb"]
        for path in self.raw:
            words += ["--raw", path]
        words += ["--table", *self.tables]
        words += ["--withdrawn", *self.withdrawn] if self.withdrawn else ["--no-withdrawn-list"]
        default = ImageOptions()
        for name in ("frames", "size", "spacing", "crop"):
            if (value := getattr(self.images, name)) != getattr(default, name):
                words += [f"--{name}", value]
        words += ["--long-axis"] if self.images.long_axis else []
        words += ["--when", self.when] if self.when != "ever" else []
        return shlex.join(
            os.path.abspath(word) if isinstance(word, Path) else str(word)  # noqa: PTH100
            for word in words
        )


@dataclass(frozen=True)
class Prepared:
    """What a preparation left behind.

    Attributes
    ----------
    report
        Who is in the cohort and who is not.
    fingerprint
        Of the cohort; None after a dry run.
    discard
        Whether people have withdrawn since the last preparation, so that everything made from
        earlier ones has to go. Then the cohort is not used until `settle` is called.
    """

    report: Report
    fingerprint: str | None = None
    discard: bool = False


def prepare(
    sources: Sources,
    *,
    workers: int = 1,
    dry_run: bool = False,
    say: Say = lambda text: None,
    begin: Say = lambda text: None,
    progress: Progress = lambda done, total, unit: None,
) -> Prepared:
    """Make the ``ukb`` cohort of the store, going on where an earlier attempt was killed.

    People whose files have not changed since the last preparation are taken over from it, so that
    leaving out those who have withdrawn takes minutes.

    Parameters
    ----------
    sources
        Files and options.
    workers
        Processes; the result does not depend on it.
    dry_run
        Find files and read tables, but no ECG and no image.
    say
        Told what happens, a line at a time.
    begin
        Told what the progress from here on is of.
    progress
        Told how many of how many people are done.

    Raises
    ------
    UserError
        For files that cannot be used as a whole (tables, lists, folders), when nobody is left, and
        when another process prepares this cohort. What is wrong with single people's files is
        counted in the report instead.
    """
    with Preparation(UKB.name) as preparation:
        return _Run(preparation, sources, workers, say, begin, progress).run(dry_run)


def settle(fingerprint: str) -> None:
    """Note that what was made from earlier preparations is gone, so that this one may be used."""
    current = read_current(UKB.name)
    if current is not None and current["fingerprint"] == fingerprint:
        write_current(UKB.name, {**current, "discard": False})


class _Run:
    """One preparation; its steps share what they found."""

    def __init__(
        self,
        preparation: Preparation,
        sources: Sources,
        workers: int,
        say: Say,
        begin: Say,
        progress: Progress,
    ) -> None:
        self.preparation, self.sources, self.workers = preparation, sources, workers
        self.say, self.begin, self.progress = say, begin, progress
        self.report = Report()
        self.before = _current_or_none()

    def run(self, dry_run: bool) -> Prepared:
        import pandas as pd

        sources = self.sources
        withdrawn = self._withdrawn()
        self.say("looking for files")
        files = find_files(sources.raw, self.preparation.folder, withdrawn)
        visits = self._pairs(files, withdrawn)
        self.say(f"reading {'a table' if len(sources.tables) == 1 else 'tables'}")
        table = read_tables(sources.tables, FIELDS, visits.index)
        self.report.counts["table rows without a valid id"] = table.dropped
        known = visits.index.isin(table.people)
        if not known.any():
            raise UserError(
                f"none of the {len(visits):,} people with files stands in the tables: files and "
                "tables seem to be of different applications"
            )
        visits, out = visits[known], Counter({Reason.NOT_IN_TABLE: int((~known).sum())})
        tables = {
            "people": covariates(table, visits).join(ecg_measures(table, visits)),
            "phenotypes": phenotypes(table, visits),
            "diagnoses": diagnoses(table, visits, when=sources.when).join(
                as_coded(table, visits, sources.when)
            ),
        }
        complete = tables["people"][["age", "sex"]].notna().all(axis=1).to_numpy()
        out[Reason.NO_COVARIATES] = int((~complete).sum())
        self.report.step("with an ECG and a cine of one visit", len(known), out)
        visits = visits[complete]
        self._note_missing_columns(tables)
        if dry_run or not len(visits):
            self.report.step("whose files would be read", len(visits))
            if not len(visits):
                self._nobody()
            return Prepared(self.report)

        if self.before and not is_intact(UKB.name, self.before["fingerprint"]):
            self.say("the last preparation is damaged: everybody is read anew")
            self.before = None
        plan = self._plan(files, visits)
        self._say_size(len(plan))
        work = self._work(plan)
        self._read(work, len(plan))
        notes = self._join(work, len(plan))
        self._count(notes)
        kept = [note["reason"] is None for note in notes]
        if not any(kept):
            self._nobody()
        eids = plan.loc[kept, "eid"]
        rows = {
            name: frame[complete][kept].reset_index(drop=True) for name, frame in tables.items()
        }
        rows["people"].insert(0, "id", [pseudonym(str(eid)) for eid in eids])
        keys = pd.DataFrame(
            {
                "key": plan.loc[kept, "key"],
                "crop": [note["crop"] for note in notes if note["reason"] is None],
                "flags": [json.dumps(n["flags"]) for n in notes if n["reason"] is None],
            }
        )
        folder = self.preparation.folder
        _write(folder / "report.json", json.dumps(self.report.as_json(), indent=1))
        _write(folder / WITHDRAWN, "".join(f"{eid}\n" for eid in sorted(withdrawn)))
        lists = _sha256(sorted(withdrawn))
        before = self.before or {"discard": True}
        discard = bool(withdrawn) and (before["discard"] or before["lists"] != lists)
        fingerprint = self.preparation.finish(
            rows["people"],
            eids,
            rows["phenotypes"],
            rows["diagnoses"],
            about={
                "spacing": sources.images.spacing,
                "crop": dict(sorted(self.report.crop.items())),
                "when": sources.when,
            },
            holds=("ecg", "cmr", "covariates", "icd10"),
            settings={
                "command": sources.command(),
                "withdrawn": [os.path.abspath(path) for path in sources.withdrawn],  # noqa: PTH100
                "lists": lists,
                "discard": discard,
            },
            beside={"keys": keys},
        )
        return Prepared(self.report, fingerprint, discard)

    def _withdrawn(self) -> set[int]:
        """Return everybody who is or ever was on a list: nobody comes back with a shorter one."""
        path = self.preparation.folder / WITHDRAWN
        return read_withdrawn([*self.sources.withdrawn, *([path] if path.exists() else [])])

    def _pairs(self, files: BulkFiles, withdrawn: set[int]) -> pd.Series:
        """Return the visit of everybody who has all files of one visit and has not withdrawn."""
        table, fields, out = files.files, self.sources.fields, Counter()
        people = table["eid"].drop_duplicates()
        gone = among(people, withdrawn)
        out[Reason.WITHDRAWN] = int(gone.sum())
        theirs = among(table["eid"], withdrawn)
        self.report.counts["files of people who withdrew, which you have to delete"] = int(
            theirs.sum()
        )
        table = table[~theirs]
        visits = same_visit(table, fields)
        for _, rows in table[~table["eid"].isin(visits.index)].groupby("eid"):
            out[_why_no_pair(rows, fields)] += 1
        self.report.step("people with a file", len(people), out)
        self.report.counts["files of other names"] = files.others
        self.report.counts["files of a person and visit that has another"] = files.repeated
        if visits.empty:
            self._nobody()
        return visits

    def _note_missing_columns(self, tables: Mapping[str, pd.DataFrame]) -> None:
        for name, frame in tables.items():
            if empty := [column for column in frame if frame[column].isna().all()]:
                shown = ", ".join(empty[:6]) + (", ..." if len(empty) > 6 else "")
                self.say(f"nobody has a value in {len(empty)} of the {name}: {shown}")

    def _nobody(self) -> None:
        self.say(self.report.text())
        raise UserError("nobody is left to make a cohort of; the counts above say why")

    def _say_size(self, people: int) -> None:
        images = self.sources.images
        pictures = images.frames * (2 if images.long_axis else 1) + 2 * SLICES
        size = people * (12 * 5000 * 2 + pictures * images.size**2)
        free = shutil.disk_usage(self.preparation.folder).free
        self.say(
            f"{people:,} people: {size / 1e9:,.2f} GB, and as much again while the cohort is made; "
            f"{free / 1e9:,.1f} GB free"
        )

    def _plan(self, files: BulkFiles, visits: pd.Series) -> pd.DataFrame:
        """Return one row per person: id, files, key of what is read from them, and old row.

        People with the key of an earlier preparation need not be read again.
        """
        import pandas as pd

        rows = files.files[files.files["instance"] == files.files["eid"].map(visits)]
        plan = pd.DataFrame({"eid": visits.index.to_numpy()})
        for name, number in FILES.items():
            if number in self.sources.fields:
                own = rows[rows["field"] == number].set_index("eid").loc[visits.index]
                plan[name] = [
                    str(files.path(*at)) for at in zip(own["root"], own["path"], strict=True)
                ]
                plan[f"{name}_root"] = [str(files.roots[root]) for root in own["root"]]
                plan[f"{name}_converted"] = own["converted"].to_numpy(bool)
        recipe = [VERSION, asdict(self.sources.images)]
        paths = plan[["eid", *(name for name in FILES if name in plan)]]
        plan["key"] = [
            _sha256([recipe, eid, *map(_state, own)]) for eid, *own in paths.itertuples(index=False)
        ]
        plan["old"] = plan["key"].map(self._old_rows()).fillna(-1).astype("int64")
        return plan

    def _old_rows(self) -> dict[str, int]:
        """Return the row in the current cohort's arrays for each key."""
        import pandas as pd

        if self.before is None:
            return {}
        folder = data_folder(UKB.name, self.before["fingerprint"]).parent
        try:
            keys = pd.read_parquet(folder / "keys.parquet")["key"]
        except (OSError, ValueError, KeyError):
            return {}
        return dict(zip(keys, range(len(keys)), strict=True))

    def _work(self, plan: pd.DataFrame) -> Path:
        """Return the folder of the work, the plan written into it for the worker processes."""
        old = data_folder(UKB.name, self.before["fingerprint"]) if self.before else None
        job = {"images": asdict(self.sources.images), "old": str(old) if old else None}
        work = self.preparation.work({**job, "keys": plan["key"].tolist()})
        plan.to_parquet(work / "plan.parquet", index=False)
        _write(work / "job.json", json.dumps(job))
        return work

    def _read(self, work: Path, people: int) -> None:
        """Read all people into blocks, in worker processes."""
        missing = missing_blocks(work, math.ceil(people / BLOCK))
        done = people - sum(min(BLOCK, people - block * BLOCK) for block in missing)
        if done:
            self.say(f"{done:,} people were read before")
        self.begin("reading ECGs and images")
        self.progress(done, people, "people")
        make = functools.partial(read_block, work, BLOCK)
        with finished_blocks(make, missing, work, self.workers) as finished:
            for block in finished:
                done += min(BLOCK, people - block * BLOCK)
                self.progress(done, people, "people")

    def _join(self, work: Path, people: int) -> list[dict[str, Any]]:
        """Join the blocks into the draft's arrays; return what was noted of each person."""
        from safetensors import safe_open

        from benchmark.cohorts.arrays import create_array

        blocks = [block_file(work, block) for block in range(math.ceil(people / BLOCK))]
        notes: list[dict[str, Any]] = []
        for path in blocks:
            with safe_open(path, "numpy") as block:
                notes += json.loads(block.get_tensor("notes").tobytes())
        kept = sum(note["reason"] is None for note in notes)
        if not kept:
            return notes
        self.begin("writing the cohort")
        draft = self.preparation.draft()
        arrays: dict[str, np.memmap] = {}
        first = 0
        for path in blocks:
            with safe_open(path, "numpy") as block:
                for name in set(block.keys()) - {"notes"}:
                    values = block.get_tensor(name)
                    if name not in arrays:
                        shape = (kept, *values.shape[1:])
                        arrays[name] = create_array(draft / f"{name}.npy", shape, values.dtype)
                    arrays[name][first : first + len(values)] = values
                first += len(values)
            self.progress(first, kept, "people")
        for array in arrays.values():
            array.flush()
        return notes

    def _count(self, notes: list[dict[str, Any]]) -> None:
        """Enter into the report what became of the people whose files were read."""
        refused = [note for note in notes if note["reason"] is not None]
        out = Counter(Reason[note["reason"]] for note in refused)
        self.report.step("whose files were read", len(notes), out)
        self.report.step("in the cohort", len(notes) - len(refused))
        for note in notes:
            if note["reason"] is None:
                self.report.crop[note["crop"]] += 1
                self.report.flags.update(note["flags"])
        path = self.preparation.folder / "refused.csv"
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["file", "reason", "detail"])
            rows.writerows(
                [note["path"], Reason[note["reason"]].value, note["detail"]] for note in refused
            )


# --------------------------------------------------------------------------------- small things


def _current_or_none() -> dict[str, Any] | None:
    try:
        return read_current(UKB.name)
    except UserError:  # damaged: everything is read anew
        return None


def _why_no_pair(rows: pd.DataFrame, fields: Sequence[int]) -> Reason:
    """Return why a person with these files has none of every field from one visit."""
    held = set(rows["field"])
    for number, reason in ((ECG, Reason.NO_ECG), (SHORT_AXIS, Reason.NO_CMR)):
        if number not in held:
            return reason
    if same_visit(rows).empty:
        return Reason.NO_SAME_VISIT
    assert LONG_AXIS in fields
    return Reason.NO_LONG_AXIS


def _state(path: str) -> list[list[int]] | None:
    """Return size and time of a file, or of the NIfTI files of a folder; None when it is gone."""
    try:
        parts = sorted(Path(path).glob("*.nii*")) if Path(path).is_dir() else [Path(path)]
        return [[status.st_size, status.st_mtime_ns] for status in (part.stat() for part in parts)]
    except OSError:
        return None


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)

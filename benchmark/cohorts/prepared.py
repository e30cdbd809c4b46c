"""Cohorts that ``ecgcmr prepare`` has made from a user's files.

Layout below the store, readable by the user alone::

    prepared/<name>/current.json      which cohort is the current one, and how it was made
    prepared/<name>/<fingerprint>/    its files: `data` is what `CohortData` reads
    prepared/<name>/work-<recipe>/    an unfinished preparation, which the next one goes on with
    prepared/<name>/lock              held while somebody prepares
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from benchmark.api import Cohort, Context, UserError
from benchmark.privacy import store_root

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("people", "ids", "phenotypes", "diagnoses")


@dataclass(frozen=True, kw_only=True)
class PreparedCohort(Cohort):
    """A cohort that lies prepared in the store.

    Subclasses are registered cohorts: they set ``name`` and, where it takes more than a folder,
    ``command``.

    Parameters
    ----------
    fingerprint
        Of the people, tables and arrays; see `fingerprint_of`.
    people
        How many; follows from the fingerprint.
    holds
        As `Cohort.modalities`; follows from the fingerprint.
    """

    command: ClassVar[str] = ""
    """How such a cohort is prepared, as one would type it."""

    fingerprint: str
    people: int = field(metadata={"identity": False})
    holds: tuple[str, ...] = field(metadata={"identity": False})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "command" not in cls.__dict__:
            cls.command = f"ecgcmr prepare {cls.name} --raw DIR"

    @classmethod
    def at(cls, scale: str, preset: str = "default") -> Self:
        """Return the current prepared cohort: everyone, at any scale.

        Raises
        ------
        UserError
            When none has been prepared, or it must not be used any longer.
        """
        if preset != "default":
            raise UserError(f"the cohort {cls.name} has no preset {preset!r}")
        current = read_current(cls.name)
        if current is None:
            raise UserError(f"no {cls.name} cohort has been prepared; run: {cls.command}")
        cls.recheck(current)
        return cls(
            fingerprint=current["fingerprint"],
            people=current["people"],
            holds=tuple(current["holds"]),
        )

    @classmethod
    def prepare(cls, raw: Path, **how: Any) -> Any:
        """Make the cohort of a folder, for ``ecgcmr prepare NAME --raw DIR``.

        ``how`` and what is returned: as `benchmark.cohorts.ecg_cohort.prepare_ecgs` has them.
        """
        raise UserError(f"the cohort {cls.name} is prepared by: {cls.command}")

    @classmethod
    def recheck(cls, current: Mapping[str, Any]) -> None:
        """Raise `UserError` when the prepared cohort must not be used any longer."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it holds of its people."""
        return self.holds

    @property
    def title(self) -> str:
        """The cohort's name."""
        return self.name

    @property
    def label(self) -> str:
        """What a person reads in plans and progress lines."""
        return f"{self.name} cohort of {self.people:,} people"

    def run(self, context: Context) -> None:
        """Take over the prepared files: as further names of the same files where that works."""
        current = read_current(self.name)
        if current is None or current["fingerprint"] != self.fingerprint:
            raise UserError(
                f"the {self.name} cohort has been prepared anew since this command began; "
                "run it again"
            )
        # The store verifies artifacts, and would make one that is damaged again from these files,
        # which are the same ones on the disk.
        if not is_intact(self.name, self.fingerprint):
            raise damaged(self.name)
        for path in sorted(data_folder(self.name, self.fingerprint).iterdir()):
            try:
                (context.out / path.name).hardlink_to(path)
            except OSError:  # another file system, or one without links
                shutil.copy2(path, context.out / path.name)


def prepared_folder(name: str) -> Path:
    """Return where everything about the prepared cohort of this name lies."""
    return store_root() / "prepared" / name


def data_folder(name: str, fingerprint: str) -> Path:
    """Return the folder that `benchmark.cohorts.cohort.CohortData` reads."""
    return prepared_folder(name) / fingerprint[:16] / "data"


def read_current(name: str) -> dict[str, Any] | None:
    """Return what is recorded about the prepared cohort of this name, None without one.

    ``fingerprint``, ``people`` (how many), ``holds``, and the settings that `Preparation.finish`
    was given.
    """
    try:
        current = json.loads((prepared_folder(name) / "current.json").read_bytes())
        there = data_folder(name, current["fingerprint"]).is_dir()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        there = False
    if not there:
        raise damaged(name)
    return current


def damaged(name: str) -> UserError:
    """Return the error for a prepared cohort that cannot be read."""
    return UserError(f"the prepared {name} cohort in the store is damaged; prepare it again")


def is_intact(name: str, fingerprint: str) -> bool:
    """Whether a prepared cohort still is what its fingerprint says; reads all of it."""
    try:
        return fingerprint_of(data_folder(name, fingerprint)) == fingerprint
    except (OSError, ValueError, KeyError):  # files gone or unreadable; columns gone
        return False


class Preparation:
    """A cohort that is being prepared, as a context: locked, private, resumable.

    Inside it, files are made for the user alone, and a full disk or a killed worker process
    becomes a `UserError`.

    Parameters
    ----------
    name
        Of the cohort.

    Raises
    ------
    UserError
        On entering, when another process prepares the same cohort.

    Examples
    --------
    >>> with Preparation("ukb") as preparation:  # doctest: +SKIP
    ...     work = preparation.work({"files": "...", "options": "..."})
    ...     ...  # blocks into `work`, arrays into `preparation.draft()`
    ...     preparation.finish(people, hash_id, phenotypes, diagnoses, about={"spacing": 1.8})
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = prepared_folder(name)
        self._work: Path | None = None

    def __enter__(self) -> Self:
        self._umask = os.umask(0o077)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(self._lock)
                raise UserError(
                    f"another process is preparing the {self.name} cohort; wait until it is done"
                ) from None
        except BaseException as error:
            os.umask(self._umask)
            if isinstance(error, OSError):
                raise UserError(f"cannot write to {self.folder}: {error.strerror}") from None
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._lock)  # which unlocks: no process forked from this one keeps the handle
        os.umask(self._umask)
        if _is_full(error):
            raise UserError(
                f"the disk of the store {store_root()} is full; what is finished is kept: "
                "make room and run the same command again"
            ) from None
        if isinstance(error, BrokenExecutor | MemoryError):
            raise UserError(
                "the memory did not suffice; what is finished is kept: run the same command again "
                "with fewer --workers"
            ) from None

    def work(self, recipe: Mapping[str, Any]) -> Path:
        """Return the folder of this recipe's unfinished work, which survives a kill.

        Parameters
        ----------
        recipe
            Everything that the work depends on, as JSON. Unfinished work of any other recipe is
            removed: it may be about people who have withdrawn since.
        """
        text = json.dumps(recipe, sort_keys=True)
        self._work = self.folder / f"work-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        for other in self.folder.glob("work-*"):
            if other != self._work:
                shutil.rmtree(other)
        self._work.mkdir(exist_ok=True)
        return self._work

    def draft(self) -> Path:
        """Return an empty folder for the arrays that `CohortData` reads, inside `work`'s."""
        assert self._work is not None, "work comes first"
        shutil.rmtree(self._work / "draft", ignore_errors=True)
        (self._work / "draft" / "data").mkdir(parents=True)
        return self._work / "draft" / "data"

    def finish(
        self,
        people: pd.DataFrame,
        hash_id: pd.Series,
        phenotypes: pd.DataFrame,
        diagnoses: pd.DataFrame,
        *,
        about: Mapping[str, Any],
        holds: tuple[str, ...],
        settings: Mapping[str, Any] | None = None,
        beside: Mapping[str, pd.DataFrame] | None = None,
    ) -> str:
        """Make the draft the current cohort, in one rename, and remove the one before it.

        Parameters
        ----------
        people, hash_id, phenotypes, diagnoses
            As `CohortData` describes them; rows in the order of the draft's arrays.
        about
            Content of ``cohort.json``.
        holds
            As `Cohort.modalities`.
        settings
            Further facts for `read_current`, as JSON.
        beside
            Tables for the next preparation to read, kept outside of ``data``.

        Returns
        -------
        str
            The fingerprint.
        """
        import pandas as pd

        assert self._work is not None, "work comes first"
        draft = self._work / "draft"
        ids = pd.DataFrame({"hash_id": hash_id.astype(str).to_numpy()})
        for name, table in zip(TABLES, (people, ids, phenotypes, diagnoses), strict=True):
            if len(table) != len(ids):
                raise ValueError(f"{name} has {len(table)} rows for {len(ids)} people")
            table.to_parquet(draft / "data" / f"{name}.parquet", index=False)
        for name, table in (beside or {}).items():
            table.to_parquet(draft / f"{name}.parquet", index=False)
        (draft / "data" / "cohort.json").write_text(json.dumps(dict(about), sort_keys=True))
        for path in draft.rglob("*"):
            if path.is_file():
                path.chmod(0o600)
        fingerprint = fingerprint_of(draft / "data")
        target = data_folder(self.name, fingerprint).parent
        # Removed even when it is the current cohort: equal content by its fingerprint, but the
        # file may have been damaged since. Artifacts hold links of their own.
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
        write_current(
            self.name,
            {
                **(settings or {}),
                "fingerprint": fingerprint,
                "people": len(ids),
                "holds": list(holds),
            },
        )
        for other in self.folder.iterdir():
            if other.is_dir() and other != target:
                shutil.rmtree(other)
        return fingerprint


def write_current(name: str, current: Mapping[str, Any]) -> None:
    """Replace what `read_current` reads, as a whole."""
    path = prepared_folder(name) / "current.json"
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(dict(current), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def stands_on_other(described: Any, cohort: type[PreparedCohort], fingerprint: str) -> bool:
    """Whether a stage, as `Stage.describe` gives it, was made from another such cohort."""
    if isinstance(described, dict):
        if described.get("name") == cohort.__name__ and "fingerprint" in described:
            return described["fingerprint"] != fingerprint
        described = list(described.values())
    if isinstance(described, list):
        return any(stands_on_other(part, cohort, fingerprint) for part in described)
    return False


def fingerprint_of(folder: Path) -> str:
    """Return the sha256 over ids, tables and arrays of a cohort folder.

    Over what they hold and not over the files' bytes, which depend on the library that wrote
    them; and over hash ids instead of pseudonyms, so that two sites with equal files agree.
    """
    import numpy as np

    from benchmark.cohorts.cohort import CohortData

    data = CohortData(folder)
    digest = hashlib.sha256()

    def add(*words: Any) -> None:
        digest.update(json.dumps(words, sort_keys=True).encode() + b"\n")

    add("about", data.about)
    add("ids", data.hash_id.tolist())
    for name in ("people", "phenotypes", "diagnoses"):
        table: pd.DataFrame = getattr(data, name).drop(columns="id", errors="ignore")
        add(name, [*table.columns])
        values = table.to_numpy(np.float64, na_value=np.nan, copy=True)
        values[np.isnan(values)] = np.nan  # one of its many bit patterns
        digest.update(np.ascontiguousarray(values, dtype="<f8"))
    for path in sorted(folder.glob("*.npy")):
        array = np.load(path, mmap_mode="r")
        add(path.stem, array.dtype.str, array.shape)
        with path.open("rb") as file:
            file.seek(array.offset)
            for chunk in iter(functools.partial(file.read, 1 << 22), b""):
                digest.update(chunk)
    return digest.hexdigest()


def _is_full(error: BaseException | None) -> bool:
    """Whether the disk or the quota is full; some libraries lose the errno and keep the words."""
    if not isinstance(error, Exception):
        return False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "no space left on device" in str(error).lower()

"""The store: artifacts by digest, made once, committed in one rename.

Layout below ``$ECGCMR_STORE`` (default ``~/.cache/ecgcmr-bench``, mode 0700)::

    done/<digest>/      an artifact: its files and manifest.json
    work/<digest>/      out-<token>/ becomes the artifact; resume/ survives a kill; stage.json says
                        what is being made
    lease/<digest>.json who is at work
    failed/<digest>.json the last failure with its traceback
    corrupt/<digest>/   a damaged artifact, set aside
    durations.jsonl     kind and seconds of each finished stage, for estimates only

A folder below ``done/`` is as old as its last use: `Store.open` sets its time of modification.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import shutil
import statistics
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.engine.lease import Holder, Lease, LeaseLostError, Leases
from benchmark.engine.provenance import usable_cores
from benchmark.privacy import mask, store_root
from benchmark.stage import Stage

MANIFEST = "manifest.json"
CLAIMED = "stage.json"
Marks = tuple[tuple[int, int, int], ...]
_FOLDERS = ("done", "work", "lease", "failed", "corrupt")
_LATEST = 5
PACE_SECONDS = 10
"""Estimated length of stages that tell how fast a machine is."""
_TAIL = 1 << 18  # bytes of durations.jsonl that are read: some thousand stages


class ArtifactError(Exception):
    """An artifact cannot be used and has to be made (again)."""

    def __init__(self, digest: str, file: str) -> None:
        super().__init__(digest, file)
        self.digest, self.file = digest, file


class MissingArtifactError(ArtifactError):
    """The artifact is not in the store."""

    def __str__(self) -> str:
        return f"artifact {self.digest[:12]} is not in the store"


class CorruptArtifactError(ArtifactError):
    """A file of the artifact is missing or differs from its recorded size or checksum."""

    def __str__(self) -> str:
        return f"artifact {self.digest[:12]} is damaged: {self.file}"


class ReplacedArtifactError(ArtifactError):
    """The files are no longer those that were opened, which may have been damaged by then."""

    def __str__(self) -> str:
        return f"artifact {self.digest[:12]} was replaced while it was read"


class Store:
    """Artifacts of stages, found by digest.

    Parameters
    ----------
    root
        Folder; by default ``$ECGCMR_STORE`` or ``~/.cache/ecgcmr-bench``.
    reading
        Whether a store that is there may be one that cannot be written to.

    Raises
    ------
    UserError
        When the folder cannot be made or written to.
    """

    def __init__(self, root: Path | None = None, reading: bool = False) -> None:
        self.root = Path(root).expanduser().absolute() if root else store_root()
        self._manifests: dict[str, dict[str, Any]] = {}
        self._verified: dict[str, Marks] = {}
        self._leases = Leases(self.root / "lease")
        try:
            self._make_folders()
        except OSError as error:
            if reading and os.path.isdir(self.root / "done"):  # noqa: PTH112  # False if hidden
                return
            if self.is_full([error]):
                raise self.full() from None
            why = error.strerror or error
            if isinstance(error, FileExistsError):
                why = "it is a file, no folder"
            raise UserError(
                f"cannot use {self.root} as the store: {why}; "
                "set ECGCMR_STORE to a folder that can be made and written to"
            ) from None

    def _make_folders(self) -> None:
        existed = self.root.exists()
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What is in a store is about single persons. A folder that holds something else already
        # keeps its mode, and only our folders in it are closed.
        names = {path.name for path in self.root.iterdir()}
        if existed and (not names or "done" in names):
            self.root.chmod(0o700)
        for name in _FOLDERS:
            if name not in names:
                (self.root / name).mkdir(mode=0o700, exist_ok=True)
        with self._leases.locked():  # a file system without locks says so here, not midway
            pass

    # ------------------------------------------------------------------------------ reading

    def has(self, digest: str) -> bool:
        """Whether the artifact is there."""
        return (self.path(digest) / MANIFEST).exists()

    def path(self, digest: str) -> Path:
        """Return the artifact's folder, whether it is there or not."""
        return self.root / "done" / digest

    def stages(self) -> Iterator[str]:
        """Digests of all artifacts."""
        with os.scandir(self.root / "done") as entries:
            yield from (entry.name for entry in entries)

    def missing(self, targets: Iterable[Stage]) -> list[Stage]:
        """Return the stages that have to run for the targets, inputs before their users.

        An input of stages that are all done is not needed, and so not missing.
        """
        order: dict[str, Stage] = {}
        seen: set[str] = set()

        def visit(stage: Stage) -> None:
            if stage.digest in seen:
                return
            seen.add(stage.digest)
            if self.has(stage.digest):
                return
            for item in stage.inputs:
                visit(item)
            order[stage.digest] = stage

        for target in targets:
            visit(target)
        return list(order.values())

    def manifest(self, digest: str, keep: bool = True) -> dict[str, Any]:
        """Return what is recorded about an artifact.

        Whoever reads all of them should not ``keep`` them for the next call: ten thousand in memory
        take longer to make room for than to read.

        Raises
        ------
        MissingArtifactError, CorruptArtifactError
            When there is no artifact, or its manifest cannot be read.
        """
        if digest not in self._manifests:
            try:
                with open(f"{self.root}/done/{digest}/{MANIFEST}", "rb") as file:  # noqa: PTH123
                    manifest = json.loads(file.read())
                if manifest["digest"] != digest or not isinstance(manifest["files"], dict):
                    raise CorruptArtifactError(digest, MANIFEST)
            except FileNotFoundError:
                raise MissingArtifactError(digest, MANIFEST) from None
            except (ValueError, KeyError, TypeError):
                raise CorruptArtifactError(digest, MANIFEST) from None
            if not keep:
                return manifest
            self._manifests[digest] = manifest
        return self._manifests[digest]

    def open(self, stage: Stage) -> Path:
        """Return the artifact's folder, its files verified once per process and change.

        Raises
        ------
        MissingArtifactError, CorruptArtifactError
            When there is no artifact, or a file is not as it was committed.
        """
        digest = stage.digest
        if digest not in self._verified or self._marks(digest) != self._verified[digest]:
            self.verify(digest)
        return self.path(digest)

    def marks(self, stage: Stage) -> Marks:
        """Return what tells an artifact's verified files from any that take their place."""
        return self._verified[stage.digest]

    def _marks(self, digest: str) -> Marks:
        """Return inode, size and time of each file; empty when one is not there."""
        folder = f"{self.root}/done/{digest}"
        try:
            names = (*self.manifest(digest)["files"], MANIFEST)
            found = [os.stat(f"{folder}/{name}") for name in names]  # noqa: PTH116 - asked often
        except (OSError, ArtifactError):
            return ()
        return tuple((file.st_ino, file.st_size, file.st_mtime_ns) for file in found)

    def verify(self, digest: str) -> None:
        """Compare size and sha256 of every file with the manifest; raises as `open` does."""
        self._forget(digest)
        files = self.manifest(digest)["files"]
        marks = self._marks(digest)  # first: what changes from here on is seen
        for name, expected in files.items():
            file = self.path(digest) / name
            try:
                intact = file.stat().st_size == expected["bytes"]
                intact = intact and _sha256(file) == expected["sha256"]
            except (OSError, KeyError, TypeError):
                intact = False  # gone, or the disk can no longer read it
            if not intact:
                raise CorruptArtifactError(digest, name)
        self._verified[digest] = marks
        with contextlib.suppress(OSError):  # a store that may only be read
            os.utime(self.path(digest))

    def damage(self, stage: Stage) -> str | None:
        """Return which file of an artifact cannot be used, or None when all is well."""
        try:
            self.open(stage)
        except ArtifactError as error:
            return error.file
        return None

    def quarantine(self, digest: str) -> None:
        """Move a damaged artifact to ``corrupt/``, so that it is made again.

        An artifact that turns out to be whole, because another process has made it again
        meanwhile, stays. Processes that have the damaged files open keep them.
        """
        try:
            self.verify(digest)
        except MissingArtifactError:
            if self.path(digest).exists() and not self.has(digest):
                self._set_aside(digest)  # it has lost its manifest, and is in the way
        except CorruptArtifactError:
            self._set_aside(digest)

    def _set_aside(self, digest: str) -> None:
        self._forget(digest)
        target = self.root / "corrupt" / digest
        shutil.rmtree(target, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            self.path(digest).rename(target)

    def discard(self, unwanted: Callable[[dict[str, Any]], bool]) -> int:
        """Remove what was made from something that must not be kept; return how many artifacts.

        Failures and damaged artifacts go too, and all unfinished work, which does not say what it
        is made from. Where nothing else is unwanted that work stays.

        Parameters
        ----------
        unwanted
            Told what a stage is, as `Stage.describe` does with everything nested in it.

        Raises
        ------
        UserError
            While somebody is at work in the store, who would go on making such artifacts.
        """
        self.tidy()  # or the outputs of a killed worker would stay when they are all there is

        def is_unwanted(path: Path) -> bool:
            """Whether it has to go; what does not say what it is made from has to as well."""
            try:
                return unwanted(json.loads(path.read_bytes())["stage"])
            except (OSError, ValueError, KeyError, TypeError):
                return True

        artifacts = [
            path
            for where in ("done", "corrupt")
            for path in (self.root / where).iterdir()
            if is_unwanted(path / MANIFEST)
        ]
        failures = [path for path in (self.root / "failed").glob("*.json") if is_unwanted(path)]
        if not artifacts and not failures:
            return 0
        self._refuse_while_busy()
        for path in artifacts:
            self._forget(path.name)
            shutil.rmtree(path)
        for path in failures:
            path.unlink()
        for path in (self.root / "work").iterdir():
            shutil.rmtree(path)
        self._refuse_while_busy()
        return len(artifacts)

    def _refuse_while_busy(self) -> None:
        for path in (self.root / "lease").glob("[!.]*.json"):
            lease = self._leases.acquire(path.stem)
            if lease is None:
                raise UserError(
                    f"somebody is at work in the store {self.root}; wait until they are done, or "
                    "stop them, and run the same command again"
                )
            lease.release()

    def remove(self, digest: str) -> bool:
        """Remove an artifact, or unfinished work, unless somebody is at work on it.

        Returns
        -------
        bool
            Whether it is gone.
        """
        lease = self._leases.acquire(digest)
        if lease is None:
            return False
        try:
            self._forget(digest)
            for where in ("done", "work", "corrupt"):
                source = self.root / where / digest
                # Renamed first: whoever looks meanwhile finds all of it or nothing.
                away = self.root / "corrupt" / f".{digest}-{lease.token}"
                with contextlib.suppress(FileNotFoundError):
                    source.rename(away)
                    shutil.rmtree(away)
            self.clear_failure(digest)
        finally:
            lease.release()
        return True

    def _forget(self, digest: str) -> None:
        self._manifests.pop(digest, None)
        self._verified.pop(digest, None)

    def seconds(self, stage: Stage) -> float | None:
        """Return how long such stages usually take here: the median of the latest few."""
        past = self._durations.get(_kind(stage))
        return statistics.median(past[-_LATEST:]) if past else None

    def expected(self, stage: Stage) -> float:
        """Return how long a stage will take: what such stages took, else its own estimate.

        An estimate is of another machine. What is known here tells how much faster this one is.
        """
        past = self.seconds(stage)
        return stage.estimate()[0] * self._pace if past is None else past

    @functools.cached_property
    def _pace(self) -> float:
        """Seconds that known kinds of stages took here, over what they estimate.

        Of short ones mostly the overhead would be told.
        """
        took = estimated = 0.0
        for kind, past in self._durations.items():
            with contextlib.suppress(ValueError):
                own, seconds = float(kind.rpartition(" ")[2]), statistics.median(past[-_LATEST:])
                if PACE_SECONDS <= own < math.inf and 0 <= seconds < math.inf:
                    estimated, took = estimated + own, took + seconds
        return took / estimated if took else 1.0

    @functools.cached_property
    def _durations(self) -> dict[str, list[float]]:
        past: dict[str, list[float]] = {}
        with contextlib.suppress(OSError), (self.root / "durations.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            for line in file:
                # The first line may be cut, and so may lines that two machines wrote at once.
                with contextlib.suppress(ValueError, TypeError):
                    name, seconds = json.loads(line)
                    past.setdefault(name, []).append(float(seconds))
        return past

    # ------------------------------------------------------------------------------ failures

    def failure(self, digest: str) -> dict[str, Any] | None:
        """Return the last failure of a stage: label, traceback, token of the worker, time."""
        try:
            return json.loads(self.failure_path(digest).read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def failure_path(self, digest: str) -> Path:
        """Return the file that keeps a stage's failure."""
        return self.root / "failed" / f"{digest}.json"

    def fail(self, stage: Stage, traceback: str, token: str = "") -> None:
        """Keep a failure; ids in the traceback are masked."""
        record = {
            "digest": stage.digest,
            "label": stage.label,
            "stage": stage.describe(),
            "traceback": mask(traceback),
            "token": token,
            "at": _now(),
        }
        _write(self.failure_path(stage.digest), json.dumps(record, indent=1))

    def failures(self) -> list[dict[str, Any]]:
        """Return every failure that is kept, as `failure` does, the latest first."""
        kept = (self.failure(path.stem) for path in (self.root / "failed").glob("[!.]*.json"))
        return sorted((f for f in kept if f), key=lambda failure: failure["at"], reverse=True)

    def clear_failure(self, digest: str) -> None:
        """Forget a stage's failure."""
        self.failure_path(digest).unlink(missing_ok=True)

    # ------------------------------------------------------------------------------ writing

    def holder(self, digest: str) -> Holder | None:
        """Return who is at work on a stage."""
        return self._leases.holder(digest)

    def held(self) -> Iterator[str]:
        """Digests of all stages that somebody is at work on, or was when it was killed."""
        yield from (path.stem for path in (self.root / "lease").glob("[!.]*.json"))

    def claimed(self, digest: str) -> dict[str, Any] | None:
        """Return what is being made, or was when its worker died: label, stage, inputs, begun.

        None where nobody has begun, or left nothing that says so.
        """
        try:
            return json.loads((self.root / "work" / digest / CLAIMED).read_bytes())
        except (OSError, ValueError):
            return None

    def claim(self, stage: Stage, workers: int = 1) -> Claim | None:
        """Begin work on a stage, or return None while somebody else is at it.

        None too while the stage would not find the cores free that it keeps busy. One that spreads
        over ``workers`` makes do with fewer.

        A claim may be got for a stage that was committed a moment before: ask `has` again.
        """
        most = max(stage.threads, workers if stage.pools else 1)
        lease = self._leases.acquire(stage.digest, stage.threads, usable_cores(), most)
        if lease is None:
            return None
        try:
            return Claim(self, stage, lease)
        except BaseException:
            lease.release()
            raise

    def let_go(self) -> None:
        """Release every stage that was claimed and not closed, when a run is broken off."""
        self._leases.let_go()

    def tidy(self) -> None:
        """Remove what dead workers left and nobody goes on with.

        Outputs that were not committed, the whole folder where the commit was done, and turns.
        """
        self._leases.tidy()
        for folder in (self.root / "work").iterdir():
            if lease := self._leases.acquire(folder.name):
                useless = [folder] if self.has(folder.name) else folder.glob("out-*")
                for path in useless:
                    shutil.rmtree(path, ignore_errors=True)
                lease.release()

    def is_full(self, causes: Iterable[BaseException]) -> bool:
        """Whether errors mean that the disk (or the user's quota) is full.

        numpy and libraries written in Rust or C++ lose the errno on the way, hence the text and,
        for whatever says neither, the space that is left.
        """
        for error in causes:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                return True
            if "no space left on device" in str(error).lower():
                return True
        return self.free() < 1 << 16

    def free(self) -> int:
        """Bytes left on the store's disk; of its nearest existing parent before it is made."""
        folder = next(p for p in (self.root, *self.root.parents) if os.path.isdir(p))  # noqa: PTH112
        return shutil.disk_usage(folder).free

    def unusable(self, error: OSError) -> UserError:
        """Return the error for a store that went read-only, was moved or is out of reach."""
        return UserError(
            f"the store {self.root} can no longer be used ({error.strerror or error}); finished "
            "stages are kept: put that right and run the same command again"
        )

    def full(self) -> UserError:
        """Return the error that tells the user about the full disk."""
        return UserError(
            f"the disk of the store {self.root} is full ({self.free() / 1e6:,.0f} MB free); "
            "finished stages are kept: make room and run the same command again"
        )


class Claim:
    """A stage that this process is working on.

    Attributes
    ----------
    out
        Empty folder for the results.
    resume
        Folder that survives a kill and is removed by the commit.
    resumed
        Whether an earlier attempt left something in ``resume``.
    """

    def __init__(self, store: Store, stage: Stage, lease: Lease) -> None:
        self._store, self._stage, self.lease = store, stage, lease
        self._work = store.root / "work" / stage.digest
        self.out, self.resume = self._work / f"out-{lease.token}", self._work / "resume"
        self.resume.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._work.chmod(0o700)
        # Whoever left these is dead, or has lost the lease and will find its folder gone.
        for left in self._work.glob("out-*"):
            shutil.rmtree(left, ignore_errors=True)
        self.out.mkdir(mode=0o700)
        self.resumed = any(self.resume.iterdir())
        record = {
            "label": stage.label,
            "stage": stage.describe(),
            "inputs": [item.digest for item in stage.inputs],
            "began": _now(),
        }
        _write(self._work / CLAIMED, json.dumps(record, indent=1), lasting=False)

    def start_over(self) -> None:
        """Forget what an earlier attempt has left."""
        shutil.rmtree(self.resume, ignore_errors=True)
        self.resume.mkdir(mode=0o700, exist_ok=True)
        self.resumed = False

    def commit(self, seconds: float, **facts: Any) -> None:
        """Make the results the stage's artifact, all of it or nothing.

        If the artifact exists already it stays and these results are dropped.

        Parameters
        ----------
        seconds
            Time the work took, of the last attempt where it was resumed.
        facts
            Anything else to record: peak memory, device, provenance.

        Raises
        ------
        LeaseLostError
            When another worker has taken over; nothing is committed.
        ValueError
            When the stage left a file of the manifest's name.
        """
        stage, store = self._stage, self._store
        target = store.path(stage.digest)
        files = {}
        for path in sorted(self.out.rglob("*")):
            if path.is_file():
                files[path.relative_to(self.out).as_posix()] = {
                    "sha256": _sha256(path),
                    "bytes": path.stat().st_size,
                }
            _sync(path)
        if MANIFEST in files:
            raise ValueError(f"{stage.label} left a file named {MANIFEST}, which is the store's")
        manifest = {
            "digest": stage.digest,
            "label": stage.label,
            "stage": stage.describe(),
            "inputs": [item.digest for item in stage.inputs],
            "files": files,
            "seconds": round(seconds, 3),
            "resumed": self.resumed,
            "finished": _now(),
            **facts,
        }
        _write(self.out / MANIFEST, json.dumps(manifest, indent=1))
        _sync(self.out)
        with self.lease.guard():
            if target.exists() and not store.has(stage.digest):
                store._set_aside(stage.digest)  # it has lost its manifest, and is in the way
            try:
                self.out.rename(target)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
            else:
                store._manifests[stage.digest] = manifest
                store._verified[stage.digest] = store._marks(stage.digest)
        _sync(target.parent)
        shutil.rmtree(self._work, ignore_errors=True)
        store.clear_failure(stage.digest)
        line = json.dumps([_kind(stage), round(seconds, 3)]) + "\n"
        # Only an estimate hangs on it, and the artifact is safe: a full disk is no failure here.
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            handle = os.open(store.root / "durations.jsonl", flags, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(line.encode())

    def close(self) -> None:
        """Drop what was not committed, except for ``resume``, and release the lease."""
        shutil.rmtree(self.out, ignore_errors=True)
        # Guarded, because after a take-over the other folders are somebody else's; rmdir keeps
        # those that hold something.
        with contextlib.suppress(LeaseLostError, OSError), self.lease.guard():
            self.resume.rmdir()
            (self._work / CLAIMED).unlink(missing_ok=True)
            self._work.rmdir()
        self.lease.release()


def _kind(stage: Stage) -> str:
    """Name what takes equally long: one class, and by its own estimate one size of work."""
    return f"{type(stage).__name__} {stage.estimate()[0]:.3g}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str, lasting: bool = True) -> None:
    """Write a file so that it is there as a whole (and, if lasting, on the disk) or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""Artifacts carried between machines that share no file system, through a folder.

The folder is laid out as a store is, so a store can be pulled from as it is::

    done/<digest>/          an artifact: its files and manifest.json, which comes last
    durations/<place>.jsonl how long stages took where they were made
    about.json              what this is, and who permitted data of real people to be here

A disk, a mounted bucket or whatever else holds it need neither rename folders nor lock files.
Every file is compared with the checksum of its commit on its way and, once written, read again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import platform
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.api import UserError
from benchmark.engine.progress import Reporter, amount
from benchmark.engine.store import (
    MANIFEST,
    ArtifactError,
    CorruptArtifactError,
    Store,
)
from benchmark.engine.verified import (
    check,
    copy_file,
    is_own,
    is_whole,
    read_manifest,
    write_file,
)

FORMAT = 1
ABOUT = "about.json"
WHAT = (
    "Results of ecgcmr-bench on their way to another machine. Of real people they are "
    "individual-level data: keep them where those people's data may be, and delete them after."
)


class Item(NamedTuple):
    """An artifact; ``message`` says what is wrong with it."""

    digest: str
    label: str
    bytes: int
    message: str = ""


@dataclass
class Journey:
    """What became of the artifacts that were to be carried.

    Attributes
    ----------
    moved
        Carried now, or to be carried where nothing was to be changed.
    there
        Found at the other end.
    damaged
        Not as they were committed, and left where they are.
    refused
        Not to be carried, and why.
    left
        Not carried because either machine has its own.
    """

    moved: list[Item] = field(default_factory=list)
    there: list[Item] = field(default_factory=list)
    damaged: list[Item] = field(default_factory=list)
    refused: list[Item] = field(default_factory=list)
    left: list[Item] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """How much was carried."""
        return sum(item.bytes for item in self.moved)

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is at the other end."""
        return not self.damaged and not self.refused


@dataclass(frozen=True)
class Wish:
    """Which artifacts are to be carried, and how.

    Attributes
    ----------
    digests
        Those, as far as they are there; None: all.
    refusal
        Told what a stage is, as `Stage.describe` does: why it must not be carried, or nothing.
    stays
        Told the same: whether either machine has its own.
    verify
        Whether what is at the other end is read too, and replaced where it is damaged. Otherwise
        its sizes have to do.
    dry_run
        Whether nothing is changed.
    """

    digests: Collection[str] | None = None
    refusal: Callable[[Mapping[str, Any]], str] = lambda described: ""
    stays: Callable[[Mapping[str, Any]], bool] = lambda described: False
    verify: bool = False
    dry_run: bool = False


def push(store: Store, folder: Path, wish: Wish, reporter: Reporter) -> Journey:
    """Bring artifacts of the store into a folder.

    Raises
    ------
    UserError
        When the folder is a store or holds something else, or the disk is full.
    """
    _check_place(folder)
    if not wish.dry_run:
        _open_folder(folder, reporter)
    other_end = _Folder(folder)
    journey = _carry(store.root / "done", other_end, wish, reporter)
    if not wish.dry_run:
        with contextlib.suppress(OSError):  # only estimates hang on it
            (folder / "durations").mkdir(mode=0o700, exist_ok=True)
            place = hashlib.sha256(f"{platform.node()} {store.root}".encode()).hexdigest()[:12]
            past = (store.root / "durations.jsonl").read_bytes()
            write_file(folder / "durations" / f"{place}.jsonl", past)
    return journey


def pull(store: Store, folder: Path, wish: Wish, reporter: Reporter) -> Journey:
    """Bring artifacts of a folder, or of another store, into this one.

    Raises
    ------
    UserError
        When there are none, or the disk is full.
    """
    if not (folder / "done").is_dir():
        raise UserError(f"{folder} holds no artifacts; ecgcmr store push {folder} brings some")
    if folder.resolve() == store.root.resolve():
        raise UserError(f"{folder} is this machine's store")
    if wish.dry_run:
        return _carry(folder / "done", _Store(store), wish, reporter)
    with _alone(store, reporter):
        journey = _carry(folder / "done", _Store(store), wish, reporter)
        _learn_durations(store, folder)
    return journey


def permissions(folder: Path) -> dict[str, str]:
    """Return who permitted people of which cohort to be in a folder."""
    try:
        return dict(json.loads((folder / ABOUT).read_bytes())["permitted_by"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def permit(folder: Path, cohorts: Collection[str], permitted_by: str) -> None:
    """Record who permits people of these cohorts to be in a folder; raises as `push` does."""
    _check_place(folder)
    known = permissions(folder) | dict.fromkeys(cohorts, permitted_by)
    _make_folder(folder)
    content = {"format": FORMAT, "what": WHAT, "permitted_by": known}
    write_file(folder / ABOUT, json.dumps(content, indent=1).encode())


def described(store: Store, digests: Collection[str] | None) -> Iterator[Mapping[str, Any]]:
    """Yield what those of the stages are that the store has."""
    for digest in _chosen(store.root / "done", digests):
        with contextlib.suppress(ArtifactError, KeyError):
            yield store.manifest(digest, keep=False)["stage"]


# ------------------------------------------------------------------------------ the two ends


class _Folder:
    """A folder that artifacts are pushed to: in place, file by file, the manifest last."""

    def __init__(self, folder: Path) -> None:
        self._done = folder / "done"
        self.folder = folder

    def begin(self, digest: str) -> Path:
        # Whoever looks from here on finds nothing, until all of it is good.
        (self._done / digest / MANIFEST).unlink(missing_ok=True)
        return self._done / digest

    def end(self, digest: str, files: Mapping[str, Any], manifest: bytes) -> None:
        write_file(self._done / digest / MANIFEST, manifest)
        for left in (self._done / digest).rglob(".*.part"):  # by whoever was killed
            left.unlink(missing_ok=True)


class _Store:
    """The store that artifacts are pulled into: made ready aside, then renamed.

    A worker that commits the same stage meanwhile would take a half-filled folder for the artifact.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.folder = store.root

    def begin(self, digest: str) -> Path:
        return self._store.root / "work" / digest / "arriving"

    def end(self, digest: str, files: Mapping[str, Any], manifest: bytes) -> None:
        arriving, store = self.begin(digest), self._store
        for path in arriving.rglob("*"):  # by whoever was killed, perhaps at another's artifact
            if path.is_file() and path.relative_to(arriving).as_posix() not in files:
                path.unlink()
        write_file(arriving / MANIFEST, manifest)
        store.quarantine(digest)  # what is damaged; what is whole stays, and this is dropped
        try:
            arriving.rename(store.path(digest))
        except OSError:
            if not store.has(digest):
                raise
            shutil.rmtree(arriving, ignore_errors=True)
        store.clear_failure(digest)
        with contextlib.suppress(OSError):  # somebody's work on the same stage
            arriving.parent.rmdir()


def _check_place(folder: Path) -> None:
    if (folder / "lease").exists():
        raise UserError(f"{folder} is a store itself; name a folder of its own to carry things in")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ABOUT).exists():
        raise UserError(f"{folder} holds something else; name a new folder in it")


def _open_folder(folder: Path, reporter: Reporter) -> None:
    if not (folder / ABOUT).exists():
        permit(folder, (), "")
    _make_folder(folder / "done")
    if folder.stat().st_mode & 0o077:
        reporter.line(
            f"note: {folder} keeps no permissions; whoever can reach it can read what is in it"
        )


@contextlib.contextmanager
def _alone(store: Store, reporter: Reporter) -> Iterator[None]:
    """Have other pulls into the store wait: what has arrived by half is gone on with by any."""
    handle = os.open(store.root / "pull.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reporter.line(f"another pull into {store.root} is going on: this one waits for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # closing leaves it to whoever was forked meanwhile
        os.close(handle)


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # a file system without permissions
        folder.chmod(0o700)


# ------------------------------------------------------------------------------ carrying


def _chosen(done: Path, digests: Collection[str] | None) -> list[str]:
    here = {
        path.name
        for path in done.iterdir()
        if re.fullmatch("[0-9a-f]{64}", path.name) and (path / MANIFEST).exists()
    }
    return sorted(here if digests is None else here & set(digests))


def _carry(source: Path, target: _Folder | _Store, wish: Wish, reporter: Reporter) -> Journey:
    journey, waiting, arrived = Journey(), [], target.folder / "done"
    for digest in _chosen(source, wish.digests):
        item = Item(digest, digest[:12], 0)
        try:
            manifest, raw = read_manifest(source, digest)
        except ArtifactError as error:
            journey.damaged.append(item._replace(message=error.file))
            continue
        size = sum(file["bytes"] for file in manifest["files"].values())
        item = Item(digest, manifest["label"], size)
        if wish.stays(manifest["stage"]):
            journey.left.append(item)
        elif reason := wish.refusal(manifest["stage"]):
            journey.refused.append(item._replace(message=reason))
        elif is_whole(arrived, digest, wish.verify):
            journey.there.append(item)
        else:
            waiting.append((item, manifest["files"], raw))
    if wish.dry_run:
        journey.moved = [item for item, *_ in waiting]
        return journey
    total, done = sum(item.bytes for item, *_ in waiting), 0.0
    reporter.begin(f"{len(waiting):,} artifacts to {target.folder}", brief=not waiting)

    def moved(size: int, label: str) -> None:
        nonlocal done
        done += size
        reporter.progress(done / 1e6, total / 1e6, "MB", label)

    try:
        for item, files, raw in waiting:
            before = done
            try:
                # Brought by somebody else meanwhile.
                if is_whole(arrived, item.digest, wish.verify):
                    raise FileNotFoundError
                _copy(source / item.digest, target, item, files, raw, moved)
                journey.moved.append(item)
            except CorruptArtifactError as error:
                journey.damaged.append(item._replace(message=error.file))
                done = before + item.bytes
            except FileNotFoundError:  # somebody else has brought it, and cleared up
                if not is_whole(arrived, item.digest, deep=False):
                    raise
                journey.there.append(item)
                done = before + item.bytes
    except OSError as error:
        so_far = f"{len(journey.moved):,} artifacts ({amount(journey.bytes)}) have arrived"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk of {target.folder} is full; {so_far}: make room and run the same "
                "command again"
            ) from None
        raise UserError(
            f"{target.folder} can no longer be written to ({error.strerror or error}); {so_far}: "
            "put that right and run the same command again"
        ) from None
    except KeyboardInterrupt:
        reporter.line("interrupted: what has arrived stays, and the same command goes on")
        raise
    finally:
        reporter.stop()
    return journey


def _copy(
    source: Path,
    target: _Folder | _Store,
    item: Item,
    files: Mapping[str, Any],
    raw: bytes,
    moved: Callable[[int, str], None],
) -> None:
    """Copy an artifact, but for the files that an earlier attempt has left whole.

    Raises
    ------
    CorruptArtifactError
        When a file of the source is not as it was committed.
    """
    place = target.begin(item.digest)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, expected in files.items():
        copy = place / name
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            check(copy, expected, deep=True)
        except (OSError, ValueError):
            damaged = CorruptArtifactError(item.digest, name)
            if not is_own(source, name, expected):
                raise damaged from None
            copy_file(source / name, copy, expected, damaged, lambda n: moved(n, item.label))
        else:
            moved(expected["bytes"], item.label)
    target.end(item.digest, files, raw)


def _learn_durations(store: Store, folder: Path) -> None:
    """Take over how long those kinds of stages took elsewhere that were never made here."""
    own = store.root / "durations.jsonl"

    def lines(path: Path) -> Iterator[tuple[str, str]]:
        with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with contextlib.suppress(ValueError, TypeError):
                    kind, seconds = json.loads(line)
                    if 0 <= float(seconds) < math.inf:
                        yield str(kind), json.dumps([str(kind), float(seconds)])

    known = {kind for kind, _ in lines(own)}
    sources = [*sorted((folder / "durations").glob("*.jsonl")), folder / "durations.jsonl"]
    new = [line for path in sources for kind, line in lines(path) if kind not in known]
    if new:
        with contextlib.suppress(OSError):
            handle = os.open(own, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write("".join(f"{line}\n" for line in new))

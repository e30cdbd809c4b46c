"""Files of artifacts read, checked and copied under the checksums of their manifests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from benchmark.api import UserError
from benchmark.engine.store import (
    MANIFEST,
    ArtifactError,
    CorruptArtifactError,
    MissingArtifactError,
)

CHUNK = 1 << 20
LONGEST = 200  # bytes of a file's name: while it is written it has a longer one


def read_manifest(done: Path, digest: str) -> tuple[dict[str, Any], bytes]:
    """Return an artifact's manifest, of which nothing is believed, and its bytes.

    Raises
    ------
    MissingArtifactError, CorruptArtifactError
        When there is none, or it is none.
    """
    try:
        raw = (done / digest / MANIFEST).read_bytes()
        manifest = json.loads(raw)
        sound = manifest["digest"] == digest and isinstance(manifest["stage"], dict)
        sound &= isinstance(manifest["label"], str) and manifest["label"].isprintable()
        files = manifest["files"]
        for name, expected in files.items():
            path = PurePosixPath(name)
            inside = not path.is_absolute() and ".." not in path.parts and name == str(path)
            sound &= inside and name not in (MANIFEST, ".") and "\\" not in name
            sound &= name.isprintable() and len(name.encode()) <= LONGEST
            sound &= not any(str(parent) in files for parent in path.parents)
            sound &= isinstance(expected["bytes"], int) and isinstance(expected["sha256"], str)
    except FileNotFoundError:
        raise MissingArtifactError(digest, MANIFEST) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise CorruptArtifactError(digest, MANIFEST)
    return manifest, raw


def check(path: Path, expected: Mapping[str, Any], deep: bool) -> None:
    """Raise `ValueError` or `OSError` unless a file is what a manifest says."""
    if path.stat().st_size != expected["bytes"]:
        raise ValueError(path)
    if deep:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                raise ValueError(path)


def is_whole(done: Path, digest: str, deep: bool) -> bool:
    """Whether an artifact is there with all its files: their sizes, or their checksums too."""
    try:
        manifest, _ = read_manifest(done, digest)
        for name, expected in manifest["files"].items():
            check(done / digest / name, expected, deep)
    except (ArtifactError, OSError, ValueError):
        return False
    return True


def is_own(folder: Path, name: str, expected: Mapping[str, Any]) -> bool:
    """Whether a file lies in a folder, not behind a link out of it, and may be worth reading."""
    path = folder / name
    try:
        own = path.is_file() and path.resolve() == folder.resolve() / name
        return own and path.stat().st_size == expected["bytes"]
    except OSError:
        return False


def copy_file(
    original: Path,
    copy: Path,
    expected: Mapping[str, Any],
    damaged: CorruptArtifactError,
    moved: Callable[[int], None],
) -> None:
    """Copy a file, so that the copy is there as a whole and good, or not at all.

    Parameters
    ----------
    expected
        What the manifest says of it.
    damaged
        Raised when the original cannot be read or is something else.
    moved
        Told the bytes of every piece.

    Raises
    ------
    UserError
        When the copy does not read back as it was written.
    """
    part = copy.with_name(f".{copy.name}.{secrets.token_hex(4)}.part")
    hashed, size = hashlib.sha256(), 0
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            for chunk in _read(original, damaged):
                out.write(chunk)
                hashed.update(chunk)
                size += len(chunk)
                if size > expected["bytes"]:  # somebody is writing to it
                    raise damaged
                moved(len(chunk))
            out.flush()
            os.fsync(out.fileno())
            with contextlib.suppress(AttributeError, OSError):
                # So that what is read again comes from the disk and not from memory.
                os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if (size, hashed.hexdigest()) != (expected["bytes"], expected["sha256"]):
            raise damaged
        try:
            check(part, expected, deep=True)
        except ValueError:
            raise UserError(
                f"{copy.parent} does not give back what was written to it; is the disk sound?"
            ) from None
        part.replace(copy)
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path, damaged: CorruptArtifactError) -> Iterator[bytes]:
    """Yield a file in chunks."""
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError:
        raise damaged from None


def write_file(path: Path, content: bytes) -> None:
    """Write a file so that it is there as a whole, or not at all."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

"""The members of a bulk zip, read in memory: nothing is ever extracted to disk."""

from __future__ import annotations

import errno
import io
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

from benchmark.cohorts.ukb.reasons import Reason, Refused

# A genuine cine zip has about 500 members of 90 kB.
MAX_MEMBERS = 3000
MAX_MEMBER_BYTES = 4 << 20
MAX_TOTAL_BYTES = 1 << 30
MAX_RATIO = 200


class _CappedFile(io.FileIO):
    """A file that never reads much at once.

    zipfile reads the whole table of contents in one call, of whatever size the file claims, and
    makes an object of every entry before anybody can count them.
    """

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MAX_MEMBER_BYTES:
            raise Refused(Reason.ZIP_TOO_MANY)
        return super().read(size)


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Give name and content of every member of a flat zip.

    Parameters
    ----------
    path
        The zip.

    Raises
    ------
    Refused
        Before anything is unpacked, when the table of contents holds more or larger members than
        any genuine file, a name that is not a plain file name, a link or an encrypted member;
        later, when a member is damaged.
    """
    try:
        file = _CappedFile(path)
    except OSError as error:
        raise Refused(Reason.UNREADABLE, type(error).__name__) from None
    with file:
        if not file.read(1):
            raise Refused(Reason.EMPTY_FILE)
        try:
            with zipfile.ZipFile(file) as archive:
                contents = archive.infolist()
                _check(contents)
                for info in contents:
                    yield info.filename, _read(archive, info)
        except (Refused, MemoryError):
            raise
        # zipfile documents BadZipFile, but damaged files also raise EOFError, zlib.error,
        # struct.error, ValueError, NotImplementedError, UnicodeDecodeError ...; and OSError for
        # places that no file has, which is not the one of a drive that is gone.
        except Exception as error:
            gone = isinstance(error, OSError) and error.errno != errno.EINVAL
            reason = Reason.UNREADABLE if gone else Reason.ZIP_DAMAGED
            raise Refused(reason, type(error).__name__) from None


def _check(contents: list[zipfile.ZipInfo]) -> None:
    """Refuse a table of contents that no genuine file has."""
    if len(contents) > MAX_MEMBERS:
        raise Refused(Reason.ZIP_TOO_MANY)
    if sum(info.file_size for info in contents) > MAX_TOTAL_BYTES:
        raise Refused(Reason.ZIP_TOO_LARGE)
    names = set()
    for info in contents:
        name = info.orig_filename  # `filename` is cut at the first NUL
        if not name.isprintable() or ".." in name or not set(name).isdisjoint("/\\:") or not name:
            raise Refused(Reason.ZIP_UNSAFE_NAME)
        if stat.S_ISLNK(info.external_attr >> 16):
            raise Refused(Reason.ZIP_SYMLINK)
        if name in names:
            raise Refused(Reason.ZIP_DUPLICATE_NAME)
        names.add(name)
        if info.flag_bits & 0x1:
            raise Refused(Reason.ZIP_ENCRYPTED)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refused(Reason.ZIP_METHOD)
        if info.file_size > MAX_MEMBER_BYTES:
            raise Refused(Reason.ZIP_TOO_LARGE)
        if info.file_size > MAX_RATIO * max(info.compress_size, 1):
            raise Refused(Reason.ZIP_BOMB)


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Unpack a member to its stated size and no further, whatever the stream holds."""
    with archive.open(info) as member:
        content = member.read(info.file_size)  # without a size it would inflate the whole stream
    if len(content) != info.file_size:
        raise Refused(Reason.ZIP_DAMAGED)
    return content

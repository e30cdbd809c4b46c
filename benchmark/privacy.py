"""Participant ids stay out of everything that is printed, logged or kept about a failure."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import hmac
import logging
import os
import re
import secrets
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

# UK Biobank ids are seven digits beginning with 1 to 6. Letters and underscores may touch them, as
# in names of bulk files and in sub1..., but no digits of the same number: neither those beside a
# decimal point (except that an id that was once a float ends in .0) nor those of a digest, which
# is a word of its own and is matched first, so that what it holds is passed over.
_ID = re.compile(
    r"""
    (?<![0-9A-Za-z]) (?=[0-9]*[A-Fa-f]) [0-9A-Fa-f]{12,} (?![0-9A-Za-z])
    | (?<![0-9]) (?<![^A-Za-z_.]\.) (?P<id>[1-6][0-9]{6}) (?![0-9])
      (?!\.(?=[0-9]*[1-9])[0-9]+(?![0-9]|[._][0-9A-Za-z]))
    """,
    re.VERBOSE,
)


def store_root() -> Path:
    """Return the private store, where individual-level data lives: ``$ECGCMR_STORE``."""
    default = os.environ.get("ECGCMR_STORE") or "~/.cache/ecgcmr-bench"
    return Path(default).expanduser().absolute()


# No digits: a pseudonym of digits would look like an id, or be read from a table as a number.
_PSEUDONYM_LETTERS = str.maketrans("0123456789abcdef", "bcdfghjkmnpqrstv")
_SECRET_BYTES = 32


def pseudonym(id: str) -> str:
    """Return what a person is called wherever the id itself must not stand.

    The first 48 bits of HMAC-SHA256 under this installation's secret, as twelve letters. Ids are
    few enough to be tried one after the other, so that a hash without a secret would hide nobody.

    Parameters
    ----------
    id
        The person's id in its source, as text; for UK Biobank the decimal eid.

    Raises
    ------
    OSError
        When the secret can neither be read nor made.
    """
    code = hmac.new(_secret(store_root()), id.encode(), hashlib.sha256).hexdigest()
    return code[:12].translate(_PSEUDONYM_LETTERS)


@functools.lru_cache(maxsize=8)
def _secret(root: Path) -> bytes:
    """Read ``root``/secret, made by whichever process comes first."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(root / "secret", os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        os.fchmod(descriptor, 0o600)
        # Locked, since a file that exists may be one that another process is still writing; and
        # what is too short was left by a process that died before anybody had used it.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        secret = file.read()
        if len(secret) < _SECRET_BYTES:
            secret = secrets.token_bytes(_SECRET_BYTES)
            file.seek(0)
            file.write(secret)
            file.flush()
            os.fsync(descriptor)
    return secret


def ids_in(text: str) -> Iterator[tuple[int, int]]:
    """Yield begin and end of everything in the text that looks like a UK Biobank id."""
    return (match.span() for match in _ID.finditer(text) if match["id"])


def mask(text: str) -> str:
    """Return the text with everything that looks like a UK Biobank id replaced by ``[id]``."""
    return _ID.sub(lambda match: "[id]" if match["id"] else match[0], text)


class IdFilter(logging.Filter):
    """Masks ids in a log record: its message, its arguments, its traceback and its stack."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the record in place and let it pass."""
        record.msg, record.args = mask(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            # Formatters print exc_text where it is set, and would format exc_info themselves,
            # unmasked, where it is not.
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = mask(record.exc_text)
        if record.stack_info:
            record.stack_info = mask(record.stack_info)
        return True


class MaskedStream:
    """A text stream that masks ids in what is written to it; everything else is the stream's."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the masked text; return the length of what was given, as callers expect."""
        self._stream.write(mask(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several."""
        for line in lines:
            self.write(line)


def mask_messages() -> None:
    """Mask ids in every log record of this process, and in all it prints to stderr.

    stderr takes errors, tracebacks of crashes, warnings and progress, in which the name of a raw
    file or the arguments of a command may bring an id. stdout is for results, which never name a
    person; masking it would spoil numbers that programs read.
    """
    if not isinstance(sys.stderr, MaskedStream):
        sys.stderr = MaskedStream(sys.stderr)
    # A filter on the root logger would not see what other loggers pass up to it, and one on
    # today's handlers would miss those that libraries add later; the factory of records misses
    # nothing, whichever file or stream they go to.
    make, masking = logging.getLogRecordFactory(), IdFilter()
    if getattr(make, "masks_ids", False):
        return

    def factory(*args: object, **kwargs: object) -> logging.LogRecord:
        record = make(*args, **kwargs)
        masking.filter(record)
        return record

    factory.masks_ids = True
    logging.setLogRecordFactory(factory)

"""Participant ids stay out of everything that is printed, logged or kept about a failure."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

# UK Biobank ids are seven digits beginning with 1 to 6. An underscore counts as a boundary, unlike
# in \b, because bulk files are named <eid>_20205_2_0.xml; a letter does not, or digests would be
# mangled.
_ID = re.compile(r"(?<![0-9A-Za-z])[1-6][0-9]{6}(?![0-9A-Za-z])")


def store_root() -> Path:
    """Return the private store, where individual-level data lives: ``$ECGCMR_STORE``."""
    default = os.environ.get("ECGCMR_STORE") or "~/.cache/ecgcmr-bench"
    return Path(default).expanduser().absolute()


def mask(text: str) -> str:
    """Return the text with everything that looks like a UK Biobank id replaced by ``[id]``."""
    return _ID.sub("[id]", text)


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


def mask_logs() -> None:
    """Mask ids in every record of every logger of this process, libraries' own included.

    A filter on the root logger would not see what other loggers pass up to it, and one on today's
    handlers would miss those that libraries add later; the factory of records misses nothing.
    """
    make, masking = logging.getLogRecordFactory(), IdFilter()
    if getattr(make, "masks_ids", False):
        return

    def factory(*args: object, **kwargs: object) -> logging.LogRecord:
        record = make(*args, **kwargs)
        masking.filter(record)
        return record

    factory.masks_ids = True
    logging.setLogRecordFactory(factory)

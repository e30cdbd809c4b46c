"""Libraries that quote a file's content when they complain about it are kept from doing so."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Silence all warnings and one logger: what they quote may be a person's."""
    silenced = logging.getLogger(logger)
    before, silenced.disabled = silenced.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        silenced.disabled = before

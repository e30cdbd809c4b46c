"""The one split by person and the label fractions: public hashes, so that sites agree.

A person's place depends on nothing but their id, so a withdrawal moves nobody else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

TRAIN, VALIDATION, TEST = "train", "validation", "test"


def _uniform(text: str) -> float:
    """First 8 bytes, big-endian, of sha256 as a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def split_of(ids: Iterable[str]) -> np.ndarray:
    """Return ``train``, ``validation`` or ``test`` (70/15/15) for each person id."""
    u = np.array([_uniform(f"ecgcmr-bench/split/1/{i}") for i in ids])
    return np.select([u < 0.70, u < 0.85], [TRAIN, VALIDATION], TEST)


def fraction_rank(ids: Iterable[str], replicate: int) -> np.ndarray:
    """Return u in [0, 1): a person is in label fraction f of the replicate when u < f.

    The same person is therefore in 10% whenever they are in 1%.
    """
    return np.array([_uniform(f"ecgcmr-bench/fraction/1/{replicate}/{i}") for i in ids])


def balance_rank(ids: Iterable[str]) -> np.ndarray:
    """Return u in [0, 1): those with the smallest stand for all where classes are balanced."""
    return np.array([_uniform(f"ecgcmr-bench/balance/1/{i}") for i in ids])

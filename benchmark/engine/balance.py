"""Who is shown where a paper balances the two classes of a disease."""

from __future__ import annotations

import numpy as np


def matched(positive: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Return who belongs to the static sample: all positives and as many of the others.

    Turgut et al. 2025 and Alvarez-Florez et al. 2026 draw the others once and keep them. Here the
    ``rank`` of a person decides, which knows neither replicate nor method: the same people stand
    for the healthy in all of them. Without a positive, or with fewer others than positives, nobody
    is left out.

    Parameters
    ----------
    positive, rank
        (people,) booleans and numbers; the others with the smallest ranks stay.
    """
    others = np.flatnonzero(~positive)
    kept = positive.copy()
    kept[others[np.argsort(rank[others], kind="stable")[: positive.sum() or len(others)]]] = True
    return kept


def chunks(positive: np.ndarray) -> list[np.ndarray]:
    """Return the groups of people that make up an epoch, shown one after another.

    Ding et al., MICCAI 2024: each holds all positives and the next twice as many of the others,
    who are met once an epoch; the last one takes the remainder.
    """
    found, others = np.flatnonzero(positive), np.flatnonzero(~positive)
    size = 2 * len(found)
    count = max(1, len(others) // size) if size else 1
    cuts = [size * number for number in range(1, count)]
    return [np.sort(np.r_[found, part]) for part in np.split(others, cuts)]


def shown(balance: str, labels: np.ndarray, rank: np.ndarray) -> list[np.ndarray]:
    """Return the groups of an epoch for a recipe's ``balance`` and one disease's labels.

    ``labels`` (people,) are 1 for positives; whoever is not known to be one is one of the others.
    """
    positive = labels == 1
    if balance == "static":
        return [np.flatnonzero(matched(positive, rank))]
    if balance == "chunks":
        return chunks(positive)
    return [np.arange(len(labels))]

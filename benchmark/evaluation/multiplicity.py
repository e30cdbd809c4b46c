"""From many p-values to what may be said: adjustment, letters and ranges of ranks."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import stats


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjust p-values for their number (Holm, Scand. J. Statist. 6:65, 1979).

    Without the running maximum a larger p could come out smaller than a smaller one.
    """
    p = np.asarray(p, float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted


def benjamini_hochberg(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjust p-values for the false discovery rate (Benjamini & Hochberg, JRSS-B 57:289, 1995).

    NaN is no test: it stays NaN and does not count among them.
    """
    p = np.asarray(p, float)
    tested = ~np.isnan(p)
    q = np.full(p.shape, np.nan)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    return q


def letters(order: Sequence[str], significant: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Compact letter display: two names share a letter exactly when they do not differ.

    Insert-and-absorb (Piepho, J. Comput. Graph. Stat. 13:456, 2004).

    Parameters
    ----------
    order
        Names from best to worst; letters are given out in this order.
    significant
        Pairs of names that differ, in either direction.
    """
    groups = [frozenset(order)]
    for a, b in significant:
        split = [g for g in groups if not {a, b} <= g]
        split += [g - {x} for g in groups if {a, b} <= g for x in (a, b)]
        # Absorb: a group inside another says nothing of its own.
        groups = [g for g in dict.fromkeys(split) if not any(g < other for other in split)]
    place = {name: i for i, name in enumerate(order)}
    groups.sort(key=lambda group: sorted(place[name] for name in group))
    shown = dict.fromkeys(order, "")
    for i, group in enumerate(groups):
        letter = string.ascii_letters[i] if i < len(string.ascii_letters) else f"({i})"
        for name in group:
            shown[name] += letter
    return shown


def rank_intervals(
    names: Sequence[str], better: Iterable[tuple[str, str]]
) -> dict[str, tuple[int, int]]:
    """Ranks each name can have: [1 + number better, k - number worse].

    Parameters
    ----------
    names
        The k names that are ranked.
    better
        (winner, loser) pairs that differ significantly; a pair never compared is not among them
        and widens the intervals.
    """
    above = dict.fromkeys(names, 0)
    below = dict.fromkeys(names, 0)
    for winner, loser in set(better):
        above[loser] += 1
        below[winner] += 1
    return {name: (1 + above[name], len(names) - below[name]) for name in names}

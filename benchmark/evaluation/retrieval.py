"""Rank a gallery of people by similarity and ask who shares a phenotype with the query.

Query i and gallery i are the same person. A gallery person matches a query for a phenotype when
the two values are within half a standard deviation sigma of that phenotype over the test split
(inclusive). Someone without the phenotype is neither query nor gallery for it. A query without any
match scores P@k = 0 and has no first rank. (Selivanov et al., MICCAI 2025, Table 1, where own CMR,
ties and missing values are left open.)

People whose similarities to the query are equal have no order: every score is its mean over all
orders of them. A constant embedding thus scores chance, whoever stands where in the gallery.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

KS = (1, 3, 5, 10, 15)
_BLOCK = 512  # queries at a time: 6,000 x 6,000 keys at once would take 300 MB
_DEPTH = 128  # neighbours looked at first; the few queries still without a match see everybody
_SLACK = 1e-9  # of sigma, so that a difference of exactly half a sigma counts despite rounding
_MISSING = np.uint32(2**31)


class Retrieval(TypedDict):
    """Per query and phenotype, NaN where the query lacks the phenotype.

    ``hits`` (N, T, len(ks)) float32: share of matches among the k best; ``rank`` (N, T) of the
    first match, 1-based, NaN without one; ``matches`` (N, T): gallery people that match;
    ``gallery`` (T,): gallery people of a query; ``ties``: queries for which a tie decided who is
    among the k best for some k; ``own`` (N, 3): people of all the gallery who are more similar
    than the query's own entry, as similar, and less.
    """

    hits: np.ndarray
    rank: np.ndarray
    matches: np.ndarray
    gallery: np.ndarray
    ties: int
    own: np.ndarray


def retrieve(
    query: np.ndarray,
    gallery: np.ndarray,
    phenotypes: np.ndarray,
    *,
    sigma: np.ndarray,
    exclude_self: bool,
    ks: Sequence[int] = KS,
) -> Retrieval:
    """Rank the gallery by cosine similarity, once for all phenotypes.

    Parameters
    ----------
    query, gallery
        (N, D) embeddings, row i of both being the same person; compared in float32.
    phenotypes
        (N, T), NaN where missing.
    sigma
        (T,) standard deviation (ddof 0) over the test split, the same for every method.
    exclude_self
        Leave the query's own row out of its gallery. ``own`` counts with or without.
    ks
        Cut-offs in ascending order.

    Raises
    ------
    ValueError
        When shapes differ, an embedding is not finite or has no direction, or sigma is unusable.
    """
    phenotypes = np.asarray(phenotypes, np.float64)
    sigma = np.asarray(sigma, np.float64)
    query, gallery = _unit(query, "query"), _unit(gallery, "gallery")
    n, targets = phenotypes.shape
    if query.shape != gallery.shape or len(query) != n or sigma.shape != (targets,):
        raise ValueError(
            f"query {query.shape}, gallery {gallery.shape}, phenotypes {phenotypes.shape} and "
            f"sigma {sigma.shape} are not (N, D), (N, D), (N, T) and (T,)"
        )
    present = ~np.isnan(phenotypes)
    if not (sigma[present.any(axis=0)] >= 0).all():
        raise ValueError("sigma must be known for every phenotype that has values")
    place, low, width = _places(phenotypes, sigma * (0.5 + _SLACK))
    matches = np.where(present, width.astype(np.float64).T - int(exclude_self), np.nan)
    size = present.sum(axis=0) - int(exclude_self)
    distinct, entry = _distinct(gallery)

    hits = np.full((n, targets, len(ks)), np.nan, np.float32)
    rank = np.full((n, targets), np.nan)
    own = np.empty((n, 3), np.int32)
    ties = 0
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))
        similarity = (query[rows] @ distinct.T)[:, entry]
        own[rows] = _own(similarity, rows)
        if exclude_self:
            similarity[rows - start, rows] = -np.inf
        order, same = _nearest(similarity, _DEPTH, n - int(exclude_self))
        ties += int(same[:, [k - 1 for k in ks if k <= same.shape[1]]].any(axis=1).sum())
        ties_before = np.cumsum(same, axis=1, dtype=np.int32)
        for t in range(targets):
            asked = np.flatnonzero(present[rows, t])
            if not asked.size:
                continue
            within = (low[t, rows[asked], None], width[t, rows[asked], None])
            known = None if size[t] == n - int(exclude_self) else place[t] != _MISSING
            share, first, last = _score(order[asked], place[t], *within, known, ks, size[t])
            # No match yet, too few people with the phenotype so far, or no order among them.
            unsettled = np.isnan(first) & (matches[rows[asked], t] > 0)
            unsettled |= (last < 0) | (ties_before[asked, last] > 0)
            for i in np.flatnonzero(unsettled):
                others = place[t] != _MISSING
                others[rows[asked[i]]] &= not exclude_self
                match = place[t][others] - within[0][i] < within[1][i]
                share[i], first[i] = _average(similarity[asked[i]][others], match, ks)
            hits[rows[asked], t], rank[rows[asked], t] = share, first
    return Retrieval(hits=hits, rank=rank, matches=matches, gallery=size, ties=ties, own=own)


def _unit(x: np.ndarray, name: str) -> np.ndarray:
    """Scale rows to length 1 in float32."""
    x = np.asarray(x, np.float32)
    # The length in float64: squares of small float32 features would underflow.
    length = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))
    if not np.isfinite(length).all():
        raise ValueError(f"the {name} embeddings are not finite")
    if not (length > 0).all():
        raise ValueError(f"{(length == 0).sum()} {name} embeddings are all zeros: no direction")
    return (x / length[:, None]).astype(np.float32)


def _distinct(gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray | slice]:
    """Return the different entries and, per person, which is theirs.

    A matrix product sums its last columns in another order than the others: two people of equal
    embeddings would differ in the last bit, and one of them rank first, for standing there.
    """
    seen: dict[bytes, int] = {}
    entry = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in gallery + 0.0], int)
    if len(seen) == len(gallery):
        return gallery, slice(None)
    return gallery[np.unique(entry, return_index=True)[1]], entry


def _places(phenotypes: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Replace values by their place among the people, where matching is one comparison.

    Returns place, low and width, all (T, N) uint32: j matches query i when ``place[j] - low[i]``
    is below ``width[i]``, in unsigned arithmetic. The width counts the matches, the query included.
    """
    place = np.full(phenotypes.T.shape, _MISSING)
    low, width = np.zeros_like(place), np.zeros_like(place)
    for t, values in enumerate(phenotypes.T):
        present = ~np.isnan(values)
        known = np.sort(values[present])
        place[t, present] = np.searchsorted(known, values[present], "left")
        low[t, present] = np.searchsorted(known, values[present] - reach[t], "left")
        width[t, present] = np.searchsorted(known, values[present] + reach[t], "right")
    return place, low, np.where(place == _MISSING, 0, width - low)


def _own(similarity: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Count who is more similar to each query than its own entry, as similar, and less."""
    own = similarity[np.arange(rows.size), rows][:, None]
    ahead = (similarity > own).sum(axis=1)
    less = (similarity < own).sum(axis=1)
    return np.stack([ahead, similarity.shape[1] - 1 - ahead - less, less], axis=1)


def _nearest(similarity: np.ndarray, depth: int, gallery: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``depth`` nearest of each query, and which are as near as the next one.

    Similarities are turned into integers that sort by falling similarity, then position. All of
    them differ, so that a partition keeps the order, and integers are partitioned several times
    faster.
    """
    bits = (similarity + np.float32(0)).view(np.uint32)  # -0.0 + 0.0 = 0.0: the same similarity
    falling = np.where(bits >> 31, bits, ~bits & np.uint32(0x7FFFFFFF)).astype(np.uint64)
    keys = falling << np.uint64(32) | np.arange(similarity.shape[1], dtype=np.uint64)
    if depth + 1 < keys.shape[1]:
        keys = np.partition(keys, depth, axis=1)[:, : depth + 1]
    keys = np.sort(keys, axis=1)[:, : min(depth + 1, gallery)]
    nearness = keys >> np.uint64(32)
    same = np.zeros(keys.shape, bool)
    same[:, :-1] = nearness[:, :-1] == nearness[:, 1:]
    order = (keys & np.uint64(0xFFFFFFFF)).astype(np.intp)
    return order[:, :depth], same[:, :depth]


def _score(
    order: np.ndarray,
    place: np.ndarray,
    low: np.ndarray,
    width: np.ndarray,
    known: np.ndarray | None,
    ks: Sequence[int],
    gallery: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score ranked neighbours (B, L), all with a place of their own.

    ``known`` (N,) says who has the phenotype, None that all do. Returns the share of matches among
    the k best (B, len(ks)), the rank of the first match or NaN (B,), and the column up to which
    the order mattered (B,), -1 where too few of the neighbours have the phenotype to fill k.
    """
    match = place[order] - low < width
    first = match.argmax(axis=1)
    found = np.take_along_axis(match, first[:, None], 1)[:, 0]
    deepest = min(max(ks), gallery)
    share = np.empty((len(order), len(ks)), np.float32)
    if known is None:
        rank = first + 1.0
        last = np.full(len(order), deepest - 1 if deepest <= order.shape[1] else -1)
        for j, k in enumerate(ks):
            share[:, j] = match[:, :k].sum(axis=1)
    else:
        # People without the phenotype are not in this gallery: count ranks without them.
        ranks = np.cumsum(known[order], axis=1, dtype=np.int32)
        rank = np.take_along_axis(ranks, first[:, None], 1)[:, 0] + 0.0
        last = np.where(ranks[:, -1] < deepest, -1, (ranks >= deepest).argmax(axis=1))
        for j, k in enumerate(ks):
            share[:, j] = (match & (ranks <= k)).sum(axis=1)
    share /= np.minimum(ks, max(gallery, 1)).astype(np.float32)
    rank[~found] = np.nan
    return share, rank, np.where(last < 0, -1, np.maximum(last, np.where(found, first, 0)))


def _average(
    similarity: np.ndarray, match: np.ndarray, ks: Sequence[int]
) -> tuple[np.ndarray, float]:
    """Score one query by its whole gallery (G,), as the mean over all orders of those that tie.

    Of m matches among g people that tie, each place among them holds m / g on average, and the
    first match is (g + 1) / (m + 1) places in.
    """
    share = np.zeros(len(ks), np.float32)
    if not match.any():
        return share, np.nan
    deepest = min(max(ks), match.size)
    cuts = np.sort(np.partition(similarity, -deepest)[-deepest:])[::-1]
    near = similarity >= cuts[-1]
    near, match_near = similarity[near], match[near]
    for j, k in enumerate(min(k, deepest) for k in ks):
        ahead, tied = near > cuts[k - 1], near == cuts[k - 1]
        share[j] = match_near[ahead].sum() + (k - ahead.sum()) * match_near[tied].mean()
        share[j] /= k
    best = similarity[match].max()
    tied = similarity == best
    return share, (similarity > best).sum() + (tied.sum() + 1) / (match[tied].sum() + 1)

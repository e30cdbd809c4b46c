"""Rank a gallery of people by similarity and ask who shares a phenotype with the query.

Query i and gallery i are the same person. A gallery person matches a query for a phenotype when
the two values are within half a standard deviation sigma of that phenotype over the test split
(inclusive). Someone without the phenotype is neither query nor gallery for it. A query without any
match scores P@k = 0 and has no first rank. (Selivanov et al., MICCAI 2025, Table 1, where own CMR,
ties and missing values are left open.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

KS = (1, 3, 5, 10, 15)
_BLOCK = 512  # queries at a time: 6,000 x 6,000 keys at once would take 300 MB
_DEPTH = 256  # neighbours looked at first; the few queries still without a match see everybody
_SLACK = 1e-9  # of sigma, so that a difference of exactly half a sigma counts despite rounding


class Retrieval(TypedDict):
    """Per query and phenotype, NaN where the query lacks the phenotype.

    ``hits`` (N, T, len(ks)) float32: share of matches among the k best; ``rank`` (N, T) of the
    first match, 1-based, NaN without one; ``matches`` (N, T): gallery people that match;
    ``gallery`` (T,): gallery people of a query; ``ties``: queries for which a tie decided who is
    among the k best for some k.
    """

    hits: np.ndarray
    rank: np.ndarray
    matches: np.ndarray
    gallery: np.ndarray
    ties: int


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

    Equal similarities are ordered by gallery position, whoever asks: that order knows neither the
    phenotype nor the query's own place, so a constant embedding scores chance on average over
    orders of the people, with the own scan included too.

    Parameters
    ----------
    query, gallery
        (N, D) embeddings, row i of both being the same person; compared in float32.
    phenotypes
        (N, T), NaN where missing.
    sigma
        (T,) standard deviation (ddof 0) over the test split, the same for every method.
    exclude_self
        Leave the query's own row out of its gallery.
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
    reach = sigma * (0.5 + _SLACK)
    low, high = phenotypes - reach, phenotypes + reach
    matches = _matches(phenotypes, low, high, exclude_self)
    size = present.sum(axis=0) - int(exclude_self)

    hits = np.full((n, targets, len(ks)), np.nan, np.float32)
    rank = np.full((n, targets), np.nan)
    ties = 0
    for start in range(0, n, _BLOCK):
        rows = slice(start, min(start + _BLOCK, n))
        keys = _keys(query[rows] @ gallery.T)
        if exclude_self:
            own = np.arange(rows.start, rows.stop)
            keys[own - start, own] = np.iinfo(np.uint64).max  # behind everybody
        order, tied = _nearest(keys, _DEPTH, n - int(exclude_self), ks)
        ties += tied
        for t in range(targets):
            values = phenotypes[:, t]
            asked = np.flatnonzero(present[rows, t])
            share, first, seen = _score(
                order[asked], values, low[rows, t][asked], high[rows, t][asked], ks, size[t]
            )
            # Matches further down, or too few people with the phenotype so far to fill k.
            wanted = np.isnan(first) & (matches[rows, t][asked] > 0)
            wanted |= seen < min(max(ks), size[t])
            if wanted.any():
                late = asked[wanted]
                deep, _ = _nearest(keys[late], n, n - int(exclude_self), ks)
                share[wanted], first[wanted], _ = _score(
                    deep, values, low[rows, t][late], high[rows, t][late], ks, size[t]
                )
            hits[start + asked, t], rank[start + asked, t] = share, first
    return Retrieval(hits=hits, rank=rank, matches=matches, gallery=size, ties=ties)


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


def _matches(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, exclude_self: bool
) -> np.ndarray:
    """Count gallery people between low and high, (N, T), NaN where the query has no value."""
    counts = np.full(values.shape, np.nan)
    for t in range(values.shape[1]):
        present = ~np.isnan(values[:, t])
        known = np.sort(values[present, t])
        within = np.searchsorted(known, high[present, t], "right")
        within -= np.searchsorted(known, low[present, t], "left")
        counts[present, t] = within - int(exclude_self)
    return counts


def _keys(similarity: np.ndarray) -> np.ndarray:
    """Turn similarities into integers that sort by falling similarity, then gallery position.

    All keys differ, so a partition, which keeps no order among equals, is as good as a stable
    sort of the whole row and several times faster.
    """
    bits = (similarity + np.float32(0)).view(np.uint32)  # -0.0 + 0.0 = 0.0: the same similarity
    falling = np.where(bits >> 31, bits, ~bits & np.uint32(0x7FFFFFFF)).astype(np.uint64)
    return falling << np.uint64(32) | np.arange(similarity.shape[1], dtype=np.uint64)


def _nearest(
    keys: np.ndarray, depth: int, gallery: int, ks: Sequence[int]
) -> tuple[np.ndarray, int]:
    """Return the ``depth`` nearest of each query, nearest first, and the queries with ties."""
    depth = min(depth, gallery)
    if depth < keys.shape[1]:
        keys = np.partition(keys, depth, axis=1)[:, : depth + 1]
    keys = np.sort(keys, axis=1)[:, : min(depth + 1, gallery)]
    closeness = keys >> np.uint64(32)
    tied = np.zeros(len(keys), bool)
    for k in ks:
        if k < closeness.shape[1]:
            tied |= closeness[:, k - 1] == closeness[:, k]
    order = (keys[:, :depth] & np.uint64(0xFFFFFFFF)).astype(np.intp)
    return order, int(tied.sum())


def _score(
    order: np.ndarray,
    values: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    ks: Sequence[int],
    gallery: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score ranked neighbours (B, L) of queries whose matches lie between low and high (B,).

    Returns the share of matches among the k best (B, len(ks)), the rank of the first match or NaN
    (B,), and how many of the L neighbours have the phenotype (B,).
    """
    share = np.zeros((len(order), len(ks)), np.float32)
    if not order.size:
        return share, np.full(len(order), np.nan), np.zeros(len(order), int)
    found = values[order]
    match = (found >= low[:, None]) & (found <= high[:, None])
    first = match.argmax(axis=1)
    known = ~np.isnan(found)
    if known.all():
        place, seen = first + 1.0, np.full(len(order), order.shape[1])
        top = np.cumsum(match[:, : max(ks)], axis=1)
        for j, k in enumerate(ks):
            share[:, j] = top[:, min(k, top.shape[1]) - 1]
    else:
        # People without the phenotype are not in this gallery: count places without them.
        places = np.cumsum(known, axis=1, dtype=np.int32)
        place, seen = np.take_along_axis(places, first[:, None], 1)[:, 0] + 0.0, places[:, -1]
        for j, k in enumerate(ks):
            share[:, j] = (match & (places <= k)).sum(axis=1)
    share /= np.minimum(ks, max(gallery, 1)).astype(np.float32)
    place[~np.take_along_axis(match, first[:, None], 1)[:, 0]] = np.nan
    return share, place, seen

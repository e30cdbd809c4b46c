"""Losses several methods share, each as its paper writes it. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812


def wide(x: torch.Tensor) -> torch.Tensor:
    """Return it in float32 at least: bfloat16 has three digits, a loss is made of differences."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Matrix product that mixed precision leaves in float32."""
    dtype = torch.promote_types(wide(a).dtype, wide(b).dtype)
    with torch.autocast(a.device.type, enabled=False):
        return a.to(dtype) @ b.to(dtype)


def cosines(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return the cosine of every row (..., n, width) with every row (..., m, width)."""
    return product(F.normalize(wide(u), dim=-1), F.normalize(wide(v), dim=-1).mT)


def clip_loss(
    u: torch.Tensor,
    v: torch.Tensor,
    temperature: float,
    weight: float = 0.5,
    excluded: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-modal InfoNCE: ``weight`` of the u-anchored and 1 - ``weight`` of the v-anchored term.

    Parameters
    ----------
    u, v
        (batch, width), paired by row, not yet normalised.
    excluded
        (batch, batch) bool: pairs that are no negatives either.

    Notes
    -----
    MMCL eq. 4-6 with u the image and weight lambda. The positive stays in the denominator, and
    pairs of one modality are no negatives.
    """
    logits = cosines(u, v) / temperature
    if excluded is not None:
        # Not minus infinity: a batch of one person may have no pair left.
        logits = logits.masked_fill(excluded, torch.finfo(logits.dtype).min)
    pairs = torch.arange(len(u), device=u.device)
    anchored_u = F.cross_entropy(logits, pairs)
    anchored_v = F.cross_entropy(logits.T, pairs)
    return weight * anchored_u + (1 - weight) * anchored_v


def nt_xent(a: torch.Tensor, b: torch.Tensor, temperature: float) -> torch.Tensor:
    """Normalised-temperature cross-entropy over the 2B views (Chen et al. 2020, eq. 1)."""
    z = torch.cat([a, b])
    logits = cosines(z, z) / temperature
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = logits.masked_fill(itself, float("-inf"))
    partner = torch.arange(len(z), device=z.device).roll(len(a))
    return F.cross_entropy(logits, partner)


def triplet_loss(anchor: torch.Tensor, other: torch.Tensor, margin: float) -> torch.Tensor:
    """Semi-hard triplets from ``anchor`` to ``other``, as ECCL's ablation mines them.

    d_ij is the Euclidean distance of anchor i to other j. Triplets with d_ii < d_ij < d_ii + margin
    are averaged as d_ii - d_ij + margin; where a batch has none, those with d_ij < d_ii.

    Parameters
    ----------
    anchor, other
        (batch, width), paired by row, not normalised.
    """
    anchor, other = wide(anchor), wide(other)
    distance = torch.cdist(anchor, other, compute_mode="donot_use_mm_for_euclid_dist")
    positive = distance.diagonal()[:, None]
    excess = positive - distance + margin
    others = ~torch.eye(len(anchor), dtype=torch.bool, device=anchor.device)
    chosen = others & (distance > positive) & (excess > 0)
    if not chosen.any():
        chosen = others & (distance < positive)
    return (excess * chosen).sum() / chosen.sum().clamp(min=1)


def all_pairs_clip(views: torch.Tensor, temperature: float) -> torch.Tensor:
    """Average the symmetric `clip_loss` over all pairs of views.

    Parameters
    ----------
    views
        (views, batch, width), paired by person, not yet normalised.

    Notes
    -----
    CLOCS (Kiyasseh et al. 2021), section 3.3, with one recording per patient.
    """
    n, people, _ = views.shape
    z = views.flatten(0, 1)
    logits = (cosines(z, z) / temperature).unflatten(0, (n, people)).unflatten(-1, (n, people))
    # (view a, anchor person, view b): cross-entropy of finding the anchor's own segment in b.
    own = logits.diagonal(dim1=1, dim2=3).transpose(1, 2)
    loss = logits.logsumexp(-1) - own
    different = ~torch.eye(n, dtype=torch.bool, device=z.device)
    return loss.mean(1)[different].mean()


def simsiam(predicted: Sequence[torch.Tensor], projected: Sequence[torch.Tensor]) -> torch.Tensor:
    """Negative cosine of each prediction with the other projection, averaged over the two.

    Chen and He 2021, equation 2: projections are targets, without a gradient.

    Parameters
    ----------
    predicted, projected
        Two views each, (batch, width), in the same order.
    """
    cosines = [
        F.cosine_similarity(wide(p), wide(z.detach())).mean()
        for p, z in zip(predicted, reversed(projected), strict=True)
    ]
    return -sum(cosines) / 2


def correlation_over_time(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the Pearson correlation along the last axis; constant signals give 0."""
    x, y = wide(x), wide(y)
    x = x - x.mean(-1, keepdim=True)
    y = y - y.mean(-1, keepdim=True)
    scale = (x.square().sum(-1) * y.square().sum(-1)).clamp(min=1e-12).sqrt()
    return (x * y).sum(-1) / scale

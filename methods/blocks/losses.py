"""Losses several methods share, each as its paper writes it. Imports torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812


def clip_loss(
    u: torch.Tensor, v: torch.Tensor, temperature: float, weight: float = 0.5
) -> torch.Tensor:
    """Cross-modal InfoNCE: ``weight`` of the u-anchored and 1 - ``weight`` of the v-anchored term.

    Parameters
    ----------
    u, v
        (batch, width), paired by row, not yet normalised.

    Notes
    -----
    MMCL eq. 2-4 with u the image and weight lambda. The positive stays in the denominator, and
    pairs of one modality are no negatives.
    """
    logits = F.normalize(u, dim=-1) @ F.normalize(v, dim=-1).T / temperature
    pairs = torch.arange(len(u), device=u.device)
    anchored_u = F.cross_entropy(logits, pairs)
    anchored_v = F.cross_entropy(logits.T, pairs)
    return weight * anchored_u + (1 - weight) * anchored_v


def nt_xent(a: torch.Tensor, b: torch.Tensor, temperature: float) -> torch.Tensor:
    """Normalised-temperature cross-entropy over the 2B views (Chen et al. 2020, eq. 1)."""
    z = F.normalize(torch.cat([a, b]), dim=-1)
    logits = z @ z.T / temperature
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = logits.masked_fill(itself, float("-inf"))
    partner = torch.arange(len(z), device=z.device).roll(len(a))
    return F.cross_entropy(logits, partner)


def correlation_over_time(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the Pearson correlation along the last axis; constant signals give 0."""
    x = x - x.mean(-1, keepdim=True)
    y = y - y.mean(-1, keepdim=True)
    scale = (x.square().sum(-1) * y.square().sum(-1)).clamp(min=1e-12).sqrt()
    return (x * y).sum(-1) / scale

"""Heartbeats in tokens: PTACL's local alignment of ECG phases with cine frames. Imports torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from methods.blocks.losses import cosines, product, wide


def beat_tokens(
    tokens: torch.Tensor, r_peaks: torch.Tensor, seconds: float, times: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Resample the tokens of every full beat to ``times`` phases and average over beats.

    Parameters
    ----------
    tokens
        (batch, n, width): time tokens, already averaged over leads.
    r_peaks
        (batch, most) seconds from the start of the window, NaN-padded; may lie outside it.
    seconds
        Length of the window the n tokens cover.

    Returns
    -------
    beats
        (batch, times, width); phase k is the middle of the k-th of ``times`` parts of the beat, as
        temporal token k of the cine covers that part of the cycle when a frame stands for the time
        until the next one (simulated frames are instants: half a frame earlier).
    valid
        (batch,) bool: whether the window holds a full beat of 0.3 to 2 s.
    """
    n = tokens.shape[1]
    first, last = r_peaks[:, :-1], r_peaks[:, 1:]
    length = last - first
    # Comparisons with NaN are False, so padding drops out here.
    full = (first >= 0) & (last <= seconds) & (length >= 0.3) & (length <= 2.0)
    phase = (torch.arange(times, device=tokens.device) + 0.5) / times
    time = first[..., None] + phase * length[..., None]
    position = (time * (n / seconds) - 0.5).clamp(0, n - 1).nan_to_num()
    centres = torch.arange(n, device=tokens.device)
    weights = (1 - (position[..., None] - centres).abs()).clamp(min=0)
    weights = (weights * full[..., None, None]).sum(1)
    count = full.sum(1)
    weights = weights / count.clamp(min=1)[:, None, None]
    return product(weights, tokens), count > 0


def phase_alignment(
    beats: torch.Tensor,
    phases: torch.Tensor,
    valid: torch.Tensor,
    temperature: float,
    sigma: float,
) -> torch.Tensor:
    """Match ECG phases with cine phases within each person, in both directions.

    Cross-entropy against P, proportional to exp(-(d / sigma)^2 / 2) with d = |k - t| / (T - 1),
    rows summing to 1 (identity for sigma 0). People without a full beat are left out.
    """
    times = beats.shape[1]
    logits = cosines(beats, phases) / temperature
    if sigma:
        k = torch.arange(times, device=beats.device) / (times - 1)
        target = F.softmax(-0.5 * ((k[:, None] - k[None]) / sigma).square(), dim=-1)
    else:
        target = torch.eye(times, device=beats.device)

    def direction(scores: torch.Tensor) -> torch.Tensor:
        per_person = -(target * F.log_softmax(scores, dim=-1)).sum(-1).mean(-1)
        # Not a mean over the batch alone: someone without a beat must not pull it to zero.
        return (per_person * valid).sum() / valid.sum().clamp(min=1)

    return 0.5 * direction(logits) + 0.5 * direction(logits.transpose(1, 2))


def phase_similarity(
    beats: torch.Tensor, phases: torch.Tensor, valid: torch.Tensor
) -> torch.Tensor:
    """Minus the mean cosine of matching phases, over the people with a full beat (CosSim++)."""
    per_person = -F.cosine_similarity(wide(beats), wide(phases), dim=-1).mean(-1)
    return (per_person * valid).sum() / valid.sum().clamp(min=1)

"""One transformer per cardiac phase, read as one CMR encoder. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from benchmark.encoders import Features


class PhasesEncoder(nn.Module):
    """Encode some of the two phases of (batch, 2, slices, height, width), each by its own network.

    Features are those of the phases side by side.

    Parameters
    ----------
    networks
        One per phase that is read.
    phases
        Places of those phases: 0 end-diastole, 1 end-systole.
    """

    def __init__(self, networks: Sequence[nn.Module], phases: Sequence[int]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.phases = tuple(phases)
        self.width = sum(network.width for network in networks)

    def forward(self, x: torch.Tensor) -> Features:
        """Encode each phase."""
        parts = zip(self.networks, self.phases, strict=True)
        return Features(torch.cat([network(x[:, place]).pooled for network, place in parts], dim=1))


class PhasesProjector(nn.Module):
    """A projector per phase; a person's place in the shared space is the mean of their phases'."""

    def __init__(self, projectors: Sequence[nn.Module]) -> None:
        super().__init__()
        self.projectors = nn.ModuleList(projectors)

    def each(self, pooled: torch.Tensor) -> list[torch.Tensor]:
        """Project (batch, phases x width) into one (batch, embedding) per phase, of unit length."""
        parts = pooled.chunk(len(self.projectors), dim=1)
        return [
            F.normalize(p(part), dim=-1) for p, part in zip(self.projectors, parts, strict=True)
        ]

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return (batch, embedding)."""
        return torch.stack(self.each(pooled)).mean(0)

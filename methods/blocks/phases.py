"""One network per cardiac phase, read as one CMR encoder. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
        By phase, ``ed`` or ``es``.
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.width = sum(network.width for network in networks.values())

    def forward(self, x: torch.Tensor) -> Features:
        """Encode each phase."""
        volumes = dict(zip(("ed", "es"), x.unbind(1), strict=True))
        parts = [network(volumes[phase]).pooled for phase, network in self.networks.items()]
        return Features(torch.cat(parts, dim=1))


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

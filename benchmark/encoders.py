"""The network side of the contract: what a method's `build` returns. Imports torch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn


class Features(NamedTuple):
    """Output of an encoder.

    Attributes
    ----------
    pooled
        (batch, width): what heads and retrieval read.
    tokens
        (batch, tokens, width), after the final norm where there is one, or None for encoders
        without tokens.
    """

    pooled: torch.Tensor
    tokens: torch.Tensor | None = None


class Encoders(nn.Module):
    """Owns every part of a method: encoders, projectors, predictors, decoders, momentum copies.

    Parts named after a modality (``ecg``, ``cmr``, ``covariates``) are encoders and return
    `Features`. ``project_ecg`` and ``project_cmr``, where present, map pooled features into the
    space shared by the two towers; every other name is the method's own.
    """

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def has(self, name: str) -> bool:
        """Whether the method brought this part."""
        return name in self._modules

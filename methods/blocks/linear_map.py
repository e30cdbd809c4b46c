"""An encoder that is one affine map, fitted in closed form. Imports torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from benchmark.encoders import Features


class LinearMap(nn.Module):
    """``(x - mean) @ map``; a missing value counts as the mean."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("map", torch.zeros(inputs, outputs))

    def set(self, mean: np.ndarray, matrix: np.ndarray) -> None:
        """Store the fitted map."""
        self.mean.copy_(torch.from_numpy(np.asarray(mean)))
        self.map.copy_(torch.from_numpy(np.asarray(matrix)))

    def forward(self, x: torch.Tensor) -> Features:
        """Map (batch, inputs) to features."""
        return Features((x - self.mean).nan_to_num() @ self.map)

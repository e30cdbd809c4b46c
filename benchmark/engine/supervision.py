"""The output layer of whatever is trained on labels, and its loss. Imports torch."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


class Supervision(nn.Module):
    """One linear output per target.

    Loss: cross-entropy in which a positive weighs as much as the negatives per positive, or squared
    error of z-scored targets. Missing targets are left out.

    Parameters
    ----------
    width
        Of the features.
    targets
        Number of outputs.
    classification
        Whether targets are 0 or 1.
    smoothing
        Share of a training label that is spread over both classes.
    balanced
        Whether training shows the classes balanced: a positive weighs more on validation people
        alone, who are as prevalence makes them.
    """

    def __init__(
        self,
        width: int,
        targets: int,
        classification: bool,
        smoothing: float = 0.0,
        balanced: bool = False,
    ) -> None:
        super().__init__()
        self.classification = classification
        self.smoothing, self.balanced = smoothing, balanced
        self.linear = nn.Linear(width, targets)
        self.register_buffer("positive_weight", torch.ones(targets))

    def fit(self, labels: np.ndarray) -> None:
        """Set the weight of a positive from (people, targets), at most 100."""
        if self.classification:
            # A target that nobody has a label for keeps a finite weight: it is multiplied by zero.
            observed = np.isfinite(labels).sum(axis=0).clip(1)
            share = (np.nansum(labels, axis=0) / observed).clip(1e-9, 1)
            self.positive_weight.copy_(torch.from_numpy(((1 - share) / share).clip(1, 100)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (batch, width) to (batch, targets)."""
        return self.linear(features)

    def loss(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Average over the targets that are not NaN in ``labels`` (batch, targets)."""
        output, target = self(features), labels.nan_to_num()
        observed = labels.isfinite()
        if self.classification:
            # Divided by the total weight: the loss of a coin is log 2 whatever the prevalence.
            importance = observed.float()
            if not (self.balanced and self.training):
                importance = importance * (1 + target * (self.positive_weight - 1))
            if self.smoothing and self.training:
                target = target * (1 - self.smoothing) + self.smoothing / 2
            error = F.binary_cross_entropy_with_logits(output, target, reduction="none")
        else:
            importance = observed.float()
            error = (output - target).square()
        return (error * importance).sum() / importance.sum().clamp(min=1)

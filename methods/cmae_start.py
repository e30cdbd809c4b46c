"""The autoencoder of one modality, with convolutions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark.api import Batch, Recipe, Trainable, View
from methods.blocks.convolutional import CMAE_ECG, Convolutional

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders

# Up to 696 epochs of 128 steps.
RECIPE = Recipe(
    updates=696 * 128,
    rounds=696,
    patience=64,
    batch_size=4,
    optimiser="adam",
    learning_rate=5e-5,
    betas=(0.9, 0.999),
    weight_decay=0.0,
    warmup=0.0,
)


@dataclass(frozen=True, kw_only=True)
class CMAEStart(Trainable):
    """Autoencoder of one modality: where the cross-modal one takes its encoders and decoders from.

    ECGs are judged by the mean log-cosh of the error, cines by its mean square.
    """

    network: Convolutional = CMAE_ECG
    recipe: Recipe = RECIPE

    @property
    def label(self) -> str:
        """Say of what."""
        return f"cmae-{self.network.modality}-autoencoder"

    def views(self) -> dict[str, View]:
        """Read the one modality."""
        return {self.network.modality: self.network.view(self.cohort)}

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make encoder and decoder."""
        from benchmark.encoders import Encoders

        modality = self.network.modality
        encoder, decoder = self.network.build(shapes[modality])
        return Encoders(**{modality: encoder, f"{modality}_decoder": decoder})

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Compare the input with what its code gives back."""
        modality = self.network.modality
        code = getattr(encoders, modality)(batch.views[modality]).pooled
        return {"error": reconstruction_error(encoders, modality, batch, code)}


def reconstruction_error(
    encoders: Encoders, modality: str, batch: Batch, code: torch.Tensor
) -> torch.Tensor:
    """Decode a code (batch, width): mean log-cosh of an ECG's error, mean square of a cine's."""
    from torch.nn import functional

    target = getattr(encoders, modality).target(batch.views[modality])
    error = getattr(encoders, f"{modality}_decoder")(code) - target
    if modality == "cmr":
        return error.square().mean()
    # log cosh x = x + log(1 + exp(-2 x)) - log 2, which no large error overflows.
    return (error + functional.softplus(-2 * error)).mean() - math.log(2)

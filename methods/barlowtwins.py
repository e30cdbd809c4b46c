"""Barlow Twins on the ECG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Recipe, Variant
from methods.blocks.bases import MMCL_ADAM, ContrastiveECG

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class BarlowTwins(ContrastiveECG):
    """Make the cross-correlation of two windows' features the identity matrix.

    Zbontar et al., ICML 2021, as MMCL's baseline (Turgut et al. 2025, Table II): one hidden layer
    in the projector (the original has two), ``redundancy`` weighs the off-diagonal, and there is no
    factor of 0.025.

    Departures: the correlation divides by the people in the batch, there by the nominal batch size.
    In training the two are one here, where batches are always full; validation comes in smaller
    batches, whose correlations the nominal size would shrink. No predictor is made that nobody
    uses. The harmonised track alone differs as in SimCLR, and its narrow projector leaves the same
    ``redundancy`` less to weigh: outputs that are all copies of one cost redundancy x (outputs - 1)
    times what outputs cost that two windows do not share, which is 41 at 8192 and 0.3 at 64.
    """

    paper: ClassVar[str] = "Turgut et al., Medical Image Analysis 101 (2025) 103451"
    variants: ClassVar[Mapping[str, Variant]] = {
        "barlowtwins": Variant(tracks=("harmonised",)),
        "barlowtwins@mmcl": Variant(tracks=("paper",), protocol="mmcl"),
    }

    redundancy: float = 5e-3
    hidden: int = 8192
    embedding: int = 8192
    recipe: Recipe = MMCL_ADAM.replace(learning_rate=3e-5, weight_decay=1.5e-6)

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make encoder, projector and the batch norm in front of the correlation."""
        from torch import nn

        from benchmark.encoders import Encoders
        from methods.blocks.vit import normalised_projector

        encoder = self.ecg_encoder.build()
        return Encoders(
            ecg=encoder,
            contrast=normalised_projector(encoder.width, self.hidden, self.embedding),
            norm=nn.BatchNorm1d(self.embedding, affine=False),
        )

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Squared distance of the diagonal from 1 and, weighted, of the rest from 0."""
        from methods.blocks.losses import product

        a, b = (
            encoders.norm(encoders.contrast(encoders.ecg(x).pooled)) for x in self.windows(batch)
        )
        correlation = product(a.T, b) / len(a)
        squares = correlation.square()
        return {
            "invariance": (correlation.diagonal() - 1).square().sum(),
            "redundancy": self.redundancy * (squares.sum() - squares.diagonal().sum()),
        }

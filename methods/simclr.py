"""SimCLR on the ECG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Recipe, Variant
from methods.blocks.bases import ContrastiveECG

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class SimCLR(ContrastiveECG):
    """Two augmented windows of one ECG attract, all other windows of the batch repel.

    Chen et al., ICML 2020, as MMCL's baseline (Turgut et al. 2025, Table II): projector without
    batch norm, hidden width unstated (512 declared), temperature 0.1.

    Departures: both windows are always augmented (there the second one with probability 0.95), by
    the track's list, without the flips and the spectrogram masking of its unimodal loader; features
    are pooled after the encoder's own norm, there before it and through a fresh one; AdamW, there
    Adam with coupled weight decay.
    """

    paper: ClassVar[str] = "Turgut et al., Medical Image Analysis 101 (2025) 103451"
    variants: ClassVar[Mapping[str, Variant]] = {"simclr": Variant(tracks=("harmonised",))}

    temperature: float = 0.1
    hidden: int = 512
    embedding: int = 128
    recipe: Recipe = Recipe(epochs=300, batch_size=256, learning_rate=3e-3, weight_decay=1e-4)

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make encoder and projector."""
        from benchmark.encoders import Encoders
        from methods.blocks.vit import projector

        encoder = self.ecg_encoder.build()
        return Encoders(ecg=encoder, contrast=projector(encoder.width, self.hidden, self.embedding))

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """NT-Xent between the two windows."""
        from methods.blocks.losses import nt_xent

        a, b = (
            encoders.contrast(encoders.ecg(x).pooled)
            for x in (self.window(batch) for _ in range(2))
        )
        return {"nt_xent": nt_xent(a, b, self.temperature)}

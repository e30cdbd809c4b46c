"""BYOL on the ECG."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Recipe, Variant
from methods.blocks.bases import MMCL_ADAM, ContrastiveECG

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class BYOL(ContrastiveECG):
    """Predict what a slowly moving copy of the encoder makes of another window; no negatives.

    Grill et al., NeurIPS 2020, as MMCL's baseline (Turgut et al. 2025, Table II): projector and
    predictor of one hidden layer with batch norm. The copy follows the parameters, not the batch
    norms' statistics, and runs in training mode on batch statistics of its own. ``momentum`` is
    tau at the start and rises to 1 by a cosine.

    The harmonised track alone differs as in SimCLR, and its ``momentum`` starts lower: its copy
    remembers as large a share of a much shorter training.
    """

    paper: ClassVar[str] = "Turgut et al., Medical Image Analysis 101 (2025) 103451"
    variants: ClassVar[Mapping[str, Variant]] = {
        "byol": Variant(tracks=("harmonised",)),
        "byol@mmcl": Variant(tracks=("paper",), protocol="mmcl"),
    }

    momentum: float = 0.9996
    hidden: int = 4096
    embedding: int = 256
    recipe: Recipe = MMCL_ADAM.replace(learning_rate=1e-5)

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make the online network, its predictor and the copy."""
        from benchmark.encoders import Encoders
        from methods.blocks.vit import normalised_projector

        encoder = self.ecg_encoder.build()
        contrast = normalised_projector(encoder.width, self.hidden, self.embedding)
        return Encoders(
            ecg=encoder,
            contrast=contrast,
            predictor=normalised_projector(self.embedding, self.hidden, self.embedding),
            target_ecg=copy.deepcopy(encoder).requires_grad_(False),
            target_contrast=copy.deepcopy(contrast).requires_grad_(False),
        )

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """-2 cos of prediction and copy, in both directions: between -4 and 4."""
        import torch
        from torch.nn.functional import cosine_similarity

        from methods.blocks.losses import wide

        windows = self.windows(batch)
        predicted = [encoders.predictor(encoders.contrast(encoders.ecg(x).pooled)) for x in windows]
        with torch.no_grad():
            targets = [encoders.target_contrast(encoders.target_ecg(x).pooled) for x in windows]
        pairs = zip(predicted, reversed(targets), strict=True)
        return {"byol": sum(-2 * cosine_similarity(wide(p), wide(t)).mean() for p, t in pairs)}

    def after_step(self, encoders: Encoders, progress: float) -> None:
        """Let the copy follow: tau = 1 - (1 - momentum) (cos(pi progress) + 1) / 2."""
        import torch

        rate = (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2
        with torch.no_grad():
            for name in ("ecg", "contrast"):
                online = getattr(encoders, name).parameters()
                copies = getattr(encoders, f"target_{name}").parameters()
                for own, slow in zip(online, copies, strict=True):
                    slow.lerp_(own, rate)

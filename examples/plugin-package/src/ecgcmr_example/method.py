"""MMCL with a pairwise sigmoid loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Variant
from benchmark.stage import Stage
from methods.blocks.bases import TwoTower
from methods.blocks.image_backbones import CMRResNet50
from methods.cmr_simclr import CMRSimCLR
from methods.mae import MAE

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class SigmoidMMCL(TwoTower):
    """MMCL that judges each ECG-CMR pair by itself, where CLIP's softmax needs the whole batch.

    Turgut et al. 2025 with the loss of SigLIP (Zhai et al., ICCV 2023, section 3): scale and bias
    of the similarities are learned. Departures: the scale as it is, not its logarithm; the bias
    starts at the log of a true pair's share of the batch, there at -10, for batches of 32,768.
    """

    paper: ClassVar[str] = "example, after Zhai et al., ICCV 2023"
    variants: ClassVar[Mapping[str, Variant]] = {"mmcl-sigmoid": Variant(tracks=("harmonised",))}

    ecg: Stage = MAE()
    cmr: Stage = CMRSimCLR()
    cmr_encoder: CMRResNet50 = CMRResNet50()
    scale: float = 10.0

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make encoders, projectors and the line from similarity to logit."""
        from torch import nn

        encoders = super().build(shapes)
        encoders.logit = nn.Linear(1, 1)
        nn.init.constant_(encoders.logit.weight, self.scale)
        nn.init.constant_(encoders.logit.bias, -math.log(self.recipe.batch_size))
        return encoders

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Minus the log-likelihood, per ECG, of which of the batch's CMRs are its own."""
        import torch
        from torch.nn.functional import logsigmoid, normalize

        ecg = normalize(encoders.project_ecg(encoders.ecg(self.ecg_input(batch)).pooled))
        cmr = normalize(encoders.project_cmr(encoders.cmr(self.cmr_input(batch)).pooled))
        logits = encoders.logit((ecg @ cmr.T)[..., None])[..., 0]
        own = 2 * torch.eye(len(ecg), device=ecg.device) - 1
        return {"sigmoid": -logsigmoid(own * logits).sum() / len(ecg)}

"""The cross-modal autoencoder, with convolutions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from benchmark.api import Batch, Method, Recipe, Variant, View
from benchmark.stage import Stage
from methods.blocks.convolutional import CMAE_CMR, CMAE_ECG
from methods.cmae_start import RECIPE, CMAEStart, reconstruction_error

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders

MODALITIES = ("ecg", "cmr")


@dataclass(frozen=True, kw_only=True)
class CMAE(Method):
    """Reconstruct ECG and cine from one mixed code, and pull the codes of a pair together.

    Radhakrishnan et al., Nature Communications 14 (2023). The codes of a pair are mixed: each of
    the 256 numbers is the ECG's or the cine's, drawn anew in every step, and both decoders read the
    mixture; the draw is one for the whole batch, on validation too, as in the published code
    (``pair_merge dropout`` of broadinstitute/ml4h). ``pair`` "contrast" is the CLIP loss with a
    learned scale exp(t), t from 0, as intended. "coded" is what the published code computes: with
    labels and predictions exchanged, the cross-entropy of Keras costs log 1e7 times the probability
    that the softmax gives to everybody else, a line where a logarithm was meant. There are no
    projection heads: the code is the shared space.

    The learning rate, 5e-5, is the published code's default. Departures: it falls along the
    harness's cosine, there it stays up or is halved when validation stands still; selection reads
    all validation people in batches of 64, whose CLIP loss has 63 negatives, there 36 batches of 4.
    Median beat and cine are those of the cohort (`MedianBeat`; `LongAxisCine`, about the middle of
    its images), there the device's beat and a crop around the mask of the heart.
    """

    paper: ClassVar[str] = "Radhakrishnan et al., Nature Communications 14 (2023) 2436"
    variants: ClassVar[Mapping[str, Variant]] = {
        "cmae": Variant(tracks=("paper",), protocol="cmae"),
    }
    two_tower: ClassVar[bool] = True

    ecg: CMAEStart = CMAEStart(network=CMAE_ECG)
    cmr: CMAEStart = CMAEStart(network=CMAE_CMR)
    pair: Literal["contrast", "coded"] = "contrast"
    pair_weight: float = 0.1
    recipe: Recipe = RECIPE

    def views(self) -> dict[str, View]:
        """Read the median beat and the four-chamber cine."""
        return self.ecg.views() | self.cmr.views()

    def initial_weights(self) -> dict[str, Stage]:
        """Start from the two autoencoders, their decoders included."""
        starts = {"ecg": self.ecg, "cmr": self.cmr}
        return starts | {f"{part}_decoder": stage for part, stage in starts.items()}

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make both autoencoders; nothing but the identity projects their codes."""
        from torch import nn

        from benchmark.encoders import Encoders
        from methods.blocks.convolutional_networks import LogScale

        parts: dict[str, nn.Module] = {"log_scale": LogScale()}
        for modality in MODALITIES:
            start: CMAEStart = getattr(self, modality)
            parts |= start.build(shapes).named_children()
            parts[f"project_{modality}"] = nn.Identity()
        return Encoders(**parts)

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Errors of both reconstructions from the mixed code, plus the weighted pair loss."""
        import torch

        ecg, cmr = encoders.ecg(batch.ecg).pooled, encoders.cmr(batch.cmr).pooled
        mixed = torch.where(torch.rand(ecg.shape[1], device=ecg.device) < 0.5, ecg, cmr)
        errors = {m: reconstruction_error(encoders, m, batch, mixed) for m in MODALITIES}
        return {**errors, "pair": self.pair_weight * self.pair_loss(encoders, ecg, cmr)}

    def pair_loss(self, encoders: Encoders, ecg: torch.Tensor, cmr: torch.Tensor) -> torch.Tensor:
        """Return what a batch of paired codes (batch, width) costs."""
        from methods.blocks.losses import clip_loss, cosines

        scale = encoders.log_scale.value.exp()
        if self.pair == "contrast":
            return clip_loss(ecg, cmr, 1 / scale)
        cosine = cosines(ecg, cmr)
        found = [(scale * x).softmax(-1).diagonal() for x in (cosine, cosine.T)]
        return math.log(1e7) * (1 - (found[0] + found[1]) / 2).mean()

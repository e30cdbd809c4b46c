"""Contrastive learning of cardiac signals across space, time and patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Recipe, Variant
from methods.blocks.augment import MMCL_UNIMODAL_AUGMENT, ECGAugment
from methods.blocks.backbones import LEADS
from methods.blocks.bases import MMCL_ADAM, ContrastiveECG

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class CLOCS(ContrastiveECG):
    """Two segments, or the leads, of one patient's ECG attract; those of other patients repel.

    Kiyasseh et al., ICML 2021. ``segments`` and ``leads`` say what counts as a view: the two halves
    of the recording (CMSC), the leads of one segment (CMLC), or the leads of both (CMSMLC). The
    loss is summed over all pairs of views and divided by their number; every person has one
    recording here, so the terms between recordings of one patient are absent. With two views it is
    MMCL's baseline (Turgut et al. 2025, Table II), the symmetric CLIP loss at temperature 0.1 on
    strongly augmented halves in batches of 768.

    Departures from MMCL's baseline: validation is not augmented. From the original, with MMCL's
    baseline: views are augmented, and there is a projector. Of CMLC and CMSMLC: the segment of CMLC
    is a random window; the published code assigns the loss inside its loop over pairs, so that of
    66 (CMLC) or 276 (CMSMLC) pairs only the last one trains, and here all do; a single lead is read
    by the 12-lead transformer from that lead's patches alone, there by a network of one channel,
    and the features that are compared afterwards come from all leads at once, which neither sees in
    training. The harmonised track alone augments by its own, weaker list.
    """

    paper: ClassVar[str] = "Kiyasseh et al., ICML 2021"
    variants: ClassVar[Mapping[str, Variant]] = {
        "clocs": Variant(tracks=("harmonised",)),
        "clocs@mmcl": Variant(
            tracks=("paper",),
            protocol="mmcl",
            paper="Turgut et al., Medical Image Analysis 101 (2025) 103451",
        ),
        "clocs-cmlc": Variant(
            {"segments": 1, "leads": True},
            tracks=("harmonised",),
            summary="CLOCS across leads: the leads of one segment attract.",
        ),
        "clocs-cmsmlc": Variant(
            {"leads": True},
            tracks=("harmonised",),
            summary="CLOCS across leads and segments.",
        ),
    }
    ecg_augment: ECGAugment = MMCL_UNIMODAL_AUGMENT.replace(
        surrogate=0.125, jitter=0.4, rescale=0.65
    )
    segments: int = 2
    leads: bool = False
    temperature: float = 0.1
    hidden: int = 384
    embedding: int = 128
    recipe: Recipe = MMCL_ADAM.replace(batch_size=768, learning_rate=3e-4)

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make encoder and projector."""
        from benchmark.encoders import Encoders
        from methods.blocks.vit import projector

        encoder = self.ecg_encoder.build()
        return Encoders(ecg=encoder, contrast=projector(encoder.width, self.hidden, self.embedding))

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Symmetric InfoNCE, averaged over all pairs of views."""
        import torch

        from methods.blocks.losses import all_pairs_clip

        samples = self.ecg_encoder.samples
        if self.segments == 1:
            segments = [self.ecg_crop(batch)[0]]
        else:
            segments = batch.ecg[..., : self.segments * samples].split(samples, dim=-1)
        views = []
        for place, segment in enumerate(segments):
            x = self.augmented(segment, place) if batch.training else segment
            if not self.leads:
                views.append(encoders.ecg(x).pooled)
                continue
            tokens = torch.arange(encoders.ecg.tokens, device=x.device).view(LEADS, -1)
            for lead in tokens:
                views.append(encoders.ecg(x, keep=lead.expand(len(x), -1)).pooled)
        z = torch.stack([encoders.contrast(view) for view in views])
        return {"clocs": all_pairs_clip(z, self.temperature)}

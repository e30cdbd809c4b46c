"""The supervised CMR Swin transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from benchmark.api import Variant
from methods.blocks.backbones import CMRSwinT
from methods.cmr_supervised import CMRSupervised


@dataclass(frozen=True, kw_only=True)
class CMRSwin(CMRSupervised):
    """Swin-T trained from random weights on the cine and the labels of the task itself.

    ECCL's imaging reference (Ding et al., MICCAI 2024, Table 1): the frames of one slice as
    channels. Departures: one network learns all diseases, there each has its own; it reads the
    track's cine, there 50 frames enlarged to 224 x 224 pixels.
    """

    paper: ClassVar[str] = "Ding et al., MICCAI 2024"
    variants: ClassVar[Mapping[str, Variant]] = {
        "cmr-swin": Variant(tracks=("paper",), role="reference")
    }

    cmr_encoder: CMRSwinT = CMRSwinT()

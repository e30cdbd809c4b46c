"""The supervised CMR Swin transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from benchmark.api import Variant
from methods.blocks.augment import ECCL_CMR_AUGMENT, CMRAugment
from methods.blocks.image_backbones import CMRSwinT, FramesNetwork
from methods.cmr_supervised import CMRSupervised


@dataclass(frozen=True, kw_only=True)
class CMRSwin(CMRSupervised):
    """Swin-T trained from random weights on the cine and the labels of the task itself.

    ECCL's imaging reference (Ding et al., MICCAI 2024, Table 1): the 50 frames of one slice as
    channels.
    """

    paper: ClassVar[str] = "Ding et al., MICCAI 2024"
    variants: ClassVar[Mapping[str, Variant]] = {
        "cmr-swin": Variant(tracks=("paper",), role="reference", protocol="eccl-cmr")
    }

    cmr_encoder: FramesNetwork = CMRSwinT()
    cmr_augment: CMRAugment = ECCL_CMR_AUGMENT

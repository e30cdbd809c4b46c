"""The supervised CMR network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from benchmark.api import Recipe, Variant
from methods.blocks.augment import MMCL_CMR_AUGMENT, PTACL_CMR_AUGMENT, CMRAugment
from methods.blocks.backbones import PTACL_CMR, CMRViT
from methods.blocks.bases import CMRMethod
from methods.blocks.image_backbones import CMRResNet50, FramesNetwork


@dataclass(frozen=True, kw_only=True)
class CMRSupervised(CMRMethod):
    """ResNet50 trained from random weights on the images and the labels of the task itself.

    MMCL's imaging baseline (Turgut et al. 2025, Tables I, V and VII): end-diastole, end-systole and
    the frame between them as channels. What the images tell, beside what the ECG tells of it. All
    learning happens in the ``finetune`` head, so the method itself has nothing to train. Its
    optimiser is unstated: that of the ECG models. PTACL's (Selivanov et al. 2025, Table 2) is its
    transformer on the cine.

    Departures of the harmonised track: the network is MMCL's, but on the track's smaller images.
    """

    paper: ClassVar[str] = "Turgut et al., Medical Image Analysis 101 (2025) 103451"
    variants: ClassVar[Mapping[str, Variant]] = {
        "cmr-supervised": Variant(tracks=("harmonised",), role="reference"),
        "cmr-supervised@mmcl": Variant(tracks=("paper",), role="reference", protocol="mmcl"),
        "cmr-supervised@ptacl": Variant(
            {"cmr_encoder": PTACL_CMR, "cmr_augment": PTACL_CMR_AUGMENT},
            tracks=("paper",),
            role="reference",
            protocol="ptacl-supervised",
            paper="Selivanov et al., MICCAI 2025",
            summary="PTACL's cine transformer trained from random weights on the task's labels.",
        ),
    }
    head: ClassVar[str] = "finetune"

    cmr_encoder: FramesNetwork | CMRViT = CMRResNet50()
    cmr_augment: CMRAugment = MMCL_CMR_AUGMENT
    recipe: Recipe = Recipe()

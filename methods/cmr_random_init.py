"""The untrained CMR encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from benchmark.api import Recipe, Variant
from methods.blocks.backbones import PTACL_CMR, CMRViT
from methods.blocks.bases import CMRMethod


@dataclass(frozen=True, kw_only=True)
class CMRRandomInit(CMRMethod):
    """The track's CMR encoder with random weights: what its architecture sees by itself.

    PTACL's reference (Selivanov et al. 2025, Table 2) on the cine.
    """

    paper: ClassVar[str] = "Selivanov et al., MICCAI 2025"
    variants: ClassVar[Mapping[str, Variant]] = {
        "cmr-random-init": Variant(tracks=("harmonised",), role="reference"),
        "cmr-random-init@ptacl": Variant(
            tracks=("paper",), role="reference", protocol="ptacl-probe"
        ),
    }
    kind: ClassVar[str] = "untrained"

    cmr_encoder: CMRViT = PTACL_CMR
    recipe: Recipe = Recipe()

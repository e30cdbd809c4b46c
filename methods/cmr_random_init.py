"""The untrained CMR encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Method, Recipe, Variant, View
from methods.blocks.backbones import CMRViT

if TYPE_CHECKING:
    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class CMRRandomInit(Method):
    """The track's CMR encoder with random weights: what its architecture sees by itself.

    PTACL's reference (Selivanov et al. 2025, Table 2) on the cine.
    """

    paper: ClassVar[str] = "Selivanov et al., MICCAI 2025"
    variants: ClassVar[Mapping[str, Variant]] = {
        "cmr-random-init": Variant(tracks=("harmonised",), role="reference")
    }
    kind: ClassVar[str] = "untrained"

    cmr_encoder: CMRViT = CMRViT()
    recipe: Recipe = Recipe()

    def views(self) -> dict[str, View]:
        """Read the mid-slice cine."""
        return {"cmr": self.cmr_encoder.view(self.cohort)}

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make the untrained encoder."""
        from benchmark.encoders import Encoders

        return Encoders(cmr=self.cmr_encoder.build())

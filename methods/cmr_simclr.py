"""SimCLR on CMR images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Method, Recipe, Variant, View
from methods.blocks.augment import CMRAugment
from methods.blocks.backbones import CMRViT

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class CMRSimCLR(Method):
    """Contrastive pretraining of the image encoder, as MMCL starts from it.

    Turgut et al. 2025, section 3.2 after Chen et al. 2020: two augmented views of one person's
    images attract, all other views of the batch repel. On the cine it is a reference, as in PTACL
    (Selivanov et al. 2025, Table 2): what the images tell without labels and without any ECG.
    """

    paper: ClassVar[str] = "Turgut et al., Medical Image Analysis 101 (2025) 103451"
    variants: ClassVar[Mapping[str, Variant]] = {
        "cmr-simclr": Variant(tracks=("harmonised",), role="reference")
    }
    kind: ClassVar[str] = "cmr-pretraining"

    cmr_encoder: CMRViT = CMRViT()
    cmr_augment: CMRAugment = CMRAugment()
    temperature: float = 0.1
    hidden: int = 2048
    embedding: int = 256
    recipe: Recipe = Recipe(epochs=500, batch_size=256, learning_rate=1e-4, weight_decay=1e-4)

    def views(self) -> dict[str, View]:
        """Read the CMR view of the encoder."""
        return {"cmr": self.cmr_encoder.view(self.cohort)}

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make encoder and projector."""
        from benchmark.encoders import Encoders
        from methods.blocks.vit import projector

        encoder = self.cmr_encoder.build()
        return Encoders(cmr=encoder, contrast=projector(encoder.width, self.hidden, self.embedding))

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """NT-Xent between two augmentations, on validation too: identical views say nothing."""
        from methods.blocks.losses import nt_xent

        a, b = (
            encoders.contrast(encoders.cmr(self.cmr_augment(batch.cmr)).pooled) for _ in range(2)
        )
        return {"nt_xent": nt_xent(a, b, self.temperature)}

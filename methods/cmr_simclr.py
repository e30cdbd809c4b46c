"""SimCLR on CMR images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Recipe, Variant
from methods.blocks.augment import MMCL_CMR_AUGMENT, PTACL_CMR_AUGMENT, CMRAugment
from methods.blocks.backbones import PTACL_CMR, CMRViT
from methods.blocks.bases import MMCL_ADAM, CMRMethod
from methods.blocks.image_backbones import CMRResNet50, CMRViTB16
from methods.cmr_mae import CMRMAE

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class CMRSimCLR(CMRMethod):
    """Contrastive pretraining of the image encoder, as MMCL starts from it.

    Turgut et al. 2025, section IV-C1, after Chen et al. 2020: two augmented views of one person's
    images attract, all other views of the batch repel; the second view stays as it is with
    probability 1 - ``second_probability``. Settings are those of its code.

    On the cine it is a reference, as in PTACL (Selivanov et al. 2025, Table 2): what the images
    tell without labels and without any ECG. PTACL states none of its settings. Declared: MMCL's
    temperature and projector, the training and the augmentations of PTACL's masked autoencoder.

    Departures: the encoder sees the window around the heart that it will see in the alignment,
    there the whole image; the learning rate follows updates, there epochs, the first at 0. The
    harmonised track alone augments both views always and has AdamW.
    """

    paper: ClassVar[str] = "Turgut et al., Medical Image Analysis 101 (2025) 103451"
    variants: ClassVar[Mapping[str, Variant]] = {
        "cmr-simclr": Variant(
            {"cmr_encoder": PTACL_CMR},
            tracks=("harmonised",),
            role="reference",
            paper="Selivanov et al., MICCAI 2025",
        ),
        "cmr-simclr@ptacl": Variant(
            {
                "cmr_encoder": PTACL_CMR,
                "cmr_augment": PTACL_CMR_AUGMENT,
                "second_probability": 1.0,
                "recipe": CMRMAE().recipe,
            },
            tracks=("paper",),
            role="reference",
            protocol="ptacl-probe",
            paper="Selivanov et al., MICCAI 2025",
            summary="SimCLR on PTACL's cine encoder under a linear probe.",
        ),
    }
    kind: ClassVar[str] = "cmr-pretraining"

    cmr_encoder: CMRResNet50 | CMRViTB16 | CMRViT = CMRResNet50()
    cmr_augment: CMRAugment = MMCL_CMR_AUGMENT
    second_probability: float = 0.95
    temperature: float = 0.1
    hidden: int = 2048
    embedding: int = 256
    recipe: Recipe = MMCL_ADAM.replace(epochs=500, learning_rate=1e-4)

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
            encoders.contrast(encoders.cmr(augment(batch.cmr)).pooled)
            for augment in (
                self.cmr_augment.replace(probability=1.0),
                self.cmr_augment.replace(probability=self.second_probability),
            )
        )
        return {"nt_xent": nt_xent(a, b, self.temperature)}

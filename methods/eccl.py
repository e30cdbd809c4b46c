"""ECG contrastive learning guided by CMR labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from benchmark.api import Batch, Recipe, Variant
from benchmark.stage import Stage
from methods.blocks.augment import ECCL_CMR_AUGMENT, ECCL_ECG_AUGMENT, CMRAugment, ECGAugment
from methods.blocks.backbones import CMRViT, ECGViT
from methods.blocks.bases import ECCL_ECG, LearnsTask, TwoTower, scaled_rate
from methods.blocks.image_backbones import CMRFramesViT, CMRResNet50, CMRSwinT, FramesNetwork
from methods.cmr_labelled import CMRLabelled
from methods.mae import MAE

if TYPE_CHECKING:
    import torch
    from torch import nn

    from benchmark.encoders import Encoders

RESNET = CMRResNet50(frames=50, size=80, resize=224, centred=True)
VIT = CMRFramesViT()


@dataclass(frozen=True, kw_only=True)
class ECCL(LearnsTask, TwoTower):
    """Pull the ECG towards a frozen CMR encoder trained on labels, and learn the labels too.

    Ding et al., MICCAI 2024: L = L_CL + ``task_weight`` L_task, where L_CL is the symmetric CLIP
    loss at temperature 0.1 (equations 1-3) of one linear layer on each encoder, and L_task the
    squared error of z-scored phenotypes or the cross-entropy of a disease. The ECG encoder, read
    from its class token, starts from masked data modelling. Label-using: the targets of the task
    enter here and in the CMR encoder, from the label fraction alone; every training pair is
    aligned, labelled or not.

    ``alignment`` "triplet" is the ablation whose pairs within the margin of being told apart repel
    (semi-hard; hard ones where there are none), Euclidean, from ECG to CMR. Margin, dropout, batch,
    rates and decay are the published code's, with its AdamW and 400 epochs where the text has Adam
    and 200.

    Departures: the frozen CMR encoder is in evaluation mode, where the published code leaves
    dropout and drop path on; the round is chosen by the validation loss, there by correlation or
    AUROC with a tolerance of 0.015; the learning rate does not start again with every chunk of
    negatives; who lacks some phenotypes learns the others, there is left out. The harmonised track
    alone: its transformers on its cine and ECG, pooled over patches; its augmentations, there
    rotations, crops and flips; its projectors; all targets of a task in one model under a weighted
    loss, there 82 phenotypes or one disease with its negatives passed in chunks; its heads, there
    the model itself predicts.
    """

    paper: ClassVar[str] = "Ding et al., MICCAI 2024"
    variants: ClassVar[Mapping[str, Variant]] = {
        "eccl": Variant(protocol="eccl"),
        "eccl-wo-ssl": Variant(
            {"ecg": None},
            summary="ECCL without masked data modelling: a random ECG encoder is aligned.",
            protocol="eccl",
        ),
        "eccl-triplet": Variant(
            {"alignment": "triplet"},
            summary="ECCL with a triplet loss in place of the CLIP loss.",
            protocol="eccl",
        ),
        "eccl-resnet50": Variant(
            {"cmr": CMRLabelled(cmr_encoder=RESNET), "cmr_encoder": RESNET},
            tracks=("paper",),
            summary="ECCL towards a ResNet50.",
            protocol="eccl",
        ),
        "eccl-vit": Variant(
            {"cmr": CMRLabelled(cmr_encoder=VIT), "cmr_encoder": VIT},
            tracks=("paper",),
            summary="ECCL towards a vision transformer.",
            protocol="eccl",
        ),
        "eccl-wo-task-loss": Variant(
            {"task_weight": 0.0},
            tracks=("harmonised",),
            role="control",
            summary="ECCL without learning the labels itself: what the guidance alone brings.",
        ),
    }

    unlabelled: ClassVar[bool] = True

    ecg: Stage | None = MAE.named("mae@eccl")
    cmr: Stage = CMRLabelled()
    ecg_encoder: ECGViT = ECCL_ECG.replace(positions="trained", dropout=0.1)
    ecg_augment: ECGAugment = ECCL_ECG_AUGMENT
    cmr_encoder: FramesNetwork | CMRViT = CMRSwinT()
    cmr_augment: CMRAugment = ECCL_CMR_AUGMENT
    alignment: Literal["clip", "triplet"] = "clip"
    temperature: float = 0.1
    margin: float = 2.5
    task_weight: float = 1.0
    hidden: int = 0
    embedding: int = 256
    recipe: Recipe = Recipe(
        epochs=400,
        batch_size=32,
        learning_rate=scaled_rate(1e-5, 32),
        weight_decay=0.05,
        patience=10,
        balance="chunks",
    )

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make both encoders, their projectors and the output layer on the ECG's features."""
        encoders = super().build(shapes)
        if self.task_weight:
            encoders.output = self.output(encoders.ecg.width)
        return encoders

    def frozen(self, encoders: Encoders) -> list[nn.Module]:
        """Keep the CMR encoder as its labels made it."""
        return [encoders.cmr]

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Alignment, plus the labels from the ECG's features."""
        from methods.blocks.losses import clip_loss, triplet_loss

        features = encoders.ecg(self.ecg_input(batch)).pooled
        ecg = encoders.project_ecg(features)
        cmr = encoders.project_cmr(encoders.cmr(self.cmr_input(batch)).pooled)
        if self.alignment == "triplet":
            terms = {"triplet": triplet_loss(ecg, cmr, self.margin)}
        else:
            terms = {"clip": clip_loss(ecg, cmr, self.temperature)}
        if self.task_weight:
            terms["task"] = self.task_weight * encoders.output.loss(features, batch.labels)
        return terms

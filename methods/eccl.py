"""ECG contrastive learning guided by CMR labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from benchmark.api import Batch, Recipe, Task, TrainingPeople, Variant
from benchmark.stage import UNSET, Stage
from methods.blocks.backbones import ECGViT
from methods.blocks.bases import TwoTower
from methods.cmr_labelled import CMRLabelled
from methods.mae import MAE

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn

    from benchmark.encoders import Encoders

ECCL_ECG = ECGViT(width=768, depth=12, heads=12, seconds=10.0)


@dataclass(frozen=True, kw_only=True)
class ECCL(TwoTower):
    """Pull the ECG towards a frozen CMR encoder trained on labels, and learn the labels too.

    Ding et al., MICCAI 2024: L = L_CL + ``task_weight`` L_task, where L_CL is the symmetric CLIP
    loss at temperature 0.1 and L_task the squared error of z-scored phenotypes or the
    cross-entropy of a disease. The ECG encoder starts from masked data modelling. Label-using: the
    targets of the task enter here and in the CMR encoder, from the label fraction alone; every
    training pair is aligned, labelled or not.

    ``alignment`` "triplet" is the ablation whose pairs within the margin of being told apart repel
    (semi-hard; hard ones where there are none), Euclidean, from ECG to CMR.

    Departures: the CMR encoder is the track's transformer on the track's cine, there Swin-T on 50
    frames as channels; frozen, it is kept in evaluation mode, where the published code leaves its
    dropout on; the ECG is pooled over patches, there read from a class token, and augmented by the
    track's list, there by flips; one model learns all targets of a task together under a weighted
    loss, there 82 phenotypes or one disease with its negatives passed in chunks; projections are
    the track's, there one linear layer each; the features go to the harness's heads, there the
    model itself predicts.
    """

    paper: ClassVar[str] = "Ding et al., MICCAI 2024"
    variants: ClassVar[Mapping[str, Variant]] = {
        "eccl": Variant(tracks=("harmonised",)),
        "eccl-wo-ssl": Variant(
            {"ecg": None},
            tracks=("harmonised",),
            summary="ECCL without masked data modelling: a random ECG encoder is aligned.",
        ),
        "eccl-triplet": Variant(
            {"alignment": "triplet"},
            tracks=("harmonised",),
            summary="ECCL with a triplet loss in place of the CLIP loss.",
        ),
        "eccl-wo-task-loss": Variant(
            {"task_weight": 0.0},
            tracks=("harmonised",),
            role="control",
            summary="ECCL without learning the labels itself: what the guidance alone brings.",
        ),
    }

    unlabelled: ClassVar[bool] = True

    task: Task = UNSET
    fraction: float = UNSET
    ecg: Stage | None = MAE(ecg_encoder=ECCL_ECG)
    cmr: Stage = CMRLabelled()
    ecg_encoder: ECGViT = ECCL_ECG
    alignment: Literal["clip", "triplet"] = "clip"
    temperature: float = 0.1
    margin: float = 2.5
    task_weight: float = 1.0
    hidden: int = 512
    embedding: int = 256
    recipe: Recipe = Recipe(epochs=200, batch_size=32, learning_rate=8e-5)

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make both encoders, their projectors and the output layer on the ECG's features."""
        from benchmark.engine.supervision import Supervision

        encoders = super().build(shapes)
        if self.task_weight:
            targets, classify = len(self.task.names), self.task.kind == "classification"
            encoders.output = Supervision(encoders.ecg.width, targets, classify)
        return encoders

    def initial_weights(self) -> dict[str, Stage]:
        """Start from masked data modelling (ECG) and the labelled encoder (CMR)."""
        return {"cmr": self.cmr} if self.ecg is None else {"ecg": self.ecg, "cmr": self.cmr}

    def frozen(self, encoders: Encoders) -> list[nn.Module]:
        """Keep the CMR encoder as its labels made it."""
        return [encoders.cmr]

    def labels(self, cohort: Any) -> pd.DataFrame:
        """Learn the task's targets."""
        return self.task.targets(cohort)

    def fit(self, encoders: Encoders, people: TrainingPeople) -> None:
        """Weigh positives by their share among the labelled people."""
        if self.task_weight:
            encoders.output.fit(people.labels)

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

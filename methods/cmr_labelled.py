"""A CMR encoder trained on labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.api import Batch, Method, Recipe, Task, TrainingPeople, View
from benchmark.stage import UNSET
from methods.blocks.augment import CMRAugment
from methods.blocks.backbones import CMRViT

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class CMRLabelled(Method):
    """The CMR encoder trained on the targets of the task, as ECCL starts from it.

    Ding et al., MICCAI 2024, section 2: the encoder that guides the ECG later on learns first what
    the images say about the very labels. Only the training people inside the label fraction enter.
    """

    paper: ClassVar[str] = "Ding et al., MICCAI 2024"
    kind: ClassVar[str] = "cmr-pretraining"

    task: Task = UNSET
    fraction: float = UNSET
    cmr_encoder: CMRViT = CMRViT()
    cmr_augment: CMRAugment = CMRAugment()
    recipe: Recipe = Recipe(epochs=200, batch_size=128, learning_rate=3.2e-5)

    def views(self) -> dict[str, View]:
        """Read the CMR view of the encoder."""
        return {"cmr": self.cmr_encoder.view(self.cohort)}

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make encoder and output layer."""
        from benchmark.encoders import Encoders
        from benchmark.engine.supervision import Supervision

        encoder, task = self.cmr_encoder.build(), self.task
        targets, classify = len(task.names), task.kind == "classification"
        return Encoders(cmr=encoder, output=Supervision(encoder.width, targets, classify))

    def labels(self, cohort: Any) -> pd.DataFrame:
        """Learn the task's targets."""
        return self.task.targets(cohort)

    def fit(self, encoders: Encoders, people: TrainingPeople) -> None:
        """Weigh positives by their share among the labelled people."""
        encoders.output.fit(people.labels)

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Cross-entropy or squared error over the observed targets."""
        x = self.cmr_augment(batch.cmr) if batch.training else batch.cmr
        return {"supervised": encoders.output.loss(encoders.cmr(x).pooled, batch.labels)}

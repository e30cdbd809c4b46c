"""The ``finetune`` head: the whole encoder trained on the task's labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.api import Batch, Context, Method, Predictions, Task, Trainable, View
from benchmark.cohorts.cohort import CohortData
from benchmark.evaluation.heads import record_fit, save_predictions, test_predictions
from benchmark.stage import UNSET, Stage

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders, Features


@dataclass(frozen=True, kw_only=True)
class FineTune(Trainable):
    """Encoder, pooling and a linear layer, trained together on all targets of a task.

    Pooling of a transformer as MMCL's (Turgut et al. 2025): one multi-head attention whose query is
    the mean patch token and whose keys and values are the patch tokens, then a layer norm. An
    encoder without tokens is pooled already. Loss: class-weighted cross-entropy, or mean squared
    error of z-scored targets; missing targets are left out. The round with the best validation loss
    is kept.
    """

    method: Method = UNSET
    modality: str = UNSET
    task: Task = UNSET
    fraction: float = UNSET

    @property
    def label(self) -> str:
        """Say what is fine-tuned on what."""
        return f"FineTune of {self.method.label} on {self.task.name} {self.fraction:g}"

    def views(self) -> dict[str, View]:
        """Read what the method's encoder reads."""
        return {self.modality: self.method.views()[self.modality]}

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make the method's encoder with pooling and an output per target."""
        from benchmark.encoders import Encoders

        encoder = getattr(self.method.build(shapes), self.modality)
        output = _output(encoder, self.task)
        return Encoders(**{self.modality: encoder}, output=output)

    def initial_weights(self) -> dict[str, Stage]:
        """Start from the method's encoder."""
        return {self.modality: self.method}

    def labels(self, cohort: Any) -> Any:
        """Train on the task's targets."""
        return self.task.targets(cohort)

    def fit(self, encoders: Encoders, people: Any) -> None:
        """Weigh positives by their share among the labelled people."""
        encoders.output.supervision.fit(people.labels)

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Cross-entropy or squared error over the observed targets."""
        x = getattr(self.method, f"{self.modality}_input")(batch)
        pooled = encoders.output.pool(getattr(encoders, self.modality)(x))
        return {"supervised": encoders.output.supervision.loss(pooled, batch.labels)}

    def predictions(self, folder: Path, cohort: CohortData) -> Predictions:
        """Return targets and predictions of the test people."""
        return test_predictions(self.task, folder, cohort)

    def run(self, context: Context) -> None:
        """Train, then predict validation and test from the reloaded best round."""
        import json

        import torch

        from benchmark.engine.training import as_input, load_encoders, open_view

        context.train(self)
        encoders = load_encoders(self, context.out).to(context.device)
        cohort = CohortData(context.open(self.cohort))
        view = self.views()[self.modality]
        encoder = getattr(encoders, self.modality)
        array = open_view(view, context)
        scaling = json.loads((context.out / "history.json").read_text())

        def predict(rows: np.ndarray) -> np.ndarray:
            out = []
            with torch.inference_mode():
                for start in range(0, len(rows), 256):
                    x = as_input(array[rows[start : start + 256]]).to(context.device)
                    pooled = [
                        encoders.output.pool(encoder(x[..., crop]))
                        for crop in view.crops() or (slice(None),)
                    ]
                    mean = torch.stack(pooled).mean(0)
                    out.append(encoders.output.supervision(mean).cpu().numpy())
            values = np.concatenate(out).astype(np.float64)
            return values * scaling["deviation"] + scaling["mean"]

        save_predictions(context, predict(cohort.rows("validation")), predict(cohort.rows("test")))
        record_fit(context, self.task.targets(cohort), cohort.labelled(self.seed, self.fraction))


def _output(encoder: torch.nn.Module, task: Task) -> torch.nn.Module:
    from torch import nn

    from benchmark.engine.supervision import Supervision

    width, attend = encoder.width, hasattr(encoder, "tokens")

    class Output(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if attend:
                self.attention = nn.MultiheadAttention(width, max(1, width // 64), batch_first=True)
                self.norm = nn.LayerNorm(width)
            targets = len(task.names)
            self.supervision = Supervision(width, targets, task.kind == "classification")

        def pool(self, features: Features) -> torch.Tensor:
            if not attend:
                return features.pooled
            query = features.tokens.mean(1, keepdim=True)
            pooled, _ = self.attention(query, features.tokens, features.tokens, need_weights=False)
            return self.norm(pooled[:, 0])

    return Output()

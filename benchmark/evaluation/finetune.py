"""The ``finetune`` head: the whole encoder trained on the task's labels."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmark.api import Batch, Context, Method, Predictions, Task, Trainable, View
from benchmark.cohorts.cohort import CohortData
from benchmark.evaluation.heads import (
    record_fit,
    save_predictions,
    static_sample,
    test_predictions,
)
from benchmark.stage import UNSET, Stage

if TYPE_CHECKING:
    import torch
    from torch import nn

    from benchmark.encoders import Encoders, Features

PREDICTION_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class FineTune(Trainable):
    """Encoder, pooling and a linear layer, trained together on all targets of a task.

    The default pooling of a transformer is MMCL's (Turgut et al. 2025, section IV-C): one
    multi-head attention whose query is the mean patch token and whose keys and values are the patch
    tokens, then a layer norm. With ``pooling`` "features", and where an encoder has no tokens, the
    encoder's own pooled features are read. Loss: class-weighted cross-entropy, or mean squared
    error of z-scored targets. The round with the best validation loss is kept.

    ``layer_decay`` lowers the learning rate of a transformer by this factor from one block to the
    one before it, down to the embedding (Bao et al., BEiT, ICLR 2022); ``smoothing`` spreads a
    share of each label over both classes; ``drop_path`` replaces the transformer's own (None).

    Departures from MMCL's published code: missing targets are left out, there they count as
    predicted without error; the round is chosen by the validation loss, the classes balanced, there
    by AUROC and by RMSE or correlation with a tolerance; the norm after pooling is applied once,
    there twice; one logit per disease stands for a softmax of two.
    """

    method: Method = UNSET
    modality: str = UNSET
    task: Task = UNSET
    fraction: float = UNSET
    pooling: Literal["attention", "features"] = "attention"
    layer_decay: float = 1.0
    smoothing: float = 0.0
    drop_path: float | None = None

    @property
    def label(self) -> str:
        """Say what is fine-tuned on what."""
        return f"FineTune of {self.method.label} on {self.task.label} {self.fraction:g}"

    @property
    def group(self) -> str:
        """List those of one method and task together."""
        return f"FineTune of {self.method.group} on {self.task.name}"

    def views(self) -> dict[str, View]:
        """Read what the method's encoder reads."""
        return {self.modality: self.method.finetuned().views()[self.modality]}

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make the method's encoder with pooling and an output per target."""
        from benchmark.encoders import Encoders
        from benchmark.engine.supervision import Supervision

        encoder = getattr(self.method.finetuned().build(shapes), self.modality)
        if self.drop_path is not None and hasattr(encoder, "set_drop_path"):
            encoder.set_drop_path(self.drop_path)
        pooling = _pooling(encoder, self.pooling == "attention" and hasattr(encoder, "tokens"))
        supervision = Supervision(
            encoder.width,
            len(self.task.names),
            self.task.kind == "classification",
            smoothing=self.smoothing,
            balanced=bool(self.recipe.balance),
        )
        return Encoders(**{self.modality: encoder}, pooling=pooling, supervision=supervision)

    def initial_weights(self) -> dict[str, Stage]:
        """Start from the method's encoder."""
        return {self.modality: self.method}

    def frozen(self, encoders: Encoders) -> list[nn.Module]:
        """Leave out the norm of the encoder's own pooling, where attention takes its place."""
        own = getattr(getattr(encoders, self.modality), "pool_norm", None)
        return [own] if own is not None and self.pooling == "attention" else []

    def parameter_groups(self, encoders: Encoders) -> list[dict[str, Any]] | None:
        """Learn the slower the further a transformer's layer is from the output."""
        encoder = getattr(encoders, self.modality)
        if self.layer_decay == 1 or not hasattr(encoder, "first_layers"):
            return None
        from benchmark.engine.training import decay_groups

        layers = encoder.first_layers(len(encoder.blocks))
        below = {
            id(parameter): len(layers) - place
            for place, layer in enumerate(layers)
            for parameter in layer.parameters()
        }
        levels = defaultdict(list)
        for parameter in encoders.parameters():
            levels[below.get(id(parameter), 0)].append(parameter)
        return [
            {**group, "lr": self.recipe.learning_rate * self.layer_decay**level}
            for level, parameters in levels.items()
            for group in decay_groups(parameters, self.recipe)
        ]

    def labels(self, cohort: Any) -> Any:
        """Train on the task's targets."""
        return self.task.targets(cohort)

    def fit(self, encoders: Encoders, people: Any) -> None:
        """Weigh positives by their share among the labelled people."""
        encoders.supervision.fit(people.labels)

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Cross-entropy or squared error over the observed targets."""
        x = getattr(self.method.finetuned(), f"{self.modality}_input")(batch)
        pooled = encoders.pooling(getattr(encoders, self.modality)(x))
        return {"supervised": encoders.supervision.loss(pooled, batch.labels)}

    def predictions(self, folder: Path, cohort: CohortData) -> Predictions:
        """Return targets and predictions of the test people."""
        return test_predictions(self.task, folder, cohort)

    def run(self, context: Context) -> None:
        """Train, then predict validation and test from the reloaded best round."""
        from benchmark.engine.training import load_encoders

        context.train(self)
        encoders = load_encoders(self, context.out).to(context.device)
        encoder = getattr(encoders, self.modality)
        save_network_predictions(
            context,
            self,
            view=self.views()[self.modality],
            pooled=lambda x: encoders.pooling(encoder(x)),
            output=encoders.supervision,
            history=context.out / "history.json",
            balance=self.recipe.balance,
        )


def save_network_predictions(
    context: Context,
    head: Any,
    *,
    view: View,
    pooled: Callable[[torch.Tensor], torch.Tensor],
    output: Callable[[torch.Tensor], torch.Tensor],
    history: Path,
    balance: str,
) -> None:
    """Predict validation and test people, in the targets' units, and leave what a head leaves.

    A long signal is pooled window by window and ``output`` reads the windows' mean; ``history``
    tells what the labels were z-scored with and which they were, ``balance`` of whom a disease was
    learned.
    """
    import torch

    from benchmark.engine.batches import as_input, open_view

    cohort = CohortData(context.open(head.cohort))
    array = open_view(view, context)
    learned = json.loads(history.read_text())
    columns = [learned["targets"].index(name) for name in head.task.names]

    def predict(rows: np.ndarray) -> np.ndarray:
        out = []
        with torch.inference_mode():
            for start in range(0, len(rows), PREDICTION_BATCH):
                x = as_input(array[rows[start : start + PREDICTION_BATCH]], context.device)
                windows = [pooled(x[..., crop]) for crop in view.crops() or (slice(None),)]
                out.append(output(torch.stack(windows).mean(0)).cpu().numpy())
        values = np.concatenate(out).astype(np.float64)
        return (values * learned["deviation"] + learned["mean"])[:, columns]

    save_predictions(context, predict(cohort.rows("validation")), predict(cohort.rows("test")))
    table, labelled = head.task.targets(cohort), cohort.labelled(head.seed, head.fraction)
    if balance == "static" and head.task.kind == "classification":
        table = static_sample(table, labelled, cohort)
    record_fit(context, table, labelled, head.method)


def _pooling(encoder: nn.Module, attend: bool) -> nn.Module:
    from torch import nn

    class Pooling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if attend:
                width = encoder.width
                self.attention = nn.MultiheadAttention(width, max(1, width // 64), batch_first=True)
                self.norm = nn.LayerNorm(width)

        def forward(self, features: Features) -> torch.Tensor:
            if not attend:
                return features.pooled
            query = features.tokens.mean(1, keepdim=True)
            pooled, _ = self.attention(query, features.tokens, features.tokens, need_weights=False)
            return self.norm(pooled[:, 0])

    return Pooling()

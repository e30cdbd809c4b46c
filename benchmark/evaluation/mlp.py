"""The ``mlp`` head: a small network per target, all of them trained at once."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchmark.api import Context
from benchmark.evaluation.heads import Head

if TYPE_CHECKING:
    import torch

ROWS_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class MLPHead(Head):
    """D - D/2 - GELU - D/4 - GELU - 1 for each target, on z-scored frozen features.

    Alvarez-Florez et al., SPIE Medical Imaging 2026: AdamW, cross-entropy for diseases (a positive
    weighs as much as the negatives per positive, if ``balance`` has not seen to that) or squared
    error of z-scored values. A target's epoch is once through the people who have it, less what
    does not fill a batch; after each one its validation loss is read, the best epoch is kept, and
    training ends ``patience`` epochs later. Also leaves ``epochs.json``, the best epochs.

    No two targets share a weight, a batch or a draw, so that a target's network is the same
    whatever it is trained beside. Unstated in the paper: at most ``epochs`` epochs, batches of 64,
    and betas as in its other stages; a constant rate.

    Departures from the published code: the best epoch predicts, there the last; the encoder's
    drop path is off; features are z-scored; validation keeps its prevalence, positives weighing
    more.
    """

    threads: ClassVar[int] = 2
    on_device: ClassVar[bool] = True

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.005
    patience: int = 15

    def rehearsal(self) -> dict[str, Any]:
        """Train for two epochs."""
        return {"epochs": 2}

    def fit(self, context: Context, x, y, x_validation, y_validation) -> Any:
        """Fit all targets that can be fitted; the others are predicted as zero."""
        classify = self.task.kind == "classification"
        values = [np.unique(column[np.isfinite(column)]) for column in y.T]
        columns = [t for t, found in enumerate(values) if len(found) > 1]
        if not columns:
            return lambda features: np.zeros((len(features), y.shape[1]))
        y, y_validation = y[:, columns], y_validation[:, columns]
        mean, deviation = np.nanmean(y, axis=0), np.nanstd(y, axis=0)
        if classify:
            mean, deviation = np.zeros_like(mean), np.ones_like(mean)
        names = [self.task.names[column] for column in columns]
        key = f"{self.embedding.digest}/{self.modality}/{self.fraction:g}/{self.seed}"
        predict, best = train_each(
            self,
            (x, (y - mean) / deviation),
            (x_validation, (y_validation - mean) / deviation),
            keys=[f"{key}/{name}" for name in names],
            classify=classify,
            device=context.device,
            progress=lambda done: context.progress(done, self.epochs, "epochs"),
        )
        (context.out / "epochs.json").write_text(json.dumps(dict(zip(names, best, strict=True))))

        def predicted(features: np.ndarray) -> np.ndarray:
            out = np.zeros((len(features), len(self.task.names)))
            out[:, columns] = predict(features) * deviation + mean
            return out

        return predicted


def train_each(
    settings: MLPHead,
    training: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    *,
    keys: list[str],
    classify: bool,
    device: str,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Callable[[np.ndarray], np.ndarray], list[int]]:
    """Train one network per target on (people, width) and (people, targets), NaN where missing.

    Targets differ in their people and so in the length of their epochs: each goes through its own,
    and they only share the matrix products of a step. A target's ``keys`` entry seeds it. Nothing
    but its people makes a target: the same one in several label fractions is several columns, and
    several embeddings are stacked as more people, whom the columns of the others do not have.

    Returns
    -------
    predict
        From (people, width) to (people, targets).
    epochs
        The best epoch of each target, from 1.

    Raises
    ------
    NonFiniteLossError
        When a validation loss is not finite.
    """
    import torch
    from torch.optim.adamw import adamw

    from benchmark.engine.training import NonFiniteLossError

    learned, judged = (_Examples(*split, classify, device) for split in (training, validation))
    people = [np.flatnonzero(np.isfinite(column)) for column in training[1].T]
    size = np.array([min(settings.batch_size, len(own)) for own in people])
    steps = np.array([len(own) for own in people]) // size
    # An epoch's batches (targets, steps, batch), filled up with nobody.
    batches = np.full((len(keys), steps.max(), size.max()), learned.nobody)
    seen = [np.flatnonzero(np.isfinite(column)) for column in validation[1].T]
    watched = np.full((len(keys), max(map(len, seen))), judged.nobody)
    for t, own in enumerate(seen):
        watched[t, : len(own)] = own

    def shuffle(t: int, epoch: int) -> None:
        order = _shuffled(keys[t], epoch, people[t])[: steps[t] * size[t]]
        batches[t, : steps[t], : size[t]] = order.reshape(steps[t], size[t])

    layers = [layer.to(device).requires_grad_() for layer in _fresh(training[0].shape[1], keys)]
    moments = [[torch.zeros_like(layer) for layer in layers] for _ in range(2)]
    taken = [torch.zeros((), device=device) for _ in layers]
    best = [layer.detach().clone() for layer in layers]
    least, best_epoch, epoch = [math.inf] * len(keys), [0] * len(keys), [0] * len(keys)
    active = np.arange(len(keys))
    for t in active:
        shuffle(t, 0)
    for step in itertools.count(1):
        rows = batches[active, (step - 1) % steps[active]]
        gradients = torch.autograd.grad(learned.losses(layers, active, rows).sum(), layers)
        with torch.no_grad():
            # What AdamW's class checks around each step takes longer than the step.
            adamw(
                layers,
                list(gradients),
                *moments,
                [],
                taken,
                fused=True,
                amsgrad=False,
                maximize=False,
                beta1=0.9,
                beta2=0.95,
                eps=1e-8,
                lr=settings.learning_rate,
                weight_decay=settings.weight_decay,
            )

        due = np.flatnonzero(step % steps[active] == 0)
        if not len(due):
            continue
        ended = active[due]
        with torch.no_grad():
            losses = judged.losses([layer[due] for layer in layers], ended, watched[ended])
        stopped = []
        for place, t, loss in zip(due, ended, losses.tolist(), strict=True):
            if not math.isfinite(loss):
                raise NonFiniteLossError(f"the validation loss of {keys[t]} is {loss}")
            epoch[t] += 1
            if loss < least[t]:
                least[t], best_epoch[t] = loss, epoch[t]
                for kept, layer in zip(best, layers, strict=True):
                    kept[t] = layer.detach()[place]
            if epoch[t] == settings.epochs or epoch[t] - best_epoch[t] >= settings.patience:
                stopped.append(place)
            shuffle(t, epoch[t])
        progress(min(epoch[t] for t in active))
        if stopped:
            left = np.delete(np.arange(len(active)), stopped)
            active = active[left]
            if not len(active):
                break
            layers = [layer.detach()[left].requires_grad_() for layer in layers]
            moments = [[own[left] for own in each] for each in moments]

    def predict(features: np.ndarray) -> np.ndarray:
        everybody = torch.arange(len(features), device=device).expand(len(keys), -1)
        with torch.no_grad():
            output = _forward(best, torch.from_numpy(features).float().to(device), everybody)
        return output.T.cpu().numpy().astype(np.float64)

    return predict, best_epoch


class _Examples:
    """Features, and each target's labels and weights, of the people of a split; one is nobody."""

    def __init__(self, x: np.ndarray, y: np.ndarray, classify: bool, device: str) -> None:
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

        weight, label = np.isfinite(y.T).astype(np.float32), np.nan_to_num(y.T)
        if classify:
            positives = label.sum(1, keepdims=True)
            negatives = weight.sum(1, keepdims=True) - positives
            weight *= 1 + label * ((negatives / positives.clip(1)).clip(1, 100) - 1)
        # Who is nobody counts nothing, whichever target has one in a batch.
        self.nobody = len(x)
        self.x, self.label, self.weight = (
            torch.from_numpy(np.pad(a, pad)).float().to(device)
            for a, pad in (
                (x, ((0, 1), (0, 0))),
                (label, ((0, 0), (0, 1))),
                (weight, ((0, 0), (0, 1))),
            )
        )
        self.error = binary_cross_entropy_with_logits if classify else mse_loss

    def losses(
        self, layers: list[torch.Tensor], targets: np.ndarray, rows: np.ndarray
    ) -> torch.Tensor:
        """Return each target's mean error over its people, rows (targets, people)."""
        import torch

        rows, which = (torch.from_numpy(a).to(self.x.device) for a in (rows, targets[:, None]))
        label, weight = self.label[which, rows], self.weight[which, rows]
        each = self.error(_forward(layers, self.x, rows), label, reduction="none") * weight
        return each.sum(1) / weight.sum(1).clamp(min=1)


def _fresh(width: int, keys: list[str]) -> list[torch.Tensor]:
    """Return stacked weights (targets, in, out) and biases, drawn as torch's linear layers are."""
    import torch

    sizes = (width, max(1, width // 2), max(1, width // 4), 1)
    layers: list[list[np.ndarray]] = []
    for key in keys:
        rng, own = np.random.default_rng(list(f"{key}/weights".encode())), []
        for into, out in itertools.pairwise(sizes):
            bound = 1 / math.sqrt(into)
            own += [rng.uniform(-bound, bound, shape) for shape in ((into, out), (1, out))]
        layers.append(own)
    return [torch.from_numpy(np.stack(same)).float() for same in zip(*layers, strict=True)]


def _forward(layers: list[torch.Tensor], x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Map the rows (targets, people) of x (everybody, width) to (targets, people), in blocks."""
    import torch
    from torch.nn.functional import embedding, gelu

    *hidden, last, level = layers
    blocks = []
    for some in rows.split(ROWS_AT_ONCE, dim=1):
        z = embedding(some, x)  # a gather, several times faster than by index
        for weight, bias in zip(hidden[0::2], hidden[1::2], strict=True):
            z = gelu(torch.baddbmm(bias, z, weight))
        blocks.append((z * last.mT).sum(-1) + level[..., 0])  # too thin for a matrix product
    return torch.cat(blocks, dim=1)


def _shuffled(key: str, epoch: int, people: np.ndarray) -> np.ndarray:
    return np.random.default_rng(list(f"{key}/{epoch}".encode())).permutation(people)

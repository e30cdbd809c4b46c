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

EVALUATED_AT_ONCE = 1024


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
    and they only share the matrix products of a step. A target's ``keys`` entry seeds it.

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

    from benchmark.engine.training import NonFiniteLossError

    x, x_validation = (torch.from_numpy(a).float().to(device) for a, _ in (training, validation))
    label, weight = (a.to(device) for a in _weighted(training[1], classify))
    judged, judged_weight = (a.to(device) for a in _weighted(validation[1], classify))
    people = [np.flatnonzero(np.isfinite(column)) for column in training[1].T]
    size = [min(settings.batch_size, len(own)) for own in people]
    steps = [len(own) // batch for own, batch in zip(people, size, strict=True)]

    layers = [layer.to(device).requires_grad_() for layer in _fresh(x.shape[1], keys)]
    rates = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    optimiser = torch.optim.AdamW(layers, betas=(0.9, 0.95), **rates)
    best = [layer.detach().clone() for layer in layers]
    least, best_epoch, epoch = [math.inf] * len(keys), [0] * len(keys), [0] * len(keys)
    order = [_shuffled(key, 0, own) for key, own in zip(keys, people, strict=True)]
    active = list(range(len(keys)))
    for step in itertools.count(1):
        chosen = np.zeros((len(active), max(size)), np.int64)
        counted = np.zeros((len(active), max(size)), np.float32)
        for place, t in enumerate(active):
            start = (step - 1) % steps[t] * size[t]
            chosen[place, : size[t]] = order[t][start : start + size[t]]
            counted[place, : size[t]] = 1
        rows, which = torch.from_numpy(chosen).to(device), torch.tensor(active)[:, None].to(device)
        mask = torch.from_numpy(counted).to(device)
        batch = label[which, rows], weight[which, rows] * mask
        optimiser.zero_grad(set_to_none=True)
        _loss(_forward(layers, x[rows]), *batch, classify).sum().backward()
        optimiser.step()

        due = [place for place, t in enumerate(active) if step % steps[t] == 0]
        if not due:
            continue
        with torch.no_grad():
            output = _everybody([layer[due] for layer in layers], x_validation)
        ended = [active[place] for place in due]
        losses = _loss(output, judged[ended], judged_weight[ended], classify).tolist()
        stopped = set()
        for place, t, loss in zip(due, ended, losses, strict=True):
            if not math.isfinite(loss):
                raise NonFiniteLossError(f"the validation loss of {keys[t]} is {loss}")
            epoch[t] += 1
            if loss < least[t]:
                least[t], best_epoch[t] = loss, epoch[t]
                for kept, layer in zip(best, layers, strict=True):
                    kept[t] = layer.detach()[place]
            if epoch[t] == settings.epochs or epoch[t] - best_epoch[t] >= settings.patience:
                stopped.add(place)
            order[t] = _shuffled(keys[t], epoch[t], people[t])
        progress(min(epoch[t] for t in active))
        if stopped:
            left = [place for place in range(len(active)) if place not in stopped]
            active = [active[place] for place in left]
            if not active:
                break
            _keep(left, layers, optimiser)

    def predict(features: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            output = _everybody(best, torch.from_numpy(features).float().to(device))
        return output.T.cpu().numpy().astype(np.float64)

    return predict, best_epoch


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


def _forward(layers: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Map (targets, people, width) to (targets, people)."""
    import torch
    from torch.nn.functional import gelu

    for weight, bias in zip(layers[0:-2:2], layers[1:-2:2], strict=True):
        x = gelu(torch.baddbmm(bias, x, weight))
    return torch.baddbmm(layers[-1], x, layers[-2])[..., 0]


def _everybody(layers: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Map the same people (people, width) through every target's network, in blocks."""
    import torch

    blocks = [block.expand(len(layers[0]), -1, -1) for block in x.split(EVALUATED_AT_ONCE)]
    return torch.cat([_forward(layers, block) for block in blocks], dim=1)


def _weighted(y: np.ndarray, classify: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return labels, 0 where missing, and how much each counts, both (targets, people)."""
    import torch

    weight, label = np.isfinite(y.T).astype(np.float32), np.nan_to_num(y.T)
    if classify:
        positives = label.sum(1, keepdims=True)
        negatives = weight.sum(1, keepdims=True) - positives
        weight *= 1 + label * ((negatives / positives.clip(1)).clip(1, 100) - 1)
    return torch.from_numpy(label).float(), torch.from_numpy(weight).float()


def _loss(
    output: torch.Tensor, label: torch.Tensor, weight: torch.Tensor, classify: bool
) -> torch.Tensor:
    """Return each target's mean error over its people."""
    from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

    error = binary_cross_entropy_with_logits if classify else mse_loss
    each = error(output, label, reduction="none") * weight
    return each.sum(1) / weight.sum(1).clamp(min=1)


def _keep(places: list[int], layers: list[torch.Tensor], optimiser: torch.optim.Optimizer) -> None:
    """Go on with some of the stacked networks and their moments."""
    for layer in layers:
        layer.data, layer.grad = layer.data[places], None
        state = optimiser.state[layer]
        state |= {name: state[name][places] for name in ("exp_avg", "exp_avg_sq")}


def _shuffled(key: str, epoch: int, people: np.ndarray) -> np.ndarray:
    return np.random.default_rng(list(f"{key}/{epoch}".encode())).permutation(people)

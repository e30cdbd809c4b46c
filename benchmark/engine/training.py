"""The training loop: the one place where weights change.

Lightning's Fabric brings devices, precision and gradient clipping; the loop itself is ours,
because its two promises are: a resumed run equals an undisturbed one bit for bit, and only
training people (validation people for selection) ever reach a method.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment
from safetensors.torch import load_file, save
from torch import nn

from benchmark.api import Batch, Context, Recipe, Trainable, UserError, View
from benchmark.cohorts.cohort import CohortData
from benchmark.cohorts.splits import balance_rank
from benchmark.encoders import Encoders
from benchmark.engine.balance import shown

if TYPE_CHECKING:
    from benchmark.engine.ranks import Assemble
    from benchmark.engine.split import Split

STATE = {"round", "weights", "optimiser", "history", "best", "best_loss"}
CHECKSUM = 32  # bytes in front of a checkpoint
VALIDATION_BATCH = 64  # fixed: a contrastive validation loss depends on it
REHEARSED = 4  # people for each device, on whom splitting a batch is tried
SPLIT_TOLERANCE = {"32-true": 1e-3, "bf16-mixed": 5e-2}


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite: the run is stopped before it wastes the budget."""


class _People:
    """The views of one set of people, memory-mapped, with their labels.

    ``parts`` are the groups that an epoch shows one after another.
    """

    def __init__(
        self,
        views: dict[str, np.ndarray],
        rows: np.ndarray,
        labels: np.ndarray | None,
        parts: list[np.ndarray] | None = None,
    ) -> None:
        self.views, self.rows, self.labels = views, rows, labels
        self.parts = [np.arange(len(rows))] if parts is None else parts

    def __len__(self) -> int:
        return len(self.rows)

    def view(self, name: str) -> np.ndarray:
        """Return (people, *shape); see `benchmark.api.TrainingPeople`."""
        return np.asarray(self.views[name][self.rows])

    def batch(self, chosen: np.ndarray, device: torch.device, **state: Any) -> Batch:
        rows = self.rows[chosen]
        views = {name: as_input(array[rows]).to(device) for name, array in self.views.items()}
        labels = None
        if self.labels is not None:
            labels = torch.from_numpy(self.labels[chosen]).float().to(device)
        return Batch(views, labels=labels, **state)


class _Objective(nn.Module):
    """Wraps the loss in a forward pass, so that Fabric can apply precision and strategy."""

    def __init__(self, trainable: Trainable, encoders: Encoders, split: Split | None) -> None:
        super().__init__()
        self.trainable, self.encoders = trainable, encoders
        self._split = split

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        parts = self.encoders if self._split is None else self._split.parts()
        return self.trainable.loss(parts, batch)


def as_input(values: np.ndarray) -> torch.Tensor:
    """Turn stored values into network input: uint8 images to [0, 1], float16 to float32."""
    x = torch.from_numpy(np.array(values))  # a copy: memory-mapped arrays are read-only
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()


def open_view(view: View, context: Context) -> np.ndarray:
    """Return the memory-mapped array (people, *shape) of a view."""
    return np.load(context.open(view) / "array.npy", mmap_mode="r")


def build(trainable: Trainable) -> Encoders:
    """Make the parts of a trainable with the fresh weights its digest fixes."""
    _reseed(trainable.digest, "build")
    return trainable.build({name: view.shape for name, view in trainable.views().items()})


def load_encoders(trainable: Trainable, folder: Path) -> Encoders:
    """Return the trained parts from a stage's artifact, in evaluation mode."""
    encoders = build(trainable)
    encoders.load_state_dict(load_file(folder / "weights.safetensors"))
    return encoders.eval()


def untrained_encoders(trainable: Trainable, context: Context) -> Encoders:
    """Return the parts as training starts with them: fresh, or of the stages it stands on."""
    encoders = build(trainable)
    for part, source in trainable.initial_weights().items():
        weights = load_file(context.open(source) / "weights.safetensors")
        own = {
            k.removeprefix(f"{part}."): v for k, v in weights.items() if k.startswith(f"{part}.")
        }
        encoders.get_submodule(part).load_state_dict(own)
    return encoders


def train(trainable: Trainable, context: Context, devices: int = 1) -> None:
    """Train and leave ``weights.safetensors`` (the round to keep) and ``history.json``.

    Parameters
    ----------
    devices
        How many devices of this machine share the work. The batch, what is drawn and the loss are
        those of one, the sums in another order. A method that cannot be split trains on one.

    Raises
    ------
    NonFiniteLossError
        When a training or validation loss is not finite.
    """
    if devices > 1:
        from benchmark.engine.ranks import Opening, together

        context = Opening(context)
    training, validation, scaling = _people(trainable, context)
    # A fraction without a label teaches nothing, which is no fault: heads count the same people and
    # call the cell not estimable.
    idle = scaling.get("labelled_people") == 0
    if not idle and not (len(training) and len(validation)):
        raise UserError(f"{trainable.label}: there are no training or no validation people")
    encoders = untrained_encoders(trainable, context)
    if not idle:
        trainable.fit(encoders, training)

    history: list[dict[str, float]] = []
    shared_by = 1
    best = {k: v.clone() for k, v in encoders.state_dict().items()}
    if trainable.trained and not idle:
        work, found = (trainable, encoders, training, validation, context), None
        if devices > 1:
            with together(trainable, context, devices, _assist) as assemble:
                found = _optimise_together(*work, assemble)
        shared_by = devices if found is not None else 1
        if found is None:
            # In a scheduler's job lightning would ask for that scheduler's own way to start it.
            one = {"devices": 1, "plugins": [LightningEnvironment()]}
            precision = trainable.recipe.precision
            fabric = Fabric(accelerator=context.device, precision=precision, **one)
            found = _optimise(*work, fabric)
        best, history = found
    _write(context.out / "weights.safetensors", save({k: v.contiguous() for k, v in best.items()}))
    record = {"history": history, "training_people": len(training), **scaling}
    if shared_by > 1:  # elsewhere files stay byte for byte what they were
        record["devices"] = shared_by
    _write(context.out / "history.json", json.dumps(record, indent=1).encode())


def _assist(trainable: Trainable, context: Context, assemble: Assemble) -> None:
    """Do in another process what `train` does, except writing."""
    training, validation, _ = _people(trainable, context)
    encoders = untrained_encoders(trainable, context)
    trainable.fit(encoders, training)
    _optimise_together(trainable, encoders, training, validation, context, assemble)


def _optimise_together(
    trainable: Trainable,
    encoders: Encoders,
    training: _People,
    validation: _People,
    context: Context,
    assemble: Assemble,
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]] | None:
    """Train on several devices, if that gives what one would."""
    from benchmark.engine.split import Split, disagreement

    fabric = assemble(True)
    order = _Order(trainable.digest, training.parts, trainable.recipe.batch_size)
    chosen = order.at(0)[: REHEARSED * fabric.world_size]
    frozen = trainable.frozen(encoders)
    for module in frozen:
        module.requires_grad_(False)

    def loss(parts: Any, in_training: bool, progress: float) -> dict[str, torch.Tensor]:
        encoders.train(in_training)
        for module in frozen:
            module.eval()
        _reseed(trainable.digest, "rehearsal")
        state = {"training": in_training, "progress": progress}
        with fabric.autocast():
            return trainable.loss(parts, training.batch(chosen, fabric.device, **state))

    split = Split(encoders.to(fabric.device), fabric.global_rank, fabric.world_size)
    problem = f"a batch has {len(chosen)} people"
    if len(chosen) >= fabric.world_size:
        problem = disagreement(split, loss, SPLIT_TOLERANCE[trainable.recipe.precision])
    if problem := fabric.broadcast(problem):
        if fabric.is_global_zero:
            text = f"{trainable.label} cannot be split and trains on one device: {problem}"
            warnings.warn(text, stacklevel=1)
        return None
    fabric = assemble(split.all_reached)
    return _optimise(trainable, encoders, training, validation, context, fabric, split)


def _optimise(
    trainable: Trainable,
    encoders: Encoders,
    training: _People,
    validation: _People,
    context: Context,
    fabric: Fabric,
    split: Split | None = None,
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    recipe = trainable.recipe
    order = _Order(trainable.digest, training.parts, recipe.batch_size)
    rounds, steps = recipe.steps(order.length)
    frozen = trainable.frozen(encoders)
    for module in frozen:
        module.requires_grad_(False)
    groups = trainable.parameter_groups(encoders) or decay_groups(encoders.parameters(), recipe)
    optimisers = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    optimiser = optimisers[recipe.optimiser](
        groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True, weight_decay=0.0
    )
    peak = [group["lr"] for group in optimiser.param_groups]
    objective, optimiser = fabric.setup(_Objective(trainable, encoders, split), optimiser)

    first, history, best, best_loss = 0, [], None, math.inf
    checkpoint = context.resume / "last.ckpt"
    if (state := _last_state(checkpoint, encoders, fabric.device)) is not None:
        encoders.load_state_dict(state["weights"])
        optimiser.load_state_dict(state["optimiser"])
        first, history = state["round"], state["history"]
        best, best_loss = state["best"], state["best_loss"]
        note = f"resumed after round {first} of {rounds}"
        context.progress(first * steps, rounds * steps, "updates", note)
    elif checkpoint.exists():
        note = "begun anew: the checkpoint that was left cannot be used"
        context.progress(0, rounds * steps, "updates", note)

    total = rounds * steps
    for current in range(first, rounds):
        if recipe.patience and _rounds_since_best(history) >= recipe.patience:
            break
        running = 0.0
        objective.train()
        for module in frozen:
            module.eval()
        for step in range(current * steps, (current + 1) * steps):
            factor = _schedule(step, total, recipe.warmup)
            for group, rate in zip(optimiser.param_groups, peak, strict=True):
                group["lr"] = rate * factor
            _reseed(trainable.digest, current, step)
            state = {"training": True, "progress": step / total}
            terms = objective(training.batch(order.at(step), fabric.device, **state))
            loss = sum(terms.values())
            value = loss.item()
            if not math.isfinite(value):
                raise NonFiniteLossError(f"the training loss is {value} at update {step}")
            optimiser.zero_grad(set_to_none=True)
            fabric.backward(loss)
            if recipe.clip_norm:
                fabric.clip_gradients(objective, optimiser, max_norm=recipe.clip_norm)
            optimiser.step()
            trainable.after_step(encoders, step / total)
            running += value
            context.progress(step + 1, total, "updates", f"loss {value:.3f}")
        # One process decides for all which round is the best.
        measured = fabric.broadcast(_validate(trainable, objective, validation, fabric.device))
        history.append({"training": running / steps, **measured})
        better = measured["validation"] < best_loss or best is None
        best_loss = min(best_loss, measured["validation"])
        if better or recipe.keep == "last":
            best = {k: v.detach().cpu().clone() for k, v in encoders.state_dict().items()}
        if not fabric.is_global_zero:
            continue
        state = {
            "round": current + 1,
            "weights": encoders.state_dict(),
            "optimiser": optimiser.state_dict(),
            "history": history,
            "best": best,
            "best_loss": best_loss,
        }
        buffer = io.BytesIO()
        # Into memory first: torch's own writer reports a full disk as a RuntimeError.
        torch.save(state, buffer)
        content = buffer.getbuffer()
        _write(checkpoint, hashlib.sha256(content).digest(), content)
    return best, history


def _last_state(
    checkpoint: Path, encoders: Encoders, device: torch.device
) -> dict[str, Any] | None:
    """Return what training goes on from; None without a checkpoint that can be used.

    torch reads a damaged checkpoint without a word in most cases, hence the checksum in front. One
    that another version has left may lack something, or hold other weights.
    """
    content = memoryview(checkpoint.read_bytes() if checkpoint.exists() else b"")
    checksum, saved = content[:CHECKSUM], content[CHECKSUM:]
    if hashlib.sha256(saved).digest() != checksum:
        return None
    state = torch.load(io.BytesIO(saved), map_location=device, weights_only=True)
    shapes = {name: value.shape for name, value in encoders.state_dict().items()}
    if {name: value.shape for name, value in state["weights"].items()} != shapes:
        return None
    return state if state.keys() == STATE else None


def _rounds_since_best(history: list[dict[str, float]]) -> int:
    losses = [entry["validation"] for entry in history]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def _validate(
    trainable: Trainable, objective: Callable, people: _People, device: torch.device
) -> dict[str, float]:
    """Mean over validation people of the loss and its terms, without augmentation."""
    objective.eval()
    sums: dict[str, float] = {"validation": 0.0}
    for number, start in enumerate(range(0, len(people), VALIDATION_BATCH)):
        chosen = np.arange(start, min(start + VALIDATION_BATCH, len(people)))
        # The same masks after every round, or rounds could not be compared.
        _reseed(trainable.digest, "validation", number)
        with torch.no_grad():
            terms = objective(people.batch(chosen, device, training=False, progress=1.0))
        for name, term in terms.items():
            share = term.item() * len(chosen) / len(people)
            sums["validation"] += share
            sums[f"validation_{name}"] = sums.get(f"validation_{name}", 0.0) + share
    if not math.isfinite(sums["validation"]):
        raise NonFiniteLossError(f"the validation loss is {sums['validation']}")
    return sums


def _people(trainable: Trainable, context: Context) -> tuple[_People, _People, dict[str, Any]]:
    """Open the views and hand out training and validation rows; test rows stay here.

    A stage with labels gets the training people whose label lies in its fraction, one that has use
    for the unlabelled (`Trainable.unlabelled`) the others too, their labels missing; numbers that
    are not 0/1 are z-scored with the labelled people's mean and SD.

    Raises
    ------
    UserError
        When no training person of the cohort has a label, whatever the fraction.
    """
    cohort = CohortData(context.open(trainable.cohort))
    views = {name: open_view(view, context) for name, view in trainable.views().items()}
    table = trainable.labels(cohort)
    validation = cohort.rows("validation")
    if table is None:
        return _People(views, cohort.rows("train"), None), _People(views, validation, None), {}
    values = table.to_numpy(np.float64)
    known = np.isfinite(values).any(axis=1)
    if not known[cohort.rows("train")].any():
        raise UserError(f"{trainable.label}: no training person of the cohort has a label")
    labelled = cohort.labelled(trainable.seed, trainable.fraction)
    labelled = labelled[known[labelled]]
    observed = values[labelled]
    binary = np.isin(observed[np.isfinite(observed)], (0, 1)).all()
    mean = np.zeros(values.shape[1]) if binary else np.nanmean(observed, axis=0)
    deviation = np.ones(values.shape[1]) if binary else np.nanstd(observed, axis=0)
    values = (values - mean) / np.maximum(deviation, 1e-12)
    if trainable.unlabelled:
        train = cohort.rows("train")
        values[np.setdiff1d(train, labelled)] = np.nan
    else:
        train = labelled
        validation = validation[known[validation]]
    scaling = {
        "labelled_people": len(labelled),
        "targets": list(table.columns),
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "positive_share": np.nanmean(observed, 0).tolist() if binary and len(observed) else None,
    }
    parts = None
    if trainable.recipe.balance and binary and len(labelled):
        if values.shape[1] > 1:
            raise UserError(f"{trainable.label}: the classes of one disease at a time are balanced")
        rank = balance_rank(cohort.hash_id.iloc[train])
        parts = shown(trainable.recipe.balance, values[train, 0], rank)
    return (
        _People(views, train, values[train], parts),
        _People(views, validation, values[validation]),
        scaling,
    )


class _Order:
    """Which people make up the batch of a step: one shuffle after another, without end.

    A shuffle keeps the ``parts`` of an epoch in their order and mixes the people of each.
    """

    def __init__(self, digest: str, parts: list[np.ndarray], batch_size: int) -> None:
        self.digest, self.parts = digest, parts
        self.length = sum(len(part) for part in parts)
        self.size = min(batch_size, self.length)
        self._shuffles: dict[int, np.ndarray] = {}

    def at(self, step: int) -> np.ndarray:
        place = np.arange(step * self.size, (step + 1) * self.size)
        passes, index = np.divmod(place, self.length)
        return np.array(
            [self._shuffle(p)[i] for p, i in zip(passes.tolist(), index.tolist(), strict=True)]
        )

    def _shuffle(self, number: int) -> np.ndarray:
        if number not in self._shuffles:
            self._shuffles = {n: s for n, s in self._shuffles.items() if n == number - 1}
            generator = np.random.default_rng(_seed(self.digest, "order", number))
            mixed = [part[generator.permutation(len(part))] for part in self.parts]
            self._shuffles[number] = np.concatenate(mixed)
        return self._shuffles[number]


def _schedule(step: int, total: int, warmup: float) -> float:
    """Linear warm-up, then half a cosine to zero."""
    rise = warmup * total
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, total - rise)))


def decay_groups(parameters: Iterable[nn.Parameter], recipe: Recipe) -> list[dict[str, Any]]:
    """Decay the weights of matrices alone, unless told: not of biases, norms, learned tokens."""
    matrices, others = [], []
    for parameter in parameters:
        if parameter.requires_grad:
            flat = sum(n > 1 for n in parameter.shape) < 2 and not recipe.decay_all
            (others if flat else matrices).append(parameter)
    return [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others}]


def _seed(*parts: Any) -> int:
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _reseed(*parts: Any) -> None:
    torch.manual_seed(_seed(*parts))


def _write(path: Path, *parts: bytes | memoryview) -> None:
    """Replace a file in one step: a kill leaves the old one or the new one."""
    partial = path.with_suffix(path.suffix + ".partial")
    with partial.open("wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)

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
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment
from safetensors.torch import load_file, save
from torch import nn

from benchmark.api import Batch, Context, Recipe, Trainable, UserError
from benchmark.encoders import Encoders
from benchmark.engine.batches import Order, People, batches, people_of, reseed

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


class _Objective(nn.Module):
    """Wraps the loss in a forward pass, so that Fabric can apply precision and strategy."""

    def __init__(self, trainable: Trainable, encoders: Encoders, split: Split | None) -> None:
        super().__init__()
        self.trainable, self.encoders = trainable, encoders
        self._split = split

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        parts = self.encoders if self._split is None else self._split.parts()
        return self.trainable.loss(parts, batch)


def build(trainable: Trainable) -> Encoders:
    """Make the parts of a trainable with the fresh weights its digest fixes."""
    reseed(trainable.digest, "build")
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


def train(trainable: Trainable, context: Context, devices: int = 1) -> int:
    """Train and leave ``weights.safetensors`` (the round to keep) and ``history.json``.

    Parameters
    ----------
    devices
        How many devices of this machine share the work. The batch, what is drawn and the loss are
        those of one, the sums in another order. A method that cannot be split trains on one.

    Returns
    -------
    int
        How many did.

    Raises
    ------
    NonFiniteLossError
        When a training or validation loss is not finite.
    """
    if devices > 1:
        from benchmark.engine.ranks import Opening, together

        context = Opening(context)
    training, validation, scaling = people_of(trainable, context)
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
    return shared_by


def _assist(trainable: Trainable, context: Context, assemble: Assemble) -> None:
    """Do in another process what `train` does, except writing."""
    training, validation, _ = people_of(trainable, context)
    encoders = untrained_encoders(trainable, context)
    trainable.fit(encoders, training)
    _optimise_together(trainable, encoders, training, validation, context, assemble)


def _optimise_together(
    trainable: Trainable,
    encoders: Encoders,
    training: People,
    validation: People,
    context: Context,
    assemble: Assemble,
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]] | None:
    """Train on several devices, if that gives what one would."""
    from benchmark.engine.split import Split, disagreement

    fabric = assemble(True)
    order = Order(trainable.digest, training.parts, trainable.recipe.batch_size)
    chosen = order.at(0)[: REHEARSED * fabric.world_size]
    frozen = trainable.frozen(encoders)
    for module in frozen:
        module.requires_grad_(False)

    def loss(parts: Any, in_training: bool, progress: float) -> dict[str, torch.Tensor]:
        encoders.train(in_training)
        for module in frozen:
            module.eval()
        reseed(trainable.digest, "rehearsal")
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
    training: People,
    validation: People,
    context: Context,
    fabric: Fabric,
    split: Split | None = None,
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    recipe = trainable.recipe
    order = Order(trainable.digest, training.parts, recipe.batch_size)
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
    ahead = _ahead(fabric.device)
    unread: deque[tuple[int, torch.Tensor]] = deque()
    for current in range(first, rounds):
        if recipe.patience and _rounds_since_best(history) >= recipe.patience:
            break
        running = 0.0
        objective.train()
        for module in frozen:
            module.eval()
        now = range(current * steps, (current + 1) * steps)
        for step, batch in batches(training, order, now, total, fabric.device, ahead):
            factor = _schedule(step, total, recipe.warmup)
            for group, rate in zip(optimiser.param_groups, peak, strict=True):
                group["lr"] = rate * factor
            reseed(trainable.digest, current, step)
            loss = sum(objective(batch).values())
            optimiser.zero_grad(set_to_none=True)
            fabric.backward(loss)
            if recipe.clip_norm:
                # Whether a gradient is finite shows in the next loss, without waiting for a GPU.
                limit = {"max_norm": recipe.clip_norm, "error_if_nonfinite": False}
                fabric.clip_gradients(objective, optimiser, **limit)
            optimiser.step()
            trainable.after_step(encoders, step / total)
            unread.append((step, loss.detach()))
            while len(unread) > ahead or (unread and step + 1 == now.stop):
                place, loss = unread.popleft()
                value = loss.item()
                if not math.isfinite(value):
                    raise NonFiniteLossError(f"the training loss is {value} at update {place}")
                running += value
                context.progress(place + 1, total, "updates", f"loss {value:.3f}")
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


def _ahead(device: torch.device) -> bool:
    """Whether a device is given the next update before the loss of this one is asked for.

    A GPU is, and never waits for Python; a CPU would gain nothing.
    """
    return device.type == "cuda"


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
    trainable: Trainable, objective: Callable, people: People, device: torch.device
) -> dict[str, float]:
    """Mean over validation people of the loss and its terms, without augmentation."""
    objective.eval()
    measured: list[tuple[int, dict[str, torch.Tensor]]] = []
    for number, start in enumerate(range(0, len(people), VALIDATION_BATCH)):
        chosen = np.arange(start, min(start + VALIDATION_BATCH, len(people)))
        # The same masks after every round, or rounds could not be compared.
        reseed(trainable.digest, "validation", number)
        with torch.no_grad():
            terms = objective(people.batch(chosen, device, training=False, progress=1.0))
        measured.append((len(chosen), terms))
    sums: dict[str, float] = {"validation": 0.0}
    for count, terms in measured:  # read in the end: a GPU waits for no batch
        for name, term in terms.items():
            share = term.item() * count / len(people)
            sums["validation"] += share
            sums[f"validation_{name}"] = sums.get(f"validation_{name}", 0.0) + share
    if not math.isfinite(sums["validation"]):
        raise NonFiniteLossError(f"the validation loss is {sums['validation']}")
    return sums


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


def _write(path: Path, *parts: bytes | memoryview) -> None:
    """Replace a file in one step: a kill leaves the old one or the new one."""
    partial = path.with_suffix(path.suffix + ".partial")
    with partial.open("wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)

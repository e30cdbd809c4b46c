"""One trainable stage, trained a few updates in worlds that must not matter to it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.api import Batch, Trainable, UserError
from benchmark.testing.people import Killed, Lab, Poison, Work, as_in_the_store
from benchmark.testing.report import RuleError, Skipped, described

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders

BRIEF = {"updates": 2, "rounds": 2, "epochs": 0, "patience": 0, "batch_size": 6}
LEARNING_RATE = 1e-3


@dataclass
class Run:
    """What a training left behind, and what was seen of it.

    ``before`` is the state at the first step, ``frozen`` the names in it that must stay as they
    are, ``modes`` pairs (frozen, in training mode) of modules, ``reseeded`` where torch's seed was
    set by the stage, ``read`` the views that were asked for; ``batch`` is the first batch.
    """

    folder: Path
    before: dict[str, torch.Tensor] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    modes: set[tuple[bool, bool]] = field(default_factory=set)
    reseeded: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)
    batch: Batch | None = None
    encoders: Encoders | None = None
    stage: Trainable | None = None

    @functools.cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """What was saved."""
        from safetensors.torch import load_file

        return load_file(self.folder / "weights.safetensors")

    @functools.cached_property
    def history(self) -> Any:
        """Losses by round."""
        return json.loads((self.folder / "history.json").read_text())["history"]

    def same(self, other: Run) -> bool:
        """Whether both left the same, to the last bit."""
        a, b = self.weights, other.weights
        alike = a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
        return alike and json.dumps(self.history) == json.dumps(other.history)


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two arrays of weights are the same to the last bit, what is no number included."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


class Noted(dict):
    """The views of a batch, which note who is asked for."""

    def __init__(self, views: Mapping[str, Any], read: set[str]) -> None:
        super().__init__(views)
        self.note = read

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        self.note.add(name)
        return value


@functools.cache
def tried(stage: Trainable, lab: Lab) -> Tried:
    """Return what is known of a stage, tried once a process however many stand on it."""
    return Tried(stage, lab)


class Tried:
    """A trainable stage cut to two updates, its trainings remembered."""

    def __init__(self, stage: Trainable, lab: Lab) -> None:
        self.lab = lab
        recipe = stage.recipe
        if stage.trained:
            recipe = recipe.replace(**BRIEF, learning_rate=LEARNING_RATE)
        self.stage = stage.replace(recipe=recipe)
        self._runs: dict[tuple, Run | Exception] = {}

    @property
    def uses_labels(self) -> bool:
        """Whether this stage itself reads targets."""
        return "fraction" in {f.name for f in dataclasses.fields(self.stage)}

    def run(self, *poisons: Poison, killed: bool = False, again: bool = False) -> Run:
        """Return a training in a world; raises what it raised."""
        key = (frozenset(poisons), killed, again)
        if key not in self._runs:
            try:
                with as_in_the_store():
                    self._runs[key] = self._train(key[0], killed)
            except UserError as error:
                self._runs[key] = Skipped(f"these people cannot be used: {error}")
            except Exception as error:
                self._runs[key] = error
        found = self._runs[key]
        if isinstance(found, Exception):
            raise found
        return found

    def trained(self) -> Run:
        """Return the undisturbed training, where there is one."""
        try:
            return self.run()
        except Skipped:
            raise
        except Exception:
            raise Skipped("it could not be trained: see the check fit") from None

    def unlike(self, *poisons: Poison, killed: bool = False, again: bool = False) -> str:
        """Return how a training differs from the undisturbed one; empty where it does not."""
        clean = self.trained()
        try:
            other = self.run(*poisons, killed=killed, again=again)
        except Exception as error:
            return f"raised {described(error)}"
        return "" if clean.same(other) else "left other weights or losses"

    def undisturbed(self) -> bool:
        """Whether everything that must not matter, all at once, does not matter."""
        return not self.unlike("test", "labels", killed=self.stage.trained)

    def _train(self, poisons: frozenset[Poison], killed: bool) -> Run:
        world = self.lab.world(*poisons)
        labelled = "labels" in poisons and self.uses_labels
        work = Work(world, self.lab.place(), labelled, kill_after=1 if killed else None)
        found = Run(work.out)
        try:
            self._watched(found).run(work)
        except Killed:
            work.kill_after = None
            self._watched(found).run(work)
        for name in ("weights.safetensors", "history.json"):
            if not (work.out / name).exists():
                raise RuleError(
                    f"its own run leaves no {name}; let context.train(self) train and write"
                )
        return found

    def _watched(self, run: Run) -> Trainable:
        """Return a fresh copy of the stage whose training is seen."""
        import torch

        stage = run.stage = copy.copy(self.stage)
        loss, fit, build = stage.loss, stage.fit, stage.build

        def seeded(name: str, call: Callable, *arguments: Any) -> Any:
            before = torch.initial_seed()
            value = call(*arguments)
            if torch.initial_seed() != before:
                run.reseeded.add(name)
            return value

        def watched_loss(encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
            self._look(run, stage, encoders, batch)
            return seeded("loss", loss, encoders, batch)

        def watched_fit(encoders: Encoders, people: Any) -> None:
            run.encoders = encoders
            view = people.view

            def noted(name: str) -> np.ndarray:
                run.read.add(name)
                return view(name)

            people.view = noted
            fit(encoders, people)

        def watched_build(shapes: Any) -> Encoders:
            return seeded("build", build, shapes)

        # A frozen dataclass refuses an ordinary assignment.
        for name, value in (
            ("loss", watched_loss),
            ("fit", watched_fit),
            ("build", watched_build),
        ):
            object.__setattr__(stage, name, value)
        return stage

    def _look(self, run: Run, stage: Trainable, encoders: Encoders, batch: Batch) -> None:
        run.encoders = encoders
        batch.views = Noted(batch.views, run.read)
        if not batch.training:
            return
        tops = stage.frozen(encoders)
        if run.batch is None:
            # As it is now: a loss may change what it was given.
            views = {name: values.clone() for name, values in batch.views.items()}
            run.batch = dataclasses.replace(batch, views=views)
            run.before = {k: v.detach().clone() for k, v in encoders.state_dict().items()}
            for name, module in encoders.named_modules():
                if any(module is top for top in tops):
                    run.frozen.update(f"{name}.{k}" for k in module.state_dict())
        frozen = {module for top in tops for module in top.modules()}
        leaves = [m for m in encoders.modules() if not [*m.children()]]
        run.modes.update((leaf in frozen, leaf.training) for leaf in leaves)

    @functools.cached_property
    def gradients(self) -> dict[str, torch.Tensor | None]:
        """Of every trainable parameter, at weights where nothing is zero, half-way in training."""
        import torch

        from benchmark.engine.training import build

        run = self.trained()
        stage, encoders = run.stage, build(self.stage).train()
        for module in stage.frozen(encoders):
            module.eval().requires_grad_(False)
        torch.manual_seed(0)
        with torch.no_grad():  # what starts at zero lets no gradient through at the very first step
            for parameter in encoders.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        # A term may be switched on as training goes on. The class's loss: nobody watches here.
        batch = dataclasses.replace(run.batch, progress=0.5)
        sum(type(stage).loss(stage, encoders, batch).values()).backward()
        return {n: p.grad for n, p in encoders.named_parameters() if p.requires_grad}

    @property
    def unreached(self) -> set[str]:
        """Names of trainable parameters without a gradient.

        Not those near zero: the keys' bias shifts all scores of a softmax alike, and only rounding
        keeps its gradient from vanishing.
        """
        return {n for n, g in self.gradients.items() if g is None or not g.abs().sum() > 0}

    @functools.cached_property
    def loaded(self) -> Encoders:
        """The trained parts, as everything after the training finds them."""
        from benchmark.engine.training import load_encoders

        return load_encoders(self.stage, self.trained().folder)

    def view(self, name: str) -> np.ndarray:
        """Return the clean entries of a view, (people, *shape)."""
        view = self.stage.views()[name]
        return np.load(self.lab.world().open(view) / "array.npy", mmap_mode="r")

    def encoded(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each modality that the stage encodes, and the people's entries."""
        views = self.stage.views()
        self.trained()
        for modality, view in views.items():
            if modality == view.modality and self.loaded.has(modality):
                yield modality, self.view(modality)

    def features(self, encoders: Encoders, modality: str, values: np.ndarray) -> np.ndarray:
        """Return what heads would read of these people, projected features behind pooled ones."""
        from benchmark.evaluation.embed import encode

        crops = self.stage.views()[modality].crops()
        pooled, shared = encode(encoders, modality, np.asarray(values), crops, "cpu")
        return pooled if shared is None else np.concatenate([pooled, shared], axis=1)

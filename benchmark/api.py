"""The whole plugin contract, readable in one sitting: Method, Task, Cohort, View, Metric.

Nothing here imports torch; `Encoders` and `Features` are loaded on first use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from benchmark.stage import UNSET, Context, Spec, Stage, has_field, values_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from torch import nn

    from benchmark.encoders import Encoders


class UserError(Exception):
    """Something the user can put right; shown as one line, without a traceback."""


# ---------------------------------------------------------------------------------- cohorts


@dataclass(frozen=True, kw_only=True)
class Cohort(Stage):
    """People with an ECG, cine CMR, phenotypes, diagnoses and covariates.

    The digest of a cohort is its fingerprint. Its artifact is read with
    `benchmark.cohorts.cohort.CohortData`.
    """

    name: ClassVar[str] = ""
    """What the command line calls it."""
    simulated: ClassVar[bool] = False
    """Whether its people exist only in a computer: only then may single ones be shown."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it holds of its people, of ``ecg``, ``cmr``, ``covariates`` and ``icd10`` codes."""
        return ("ecg", "cmr", "covariates")

    @classmethod
    def at(cls, scale: str, preset: str = "default") -> Cohort:
        """Return the cohort at a scale; only simulated ones depend on it."""
        raise NotImplementedError

    @property
    def title(self) -> str:
        """Folder-safe name of cohort and preset, such as ``simulated`` or ``simulated-null``."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class View(Stage):
    """What a method sees of a cohort, computed once for everybody.

    The artifact is ``array.npy``: one row per person of the cohort, in cohort order.
    """

    modality: ClassVar[str] = "ecg"
    cohort: Cohort = UNSET

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one person's entry."""
        raise NotImplementedError

    def crops(self) -> tuple[slice, ...] | None:
        """Windows along the last axis whose features are averaged at evaluation, or None."""
        return None


# ---------------------------------------------------------------------------------- methods


@dataclass(frozen=True, kw_only=True)
class Recipe(Spec):
    """How a stage is trained.

    ``updates`` is the fixed number of optimiser steps, cut into ``rounds`` equal parts; after each
    of them validation is read and a checkpoint written. When ``updates`` is 0, a round is one
    epoch and there are ``epochs`` of them. Warm-up is a share of all steps, linear, followed by a
    cosine to zero over the planned steps.

    ``optimiser`` "adam" couples the decay with the gradient, as plain L2; ``decay_all`` decays
    biases, norms and learned tokens too. Training stops early after ``patience`` rounds without a
    better validation loss (0: never); ``keep`` says which round's weights are the result.
    ``balance`` says who of the training people is shown where one disease is learned: everyone,
    all positives with as many others, the same ones always ("static"), or all positives over and
    over, each time with the next twice as many others ("chunks").
    """

    updates: int = 0
    rounds: int = 10
    epochs: int = 0
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = 0.1
    clip_norm: float | None = None
    optimiser: Literal["adamw", "adam"] = "adamw"
    decay_all: bool = False
    patience: int = 0
    keep: Literal["best", "last"] = "best"
    balance: Literal["", "static", "chunks"] = ""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.updates > self.rounds and self.updates % self.rounds:
            raise UserError(f"{self.updates} updates cannot be cut into {self.rounds} rounds")

    def steps(self, people: int) -> tuple[int, int]:
        """Return (rounds, updates a round) for this many training people."""
        if self.updates:
            rounds = min(self.rounds, self.updates)
            return rounds, self.updates // rounds
        return self.epochs, max(1, people // min(self.batch_size, people)) if people else 0


@dataclass
class Batch:
    """One batch of people.

    ``views`` holds one tensor per declared view, people first; ``training`` is False on the
    validation pass, which is not augmented; ``progress`` runs from 0 to 1 over the training.
    ``labels`` (batch, targets) has NaN where a target is missing and is None for label-free
    methods.
    """

    views: Mapping[str, torch.Tensor]
    training: bool
    progress: float
    labels: torch.Tensor | None = None

    def __getattr__(self, name: str) -> torch.Tensor:
        try:
            return self.__dict__["views"][name]
        except KeyError:
            raise AttributeError(f"the method declares no view named {name!r}") from None


class TrainingPeople(Protocol):
    """The training people, for stages fitted in closed form."""

    labels: np.ndarray | None
    """(people, targets), NaN where missing; None for label-free stages."""

    def view(self, name: str) -> np.ndarray:
        """Return (people, *shape)."""


@dataclass(frozen=True, kw_only=True)
class Trainable(Stage):
    """A stage trained by the harness's loop: a method, or a head that trains its encoder.

    The random state is reseeded before every step from (digest, epoch, step), so ``build`` and
    ``loss`` draw freely from torch's global generator.
    """

    threads: ClassVar[int] = 2
    on_device: ClassVar[bool] = True
    unlabelled: ClassVar[bool] = False
    """Whether a stage with labels learns from training people outside its fraction as well."""
    cohort: Cohort = UNSET
    seed: int = UNSET
    recipe: Recipe = Recipe()

    def views(self) -> dict[str, View]:
        """Name of each view, as `Batch` will carry it, to the view."""
        raise NotImplementedError

    def implied_inputs(self) -> tuple[Stage, ...]:
        """Return the views: what a method sees is part of what it is."""
        return tuple(self.views().values())

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make all parts with fresh weights; ``shapes`` gives one person's shape per view."""
        raise NotImplementedError

    def initial_weights(self) -> Mapping[str, Stage]:
        """Parts, or parts of parts by dotted path, that start from those of a trained stage."""
        return {}

    def fit(self, encoders: Encoders, people: TrainingPeople) -> None:
        """Set weights in closed form before (usually instead of) the optimiser loop."""

    def frozen(self, encoders: Encoders) -> list[nn.Module]:
        """Modules that stay as they are: no gradient, and kept in evaluation mode."""
        return []

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """Terms whose sum is minimised; selection reads the same sum on validation."""
        raise NotImplementedError

    def after_step(self, encoders: Encoders, progress: float) -> None:
        """Do what follows an optimiser step (momentum copies); ``progress`` is its batch's."""

    def parameter_groups(self, encoders: Encoders) -> list[dict[str, Any]] | None:
        """Return optimiser groups, or None for the usual: no decay on 1-D parameters."""
        return None

    def labels(self, cohort: Any) -> pd.DataFrame | None:
        """Return targets per person of the cohort (a `CohortData`); None for label-free stages."""
        return None

    def run(self, context: Context) -> None:
        """Train through the harness; a method without any update keeps its fresh weights."""
        context.train(self)

    @property
    def trained(self) -> bool:
        """False for encoders that are used as they are built."""
        return bool(self.recipe.updates or self.recipe.epochs)

    def estimate(self) -> tuple[float, float]:
        """Return 4 ms a person and update, of a small transformer on two cores."""
        rounds, steps = self.recipe.steps(int(0.7 * getattr(self.cohort, "people", 6000)))
        return 1 + 4e-3 * rounds * steps * self.recipe.batch_size, 2e6


@dataclass(frozen=True)
class Variant:
    """A named setting that a paper reports as its own row.

    ``role``: only ``ranked`` variants enter rankings; ``reference`` rows stand beside them and
    ``control`` rows test a claim. ``head`` ties this variant to a head, as `Method.head` does all.
    ``protocol`` names the way from encoder to predictions that the paper track uses for it.
    ``paper`` is where this row was published, when that is not the class's.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    tracks: tuple[str, ...] = ("harmonised", "paper")
    role: Literal["ranked", "reference", "control"] = "ranked"
    summary: str = ""
    head: str | None = None
    protocol: str = ""
    paper: str = ""


@dataclass(frozen=True, kw_only=True)
class Method(Trainable):
    """The stage that leaves behind an encoder per modality.

    The class docstring starts with one line that says what the method is.
    """

    paper: ClassVar[str] = ""
    variants: ClassVar[Mapping[str, Variant]] = {}
    head: ClassVar[str | None] = None
    """A head the method is tied to; None lets the harness use its own."""
    two_tower: ClassVar[bool] = False
    """Whether ``project_ecg`` and ``project_cmr`` map both modalities into one space."""

    variant: str = field(default="", compare=False, metadata={"identity": False})
    """Name it was asked for by; what a track fixes may leave nothing else to know it from."""

    @property
    def label(self) -> str:
        """Its name and, where it learns labels, whose: ``eccl (cvd 0.1)``."""
        fraction = next(values_of(self, "fraction"), UNSET)
        task = next(values_of(self, "task"), UNSET)
        if fraction is UNSET:
            return self.group
        return f"{self.group} ({'labels' if task is UNSET else task.label} {fraction:g})"

    @property
    def group(self) -> str:
        """Name of the variant that these fields are, or of the class."""
        if self.variant:
            return self.variant
        fits = {
            name: len(variant.fields)
            for name, variant in self.variants.items()
            if all(getattr(self, key) == value for key, value in variant.fields.items())
        }
        return max(fits, key=fits.get) if fits else type(self).__name__

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities the method can embed."""
        seen = {view.modality for view in self.views().values()}
        return tuple(m for m in ("ecg", "cmr", "covariates") if m in seen)

    @property
    def uses_labels(self) -> bool:
        """True when labels enter the representation: this stage or an input has a fraction."""
        return has_field(self, "fraction")

    reconstruct: ClassVar[Callable[..., tuple[torch.Tensor, torch.Tensor]] | None] = None
    """``reconstruct(encoders, x, keep)`` fills in hidden patches of ECGs, for methods that do.

    ``x`` is a window (batch, leads, samples) as the encoder reads it and ``keep`` (batch, kept)
    the numbers of the visible patches in the order of `grid`. Returns all patches as filled in and
    as they are, (batch, patches, values) each.
    """

    def grid(self, modality: str) -> tuple[int, ...] | None:
        """Return the axes in whose row-major order an encoder's tokens lie; None without tokens.

        (leads, times) of an ECG, (times, rows, columns) of a cine.
        """
        return None

    @classmethod
    def named(cls, variant: str) -> Self:
        """Return the method in one of its named settings, for others to build on."""
        return cls(**cls.variants[variant].fields)

    def finetuned(self) -> Self:
        """Return the method as the ``finetune`` head goes on with it.

        Its encoder must load this one's weights; its input may be augmented in another way.
        """
        return self

    def ecg_input(self, batch: Batch) -> torch.Tensor:
        """Return the crop of ``batch.ecg`` that the encoder reads, augmented in training."""
        return batch.ecg

    def cmr_input(self, batch: Batch) -> torch.Tensor:
        """Return what the encoder reads of ``batch.cmr``, augmented in training."""
        return batch.cmr


# ---------------------------------------------------------------------------------- tasks


@dataclass(frozen=True, kw_only=True)
class Metric(Spec):
    """A pure function of `Predictions` with its direction, bounds and chance level."""

    name: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float]] = (-float("inf"), float("inf"))
    scale: ClassVar[Literal["logit", "fisher", "raw"]] = "raw"
    """Scale on which the interval of one method is symmetric."""
    per_target: ClassVar[bool] = True
    """False where people are scored as such: one value whatever the targets, shown as the mean."""
    share: ClassVar[bool] = False
    """Whether it is a share of people: times their number, a count of some of them."""

    def applies(self, predictions: Predictions) -> bool:
        """Whether the predictions hold what it reads; elsewhere it is left out."""
        return True

    def people(self, predictions: Predictions) -> int:
        """How many people a metric that is not ``per_target`` scores."""
        return len(next(iter(predictions.arrays.values())))

    def smallest(self, predictions: Predictions) -> int:
        """How many of them such a metric hinges on: the rarer outcome of a share, else all."""
        return self.people(predictions)

    def influence(self, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """Return theta (targets,) and influence values psi (people, targets).

        Of a metric that is not ``per_target``, theta (1,) and psi (people, 1).
        """
        raise NotImplementedError

    def chance(self, predictions: Predictions) -> np.ndarray:
        """Return the score of knowing nothing, in the shape of theta."""
        raise NotImplementedError


@dataclass(frozen=True)
class Predictions:
    """One record per test person.

    Attributes
    ----------
    targets
        Names of the targets.
    arrays
        Arrays of shape (people, targets, ...): ``target`` and ``prediction``, NaN where missing,
        or for retrieval ``hits``, ``rank`` and ``matches``.
    """

    targets: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Task(Spec):
    """Who is eligible, what is predicted, how it is scored.

    ``only`` restricts a task to some of its targets; empty means all of them.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["classification", "regression", "retrieval", "diagnostic"]]
    """A diagnostic looks into representations: reported, never ranked or tested."""
    title: ClassVar[str]
    target_names: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[Metric, ...]]
    further: ClassVar[tuple[Metric, ...]] = ()
    """Metrics that are taken from stored predictions when rows are made: secondary, for reading."""
    primary: ClassVar[Mapping[str, str]]
    """Modality to the metric whose mean over targets is the primary endpoint."""
    reference: ClassVar[Mapping[str, str]]
    """Modality to the method all others are compared with."""
    goal: ClassVar[Mapping[str, str]] = {}
    """Modality to the method whose score is as far as the gap from the reference can close."""
    units: ClassVar[Mapping[str, str]] = {}
    confirmatory: ClassVar[bool] = False
    """Whether its tests were fixed in advance as primary; those of other tasks are secondary."""
    supervision: ClassVar[str] = ""
    """Task whose targets label-using methods learn, at all labels; empty: this one's."""
    needs: ClassVar[tuple[str, ...]] = ()
    """What a cohort must hold for its people to have targets: ``cmr`` for CMR phenotypes."""
    given: ClassVar[tuple[str, ...]] = ()
    """Modalities that hold the targets themselves: nothing is predicted from them."""
    minimum_training: ClassVar[int] = 0
    """Training people (positives, for classification) below which a cell is not estimable."""
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Targets that a paper reports, or trains one model for, together."""

    only: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Targets that are predicted, in the order of ``target_names``."""
        return tuple(n for n in self.target_names if not self.only or n in self.only)

    @property
    def label(self) -> str:
        """Its name and the part it is restricted to, such as ``cvd/AF`` or ``phenotype/LV``."""
        if not self.only:
            return self.name
        whole = {tuple(n for n in self.target_names if n in g): k for k, g in self.groups.items()}
        return f"{self.name}/{whole.get(self.names, '+'.join(self.names))}"

    def targets(self, cohort: Any) -> pd.DataFrame:
        """Return one row per person of the cohort (a `CohortData`), NaN where not eligible.

        The columns are `names`.
        """
        raise NotImplementedError

    def lacks(self, method: Method) -> str:
        """Return why the task has nothing to ask of a method, in words; empty where it has."""
        return ""

    predict: ClassVar[Callable[..., Stage | None] | None] = None
    """``predict(embedding, modality)`` makes the stage that predicts, where the standard heads do
    not serve; None for a modality that it has nothing to say about.
    """


def __getattr__(name: str) -> Any:
    if name in ("Encoders", "Features"):
        from benchmark import encoders

        return getattr(encoders, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What is checked of a task: who is eligible, what is predicted, how it is scored."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchmark.api import Cohort, Method, Metric, Predictions, Task
from benchmark.registry import registry
from benchmark.stage import Stage, bind
from benchmark.testing import fingerprints, metrics, process
from benchmark.testing.people import Lab, Work, bound_fields, kit_people, lab_of, target_people
from benchmark.testing.report import RuleError, Rules, Skipped, Subject, need

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.cohorts.cohort import CohortData

KINDS = ("classification", "regression", "retrieval", "diagnostic")
HOLDINGS = {"ecg", "cmr", "covariates", "icd10"}
WIDTH = 4
"""Features that hold nothing; more of them would overfit a few hundred people."""
SIGMAS = 4.0
"""Standard errors by which a score of knowing nothing may miss chance: one in 16,000."""

rules = Rules()


@dataclass(frozen=True, kw_only=True)
class KnowsNothing(Method):
    """A method that is never trained, whose features are given."""

    two_tower: ClassVar[bool] = True

    def views(self) -> dict:
        """Read nothing."""
        return {}


class TaskSubject(Subject):
    """A task on the kit's people."""

    kind: ClassVar[str] = "task"
    rules: ClassVar[Rules] = rules
    remedy: ClassVar[str] = (
        "if it needs what simulated people do not have, give check_task a cohort that holds it"
    )

    def __init__(self, task: Task, cohort: Cohort | None) -> None:
        super().__init__()
        self.task, self.name, self.cls = task, task.name, type(task)
        self.cohort, self.given = cohort or target_people(), cohort is not None

    @classmethod
    def of(cls, task: str | type[Task], *, cohort: Cohort | None = None) -> TaskSubject:
        """Return a subject by name, or of a class."""
        return cls(registry().task(task) if isinstance(task, str) else task(), cohort)

    @property
    def identity(self) -> str:
        """Digests of task and people."""
        return f"{self.task.digest[:16]}-{self.cohort.digest[:16]}"

    def values(self) -> dict[str, Any]:
        """Return projections of the targets, and every metric of made-up predictions."""
        from benchmark.golden import projected, rounded

        found: dict[str, Any] = {}
        if self.task.names:
            found["targets"] = projected(self.targets.to_numpy(np.float64))
        for name, made in metrics.made_up(self.task).items():
            for metric in self.task.metrics:
                theta = metric.influence(made)[0]
                found[f"{metric.name}, {name}"] = [
                    rounded(v) if math.isfinite(v) else None for v in theta
                ]
        return found

    @functools.cached_property
    def lab(self) -> Lab:
        """The people; raises `Skipped` where they hold nothing the task could ask for."""
        missing = set(self.task.needs) - set(self.cohort.modalities)
        if missing:
            raise Skipped(f"the people it is tried on hold no {', '.join(sorted(missing))}")
        return lab_of(self.cohort)

    @functools.cached_property
    def targets(self) -> pd.DataFrame:
        """The targets of the clean people."""
        if not self.task.names:
            raise Skipped("it has no targets")
        return self.task.targets(self.lab.data)

    @functools.cached_property
    def blanked(self) -> tuple[CohortData, np.ndarray]:
        """Of a copy, the people and who of them holds nothing: the test people and a few others."""
        import pandas as pd

        from benchmark.cohorts.cohort import CohortData

        data, folder = self.lab.data, self.lab.place()
        blank = np.zeros(len(data.people), bool)
        blank[data.rows("test")] = True
        blank[data.rows("train")[::7]] = True
        for file in data.folder.iterdir():
            if file.suffix != ".parquet" or file.stem == "ids":
                (folder / file.name).symlink_to(file)
                continue
            table = pd.read_parquet(file)
            numbers = [n for n in table if table[n].dtype.kind in "fiub"]
            table[numbers] = table[numbers].astype("float64")
            table.loc[blank, numbers] = np.nan
            table.to_parquet(folder / file.name)
        return CohortData(folder), blank


# ------------------------------------------------------------------------------ declarations


@rules.add("described", sees=False)
def _described(subject: TaskSubject) -> None:
    """Say what it is in a docstring and a title."""
    doc = inspect.getdoc(subject.cls) or ""
    need(
        doc.strip() and not doc.startswith(f"{subject.cls.__name__}("),
        "the class has no docstring of its own; its first line is listed",
    )
    need(subject.task.title.strip(), "`title` is empty; boards are headed by it")
    need(
        isinstance(subject.cls.version, int) and subject.cls.version >= 1,
        f"`version` is a whole number from 1, not {subject.cls.version!r}",
    )


@rules.add("import", sees=False)
def _import(subject: TaskSubject) -> None:
    """Cost nothing worth noticing to import: it is done for every listing."""
    process.cheap(process.Plugin.of(subject.cls))


@rules.add("identity", sees=False, essential=True)
def _identity(subject: TaskSubject) -> None:
    """Have one digest in every process, and another for a part of its targets."""
    process.same_digest(process.Plugin.of(subject.cls), subject.task.digest)
    if subject.task.names:
        part = subject.task.replace(only=subject.task.names[:1])
        need(part.digest != subject.task.digest, "restricted to one target it has the same digest")


@rules.add("declared", sees=False)
def _declared(subject: TaskSubject) -> None:
    """Name metrics, endpoints, references, units and groups that exist."""
    task, known = subject.task, registry()
    need(task.kind in KINDS, f"`kind` is {task.kind!r}, not one of {', '.join(KINDS)}")
    names = [metric.name for metric in task.metrics]
    need(names and all(names), "`metrics` is empty, or one of them has no name")
    need(len({*names}) == len(names), f"two metrics have one name: {', '.join(names)}")
    need(len({*task.names}) == len(task.names), "two targets have one name")
    diagnostic = task.kind == "diagnostic"
    need(
        diagnostic == (not task.names) == (not task.primary),
        "a diagnostic has no targets and no primary endpoint, and any other task has both",
    )
    if diagnostic:
        per_target = [metric.name for metric in task.metrics if metric.per_target]
        need(not per_target, f"without targets, metrics are not per_target: {per_target}")
    for modality, metric in task.primary.items():
        need(metric in names, f"`primary` names {metric!r}, but its metrics are {names}")
        need(modality in task.reference, f"`reference` names no method for {modality!r}")
    need(set(task.goal) <= set(task.primary), "`goal` names a modality that is not in `primary`")
    for method in (*task.reference.values(), *task.goal.values()):
        known.method(method)
    if task.supervision:
        need(known.task(task.supervision).names, "`supervision` names a task without targets")
    for held in ("needs", "given"):
        unknown = set(getattr(task, held)) - HOLDINGS
        need(not unknown, f"`{held}` names {sorted(unknown)}; there is {sorted(HOLDINGS)}")
    if task.kind == "regression":
        without = [name for name in task.names if name not in task.units]
        need(not without, f"`units` says nothing of {', '.join(without[:4])}")
    for group, members in task.groups.items():
        strange = set(members) - set(task.target_names)
        need(members, f"the group {group} is empty")
        if set(members).isdisjoint(task.target_names):
            continue  # a group of tasks that share one list
        need(
            len(strange) < len(members),
            f"the group {group} names targets it does not have: {sorted(strange)[:4]}",
        )


# ------------------------------------------------------------------------------ targets


@rules.add("targets")
def _targets(subject: TaskSubject) -> None:
    """Return one row per person, one column per target, as its kind says."""
    import pandas as pd

    task, data = subject.task, subject.lab.data
    for table in (subject.targets, task.targets(subject.blanked[0])):
        need(isinstance(table, pd.DataFrame), f"targets are a {type(table).__name__}, no DataFrame")
        need(
            len(table) == len(data.people),
            f"targets have {len(table)} rows for {len(data.people)} people; return everybody, NaN "
            "where somebody is not eligible",
        )
        need(
            list(table.columns) == list(task.names),
            f"the columns are {list(table.columns)[:4]}, not `names` {list(task.names)[:4]}",
        )
    values = subject.targets.to_numpy(np.float64)
    need(not np.isinf(values).any(), "a target is infinite; where nothing is known it is NaN")
    known = values[np.isfinite(values)]
    need(len(known), "nobody has a target; is it the right column?")
    if task.kind == "classification":
        need(
            np.isin(known, (0, 1)).all(),
            f"a class is 0 or 1, NaN where unknown, not {sorted(set(known))[:4]}",
        )
    one = task.replace(only=task.names[-1:])
    need(
        list(one.targets(data).columns) == list(one.names),
        "restricted by `only`, it returns other columns than `names`; select by self.names",
    )


def _by_person(subject: TaskSubject) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the targets of the clean people, of the blanked ones, and who is blanked."""
    clean = subject.targets.to_numpy(np.float64)
    data, blank = subject.blanked
    values = subject.task.targets(data).to_numpy(np.float64)
    if not clean.shape == values.shape == (len(blank), len(subject.task.names)):
        raise Skipped("its targets are not one row per person: see the check targets")
    return clean, values, blank


@rules.add("eligible", essential=True)
def _eligible(subject: TaskSubject) -> None:
    """Give nobody a target of whom nothing is known."""
    _, values, blank = _by_person(subject)
    filled = np.isfinite(values[blank]).any(axis=0)
    names = [n for n, wrong in zip(subject.task.names, filled, strict=True) if wrong]
    need(
        not names,
        f"people of whom nothing is known have a target ({', '.join(names[:4])}); a comparison "
        "with NaN is False, which is not 0: keep NaN where the source is NaN",
    )


@rules.add("alone", essential=True)
def _alone(subject: TaskSubject) -> None:
    """Derive a person's targets from that person alone, never from test people."""
    clean, values, blank = _by_person(subject)
    need(
        np.array_equal(values[~blank], clean[~blank], equal_nan=True),
        "without the test people's entries, training people have other targets: a mean, quantile "
        "or rank over the cohort lets test people into training; use fixed thresholds",
    )


# ------------------------------------------------------------------------------ metrics


def _made(subject: TaskSubject) -> Mapping[str, Predictions]:
    made = metrics.made_up(subject.task)
    if not made:
        raise Skipped("its metrics read no predictions that could be made up")
    return made


@rules.add("metrics")
def _metrics(subject: TaskSubject) -> None:
    """Score within bounds, better predictions better, and whoever has no target not at all."""
    made = _made(subject)
    for metric in subject.task.metrics:
        metrics.judge(metric, made)


@rules.add("influence")
def _influence(subject: TaskSubject) -> None:
    """Have influence values that sum to nothing and agree with leaving people out."""
    made = _made(subject)
    for metric in subject.task.metrics:
        metrics.judge_influence(metric, made["noisy"])


# ------------------------------------------------------------------------------ chance


@dataclass
class Given(Work):
    """A context in which features are given instead of computed."""

    features: Path = Path()

    def open(self, stage: Stage) -> Path:
        """Return the given features, or an input's artifact."""
        from benchmark.evaluation.embed import Embed

        return self.features if isinstance(stage, Embed) else super().open(stage)


@rules.add("chance", essential=True)
def _chance(subject: TaskSubject) -> None:
    """Score features that hold nothing, constant and random ones, as chance."""
    from benchmark.evaluation.embed import Embed

    task, lab = subject.task, subject.lab
    if task.kind == "diagnostic":
        raise Skipped("it looks into encoders, not at their features")
    rng, people = np.random.default_rng(0), len(lab.data.people)
    # Constant within each split: what is centred on the training people keeps a direction.
    level = np.where(lab.data.split == "train", 2.0, 1.0)[:, None]
    nothing = {
        "constant": lambda: np.broadcast_to(level, (people, WIDTH)).astype(np.float32),
        "random": lambda: rng.standard_normal((people, WIDTH)).astype(np.float32),
    }
    method = KnowsNothing(cohort=subject.cohort, seed=0)
    compared = 0
    for kind, make in nothing.items():
        features = lab.place()
        for name in ("ecg", "cmr", "shared_ecg", "shared_cmr"):
            np.save(features / f"{name}.npy", make())
        for modality in ("ecg", "ecg-cmr") if task.predict is not None else ("ecg",):
            stage = _predicting(task, Embed(method=method), modality)
            if stage is None:
                continue
            context = Given(lab.world(), lab.place(), features=features)
            stage.run(context)
            predictions = stage.predictions(context.out, lab.data)
            for metric in task.metrics:
                if metric.applies(predictions):
                    compared += _near_chance(metric, predictions, f"{kind} features ({modality})")
    need(compared, "no target could be scored on a few hundred people: has it enough of them?")


def _predicting(task: Task, embedding: Any, modality: str) -> Any:
    if task.predict is not None:
        return task.predict(embedding, modality)
    from benchmark.evaluation.heads import LinearHead

    return LinearHead(embedding=embedding, modality=modality, task=task, fraction=1.0, seed=0)


def _rarer(metric: Metric, predictions: Predictions) -> np.ndarray:
    """Return per target how many have the rarer of two outcomes; NaN where there are not two."""
    target = predictions.arrays.get("target")
    if not metric.per_target or target is None:
        return np.full(len(metric.chance(predictions)), np.nan)
    two = (np.isnan(target) | (target == 0) | (target == 1)).all(axis=0)
    rarer = np.fmin((target == 0).sum(axis=0), (target == 1).sum(axis=0))
    return np.where(two & (rarer > 0), rarer, np.nan)


def _near_chance(metric: Metric, predictions: Predictions, what: str) -> int:
    """Return how many targets were compared with chance."""
    theta, psi = metric.influence(predictions)
    chance = metric.chance(predictions)
    error = np.sqrt((psi**2).mean(axis=0) / len(psi))
    # Nothing found in a few people leaves a share without any spread.
    low, high = metric.bounds
    if math.isfinite(low) and math.isfinite(high):
        error = np.where(error > 0, error, np.sqrt((chance - low) * (high - chance) / len(psi)))
        # Nor do one or two positives spread, and yet luck alone gives them any rank.
        luck = np.sqrt((chance - low) * (high - chance) / (3 * _rarer(metric, predictions)))
        error = np.fmax(error, luck)
    known = np.isfinite(theta) & np.isfinite(error)
    for value, expected, sigma in zip(theta[known], chance[known], error[known], strict=True):
        need(
            abs(value - expected) <= SIGMAS * sigma + 1e-6,
            f"{metric.name} of {what} is {value:.3f}, chance {expected:.3f} and the standard error "
            f"{sigma:.3f}: knowing nothing must not be worth anything; look for targets in the "
            "prediction, ties broken in favour, or a wrong chance()",
        )
    return int(known.sum())


@rules.add("predict")
def _predict(subject: TaskSubject) -> None:
    """Predict from encoders by itself, where it does, in finite scores within bounds."""
    task = subject.task
    if task.predict is None:
        raise Skipped("the standard heads predict")
    subject.lab  # noqa: B018 - tells where its people hold nothing
    # Images of people for whom tables are enough show nothing.
    lab = subject.lab if subject.given else lab_of(kit_people())
    stage = next(_own_stages(task, lab.cohort), None)
    if stage is None:
        raise RuleError("no registered method has what it asks for: see `lacks` and `predict`")
    work = Work(lab.world(), lab.place())
    stage.run(work)
    predictions = stage.predictions(work.out, lab.data)
    need(predictions.targets == task.names, "predictions are about other targets than `names`")
    test = len(lab.data.rows("test"))
    for name, array in predictions.arrays.items():
        fits = name.startswith("gallery") or len(array) == test
        need(fits, f"predictions hold {len(array)} rows of {name} for {test} test people")
    scored = [metric for metric in task.metrics if metric.applies(predictions)]
    need(scored, "none of its metrics applies to what it predicts")
    for metric in scored:
        theta, low, high = metric.influence(predictions)[0], *metric.bounds
        need(
            np.isfinite(theta).any() and np.all((theta >= low) & (theta <= high) | np.isnan(theta)),
            f"{metric.name} of an untrained method is {theta}, bounds {metric.bounds}",
        )


def _own_stages(task: Task, cohort: Cohort) -> Iterator[Any]:
    """Yield what the task makes of registered methods that have what it asks for."""
    from benchmark.evaluation.embed import Embed

    for entry in registry().methods.values():
        method = bind(
            entry.on_track(entry.variant.tracks[0], process.SCALE), **bound_fields(cohort)
        )
        if not {*method.modalities, *task.needs} <= set(cohort.modalities) or task.lacks(method):
            continue
        for modality in (method.modalities[0], *(["ecg-cmr"] if method.two_tower else [])):
            stage = task.predict(Embed(method=method), modality)
            if stage is not None:
                yield stage


@rules.add("fingerprint", sees=False)
def _fingerprint(subject: TaskSubject) -> None:
    """Compute what was recorded, unless its version is another."""
    fingerprints.hold(subject)

"""Methods x tasks x replicates x fractions -> stages: what was asked for, and the jobs of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from benchmark.api import Cohort, Method, Task, UserError
from benchmark.names import split_list
from benchmark.registry import MethodEntry, registry, suggestion, track_module
from benchmark.stage import Stage, bind

if TYPE_CHECKING:
    from benchmark.evaluation.score import Score

FRACTIONS = (1.0, 0.1, 0.01)
MOST_REPLICATES = 20
FINETUNE_ANYWHERE = ("full",)
"""Scales at which the finetune head runs at every fraction; elsewhere only at 1.0."""
ORACLE_PEOPLE = {"smoke": 5_000}
"""People an oracle is fitted on where the usual number is not worth the wait."""
MODALITIES = {"ecg": "ECG", "cmr": "CMR", "covariates": "covariates"}
HOLDINGS = {**MODALITIES, "icd10": "ICD-10 codes"}


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line, checked.

    ``modality`` is the encoder that is evaluated; empty: the ECG's where a method has two. An empty
    ``scale`` is the track's default.
    """

    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    replicates: int = 1
    fractions: tuple[float, ...] = FRACTIONS
    cohort: str = "simulated"
    preset: str = "default"
    scale: str = ""
    track: str = "harmonised"
    modality: str = ""

    def __post_init__(self) -> None:
        known = registry()
        track = track_module(self.track)
        if not self.scale:
            object.__setattr__(self, "scale", track.DEFAULT_SCALE)
        if self.scale not in track.SCALES:
            near = suggestion(self.scale, track.SCALES)
            raise UserError(f"no scale of the {self.track} track is called {self.scale!r}; {near}")
        if not 1 <= self.replicates <= MOST_REPLICATES:
            raise UserError(f"SEEDS is {self.replicates}; it counts from 1 to {MOST_REPLICATES}")
        if self.modality and self.modality not in MODALITIES:
            known_ones = suggestion(self.modality, MODALITIES)
            raise UserError(f"no modality is called {self.modality!r}; {known_ones}")
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise UserError(f"a label fraction lies above 0 and up to 1, not {fraction}")
        for name in self.tasks:
            known.task(name)
        for name in self.methods:
            entry = known.method(name)
            if self.track not in entry.variant.tracks:
                raise UserError(f"{name} is not part of the {self.track} track")
            entry.on_track(self.track, self.scale)  # whether it has the fields a name changes
        names = (known.method(name).name for name in self.methods)
        object.__setattr__(self, "methods", tuple(dict.fromkeys(names)))

    def make_cohort(self) -> Cohort:
        """Return the cohort of this scale."""
        return registry().cohort(self.cohort).at(self.scale, self.preset)


def expand(names: str, kind: str, track: str = "harmonised") -> tuple[str, ...]:
    """Resolve ``mae,ptacl``, ``all`` or (for methods) ``references`` into names of the track.

    Commas in ``ptacl[sigma=0.2,local=cosine]`` do not separate methods.
    """
    known = registry()
    methods = {n: e for n, e in known.methods.items() if track in e.variant.tracks}
    table = methods if kind == "method" else known.tasks
    chosen: dict[str, None] = {}
    try:
        parts = split_list(names)
    except ValueError as error:
        raise UserError(f"{error}; write NAME[FIELD=VALUE,...]") from None
    for name in parts:
        if name == "all":
            chosen.update(dict.fromkeys(table))
        elif name == "references" and kind == "method":
            roles = {n: e.variant.role for n, e in methods.items()}
            chosen.update(dict.fromkeys(n for n, role in roles.items() if role == "reference"))
        else:
            chosen[(known.method if kind == "method" else known.task)(name).name] = None
    if not chosen:
        raise UserError(f"no {kind} was named; there is {', '.join(sorted(table))}")
    return tuple(chosen)


@dataclass(frozen=True)
class Job:
    """One cell block: a method under one head, modality, task, fraction and replicate."""

    method: MethodEntry
    task: Task
    head: str
    modality: str
    fraction: float
    replicate: int
    score: Stage


@dataclass
class Plan:
    """The jobs of a request, and what was asked for but does not apply: method, task, why."""

    jobs: list[Job] = field(default_factory=list)
    idle: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def not_applicable(self) -> list[str]:
        """What does not apply, in one line for all methods that share a task and a reason."""
        groups: dict[tuple[str, str], list[str]] = {}
        for method, task, reason in self.idle:
            groups.setdefault((task, reason), []).append(method)
        return [f"{', '.join(names)} on {task}: {why}" for (task, why), names in groups.items()]


def plan(request: Request) -> Plan:
    """Expand a request into jobs."""
    result = Plan()
    known = registry()
    cohort = request.make_cohort()
    for task_name in request.tasks:
        task = known.task(task_name)
        for method_name in request.methods:
            entry = known.method(method_name)
            for replicate in range(request.replicates):
                jobs = list(jobs_of(entry, task, cohort, replicate, request))
                result.jobs += jobs
                if not jobs and replicate == 0:
                    reason = why_not(entry, task, cohort, request)
                    result.idle.append((method_name, task_name, reason))
    return result


def why_not(entry: MethodEntry, task: Task, cohort: Cohort, request: Request) -> str:
    """Return why `jobs_of` finds nothing for a method to do on a task."""
    method = bind(entry.on_track(request.track, request.scale), cohort=cohort)
    for needed in (*task.needs, *method.modalities):
        if needed not in cohort.modalities:
            return f"the cohort {cohort.title} holds no {HOLDINGS.get(needed, needed)}"
    modality = request.modality or method.modalities[0]
    if modality not in method.modalities:
        return f"it has no encoder of {MODALITIES[modality]}"
    if modality in task.given:
        return f"its {MODALITIES[modality]} hold what is to be predicted"
    if reason := task.lacks(method):
        return reason
    heads = track_module(request.track).heads(entry, request.scale)
    if task.predict is not None:
        if _has_features(task, method, heads):
            return f"the task does not ask about its {MODALITIES[modality]} encoder"
        return "it exists fine-tuned only, without features of its own"
    if not heads:
        return "no protocol says how its paper predicts from it"
    if "joint" in heads:
        return f"its own output reads the {MODALITIES[method.modalities[0]]} alone"
    return f"at {request.scale} it is fine-tuned on all labels only"


def _has_features(task: Task, method: Method, heads: Mapping[str, Stage]) -> bool:
    """Whether a method has a representation for a task that predicts from it as it is.

    An encoder that only exists fine-tuned has none to rank people by.
    """
    return task.kind == "diagnostic" or method.two_tower or list(heads) != ["finetune"]


def jobs_of(
    entry: MethodEntry, task: Task, cohort: Cohort, replicate: int, request: Request
) -> Iterator[Job]:
    """Yield a method's jobs on one task in one replicate."""
    from benchmark.evaluation.embed import Embed
    from benchmark.evaluation.score import Score
    from benchmark.evaluation.separate import Separately

    track = track_module(request.track)
    unbound = entry.on_track(request.track, request.scale)
    supervision = registry().task(task.supervision) if task.supervision else task

    def job(stage: Stage, head: str, modality: str, fraction: float) -> Job:
        score = Score(head=stage, metrics=task.metrics)
        return Job(entry, task, head, modality, fraction, replicate, score)

    shared = {"cohort": cohort, "seed": replicate}
    method = bind(unbound, task=supervision, fraction=1.0, **shared)
    if not {*method.modalities, *task.needs} <= set(cohort.modalities):
        return
    modality = request.modality or method.modalities[0]
    if modality not in method.modalities or modality in task.given or task.lacks(method):
        return
    heads = track.heads(entry, request.scale)
    if task.predict is not None:
        if _has_features(task, method, heads):
            for part in (modality, "ecg-cmr") if method.two_tower else (modality,):
                if stage := task.predict(Embed(method=method), part):
                    yield job(stage, "none", part, 1.0)
        return
    for fraction in request.fractions:

        def bound(head: Stage, part: Task, fraction: float = fraction) -> Stage:
            # Labels that enter the representation: this task's own, or those of the task that
            # stands for it. The latter all of them, unless they are among what is predicted here.
            learned = {"task": part, "fraction": fraction}
            if track.SHARED_SUPERVISION and task.supervision:
                own_labels = set(supervision.names) & set(task.names)
                learned = {"task": supervision, "fraction": fraction if own_labels else 1.0}
            method = bind(unbound, **shared, **learned)
            own = {"task": part, "fraction": fraction, "modality": modality}
            return bind(head, method=method, **own, **shared)

        for name, head in heads.items():
            if name == "finetune" and fraction < 1 and request.scale not in FINETUNE_ANYWHERE:
                continue
            if name == "joint" and modality != method.modalities[0]:
                continue  # the output that a method trains beside its encoder reads no other
            if isinstance(head, Separately):
                stage = head.bound(task, partial(bound, head.head))
            else:
                stage = bound(head, task)
            yield job(stage, name, modality, fraction)


def ceilings_of(request: Request, task: Task) -> dict[str, Score]:
    """Return the score stages that are the task's ceilings, by what their oracle sees."""
    from benchmark.evaluation.oracle import PEOPLE, ceiling_scores

    return ceiling_scores(task, request.make_cohort(), ORACLE_PEOPLE.get(request.scale, PEOPLE))

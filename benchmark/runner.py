"""Methods x tasks x replicates x fractions -> stages -> executor -> rows and boards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import Cohort, Context, Method, Task, Trainable, UserError
from benchmark.engine.progress import Report, Reporter, print_plan
from benchmark.engine.store import Store
from benchmark.names import split_list
from benchmark.registry import MethodEntry, registry, suggestion, track_module
from benchmark.stage import Stage, bind

if TYPE_CHECKING:
    from benchmark.evaluation.score import Score
    from benchmark.reports.boards import TaskInfo
    from benchmark.reports.ceilings import Ceilings

FRACTIONS = (1.0, 0.1, 0.01)
MOST_REPLICATES = 20
FINETUNE_ANYWHERE = ("full",)
"""Scales at which the finetune head runs at every fraction; elsewhere only at 1.0."""
ORACLE_PEOPLE = {"smoke": 5_000}
"""People an oracle is fitted on where the usual number is not worth the wait."""
RANKED_TRACK = "harmonised"
EXECUTORS = ("inline", "local", "none")
"""Modules of `benchmark.engine.executors` that bring stages into a store."""
OVERRIDDEN = "overridden"
"""Folder beside rows and boards for methods with changed fields: no committed board shows them."""
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
    """The jobs of a request, and what was asked for but does not apply."""

    jobs: list[Job] = field(default_factory=list)
    not_applicable: list[str] = field(default_factory=list)


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
                    result.not_applicable.append(f"{method_name} on {task_name}: {reason}")
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


def scored(
    request: Request, store: Store, task: Task, only: Sequence[str] = ()
) -> dict[str, dict[tuple, tuple]]:
    """Return, per method of the track, its score stages that are in the store.

    Methods with changed fields are among them where the request names them; ``only`` these are
    looked for, where some are named.
    They are grouped by (head, modality, fraction); replicates are taken from 0 upwards without a
    gap, so that equal stores give equal rows. All standard label fractions are looked for, not
    only those of the request.
    """
    fractions = tuple({*FRACTIONS, *request.fractions})
    either = [replace(request, fractions=fractions, modality=m) for m in ("", "cmr")]
    cohort = request.make_cohort()

    known = registry()
    changed = {name: known.method(name) for name in request.methods}
    found: dict[str, dict[tuple, tuple]] = {}
    for name, entry in {**known.methods, **changed}.items():
        if request.track not in entry.variant.tracks or (only and name not in only):
            continue
        groups: dict[tuple, tuple] = {}
        for replicate in range(MOST_REPLICATES):
            grown = False
            jobs = (j for r in either for j in jobs_of(entry, task, cohort, replicate, r))
            for job in jobs:
                key = (job.head, job.modality, job.fraction)
                if len(groups.get(key, ())) == replicate and _usable(job.score, store):
                    groups[key] = (*groups.get(key, ()), job.score)
                    grown = True
            if not grown:
                break
        if groups:
            found[name] = groups
    return found


def _usable(score: Stage, store: Store) -> bool:
    return store.has(score.digest) and store.damage(score) is None


def ceilings_of(request: Request, task: Task) -> dict[str, Score]:
    """Return the score stages that are the task's ceilings, by what their oracle sees."""
    from benchmark.evaluation.oracle import PEOPLE, ceiling_scores

    return ceiling_scores(task, request.make_cohort(), ORACLE_PEOPLE.get(request.scale, PEOPLE))


def open_ceilings(request: Request, task: Task, store: Store) -> Ceilings | None:
    """Return the ceilings that are in the store; None without any."""
    from benchmark.reports.ceilings import Ceilings

    scores = {n: s for n, s in ceilings_of(request, task).items() if _usable(s, store)}
    return Ceilings.of(scores, store) if scores else None


def record_ceilings(request: Request, task: Task, ceilings: Ceilings, leaderboards: Path) -> None:
    """Write a task's ceilings, with one for every list of targets that a recorded row averages."""
    from benchmark.reports.ceilings import write_ceilings
    from benchmark.reports.rows import grouped, read_rows

    folder, fingerprint = board_folder(request), grouped(request.make_cohort().digest)
    results = [
        row["result"]
        for rows in rows_folders(request, leaderboards)
        for file in read_rows(rows)
        for row in file["rows"]
        if file["task"] == task.name
    ]
    averaged = {
        tuple(result["targets"])
        for result in results
        if result.get("targets")
        and (result["task_version"], result["cohort_fingerprint"]) == (task.version, fingerprint)
    }
    header = {
        "cohort": request.cohort,
        "preset": None if request.preset == "default" else request.preset,
        "scale": request.scale,
        "cohort_fingerprint": fingerprint,
    }
    section = ceilings.section(task.version, averaged)
    write_ceilings(leaderboards / folder, header, task.name, section)


def bring(
    targets: Sequence[Stage],
    store: Store,
    *,
    executor: str = "auto",
    device: str = "auto",
    workers: int | None = None,
    reporter: Reporter | None = None,
    **settings: Any,
) -> Report:
    """Bring stages into the store.

    Parameters
    ----------
    targets
        Stages that are wanted.
    store
        Where artifacts are found and committed.
    executor
        One of `EXECUTORS`; ``auto``: local where several workers were asked for or there are
        several accelerators, else inline.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    workers
        Number of processes.
    reporter
        Where lines are printed; by default stderr.
    settings
        Of the executor's own.
    """
    from benchmark.engine.executors.local import accelerators

    if executor == "auto":
        several = (workers or 1) > 1 or len(accelerators(device)) > 1
        executor = "local" if several else "inline"
    execute = import_module(f"benchmark.engine.executors.{executor}").execute

    def train(trainable: Trainable, context: Context) -> None:
        from benchmark.engine import training  # torch, only where something is trained

        training.train(trainable, context)

    common = {"device": device, "workers": workers, "reporter": reporter}
    return execute(targets, store, train=train, **common, **settings)


def run(
    request: Request,
    store: Store,
    leaderboards: Path,
    *,
    dry_run: bool = False,
    reporter: Reporter | None = None,
    **execution: Any,
) -> Outcome:
    """Plan, execute as `bring` is told to by ``execution``, and write rows and boards.

    Raises
    ------
    UserError
        When nothing of what was asked for applies.
    """
    reporter = reporter or Reporter()
    wanted = plan(request)
    places = homes(request, leaderboards)
    if not dry_run:
        for home in places:
            prepare_folder(request, home)  # before hours of work, not after
    for text in changed_fields(request):
        reporter.line(text)
    for text in wanted.not_applicable:
        reporter.line(f"not applicable: {text}")
    if not wanted.jobs:
        raise UserError("none of the methods applies to the task: nothing to run")
    scores = [job.score for job in wanted.jobs]
    tasks = {job.task.name: job.task for job in wanted.jobs}
    for task in tasks.values():
        scores += ceilings_of(request, task).values()
    targets = list({score.digest: score for score in scores}.values())
    planned = print_plan(targets, store, reporter)
    if dry_run:
        return Outcome(plan=planned, targets=targets)
    report = bring(targets, store, reporter=reporter, **execution)
    outcome = Outcome(report=report, plan=planned, targets=targets)
    for task in tasks.values():
        ceilings = open_ceilings(request, task, store)
        files = own_files(request, task, store, ceilings)
        outcome.files += files
        for home, names in places.items():
            outcome.kept += record([f for f in files if f["method"] in names], home)
            if ceilings is not None:
                record_ceilings(request, task, ceilings, home)
    if request.track == RANKED_TRACK:
        # Each paper's own recipe stands beside that paper's numbers alone.
        for home in places:
            boards = render_boards(request, home)
            outcome.boards += [boards[name] for name in tasks if name in boards]
        for board in outcome.boards:
            for text in json.loads(board.with_suffix(".json").read_text())["leaks"]:
                reporter.line(f"LEAK ALARM on {board.stem}: {text}")
    return outcome


@dataclass
class Outcome:
    """What a run left behind.

    Attributes
    ----------
    report
        What became of the stages; None for a dry run.
    plan
        What was to be done; see `print_plan`.
    targets
        The stages that were wanted for themselves.
    files
        The rows of this run, as they would be written to an empty folder.
    kept
        Methods and tasks whose recorded rows have more replicates than this run and stay.
    boards
        The rendered Markdown files.
    """

    report: Report | None = None
    plan: dict[str, Any] = field(default_factory=dict)
    targets: Sequence[Stage] = ()
    files: list[dict[str, Any]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    boards: list[Path] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is there."""
        return self.report is None or self.report.ok


def homes(request: Request, leaderboards: Path) -> dict[Path, tuple[str, ...]]:
    """Return the folders for rows and boards of the requested methods, and which belong in each."""
    changed = tuple(name for name in request.methods if registry().method(name).changes)
    others = tuple(name for name in request.methods if name not in changed)
    places = {leaderboards: others, leaderboards / OVERRIDDEN: changed}
    return {home: names for home, names in places.items() if names}


def changed_fields(request: Request) -> Iterator[str]:
    """Say of each method with changed fields what runs, and where its rows stay."""
    for name in request.methods:
        entry = registry().method(name)
        parts = []
        for path, told in entry.overrides(request.track, request.scale).items():
            if told["value"] == told["instead_of"]:
                parts.append(f"{path} is {told['value']!r} as it is anyway")
            else:
                text = f"{path} is {told['value']!r} instead of {told['instead_of']!r}"
                why = f", which the {request.track} track fixes for all" if told["fixed"] else ""
                parts.append(f"{text}{why}")
        if parts:
            yield f"{name}: {'; '.join(parts)}. Its rows stay under {OVERRIDDEN}/."


def own_files(
    request: Request, task: Task, store: Store, ceilings: Ceilings | None
) -> list[dict[str, Any]]:
    """Return the rows files of the requested methods, from the scores in the store."""
    from benchmark.reports.cells import Scored
    from benchmark.reports.collect import rows_file

    files = []
    available = {
        name: [Scored(name, *key, scores=scores) for key, scores in groups.items()]
        for name, groups in scored(request, store, task).items()
    }
    for name in request.methods:
        if name not in available:
            continue
        entry = registry().method(name)
        header = {
            "method": name,
            "task": task.name,
            "cohort": request.cohort,
            "preset": None if request.preset == "default" else request.preset,
            "scale": request.scale,
            "track": request.track,
            "role": entry.variant.role,
            "uses_labels": entry.uses_labels,
        }
        if entry.changes:
            header["overrides"] = entry.overrides(request.track, request.scale)
        others = [
            theirs
            for other, theirs in available.items()
            # A published file names no method that only exists here.
            if other != name and (entry.changes or other in registry().methods)
        ]
        files.append(rows_file(header, available[name], others, task, store, ceilings))
    return files


def record(files: Sequence[dict[str, Any]], leaderboards: Path) -> list[str]:
    """Merge rows into the published ones; return what stayed because it has more replicates."""
    from benchmark.reports.rows import read_file, write_rows

    kept = []
    for file in files:
        path = write_rows(leaderboards / "rows", file)
        digests = {row["result"]["digest"] for row in read_file(path)["rows"]}
        if any(row["result"]["digest"] not in digests for row in file["rows"]):
            kept.append(f"{file['method']} on {file['task']}")
    return kept


def rows_folders(request: Request, leaderboards: Path) -> tuple[Path, ...]:
    """Return where the rows of a board are: those of changed fields stand beside the recorded."""
    own = leaderboards / "rows" / board_folder(request)
    if leaderboards.name == OVERRIDDEN:
        return leaderboards.parent / "rows" / board_folder(request), own
    return (own,)


def prepare_folder(request: Request, leaderboards: Path) -> None:
    """Make the folder of the rows and read what is there.

    Raises
    ------
    UserError
        When it cannot be written to or holds something that is no rows file, or no ceilings.
    """
    from benchmark.reports.ceilings import read_ceilings
    from benchmark.reports.rows import read_rows

    rows = leaderboards / "rows" / board_folder(request)
    try:
        rows.mkdir(parents=True, exist_ok=True)
        (leaderboards / board_folder(request)).mkdir(exist_ok=True)
        writable = os.access(rows, os.W_OK)
    except OSError as error:
        raise UserError(f"cannot write to {leaderboards}: {error.strerror}") from None
    if not writable:
        raise UserError(f"cannot write to {leaderboards}: no permission")
    read_rows(rows)
    read_ceilings(leaderboards / board_folder(request))


def render_boards(request: Request, leaderboards: Path) -> dict[str, Path]:
    """Render from rows and ceilings alone: the boards of all tasks that have rows, and the pages.

    All of them, since a page of old and new boards would mix what was computed by other code. Tasks
    that decide come first, diagnostics last. Returns the Markdown files by task.
    """
    from benchmark.reports.boards import render, render_index

    rows = rows_folders(request, leaderboards)
    out = leaderboards / board_folder(request)
    own = rows[-1] / RANKED_TRACK
    tasks = {n: task for n, task in registry().tasks.items() if (own / n).exists()}
    order = sorted(tasks, key=lambda n: (not tasks[n].confirmatory, tasks[n].kind == "diagnostic"))
    tasks = {name: tasks[name] for name in order}
    infos = [board_of(request, task) for task in tasks.values()]
    if leaderboards.name == OVERRIDDEN:
        infos = [replace(info, title=f"{info.title}, with changed fields") for info in infos]
    render(rows, out, *infos)
    render_index(rows, out, tasks)
    return {name: out / f"{name}.md" for name in tasks}


def board_of(request: Request, task: Task) -> TaskInfo:
    """Return what a board needs to know of its task."""
    from benchmark.evaluation.score import MEAN, means
    from benchmark.reports.boards import Expected, TaskInfo
    from benchmark.reports.rows import grouped

    cohort = request.make_cohort()
    entries = {n: e for n, e in registry().methods.items() if request.track in e.variant.tracks}
    jobs = {name: _jobs_on_board(entry, task, request) for name, entry in entries.items()}
    return TaskInfo(
        name=task.name,
        title=task.title,
        version=task.version,
        simulated=cohort.simulated,
        kind=task.kind,
        confirmatory=task.confirmatory,
        metrics=tuple(metric.name for metric in task.metrics),
        primary=task.primary,
        reference=task.reference,
        goal=task.goal,
        units={name: unit for name, unit in task.units.items() if name in task.names},
        groups={
            name.removeprefix(f"{MEAN} of "): targets
            for name, targets in means(task, task.names).items()
            if name != MEAN
        },
        methods=tuple(
            Expected(
                name=name,
                role=entry.variant.role,
                uses_labels=entry.uses_labels,
                places=frozenset((job.modality, job.fraction) for job in jobs[name]),
                heads=frozenset(job.head for job in jobs[name]),
            )
            for name, entry in entries.items()
        ),
        fractions=(1.0,) if task.predict is not None else FRACTIONS,
        heads=("none",) if task.predict is not None else ("linear",),
        fingerprint=grouped(cohort.digest),
        ceilings=bool(ceilings_of(request, task)),
    )


def _jobs_on_board(entry: MethodEntry, task: Task, request: Request) -> list[Job]:
    """Return the jobs that a board has a place for, whatever this request asks for."""
    everything = replace(request, fractions=FRACTIONS, modality="")
    return list(jobs_of(entry, task, request.make_cohort(), 0, everything))


def board_folder(request: Request) -> str:
    """Return ``<cohort>[-<preset>]-<scale>``."""
    return f"{request.make_cohort().title}-{request.scale}"

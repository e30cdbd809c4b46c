"""Measures what the references of the regression gate hold.

The same functions write the references (`ecgcmr golden`) and are asked again by `benchmark.check`.
Everything is made afresh in a store of its own: in the private one, work of older code under an
unchanged version would be found and nothing noticed.

A folder of references holds ``predictions/<kind>.csv`` (made up, see ``make_predictions.py``
there), ``metrics.json``, ``fingerprints-<track>.json`` and ``learning.json``. The settings in the
last two say which cohort, tasks and methods are used, and are kept when the rest is rewritten.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import platform
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.api import Metric, Predictions, Recipe, Task, Trainable, UserError
from benchmark.engine.store import Store
from benchmark.evaluation.score import MEAN
from benchmark.planning import Job, Request, jobs_of
from benchmark.registry import registry
from benchmark.runner import bring
from benchmark.stage import Spec, Stage, rewrite, topological

if TYPE_CHECKING:
    from benchmark.engine.progress import Reporter

PROJECTIONS = 8
DECIMALS = 12
"""Of frozen metrics: they are compared with an absolute tolerance."""


def read(folder: Path, name: str) -> dict[str, Any]:
    """Return a file of references; raises `UserError` when there is none."""
    path = folder / name
    try:
        return json.loads(path.read_text())
    except OSError:
        where = "ecgcmr golden writes it in a clone of the repository"
        raise UserError(f"there is no {path}; {where}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def write(folder: Path, name: str, content: Mapping[str, Any]) -> Path:
    """Write references so that a difference can be reviewed: sorted, one value a line."""
    path = folder / name
    path.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return path


def rounded(value: float, digits: int = DECIMALS) -> float:
    """Return a float at so many significant digits."""
    return float(f"{value:.{digits}g}")


# ------------------------------------------------------------------------------ A: frozen metrics


@dataclass(frozen=True)
class Made:
    """Made-up predictions of one kind: by method, one `Predictions` a replicate."""

    targets: tuple[str, ...]
    methods: Mapping[str, list[Predictions]]


def predictions(folder: Path, kind: str) -> Made:
    """Read the made-up predictions of a kind of task.

    The columns are ``true/<target>`` and ``<method>/<replicate>/<target>``; of retrieval
    ``<method>/<replicate>/ecg<d>`` and ``.../cmr<d>``, embeddings that are ranked here; of
    diagnostics ``true/chance`` and ``<method>/<replicate>/<array>``, without any target.
    """
    import pandas as pd

    table = pd.read_csv(folder / "predictions" / f"{kind}.csv")
    columns: dict[tuple[str, ...], list[str]] = {}
    for name in table.columns:
        columns.setdefault(tuple(name.split("/")[:-1]), []).append(name)
    true = columns.pop(("true",))
    target = table[true].to_numpy(float)
    targets = tuple(name.removeprefix("true/") for name in true if kind != "diagnostic")
    methods: dict[str, list[Predictions]] = {}
    for (method, _), names in columns.items():
        made = table[names].to_numpy(float)
        if kind == "retrieval":
            arrays = _ranked(made, target)
        elif kind == "diagnostic":
            arrays = {name.rpartition("/")[2]: table[name].to_numpy(float) for name in names}
            arrays["chance"] = target[:, 0]
        else:
            arrays = {"target": target, "prediction": made}
        methods.setdefault(method, []).append(Predictions(targets, arrays))
    return Made(targets, methods)


def _ranked(embeddings: np.ndarray, phenotypes: np.ndarray) -> dict[str, np.ndarray]:
    """Rank as `benchmark.evaluation.retrieve.Retrieve` does across modalities."""
    from benchmark.evaluation.retrieval import retrieve

    ecg, cmr = np.split(embeddings, 2, axis=1)
    sigma = np.nanstd(phenotypes, axis=0)
    arrays: dict[str, np.ndarray] = {}
    for suffix in ("", "+self"):
        found = retrieve(ecg, cmr, phenotypes, sigma=sigma, exclude_self=not suffix)
        arrays |= {f"{name}{suffix}": value for name, value in found.items()}
    return arrays


def metrics(folder: Path) -> dict[str, Any]:
    """Return every metric of every task on the made-up predictions, and what follows from it.

    Kinds of tasks without made-up predictions are left out.
    """
    result: dict[str, Any] = {}
    kinds: dict[str, dict[str, Metric]] = {}
    for task in registry().tasks.values():
        kinds.setdefault(task.kind, {}).update({m.name: m for m in (*task.metrics, *task.further)})
    for kind, table in sorted(kinds.items()):
        if (folder / "predictions" / f"{kind}.csv").exists():
            made = predictions(folder, kind)
            result[kind] = {name: _frozen(made, metric) for name, metric in table.items()}
    return result


def _frozen(made: Made, metric: Metric) -> dict[str, Any]:
    from benchmark.evaluation import bootstrap
    from benchmark.evaluation.metrics import MedianRank

    found = {m: [metric.influence(p) for p in parts] for m, parts in made.methods.items()}
    theta = {m: np.array([t for t, _ in parts]) for m, parts in found.items()}
    psi = {m: np.stack([p for _, p in parts], axis=-1) for m, parts in found.items()}
    first = next(iter(made.methods.values()))[0]
    width = next(iter(theta.values())).shape[1]
    smallest = _smallest(first, width) if metric.per_target else [metric.smallest(first)]
    places = {name: slice(t, t + 1) for t, name in enumerate(made.targets)} if width > 1 else {}
    result: dict[str, Any] = {"chance": _plain(metric.chance(first))}
    for name, own in (places | {MEAN: slice(None)}).items():
        columns = {m: (theta[m][:, own].mean(1), psi[m][:, own].mean(1)) for m in theta}
        if all(np.isfinite(values).all() for _, values in columns.values()):
            result[name] = _compared(columns, min(smallest[own]), metric)
        else:
            result[name] = {m: {"value": _plain(value.mean())} for m, (value, _) in columns.items()}
    if isinstance(metric, MedianRank):
        key = "rank+self" if metric.own else "rank"
        for method, parts in made.methods.items():
            ranks = parts[0].arrays[key]
            median = functools.partial(bootstrap.median, ranks)
            draws = bootstrap.resample(median, len(ranks), key=method).mean(1)
            bounds = _plain(np.quantile(draws, [0.025, 0.975]))
            result[MEAN][method] |= dict(zip(("lo", "hi"), bounds, strict=True))
    return result


def _smallest(made: Predictions, width: int) -> list[int]:
    """People each target hinges on, as `benchmark.evaluation.score` counts them."""
    if "target" not in made.arrays:
        known = np.isfinite(made.arrays["matches"]).sum(0)
        return known.tolist() if width == len(known) else [len(made.arrays["matches"])]
    target = made.arrays["target"]
    known = np.isfinite(target).sum(0)
    positive = (target == 1).sum(0)
    binary = np.isin(target[np.isfinite(target)], (0, 1)).all()
    return (np.minimum(positive, known - positive) if binary else known).tolist()


def _compared(
    columns: Mapping[str, tuple[np.ndarray, np.ndarray]], n_min: int, metric: Metric
) -> dict[str, Any]:
    """Return intervals, paired tests, Holm, BH, letters, ranks and gaps closed of the methods."""
    from benchmark.evaluation import multiplicity, statistics

    result: dict[str, Any] = {}
    sign = 1 if metric.higher_is_better else -1
    order = sorted(columns, key=lambda m: (-sign * columns[m][0].mean(), m))
    for method, (theta, psi) in columns.items():
        e = statistics.estimate(theta, psi, n_min, metric.scale)
        result[method] = {name: _plain(getattr(e, name)) for name in ("value", "lo", "hi")}
        result[method]["resolvable"] = _plain(statistics.resolvable_difference(e.v, e.nu))
    pairs = list(itertools.combinations(order, 2))
    tests = [statistics.compare(*columns[a], *columns[b], n_min) for a, b in pairs]
    p = np.array([test.p for test in tests])
    holm, q = multiplicity.holm(p), multiplicity.benjamini_hochberg(p)
    for (a, b), test, adjusted, rate in zip(pairs, tests, holm, q, strict=True):
        entry = {k: _plain(getattr(test, k)) for k in ("difference", "lo", "hi", "p")}
        result[f"{a} - {b}"] = entry | {"holm": _plain(adjusted), "q": _plain(rate)}
    won = [pair for pair, adjusted in zip(pairs, holm, strict=True) if adjusted <= 0.05]
    result["letters"] = multiplicity.letters(order, won)
    result["ranks"] = {m: [*r] for m, r in multiplicity.rank_intervals(order, won).items()}
    base, goal, *others = sorted(columns, key=lambda m: sign * columns[m][0].mean())
    for method in others:
        gap = statistics.gap_closed(*columns[method], *columns[base], *columns[goal], n_min)
        result[f"gap closed by {method}"] = {k: _plain(v) for k, v in vars(gap).items()}
    return result


def _plain(value: Any) -> Any:
    """Return JSON types: floats at 12 decimals, not-a-number and infinity None."""
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    if isinstance(value, float | np.floating):
        return round(float(value), DECIMALS) if math.isfinite(value) else None
    return value


# ------------------------------------------------------------------------------ what B and C share


@contextlib.contextmanager
def own_store() -> Iterator[Store]:
    """Give an empty store that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="ecgcmr-check-", ignore_cleanup_errors=True) as folder:
        yield Store(Path(folder))


@dataclass(frozen=True)
class Planned:
    """The jobs of methods as the settings have them, cut to their budget."""

    settings: Mapping[str, Any]
    track: str = "harmonised"

    def jobs(self, method: str, task: Task, seed: int) -> list[Job]:
        """Return a method's jobs on a task, all labels used."""
        settings = self.settings
        request = Request((), (), fractions=(1.0,), scale=settings["scale"], track=self.track)
        cohort = registry().cohort(settings["cohort"])
        cohort = cohort.at(settings["scale"], settings["preset"]).replace(**settings["sizes"])
        entry = registry().method(method)
        return [
            Job(**(vars(job) | {"score": rewrite(job.score, self._cut)}))
            for job in jobs_of(entry, task, cohort, seed, request)
        ]

    def _cut(self, part: Spec) -> Mapping[str, Any]:
        trains = isinstance(part, Recipe) and (part.updates or part.epochs)
        return self.settings["recipe"] if trains else {}


def execute(scores: Sequence[Stage], store: Store, reporter: Reporter | None) -> dict[str, str]:
    """Bring scores into a store on the CPU; return why stages failed, by what they are called."""
    report = bring(scores, store, device="cpu", reporter=reporter)
    return {outcome.label: outcome.message for outcome in report.failed}


def projected(array: np.ndarray) -> dict[str, list[float]]:
    """Return mean and root mean square of an array, and random projections of what is left.

    The entries are compressed first, or a target in millilitres would drown one in per cent, and
    each column is centred, or its mean would drown what differs between people. What is missing
    counts as 0.
    """
    values = np.arcsinh(np.nan_to_num(np.asarray(array, np.float64)))
    values = values.reshape(len(values), -1) if values.ndim else values.reshape(1, 1)
    spread = (values - values.mean(0)).ravel()
    directions = np.random.default_rng(0).standard_normal((PROJECTIONS, spread.size))
    found = (directions @ spread / math.sqrt(max(spread.size, 1))).tolist()
    level = (values.mean().item(), math.sqrt((values**2).mean().item()))
    return {"level": [*map(rounded, level)], "projections": [*map(rounded, found)]}


def outputs(job: Job, store: Store) -> dict[str, np.ndarray]:
    """Return a job's predictions of the test people, by what they are."""
    from benchmark.cohorts.cohort import CohortData

    head = job.score.head
    cohort = CohortData(store.path(head.cohort.digest))
    return dict(head.predictions(store.path(head.digest), cohort).arrays)


# ------------------------------------------------------------------------------ B: fingerprints


def platform_name() -> str:
    """Return what floating-point sums depend on: the processor's instructions and torch."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {capability} torch {torch.__version__}"


def track_methods(track: str) -> list[str]:
    """Return the names of a track's methods, those of installed packages left out."""
    own = {n: e for n, e in registry().methods.items() if e.origin.startswith("methods.")}
    return [n for n, entry in own.items() if track in entry.variant.tracks]


def fingerprints(
    settings: Mapping[str, Any], track: str, names: Iterable[str], reporter: Reporter | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Train methods for a few updates; return what each left, and what failed.

    Of every training: the number of parameters and the loss after the first and the last update,
    of the training batch and of the validation people. Of features and predictions: shape, type
    and projections.
    """
    plan = Planned(settings, track)
    tasks = [registry().task(name) for name in settings["tasks"]]
    jobs: dict[str, list[Job]] = {}
    for name in names:
        found = (plan.jobs(name, task, settings["seed"]) for task in tasks)
        jobs[name] = next(filter(None, found), [])  # a few exist on one of the tasks alone
    with own_store() as store:
        scores = [job.score for own in jobs.values() for job in own]
        failed = execute(scores, store, reporter)
        return {
            name: _fingerprint(own, store)
            for name, own in jobs.items()
            if own and all(store.has(job.score.digest) for job in own)
        }, failed


def _fingerprint(jobs: Sequence[Job], store: Store) -> dict[str, Any]:
    from benchmark.evaluation.embed import Embed

    result: dict[str, Any] = {}

    def add(name: str, entry: dict[str, Any]) -> None:
        same = sum(known.partition(" #")[0] == name for known in result)
        result[f"{name} #{same + 1}" if same else name] = entry

    for stage in topological([job.score for job in jobs]):
        folder = store.path(stage.digest)
        if isinstance(stage, Trainable):
            add(stage.label, _training(folder))
        elif isinstance(stage, Embed):
            for file in sorted(folder.glob("*.npy")):
                add(f"{stage.label}, {file.stem}", _array(np.load(file)))
    for job in jobs:
        for name, array in outputs(job, store).items():
            add(f"{job.score.head.label}, {name}", _array(array))
        add(job.score.label, {"scores": _scores(job.score, store)})
    return result


def _scores(score: Stage, store: Store) -> list[float | None]:
    """Return the value of every cell, of all targets and metrics."""
    cells = json.loads((store.path(score.digest) / "score.json").read_text())["cells"]
    return [None if cell["theta"] is None else rounded(cell["theta"]) for cell in cells]


def _training(folder: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(folder / "weights.safetensors", framework="numpy") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    # Grouped: seven digits in a row look like a person's id to the tools that guard repositories.
    entry: dict[str, Any] = {"parameters": f"{sum(math.prod(shape) for shape in shapes):_}"}
    history = json.loads((folder / "history.json").read_text())["history"]
    for name in ("training", "validation") if history else ():
        entry[f"{name} loss"] = [rounded(history[i][name]) for i in (0, -1)]
    return entry


def _array(array: np.ndarray) -> dict[str, Any]:
    shape = [int(n) for n in array.shape]
    return {"shape": shape, "type": str(array.dtype), **projected(array)}


# ------------------------------------------------------------------------------ C: learning smoke


@dataclass
class Learned:
    """What methods scored, higher being better, by endpoint and seed.

    An endpoint is ``<method> on <task>, <head>, <modality>``. ``outputs`` has the projections of
    its predictions, ``failed`` what could not be trained and why.
    """

    values: dict[str, dict[int, float]] = field(default_factory=dict)
    outputs: dict[str, dict[int, dict[str, dict[str, list[float]]]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def learning(
    settings: Mapping[str, Any],
    methods: Iterable[str],
    seeds: Iterable[int],
    store: Store,
    reporter: Reporter | None = None,
) -> Learned:
    """Train methods with seeds and score the mean over targets of every task's endpoint."""
    plan = Planned(settings)
    seeds = list(seeds)
    jobs: dict[str, dict[int, Job]] = {}
    for method in methods:
        for task in map(registry().task, settings["tasks"]):
            for seed in seeds:
                for job in plan.jobs(method, task, seed):
                    endpoint = f"{method} on {task.name}, {job.head}, {job.modality}"
                    jobs.setdefault(endpoint, {})[seed] = job
    result = Learned()
    scores = [job.score for own in jobs.values() for job in own.values()]
    result.failed = execute(scores, store, reporter)
    for endpoint, own in jobs.items():
        for seed, job in own.items():
            if store.has(job.score.digest):
                result.values.setdefault(endpoint, {})[seed] = _score(job, store)
                found = {name: projected(array) for name, array in outputs(job, store).items()}
                result.outputs.setdefault(endpoint, {})[seed] = found
    return result


def _score(job: Job, store: Store) -> float:
    """Return the endpoint of a score stage, NaN where it has none."""
    wanted = job.task.primary.get(job.modality, next(iter(job.task.primary.values())))
    better = next(m.higher_is_better for m in job.task.metrics if m.name == wanted)
    record = json.loads((store.path(job.score.digest) / "score.json").read_text())
    cell = next(c for c in record["cells"] if (c["target"], c["metric"]) == (MEAN, wanted))
    theta = math.nan if cell["theta"] is None else cell["theta"]
    return rounded(theta) if better else -rounded(theta)

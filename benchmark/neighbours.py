"""``ecgcmr neighbours``: one recording seen through a method's encoder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.api import Task, UserError
from benchmark.cohorts.cohort import COVARIATES, DIAGNOSES, CohortData
from benchmark.cohorts.recordings import read_recording
from benchmark.cohorts.views import ECGView, prepare_recording
from benchmark.engine.store import Store
from benchmark.planning import Request, jobs_of
from benchmark.privacy import mask
from benchmark.registry import registry
from benchmark.runner import bring

SMALLEST_GROUP = 5
"""Real people are described together only, never fewer than these: UK Biobank's least number."""
UNITS = {"age": "y", "height": "cm", "weight": "kg"}


@dataclass(frozen=True)
class Neighbours:
    """The most similar training people of a recording, and its predicted values.

    Simulated people are shown one by one: ``people`` are rows of id, similarity, covariates and
    targets. Of real ones ``summary`` has rows of what is measured, unit, mean and SD, or proportion
    with a diagnosis, and the number of people these are of; None where that is too few.
    ``predicted`` has rows of target, unit, value and 95% prediction interval.
    """

    record: str
    method: str
    simulated: bool
    k: int
    people: list[dict[str, Any]]
    summary: list[dict[str, Any]]
    predicted: list[dict[str, Any]]

    def text(self) -> str:
        """Return the tables for people."""
        kind, model = (
            ("simulated", "The model has seen simulated hearts only")
            if self.simulated
            else ("real", "The model is one of research")
        )
        head = (
            f"{self.record}: the {self.k} most similar people of the training split, by "
            f"{self.method} ({kind} people)"
        )
        parts = [head, self._people() if self.simulated else self._summary()]
        if self.predicted:
            parts += [
                "Predicted phenotypes, with 95% prediction intervals from validation residuals. "
                f"{model}: no statement about a patient.",
                self._predicted(),
            ]
        return "\n\n".join(parts)

    def _people(self) -> str:
        units = UNITS | {row["target"]: row["unit"] for row in self.predicted}
        heads = {name: f"{name} [{unit}]" for name, unit in units.items() if unit}
        near = [
            {heads.get(name, name): _shown(value) for name, value in row.items()}
            for row in self.people
        ]
        return _table(near, "keys")

    def _summary(self) -> str:
        rows = []
        for row in self.summary:
            if row["people"] is None:
                cells = [f"fewer than {SMALLEST_GROUP} people"]
            elif row["proportion"] is not None:
                cells = [f"{100 * row['proportion']:.0f}%", "", row["people"]]
            else:
                cells = [_shown(row["mean"]), _shown(row["sd"]), row["people"]]
            rows.append((row["name"], row["unit"], *cells))
        return _table(rows, ("", "unit", "mean or proportion", "SD", "people"))

    def _predicted(self) -> str:
        values = [
            (r["target"], f"{r['value']:.1f}", f"{r['lo']:.1f} to {r['hi']:.1f}", r["unit"])
            for r in self.predicted
        ]
        heads = ("phenotype", "value", "95% interval", "unit")
        return _table(values, heads, colalign=("left", "right", "right", "left"))


def _shown(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def _table(rows: list[Any], headers: Any, **options: Any) -> str:
    from tabulate import tabulate

    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True, **options)


def neighbours(
    record: Path, method: str, k: int, request: Request, store: Store, device: str
) -> Neighbours:
    """Find a recording's neighbours and predict its phenotypes; trains what is missing.

    Neighbours are ranked by cosine similarity of the pooled ECG features, centred on the training
    mean, as ECG-to-ECG retrieval does. Of real people nothing is said about fewer than five.

    Raises
    ------
    UserError
        When the recording or the method cannot be used for this.
    """
    from benchmark.evaluation.embed import encode

    if k < 1:
        raise UserError(f"--k is {k}; at least one neighbour is needed")
    cohort = request.make_cohort()
    if not cohort.simulated and k % SMALLEST_GROUP:
        # Two summaries that differ by one person would tell everything about that person.
        raise UserError(
            f"--k is {k}; the people of {request.cohort} are real and described together only, "
            f"{SMALLEST_GROUP} of them or a multiple"
        )
    recording = read_recording(record)
    entry = registry().method(method)
    jobs = [
        job
        for task in registry().tasks.values()
        if not task.supervision  # the others' targets are more of the same, or covariates
        for job in jobs_of(entry, task, cohort, 0, request)
        if job.modality == "ecg" and job.head == "linear" and job.fraction == 1.0
    ]
    if not jobs:
        raise UserError(f"{method} has no frozen ECG encoder to compare recordings with")
    # A cohort without phenotypes has neighbours all the same.
    predicting = [job for job in jobs if job.task.kind == "regression"]
    tasks, heads = [j.task for j in predicting], [j.score.head for j in predicting]
    embedding = (predicting or jobs)[0].score.head.embedding
    view = embedding.method.views()["ecg"]
    if not isinstance(view, ECGView):
        raise UserError(f"{method} reads a view that a single recording cannot be given")
    needed = [*heads, embedding, embedding.method, cohort]
    if not bring(needed, store, device=device).ok:
        raise UserError(f"{method} could not be trained; see above")

    from benchmark.engine.training import load_encoders

    encoders = load_encoders(embedding.method, store.open(embedding.method))
    values = prepare_recording(recording.ecg_mv, recording.rate, view)
    features, _ = encode(encoders, "ecg", values, view.crops(), "cpu")
    data = CohortData(store.open(cohort))
    everyone = np.load(store.open(embedding) / "ecg.npy")
    near, similarity = _nearest(features[0], everyone, data, k)
    if not cohort.simulated and len(near) < SMALLEST_GROUP:
        raise UserError(f"{request.cohort} has fewer than {SMALLEST_GROUP} training people")
    tables = [data.people[list(COVARIATES)], *(task.targets(data) for task in tasks)]
    tables += [] if cohort.simulated else [data.diagnoses[list(DIAGNOSES)]]
    described = {"similarity": similarity.astype(np.float64)}
    for table in tables:
        described |= {name: table[name].to_numpy(np.float64)[near] for name in table.columns}
    return Neighbours(
        # A raw file is called by the person's id.
        record=mask(recording.name),
        method=method,
        simulated=cohort.simulated,
        k=len(near),
        people=_one_by_one(described, data, near) if cohort.simulated else [],
        summary=[] if cohort.simulated else _together(described, tasks),
        predicted=[
            row
            for task, head in zip(tasks, heads, strict=True)
            for row in _predict(
                features, everyone, data, task, store.open(head), simulated=cohort.simulated
            )
        ],
    )


def _nearest(
    query: np.ndarray, everyone: np.ndarray, data: CohortData, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and similarities of the k most similar training people, best first."""
    rows = data.rows("train")
    centre = everyone[rows].mean(0)
    gallery, wanted = everyone[rows] - centre, query - centre
    lengths = np.linalg.norm(gallery, axis=1) * np.linalg.norm(wanted)
    similarity = gallery @ wanted / np.maximum(lengths, 1e-12)
    best = np.argsort(-similarity, kind="stable")[:k]
    return rows[best], similarity[best]


def _one_by_one(
    described: dict[str, np.ndarray], data: CohortData, near: np.ndarray
) -> list[dict[str, Any]]:
    rows = []
    for place, person in enumerate(data.people["id"].iloc[near]):
        row = {"id": person} | {name: float(x[place]) for name, x in described.items()}
        row["sex"] = {0.0: "female", 1.0: "male"}.get(row["sex"], "unknown")
        rows.append(row)
    return rows


def _together(described: dict[str, np.ndarray], tasks: list[Task]) -> list[dict[str, Any]]:
    """Summarise people over everything that is known of at least five of them.

    What is yes or no, sex among it, is a proportion, withheld where one side of it is of one to
    four people.
    """
    units = UNITS | {name: unit for task in tasks for name, unit in task.units.items()}
    yes_or_no = {"sex": "male"} | {name: name for name in DIAGNOSES}
    rows = []
    for name, values in described.items():
        known = values[np.isfinite(values)]
        row = {"name": yes_or_no.get(name, name), "unit": units.get(name, "")}
        row |= dict.fromkeys(("mean", "sd", "proportion", "people"))
        enough = len(known) >= SMALLEST_GROUP
        if enough and name not in yes_or_no:
            mean, sd = float(known.mean()), float(known.std(ddof=1))
            row |= {"mean": mean, "sd": sd, "people": len(known)}
        elif enough:
            yes = int((known == 1).sum())
            if all(n == 0 or n >= SMALLEST_GROUP for n in (yes, len(known) - yes)):
                row |= {"proportion": yes / len(known), "people": len(known)}
        rows.append(row)
    return rows


def _predict(
    features: np.ndarray,
    everyone: np.ndarray,
    data: CohortData,
    task: Task,
    folder: Path,
    *,
    simulated: bool,
) -> list[dict[str, Any]]:
    """Predict by the linear probe, with intervals from the residuals of validation people.

    Of simulated people the residuals' quantiles; of real ones, whose quantiles are the values of
    single people, 1.96 root mean squares, and no target with fewer than five of them.
    """
    train = everyone[data.rows("train")].astype(np.float64)
    x = (features - train.mean(0)) / np.maximum(train.std(0), 1e-9)
    value = (x @ np.load(folder / "weights.npy") + np.load(folder / "intercept.npy"))[0]
    truth = task.targets(data).to_numpy(np.float64)[data.rows("validation")]
    residual = truth - np.load(folder / "validation.npy")
    known = np.isfinite(residual).sum(axis=0)
    if simulated:
        low, high = np.nanquantile(residual, [0.025, 0.975], axis=0)
    else:
        high = 1.96 * np.sqrt(np.nansum(residual**2, axis=0) / np.maximum(known, 1))
        low = -high
    return [
        {
            "target": name,
            "unit": task.units.get(name, ""),
            "value": float(value[t]),
            "lo": float(value[t] + low[t]),
            "hi": float(value[t] + high[t]),
        }
        for t, name in enumerate(task.names)
        if simulated or known[t] >= SMALLEST_GROUP
    ]


def as_json(found: Neighbours) -> str:
    """Return everything for programs."""
    return json.dumps(found.__dict__, indent=1)

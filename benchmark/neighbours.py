"""``ecgcmr neighbours``: one recording seen through a method's encoder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.api import Task, UserError
from benchmark.cohorts.cohort import COVARIATES, CohortData
from benchmark.cohorts.recordings import read_recording
from benchmark.cohorts.views import ECGView, prepare_recording
from benchmark.engine.store import Store
from benchmark.registry import registry
from benchmark.runner import Request, bring, jobs_of


@dataclass(frozen=True)
class Neighbours:
    """The most similar training people of a recording, and its predicted values.

    ``people`` are rows of id, similarity, covariates and targets; ``predicted`` rows of target,
    unit, value and 95% prediction interval.
    """

    record: str
    method: str
    people: list[dict[str, Any]]
    predicted: list[dict[str, Any]]

    def text(self) -> str:
        """Return both tables for people."""
        from tabulate import tabulate

        def shown(value: Any) -> Any:
            return f"{value:.4g}" if isinstance(value, float) else value

        units = {"age": "y", "height": "cm", "weight": "kg"}
        units |= {row["target"]: row["unit"] for row in self.predicted}
        heads = {name: f"{name} [{unit}]" for name, unit in units.items() if unit}
        near = [
            {heads.get(name, name): shown(value) for name, value in row.items()}
            for row in self.people
        ]
        values = [
            (r["target"], f"{r['value']:.1f}", f"{r['lo']:.1f} to {r['hi']:.1f}", r["unit"])
            for r in self.predicted
        ]
        return "\n".join(
            [
                f"{self.record}: the {len(near)} most similar people of the training split, by "
                f"{self.method} (simulated people)",
                "",
                tabulate(near, headers="keys", tablefmt="github", disable_numparse=True),
                "",
                "Predicted phenotypes, with 95% prediction intervals from validation residuals. "
                "The model has seen simulated hearts only: no statement about a patient.",
                "",
                tabulate(
                    values,
                    headers=("phenotype", "value", "95% interval", "unit"),
                    tablefmt="github",
                    colalign=("left", "right", "right", "left"),
                    disable_numparse=True,
                ),
            ]
        )


def neighbours(
    record: Path, method: str, k: int, request: Request, store: Store, device: str
) -> Neighbours:
    """Find a recording's neighbours and predict its phenotypes; trains what is missing.

    Neighbours are ranked by cosine similarity of the pooled ECG features, centred on the training
    mean, as ECG-to-ECG retrieval does.

    Raises
    ------
    UserError
        When the recording or the method cannot be used for this.
    """
    from benchmark.evaluation.embed import encode

    if k < 1:
        raise UserError(f"--k is {k}; at least one neighbour is needed")
    recording = read_recording(record)
    cohort = request.make_cohort()
    if not cohort.simulated:
        raise UserError(f"neighbours shows single people, which {request.cohort} does not allow")
    entry = registry().method(method)
    tasks = [task for task in registry().tasks.values() if task.kind == "regression"]
    jobs = [
        job
        for task in tasks
        for job in jobs_of(entry, task, cohort, 0, request)
        if job.modality == "ecg" and job.head == "linear" and job.fraction == 1.0
    ]
    if not jobs:
        raise UserError(f"{method} has no frozen ECG encoder to compare recordings with")
    heads = [job.score.head for job in jobs]
    embedding = heads[0].embedding
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
    return Neighbours(
        record=recording.name,
        method=method,
        people=_nearest(features[0], everyone, data, tasks, k),
        predicted=[
            row
            for task, head in zip(tasks, heads, strict=True)
            for row in _predict(features, everyone, data, task, store.open(head))
        ],
    )


def _nearest(
    query: np.ndarray, everyone: np.ndarray, data: CohortData, tasks: list[Task], k: int
) -> list[dict[str, Any]]:
    rows = data.rows("train")
    centre = everyone[rows].mean(0)
    gallery, wanted = everyone[rows] - centre, query - centre
    lengths = np.linalg.norm(gallery, axis=1) * np.linalg.norm(wanted)
    similarity = gallery @ wanted / np.maximum(lengths, 1e-12)
    best = np.argsort(-similarity, kind="stable")[:k]
    people = data.people.iloc[rows[best]]
    found = []
    for place, (_, person) in zip(best, people.iterrows(), strict=True):
        row = {"id": person["id"], "similarity": float(similarity[place])}
        row |= {name: float(person[name]) for name in COVARIATES}
        row["sex"] = {0.0: "female", 1.0: "male"}.get(row["sex"], "unknown")
        for task in tasks:
            values = task.targets(data).iloc[rows[place]]
            row |= {name: float(values[name]) for name in task.target_names}
        found.append(row)
    return found


def _predict(
    features: np.ndarray, everyone: np.ndarray, data: CohortData, task: Task, folder: Path
) -> list[dict[str, Any]]:
    """Predict by the linear probe; intervals are quantiles of validation residuals."""
    train = everyone[data.rows("train")].astype(np.float64)
    x = (features - train.mean(0)) / np.maximum(train.std(0), 1e-9)
    value = (x @ np.load(folder / "weights.npy") + np.load(folder / "intercept.npy"))[0]
    truth = task.targets(data).to_numpy(np.float64)[data.rows("validation")]
    residual = truth - np.load(folder / "validation.npy")
    low, high = np.nanquantile(residual, [0.025, 0.975], axis=0)
    return [
        {
            "target": name,
            "unit": task.units.get(name, ""),
            "value": float(value[t]),
            "lo": float(value[t] + low[t]),
            "hi": float(value[t] + high[t]),
        }
        for t, name in enumerate(task.target_names)
    ]


def as_json(found: Neighbours) -> str:
    """Return everything for programs."""
    return json.dumps(found.__dict__, indent=1)

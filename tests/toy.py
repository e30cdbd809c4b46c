"""A cohort of noise with a signal in it, and a method on it, for tests of what comes after."""

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from benchmark.api import Cohort, Method, Recipe, View
from benchmark.cohorts.cohort import CohortData
from benchmark.cohorts.phenotypes import TARGET_GROUPS
from benchmark.stage import UNSET
from methods.blocks.backbones import ECGViT
from tasks.cvd import CVD

PHENOTYPES = TARGET_GROUPS["ventricular10"]
QUICK = Recipe(updates=6, rounds=2, batch_size=16)


@dataclass(frozen=True, kw_only=True)
class ToyCohort(Cohort):
    """People whose phenotypes and diseases are sums of the means of their leads, and noise."""

    number: int = 240

    def run(self, context):
        rng = np.random.default_rng(3)
        signal = rng.normal(size=(self.number, 12))
        values = signal @ rng.normal(size=(12, len(PHENOTYPES)))
        values += 0.5 * rng.normal(size=values.shape)
        values[rng.random(values.shape) < 0.1] = np.nan
        risk = signal @ rng.normal(size=(12, len(CVD.target_names)))
        sick = (risk > np.quantile(risk, 0.9, axis=0)).astype(float)
        np.save(context.out / "signal.npy", signal)
        tables = {
            "phenotypes": pd.DataFrame(50 + 10 * values, columns=PHENOTYPES),
            "diagnoses": pd.DataFrame(sick, columns=CVD.target_names),
            "people": pd.DataFrame({"id": [f"TOY-{n}" for n in range(self.number)]}),
            "ids": pd.DataFrame({"hash_id": [f"toy-{n}" for n in range(self.number)]}),
        }
        for name, table in tables.items():
            table.to_parquet(context.out / f"{name}.parquet")
        (context.out / "cohort.json").write_text(json.dumps({"spacing": None}))


@dataclass(frozen=True, kw_only=True)
class ToyView(View):
    """12 leads of 40 samples, read in two windows."""

    modality: ClassVar[str] = "ecg"

    @property
    def shape(self):
        return (12, 40)

    def crops(self):
        return (slice(0, 20), slice(20, 40))

    def run(self, context):
        signal = np.load(context.open(self.cohort) / "signal.npy")
        noise = np.random.default_rng(4).normal(size=(len(signal), *self.shape))
        np.save(context.out / "array.npy", (signal[..., None] + noise).astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class ToyECG(ECGViT):
    """A transformer that fits the toy view."""

    width: int = 16
    depth: int = 2
    heads: int = 2
    patch: int = 10
    rate: int = 20
    seconds: float = 1.0

    def view(self, cohort):
        return ToyView(cohort=cohort)


@dataclass(frozen=True, kw_only=True)
class ToyMethod(Method):
    """An untrained transformer."""

    ecg_encoder: ECGViT = ToyECG()
    recipe: Recipe = Recipe()

    def views(self):
        return {"ecg": self.ecg_encoder.view(self.cohort)}

    def build(self, shapes):
        from benchmark.encoders import Encoders

        return Encoders(ecg=self.ecg_encoder.build())

    def ecg_input(self, batch):
        return batch.ecg[..., : self.ecg_encoder.samples]


@dataclass(frozen=True, kw_only=True)
class ToyLabelled(ToyMethod):
    """A transformer that learns the labels itself, with or without all other people."""

    task: object = UNSET
    fraction: float = UNSET
    recipe: Recipe = QUICK

    def build(self, shapes):
        from benchmark.engine.supervision import Supervision

        encoders = super().build(shapes)
        classify = self.task.kind == "classification"
        encoders.output = Supervision(encoders.ecg.width, len(self.task.names), classify)
        return encoders

    def labels(self, cohort):
        return self.task.targets(cohort)

    def fit(self, encoders, people):
        encoders.output.fit(people.labels)

    def loss(self, encoders, batch):
        features = encoders.ecg(self.ecg_input(batch)).pooled
        return {"task": encoders.output.loss(features, batch.labels)}


COHORT = ToyCohort()


def bring(store, *stages):
    """Bring stages into a store and return the folders of their artifacts."""
    from benchmark.engine.executors.inline import execute
    from benchmark.engine.training import train

    report = execute(stages, store, train=train, device="cpu")
    assert report.ok
    return [store.path(stage.digest) for stage in stages]


def data(store):
    """Return the toy cohort."""
    (folder,) = bring(store, COHORT)
    return CohortData(folder)

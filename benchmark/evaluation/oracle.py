"""How much could be known: predictions from the true state behind what a method sees.

On simulated people the parameters are known that an ECG, a cine or a table of covariates was drawn
from. A model of those parameters, fitted on so many other people of the same population that its
own error hardly matters, scores what a perfect reader of that input would score on the same test
people and the same noisy labels: the ceiling of the input.

Retrieval has none. Its candidates are ranked by the similarity of features, and which similarity
puts most matches first depends on who is in the gallery: no set of true parameters is a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import numpy as np

from benchmark.api import Cohort, Context, Predictions, Task
from benchmark.cohorts.cohort import COVARIATES, DIAGNOSES, CohortData
from benchmark.cohorts.phenotypes import PHENOTYPE_NAMES
from benchmark.evaluation.heads import record_fit, save_predictions, test_predictions
from benchmark.evaluation.score import Score
from benchmark.stage import UNSET, Stage

Modality = Literal["ecg", "cmr", "covariates", "truth"]
TRUTH = "truth"
PEOPLE = 100_000
"""Learned from four times as many, a ceiling rises by at most 0.003 in R2 and 0.012 in AUROC."""
_GROUP = "ceilings"


def ceiling_scores(task: Task, cohort: Cohort, people: int = PEOPLE) -> dict[str, Score]:
    """Return the scores that are a task's ceilings on a cohort, by modality; {} without any.

    Real people have no known state, and retrieval has no ceiling. The noise-free truth is a
    prediction only where a measurement is predicted.
    """
    if not cohort.simulated or task.kind not in ("classification", "regression"):
        return {}
    if not set(task.needs) <= set(cohort.modalities):
        return {}
    modalities = ("ecg", "cmr", "covariates", *((TRUTH,) if task.kind == "regression" else ()))
    return {
        name: Score(
            head=Oracle(cohort=cohort, task=task, modality=name, people=people),
            metrics=task.metrics,
        )
        for name in modalities
    }


@dataclass(frozen=True, kw_only=True)
class KnownState(Stage):
    """The true state of a simulated cohort's people, and of others to learn from.

    Leaves, for each of `Modality`, ``<modality>.npy`` (people of the cohort, parameters) and
    ``reference_<modality>.npy`` (other people, parameters); and the tables of the other people,
    which `CohortData` reads.
    """

    cohort: Cohort = UNSET
    people: int = PEOPLE

    @property
    def label(self) -> str:
        """Say whose state."""
        return f"true state of the {self.cohort.title} cohort"

    @property
    def group(self) -> str:
        """List all that ceilings need together."""
        return _GROUP

    def run(self, context: Context) -> None:
        """Draw the states again; no ECG and no image is needed."""
        import pandas as pd

        from benchmark.cohorts.simulated.oracle import oracle_inputs, reference_people

        for name, values in oracle_inputs(self.cohort).items():
            np.save(context.out / f"{name}.npy", values.astype(np.float32))
        inputs, phenotypes, diagnoses = reference_people(self.cohort, self.people)
        for name, values in inputs.items():
            np.save(context.out / f"reference_{name}.npy", values.astype(np.float32))
        for name, values, columns in (
            ("people", inputs["covariates"], COVARIATES),
            ("phenotypes", phenotypes, PHENOTYPE_NAMES),
            ("diagnoses", diagnoses, DIAGNOSES),
        ):
            table = pd.DataFrame(values.astype(np.float32), columns=list(columns))
            table.to_parquet(context.out / f"{name}.parquet", index=False)

    def estimate(self) -> tuple[float, float]:
        """Return about 0.06 ms and 1.3 kB a person."""
        return 0.5 + 6e-5 * self.people, 1.3e3 * self.people


@dataclass(frozen=True, kw_only=True)
class Oracle(Stage):
    """Predicts a task from the true state behind one input; scored as any head.

    Fitted on people outside the cohort, so that neither its training labels nor their number are a
    method's; ``fraction`` is there because a score asks every head for it. ``truth`` predicts with
    the noise-free phenotypes themselves: what it lacks is the noise of the labels. A task that has
    ceilings takes its targets from the tables alone, which is all that there is of the others.
    """

    cohort: Cohort = UNSET
    task: Task = UNSET
    modality: Modality
    people: int = PEOPLE
    fraction: float = 1.0

    @property
    def known(self) -> KnownState:
        """Where the true state is read."""
        return KnownState(cohort=self.cohort, people=self.people)

    def implied_inputs(self) -> tuple[Stage, ...]:
        """Return the true state."""
        return (self.known,)

    @property
    def label(self) -> str:
        """Say what the oracle sees and predicts."""
        return f"oracle of {self.modality} on {self.task.name}"

    @property
    def group(self) -> str:
        """List all that ceilings need together."""
        return _GROUP

    def run(self, context: Context) -> None:
        """Fit on the reference people, then predict validation and test."""
        cohort = CohortData(context.open(self.cohort))
        known = context.open(self.known)
        own = np.load(known / f"{self.modality}.npy")
        if self.modality == TRUTH:
            predicted = self.task.targets(_with_phenotypes(cohort, own)).to_numpy(np.float64)
        else:
            table = self.task.targets(CohortData(known))
            x, y = np.load(known / f"reference_{self.modality}.npy"), table.to_numpy(np.float64)
            classify = self.task.kind == "classification"
            predicted = fit(x, y, classify, self.threads, context.progress)(own)
            record_fit(context, table, np.arange(len(table)))
        rows = (cohort.rows("validation"), cohort.rows("test"))
        save_predictions(context, *(predicted[r] for r in rows))

    def predictions(self, folder, cohort: CohortData) -> Predictions:
        """Return targets and predictions of the test people."""
        return test_predictions(self.task, folder, cohort)

    def estimate(self) -> tuple[float, float]:
        """Return about 4 s for 100,000 people."""
        return 0.2 + 4e-5 * self.people * (self.modality != TRUTH), 2e5


def _with_phenotypes(cohort: CohortData, phenotypes: np.ndarray) -> SimpleNamespace:
    """Return the tables of a cohort with other phenotypes, for a task to take targets from."""
    import pandas as pd

    table = pd.DataFrame(phenotypes, columns=list(PHENOTYPE_NAMES))
    return SimpleNamespace(people=cohort.people, diagnoses=cohort.diagnoses, phenotypes=table)


BOOSTING: Mapping[str, float | int | str] = {
    "max_depth": 4,
    "eta": 0.25,
    "max_bin": 64,
    "tree_method": "hist",
}
ROUNDS = 40
PATIENCE = 5
STRENGTH = 0.1  # sklearn's C


def fit(
    x: np.ndarray,
    y: np.ndarray,
    classify: bool,
    threads: int = 1,
    progress: Callable[[float, float, str], None] = lambda *_: None,
) -> Callable[[np.ndarray], np.ndarray]:
    """Fit every target as well as it can be done with many people and few inputs.

    A ridge or logistic regression, and boosted trees for what it leaves: curves, thresholds and
    interactions. Each half of the people gets its own, whose number of trees the other half
    chooses; the two are averaged.

    Parameters
    ----------
    x
        (people, inputs), in random order.
    y
        (people, targets), NaN where a person does not count.
    classify
        Whether ``y`` is 0 or 1.

    Returns
    -------
    Callable
        From inputs to predictions (people, targets): values, or log odds. 0 for a target that one
        of the halves cannot tell anything about.
    """
    import xgboost

    centre, spread = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    spread = np.where(spread > 0, spread, 1)

    def scale(values: np.ndarray) -> np.ndarray:
        # In float64: phenotypes that follow from each other leave float32 too little to solve with.
        return (values - centre) / spread

    x = scale(x)
    options = {
        **BOOSTING,
        "objective": "binary:logistic" if classify else "reg:squarederror",
        "nthread": threads,
    }
    middle = len(x) // 2
    halves = (slice(0, middle), slice(middle, None))
    models: list[tuple] = []
    for own, other in (halves, halves[::-1]):
        binned = {"max_bin": options["max_bin"], "nthread": threads}
        train = xgboost.QuantileDMatrix(x[own], **binned)
        watch = xgboost.QuantileDMatrix(x[other], ref=train, **binned)
        for column, target in enumerate(y.T):
            known = np.isfinite(target)
            if not all(_learnable(target[half][known[half]], classify) for half in halves):
                continue
            linear = _linear(x[own][known[own]], target[own][known[own]], classify)
            for matrix, rows in ((train, own), (watch, other)):
                matrix.set_info(
                    label=np.nan_to_num(target[rows]),
                    weight=known[rows].astype(np.float32),
                    base_margin=linear(x[rows]),
                )
            trees = xgboost.train(
                options,
                train,
                num_boost_round=ROUNDS,
                evals=[(watch, "other")],
                early_stopping_rounds=PATIENCE,
                verbose_eval=False,
            )
            models.append((column, linear, trees))
            progress(len(models), 2 * y.shape[1], "targets")

    def predict(values: np.ndarray) -> np.ndarray:
        values = scale(values)
        matrix = xgboost.DMatrix(values)
        out = np.zeros((len(values), y.shape[1]))
        for column, linear, trees in models:
            matrix.set_base_margin(linear(values))
            kept = (0, trees.best_iteration + 1)
            out[:, column] += trees.predict(matrix, iteration_range=kept, output_margin=True) / 2
        return out

    return predict


def _learnable(y: np.ndarray, classify: bool) -> bool:
    return len(np.unique(y)) == 2 if classify else y.size > 1


def _linear(x: np.ndarray, y: np.ndarray, classify: bool) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.linear_model import LogisticRegression, Ridge

    if classify:
        return LogisticRegression(C=STRENGTH, solver="newton-cholesky").fit(x, y).decision_function
    return Ridge().fit(x, y).predict

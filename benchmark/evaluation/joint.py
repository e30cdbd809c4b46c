"""The ``joint`` head: a method that learned the labels itself predicts them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmark.api import Cohort, Context, Method, Predictions, Task, UserError
from benchmark.cohorts.cohort import CohortData
from benchmark.evaluation.finetune import save_network_predictions
from benchmark.evaluation.heads import test_predictions
from benchmark.stage import UNSET, Stage


@dataclass(frozen=True, kw_only=True)
class Joint(Stage):
    """The output layer that a method has trained beside its representation, without any head.

    Ding et al., MICCAI 2024: the aligned ECG encoder with its task layer is the predictor. The
    method's part ``output`` reads the pooled features of its first modality. (Their code has a
    further stage that fine-tunes the phenotype model; the paper does not, and neither does this.)
    """

    method: Method = UNSET
    modality: str = UNSET
    task: Task = UNSET
    fraction: float = UNSET
    seed: int = UNSET

    @property
    def cohort(self) -> Cohort:
        """The cohort the method learned from."""
        return self.method.cohort

    @property
    def label(self) -> str:
        """Say whose output."""
        return f"output of {self.method.label} on {self.task.label}"

    @property
    def group(self) -> str:
        """List these heads together."""
        return f"Joint on {self.task.name}"

    def run(self, context: Context) -> None:
        """Predict validation and test people with the method's best round.

        Raises
        ------
        UserError
            When the method has no output layer, for this modality or for these targets.
        """
        from benchmark.engine.training import load_encoders

        folder = context.open(self.method)
        encoders = load_encoders(self.method, folder).to(context.device)
        if not encoders.has("output") or self.modality != self.method.modalities[0]:
            raise UserError(f"{self.method.label} predicts nothing from {self.modality} itself")
        if missing := set(self.task.names) - set(self.method.task.names):
            names = ", ".join(sorted(missing))
            raise UserError(f"{self.method.label} has not learned to predict {names}")
        encoder = getattr(encoders, self.modality)
        save_network_predictions(
            context,
            self,
            view=self.method.views()[self.modality],
            pooled=lambda x: encoder(x).pooled,
            output=encoders.output,
            history=folder / "history.json",
            balance=self.method.recipe.balance,
        )

    def predictions(self, folder: Path, cohort: CohortData) -> Predictions:
        """Return targets and predictions of the test people."""
        return test_predictions(self.task, folder, cohort)

"""A masked ECG and what a method fills in, on 12 leads (Alvarez-Florez et al. 2026, Figure 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchmark.cohorts.cohort import ECG_MILLIVOLT, ECG_RATE, LEADS, CohortData
from benchmark.cohorts.views import CleanECG
from benchmark.evaluation.diagnostics import NormalisedError, Reconstruct
from benchmark.pictures.common import (
    ORANGE,
    Drawing,
    Kind,
    Subject,
    new_figure,
    task_measured_by,
)
from benchmark.planning import Job

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class FilledECG(Reconstruct):
    """The first window of the first test person, filled in.

    Leaves ``filled.npy`` and ``true.npy`` (1, leads, samples) in the view's scale, ``hidden.npy``
    (1, leads, patches) and what the scored stage leaves, of this person.
    """

    SHOWN: ClassVar[int] = 1

    def rows(self, data: CohortData) -> np.ndarray:
        """Return the first test person: nobody chooses the one that looks best."""
        return super().rows(data)[: self.SHOWN]

    def measure(
        self, encoders: Encoders, views: Mapping[str, np.ndarray], ids: Sequence[str], device: str
    ) -> dict[str, torch.Tensor]:
        """Return signals and mask."""
        from benchmark.engine.batches import as_input

        window = self.views()["ecg"].crops()[0]
        x = as_input(views["ecg"], device)[..., window]
        filled, true, hidden = self.fill(encoders, x, ids, 0)
        signals = {"filled": filled.flatten(2), "true": true.flatten(2)}
        return {
            **signals,
            "hidden": hidden.squeeze(-1),
            **super().measure(encoders, views, ids, device),
        }


class Reconstruction(Kind):
    """Signal, hidden patches and what was filled in, lead by lead."""

    name = "reconstruction"
    title = "Masked ECG, filled in"
    caption = (
        "First window of the first test person. Black: the recorded signal; shaded: hidden from "
        "the encoder; orange: what was filled in there. The same patches are hidden for every "
        "method with equal patches. NMSE is of both windows: 1 is a flat line."
    )
    source = "Alvarez-Florez et al. 2026, Figure 2"
    single = True

    def job(self, subject: Subject) -> Job:
        """Return the job that scores the same as a number."""
        return subject.job(task_measured_by(NormalisedError))

    def stage(self, subject: Subject) -> FilledECG:
        """Return the filled-in window."""
        head = self.job(subject).score.head
        return FilledECG(method=head.method, task=head.task, hidden=head.hidden)

    def draw(self, subject: Subject) -> Drawing:
        """Draw twelve leads under one another, in mV over seconds."""
        stage = self.stage(subject)
        folder = subject.store.open(stage)
        names = ("filled", "true", "hidden", "error")
        filled, true, hidden, error = (np.load(folder / f"{n}.npy")[0] for n in names)
        view: CleanECG = stage.views()["ecg"]
        row = stage.rows(subject.data)[0]
        gain, level = _to_millivolt(subject.data, row, view, true)
        person = subject.data.people["id"].iloc[row]
        seconds = np.arange(true.shape[1]) / view.rate
        patch = true.shape[1] // hidden.shape[1] / view.rate
        title = f"{subject.name}: masked ECG, filled in"
        figure = new_figure(9.2, title, subject, 1, f"{person}, replicate 0, NMSE {error:.2f}")
        for lead, axes in enumerate(figure.subplots(len(LEADS), 1, sharex=True)):
            for place in np.flatnonzero(hidden[lead]):
                axes.axvspan(place * patch, (place + 1) * patch, color="#e4e4e4", lw=0)
            signal, fill = (gain[lead] * x[lead] + level[lead] for x in (true, filled))
            axes.plot(seconds, signal, color="black", lw=0.8)
            away = np.repeat(hidden[lead], round(patch * view.rate)) > 0
            axes.plot(seconds, np.where(away, fill, np.nan), color=ORANGE, lw=1.3)
            axes.set_ylabel(LEADS[lead], rotation=0, ha="right", va="center")
            axes.yaxis.set_label_coords(-0.1, 0.5)
            axes.locator_params(axis="y", nbins=3)
            axes.margins(x=0)
        axes.set_xlabel("time [s]")
        figure.supylabel("mV", size=9)
        alt = (
            f"Twelve leads of {seconds[-1] + 1 / view.rate:g} seconds with {hidden.mean():.0%} of "
            f"the patches hidden and filled in by {subject.name}; normalised squared error "
            f"{error:.2f}, where a flat line has 1."
        )
        return Drawing(figure, alt, 1)


def _to_millivolt(
    data: CohortData, row: int, view: CleanECG, scaled: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what turns each lead of the view's first window back into mV: gain and level.

    By least squares on the cleaned record: exact where a recipe cleans alike and only shifts and
    scales, and the nearest amplitude where it cleans in a way of its own.
    """
    from benchmark.cohorts import ecg

    raw = np.asarray(data.ecg[row], np.float64) * ECG_MILLIVOLT
    cleaned = ecg.resample(ecg.clean(raw, ECG_RATE), ECG_RATE, view.rate)
    pairs = zip(scaled, cleaned[:, view.crops()[0]], strict=True)
    fits = [np.polyfit(x, y, 1) if np.ptp(x) else (0.0, y.mean()) for x, y in pairs]
    gain, level = np.transpose(fits)
    return gain, level

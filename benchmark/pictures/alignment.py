"""Which cine frames the segments of the heart beat agree with (Selivanov et al. 2025, Figure 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmark.evaluation.diagnostics import AlignPhases, OwnPhase, phase_cosines
from benchmark.pictures.common import (
    Drawing,
    Kind,
    NotApplicable,
    Subject,
    new_figure,
    percent_axis,
    sequence,
    task_measured_by,
)
from benchmark.planning import Job
from benchmark.reports.rows import SMALLEST_COUNT

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders

SPACES = {"own": "encoders' own space", "own_projected": "shared space"}


@dataclass(frozen=True, kw_only=True)
class PhaseMatrices(AlignPhases):
    """The cosines of every segment with every frame of each test person.

    Leaves ``own.npy``, where both encoders are equally wide, and ``own_projected.npy``, (people,
    segments, frames), NaN for people without a full beat.
    """

    def measure(
        self, encoders: Encoders, views: Mapping[str, np.ndarray], ids: Sequence[str], device: str
    ) -> dict[str, torch.Tensor]:
        """Return a matrix per space."""
        import torch

        found, valid = self.pairs(encoders, views, device)
        return {
            name: torch.where(valid[:, None, None], phase_cosines(*pair), torch.nan)
            for name, pair in found.items()
        }


class Alignment(Kind):
    """The mean of the matrices over people."""

    name = "alignment"
    title = "Alignment of phases"
    caption = (
        "Mean cosine over the test people of the ECG's tokens in a segment of the heart beat (from "
        "one R peak to the next) and the cine's tokens of a frame. A bright diagonal: each phase "
        "of the ECG resembles the same phase of the images. Black dot: the nearest frame of each "
        "segment in the mean matrix. Every matrix has its own scale of colours."
    )
    source = "Selivanov et al. 2025, Figure 2"
    suffix = "svg"

    def job(self, subject: Subject) -> Job:
        """Return the job that scores the same as a number."""
        return subject.job(task_measured_by(OwnPhase), "ecg-cmr")

    def stage(self, subject: Subject) -> PhaseMatrices:
        """Return the matrices of everybody."""
        head = self.job(subject).score.head
        return PhaseMatrices(method=head.method, task=head.task)

    def draw(self, subject: Subject) -> Drawing:
        """Draw a matrix for each space."""
        folder = subject.store.open(self.stage(subject))
        matrices: dict[str, np.ndarray] = {}
        people: int | str = 0
        for name in SPACES:
            if (folder / f"{name}.npy").exists():
                found = np.load(folder / f"{name}.npy")
                found = found[np.isfinite(found).all(axis=(1, 2))]
                if len(found) < SMALLEST_COUNT:
                    raise NotApplicable(f"fewer than {SMALLEST_COUNT} test people have a full beat")
                people = subject.shown_people(len(found))
                matrices[name] = found.mean(0)
        title = f"{subject.name}: alignment of heart phases"
        figure = new_figure(3.3, title, subject, people)
        for axes, (name, matrix) in zip(
            np.atleast_1d(figure.subplots(1, len(matrices))), matrices.items(), strict=True
        ):
            self._matrix(axes, matrix, SPACES[name])
        alt = "; ".join(f"{SPACES[n]}: {_diagonal(m)}" for n, m in matrices.items())
        numbers = {name: matrix.round(4).tolist() for name, matrix in matrices.items()}
        text = f"Mean similarity of heart beat segments and cine frames by {subject.name}; {alt}."
        return Drawing(figure, text, people, numbers)

    def _matrix(self, axes, matrix: np.ndarray, space: str) -> None:
        times = len(matrix)
        edges = np.linspace(0, 1, times + 1)
        # Edges in the colour of the face: without them hairlines show between the squares.
        style = {"cmap": sequence(), "edgecolors": "face", "linewidth": 0.3}
        image = axes.pcolormesh(edges, edges, matrix, **style)
        axes.set_aspect("equal")
        middle = (np.arange(times) + 0.5) / times
        axes.plot(middle[matrix.argmax(1)], middle, "o", ms=4, mfc="black", mec="white", mew=0.8)
        axes.set_title(space)
        percent_axis(axes, "x", "cine frame [% of beat]")
        percent_axis(axes, "y", "ECG segment [% of beat]")
        bar = axes.figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, aspect=16)
        bar.locator = _few_ticks()
        bar.set_label("mean cosine")


def _few_ticks():
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(3)


def _diagonal(matrix: np.ndarray) -> str:
    own = int((matrix.argmax(1) == np.arange(len(matrix))).sum())
    return f"the frame of the own phase is the nearest one in {own} of {len(matrix)} segments"

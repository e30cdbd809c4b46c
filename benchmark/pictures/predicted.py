"""Predicted against measured phenotypes, as densities (Turgut et al. 2025, Figure 4)."""

from __future__ import annotations

import itertools
import math

import numpy as np

from benchmark.api import Metric, Predictions
from benchmark.pictures.common import (
    ORANGE,
    Drawing,
    Kind,
    NotApplicable,
    Subject,
    new_figure,
    phenotypes,
    pretty,
)
from benchmark.planning import Job
from benchmark.reports.rows import SMALLEST_COUNT
from benchmark.stage import Stage

BINS = 18
SPREAD = 3.0  # SDs of the measured values on either side of their mean: an edge that is nobody's
STEPS = (1, 5, 10, 20)
"""Least people of each shade; the first one is left out of real people's pictures."""
SHADES = ("#dcdcdc", "#9ecae1", "#4292c6", "#084594")


class Predicted(Kind):
    """What the head makes of each test person against what was measured."""

    name = "predicted"
    title = "Predicted against measured"
    caption = (
        "Test people, counted in squares: the darker, the more people. Broken line: prediction "
        "equals measurement; full line: regression of prediction on measurement, flatter the more "
        "a prediction stays near the mean. Both axes span the mean plus or minus 3 SD of the "
        "measured values."
    )
    source = "Turgut et al. 2025, Figure 4"
    suffix = "svg"

    def job(self, subject: Subject) -> Job:
        """Return the first head on all labels."""
        return subject.job(phenotypes())

    def stage(self, subject: Subject) -> Stage:
        """Return the fitted head."""
        return self.job(subject).score.head

    def draw(self, subject: Subject) -> Drawing:
        """Draw one panel for each phenotype."""
        from matplotlib.patches import Patch

        job = self.job(subject)
        head, task = job.score.head, job.task
        found = head.predictions(subject.store.open(head), subject.data)
        scores = {metric.name: metric.influence(found)[0] for metric in task.metrics}
        targets = [
            (t, *pairs) for t in range(len(task.names)) if (pairs := _pairs(found, t)) is not None
        ]
        if not targets:
            raise NotApplicable(f"no target is known of {SMALLEST_COUNT} test people")
        people = subject.shown_people(max(len(measured) for _, measured, _ in targets))
        rows = math.ceil(len(targets) / 2)
        title = f"{subject.name}: predicted against measured"
        figure = new_figure(
            0.85 + 2.25 * rows, title, subject, people, f"replicate 0, {job.head} head"
        )
        panels = figure.subplots(rows, 2, squeeze=False).ravel()
        steps = STEPS if subject.cohort.simulated else STEPS[1:]
        numbers = {}
        for axes, (t, measured, predicted) in zip(panels, targets, strict=False):
            name = task.names[t]
            unit = f" [{task.units[name]}]" if task.units.get(name) else ""
            values = {metric: float(score[t]) for metric, score in scores.items()}
            slope, intercept = np.polyfit(measured, predicted, 1)
            rounded = {k: round(float(v), 4) for k, v in {**values, "slope": slope}.items()}
            numbers[name] = {"people": subject.shown_people(len(measured)), **rounded}
            lo, hi = measured.mean() + SPREAD * measured.std() * np.array([-1, 1])
            _density(axes, measured, predicted, (lo, hi), steps)
            axes.plot([lo, hi], [lo, hi], color="black", lw=1, dashes=(4, 2))
            axes.plot([lo, hi], [intercept + slope * x for x in (lo, hi)], color=ORANGE, lw=1.6)
            axes.set(xlim=(lo, hi), ylim=(lo, hi), aspect="equal")
            axes.set_xlabel(f"measured {name}{unit}")
            axes.set_ylabel("predicted")
            axes.set_title(", ".join(f"{pretty(m)} {v:.2f}" for m, v in values.items()))
            axes.locator_params(nbins=4)
        for axes in panels[len(targets) :]:
            axes.set_axis_off()
        keys = [
            Patch(color=shade, label=label)
            for shade, label in zip(SHADES[-len(steps) :], _labels(steps), strict=True)
        ]
        figure.legend(
            handles=keys,
            title="people in a square",
            loc="outside lower center",
            ncols=len(keys),
            handlelength=1.2,
        )
        return Drawing(figure, _alt(subject.name, numbers, task.metrics), people, numbers)


def _pairs(found: Predictions, t: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return measured and predicted values of a target; None for too few people, or no spread."""
    measured, predicted = (found.arrays[key][:, t] for key in ("target", "prediction"))
    known = np.isfinite(measured) & np.isfinite(predicted)
    if known.sum() < SMALLEST_COUNT or not np.ptp(measured[known]):
        return None
    return measured[known], predicted[known]


def _squares(
    x: np.ndarray, y: np.ndarray, limits: tuple[float, float], steps: tuple[int, ...]
) -> list[np.ndarray]:
    """Return the lower left corners (squares, 2) of each shade."""
    counts, edges, _ = np.histogram2d(x, y, bins=BINS, range=[limits, limits])
    shade = np.searchsorted(steps, counts, side="right")
    return [edges[np.argwhere(shade == number + 1)] for number in range(len(steps))]


def _density(
    axes, x: np.ndarray, y: np.ndarray, limits: tuple[float, float], steps: tuple[int, ...]
) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    side = (limits[1] - limits[0]) / BINS
    shades = SHADES[-len(steps) :]
    for corners, colour in zip(_squares(x, y, limits, steps), shades, strict=True):
        if len(corners):
            unit = Path.unit_rectangle()
            whole = [Path(unit.vertices * side + corner, unit.codes) for corner in corners]
            # Edges in the colour of the face: without them hairlines show between the squares.
            axes.add_patch(PathPatch(Path.make_compound_path(*whole), color=colour, lw=0.3))


def _labels(steps: tuple[int, ...]) -> list[str]:
    ends = [f"{a}-{b - 1}" for a, b in itertools.pairwise(steps)]
    return [*ends, f"{steps[-1]}+"]


def _alt(method: str, numbers: dict[str, dict[str, float]], metrics: tuple[Metric, ...]) -> str:
    name = metrics[0].name
    best, worst = (pick(numbers, key=lambda n: numbers[n][name]) for pick in (max, min))
    return (
        f"Density plots of {len(numbers)} phenotypes, predicted by {method} against measured. "
        f"{pretty(name)} is between {numbers[worst][name]:.2f} ({worst}) and "
        f"{numbers[best][name]:.2f} ({best})."
    )

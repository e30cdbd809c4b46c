"""What all kinds of picture have in common: whom they are of, how they look, how they are saved."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.api import Cohort, Metric, Task
from benchmark.cohorts.cohort import CohortData
from benchmark.engine.store import Store
from benchmark.planning import Job, Request, jobs_of, why_not
from benchmark.privacy import ids_in
from benchmark.registry import MethodEntry, registry
from benchmark.reports.files import grouped
from benchmark.reports.rows import shown_people
from benchmark.stage import Stage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

WIDTH = 4.6  # inches; a telephone shows it at three quarters, where 9 points are still legible
PIXELS_PER_INCH = 100  # of the page
SHARPNESS = 2  # pixels of a file for one of the page
COLOURS = 256  # of a PNG

# Okabe and Ito's palette: told apart by every kind of colour vision, and in print by lightness.
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#666666"

_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "ecgcmr-bench",  # else names in the file are drawn at random
}


class NotApplicable(Exception):  # noqa: N818  (nothing went wrong)
    """A picture that a method, a cohort or its rows do not allow; the message says why."""


@dataclass(frozen=True)
class Subject:
    """Whose picture is drawn.

    Attributes
    ----------
    rows
        Folders with the recorded rows of the cohort and scale, ``<track>/<task>/<method>.json``.
    """

    entry: MethodEntry
    request: Request
    store: Store
    rows: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The method's name."""
        return self.entry.name

    @property
    def cohort(self) -> Cohort:
        """The cohort; digests of its stages are cached on it, so it is made once."""
        return _cohort(self.request)

    @functools.cached_property
    def data(self) -> CohortData:
        """The people."""
        return CohortData(self.store.open(self.cohort))

    def shown_people(self, n: int) -> int | str:
        """Return how many test people a picture says that it is of, as rows do."""
        return n if self.cohort.simulated else shown_people(n, len(self.data.rows("test")))

    def job(self, task: Task, modality: str = "") -> Job:
        """Return the work of replicate 0 on a task with all labels.

        Raises
        ------
        NotApplicable
            With the reason the method has nothing to do on the task.
        """
        for job in jobs_of(self.entry, task, self.cohort, 0, self.request):
            if job.modality == (modality or job.modality):
                return job
        raise NotApplicable(why_not(self.entry, task, self.cohort, self.request))


@functools.lru_cache(maxsize=4)
def _cohort(request: Request) -> Cohort:
    return request.make_cohort()


@dataclass(frozen=True)
class Drawing:
    """A finished picture.

    Attributes
    ----------
    alt
        What it shows, for those who do not see it.
    people
        How many test people it is of; of real ones as `Subject.shown_people` has it.
    numbers
        The aggregate numbers in it; empty where it shows people one by one.
    """

    figure: Figure
    alt: str
    people: int | str
    numbers: Mapping[str, Any] = field(default_factory=dict)


class Kind:
    """A kind of picture, one instance each."""

    name: ClassVar[str]
    """First part of the file names."""
    title: ClassVar[str]
    caption: ClassVar[str]
    """How to read it."""
    source: ClassVar[str]
    """The published figure that it follows."""
    suffix: ClassVar[str] = "png"
    single: ClassVar[bool] = False
    """Whether it shows people one by one: simulated ones only."""

    def recipes(self, subject: Subject) -> dict[str, str]:
        """Return the recipe digest of what is drawn, by task; raises `NotApplicable`."""
        job = self.job(subject)
        return {job.task.name: grouped(job.score.recipe_digest)}

    def job(self, subject: Subject) -> Job:
        """Return the job whose result is drawn; raises `NotApplicable`."""
        raise NotImplementedError

    def stage(self, subject: Subject) -> Stage | None:
        """Return what has to be in the store; None where rows are enough."""
        raise NotImplementedError

    def draw(self, subject: Subject) -> Drawing:
        """Draw from the store and the rows alone; raises `NotApplicable`."""
        raise NotImplementedError


def task_measured_by(metric: type[Metric]) -> Task:
    """Return the task that a kind of picture stands for: the first with this metric."""
    for task in registry().tasks.values():
        if any(isinstance(own, metric) for own in task.metrics):
            return task
    raise NotApplicable(f"no task measures {metric.name}")


def phenotypes() -> Task:
    """Return the task of continuous targets that decides."""
    for task in registry().tasks.values():
        if task.kind == "regression" and task.confirmatory:
            return task
    raise NotApplicable("no task predicts phenotypes")


# ------------------------------------------------------------------------------------- drawing


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw and save alike, whatever the user's matplotlib is told."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def new_figure(
    height: float, title: str, subject: Subject, people: int | str, more: str = "replicate 0"
) -> Figure:
    """Return a figure of the common width whose head says what, of whom and how many.

    ``height`` is in inches and includes the head.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), facecolor="white", layout="constrained")
    # The head is 0.5 inches; the layout engine keeps the axes below it.
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - 0.52 / height))
    cohort = f"{subject.cohort.title}, scale {subject.request.scale}"
    figure.text(0.02, 1 - 0.06 / height, title, va="top", weight="bold", size=10.5)
    number = people if isinstance(people, str) else f"{people:,}"
    who = "1 test person" if people == 1 else f"{number} test people"
    facts = f"{cohort}, {who}, {more}"
    figure.text(0.02, 1 - 0.29 / height, facts, va="top", size=8, color="#444444")
    return figure


def pretty(metric: str) -> str:
    """Return a metric's name as it is printed: R² for R2."""
    return re.sub(r"(?<=[A-Za-z])2$", "²", metric)


def sequence() -> ListedColormap:
    """Return the colours of a scale: in so few steps a colour bar is drawn, not embedded."""
    import matplotlib as mpl

    return mpl.colormaps["cividis"].resampled(40)


def percent_axis(axes: Axes, which: str, label: str) -> None:
    """Label an axis of shares of the heart beat."""
    getattr(axes, f"set_{which}ticks")([0, 0.5, 1], ["0", "50", "100"])
    getattr(axes, f"set_{which}label")(label)


def encoded(figure: Figure, suffix: str) -> bytes:
    """Return a figure as a file: no date, no program, the same bytes for the same picture."""
    raw = io.BytesIO()
    if suffix == "svg":
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(raw, format="svg", metadata=metadata)
        return _plain(raw.getvalue().decode()).encode()
    from PIL import Image

    dots = PIXELS_PER_INCH * SHARPNESS
    figure.savefig(raw, format="png", dpi=dots, metadata={"Software": None})
    image = Image.open(raw).convert("RGB")
    image = image.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    for level in range(9, 0, -1):
        small = io.BytesIO()
        image.save(small, format="png", compress_level=level)
        # Seven digits in a row, by chance, would stop the scan of what git sees.
        if not any(ids_in(small.getvalue().decode("utf-8", "replace"))):
            break
    return small.getvalue()


def _plain(svg: str) -> str:
    """Give the elements of an SVG numbers for names, and round their places.

    Names made of hashes may look like a person's id to a scan. A hundredth of a point is finer than
    any screen, and machines that differ in a last bit still draw the same.
    """
    names = dict.fromkeys(re.findall(r'(?<= id=")[^"]+', svg))
    numbers = {name: f"e{number}" for number, name in enumerate(names)}

    def tag(found: re.Match) -> str:
        rounded = re.sub(r"-?\d+\.\d{3,}", lambda x: f"{float(x[0]):.2f}", found[0])
        return re.sub(
            r'( id="|href="#|url\(#)([^")]+)', lambda x: x[1] + numbers.get(x[2], x[2]), rounded
        )

    return re.sub(r"<[^>]+>", tag, svg)

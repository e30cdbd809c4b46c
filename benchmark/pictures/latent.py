"""The shared space before and after alignment, by t-SNE (Ding et al. 2024, Figure 2a)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.api import Context, Method, View
from benchmark.cohorts.cohort import CohortData
from benchmark.pictures.common import (
    BLUE,
    ORANGE,
    Drawing,
    Kind,
    NotApplicable,
    Subject,
    new_figure,
    phenotypes,
    sequence,
)
from benchmark.planning import Job
from benchmark.registry import registry
from benchmark.stage import Stage

MOMENTS = ("before", "after")
MODALITIES = ("ecg", "cmr")


@dataclass(frozen=True, kw_only=True)
class LatentSpace(Stage):
    """Places of the first test people's ECGs and images in the shared space, in two dimensions.

    Leaves ``before.npy`` and ``after.npy`` (2 modalities, people, 2), each the t-SNE of both
    modalities at once, on directions, since methods compare by cosine. Before: encoders and
    projectors as the alignment starts with them.
    """

    threads: ClassVar[int] = 2
    on_device: ClassVar[bool] = True
    MOST: ClassVar[int] = 500

    method: Method
    perplexity: float = 30.0

    @property
    def label(self) -> str:
        """Say whose."""
        return f"{type(self).__name__} of {self.method.label}"

    def views(self) -> dict[str, View]:
        """Return what the encoders read."""
        own = self.method.views()
        return {modality: own[modality] for modality in MODALITIES}

    def implied_inputs(self) -> tuple[Stage, ...]:
        """Return the views and what the alignment started from."""
        starts = self.method.initial_weights().values()
        return (self.method.cohort, *self.views().values(), *starts)

    def rows(self, data: CohortData) -> np.ndarray:
        """Return who is shown."""
        return data.rows("test")[: self.MOST]

    def run(self, context: Context) -> None:
        """Embed the people at both moments."""
        from sklearn.manifold import TSNE

        from benchmark.engine.batches import open_view
        from benchmark.engine.training import load_encoders, untrained_encoders
        from benchmark.evaluation.embed import BATCH, encode

        chosen = self.rows(CohortData(context.open(self.method.cohort)))
        arrays = {name: open_view(view, context)[chosen] for name, view in self.views().items()}
        for done, moment in enumerate(MOMENTS):
            encoders = (
                load_encoders(self.method, context.open(self.method))
                if moment == "after"
                else untrained_encoders(self.method, context).eval()
            ).to(context.device)
            shared = []
            for name, view in self.views().items():
                for start in range(0, len(chosen), BATCH):
                    values = arrays[name][start : start + BATCH]
                    shared.append(encode(encoders, name, values, view.crops(), context.device)[1])
            points = np.concatenate(shared).astype(np.float64)
            points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
            perplexity = min(self.perplexity, (len(points) - 1) / 3)
            places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(points)
            np.save(context.out / f"{moment}.npy", places.reshape(2, len(chosen), 2))
            context.progress(done + 1, len(MOMENTS), "spaces")

    def estimate(self) -> tuple[float, float]:
        """Return about ten seconds."""
        return 10.0, 1e4


class Latent(Kind):
    """Both moments, coloured by modality and by a phenotype."""

    name = "latent"
    title = "Space before and after"
    caption = (
        "t-SNE (perplexity 30, start by principal components, one seed for all) of the directions "
        "of test people's ECGs and images in the shared space. Before: encoders as pretrained and "
        "projectors untrained. Distances between far points mean nothing in such a picture; what "
        "can be read is who mixes with whom."
    )
    source = "Ding et al. 2024, Figure 2a"
    single = True

    def job(self, subject: Subject) -> Job:
        """Return the job that searches the shared space."""
        if not subject.entry.cls.two_tower:
            raise NotApplicable("it has no space that ECG and CMR share")
        for task in registry().tasks.values():
            if task.kind == "retrieval":
                return subject.job(task, "ecg-cmr")
        raise NotApplicable("no task searches a shared space")

    def stage(self, subject: Subject) -> LatentSpace:
        """Return the places."""
        return LatentSpace(method=self.job(subject).score.head.embedding.method)

    def draw(self, subject: Subject) -> Drawing:
        """Draw two by two panels."""
        stage = self.stage(subject)
        folder = subject.store.open(stage)
        places = {moment: np.load(folder / f"{moment}.npy") for moment in MOMENTS}
        task = phenotypes()
        name = task.names[0]
        rows = stage.rows(subject.data)
        values = task.targets(subject.data)[name].to_numpy(np.float64)[rows]
        people = len(rows)
        title = f"{subject.name}: the shared space (t-SNE)"
        figure = new_figure(5.75, title, subject, people)
        grid = figure.subplots(2, 2)
        lo, hi = np.nanpercentile(values, (2, 98))
        for column, (moment, found) in enumerate(places.items()):
            for axes in grid[:, column]:
                axes.set(xticks=[], yticks=[], box_aspect=1)
                axes.set_aspect("equal", adjustable="datalim")
                for side in axes.spines.values():
                    side.set_visible(True)
            top, bottom = grid[:, column]
            top.set_title(f"{moment} alignment")
            for modality, marker, colour in zip(MODALITIES, "os", (BLUE, ORANGE), strict=True):
                x, y = found[MODALITIES.index(modality)].T
                style = {"marker": marker, "s": 7, "lw": 0}
                top.scatter(x, y, color=colour, alpha=0.65, label=modality.upper(), **style)
                shown = bottom.scatter(x, y, c=values, vmin=lo, vmax=hi, cmap=sequence(), **style)
        for axes in grid[:, 0]:
            axes.set_ylabel("t-SNE 2")
        for axes in grid[1, :]:
            axes.set_xlabel("t-SNE 1")
        key = {"loc": "upper center", "bbox_to_anchor": (1.0, -0.01), "ncols": 2}
        # In the space of an empty title: the layout would push the columns apart for it.
        grid[0, 0].legend(**key, markerscale=2, handletextpad=0.1).set_in_layout(False)
        grid[1, 0].set_title(" ", size=14)
        bar = figure.colorbar(shown, ax=grid[1, :], location="bottom", shrink=0.7, aspect=30)
        bar.set_label(f"{name} [{task.units.get(name, '')}]")
        mixed = {moment: _mixed(found) for moment, found in places.items()}
        alt = (
            f"t-SNE of ECGs and images of {people} people in the shared space of {subject.name}. "
            f"Of a point's ten nearest, {mixed['before']:.0%} are of the other modality before "
            f"alignment and {mixed['after']:.0%} after it."
        )
        return Drawing(figure, alt, people)


def _mixed(places: np.ndarray) -> float:
    """Return which share of the ten nearest points is of the other modality, on average."""
    from scipy.spatial import cKDTree

    points = places.reshape(-1, 2)
    modality = np.repeat([0, 1], len(points) // 2)
    k = min(11, len(points))
    _, near = cKDTree(points).query(points, k=k)
    return float((modality[near[:, 1:]] != modality[:, None]).mean())

"""Where in the image the ECG agrees with it (Turgut et al. 2025, Figure 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchmark.cohorts.cohort import CohortData
from benchmark.evaluation.diagnostics import InsideVentricle, Localise, share_inside
from benchmark.pictures.common import (
    Drawing,
    Kind,
    Subject,
    new_figure,
    sequence,
    task_measured_by,
)
from benchmark.planning import Job

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders

OUTLINE = "#ff4fa3"  # in none of the maps' colours, nor grey


@dataclass(frozen=True, kw_only=True)
class SimilarityMaps(Localise):
    """The maps of the first test people.

    Leaves ``map.npy`` (people, rows, columns), ``image.npy`` and ``ventricle.npy`` (people, height,
    width), ``inside.npy`` and ``chance.npy`` (people,).
    """

    SHOWN: ClassVar[int] = 3

    def rows(self, data: CohortData) -> np.ndarray:
        """Return the first test people: nobody chooses the ones that look best."""
        return super().rows(data)[: self.SHOWN]

    def measure(
        self, encoders: Encoders, views: Mapping[str, np.ndarray], ids: Sequence[str], device: str
    ) -> dict[str, torch.Tensor]:
        """Return maps, and what lies under them."""
        import torch

        similarity, truth = self.maps(encoders, views, device)
        _, rows, columns = self.method.grid("cmr")
        # Frame 0 of the one channel, which is end-diastole in every view.
        image = torch.from_numpy(np.array(views["cmr"][:, 0, 0]))
        ventricle = torch.from_numpy(np.array(views["ventricle"]))
        return {
            "map": similarity.unflatten(1, (rows, columns)),
            "image": image,
            "ventricle": ventricle,
            "inside": share_inside(similarity, truth),
            "chance": truth.mean(1),
        }


class Similarity(Kind):
    """Images of a few people, and the maps of the same places."""

    name = "similarity"
    title = "Similarity maps"
    caption = (
        "Above: the middle short-axis slice of the first test people at end-diastole. Below: "
        "cosine of the whole ECG and each patch of that image in the shared space, one scale for "
        "all. Outline: the left ventricle as it truly is, cavity and muscle. Inside: its share of "
        "what exceeds the map's mean; in brackets its share of the area, which is chance."
    )
    source = "Turgut et al. 2025, Figure 6"
    single = True

    def job(self, subject: Subject) -> Job:
        """Return the job that scores the same as a number."""
        return subject.job(task_measured_by(InsideVentricle), "ecg-cmr")

    def stage(self, subject: Subject) -> SimilarityMaps:
        """Return the maps."""
        head = self.job(subject).score.head
        return SimilarityMaps(method=head.method, task=head.task)

    def draw(self, subject: Subject) -> Drawing:
        """Draw each person's image, and under it the map."""
        stage = self.stage(subject)
        folder = subject.store.open(stage)
        names = ("map", "image", "ventricle", "inside", "chance")
        maps, images, ventricles, inside, chance = (np.load(folder / f"{n}.npy") for n in names)
        ids = subject.data.people["id"].iloc[stage.rows(subject.data)]
        people = len(maps)
        title = f"{subject.name}: similarity of ECG and places"
        figure = new_figure(4.25, title, subject, people)
        grid = figure.subplots(2, people, squeeze=False)
        size = images.shape[1]
        spacing = stage.views()["cmr"].spacing or subject.data.about["spacing"]
        extent = (0, size * spacing / 10, size * spacing / 10, 0)
        middle = (np.arange(size) + 0.5) * spacing / 10
        limits = {"vmin": maps.min(), "vmax": maps.max()}
        for i, person in enumerate(ids):
            for axes in grid[:, i]:
                axes.imshow(images[i], cmap="gray", extent=extent)
                axes.tick_params(labelleft=i == 0)
                axes.locator_params(nbins=4)
            shown = grid[1, i].imshow(
                maps[i], cmap=sequence(), extent=extent, interpolation="nearest", **limits
            )
            for axes in grid[:, i]:
                inner = ventricles[i] / max(ventricles[i].max(), 1)
                axes.contour(middle, middle, inner, levels=[0.5], colors=OUTLINE, linewidths=1.6)
            grid[0, i].set_title(person)
            grid[1, i].set_title(f"inside {inside[i]:.2f} ({chance[i]:.2f})", size=8.5)
            grid[1, i].set_xlabel("cm")
        for axes in grid[:, 0]:
            axes.set_ylabel("cm")
        bar = figure.colorbar(shown, ax=grid, location="bottom", shrink=0.6, aspect=30)
        bar.set_label("cosine of ECG and image patch")
        alt = "; ".join(
            f"{person}: {share:.0%} of the similarity inside the left ventricle, which fills "
            f"{area:.0%} of the image"
            for person, share, area in zip(ids, inside, chance, strict=True)
        )
        return Drawing(figure, f"Similarity maps of {subject.name} over CMR images. {alt}.", people)

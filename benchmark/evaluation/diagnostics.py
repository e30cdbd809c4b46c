"""Looks into representations: what they show of each test person, for reading and not for ranking.

Every stage here leaves one array per measure, (test people,) float64, NaN for people of whom it
cannot be taken, and ``chance.npy`` with what knowing nothing would give the same person.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchmark.api import Cohort, Context, Method, Metric, Predictions, Task, View
from benchmark.cohorts.cohort import CohortData
from benchmark.cohorts.views import CleanECG, LeftVentricle, RPeaks
from benchmark.stage import Stage

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders

BATCH = 128
BEAT = (0.3, 2.0)  # seconds from R peak to R peak; anything else is a missed peak or a false one
_TIED = 1e-6  # of a cosine


@dataclass(frozen=True, kw_only=True)
class PersonMean(Metric):
    """Mean over the people of whom a number could be taken."""

    per_target: ClassVar[bool] = False
    array: ClassVar[str] = ""
    """Which array of the stage's it reads."""

    def people(self, predictions: Predictions) -> int:
        """Count the people with a number."""
        return int(np.isfinite(predictions.arrays[self.array]).sum())

    def influence(self, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """Return theta (1,) and psi (people, 1), 0 for those without a number."""
        values = np.asarray(predictions.arrays[self.array], np.float64)[:, None]
        present = np.isfinite(values)
        if not present.any():
            return np.array([np.nan]), np.full(values.shape, np.nan)
        theta = values[present].mean()
        return np.array([theta]), np.where(present, (values - theta) / present.mean(), 0.0)

    def chance(self, predictions: Predictions) -> np.ndarray:
        """Average the chance of the same people, (1,)."""
        present = np.isfinite(predictions.arrays[self.array])
        chance = np.asarray(predictions.arrays["chance"], np.float64)[present]
        return chance.mean(keepdims=True) if chance.size else np.array([np.nan])


@dataclass(frozen=True, kw_only=True)
class NormalisedError(PersonMean):
    """Squared error of what was hidden, as a share of its spread about each lead's mean."""

    name: ClassVar[str] = "NMSE"
    higher_is_better: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    array: ClassVar[str] = "error"


@dataclass(frozen=True, kw_only=True)
class OwnPhase(PersonMean):
    """Share of heart beat segments whose nearest cine frame is that of their own phase."""

    name: ClassVar[str] = "own phase"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    array: ClassVar[str] = "own"


@dataclass(frozen=True, kw_only=True)
class OwnPhaseProjected(OwnPhase):
    """The same after the projectors into the shared space."""

    name: ClassVar[str] = "own phase, projected"
    array: ClassVar[str] = "own_projected"


@dataclass(frozen=True, kw_only=True)
class InsideVentricle(PersonMean):
    """Share of the similarity map that lies inside the left ventricle."""

    name: ClassVar[str] = "inside LV"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    array: ClassVar[str] = "inside"


@dataclass(frozen=True, kw_only=True)
class Inspect(Stage):
    """Measure something on every test person with a trained method."""

    threads: ClassVar[int] = 2
    on_device: ClassVar[bool] = True
    fraction: ClassVar[float] = 1.0
    method: Method
    task: Task

    @property
    def cohort(self) -> Cohort:
        """The cohort the method was trained on."""
        return self.method.cohort

    @property
    def label(self) -> str:
        """Say what is done with which method."""
        return f"{type(self).__name__} of {self.method.label}"

    @property
    def group(self) -> str:
        """List those of one kind together."""
        return type(self).__name__

    def views(self) -> dict[str, View]:
        """Return what is looked at of each person."""
        own = self.method.views()
        return {m: own[m] for m in self.method.modalities}

    def implied_inputs(self) -> tuple[Stage, ...]:
        """Return the views: some are no method's."""
        return tuple(self.views().values())

    def rows(self, data: CohortData) -> np.ndarray:
        """Return who is looked at: the test people."""
        return data.rows("test")

    def run(self, context: Context) -> None:
        """Measure them in batches."""
        import torch

        from benchmark.engine.batches import open_view
        from benchmark.engine.training import load_encoders

        encoders = load_encoders(self.method, context.open(self.method)).to(context.device)
        data = CohortData(context.open(self.cohort))
        test = self.rows(data)
        ids = data.hash_id.to_numpy()[test]
        arrays = {name: open_view(view, context) for name, view in self.views().items()}
        parts = []
        for start in range(0, len(test), BATCH):
            chosen = slice(start, start + BATCH)
            views = {name: array[test[chosen]] for name, array in arrays.items()}
            with torch.inference_mode():
                measured = self.measure(encoders, views, ids[chosen], context.device)
            parts.append({n: np.asarray(v.double().cpu()) for n, v in measured.items()})
            context.progress(min(start + BATCH, len(test)), len(test), "people")
        for name in parts[0]:
            np.save(context.out / f"{name}.npy", np.concatenate([part[name] for part in parts]))

    def measure(
        self, encoders: Encoders, views: Mapping[str, np.ndarray], ids: Sequence[str], device: str
    ) -> dict[str, torch.Tensor]:
        """Return the arrays (people, ...) of some people, given what is stored of them."""
        raise NotImplementedError

    def predictions(self, folder: Path, cohort: CohortData) -> Predictions:
        """Return the arrays of the test people."""
        arrays = {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}
        return Predictions(self.task.names, arrays)

    def estimate(self) -> tuple[float, float]:
        """Return about 5 ms for every sixth person."""
        return 1 + 1e-3 * getattr(self.cohort, "people", 6000), 1e5


# ------------------------------------------------------------------------------------- hidden


@dataclass(frozen=True, kw_only=True)
class Reconstruct(Inspect):
    """Hide a share of the patches of every test ECG and compare what the method fills in.

    Which ones is a public function of the person, the window and the grid of patches, so that
    methods with equal patches are asked the same. The error is that of the hidden patches alone;
    1 is what a flat line at the mean of each lead's hidden part would make.
    """

    hidden: float = 0.8

    def views(self) -> dict[str, View]:
        """Look at the ECG alone."""
        return {"ecg": self.method.views()["ecg"]}

    def measure(
        self, encoders: Encoders, views: Mapping[str, np.ndarray], ids: Sequence[str], device: str
    ) -> dict[str, torch.Tensor]:
        """Return ``error`` and ``chance``."""
        import torch

        from benchmark.engine.batches import as_input

        x = as_input(views["ecg"], device)
        error = spread = torch.zeros(len(x), device=device)
        for number, window in enumerate(self.views()["ecg"].crops()):
            filled, true, away = self.fill(encoders, x[..., window], ids, number)
            count = away.sum((2, 3), keepdim=True).clamp(min=1) * true.shape[-1]
            level = (true * away).sum((2, 3), keepdim=True) / count
            error = error + ((filled - true).square() * away).sum((1, 2, 3))
            spread = spread + ((true - level).square() * away).sum((1, 2, 3))
        # A record without any signal has nothing to fill in.
        spread = torch.where(spread > 0, spread, torch.nan)
        return {"error": error / spread, "chance": torch.ones_like(error)}

    def fill(
        self, encoders: Encoders, x: torch.Tensor, ids: Sequence[str], window: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Hide patches of a window (people, leads, samples), of this number, and fill them in.

        Returns the patches as filled in and as they are, (people, leads, times, values), and where
        they were hidden, (people, leads, times, 1).
        """
        import torch

        grid = self.method.grid("ecg")
        keep = torch.from_numpy(visible_patches(ids, grid, window, self.hidden)).to(x.device)
        # Patches are in the row-major order of the grid.
        filled, true = (p.unflatten(1, grid) for p in self.method.reconstruct(encoders, x, keep))
        away = torch.ones(len(x), grid[0] * grid[1], device=x.device).scatter(1, keep, 0.0)
        return filled, true, away.unflatten(1, grid).unsqueeze(-1)


def visible_patches(
    ids: Iterable[str], grid: tuple[int, ...], window: int, hidden: float
) -> np.ndarray:
    """Return the numbers of the patches of a grid that each person shows, (people, kept)."""
    patches = int(np.prod(grid))
    kept = max(1, round(patches * (1 - hidden)))
    shape = "x".join(map(str, grid))

    def order(person: str) -> np.ndarray:
        text = f"ecgcmr-bench/mask/1/{shape}/{window}/{person}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        return np.random.default_rng(seed).permutation(patches)[:kept]

    return np.stack([order(person) for person in ids])


# ------------------------------------------------------------------------------------- phases


@dataclass(frozen=True, kw_only=True)
class AlignPhases(Inspect):
    """Find the cine frame that is nearest to each segment of a person's heart beat.

    Selivanov et al., MICCAI 2025, Figure 2, as a number. The tokens between consecutive R peaks,
    averaged over leads, are resampled to as many segments as the cine has temporal tokens, segment
    k about the phase (k + 1/2) / T, and averaged over the beats of the record; a frame is the mean
    of its temporal token's places. Near is a large cosine, in the encoders' own space (``own``,
    where they are equally wide) and behind the projectors (``own_projected``). Frames that tie
    share the segment. Whoever has no full beat is left out.
    """

    def views(self) -> dict[str, View]:
        """Look at ECG, cine and the detected R peaks, whatever the method makes of those."""
        return {**super().views(), "r_peaks": RPeaks(cohort=self.cohort)}

    def measure(
        self, encoders: Encoders, views: Mapping[str, np.ndarray], ids: Sequence[str], device: str
    ) -> dict[str, torch.Tensor]:
        """Return ``own``, ``own_projected`` and ``chance``."""
        import torch

        found, valid = self.pairs(encoders, views, device)
        shares = {
            name: torch.where(valid, own_phase(*found[name]), torch.nan)
            if name in found
            else torch.full(valid.shape, torch.nan, device=valid.device)
            for name in ("own", "own_projected")
        }
        times = self.method.grid("cmr")[0]
        return {**shares, "chance": torch.full_like(shares["own_projected"], 1 / times)}

    def pairs(
        self, encoders: Encoders, views: Mapping[str, np.ndarray], device: str
    ) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
        """Return segments and frames, (people, times, width) each, and who has a full beat.

        ``own`` in the encoders' own space, where they are equally wide, and ``own_projected``.
        """
        import torch

        from benchmark.engine.batches import as_input

        ecg: CleanECG = self.views()["ecg"]
        x, peaks = as_input(views["ecg"], device), np.asarray(views["r_peaks"], np.float64)
        (_, steps), times = self.method.grid("ecg"), self.method.grid("cmr")[0]
        segments, beats = 0.0, 0
        for window in ecg.crops():
            tokens = encoders.ecg(x[..., window]).tokens.unflatten(1, (-1, steps)).mean(1)
            start, seconds = window.start / ecg.rate, (window.stop - window.start) / ecg.rate
            weights, count = beat_weights(peaks - start, seconds, steps, times)
            segments = segments + torch.from_numpy(weights).to(tokens) @ tokens
            beats = beats + count
        frames = encoders.cmr(as_input(views["cmr"], device)).tokens
        frames = frames.unflatten(1, (times, -1)).mean(2)

        found = {"own": (segments, frames)} if segments.shape == frames.shape else {}
        segments = encoders.project_ecg(segments.flatten(0, 1)).unflatten(0, (-1, times))
        frames = encoders.project_cmr(frames.flatten(0, 1)).unflatten(0, (-1, times))
        found["own_projected"] = segments, frames
        return found, torch.from_numpy(beats > 0).to(device)


def beat_weights(
    r_peaks: np.ndarray, seconds: float, steps: int, times: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return how the steps of a window make up the segments of its beats.

    Parameters
    ----------
    r_peaks
        (people, most) seconds from the start of the window, NaN-padded; may lie outside it.
    seconds
        Length of the window, which ``steps`` equal steps cover.
    times
        Segments of a beat.

    Returns
    -------
    weights
        (people, times, steps), linear between the middles of neighbouring steps and summed over
        the full beats in the window.
    beats
        (people,) how many these are.
    """
    first, length = r_peaks[:, :-1], np.diff(r_peaks, axis=1)
    with np.errstate(invalid="ignore"):  # padding is in no beat
        full = (first >= 0) & (r_peaks[:, 1:] <= seconds)
        full &= (length >= BEAT[0]) & (length <= BEAT[1])
    phase = (np.arange(times) + 0.5) / times
    place = (first[..., None] + phase * length[..., None]) * (steps / seconds) - 0.5
    place = np.where(full[..., None], place.clip(0, steps - 1), np.inf)
    weights = (1 - np.abs(place[..., None] - np.arange(steps))).clip(min=0)
    return weights.sum(1), full.sum(1)


def phase_cosines(segments: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Return how alike all segments and frames, (people, times, width), are: (people, k, t)."""
    import torch.nn.functional as F  # noqa: N812

    return F.normalize(segments, dim=-1) @ F.normalize(frames, dim=-1).transpose(1, 2)


def own_phase(segments: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Return which share of the segments is nearest to its own frame, (people,).

    Both are (people, times, width); of frames that tie each gets its part.
    """
    cosine = phase_cosines(segments, frames)
    nearest = (cosine >= cosine.amax(-1, keepdim=True) - _TIED).float()
    return (nearest / nearest.sum(-1, keepdim=True)).diagonal(dim1=1, dim2=2).mean(-1)


# ------------------------------------------------------------------------------------- places


@dataclass(frozen=True, kw_only=True)
class Localise(Inspect):
    """Compare a person's ECG with every patch of their own image, and ask where the two agree.

    Turgut et al., Medical Image Analysis 2025, Figure 6, as a number. The map is the cosine of the
    projected ECG and the projected tokens of the first time, which is end-diastole in every view.
    What lies above the map's own mean counts: an offset that all patches have in common says
    nothing about where. Chance is the ventricle's share of the area, cavity and muscle; so much of
    a map without any contrast lies inside.
    """

    def views(self) -> dict[str, View]:
        """Look at ECG and images, and at the truth in the pixels of those."""
        views = super().views()
        pixels = {"size": views["cmr"].size, "spacing": views["cmr"].spacing}
        return {**views, "ventricle": LeftVentricle(cohort=self.cohort, **pixels)}

    def measure(
        self, encoders: Encoders, views: Mapping[str, np.ndarray], ids: Sequence[str], device: str
    ) -> dict[str, torch.Tensor]:
        """Return ``inside`` and ``chance``."""
        similarity, truth = self.maps(encoders, views, device)
        return {"inside": share_inside(similarity, truth), "chance": truth.mean(1)}

    def maps(
        self, encoders: Encoders, views: Mapping[str, np.ndarray], device: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each patch's cosine with the ECG and its part inside, (people, patches) each."""
        import torch

        from benchmark.engine.batches import as_input
        from benchmark.evaluation.embed import encode

        times, rows, columns = self.method.grid("cmr")
        crops = self.views()["ecg"].crops()
        _, query = encode(encoders, "ecg", views["ecg"], crops, device)
        tokens = encoders.cmr(as_input(views["cmr"], device)).tokens
        tokens = tokens.unflatten(1, (times, -1))[:, 0]
        places = encoders.project_cmr(tokens.flatten(0, 1)).unflatten(0, (len(tokens), -1))
        truth = as_input(views["ventricle"], device)
        truth = torch.nn.functional.adaptive_avg_pool2d(truth[:, None], (rows, columns)).flatten(1)
        query = torch.from_numpy(query).to(places)
        return torch.nn.functional.cosine_similarity(query[:, None], places, dim=-1), truth


def share_inside(similarity: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return how much of what exceeds a map's mean lies inside, (people,).

    ``similarity`` and ``truth``, the part of each patch that is inside, are (people, patches). NaN
    where a similarity is no number.
    """
    import torch

    above = similarity - similarity.mean(1, keepdim=True)
    # Nothing is above what is not a number, which must not become a map without contrast.
    above = torch.where((above > _TIED) | above.isnan(), above, 0.0)
    # No contrast: the map is the same everywhere.
    above = torch.where(above.sum(1, keepdim=True) == 0, 1.0, above)
    return (above * truth).sum(1) / above.sum(1)

"""What training reads: people, their order, and the batch of every update. Imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from benchmark.api import Batch, Context, Trainable, UserError, View
from benchmark.cohorts.cohort import CohortData
from benchmark.cohorts.splits import balance_rank
from benchmark.engine.balance import shown


class People:
    """The views of one set of people, memory-mapped, with their labels.

    ``parts`` are the groups that an epoch shows one after another.
    """

    def __init__(
        self,
        views: dict[str, np.ndarray],
        rows: np.ndarray,
        labels: np.ndarray | None,
        parts: list[np.ndarray] | None = None,
    ) -> None:
        self.views, self.rows, self.labels = views, rows, labels
        self.parts = [np.arange(len(rows))] if parts is None else parts

    def __len__(self) -> int:
        return len(self.rows)

    def view(self, name: str) -> np.ndarray:
        """Return (people, *shape); see `benchmark.api.TrainingPeople`."""
        return np.asarray(self.views[name][self.rows])

    def batch(self, chosen: np.ndarray, device: torch.device, **state: Any) -> Batch:
        """Return the people at these places, with the ``state`` of `benchmark.api.Batch`."""
        rows = self.rows[chosen]
        views = {name: as_input(array[rows], device) for name, array in self.views.items()}
        labels = None if self.labels is None else as_input(self.labels[chosen], device)
        return Batch(views, labels=labels, **state)


def as_input(values: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """Turn stored values into network input: uint8 images to [0, 1], float16 to float32.

    They travel to the device as they are stored, which is a half or a quarter of the bytes.
    """
    x = torch.from_numpy(np.require(values, requirements="W"))  # memory-mapped ones are read-only
    if torch.device(device).type == "cuda":
        x = x.pin_memory().to(device, non_blocking=True)
    x = x.to(device)
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()


def batches(
    people: People, order: Order, steps: range, total: int, device: torch.device, ahead: bool
) -> Iterator[tuple[int, Batch]]:
    """Yield the training batch of each of these updates, of ``total`` in all.

    Parameters
    ----------
    ahead
        Whether a thread reads the next batch and sends it off while this one is computed with.
        A GPU does not wait for the disk then; on a CPU it would take a core from the computation.
    """

    def batch(step: int) -> Batch:
        return people.batch(order.at(step), device, training=True, progress=step / total)

    if not ahead:
        yield from ((step, batch(step)) for step in steps)
        return
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(batch, steps.start)
        for step in steps:
            ready = coming.result()
            if step + 1 < steps.stop:
                coming = reader.submit(batch, step + 1)
            yield step, ready


def open_view(view: View, context: Context) -> np.ndarray:
    """Return the memory-mapped array (people, *shape) of a view."""
    return np.load(context.open(view) / "array.npy", mmap_mode="r")


def people_of(trainable: Trainable, context: Context) -> tuple[People, People, dict[str, Any]]:
    """Open the views and hand out training and validation rows; test rows stay here.

    A stage with labels gets the training people whose label lies in its fraction, one that has use
    for the unlabelled (`Trainable.unlabelled`) the others too, their labels missing; numbers that
    are not 0/1 are z-scored with the labelled people's mean and SD.

    Raises
    ------
    UserError
        When no training person of the cohort has a label, whatever the fraction.
    """
    cohort = CohortData(context.open(trainable.cohort))
    views = {name: open_view(view, context) for name, view in trainable.views().items()}
    table = trainable.labels(cohort)
    validation = cohort.rows("validation")
    if table is None:
        return People(views, cohort.rows("train"), None), People(views, validation, None), {}
    values = table.to_numpy(np.float64)
    known = np.isfinite(values).any(axis=1)
    if not known[cohort.rows("train")].any():
        raise UserError(f"{trainable.label}: no training person of the cohort has a label")
    labelled = cohort.labelled(trainable.seed, trainable.fraction)
    labelled = labelled[known[labelled]]
    observed = values[labelled]
    binary = np.isin(observed[np.isfinite(observed)], (0, 1)).all()
    mean = np.zeros(values.shape[1]) if binary else np.nanmean(observed, axis=0)
    deviation = np.ones(values.shape[1]) if binary else np.nanstd(observed, axis=0)
    values = (values - mean) / np.maximum(deviation, 1e-12)
    if trainable.unlabelled:
        train = cohort.rows("train")
        values[np.setdiff1d(train, labelled)] = np.nan
    else:
        train = labelled
        validation = validation[known[validation]]
    scaling = {
        "labelled_people": len(labelled),
        "targets": list(table.columns),
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "positive_share": np.nanmean(observed, 0).tolist() if binary and len(observed) else None,
    }
    parts = None
    if trainable.recipe.balance and binary and len(labelled):
        if values.shape[1] > 1:
            raise UserError(f"{trainable.label}: the classes of one disease at a time are balanced")
        rank = balance_rank(cohort.hash_id.iloc[train])
        parts = shown(trainable.recipe.balance, values[train, 0], rank)
    return (
        People(views, train, values[train], parts),
        People(views, validation, values[validation]),
        scaling,
    )


class Order:
    """Which people make up the batch of a step: one shuffle after another, without end.

    A shuffle keeps the ``parts`` of an epoch in their order and mixes the people of each.
    """

    def __init__(self, digest: str, parts: list[np.ndarray], batch_size: int) -> None:
        self.digest, self.parts = digest, parts
        self.length = sum(len(part) for part in parts)
        self.size = min(batch_size, self.length)
        self._shuffles: dict[int, np.ndarray] = {}

    def at(self, step: int) -> np.ndarray:
        """Return the places, among the people, of the batch of an update."""
        place = np.arange(step * self.size, (step + 1) * self.size)
        passes, index = np.divmod(place, self.length)
        return np.array(
            [self._shuffle(p)[i] for p, i in zip(passes.tolist(), index.tolist(), strict=True)]
        )

    def _shuffle(self, number: int) -> np.ndarray:
        if number not in self._shuffles:
            self._shuffles = {n: s for n, s in self._shuffles.items() if n == number - 1}
            generator = np.random.default_rng(seed_of(self.digest, "order", number))
            mixed = [part[generator.permutation(len(part))] for part in self.parts]
            self._shuffles[number] = np.concatenate(mixed)
        return self._shuffles[number]


def seed_of(*parts: Any) -> int:
    """Return the seed that these parts name, the same on every machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def reseed(*parts: Any) -> None:
    """Let everything that torch draws next follow from these parts."""
    torch.manual_seed(seed_of(*parts))

"""From a trained method to features of everybody: computed once, read by every head and task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.api import Context, Method
from benchmark.cohorts.cohort import CohortData
from benchmark.stage import UNSET, Stage

BATCH = 128


@dataclass(frozen=True, kw_only=True)
class Embed(Stage):
    """Features of every person of the cohort, without augmentation.

    Leaves ``<modality>.npy`` (people, width) float32 for each modality the method encodes and, for
    two-tower methods, ``shared_ecg.npy`` and ``shared_cmr.npy`` in their common space. A long
    signal is encoded window by window and the windows' features are averaged.
    """

    threads: ClassVar[int] = 2
    on_device: ClassVar[bool] = True
    method: Method = UNSET

    @property
    def label(self) -> str:
        """Say whose features."""
        return f"features of {self.method.label}"

    @property
    def group(self) -> str:
        """List all embeddings together."""
        return "features"

    def run(self, context: Context) -> None:
        """Encode in batches."""
        import torch

        from benchmark.engine.batches import open_view
        from benchmark.engine.training import load_encoders

        encoders = load_encoders(self.method, context.open(self.method)).to(context.device)
        views = {m: v for m, v in self.method.views().items() if m in self.method.modalities}
        people = len(CohortData(context.open(self.method.cohort)).people)
        done = 0
        for modality, view in views.items():
            if not encoders.has(modality):
                continue
            array = open_view(view, context)
            pooled, shared = [], []
            for start in range(0, people, BATCH):
                features, projected = encode(
                    encoders, modality, array[start : start + BATCH], view.crops(), context.device
                )
                pooled.append(features)
                shared.append(projected)
                done += len(features)
                context.progress(done, people * len(views), "people", modality)
            np.save(context.out / f"{modality}.npy", np.concatenate(pooled))
            if shared[0] is not None:
                np.save(context.out / f"shared_{modality}.npy", np.concatenate(shared))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def estimate(self) -> tuple[float, float]:
        """Return about 4 ms a person and modality."""
        people = getattr(self.method.cohort, "people", 6000)
        return 4e-3 * people * len(self.method.modalities), 5e6


def encode(
    encoders, modality: str, values: np.ndarray, crops: tuple[slice, ...] | None, device: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return pooled features (people, width) and, where a projector exists, the shared ones.

    The shared vector is the projection of the averaged features.
    """
    import torch

    from benchmark.engine.batches import as_input

    encoder = getattr(encoders, modality)
    with torch.inference_mode():
        x = as_input(values, device)
        windows = [x] if crops is None else [x[..., crop] for crop in crops]
        pooled = torch.stack([encoder(window).pooled for window in windows]).mean(0)
        shared = None
        if encoders.has(f"project_{modality}"):
            shared = getattr(encoders, f"project_{modality}")(pooled).float().cpu().numpy()
    return pooled.float().cpu().numpy(), shared

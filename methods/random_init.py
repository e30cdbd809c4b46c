"""The untrained encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from benchmark.api import Recipe, Variant
from methods.blocks.bases import ECGMethod


@dataclass(frozen=True, kw_only=True)
class RandomInit(ECGMethod):
    """The track's ECG encoder with random weights: what its architecture knows by itself."""

    variants: ClassVar[Mapping[str, Variant]] = {
        "random-init": Variant(tracks=("harmonised",), role="reference")
    }
    kind: ClassVar[str] = "untrained"
    recipe: Recipe = Recipe()

"""The untrained encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from benchmark.api import Recipe, Variant
from methods.blocks.backbones import ECGViT
from methods.blocks.bases import PTACL_ECG, ECGMethod


@dataclass(frozen=True, kw_only=True)
class RandomInit(ECGMethod):
    """The ECG encoder with random weights: what its architecture knows by itself.

    PTACL's reference (Selivanov et al. 2025, Table 2) probes its own encoder; the harmonised track
    probes the one that all methods share there.
    """

    paper: ClassVar[str] = "Selivanov et al., MICCAI 2025"
    variants: ClassVar[Mapping[str, Variant]] = {
        "random-init": Variant(tracks=("harmonised",), role="reference"),
        "random-init@ptacl": Variant(tracks=("paper",), role="reference", protocol="ptacl-probe"),
    }
    kind: ClassVar[str] = "untrained"
    ecg_encoder: ECGViT = PTACL_ECG
    recipe: Recipe = Recipe()

"""The supervised ECG transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from benchmark.api import Variant
from methods.random_init import RandomInit


@dataclass(frozen=True, kw_only=True)
class Supervised(RandomInit):
    """The untrained encoder fine-tuned on the labels of the task itself.

    MMCL's baseline (Turgut et al. 2025, Tables I-III), PTACL's and ECCL's likewise: all learning
    happens in the ``finetune`` head, so the method itself has nothing to train.
    """

    paper: ClassVar[str] = "Turgut et al., Medical Image Analysis 101 (2025) 103451"
    variants: ClassVar[Mapping[str, Variant]] = {
        "supervised": Variant(tracks=("harmonised",), role="reference")
    }
    head: ClassVar[str] = "finetune"

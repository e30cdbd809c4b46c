"""The supervised ECG transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from benchmark.api import Variant
from methods.blocks.augment import ECCL_ECG_AUGMENT
from methods.blocks.backbones import ECGViT
from methods.blocks.bases import ECCL_ECG, MMCL_ECG, PTACL_ECG
from methods.random_init import RandomInit

ECCL_SCRATCH = Variant(
    {
        "ecg_encoder": ECCL_ECG.replace(positions="learned"),
        "finetune_augment": ECCL_ECG_AUGMENT,
    },
    tracks=("paper",),
    role="reference",
    protocol="eccl-finetune",
    paper="Ding et al., MICCAI 2024",
    summary="ECCL's ablation without masking and without alignment: labels alone, from scratch.",
)


@dataclass(frozen=True, kw_only=True)
class Supervised(RandomInit):
    """The untrained encoder fine-tuned on the labels of the task itself.

    MMCL's baseline (Turgut et al. 2025, Tables I-III), ECCL's (``supervised@eccl``, which is also
    its ablation ``eccl-scratch``; Ding et al. 2024, Table 1) and PTACL's (Selivanov et al. 2025,
    Table 2), each on its paper's encoder from random positions. All learning happens in the
    ``finetune`` head, so the method itself has nothing to train.

    Unstated: what PTACL augments with (MMCL's fine-tuning list) and reads at test time (both
    windows of the recording).
    """

    paper: ClassVar[str] = "Turgut et al., Medical Image Analysis 101 (2025) 103451"
    variants: ClassVar[Mapping[str, Variant]] = {
        "supervised": Variant(tracks=("harmonised",), role="reference"),
        "supervised@mmcl": Variant(tracks=("paper",), role="reference", protocol="mmcl"),
        "supervised@eccl": ECCL_SCRATCH,
        "eccl-scratch": ECCL_SCRATCH,
        "supervised@ptacl": Variant(
            {"ecg_encoder": PTACL_ECG},
            tracks=("paper",),
            role="reference",
            protocol="ptacl-supervised",
            paper="Selivanov et al., MICCAI 2025",
        ),
    }
    head: ClassVar[str] = "finetune"
    ecg_encoder: ECGViT = MMCL_ECG.replace(positions="learned", pool="mean-then-norm")

"""The paper track: each paper's own recipe, shown beside that paper's own numbers alone.

A class's defaults are its paper's, so at the papers' sizes nothing is fixed here; what a paper does
after pretraining is its protocol. At ``smoke`` networks and budgets are cut to a rehearsal of the
same stages, whose numbers mean nothing.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import Any

from benchmark.api import Recipe
from benchmark.evaluation.boosted import XGBoostHead
from benchmark.evaluation.finetune import FineTune
from benchmark.evaluation.heads import LinearHead
from benchmark.evaluation.joint import Joint
from benchmark.evaluation.kernel import KernelHead
from benchmark.evaluation.mlp import MLPHead
from benchmark.evaluation.selected import Selected
from benchmark.evaluation.separate import Separately
from benchmark.registry import MethodEntry
from benchmark.stage import Spec, rewrite
from methods.blocks.bases import scaled_rate

SCALES = ("smoke", "full")
DEFAULT_SCALE = "full"
SHARED_SUPERVISION = False
"""A method that learns labels is trained on each task as published."""

REHEARSAL_BATCH = 16
REHEARSED_CANDIDATES = 2

MMCL_GRID = tuple(
    itertools.product(
        (8, 16, 32),  # batch
        (1e-6, 3e-6, 1e-5, 3e-5),  # base learning rate
        (0.5, 0.75),  # layer decay
        (0.0, 0.1, 0.2),  # drop path
        (0.0, 0.1, 0.2),  # label smoothing
        (0.0, 0.1, 0.2),  # weight decay
    )
)
"""The 648 points that MMCL searches for every disease and method (Turgut et al. 2025, IV-C2)."""

MMCL_POINTS = 12
"""How many of them are tried here: drawn once, the same for every method, disease and replicate.
All of them would take fifty times as long; a method's figure may so fall short of the paper's."""


def _mmcl() -> Separately:
    """Turgut et al. 2025, section IV-C2: everything fine-tuned, settings searched.

    AdamW, 400 epochs planned, 5% of them warm-up (in the code's launch scripts 5 epochs), stopped
    after 25 epochs without a better validation result (launch scripts); training sets of diseases
    balanced; one model per disease and one per group of phenotypes. The paper's half precision is
    full precision here.
    """
    points = random.Random(0).sample(MMCL_GRID, MMCL_POINTS)
    candidates = [
        FineTune(
            layer_decay=layer_decay,
            drop_path=drop_path,
            smoothing=smoothing,
            recipe=Recipe(
                epochs=400,
                batch_size=batch_size,
                learning_rate=scaled_rate(rate, batch_size),
                weight_decay=weight_decay,
                betas=(0.9, 0.999),
                warmup=0.05,
                patience=25,
                balance="static",
            ),
        )
        for batch_size, rate, layer_decay, drop_path, smoothing, weight_decay in points
    ]
    return Separately(head=Selected(candidates=tuple(candidates)), phenotypes="groups")


def _eccl(rate: float, batch_size: int) -> Separately:
    """Ding et al., MICCAI 2024, and its launch scripts: the encoder's own features, fine-tuned.

    AdamW as in pretraining, warm-up over 40 of 400 planned epochs, stopped after 10 without a
    better validation result (there AUROC or correlation, with a tolerance of 0.015); one model per
    disease, the negatives in chunks, and one for all phenotypes.
    """
    recipe = Recipe(
        epochs=400,
        batch_size=batch_size,
        learning_rate=scaled_rate(rate, batch_size),
        patience=10,
        balance="chunks",
    )
    return Separately(head=FineTune(pooling="features", recipe=recipe))


# Selivanov et al., MICCAI 2025, give no setting: AdamW at the rate of their joint stage here.
_PTACL = Recipe(epochs=100, batch_size=256, learning_rate=1e-4)

PROTOCOLS: Mapping[str, Mapping[str, Spec]] = {
    "mmcl": {"finetune": _mmcl()},
    # The aligned model predicts by itself.
    "eccl": {"joint": Separately(head=Joint())},
    "eccl-finetune": {"finetune": _eccl(1e-6, 32)},
    "eccl-cmr": {"finetune": _eccl(1e-6, 128)},
    # For diseases; for phenotypes the scripts try 1e-6 to 1e-5.
    "cmae-vit": {"finetune": _eccl(5e-6, 32)},
    # Table 2: a linear probe (LP), and everything fine-tuned with attention pooling (FN + AP).
    "ptacl": {"linear": LinearHead(penalised=False), "finetune": FineTune(recipe=_PTACL)},
    "ptacl-probe": {"linear": LinearHead(penalised=False)},
    "ptacl-supervised": {"finetune": FineTune(pooling="features", recipe=_PTACL)},
    # Alvarez-Florez et al. 2026: one network per target, training sets of diseases balanced.
    "dual": {"mlp": MLPHead(balance="static")},
    "cmae": {"kernel": KernelHead()},
    # Turgut et al. 2025, Table I: 270 points. What they are fitted on and chosen by is unstated: on
    # what the ECG models are, by AUROC or squared error.
    "tabular": {
        "xgboost": XGBoostHead(
            balance="static",
            depths=(3, 4, 5, 6, 7, 8),
            rates=(0.1, 0.2, 0.3),
            subsamples=(0.5, 0.75, 1.0),
            rounds=(50, 75, 100, 125, 150),
        )
    },
    # A variant that a paper uses to rank people alone.
    "": {},
}
"""Head by name, for every way from encoder to predictions that a paper describes."""


def overrides(spec: Spec, scale: str) -> dict[str, Any]:
    """Return nothing at the papers' sizes, the rehearsal's values at ``smoke``."""
    if scale == "full":
        return {}
    if isinstance(spec, Recipe) and (spec.updates or spec.epochs):
        batch_size = min(spec.batch_size, REHEARSAL_BATCH)
        return {"updates": 6, "epochs": 0, "rounds": 2, "patience": 0, "batch_size": batch_size}
    return spec.rehearsal() if hasattr(spec, "rehearsal") else {}


def heads(entry: MethodEntry, scale: str) -> dict[str, Spec]:
    """Return the heads of the protocol that the variant names."""

    def rehearsed(spec: Spec) -> dict[str, Any]:
        if scale != "full" and isinstance(spec, Selected):
            few = spec.candidates[:REHEARSED_CANDIDATES]
            return {"candidates": tuple(rewrite(candidate, rehearsed) for candidate in few)}
        return overrides(spec, scale)

    return {
        name: rewrite(head, rehearsed) for name, head in PROTOCOLS[entry.variant.protocol].items()
    }

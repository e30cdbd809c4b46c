"""The paper track: each paper's own recipe, shown beside that paper's own numbers alone.

A class's defaults are its paper's, so at the papers' sizes nothing is fixed here; what a paper does
after pretraining is its protocol. At ``smoke`` networks and budgets are cut to a rehearsal of the
same stages, whose numbers mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.api import Recipe
from benchmark.evaluation.heads import LinearHead
from benchmark.registry import MethodEntry
from benchmark.stage import Spec, Stage, rewrite

SCALES = ("smoke", "full")
SHARED_SUPERVISION = False
"""A method that learns labels is trained on each task as published."""

REHEARSAL_BATCH = 16

PROTOCOLS: Mapping[str, Mapping[str, Spec]] = {
    "ptacl-probe": {"linear": LinearHead()},
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


def heads(entry: MethodEntry, scale: str) -> dict[str, Stage]:
    """Return the heads of the protocol that the variant names."""
    protocol = PROTOCOLS[entry.variant.protocol]
    return {
        name: rewrite(head, lambda spec: overrides(spec, scale)) for name, head in protocol.items()
    }

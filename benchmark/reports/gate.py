"""Decisions of the regression gate: what was measured, what it was before, and the verdict.

Four layers, cheapest first: frozen metrics (A), fingerprints of every method (B), a learning smoke
against stored reference seeds (C), and recorded rows (D, in `benchmark.reports.gate_recorded`). In
C the test people are fixed, so training seeds are the only noise and a t test over seeds is right;
on a board, which speaks about people, it would not be. Nothing is run or opened here
(`benchmark.check` does that).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from benchmark.evaluation.multiplicity import holm

PASS, INCONCLUSIVE, REGRESSION = "pass", "inconclusive", "regression"
EXIT_CODES = {PASS: 0, REGRESSION: 1, INCONCLUSIVE: 3}

ALPHA = 0.01
"""Chance of a false alarm of one run, over all endpoints together."""
TOLERANCE = 0.005
"""A drop of an endpoint that nobody minds, of AUROC, R2 or P@k."""
EQUAL = 1e-4
"""Results of equal seeds that differ by less are the same up to rounding."""
SHOWN = 20  # reasons of a layer in a summary


@dataclass
class Verdict:
    """What one layer compared and found.

    Attributes
    ----------
    layer
        Its letter and name.
    compared
        Values that were held against one another; none is a regression of the gate itself.
    wrong, unsure
        Reasons against a pass, and reasons why nothing can be said.
    notes
        What a reader should know of a pass.
    """

    layer: str
    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def outcome(self) -> str:
        """Return `PASS`, `INCONCLUSIVE` or `REGRESSION`."""
        if self.wrong or not self.compared:
            return REGRESSION
        return INCONCLUSIVE if self.unsure else PASS

    @property
    def reasons(self) -> list[str]:
        """Why it is no pass."""
        nothing = [] if self.compared else ["nothing was compared"]
        return nothing + self.wrong + [f"cannot tell: {text}" for text in self.unsure]


def overall(verdicts: Sequence[Verdict]) -> str:
    """Return the worst outcome; without any layer a regression."""
    found = {verdict.outcome for verdict in verdicts} or {REGRESSION}
    return next(o for o in (REGRESSION, INCONCLUSIVE, PASS) if o in found)


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as Markdown, short enough for a pull request."""
    text = [f"## Regression gate: {overall(verdicts)}", ""]
    text += ["| layer | compared | result | seconds |", "|---|---:|---|---:|"]
    text += [f"| {v.layer} | {v.compared:,} | {v.outcome} | {v.seconds:.0f} |" for v in verdicts]
    for verdict in verdicts:
        lines = [*verdict.reasons, *verdict.notes]
        if not lines:
            continue
        text += ["", f"**{verdict.layer}**", ""]
        text += [f"- {line}" for line in lines[:SHOWN]]
        text += [f"- and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join(text) + "\n"


# ----------------------------------------------------------------------- A and B: frozen values

Close = Callable[[np.ndarray, np.ndarray], bool]


def within(tolerance: float) -> Close:
    """Return a test of absolute agreement; what is not a number agrees with itself alone."""
    return lambda old, new: bool(np.allclose(old, new, rtol=0, atol=tolerance, equal_nan=True))


def relative(tolerance: float) -> Close:
    """Return a test of agreement relative to the largest of the stored numbers."""

    def close(old: np.ndarray, new: np.ndarray) -> bool:
        return within(tolerance * float(np.abs(old).max(initial=0.0)))(old, new)

    return close


def frozen(stored: Any, measured: Any, close: Close, verdict: Verdict, at: str = "") -> None:
    """Hold nested values against stored ones and tell the verdict what differs.

    A list of floats is one value, in which only ``close`` decides; whole numbers and texts are
    compared exactly, and so is what there is.
    """
    if isinstance(stored, Mapping) and isinstance(measured, Mapping):
        for name in stored.keys() | measured.keys():
            place = f"{at}, {name}" if at else str(name)
            if name not in measured:
                verdict.wrong.append(f"{place}: missing")
            elif name not in stored:
                verdict.wrong.append(f"{place}: has no reference; ecgcmr golden writes it")
        for name in stored:
            if name in measured:
                place = f"{at}, {name}" if at else str(name)
                frozen(stored[name], measured[name], close, verdict, place)
        return
    verdict.compared += 1
    old, new = _floats(stored), _floats(measured)
    if old is None or new is None:
        same = type(stored) is type(measured) and stored == measured
    else:
        same = old.shape == new.shape and close(old, new)
    if not same:
        verdict.wrong.append(f"{at}: {_shown(stored)} became {_shown(measured)}")


def _floats(value: Any) -> np.ndarray | None:
    """Return numbers with a decimal point, None being not-a-number; None for anything else."""
    values = value if isinstance(value, list) else [value]
    if not any(isinstance(v, float) or v is None for v in values):
        return None
    if not all(isinstance(v, float) or v is None for v in values):
        return None
    return np.array([math.nan if v is None else v for v in values])


def _shown(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    text = ", ".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in values)
    return f"[{text}]" if isinstance(value, list) else text


# ----------------------------------------------------------------------- C: seeds against seeds


@dataclass(frozen=True)
class Drop:
    """How far the mean of an endpoint fell, and whether chance explains it (``p`` after Holm)."""

    endpoint: str
    before: float
    after: float
    t: float
    p: float

    @property
    def red(self) -> bool:
        """Whether the drop is larger than chance and larger than anybody minds."""
        return self.p <= ALPHA and self.before - self.after > TOLERANCE

    def __str__(self) -> str:
        return (
            f"{self.endpoint}: {self.before:.4f} became {self.after:.4f} "
            f"(t {self.t:.1f}, p {self.p:.2g} after Holm)"
        )


def same_recipe(
    reference: Mapping[str, Sequence[float]], fresh: Mapping[str, Sequence[float]]
) -> list[Drop]:
    """Test whether endpoints fell: pooled t over seeds, one-sided, Holm over the endpoints.

    Parameters
    ----------
    reference, fresh
        Values by endpoint, one a seed, higher being better; at least two of each.
    """
    found = []
    for endpoint, values in fresh.items():
        old, new = (np.asarray(v, float) for v in (reference[endpoint], values))
        degrees = len(old) + len(new) - 2
        spread = ((old - old.mean()) ** 2).sum() + ((new - new.mean()) ** 2).sum()
        error = math.sqrt(spread / degrees * (1 / len(old) + 1 / len(new)))
        drop = float(old.mean() - new.mean())
        t = drop / error if error > 0 else math.copysign(math.inf, drop) if drop else 0.0
        p = float(stats.t.sf(t, degrees))
        found.append((endpoint, float(old.mean()), float(new.mean()), -t, p))
    adjusted = holm([p for *_, p in found])
    return [Drop(*drop[:-1], float(p)) for drop, p in zip(found, adjusted, strict=True)]

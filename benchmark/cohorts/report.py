"""Who is in a prepared cohort, and who is not and why."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Report:
    """The exclusions of one preparation: exact counts, for the user's eyes only.

    Attributes
    ----------
    flow
        The steps from files to a cohort: what the people have in common, and how many they are.
    excluded
        For each step, how many leave after it, by reason.
    counts
        Of files, rows and whatever else is worth knowing.
    crop
        How many hearts were found which way.
    flags
        How many of those kept have something odd about their files.
    """

    flow: list[tuple[str, int]] = field(default_factory=list)
    excluded: list[Counter[enum.StrEnum]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    crop: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)

    def step(
        self, people: str, number: int, excluded: Mapping[enum.StrEnum, int] | None = None
    ) -> None:
        """Add a step and how many leave after it."""
        self.flow.append((people, number))
        self.excluded.append(Counter({r: n for r, n in (excluded or {}).items() if n}))

    def as_json(self) -> dict[str, Any]:
        """Return everything for a program."""
        steps = zip(self.flow, self.excluded, strict=True)
        return {
            "flow": [
                {"people": text, "number": n, "excluded": {r.value: k for r, k in out.items()}}
                for (text, n), out in steps
            ],
            "counts": self.counts,
            "crop": dict(self.crop),
            "flags": dict(self.flags),
        }

    def text(self) -> str:
        """Return everything for people."""
        lines: list[tuple[str, int]] = []
        for (people, number), excluded in zip(self.flow, self.excluded, strict=True):
            lines.append((people, number))
            lines += [(f"    left out: {r.value}", n) for r, n in excluded.most_common()]
        lines += [(f"heart found by {how}", n) for how, n in self.crop.most_common()]
        lines += [(f"kept although: {flag}", n) for flag, n in self.flags.most_common()]
        lines += [*self.counts.items()]
        width = max(len(text) for text, _ in lines)
        return "\n".join(
            [
                *(f"{text:<{width}}  {n:>9,}" for text, n in lines),
                "These counts are exact: they are for you, and must not be published as they are.",
            ]
        )

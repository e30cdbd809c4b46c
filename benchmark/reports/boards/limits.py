"""What simulated people allow: the share of the ceiling a method reached, and the leak alarm.

A method above the ceiling of what it sees has seen something else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmark.evaluation.multiplicity import holm
from benchmark.reports.boards.info import LEVEL, TaskInfo
from benchmark.reports.boards.recorded import Recorded
from benchmark.reports.boards.text import labels, modality_name, p_value, short, signed
from benchmark.reports.ceilings import ORACLE


@dataclass(frozen=True)
class AboveCeiling:
    """One-sided test of a cell being better than the ceiling of what its method sees."""

    entry: Mapping[str, Any]
    p: float
    p_holm: float

    @property
    def is_leak(self) -> bool:
        """Whether it is better, whatever chance does."""
        return self.p_holm <= LEVEL


class Limits:
    """The ceilings that fit the recorded rows.

    Attributes
    ----------
    why_none
        In words why the rows cannot be set against ceilings; empty where they can.
    endpoint, people
        Targets of the mean, and how many people the oracles were fitted on.
    entries
        Ceilings by `_key`.
    above
        The test of every cell that must not be better than its ceiling.
    """

    def __init__(
        self, recorded: Recorded, info: TaskInfo, ceilings: Mapping[str, Any] | None
    ) -> None:
        self.recorded, self.info = recorded, info
        section, self.why_none = self._fitting(ceilings) if info.ceilings else ({}, "")
        self.endpoint = tuple(section.get("endpoint", ()))
        self.people = section.get("people", 0)
        self.entries = {_key(x, x["modality"]): x for x in section.get("ceilings", ())}
        self.above = self._above()

    def _fitting(self, ceilings: Mapping[str, Any] | None) -> tuple[Mapping[str, Any], str]:
        """Return the task's ceilings, or nothing and why these rows cannot be set against them."""
        if ceilings is None:
            return {}, "No ceilings: there is no file of them."
        if ceilings["cohort_fingerprint"] != self.recorded.fingerprint:
            other = short(ceilings["cohort_fingerprint"])
            return {}, f"No ceilings: the file holds ceilings of another cohort (`{other}`)."
        section = ceilings["tasks"].get(self.info.name)
        if section is None:
            return {}, "No ceilings: the file has none of this task."
        if section["version"] != self.info.version:
            return {}, f"No ceilings: the file has those of task version {section['version']}."
        return section, ""

    def ceiling(self, key: tuple) -> Mapping[str, Any] | None:
        """Return the ceiling of a row: of what its method sees, of the targets it averages."""
        _, _, modality, target, metric, _ = key
        over = self.recorded.results[key].get("targets")
        row = {"target": target, "metric": metric, "targets": over}
        found = self.entries.get(_key(row, modality))
        return found if found and found["value"] is not None else None

    def share(self, key: tuple) -> float | None:
        """Share of the way from chance to the ceiling; None where the ceiling may be chance."""
        result = self.recorded.results[key]
        ceiling = self.ceiling(key) if result["value"] is not None else None
        if ceiling is None:
            return None
        chance = ceiling["chance"]
        nearest = ceiling["lo"] if result["higher_is_better"] else ceiling["hi"]
        if nearest is None or not (nearest - chance) * _sign(result) > 0:
            return None
        return (result["value"] - chance) / (ceiling["value"] - chance)

    def _above(self) -> dict[tuple, AboveCeiling]:
        """Test all primary metrics of the board that have a ceiling; one family under Holm."""
        entries = self.recorded.versus_ceiling(ORACLE)
        tested = {}
        for key in self.bounded():
            entry, ceiling, result = entries.get(key), self.ceiling(key), self.recorded.results[key]
            digests = (result["digest"], ceiling["digest"])
            if entry is not None and (entry["digest"], entry["other_digest"]) == digests:
                above = _sign(result) * entry["difference"] > 0
                tested[key] = entry, entry["p"] / 2 if above else 1 - entry["p"] / 2
        adjusted = holm([p for _, p in tested.values()]).tolist()
        return {
            key: AboveCeiling(entry, p, p_holm)
            for (key, (entry, p)), p_holm in zip(tested.items(), adjusted, strict=True)
        }

    def bounded(self) -> list[tuple]:
        """Rows with a value that must not be better than a known ceiling."""
        primary = set(self.info.primary.values())
        return [
            key
            for key, result in self.recorded.results.items()
            if key[4] in primary and result["value"] is not None and self.ceiling(key) is not None
        ]

    def leaks(self) -> list[str]:
        """Return one line for each cell above its ceiling, the surest first."""
        found = [(test.p_holm, key) for key, test in self.above.items() if test.is_leak]
        lines = []
        for p_holm, key in sorted(found):
            method, head, modality, target, metric, fraction = key
            entry = self.above[key].entry
            by = signed(
                {**entry, "value": entry["difference"], "se": math.sqrt(entry["v"])}, interval=False
            )
            lines.append(
                f"{method} ({modality_name(modality)}, {head} head, "
                f"{labels(head, fraction)} of labels), {target}: {metric} {by} against the "
                f"ceiling, p (Holm) {p_value(p_holm)}"
            )
        return lines


def _sign(result: Mapping[str, Any]) -> int:
    return 1 if result["higher_is_better"] else -1


def _key(row: Mapping[str, Any], modality: str) -> tuple[str, str, str, tuple[str, ...]]:
    # At few labels the mean of a group, too, may be over fewer targets.
    return modality, row["target"], row["metric"], tuple(row.get("targets") or ())

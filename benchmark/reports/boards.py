"""Leaderboards in Markdown and CSV: a pure function of rows (``result``, ``versus``) and ceilings.

Only rows of one task version and one cohort fingerprint are ranked, within one modality, label
fraction and head. What a ranking claims is a rank interval from paired tests, never an order by
value; what is missing is spelt out. Cost has its own table, made from ``run``.

On simulated people a board says which share of the ceiling a method reached. A method above the
ceiling of what it sees has seen something else: the leak alarm.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmark.evaluation.statistics import holm, letters, rank_intervals, resolvable_difference
from benchmark.reports.ceilings import ORACLE, read_ceilings
from benchmark.reports.rows import (
    ONE_CHECKPOINT,
    RUN_FIELDS,
    grouped,
    read_rows,
    replace_file,
)

TRACK = "harmonised"  # the only track that is ranked
MEAN = "mean"  # the target of primary endpoints
NO_HEAD = "none"  # retrieval ranks features as they are
LEVEL = 0.05
NOT_RUN, NOT_COMPARED, BLANK = "not run", "not compared", "-"
NOT_APPLICABLE = "not applicable"
OTHER = "other cohort or task version, see below"
MODALITIES = {"ecg": "ECG", "cmr": "CMR", "ecg-cmr": "ECG to CMR", "covariates": "covariates"}
BLOCKS = {
    "label-free": "Ranked: representations learned without labels",
    "label-using": "Ranked: representations learned with labels",
    "unranked": "References and controls, not ranked",
}
ORACLES = {
    "ecg": "oracle of the ECG",
    "cmr": "oracle of the CMR",
    "covariates": "oracle of the covariates",
    "truth": "phenotypes without measurement noise",
}
CSV_FIELDS = (
    *("modality", "fraction", "section_head", "block", "method", "head", "row_modality"),
    *("target", "metric", "status", "value", "lo", "hi", "se", "replicates", "n", "positives"),
    *("chance", "difference", "difference_lo", "difference_hi", "difference_replicates"),
    *("p", "p_holm", "resolvable"),
    *("ceiling", "ceiling_lo", "ceiling_hi", "share_of_ceiling"),
    *("ceiling_difference", "ceiling_p", "ceiling_p_holm"),
    *("rank_lo", "rank_hi", "letters", "notes", "digest"),
)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A method the board has a place for, run or not.

    ``places`` are the modalities and label fractions it can be scored in, None for all.
    """

    name: str
    role: str = "ranked"
    uses_labels: bool = False
    places: frozenset[tuple[str, float]] | None = None

    @property
    def block(self) -> str:
        """Which of `BLOCKS` it is shown in."""
        if self.role != "ranked":
            return "unranked"
        return "label-using" if self.uses_labels else "label-free"


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """What a board needs to know of its task.

    Attributes
    ----------
    name, title, version
        Of the task; rows of another version are not ranked.
    simulated
        Whether the people are simulated.
    primary, reference
        Modality to the primary metric, and to the method all others are compared with.
    methods
        In the order in which methods without a value are shown.
    fractions, heads
        Sections, in order; the first head is the primary one. Other heads found in ranked
        methods' rows follow.
    fingerprint
        The cohort's; None takes that of most files.
    ceilings
        Whether the task has ceilings on these people.
    """

    name: str
    title: str
    version: int
    simulated: bool
    primary: Mapping[str, str]
    reference: Mapping[str, str]
    methods: tuple[Expected, ...]
    fractions: tuple[float, ...] = (1.0,)
    heads: tuple[str, ...] = ("linear",)
    fingerprint: str | None = None
    ceilings: bool = False


@dataclass(frozen=True)
class _Line:
    """A method's place in a section: where its row was found, and the row's result if any."""

    method: Expected
    head: str
    modality: str
    result: Mapping[str, Any] | None
    absent: str = NOT_RUN

    @property
    def value(self) -> float | None:
        return self.result["value"] if self.result else None

    @property
    def status(self) -> str:
        return self.result["status"] if self.result else self.absent


@dataclass(frozen=True)
class _Difference:
    """Line minus another, oriented; p and p_holm two-sided."""

    value: float
    lo: float | None
    hi: float | None
    p: float
    v: float
    nu: float | None
    replicates: int

    @property
    def resolvable(self) -> float | None:
        return None if self.nu is None else resolvable_difference(self.v, self.nu)


@dataclass(frozen=True)
class _AboveCeiling:
    """One-sided test of a cell being better than the ceiling of what its method sees."""

    entry: Mapping[str, Any]
    p: float
    p_holm: float

    @property
    def is_leak(self) -> bool:
        return self.p_holm <= LEVEL


def render(rows_folder: Path, out_folder: Path, task_info: TaskInfo) -> list[Path]:
    """Write ``<task>.md``, ``<task>.csv``, ``cost.md`` and ``cost.csv``; return their paths.

    Parameters
    ----------
    rows_folder
        The rows of one cohort, preset and scale, all tasks and tracks.
    out_folder
        Where the ceilings of the same people are, if there are any; made when it does not exist.
    task_info
        The task the board is of.
    """
    files = read_rows(rows_folder)
    board = _Board(files, task_info, read_ceilings(out_folder))
    texts = {
        f"{task_info.name}.md": board.markdown(),
        f"{task_info.name}.csv": board.csv(),
        "cost.md": cost_markdown(files),
        "cost.csv": _csv(_COST_FIELDS, _costs(files)),
    }
    out_folder = Path(out_folder)
    out_folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        replace_file(out_folder / name, text)
    return [out_folder / name for name in texts]


def leaks(rows_folder: Path, out_folder: Path, task_info: TaskInfo) -> list[str]:
    """Return what the leak alarm of a board says, one line for each cell above its ceiling."""
    return _Board(read_rows(rows_folder), task_info, read_ceilings(out_folder)).leaks()


def own_rows(files: Sequence[Mapping[str, Any]], fractions: Sequence[float]) -> str:
    """Return the endpoints of some files as a table, without ranks or comparisons.

    A file with none of these label fractions (retrieval needs no labels) shows those it has.
    """
    rows = []
    for file in files:
        endpoints = [row for row in file["rows"] if row["target"] == MEAN]
        asked = [row for row in endpoints if row["fraction"] in fractions] or endpoints
        order = lambda r: (r["modality"], -r["fraction"], r["head"], _natural(r["metric"]))  # noqa: E731
        for row in sorted(asked, key=order):
            place = [file["task"], file["method"], MODALITIES.get(row["modality"], row["modality"])]
            place += [row["head"], _labels(row["head"], row["fraction"]), row["metric"]]
            rows.append([*place, _estimate(row["result"]), *_provenance(row["result"])])
    headers = ["task", "method", "modality", "head", "labels", "metric", "value [95% interval]"]
    headers += ["replicates", "n", "chance", "digest"]
    return _table(headers, rows)


class _Board:
    def __init__(
        self,
        files: Sequence[Mapping[str, Any]],
        info: TaskInfo,
        ceilings: Mapping[str, Any] | None,
    ) -> None:
        self.info = info
        self.files = [f for f in files if f["task"] == info.name and f["track"] == TRACK]
        self.fingerprint = info.fingerprint or self._usual_fingerprint()
        self.results: dict[tuple, Mapping[str, Any]] = {}
        self.others: dict[tuple, Mapping[str, Any]] = {}
        for file, row in self._rows():
            where = self.results if self._comparable(row["result"]) else self.others
            where[file["method"], row["head"], row["modality"], *_what(row)] = row["result"]
        self.versus: dict[tuple, Mapping[str, Any]] = {}
        for file in self.files:
            for entry in file["versus"]:
                a = (file["method"], entry["head"], entry["modality"])
                b = (entry["other"], entry["other_head"], entry["other_modality"])
                if self._fits(a, b, entry):
                    self.versus[a, b, *_what(entry)] = entry
        section, self.no_ceilings = self._fitting(ceilings) if info.ceilings else ({}, "")
        self.endpoint = tuple(section.get("endpoint", ()))
        self.fitted_on = section.get("people", 0)
        self.ceilings = {
            _ceiling_key(entry, entry["modality"]): entry for entry in section.get("ceilings", ())
        }
        self.above = self._above_ceilings()
        unexpected = {
            f["method"]: Expected(name=f["method"], role=f["role"], uses_labels=f["uses_labels"])
            for f in self.files
        }
        known = {method.name: method for method in info.methods}
        self.methods = list(
            (known | {n: m for n, m in unexpected.items() if n not in known}).values()
        )

    def _rows(self) -> Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        return ((file, row) for file in self.files for row in file["rows"])

    def _usual_fingerprint(self) -> str:
        """Return that of most methods with rows of this task version; a tie goes by the digest."""
        count = Counter(
            fingerprint
            for file in self.files
            for fingerprint in {
                row["result"]["cohort_fingerprint"]
                for row in file["rows"]
                if row["result"]["task_version"] == self.info.version
            }
        )
        return min(count, key=lambda f: (-count[f], f), default="")

    def _comparable(self, result: Mapping[str, Any]) -> bool:
        version, fingerprint = result["task_version"], result["cohort_fingerprint"]
        return version == self.info.version and fingerprint == self.fingerprint

    def _fits(self, a: tuple, b: tuple, entry: Mapping[str, Any]) -> bool:
        """Whether a comparison is about exactly the rows of both files."""
        row_a = self.results.get((*a, *_what(entry)))
        row_b = self.results.get((*b, *_what(entry)))
        if row_a is None or row_b is None:
            return False
        return (row_a["digest"], row_b["digest"]) == (entry["digest"], entry["other_digest"])

    def _difference(
        self, a: _Line, b: _Line | None, target: str, metric: str, fraction: float
    ) -> _Difference | None:
        """Return a minus b, from whichever of the two files has it."""
        if b is None:
            return None
        key_a, key_b = ((x.method.name, x.head, x.modality) for x in (a, b))
        for sign, key in ((1, (key_a, key_b)), (-1, (key_b, key_a))):
            entry = self.versus.get((*key, target, metric, fraction))
            if entry is None or entry["p"] is None:
                continue
            ends = [None if entry[e] is None else sign * entry[e] for e in ("lo", "hi")]
            lo, hi = ends[::sign]
            value = sign * entry["difference"]
            return _Difference(
                value, lo, hi, entry["p"], entry["v"], entry["nu"], entry["replicates"]
            )
        return None

    # ------------------------------------------------------------------ ceilings

    def _fitting(self, ceilings: Mapping[str, Any] | None) -> tuple[Mapping[str, Any], str]:
        """Return the task's ceilings, or nothing and why these rows cannot be set against them."""
        if ceilings is None:
            return {}, "No ceilings: there is no file of them."
        if ceilings["cohort_fingerprint"] != self.fingerprint:
            other = short(ceilings["cohort_fingerprint"])
            return {}, f"No ceilings: the file holds ceilings of another cohort (`{other}`)."
        section = ceilings["tasks"].get(self.info.name)
        if section is None:
            return {}, "No ceilings: the file has none of this task."
        if section["version"] != self.info.version:
            return {}, f"No ceilings: the file has those of task version {section['version']}."
        return section, ""

    def _ceiling(self, key: tuple) -> Mapping[str, Any] | None:
        """Return the ceiling of a row: of what its method sees, of the targets it averages."""
        _, _, modality, target, metric, _ = key
        row = {"target": target, "metric": metric, "targets": self.results[key].get("targets")}
        found = self.ceilings.get(_ceiling_key(row, modality))
        return found if found and found["value"] is not None else None

    def _share(self, key: tuple) -> float | None:
        """Share of the way from chance to the ceiling; None where the ceiling may be chance."""
        result = self.results.get(key)
        ceiling = self._ceiling(key) if result and result["value"] is not None else None
        if ceiling is None:
            return None
        chance = ceiling["chance"]
        nearest = ceiling["lo"] if result["higher_is_better"] else ceiling["hi"]
        if nearest is None or not (nearest - chance) * _sign(result) > 0:
            return None
        return (result["value"] - chance) / (ceiling["value"] - chance)

    def _above_ceilings(self) -> dict[tuple, _AboveCeiling]:
        """Test all primary metrics of the board that have a ceiling; one family under Holm."""
        entries = {
            (file["method"], entry["head"], entry["modality"], *_what(entry)): entry
            for file in self.files
            for entry in file["versus"]
            if entry["other"] == ORACLE and entry["p"] is not None
        }
        tested = {}
        for key in self._below_ceilings():
            entry, ceiling = entries.get(key), self._ceiling(key)
            digests = (self.results[key]["digest"], ceiling["digest"])
            if entry is not None and (entry["digest"], entry["other_digest"]) == digests:
                above = _sign(self.results[key]) * entry["difference"] > 0
                tested[key] = entry, entry["p"] / 2 if above else 1 - entry["p"] / 2
        adjusted = holm([p for _, p in tested.values()]).tolist()
        return {
            key: _AboveCeiling(entry, p, p_holm)
            for (key, (entry, p)), p_holm in zip(tested.items(), adjusted, strict=True)
        }

    def _below_ceilings(self) -> list[tuple]:
        """Rows with a value that must not be better than a known ceiling."""
        return [
            key
            for key, result in self.results.items()
            if key[4] in self.info.primary.values()
            and result["value"] is not None
            and self._ceiling(key) is not None
        ]

    def leaks(self) -> list[str]:
        """Return one line for each cell above its ceiling, the surest first."""
        found = [(test.p_holm, key) for key, test in self.above.items() if test.is_leak]
        lines = []
        for p_holm, key in sorted(found):
            method, head, modality, target, metric, fraction = key
            entry = self.above[key].entry
            places = _places(math.sqrt(entry["v"]))
            lines.append(
                f"{method} ({MODALITIES.get(modality, modality)}, {head} head, "
                f"{_labels(head, fraction)} of labels), {target}: {metric} "
                f"{entry['difference']:+.{places}f} against the ceiling, p (Holm) {_p(p_holm)}"
            )
        return lines

    def _alarm(self) -> list[str]:
        """Say whether anybody exceeds the ceiling of what it sees."""
        if self.no_ceilings or not self.info.ceilings:
            return [self.no_ceilings] if self.no_ceilings else []
        count, missing = len(self.above), len(self._below_ceilings()) - len(self.above)
        rest = f" {missing} more cells {NOT_COMPARED} with their ceiling." if missing else ""
        tests = "(one-sided paired tests, Holm's correction over all of them, 5%)"
        found = self.leaks()
        if not found:
            return [f"Leak check: none of the {count} cells exceeds its ceiling {tests}.{rest}"]
        head = (
            f"**LEAK ALARM: {len(found)} of {count} cells exceed the ceiling of what the method "
            f"sees {tests}. It has seen something else.**{rest}"
        )
        return [head, "\n".join(f"- **{line}**" for line in found)]

    def _ceilings_table(self) -> list[str]:
        metric = next(iter(self.info.primary.values()))
        known = {key[1]: None for key in self.ceilings if key[1] != MEAN and key[2] == metric}
        targets = [t for t in self.endpoint if t in known]
        targets += sorted(known.keys() - set(targets), key=_natural)
        columns = [(MEAN, self.endpoint), *((target, ()) for target in targets)]
        rows = []
        for modality, name in ORACLES.items():
            found = [self.ceilings.get((modality, t, metric, over)) for t, over in columns]
            if any(found):
                rows.append([name, *(_estimate(x) if x else BLANK for x in found)])
        if not rows:
            return []
        text = (
            f"What can be known of the labels of the test people, as {metric} [95% interval]. An "
            "oracle reads the true parameters that the input was drawn from, fitted on "
            f"{self.fitted_on:,} other people of the same population. Share of ceiling: how far a "
            "method came from chance to the oracle of what it sees; blank where the ceiling is not "
            "above chance."
        )
        if self.endpoint:
            text += f" The mean is over {', '.join(self.endpoint)}."
        return ["## Ceilings", text, _table(["", MEAN, *targets], rows)]

    # ------------------------------------------------------------------ sections

    def _sections(self) -> Iterable[tuple[str, str, float, str]]:
        """Modality, primary metric, fraction and head of every section, in order."""
        for modality, metric in self.info.primary.items():
            ranked = {m.name for m in self.methods if m.role == "ranked"}
            found = {key[1] for key in self.results if key[0] in ranked and key[2] == modality}
            heads = [*self.info.heads, *sorted(found - set(self.info.heads))]
            for fraction, head in itertools.product(self.info.fractions, heads):
                yield modality, metric, fraction, head

    def _lines(self, modality: str, metric: str, fraction: float, head: str) -> list[_Line]:
        """Everybody's place: by block, best value first, then those without a value."""
        place = {block: i for i, block in enumerate(BLOCKS)}
        lines = [
            line
            for method in self.methods
            if (line := self._line(method, modality, metric, fraction, head)) is not None
        ]

        def order(line: _Line) -> tuple:
            if line.value is None:
                return place[line.method.block], 1, 0.0
            sign = -1 if line.result["higher_is_better"] else 1
            return place[line.method.block], 0, sign * line.value

        return sorted(lines, key=order)

    def _line(
        self, method: Expected, modality: str, metric: str, fraction: float, head: str
    ) -> _Line | None:
        rest = (MEAN, metric, fraction)
        exact = (method.name, head, modality, *rest)
        if exact in self.results:
            return _Line(method, head, modality, self.results[exact])
        near = (modality, "covariates", *(["cmr"] if modality == "ecg" else []))
        if method.block == "unranked":
            # References may be tied to a head of their own, or read covariates or images only, and
            # stand in every section all the same.
            found = sorted(
                (key[2] != modality, key[1], key[2])
                for key in self.results
                if key[0] == method.name and key[3:] == rest and key[2] in near
            )
            if found:
                _, own_head, own_modality = found[0]
                result = self.results[method.name, own_head, own_modality, *rest]
                return _Line(method, own_head, own_modality, result)
            elsewhere = any(
                key[0] == method.name and key[3:] == rest and key[2] in near for key in self.others
            )
        else:
            near, elsewhere = (modality,), exact in self.others
        if elsewhere:
            return _Line(method, head, modality, None, OTHER)
        if method.places is None or any((m, fraction) in method.places for m in near):
            return _Line(method, head, modality, None, NOT_RUN)
        if method.places and not any(m in near for m, _ in method.places):
            return None  # an ECG encoder has no place among those that search CMR
        return _Line(method, head, modality, None, NOT_APPLICABLE)

    def _family(
        self, lines: list[_Line], reference: _Line | None, what: tuple[str, str, float]
    ) -> _Family:
        """Test all pairs of a ranked block, and of the block with the reference."""
        members = [line for line in lines if line.value is not None]
        pairs = list(itertools.combinations(members, 2))
        if reference is not None and reference.value is not None and reference not in members:
            pairs += [(line, reference) for line in members]
        tested = {
            (a.method.name, b.method.name): d
            for a, b in pairs
            if (d := self._difference(a, b, *what)) is not None
        }
        adjusted = dict(zip(tested, holm([d.p for d in tested.values()]).tolist(), strict=True))
        names = [line.method.name for line in members]
        sign = 1 if members and members[0].result["higher_is_better"] else -1
        better = [
            (a, b) if sign * d.value > 0 else (b, a)
            for (a, b), d in tested.items()
            if adjusted[a, b] <= LEVEL and {a, b} <= set(names)
        ]
        shown = len(names) >= 2
        return _Family(
            p={frozenset(pair): p for pair, p in adjusted.items()},
            ranks=rank_intervals(names, better) if shown else {},
            letters=letters(names, better) if shown else {},
            pairs=len(pairs),
        )

    # ------------------------------------------------------------------ output

    def markdown(self) -> str:
        info = self.info
        parts = [f"# {info.title}"]
        if info.simulated:
            parts.append(
                "> **Simulated people.** This board ranks learning behaviour on simulated people "
                "under a small budget, not clinical performance."
            )
        if not self.files:
            return "\n\n".join([*parts, "Nothing run yet."]) + "\n"
        names = sorted({"-".join(_folder(file)) for file in self.files})
        parts.append(
            f"Cohort {', '.join(names)} (fingerprint `{short(self.fingerprint)}`), task "
            f"`{info.name}` version {info.version}, {TRACK} track."
        )
        parts += self._alarm()
        parts.append("\n".join(f"- {line}" for line in self._reading()))
        parts += self._ceilings_table()
        for section in self._sections():
            parts += self._section(*section)
        parts += self._not_ranked()
        return "\n\n".join(parts) + "\n"

    def _reading(self) -> list[str]:
        replicates = {r["replicates"] for r in self.results.values() if r["value"] is not None}
        if replicates == {1}:
            covers = f"the test people only: every row is {ONE_CHECKPOINT}"
        elif 1 in replicates:
            covers = (
                f"the test people and the training replicates; rows marked {ONE_CHECKPOINT!r} "
                "cover the people only"
            )
        else:
            covers = "the test people and the training replicates (seed and label subset)"
        if self.info.heads == (NO_HEAD,):
            further = "Every test person is a query once; the gallery is treated as fixed."
        else:
            further = "Label fractions count training people; validation labels are not subsampled."
        return [
            f"Values are means over replicates; brackets are 95% intervals that cover {covers}.",
            f"Not covered: the choice of hyper-parameters and the split of people. {further}",
            "Rank: the places a method can have, from paired tests of all pairs of its block (and "
            "of the block with the reference) under Holm's correction at 5%; methods that share a "
            "letter are not told apart, and a pair that is not compared counts as not told apart. "
            "Each section is one family; there is no correction across sections.",
            "Resolves: the true difference to the reference that the paired test would find with "
            "80% power.",
        ]

    def _section(self, modality: str, metric: str, fraction: float, head: str) -> list[str]:
        lines = self._lines(modality, metric, fraction, head)
        title = [MODALITIES.get(modality, modality)]
        if head != NO_HEAD:
            title += [f"{_labels(head, fraction)} of labels", f"{head} head"]
        parts = [f"## {', '.join(title)}"]
        if all(line.result is None for line in lines):
            others = any(line.absent == OTHER for line in lines)
            return [*parts, "No comparable rows, see below." if others else "Nothing run yet."]
        if head != self.info.heads[0]:
            ranked = [x for x in lines if x.method.block != "unranked"]
            missing = [line.method.name for line in ranked if line.result is None]
            caption = f"With this head {NOT_RUN}"
        else:
            missing = [line.method.name for line in lines if line.status == NOT_RUN]
            caption = NOT_RUN.capitalize()
        lines = [line for line in lines if line.method.name not in missing]
        if missing:
            parts.append(f"{caption}: {', '.join(missing)}.")
        reference = self._reference(lines, modality)
        parts.append(self._endpoint(lines, metric, self.info.reference.get(modality)))
        for block, heading in BLOCKS.items():
            members = [line for line in lines if line.method.block == block]
            if not members:
                continue
            family = _Family({}, {}, {}, 0)
            if block != "unranked":
                family = self._family(members, reference, (MEAN, metric, fraction))
            parts.append(f"### {heading}")
            parts.append(self._table(members, reference, family, metric, fraction, head, modality))
            missing = family.pairs - len(family.p)
            if missing:
                parts.append(f"{missing} of {family.pairs} pairs {NOT_COMPARED}.")
            if block != "unranked":
                parts += self._against_references(members, lines, (MEAN, metric, fraction))
        parts += self._warnings(lines)
        parts += self._other_metrics(lines, metric, fraction)
        parts += self._per_target(lines, metric, fraction)
        return parts

    def _against_references(
        self, members: list[_Line], lines: list[_Line], what: tuple[str, str, float]
    ) -> list[str]:
        """Set each ranked method beside what needs no representation learning."""
        references = [x for x in lines if x.method.block == "unranked" and x.value is not None]
        members = [line for line in members if line.value is not None]
        if not (references and members):
            return []
        rows = []
        for line in members:
            cells = []
            for other in references:
                d = self._difference(line, other, *what)
                cells.append(NOT_COMPARED if d is None else f"{_shown(d)}, p {_p(d.p)}")
            rows.append([line.method.name, *cells])
        headers = ["method", *(f"minus {other.method.name}" for other in references)]
        caption = "Against the references (difference [95% interval], p uncorrected):"
        return [caption, _table(headers, rows)]

    def _reference(self, lines: list[_Line], modality: str) -> _Line | None:
        name = self.info.reference.get(modality)
        return next((line for line in lines if line.method.name == name), None)

    def _endpoint(self, lines: list[_Line], metric: str, reference: str | None) -> str:
        targets = next((r["targets"] for x in lines if (r := x.result) and r.get("targets")), ())
        over = f" over {', '.join(targets)}" if targets else " over targets"
        compared = f" Reference method: {reference}." if reference else ""
        return f"Primary endpoint: mean {metric}{over}.{compared}"

    def _table(
        self,
        members: list[_Line],
        reference: _Line | None,
        family: _Family,
        metric: str,
        fraction: float,
        head: str,
        modality: str,
    ) -> str:
        what = (MEAN, metric, fraction)
        ranked = members[0].method.block != "unranked"
        rows = []
        for line in members:
            r, name = line.result, line.method.name
            shown = name if ranked else _with_origin(line, head, modality)
            key = (name, line.head, line.modality, *what)
            share = [_percent(self._share(key))] if self.ceilings else []
            if line.value is None:
                cells = [shown, line.status, *share, *[BLANK] * 3]
            else:
                compared = self._compared(line, reference, family, what)
                cells = [shown, _estimate(r), *share, *compared]
            rank = [_rank(family.ranks.get(name)), family.letters.get(name, BLANK)]
            rows.append([*(rank if ranked else []), *cells, *_provenance(r)])
        versus = f"difference to {reference.method.name}" if reference else "difference"
        headers = [
            *(["rank", "group"] if ranked else []),
            "method",
            f"{metric} [95% interval]",
            *(["share of ceiling"] if self.ceilings else []),
            f"{versus} [95% interval]",
            "p (Holm)",
            "resolves",
            "replicates",
            "n",
            "chance",
            "digest",
        ]
        return _table(headers, rows)

    def _compared(
        self, line: _Line, reference: _Line | None, family: _Family, what: tuple[str, str, float]
    ) -> list[str]:
        if reference is not None and line.method.name == reference.method.name:
            return ["reference", BLANK, BLANK]
        d = self._difference(line, reference, *what)
        if d is None:
            return [NOT_COMPARED, NOT_COMPARED, BLANK]
        difference, places = _shown(d), _places(math.sqrt(d.v))
        most = max(line.result["replicates"], reference.result["replicates"])
        if d.replicates < most:
            difference += f" (of the {d.replicates} common replicates)"
        p = family.p.get(frozenset((line.method.name, reference.method.name)))
        return [difference, BLANK if p is None else _p(p), _number(d.resolvable, places)]

    def _warnings(self, lines: list[_Line]) -> list[str]:
        says = {"unmatched": "queries without any match", "ties": "queries decided by ties"}
        found = [
            f"{line.method.name}: {100 * r[field] / r['n']:.1f}% {text}"
            for line in lines
            for field, text in says.items()
            if (r := line.result) and _is_count(r.get(field)) and _is_count(r["n"])
            if r[field] > 0.01 * r["n"]
        ]
        return [f"Note: {'; '.join(found)}."] if found else []

    def _other_metrics(self, lines: list[_Line], primary: str, fraction: float) -> list[str]:
        places = {(line.method.name, line.head, line.modality) for line in lines if line.result}
        metrics = {
            key[4]
            for key in self.results
            if key[:3] in places and key[3] == MEAN and key[5] == fraction
        }
        metrics = sorted(metrics - {primary}, key=_natural)
        if not metrics:
            return []
        columns = [(MEAN, metric) for metric in metrics]
        rows = self._grid(lines, columns, fraction, counts=False)
        return ["Other metrics, mean over targets:", _table(["method", *metrics], rows)]

    def _per_target(self, lines: list[_Line], metric: str, fraction: float) -> list[str]:
        places = {(line.method.name, line.head, line.modality) for line in lines if line.result}
        listed = next((r["targets"] for x in lines if (r := x.result) and r.get("targets")), [])
        found = {
            key[3]
            for key in self.results
            if key[:3] in places and key[4:] == (metric, fraction) and key[3] != MEAN
        }
        targets = [t for t in listed if t in found] + sorted(found - set(listed), key=_natural)
        if not targets:
            return []
        columns = [(target, metric) for target in targets]
        rows = self._grid(lines, columns, fraction, counts=True)
        return [f"{metric} per target (secondary):", _table(["method", *targets], rows)]

    def _grid(
        self,
        lines: list[_Line],
        columns: list[tuple[str, str]],
        fraction: float,
        counts: bool,
    ) -> list[list[str]]:
        """Table of methods by (target, metric), headed by n, positives and chance."""
        lines = [line for line in lines if line.result is not None]
        cells = [
            [
                self.results.get((x.method.name, x.head, x.modality, *column, fraction))
                for column in columns
            ]
            for x in lines
        ]
        head = []
        for field in ("n", "positives", "chance") if counts else ("chance",):
            known = [
                next((r for r in col if r and r[field] is not None), None)
                for col in zip(*cells, strict=True)
            ]
            if any(known):
                shown = [BLANK if r is None else _fact(r, field) for r in known]
                head.append([f"*{field}*", *shown])
        body = [
            [
                line.method.name,
                # Only a search across modalities can find the own scan.
                *(
                    _estimate(r) if r else BLANK if metric.endswith("+self") else NOT_RUN
                    for r, (_, metric) in zip(row, columns, strict=True)
                ),
            ]
            for line, row in zip(lines, cells, strict=True)
        ]
        return head + body

    def _not_ranked(self) -> list[str]:
        rows = [
            [
                *(method, MODALITIES.get(modality, modality), head, f"{100 * fraction:g}%"),
                *(metric, _estimate(r), str(r["task_version"]), short(r["cohort_fingerprint"])),
            ]
            for (method, head, modality, target, metric, fraction), r in sorted(self.others.items())
            if target == MEAN and metric in self.info.primary.values()
        ]
        if not rows:
            return []
        headers = ["method", "modality", "head", "labels", "metric", "value [95% interval]"]
        headers += ["task version", "cohort"]
        return ["## Not ranked: other cohort or task version", _table(headers, rows)]

    def csv(self) -> str:
        return _csv(CSV_FIELDS, list(self._records()))

    def _records(self) -> Iterable[dict[str, Any]]:
        """Every row of every section, and an empty one for each method that is not run."""
        for modality, primary, fraction, head in self._sections():
            lines = self._lines(modality, primary, fraction, head)
            reference = self._reference(lines, modality)
            families = {
                block: self._family(
                    [x for x in lines if x.method.block == block],
                    reference,
                    (MEAN, primary, fraction),
                )
                for block in BLOCKS
                if block != "unranked"
            }
            for line in lines:
                name, block = line.method.name, line.method.block
                family = families.get(block)
                base = {
                    "modality": modality,
                    "fraction": fraction,
                    "section_head": head,
                    "block": block,
                    "method": name,
                    "head": line.head,
                    "row_modality": line.modality,
                }
                if line.result is None:
                    yield {**base, "target": MEAN, "metric": primary, "status": line.status}
                    continue
                for target, metric in self._scored(line, fraction, primary):
                    key = (name, line.head, line.modality, target, metric, fraction)
                    record = base | {"target": target, "metric": metric} | self._csv_row(key)
                    d = self._difference(line, reference, target, metric, fraction)
                    if d is not None:
                        record |= {
                            "difference": d.value,
                            "difference_lo": d.lo,
                            "difference_hi": d.hi,
                            # Per target it would be one of many tests, uncorrected.
                            "p": d.p if target == MEAN else None,
                            "difference_replicates": d.replicates,
                            "resolvable": _round(d.resolvable),
                        }
                    if family and (target, metric) == (MEAN, primary):
                        record |= family.record(name, reference)
                    yield record

    def _csv_row(self, key: tuple) -> dict[str, Any]:
        r = self.results[key]
        fields = ("status", "value", "lo", "hi", "se", "replicates", "n", "positives", "chance")
        notes = "; ".join(r["notes"])
        record = {**{name: r[name] for name in fields}, "notes": notes, "digest": r["digest"]}
        ceiling, above = self._ceiling(key), self.above.get(key)
        if ceiling is not None:
            names = {"ceiling": "value", "ceiling_lo": "lo", "ceiling_hi": "hi"}
            record |= {column: ceiling[name] for column, name in names.items()}
            record["share_of_ceiling"] = _round(self._share(key))
        if above is not None:
            record["ceiling_difference"] = above.entry["difference"]
            record["ceiling_p"], record["ceiling_p_holm"] = _round(above.p), _round(above.p_holm)
        return record

    def _scored(self, line: _Line, fraction: float, primary: str) -> list[tuple[str, str]]:
        place = (line.method.name, line.head, line.modality)
        found = [(k[3], k[4]) for k in self.results if k[:3] == place and k[5] == fraction]
        return sorted(found, key=lambda x: (x[1] != primary, _natural(x[1]), x[0] != MEAN, x[0]))


@dataclass(frozen=True)
class _Family:
    """Adjusted p per pair of names, and what follows for the members of one ranked block."""

    p: dict[frozenset[str], float]
    ranks: dict[str, tuple[int, int]]
    letters: dict[str, str]
    pairs: int

    def record(self, name: str, reference: _Line | None) -> dict[str, Any]:
        lo, hi = self.ranks.get(name, (None, None))
        pair = frozenset((name, reference.method.name)) if reference else None
        p = _round(self.p.get(pair))
        return {"p_holm": p, "rank_lo": lo, "rank_hi": hi, "letters": self.letters.get(name)}


# ---------------------------------------------------------------------------------- cost

_COST_KEY = ("method", "task", "track", "modality", "head", "fraction")
_COST_FIELDS = (*_COST_KEY, "replicates", *RUN_FIELDS)


def _costs(files: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One record per method, task, track, modality, head and fraction: its most costly row."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for file in files:
        for row in file["rows"]:
            fields = {**file, **row}
            run = {**row["run"], "replicates": row["result"]["replicates"]}
            groups.setdefault(tuple(fields[name] for name in _COST_KEY), []).append(run)
    records = []
    for key, runs in sorted(groups.items()):
        record = dict(zip(_COST_KEY, key, strict=True))
        for name in ("replicates", *RUN_FIELDS):
            known = [run[name] for run in runs if run.get(name) is not None]
            record[name] = max(known, default=None)
        records.append(record)
    return records


def cost_markdown(files: Sequence[Mapping[str, Any]]) -> str:
    """Return the cost table: seconds summed over replicates, peak memory, device, code."""
    rows = [
        [
            *(str(record[name]) for name in ("method", "task", "track", "modality", "head")),
            _labels(record["head"], record["fraction"]),
            str(record["replicates"]),
            *(_number(record[f"{s}_seconds"], 1) for s in ("pretraining", "embedding", "head")),
            _number((record["peak_memory_bytes"] or 0) / 2**30 or None, 2),
            record["device"] or BLANK,
            short(record["git_sha"]) if record["git_sha"] else BLANK,
        ]
        for record in _costs(files)
    ]
    headers = ["method", "task", "track", "modality", "head", "labels", "replicates"]
    headers += ["pretraining [s]", "embedding [s]", "head [s]", "process memory [GiB]"]
    headers += ["device", "git"]
    text = (
        "Seconds are sums over replicates, measured where each stage first ran; a stage that "
        "methods share is counted in each. Process memory is the largest the process had while "
        "one of the stages ran, whatever else it still held."
    )
    return "\n\n".join(["# Cost", text, _table(headers, rows)]) + "\n"


# ---------------------------------------------------------------------------------- formats


def _shown(d: _Difference) -> str:
    """Return a difference with its interval, to the digits of its standard error."""
    places = _places(math.sqrt(d.v))
    interval = "" if d.lo is None else f" [{d.lo:+.{places}f}, {d.hi:+.{places}f}]"
    return f"{d.value:+.{places}f}{interval}"


def short(digest: str) -> str:
    """Return the first 12 digits, grouped."""
    return grouped(digest.replace("-", "")[:12])


def _labels(head: str, fraction: float) -> str:
    """Share of labels a head was fitted on; ranking by similarity uses none."""
    return BLANK if head == NO_HEAD else f"{100 * fraction:g}%"


def _what(row: Mapping[str, Any]) -> tuple[str, str, float]:
    return row["target"], row["metric"], row["fraction"]


def _ceiling_key(row: Mapping[str, Any], modality: str) -> tuple[str, str, str, tuple[str, ...]]:
    over = row.get("targets") if row["target"] == MEAN else None
    return modality, row["target"], row["metric"], tuple(over or ())


def _sign(result: Mapping[str, Any]) -> int:
    return 1 if result["higher_is_better"] else -1


def _folder(file: Mapping[str, Any]) -> list[str]:
    return [part for part in (file["cohort"], file["preset"], file["scale"]) if part]


def _places(se: float | None) -> int:
    """Decimals that leave the standard error two significant digits."""
    if not se or not math.isfinite(se):
        return 4
    # Rounded first, since 0.0996 is 0.10 and not 0.100.
    return min(max(1 - math.floor(math.log10(float(f"{se:.1e}"))), 0), 6)


def _estimate(result: Mapping[str, Any]) -> str:
    if result["value"] is None:
        return result["status"]
    places = _places(result["se"])
    if result["se"] is None and result["lo"] is not None:
        places = 1  # the median rank: multiples of one half, averaged
    text = f"{result['value']:.{places}f}"
    if result["lo"] is None:
        return text
    return f"{text} [{result['lo']:.{places}f}, {result['hi']:.{places}f}]"


def _provenance(result: Mapping[str, Any] | None) -> list[str]:
    if result is None:
        return [BLANK] * 4
    replicates = str(result["replicates"])
    if ONE_CHECKPOINT in result["notes"]:
        replicates += f" ({ONE_CHECKPOINT})"
    n = BLANK if result["n"] is None else str(result["n"])
    return [replicates, n, _fact(result, "chance"), f"`{short(result['digest'])}`"]


def _fact(result: Mapping[str, Any], field: str) -> str:
    if result[field] is None:
        return BLANK
    return f"{result[field]:.4g}" if field == "chance" else str(result[field])


def _with_origin(line: _Line, head: str, modality: str) -> str:
    """Name with the head and modality in which a reference was found, where not the section's."""
    origin = [MODALITIES.get(line.modality, line.modality)] if line.modality != modality else []
    origin += [f"{line.head} head"] if line.head != head else []
    origin += ["control"] if line.method.role == "control" else []
    return f"{line.method.name} ({', '.join(origin)})" if origin else line.method.name


def _rank(rank: tuple[int, int] | None) -> str:
    if rank is None:
        return BLANK
    return str(rank[0]) if rank[0] == rank[1] else f"{rank[0]}-{rank[1]}"


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.2g}"


def _number(x: float | None, places: int) -> str:
    return BLANK if x is None or not math.isfinite(x) else f"{x:.{places}f}"


def _is_count(value: Any) -> bool:
    """Whether a count is there and not withheld, as small ones of real people are."""
    return isinstance(value, int)


def _percent(share: float | None) -> str:
    return BLANK if share is None else f"{100 * share:.0f}%"


def _round(x: float | None) -> float | None:
    """12 significant digits, as in rows."""
    return None if x is None or not math.isfinite(x) else float(f"{x:.12g}")


def _natural(text: str) -> list:
    """Order with P@3 before P@10 and the variants with the own scan last."""
    parts = re.split(r"(\d+)", text)
    return [text.endswith("+self"), [(p.isdigit(), int(p) if p.isdigit() else p) for p in parts]]


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _csv(fields: Sequence[str], records: Iterable[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()

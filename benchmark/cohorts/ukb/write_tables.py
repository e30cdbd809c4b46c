"""Writes tables of simulated people as UK Biobank's tools do, in each grammar of column names.

Values that a reader must not take are there too: other visits' measurements, codes of other
diseases, stand-ins for dates, and a row of somebody who withdrew, with a negative id.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from benchmark.cohorts.cohort import DIAGNOSES
from benchmark.cohorts.phenotypes import PHENOTYPES
from benchmark.cohorts.ukb import labels
from benchmark.cohorts.ukb.tables import GRAMMARS, Cell

Value = str | int | float | date

_CODES = {
    "CAD": ("I251", "I209", "I259"),
    "AF": ("I48", "I480", "I489"),
    "DM": ("E119", "E149", "E11"),
    "HF": ("I500", "I509"),
    "CM": ("I420", "I422"),
    "MI": ("I219", "I214", "I22"),
}
_OTHER_CODES = ("I10", "K210", "J189", "Z039", "I270", "I517", "E780", "I472")
_HOSPITAL, _ELSEWHERE = 0.85, 0.85
"""Share of diagnoses with a hospital code, and of those with a first occurrence (one at least)."""
_BEFORE = 0.7
"""Share of diagnoses made before the visit."""
_UNDATED = 0.1
"""Share of first occurrences without a usable date."""

_WITHDRAWN_ROW = -1
_WITH_INSTANCES = {
    labels.VISIT_DATE,
    labels.AGE,
    *labels.HEIGHT,
    *labels.WEIGHT,
    *(labels.QRS_NUMBER, labels.QRS_DURATION),
    *(p.field for p in PHENOTYPES),
}


@dataclass(frozen=True)
class Visit:
    """What was measured when somebody came: date, whole years, cm, kg.

    ``phenotypes`` (82,) in the order of `PHENOTYPES`, or None without images; ``ecg`` what the
    device read off the ECG, by field.
    """

    day: date
    age: int
    height: float
    weight: float
    phenotypes: np.ndarray | None = None
    ecg: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Participant:
    """One row of the tables.

    Attributes
    ----------
    eid, male, born
        Who.
    visits
        By instance; 0 is the baseline visit.
    diagnoses
        Names of `DIAGNOSES`.
    """

    eid: int
    male: bool
    born: date
    visits: Mapping[int, Visit]
    diagnoses: tuple[str, ...]


def participant_cells(person: Participant, rng: np.random.Generator) -> dict[Cell, Value]:
    """Return everything that the tables say of a person; ``rng`` draws codes and dates."""
    cells: dict[Cell, Value] = {
        Cell(labels.SEX): int(person.male),
        Cell(labels.BIRTH_YEAR): person.born.year,
        Cell(labels.BIRTH_MONTH): person.born.month,
    }
    height, height_before_scan = labels.HEIGHT
    weight, weight_before_scan = labels.WEIGHT
    for instance, visit in person.visits.items():
        cells[Cell(labels.VISIT_DATE, instance)] = visit.day
        cells[Cell(labels.AGE, instance)] = visit.age
        cells |= {Cell(number, instance): value for number, value in visit.ecg.items()}
        imaged = visit.phenotypes is not None
        if imaged:
            cells[Cell(height_before_scan, instance)] = visit.height
            cells[Cell(weight_before_scan, instance)] = visit.weight
            cells |= {
                Cell(p.field, instance): float(value)
                for p, value in zip(PHENOTYPES, visit.phenotypes, strict=True)
            }
        # Some are measured only before the scan.
        if not imaged or rng.random() < 0.9:
            cells[Cell(height, instance)] = visit.height
            cells[Cell(weight, instance)] = visit.weight
    return cells | _diagnosis_cells(person, rng)


def _diagnosis_cells(person: Participant, rng: np.random.Generator) -> dict[Cell, Value]:
    visited = max(visit.day for visit in person.visits.values())
    hospital: dict[str, date] = {}
    cells: dict[Cell, Value] = {}
    for name in DIAGNOSES:
        if name not in person.diagnoses:
            continue
        days = -rng.integers(1, 4_000) if rng.random() < _BEFORE else rng.integers(1, 900)
        day = visited + timedelta(days=int(days))
        code = str(rng.choice(_CODES[name]))
        in_hospital = rng.random() < _HOSPITAL
        if in_hospital:
            hospital[code] = day
        if not in_hospital or rng.random() < _ELSEWHERE:
            seen = rng.choice(labels.UNKNOWN_DATES) if rng.random() < _UNDATED else day
            cells[Cell(labels.FIRST_OCCURRENCE[code[:3]])] = (
                date.fromisoformat(seen) if isinstance(seen, str) else seen
            )
    for code in rng.choice(_OTHER_CODES, rng.integers(0, 4), replace=False):
        hospital[str(code)] = visited - timedelta(days=int(rng.integers(1, 6_000)))
    for place, code in enumerate(sorted(hospital)):  # UK Biobank lists them by code
        cells[Cell(labels.CODES, 0, place)] = code
        cells[Cell(labels.CODE_DATES, 0, place)] = hospital[code]
    return cells


def write_tables(
    folder: Path, grammar: str, people: Mapping[int, Mapping[Cell, Value]]
) -> tuple[Path, Path]:
    """Write what is known of people, by id, as a main table and one of CMR phenotypes.

    Parameters
    ----------
    grammar
        Of `GRAMMARS`: ``ukbconv`` gives quoted CSV, ``r`` and ``stata`` tab-separated text,
        ``field-name`` CSV and ``dx`` Parquet.

    Returns
    -------
    tuple
        Paths of the two.
    """
    people = {_WITHDRAWN_ROW: {}, **people}
    cells = sorted({cell for known in people.values() for cell in known})
    phenotype_fields = {p.field for p in PHENOTYPES}
    paths = []
    for name, chosen in (
        ("main", [cell for cell in cells if cell.field not in phenotype_fields]),
        ("cmr", [cell for cell in cells if cell.field in phenotype_fields]),
    ):
        columns = {GRAMMARS[grammar].id: list(people)}
        columns |= _columns(grammar, chosen, list(people.values()))
        paths.append(_write(folder / name, grammar, columns))
    return paths[0], paths[1]


def _columns(
    grammar: str, cells: Sequence[Cell], people: Sequence[Mapping[Cell, Value]]
) -> dict[str, list]:
    """Return the values of all people by the name of their column."""
    columns: dict[str, list] = {}
    for cell in cells:
        values: list = [known.get(cell) for known in people]
        if grammar in ("field-name", "dx"):  # the Research Analysis Platform
            if cell.field == labels.CODES:  # has all codes of a person in one column
                if cell.array:
                    continue
                lists = [
                    [value for place, value in sorted(known.items()) if place.field == cell.field]
                    for known in people
                ]
                values = [codes or None for codes in lists]
            instance = f"_i{cell.instance}" if cell.field in _WITH_INSTANCES else ""
            array = f"_a{cell.array}" if cell.field == labels.CODE_DATES else ""
            name = f"p{cell.field}{instance}{array}"
            columns[f"participant.{name}" if grammar == "dx" else name] = values
        elif grammar == "stata":
            kind = next(value for value in values if value is not None)
            letter = "ts" if isinstance(kind, date) else "s" if isinstance(kind, str) else "n"
            columns["_".join(map(str, (letter, *cell)))] = values
        elif grammar == "r":
            columns[f"f.{cell.field}.{cell.instance}.{cell.array}"] = values
        else:
            columns[f"{cell.field}-{cell.instance}.{cell.array}"] = values
    return columns


def _write(path: Path, grammar: str, columns: Mapping[str, list]) -> Path:
    if grammar == "dx":
        import pyarrow as pa
        from pyarrow import parquet

        path = path.with_suffix(".parquet")
        parquet.write_table(pa.table({name: pa.array(v) for name, v in columns.items()}), path)
        return path
    ending, dialect = {
        "ukbconv": (".csv", {"quoting": csv.QUOTE_ALL}),
        "r": (".tab", {"delimiter": "\t"}),
        "field-name": (".csv", {}),
        "stata": (".tsv", {"delimiter": "\t"}),
    }[grammar]
    path = path.with_suffix(ending)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n", **dialect)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow([_text(value, grammar) for value in row])
    return path


def _text(value: Value | list[Value] | None, grammar: str) -> str:
    if value is None:
        return "NA" if grammar == "r" else ""
    if isinstance(value, list):
        return json.dumps(value)
    if isinstance(value, date) and grammar == "stata":
        return f"{value:%d%b%Y}".lower()
    return str(value)

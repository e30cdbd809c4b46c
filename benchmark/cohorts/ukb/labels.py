"""What is known of UK Biobank's people: visits, covariates, CMR phenotypes and diagnoses.

All functions take the `visits` of `same_visit` and return one row per person in their order, so
that everything belongs to the visit of the ECG and the images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from benchmark.api import UserError
from benchmark.cohorts.cohort import AS_CODED, COVARIATES, ECG_MEASURES
from benchmark.cohorts.phenotypes import PHENOTYPES

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.cohorts.ukb.tables import Table

ECG, LONG_AXIS, SHORT_AXIS = 20205, 20208, 20209
"""Fields of the bulk files: resting ECG, long-axis and short-axis cine."""

SEX, BIRTH_YEAR, BIRTH_MONTH = 31, 34, 52
VISIT_DATE, AGE = 53, 21003
HEIGHT = (50, 12144)
"""Standing height in cm; the second, measured before the scan, where the first is missing."""
WEIGHT = (21002, 12143)
"""Weight in kg; the second, measured before the scan, where the first is missing."""
QRS_NUMBER, QRS_DURATION = 22338, 12340
"""What the device read off the resting ECG: complexes in 10 s, and their width in ms."""
CODES, CODE_DATES = 41270, 41280
"""ICD-10 codes of hospital stays, and the date of the first stay with the code at that place."""

FIRST_OCCURRENCE: Mapping[str, int] = MappingProxyType(
    {
        **{f"E{10 + k}": 130_706 + 2 * k for k in range(5)},
        **{f"I{20 + k}": 131_296 + 2 * k for k in range(6)},
        "I42": 131_338,
        "I48": 131_350,
        "I50": 131_354,
    }
)
"""Fields with the date on which a three-character code was first seen in any source."""

FIELDS = frozenset(
    {SEX, BIRTH_YEAR, BIRTH_MONTH, VISIT_DATE, AGE, *HEIGHT, *WEIGHT, CODES, CODE_DATES}
    | {QRS_NUMBER, QRS_DURATION}
    | {p.field for p in PHENOTYPES}
    | set(FIRST_OCCURRENCE.values())
)
"""All fields that the functions below ask for: what `read_tables` is to read."""

UNKNOWN_DATES = (
    "1900-01-01",
    "1901-01-01",
    "1902-02-02",
    "1903-03-03",
    "1909-09-09",
    "2037-07-07",
)
"""Stand for a code without a usable date (UK Biobank coding 819)."""

When = Literal["ever", "prevalent", "incident"]


@dataclass(frozen=True)
class Definition:
    """Which ICD-10 codes make a diagnosis.

    Attributes
    ----------
    codes
        Diagnosis to codes without a dot.
    exact
        Whether a person's code must be one of them as it stands, or only begin with one, its dot
        left out.
    first_occurrence
        Whether the first-occurrence fields count beside the hospital codes. They add general
        practice, self-report and death certificates.
    """

    codes: Mapping[str, tuple[str, ...]]
    exact: bool
    first_occurrence: bool


def _span(letter: str, first: int, last: int) -> tuple[str, ...]:
    return tuple(f"{letter}{number}" for number in range(first, last + 1))


DEFINITIONS: Mapping[str, Definition] = MappingProxyType(
    {
        "clean": Definition(
            {
                "CAD": _span("I", 20, 25),
                "AF": ("I48",),
                "DM": _span("E", 10, 14),
                "HF": ("I50",),
                "CM": ("I42",),
                "MI": ("I21", "I22"),
            },
            exact=False,
            first_occurrence=True,
        ),
        # The published code of the dual-phase paper, as it runs: four-character codes alone, so
        # that a bare I48 is missed, and I25 (chronic ischaemic disease) called infarction. DM,
        # which it does not look for, is read in the same way.
        "as-coded": Definition(
            {
                "CAD": _span("I", 200, 259),
                "AF": _span("I", 480, 489),
                "DM": _span("E", 100, 149),
                "HF": _span("I", 500, 509),
                "CM": _span("I", 420, 429),
                "MI": _span("I", 250, 259),
            },
            exact=True,
            first_occurrence=False,
        ),
        # The infarction of ECCL's published code, whose AF, HF and CM are the clean ones.
        "as-coded-i21": Definition({"I21": ("I21",)}, exact=True, first_occurrence=True),
    }
)


def same_visit(files: pd.DataFrame, fields: Sequence[int] = (ECG, SHORT_AXIS)) -> pd.Series:
    """Return for each person the earliest visit from which there is a file of every field.

    Parameters
    ----------
    files
        One row per file with the columns ``eid``, ``field`` and ``instance``.
    fields
        Bulk fields that must come from one visit.

    Returns
    -------
    pd.Series
        Instance (2 imaging, 3 repeat imaging) by eid, ascending.
    """
    rows = files.loc[files["field"].isin(fields), ["eid", "field", "instance"]].drop_duplicates()
    held = rows.groupby(["eid", "instance"]).size()
    complete = held[held == len(set(fields))].index.to_frame(index=False)
    return complete.groupby("eid")["instance"].min().astype("int64")


def phenotypes(table: Table, visits: pd.Series) -> pd.DataFrame:
    """Return the 82 CMR phenotypes of each person's visit.

    What is not finite is missing; the implausible is kept, as the published evaluations do.

    Returns
    -------
    pd.DataFrame
        (people, 82) in their units, in the order of `PHENOTYPES`, indexed by id.
    """
    import pandas as pd

    return pd.DataFrame(
        {p.name: _at_visit(visits, table.numbers, p.field) for p in PHENOTYPES}, visits.index
    )


def covariates(table: Table, visits: pd.Series) -> pd.DataFrame:
    """Return age, sex, height and weight at each person's visit.

    Age falls back on the date of the visit and month of birth, height and weight on the
    measurements before the scan. Sizes that are not positive are missing.

    Returns
    -------
    pd.DataFrame
        ``age`` (years), ``sex`` (1 male, 0 female), ``height`` (cm), ``weight`` (kg), NaN where
        missing, indexed by id.
    """
    import pandas as pd

    people = visits.index
    days = _at_visit(visits, table.dates, VISIT_DATE)
    year, month = (table.numbers(field).reindex(people) for field in (BIRTH_YEAR, BIRTH_MONTH))
    # Counted from the middle of the month of birth.
    reckoned = days.dt.year + (days.dt.day_of_year - 15) / 365.25 - year - (month - 1) / 12
    sex = table.numbers(SEX).reindex(people)
    columns = {
        "age": _at_visit(visits, table.numbers, AGE).fillna(reckoned),
        "sex": sex.where(sex.isin([0, 1])),
    }
    for name, (first, second) in (("height", HEIGHT), ("weight", WEIGHT)):
        measured = _at_visit(visits, table.numbers, first)
        columns[name] = measured.where(measured > 0, _at_visit(visits, table.numbers, second))
    frame = pd.DataFrame(columns, people)[list(COVARIATES)]
    return frame.where((frame > 0) | (frame.columns == "sex"))


def ecg_measures(table: Table, visits: pd.Series) -> pd.DataFrame:
    """Return what the device read off the ECG of each person's visit.

    Returns
    -------
    pd.DataFrame
        ``qrs_number`` (complexes in 10 s) and ``qrs_duration`` (ms), NaN where missing or not
        positive, indexed by id.
    """
    import pandas as pd

    fields = dict(zip(ECG_MEASURES, (QRS_NUMBER, QRS_DURATION), strict=True))
    columns = {name: _at_visit(visits, table.numbers, field) for name, field in fields.items()}
    frame = pd.DataFrame(columns, visits.index)
    return frame.where(frame > 0)


def diagnoses(
    table: Table, visits: pd.Series, definition: str = "clean", when: When = "ever"
) -> pd.DataFrame:
    """Return who has which diagnosis.

    ``ever``: at any time, before or after the visit. ``prevalent``: on the day of the visit or
    before. ``incident``: later; people who had it already are missing, not 0. Where no usable date
    tells on which side of the visit it was, the last two are missing. Follow-up is not censored: a
    person who died or was lost without the diagnosis counts as 0.

    Parameters
    ----------
    definition
        One of `DEFINITIONS`.
    when
        One of the three rules.

    Returns
    -------
    pd.DataFrame
        1.0, 0.0 or NaN where unknown, a column for each diagnosis of the definition (those of
        `DIAGNOSES` in their order), indexed by id. People who are not in the table, and diagnoses
        whose fields are not, are unknown.

    Raises
    ------
    UserError
        For an unknown definition or rule.
    """
    import numpy as np
    import pandas as pd

    if definition not in DEFINITIONS:
        raise UserError(f"unknown definition {definition!r}; known: {', '.join(DEFINITIONS)}")
    if when not in get_args(When):
        raise UserError(f"unknown rule {when!r}; known: {', '.join(get_args(When))}")
    rule = DEFINITIONS[definition]
    visited = _at_visit(visits, table.dates, VISIT_DATE)
    evidence = _evidence(table, rule.first_occurrence)
    evidence = evidence[evidence["eid"].isin(visits.index)]
    visited = visited.reindex(evidence["eid"]).set_axis(evidence.index)
    evidence = evidence.assign(
        known=evidence["date"].notna() & visited.notna(), before=evidence["date"] <= visited
    )
    in_table = visits.index.isin(table.people)
    columns = {}
    for name in rule.codes:
        # Without a prefix, a dot or a meaning behind the code cannot be told from another code.
        counts = (
            evidence["code"].isin(rule.codes[name])
            if rule.exact
            else evidence["code"].map(_plain).str.startswith(rule.codes[name])
        )
        own = evidence[counts]
        ever, before, unknown = (
            visits.index.isin(rows["eid"])
            for rows in (own, own[own["known"] & own["before"]], own[~own["known"]])
        )
        if when == "ever":
            values = ever.astype(float)
        elif when == "prevalent":
            values = np.where(before, 1.0, np.where(unknown, np.nan, 0.0))
        else:
            values = np.where(before | unknown, np.nan, ever.astype(float))
        asked = table.has(CODES) or (
            rule.first_occurrence
            and all(table.has(FIRST_OCCURRENCE[code]) for code in rule.codes[name])
        )
        columns[name] = np.where(in_table & asked, values, np.nan)
    return pd.DataFrame(columns, visits.index)


def as_coded(table: Table, visits: pd.Series, when: When = "ever") -> pd.DataFrame:
    """Return the diagnoses as published code defines them, in the columns of `AS_CODED`."""
    parts = [diagnoses(table, visits, name, when) for name in ("as-coded", "as-coded-i21")]
    return parts[0].join(parts[1]).rename(columns=dict(AS_CODED))


def _evidence(table: Table, first_occurrence: bool) -> pd.DataFrame:
    """Return ``eid``, ``code`` and ``date`` (NaT where unknown) of all codes of all people."""
    import pandas as pd

    codes = table.listed(CODES)
    dates = table.listed_dates(CODE_DATES).reindex(codes.index)
    parts = [pd.DataFrame({"eid": codes.index.get_level_values(0), "code": codes, "date": dates})]
    for code, field in FIRST_OCCURRENCE.items() if first_occurrence else ():
        days = table.dates(field).dropna()
        parts.append(pd.DataFrame({"eid": days.index, "code": code, "date": days}))
    every = pd.concat(parts, ignore_index=True)
    return every.assign(date=every["date"].mask(every["date"].isin(pd.to_datetime(UNKNOWN_DATES))))


def _plain(code: str) -> str:
    """Return ``I480`` for I48.0, also when its meaning stands behind it."""
    return code.strip().partition(" ")[0].replace(".", "").upper()


def _at_visit(visits: pd.Series, query: Callable[[int, int], pd.Series], field: int) -> pd.Series:
    """Return the answer to a query of a `Table` for each person at their own visit."""
    import pandas as pd

    answers = [
        query(field, int(instance)).reindex(people.index)
        for instance, people in visits.groupby(visits)
    ]
    # Without people there is still a type of the answer.
    return pd.concat(answers or [query(field, 0)]).reindex(visits.index)

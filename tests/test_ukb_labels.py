"""Visits, phenotypes, covariates and diagnoses from UK Biobank's tables."""

import numpy as np
import pandas as pd
import pytest

from benchmark.api import UserError
from benchmark.cohorts.cohort import AS_CODED, DIAGNOSES
from benchmark.cohorts.phenotypes import PHENOTYPE_NAMES, PHENOTYPES
from benchmark.cohorts.ukb import labels
from benchmark.cohorts.ukb.tables import read_tables

ANNE, BEN, CLEO = 9_000_001, 9_000_002, 9_000_003
VISITS = pd.Series([3, 2], index=pd.Index([BEN, ANNE], name="eid"))
VISITED = "2018-06-01"
BEFORE, AFTER, UNKNOWN = "2010-01-01", "2020-01-01", "1902-02-02"


@pytest.fixture
def read(tmp_path):
    """Read a table given as {column: {person: value}}."""

    def make(columns):
        frame = pd.DataFrame(columns, dtype=object)
        frame.index.name = "eid"
        frame.to_csv(tmp_path / "table.csv")
        return read_tables([tmp_path / "table.csv"], labels.FIELDS)

    return make


def files(*rows):
    return pd.DataFrame(rows, columns=["eid", "field", "instance"])


def test_ecg_and_cmr_come_from_the_earliest_visit_that_has_both():
    ecg, cmr = labels.ECG, labels.SHORT_AXIS
    visits = labels.same_visit(
        files(
            (BEN, ecg, 3),
            (BEN, cmr, 3),
            (BEN, cmr, 2),
            (ANNE, ecg, 2),
            (ANNE, cmr, 2),
            (ANNE, cmr, 2),
            (ANNE, ecg, 3),
            (ANNE, cmr, 3),
            (CLEO, ecg, 2),
            (CLEO, cmr, 3),
            (CLEO, labels.LONG_AXIS, 2),
        )
    )
    assert visits.to_dict() == {ANNE: 2, BEN: 3}
    with_long_axis = labels.same_visit(files((ANNE, ecg, 2), (ANNE, cmr, 2)), (ecg, cmr, 20208))
    assert with_long_axis.empty
    assert labels.same_visit(files()).empty


def test_ecg_measures_are_those_of_the_visit(read):
    table = read(
        {
            "22338-2.0": {ANNE: 11, BEN: 12},
            "22338-3.0": {BEN: 9},
            "12340-2.0": {ANNE: 0, BEN: 88},
        }
    )
    found = labels.ecg_measures(table, VISITS)
    assert found["qrs_number"].to_dict() == {BEN: 9, ANNE: 11}
    assert found["qrs_duration"].isna().all(), "no width is 0, and Ben's is of another visit"
    assert labels.ecg_measures(read({"31-0.0": {ANNE: 1}}), VISITS).isna().all(axis=None)


def test_phenotypes_are_those_of_the_visit(read):
    table = read(
        {
            f"{p.field}-{i}.0": {ANNE: p.field + i, BEN: -p.field - i}
            for p in PHENOTYPES
            for i in (2, 3)
        }
        | {"24100-3.0": {ANNE: 1, BEN: "inf"}, "24101-3.0": {ANNE: 1, BEN: "9999"}}
    )
    found = labels.phenotypes(table, VISITS)
    assert tuple(found.columns) == PHENOTYPE_NAMES
    assert found.index.tolist() == [BEN, ANNE]
    assert np.isnan(found.loc[BEN, "LVEDV"])  # not finite
    assert found.loc[BEN, "LVESV"] == 9999  # implausible, and kept
    assert found.loc[BEN, "Ell_global"] == -24181 - 3
    assert found.loc[ANNE, "LVEDV"] == 24100 + 2


def test_people_and_fields_that_are_in_no_table_are_missing(read):
    table = read({"31-0.0": {ANNE: 1}})
    assert labels.phenotypes(table, VISITS).isna().all(axis=None)
    assert labels.covariates(table, VISITS)["sex"].tolist() == pytest.approx(
        [np.nan, 1], nan_ok=True
    )
    assert labels.diagnoses(table, VISITS).isna().all(axis=None)


def test_no_people_give_empty_tables(read):
    table = read({"41270-0.0": {ANNE: "I10"}, "31-0.0": {ANNE: 1}})
    nobody = labels.same_visit(files())
    assert labels.phenotypes(table, nobody).shape == (0, 82)
    assert labels.covariates(table, nobody).shape == (0, 4)
    assert labels.diagnoses(table, nobody).shape == (0, 6)


def test_covariates_are_those_of_the_visit(read):
    table = read(
        {
            "31-0.0": {ANNE: 0, BEN: 1},
            "21003-2.0": {ANNE: 61, BEN: 70},
            "21003-3.0": {BEN: 73},
            "50-2.0": {ANNE: 164.5, BEN: 180},
            "50-3.0": {BEN: 179},
            "21002-2.0": {ANNE: 60.1},
            "21002-3.0": {BEN: 81.2},
        }
    )
    found = labels.covariates(table, VISITS)
    assert found.columns.tolist() == ["age", "sex", "height", "weight"]
    assert found.loc[BEN].tolist() == [73, 1, 179, 81.2]
    assert found.loc[ANNE].tolist() == [61, 0, 164.5, 60.1]


def test_covariates_fall_back_as_declared(read):
    table = read(
        {
            "31-0.0": {ANNE: 9, BEN: 1},
            "34-0.0": {ANNE: 1950, BEN: 1948},
            "52-0.0": {ANNE: 3, BEN: 9},
            "53-2.0": {ANNE: "2016-03-15"},
            "53-3.0": {BEN: "2019-09-15"},
            "50-2.0": {ANNE: -1},
            "12144-2.0": {ANNE: 166},
            "12144-3.0": {BEN: 0},
            "12143-3.0": {BEN: 79},
        }
    )
    found = labels.covariates(table, VISITS)
    assert found["age"].tolist() == pytest.approx([71, 66], abs=0.01)
    assert np.isnan(found.loc[ANNE, "sex"])  # 9 is neither
    assert found.loc[ANNE, "height"] == 166
    assert np.isnan(found.loc[BEN, "height"])
    assert found.loc[BEN, "weight"] == 79


def coded(read, code, day=BEFORE, **more):
    return read(
        {
            "53-2.0": {ANNE: VISITED, BEN: "2014-01-01"},
            "53-3.0": {ANNE: None, BEN: VISITED},
            "41270-0.0": {ANNE: "K210", BEN: "J189"},
            "41270-0.1": {ANNE: code, BEN: None},
            "41280-0.0": {ANNE: BEFORE, BEN: BEFORE},
            "41280-0.1": {ANNE: day, BEN: None},
            **more,
        }
    )


@pytest.mark.parametrize(
    ("code", "clean", "as_coded"),
    [
        ("I251", "CAD", "CAD MI"),
        ("I252", "CAD", "CAD MI"),
        ("I219", "CAD MI", "CAD"),
        ("I22", "CAD MI", ""),
        ("I48", "AF", ""),
        ("I480", "AF", "AF"),
        ("I48.0", "AF", ""),
        ("I48X", "AF", ""),
        ("i489", "AF", ""),
        ("I48.9 Atrial fibrillation and atrial flutter", "AF", ""),
        ("E119", "DM", "DM"),
        ("E14", "DM", ""),
        ("I500", "HF", "HF"),
        ("I420", "CM", "CM"),
        ("I429", "CM", "CM"),
        ("I430", "", ""),
        ("I26", "", ""),
        ("E15", "", ""),
        ("I4", "", ""),
        ("XI48", "", ""),
    ],
)
def test_which_codes_make_which_diagnosis(read, code, clean, as_coded):
    table = coded(read, code)
    for definition, names in (("clean", clean), ("as-coded", as_coded)):
        found = labels.diagnoses(table, VISITS, definition)
        assert tuple(found.columns) == DIAGNOSES
        assert found.loc[ANNE].to_dict() == {n: float(n in names.split()) for n in DIAGNOSES}
        assert (found.loc[BEN] == 0).all()


@pytest.mark.parametrize(
    ("day", "ever", "prevalent", "incident"),
    [
        (BEFORE, 1, 1, None),
        (VISITED, 1, 1, None),
        (AFTER, 1, 0, 1),
        (None, 1, None, None),
        *((day, 1, None, None) for day in labels.UNKNOWN_DATES),
    ],
)
def test_when_a_diagnosis_counts(read, day, ever, prevalent, incident):
    table = coded(read, "I480", day)
    for rule, expected in (("ever", ever), ("prevalent", prevalent), ("incident", incident)):
        found = labels.diagnoses(table, VISITS, when=rule)
        assert found.loc[ANNE, "AF"] == pytest.approx(
            np.nan if expected is None else expected, nan_ok=True
        )
        assert found.loc[BEN, "AF"] == 0


def test_the_earliest_usable_date_of_several_codes_decides(read):
    more = {"41270-0.2": {ANNE: "I489"}, "41280-0.2": {ANNE: BEFORE}}
    for day in (AFTER, UNKNOWN):
        table = coded(read, "I480", day, **more)
        assert labels.diagnoses(table, VISITS, when="prevalent").loc[ANNE, "AF"] == 1
        assert np.isnan(labels.diagnoses(table, VISITS, when="incident").loc[ANNE, "AF"])
    # One later and one unknown: it may have been there at the visit.
    table = coded(read, "I480", AFTER, **{**more, "41280-0.2": {ANNE: UNKNOWN}})
    for rule in ("prevalent", "incident"):
        assert np.isnan(labels.diagnoses(table, VISITS, when=rule).loc[ANNE, "AF"])


def test_without_a_date_of_the_visit_only_ever_is_known(read):
    table = coded(read, "I480", **{"53-2.0": {ANNE: None}})
    assert labels.diagnoses(table, VISITS).loc[ANNE, "AF"] == 1
    for rule in ("prevalent", "incident"):
        found = labels.diagnoses(table, VISITS, when=rule).loc[ANNE]
        assert np.isnan(found["AF"])
        assert found["HF"] == 0


def test_published_code_side_by_side(read):
    """Two papers' infarctions: I25 by its hospital codes, and a first occurrence of I21."""
    field = f"{labels.FIRST_OCCURRENCE['I21']}-0.0"
    table = coded(read, "I251", **{field: {BEN: AFTER}})
    found = labels.as_coded(table, VISITS)
    assert tuple(found.columns) == tuple(AS_CODED.values())
    assert found.loc[[ANNE, BEN], "MI as coded"].tolist() == [1, 0]
    assert found.loc[[ANNE, BEN], "I21 as coded"].tolist() == [0, 1]
    assert (labels.as_coded(table, VISITS, "prevalent")["I21 as coded"] == 0).all()


def test_first_occurrences_count_in_the_clean_definition_only(read):
    field = labels.FIRST_OCCURRENCE["E11"]
    table = coded(read, "K30", **{f"{field}-0.0": {BEN: AFTER}})
    assert labels.diagnoses(table, VISITS).loc[BEN, "DM"] == 1
    assert labels.diagnoses(table, VISITS, when="incident").loc[BEN, "DM"] == 1
    assert labels.diagnoses(table, VISITS, "as-coded").loc[BEN, "DM"] == 0


def test_without_hospital_codes_first_occurrences_must_be_complete(read):
    infarction = {
        f"{labels.FIRST_OCCURRENCE[code]}-0.0": {ANNE: BEFORE, BEN: None} for code in ("I21", "I22")
    }
    found = labels.diagnoses(read(infarction), VISITS)
    assert found["MI"].tolist() == [0, 1]
    assert found["CAD"].isna().all()  # of its six fields only two are there
    assert labels.diagnoses(read(infarction), VISITS, "as-coded").isna().all(axis=None)


def test_unknown_definitions_and_rules_are_refused(read):
    table = coded(read, "I48")
    with pytest.raises(UserError, match="known: clean, as-coded"):
        labels.diagnoses(table, VISITS, "strict")
    with pytest.raises(UserError, match="known: ever, prevalent, incident"):
        labels.diagnoses(table, VISITS, when="never")

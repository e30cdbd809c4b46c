"""UK Biobank's tables in every grammar and form, and all the ways in which they can be wrong."""

import contextlib
import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from benchmark.api import UserError
from benchmark.cohorts.ukb import labels
from benchmark.cohorts.ukb.tables import GRAMMARS, Table, read_tables, read_withdrawn

FIRST = 9_000_001
SECRET = "8.675309"  # a value of a person, which no message may show
COLUMNS = {
    "ukbconv": ("eid", "31-0.0", "4080-2.1", "24100-2.0", "24100-3.0"),
    "r": ("f.eid", "f.31.0.0", "f.4080.2.1", "f.24100.2.0", "f.24100.3.0"),
    "field-name": ("eid", "p31", "p4080_i2_a1", "p24100_i2", "p24100_i3"),
    "dx": (
        "participant.eid",
        "participant.p31",
        "participant.p4080_i2_a1",
        "participant.p24100_i2",
        "participant.p24100_i3",
    ),
    "stata": ("n_eid", "n_31_0_0", "n_4080_2_1", "n_24100_2_0", "n_24100_3_0"),
}
ROWS = [(FIRST + 1, 1, 120, 150.25, None), (FIRST, 0, None, 99.5, 101.0)]


def write(path, header, rows, delimiter=","):
    lines = [header, *rows]
    text = "".join(
        delimiter.join("" if value is None else str(value) for value in line) + "\n"
        for line in lines
    )
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def simple(path, *rows, columns=("31-0.0", "24100-2.0")):
    return write(path, ("eid", *columns), rows)


def refusal(call, *arguments, **options):
    """Return the message of the expected error, which names a file and shows no value."""
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    assert SECRET not in str(error.value)
    assert str(FIRST) not in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_grammar_is_covered():
    assert set(COLUMNS) == set(GRAMMARS)


@pytest.mark.parametrize("grammar", COLUMNS)
@pytest.mark.parametrize("form", ["csv", "tsv", "tsv.gz", "parquet"])
def test_every_grammar_in_every_form_gives_the_same_table(tmp_path, grammar, form):
    path = tmp_path / f"table.{form}"
    if form == "parquet":
        columns = [list(column) for column in zip(*ROWS, strict=True)]
        parquet.write_table(pa.table(columns, names=list(COLUMNS[grammar])), path)
    else:
        write(path, COLUMNS[grammar], ROWS, "," if form == "csv" else "\t")
    table = read_tables([path], [31, 4080, 24100])
    assert table.people.tolist() == [FIRST, FIRST + 1]
    assert table.people.dtype == np.int64
    assert table.dropped == 0
    expected = {
        (31, 0, 0): [0.0, 1.0],
        (4080, 2, 1): [np.nan, 120.0],
        (24100, 2, 0): [99.5, 150.25],
        (24100, 3, 0): [101.0, np.nan],
        (24100, 0, 0): [np.nan, np.nan],
    }
    for cell, values in expected.items():
        column = table.numbers(*cell)
        assert column.dtype == np.float64
        np.testing.assert_array_equal(column, values)
        assert column.index.equals(table.people)


def test_the_form_is_told_from_the_content_and_not_from_the_name(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(gzip.compress(b"eid\t31-0.0\n9000001\t1\n"))
    assert read_tables([path], [31]).numbers(31).tolist() == [1.0]


def test_only_the_asked_fields_and_people_are_read(tmp_path):
    path = simple(tmp_path / "t.csv", *((FIRST + k, k % 2, k) for k in range(9)))
    table = read_tables([path], [31], people=[FIRST + 3, FIRST + 5, FIRST + 99])
    assert table.people.tolist() == [FIRST + 3, FIRST + 5]
    assert table.has(31)
    assert table.has(31, 0)
    assert not table.has(31, 2)
    assert not table.has(24100)


def test_columns_that_nobody_needs_may_be_odd(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(
        b'"eid","31-0.0","40-0.0","40-0.0",""\r\n"9000001","1","two\r\nlines","\xe9","x"\r\n'
    )
    assert read_tables([path], [31]).numbers(31).tolist() == [1.0]


def test_batches_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmark.cohorts.ukb.tables._BATCH_BYTES", 256)
    path = simple(tmp_path / "t.csv", *((FIRST + k, k % 2, 0.5 * k) for k in range(500)))
    table = read_tables([path], [31, 24100])
    np.testing.assert_array_equal(table.numbers(24100, 2), 0.5 * np.arange(500))


@pytest.mark.parametrize("text", ["9000001", "9000001.0", "9000001.", " 9000001 ", "9.000001e6"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_ids_are_whole_numbers_however_they_are_written(tmp_path, text, bom):
    path = tmp_path / "t.csv"
    path.write_bytes(bom + f'"eid","31-0.0"\n"{text}","1"\n'.encode())
    table = read_tables([path], [31], people=[FIRST])
    assert table.people.tolist() == [FIRST]


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "float64", "str"])
def test_ids_of_parquet_are_whole_numbers_whatever_their_type(tmp_path, dtype):
    frame = pd.DataFrame({"eid": pd.Series([FIRST]).astype(dtype), "p31": [1]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_tables([tmp_path / "t.parquet"], [31], [FIRST]).numbers(31)[FIRST] == 1


def test_rows_without_a_positive_id_are_dropped_and_counted(tmp_path):
    path = simple(tmp_path / "t.csv", (-4, 1, 1), (FIRST, 1, 2), ("", 1, 3), (0, 1, 4))
    table = read_tables([path], [31, 24100])
    assert table.people.tolist() == [FIRST]
    assert table.dropped == 3


def test_files_are_joined_by_person(tmp_path):
    one = simple(tmp_path / "a.csv", (FIRST, 1, ""), (FIRST + 1, 0, 5))
    two = write(
        tmp_path / "b.tsv",
        ("f.eid", "f.24100.2.0", "f.24101.2.0"),
        [(f"{FIRST + 2}.0", 7, 8), (f"{FIRST}.0", 6, 9), (f"{FIRST + 1}.0", 55, "NA")],
        "\t",
    )
    table = read_tables([one, two], [31, 24100, 24101])
    assert table.people.tolist() == [FIRST, FIRST + 1, FIRST + 2]
    # Where both files have a value, the first one's counts.
    np.testing.assert_array_equal(table.numbers(24100, 2), [6, 5, 7])
    np.testing.assert_array_equal(table.numbers(24101, 2), [9, np.nan, 8])
    np.testing.assert_array_equal(table.numbers(31), [1, 0, np.nan])


def test_files_of_different_applications_are_refused(tmp_path):
    people = range(FIRST, FIRST + 40)
    one = simple(tmp_path / "a.csv", *((eid, eid % 2, 1) for eid in people))
    two = simple(tmp_path / "b.csv", *((eid, (eid + 7) % 2, 1) for eid in people))
    assert "different applications" in refusal(read_tables, [one, two], [31])
    same = simple(tmp_path / "c.csv", *((eid, f"{eid % 2}.0", 1) for eid in people))
    assert len(read_tables([one, same], [31]).people) == 40


def test_missing_and_not_finite_numbers_are_missing(tmp_path):
    values = ["NaN", "NA", "", "inf", "-inf", "nan", ".", "1e400", "-2.5"]
    path = simple(tmp_path / "t.csv", *((FIRST + k, 1, v) for k, v in enumerate(values)))
    column = read_tables([path], [24100]).numbers(24100, 2)
    assert column.isna().tolist() == [True] * 8 + [False]


CODES = ["I10", "I480", "E119"]
DAYS = ["2010-01-02", "1902-02-02", "2015-03-04"]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        (
            ["eid"] + [f"41270-0.{k}" for k in range(4)] + [f"41280-0.{k}" for k in range(4)],
            [*CODES, None, *DAYS, None],
        ),
        (
            ["eid", "p41270"] + [f"p41280_a{k}" for k in range(4)],
            ['"' + json.dumps(CODES).replace('"', '""') + '"', *DAYS, None],
        ),
        (["eid", "p41270", "p41280"], ["|".join(CODES), "|".join(DAYS)]),
    ],
)
def test_fields_with_many_entries_are_listed(tmp_path, header, row):
    path = write(tmp_path / "t.csv", header, [(FIRST, *row), (FIRST + 1, *[None] * len(row))])
    table = read_tables([path], [41270, 41280])
    codes, days = table.listed(41270), table.listed_dates(41280)
    assert codes.to_dict() == {(FIRST, k): code for k, code in enumerate(CODES)}
    assert days.to_dict() == {(FIRST, k): pd.Timestamp(day) for k, day in enumerate(DAYS)}
    assert table.listed(41271).empty
    assert table.listed_dates(41281).empty


def test_lists_and_dates_of_parquet_keep_their_types(tmp_path):
    frame = pa.table(
        {
            "eid": [FIRST, FIRST + 1],
            "p41270": pa.array([CODES, None], pa.list_(pa.string())),
            "p41280": pa.array([[pd.Timestamp(d).date() for d in DAYS], None]),
            "p53_i2": pa.array([pd.Timestamp("2015-03-04 13:00"), None], pa.timestamp("us", "UTC")),
        }
    )
    parquet.write_table(frame, tmp_path / "t.parquet")
    table = read_tables([tmp_path / "t.parquet"], [41270, 41280, 53])
    assert table.listed(41270).tolist() == CODES
    assert table.listed_dates(41280).tolist() == [pd.Timestamp(day) for day in DAYS]
    assert table.dates(53, 2)[FIRST] == pd.Timestamp("2015-03-04")
    assert pd.isna(table.dates(53, 2)[FIRST + 1])


def test_an_entry_keeps_its_place_when_one_before_it_is_missing(tmp_path):
    path = write(tmp_path / "t.csv", ["eid", "p41280"], [(FIRST, "2010-01-02||2015-03-04")])
    days = read_tables([path], [41280]).listed_dates(41280)
    assert days.index.get_level_values("position").tolist() == [0, 2]


def test_a_list_and_array_columns_of_one_field_must_agree(tmp_path):
    whole = write(tmp_path / "list.csv", ["eid", "p41270"], [(FIRST, "|".join(CODES))])
    same, other = (
        write(tmp_path / f"{code}.csv", ["eid", "41270-0.1"], [(FIRST, code)])
        for code in (CODES[1], "I21")
    )
    codes = read_tables([whole, same], [41270]).listed(41270)
    assert codes.to_dict() == {(FIRST, k): code for k, code in enumerate(CODES)}
    assert "different entries" in refusal(read_tables([whole, other], [41270]).listed, 41270)


@pytest.mark.parametrize("text", ["2015-08-30", "2015-08-30T09:15:00", "30aug2015"])
def test_dates_are_days(tmp_path, text):
    path = write(tmp_path / "t.csv", ("n_eid", "ts_53_2_0"), [(FIRST, text)])
    days = read_tables([path], [53]).dates(53, 2)
    assert days[FIRST] == pd.Timestamp("2015-08-30")


def test_text_where_a_number_or_a_date_is_needed_is_refused(tmp_path):
    path = simple(tmp_path / "t.csv", (FIRST, "Female", SECRET), columns=("31-0.0", "53-2.0"))
    table = read_tables([path], [31, 53])
    assert f"{path}, column 31-0.0" in refusal(table.numbers, 31)
    assert f"{path}, column 53-2.0" in refusal(table.dates, 53, 2)
    broken = simple(tmp_path / "u.csv", (FIRST, f'"[{SECRET}"'), columns=("41270-0.0",))
    assert "JSON" in refusal(read_tables([broken], [41270]).listed, 41270)
    deep = simple(tmp_path / "v.csv", (FIRST, "[" * 100_000), columns=("41270-0.0",))
    assert "JSON" in refusal(read_tables([deep], [41270]).listed, 41270)


HEADER = b"eid,31-0.0\n"
PARQUET = b"PAR1" + bytes(40) + b"PAR1"
GZIPPED = gzip.compress(HEADER + b"9000001,1\n" * 2_000, mtime=0)
DAMAGED = {
    "empty": (b"", "is empty"),
    "header only": (HEADER, "has no rows"),
    "header cut off": (b"eid,31-0", "has none of them"),
    "row cut off": (HEADER + b"9000001,8.675309\n9000002\n", "has 1 columns, the header 2"),
    "row cut off that is not UTF-8": (HEADER + b"\xff\n", "has 1 columns, the header 2"),
    "row too long": (HEADER + b"9000001,8.675309,3\n", "has 3 columns, the header 2"),
    "unknown grammar": (b"eid,sex,lvedv\n9000001,1,2\n", "has none of them"),
    "two grammars": (b"eid,31-0.0,p24100_i2\n9000001,1,2\n", "mixes those of ukbconv and"),
    "no id": (b"id,31-0.0\n9000001,1\n", "no column eid"),
    "id of another grammar": (b"f.eid,31-0.0\n9000001,1\n", "no column eid"),
    "id twice": (b"eid,eid,31-0.0\n9000001,9000001,1\n", "column eid twice"),
    "column twice": (b"eid,31-0.0,31-0.0\n9000001,1,1\n", "column 31-0.0 twice"),
    "column twice by two names": (b"eid,p31,p31_i0\n9000001,1,1\n", "column p31_i0 twice"),
    "text for an id": (HEADER + b"9000001 8.675309,1\n", "no participant id"),
    "id with a fraction": (HEADER + b"9000001.5,1\n", "no participant id"),
    "id beyond all bounds": (HEADER + b"1e300,1\n", "no participant id"),
    "infinite id": (HEADER + b"inf,1\n", "no participant id"),
    "person twice": (HEADER + b"9000001,1\n9000001.0,1\n", "more than one row for 1 people"),
    "not UTF-8": (HEADER + b"9000001,\xff\n", "damaged or cut off"),
    "UTF-16": ((HEADER + b"9000001,1\n").decode().encode("utf-16"), "neither text in UTF-8"),
    "a spreadsheet": (b"PK\x03\x04\x14\x00\x00\x00", "neither text in UTF-8"),
    "endless name": (b"e" * 300_000 + b"\n", "neither text in UTF-8"),
    "Parquet that is none": (PARQUET, "damaged or cut off"),
    "Parquet cut off": (b"PAR1", "damaged or cut off"),
    "gzip cut off": (GZIPPED[: len(GZIPPED) // 2], "damaged or cut off"),
    "gzip with a wrong checksum": (GZIPPED[:-8] + bytes(8), "damaged or cut off"),
    "gzip of noise": (b"\x1f\x8b" + bytes(range(80)), "damaged or cut off"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_tables_are_refused_in_one_line(tmp_path, kind):
    content, message = DAMAGED[kind]
    path = tmp_path / "table"
    path.write_bytes(content)
    assert message in (text := refusal(read_tables, [path], [31]))
    assert str(path) in text


def test_parquet_with_ids_that_are_truth_values_is_refused(tmp_path):
    pd.DataFrame({"eid": [True], "p31": [1]}).to_parquet(tmp_path / "t")
    assert "no participant id" in refusal(read_tables, [tmp_path / "t"], [31])


def test_parquet_with_text_that_is_not_utf8_is_refused(tmp_path):
    text = pa.array([b"\xff"]).view(pa.string())
    parquet.write_table(pa.table({"eid": [FIRST], "p41270": text}), tmp_path / "t")
    assert "damaged or cut off" in refusal(read_tables, [tmp_path / "t"], [41270])


CELLS = st.sampled_from(
    b',1,-1,nan,1e400,",[,[[1]],|,I48,\xff,\0,\r,2015-08-30,30feb2015,0001-01-01,9000001'.split(
        b","
    )
) | st.binary(max_size=6)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.lists(CELLS, min_size=4, max_size=4), max_size=3), rest=st.binary())
def test_whatever_a_table_holds_the_only_error_is_a_refusal(tmp_path, rows, rest):
    path = tmp_path / "t.csv"
    lines = [b"eid,24100-2.0,41270-0.0,53-2.0", *(b",".join(row) for row in rows)]
    path.write_bytes(b"\n".join(lines) + b"\n" + rest)
    visits = pd.Series({FIRST: 2})
    with contextlib.suppress(UserError):
        table = read_tables([path], labels.FIELDS)
        labels.phenotypes(table, visits)
        labels.diagnoses(table, visits, when="incident")
    with contextlib.suppress(UserError):
        read_withdrawn([path])


def test_files_that_cannot_be_opened_are_refused(tmp_path):
    assert "does not exist" in refusal(read_tables, [tmp_path / "nothing.csv"], [31])
    assert "cannot be read" in refusal(read_tables, [tmp_path], [31])
    assert "no table" in refusal(read_tables, [], [31])


def test_what_is_printed_of_a_table_shows_nobody(tmp_path):
    table = read_tables([simple(tmp_path / "t.csv", (FIRST, 1, SECRET))], [31, 24100])
    assert isinstance(table, Table)
    assert str(FIRST) not in repr(table)
    assert SECRET not in repr(table)


@pytest.mark.parametrize(
    "content",
    [
        b"9000001\n9000002\n",
        b"\xef\xbb\xbf9000001\r\n9000002",
        b"eid\n9000001\n9000002\n",
        b'"participant_id"\n"9000001",\n"9000002",\n',
        b"\n\n 9000001.0\n\n9.000002e6\n\n",
    ],
)
def test_withdrawn_people_are_whole_numbers(tmp_path, content):
    path = tmp_path / "w.csv"
    path.write_bytes(content)
    assert read_withdrawn([path]) == {FIRST, FIRST + 1}


def test_withdrawn_lists_are_joined_and_may_be_empty(tmp_path):
    (tmp_path / "a").write_text(f"{FIRST}\n")
    (tmp_path / "b").write_text(f"{FIRST}\n{FIRST + 1}\n")
    (tmp_path / "c").write_text("")
    assert read_withdrawn(tmp_path / name for name in "abc") == {FIRST, FIRST + 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"9000001\nwithdrawn\n", "line 2 "),
        (b"eid\neid\n", "line 2 "),
        (b"some people\n9000001\n", "line 1 "),
        (b"9000001\n\n9000002;9000003\n", "line 3 "),
        (b"9000001,2020-01-01\n", "line 1 "),
        (b"-9000001\n", "line 1 "),
        (b"0\n", "line 1 "),
        (b"9000001.5\n", "line 1 "),
        (b"nan\n", "line 1 "),
        (b"1e99\n", "line 1 "),
        (b"9_000_001\n", "line 1 "),
        ("9000001\n".encode("utf-16"), "not in UTF-8"),
    ],
)
def test_lists_with_anything_else_are_refused(tmp_path, content, message):
    path = tmp_path / "w.csv"
    path.write_bytes(content)
    assert message in (text := refusal(read_withdrawn, [path]))
    assert str(path) in text


def test_a_list_that_is_not_there_is_refused(tmp_path):
    assert "cannot be read" in refusal(read_withdrawn, [tmp_path / "nothing"])

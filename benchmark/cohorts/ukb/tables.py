"""UK Biobank's tables, whichever tool wrote them, and its lists of withdrawn people.

A main table is 17 to 70 GB: only the columns of the asked fields are read, in batches, and only
the rows of the asked people are kept. Messages name file and column, never what stands in a cell.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmark.api import UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa


class Cell(NamedTuple):
    """Where a value stands: field, instance (of the visit) and array index of UK Biobank."""

    field: int
    instance: int = 0
    array: int = 0


@dataclass(frozen=True)
class Grammar:
    """How one family of tools names the columns.

    ``column`` has groups for field, instance and array; the last two are 0 where a name has none.
    """

    name: str
    id: str
    column: re.Pattern[str]
    example: str

    def cell(self, column: str) -> Cell | None:
        """Return what a column holds, or None when its name is not of this grammar."""
        found = self.column.fullmatch(column)
        return Cell(*(int(part or 0) for part in found.groups())) if found else None


_RAP = r"p(\d+)(?:_i(\d+))?(?:_a(\d+))?"
GRAMMARS = {
    grammar.name: grammar
    for grammar in (
        # ukbconv csv; Table Exporter's UKB-FORMAT.
        Grammar("ukbconv", "eid", re.compile(r"(\d+)-(\d+)\.(\d+)"), "24100-2.0"),
        # ukbconv r.
        Grammar("r", "f.eid", re.compile(r"f\.(\d+)\.(\d+)\.(\d+)"), "f.24100.2.0"),
        # Table Exporter's FIELD-NAME.
        Grammar("field-name", "eid", re.compile(_RAP), "p24100_i2"),
        # dx extract_dataset, Spark.
        Grammar(
            "dx",
            "participant.eid",
            re.compile(r"participant\." + _RAP),
            "participant.p24100_i2",
        ),
        # ukbconv stata; the letter is the type.
        Grammar("stata", "n_eid", re.compile(r"(?:n|s|ts)_(\d+)_(\d+)_(\d+)"), "n_24100_2_0"),
    )
}

_MISSING = ["", "NA", "NaN", "nan", "NULL", "."]
_BATCH_BYTES = 1 << 25  # longer than any row: a table of all fields has rows of about 200 kB
_HEADER_BYTES = 1 << 24
_LARGEST_ID = 2**53  # up to here float64 holds every whole number

_SEX = Cell(31)
_OTHER_PEOPLE = 0.01
"""Share of the common people whose sex may differ between files before they are refused."""


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of one or several files, joined by person.

    Attributes
    ----------
    people
        The ids, int64, ascending.
    dropped
        Rows left out because their id is missing, zero or negative, as those of withdrawn people
        are in some deliveries.
    """

    people: pd.Index = field(repr=False)
    dropped: int
    _columns: dict[Cell, pd.Series] = field(repr=False)
    _origin: dict[Cell, str] = field(repr=False)

    def has(self, field: int, instance: int | None = None) -> bool:
        """Whether there is a column of the field (and instance)."""
        return any(
            cell.field == field and instance in (None, cell.instance) for cell in self._columns
        )

    def text(self, field: int, instance: int = 0, array: int = 0) -> pd.Series:
        """Return a column as it stands in the file, indexed by id, None where missing.

        A column that no file holds is missing for everybody, as in the other queries.
        """
        import pandas as pd

        column = self._columns.get(Cell(field, instance, array))
        return pd.Series(None, self.people, dtype=object) if column is None else column

    def numbers(self, field: int, instance: int = 0, array: int = 0) -> pd.Series:
        """Return a column as float64, indexed by id, NaN where missing or not finite.

        Raises
        ------
        UserError
            When it holds text, as after an export with decoded values.
        """
        return self._numbers(self.text(field, instance, array), Cell(field, instance, array))

    def dates(self, field: int, instance: int = 0, array: int = 0) -> pd.Series:
        """Return a column as days, indexed by id, NaT where missing.

        Raises
        ------
        UserError
            When something in it is no date of the form 2015-08-30 or 30aug2015.
        """
        return self._dates(self.text(field, instance, array), Cell(field, instance, array))

    def listed(self, field: int, instance: int = 0) -> pd.Series:
        """Return all values of a field with many entries a person, as text.

        The entries are array columns, or on the Research Analysis Platform one column with a JSON
        list or with entries between ``|``.

        Returns
        -------
        pd.Series
            Indexed by id and position, without missing entries.

        Raises
        ------
        UserError
            When a list is none, or two columns hold different entries for one place.
        """
        import pandas as pd

        parts = []
        for cell, column in self._columns.items():
            if (cell.field, cell.instance) != (field, instance):
                continue
            entries = column.dropna().map(self._entries(cell)).explode()
            place = entries.groupby(level=0).cumcount().to_numpy() + cell.array
            index = pd.MultiIndex.from_arrays([entries.index, place], names=["eid", "position"])
            entries = pd.Series(entries.to_numpy(dtype=object), index).dropna()
            parts.append(entries.map(str).astype(object))
        if not parts:
            index = pd.MultiIndex.from_arrays([self.people[:0], []], names=["eid", "position"])
            return pd.Series([], index, dtype=object)
        joined = pd.concat(parts)
        again = joined.index.duplicated()  # one file has a list, another one columns
        first, others = joined[~again], joined[again]
        if (first.reindex(others.index) != others).any():
            raise UserError(
                f"the tables hold different entries of field {field} for the same place; leave out "
                "one of the columns or files"
            )
        return first.sort_index()

    def listed_dates(self, field: int, instance: int = 0) -> pd.Series:
        """Return what `listed` does, as days."""
        cells = [c for c in self._columns if (c.field, c.instance) == (field, instance)]
        return self._dates(self.listed(field, instance), min(cells, default=Cell(field, instance)))

    def _entries(self, cell: Cell) -> Callable[[object], list]:
        """Return what splits one value of a column into its entries."""

        def split(value: object) -> list:
            if not isinstance(value, str):  # of a Parquet file with types: a list, or one entry
                return list(value) if hasattr(value, "__iter__") else [value]
            if not value.startswith("["):
                return [part.strip() or None for part in value.split("|")]
            try:
                return json.loads(value)
            except (ValueError, RecursionError):
                raise UserError(f"{self._origin[cell]}: a value is no list in JSON") from None

        return split

    def _numbers(self, column: pd.Series, cell: Cell) -> pd.Series:
        import numpy as np
        import pandas as pd

        values = pd.to_numeric(column, errors="coerce").astype("float64")
        if (values.isna() & column.notna()).any():
            raise UserError(
                f"{self._origin[cell]} holds text where a number is needed; export it with raw "
                "codes, not with their meaning"
            )
        return values.where(np.isfinite(values))

    def _dates(self, column: pd.Series, cell: Cell) -> pd.Series:
        import pandas as pd

        # As text, or a number would be read as nanoseconds since 1970.
        text = column.dropna().map(str)
        days = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True)
        days = days.fillna(pd.to_datetime(text, format="%d%b%Y", errors="coerce", utc=True))
        if days.isna().any():
            raise UserError(
                f"{self._origin[cell]} holds something that is no date; 2015-08-30 or 30aug2015 "
                "is needed"
            )
        days = days.dt.tz_localize(None).dt.normalize().astype("datetime64[s]")
        return days.reindex(column.index)


def read_tables(
    paths: Iterable[Path], fields: Iterable[int], people: Collection[int] | None = None
) -> Table:
    """Read the columns of some fields from one or several files and join them by person.

    Comma- or tab-separated text, also compressed by gzip, or Parquet; told apart by their content.
    Where two files hold the same column, the first one that has a value for a person counts.

    Parameters
    ----------
    paths
        Files, each with columns of one of `GRAMMARS`.
    fields
        UK Biobank fields; all their instances and array columns are read.
    people
        Ids to keep; None keeps everybody.

    Raises
    ------
    UserError
        For a file that is none of these or damaged, for columns of no or of several grammars, for
        a column that is there twice, for ids that are no whole numbers or are there twice, and for
        files that cannot be of the same application of UK Biobank.
    """
    import numpy as np

    wanted = frozenset(fields)
    keep = None if people is None else np.fromiter(people, np.int64)
    parts = [_read_table(Path(path), wanted, keep) for path in paths]
    if not parts:
        raise UserError("no table is given")
    _check_same_people(parts)
    index = parts[0].people
    for part in parts[1:]:
        index = index.union(part.people)
    columns: dict[Cell, pd.Series] = {}
    origin: dict[Cell, str] = {}
    for part in parts:
        for cell, column in part._columns.items():
            column = column.reindex(index)
            if cell in columns:
                first = columns[cell].astype(object)
                column = first.where(first.notna(), column.astype(object))
            columns[cell] = column
            origin.setdefault(cell, part._origin[cell])
    return Table(index, sum(part.dropped for part in parts), columns, origin)


def read_withdrawn(paths: Iterable[Path]) -> set[int]:
    """Return the ids of people who withdrew: one a line, usually without a header.

    Raises
    ------
    UserError
        When a line is no id; it is named by number only.
    """
    withdrawn = set()
    for path in map(Path, paths):
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UserError(f"{path} is not in UTF-8") from None
        filled = ((n, line.strip(' \t\r,;"')) for n, line in enumerate(text.split("\n"), 1))
        filled = ((number, line) for number, line in filled if line)
        for place, (number, line) in enumerate(filled):
            if place == 0 and re.fullmatch(r"[A-Za-z][\w. ]*", line) and line[-2:].lower() == "id":
                continue
            # Spreadsheets write 5.0 for 5, R writes 4e+06 for the round ones.
            value = float(line) if re.fullmatch(r"\d+(\.\d*)?([eE]\+?\d{1,2})?", line) else 0.0
            if not 0 < value < _LARGEST_ID or value != int(value):
                raise UserError(f"{path}, line {number} is no participant id")
            withdrawn.add(int(value))
    return withdrawn


def _read_table(path: Path, fields: frozenset[int], keep: np.ndarray | None) -> Table:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    batches, dropped = [], 0
    try:
        form = _form(path)
        cells = _needed(form, fields)
        where = f"{path}, column {form.header[next(iter(cells))]}"
        for batch in form.batches(list(cells)):
            ids = _ids(batch.column(0).to_pandas(), where)
            dropped += int((ids <= 0).sum())
            chosen = ids > 0 if keep is None else (ids > 0) & np.isin(ids, keep)
            # As whole numbers, not as they stand in the file: 5 and 5.0 are one person.
            batches.append(batch.set_column(0, "eid", pa.array(ids)).filter(pa.array(chosen)))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, pa.ArrowException):
        # Not with the library's own message, which quotes the row.
        raise UserError(f"{path} is damaged or cut off") from None
    if not batches:
        raise UserError(f"{path} has no rows")
    frame = pa.Table.from_batches(batches)
    people = pd.Index(frame.column(0).to_numpy(), name="eid")
    if people.has_duplicates:
        raise UserError(f"{path} has more than one row for {people.duplicated().sum()} people")
    order = np.argsort(people)
    columns, origin = {}, {}
    for place, (number, cell) in enumerate(cells.items()):
        if cell is not None:
            values = frame.column(place).to_pandas().array[order]
            columns[cell] = pd.Series(values, people[order])
            origin[cell] = f"{path}, column {form.header[number]}"
    return Table(people[order], dropped, columns, origin)


@dataclass(frozen=True)
class _Text:
    """A comma- or tab-separated file, as it is or compressed by gzip."""

    path: Path
    header: tuple[str, ...]
    delimiter: str
    compression: str | None

    def batches(self, needed: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Give these columns, as text, in batches of rows."""
        import pyarrow as pa
        from pyarrow import csv as arrow

        # Numbers for names: one that nobody needs may be there twice.
        names = [str(number) for number in range(len(self.header))]
        included = [names[number] for number in needed]
        try:
            with pa.input_stream(self.path, compression=self.compression) as stream:
                yield from arrow.open_csv(
                    stream,
                    arrow.ReadOptions(column_names=names, skip_rows=1, block_size=_BATCH_BYTES),
                    arrow.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                    arrow.ConvertOptions(
                        include_columns=included,
                        column_types=dict.fromkeys(included, pa.string()),
                        null_values=_MISSING,
                        strings_can_be_null=True,
                    ),
                )
        except pa.ArrowInvalid as error:
            # Not its handler of invalid rows, which fails on rows that are not UTF-8.
            found = re.search(r"Expected (\d+) columns, got (\d+)", str(error))
            if not found:
                raise
            raise UserError(
                f"{self.path} is damaged or cut off: a row has {found[2]} columns, the header "
                f"{found[1]}"
            ) from None


@dataclass(frozen=True)
class _Parquet:
    path: Path
    header: tuple[str, ...]

    def batches(self, needed: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Give these columns, with the types they have in the file, in batches of rows."""
        from pyarrow import parquet

        names = [self.header[number] for number in needed]
        with parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(columns=names):
                batch.validate(full=True)  # the reader takes text that is not UTF-8
                yield batch.select(names)  # in this order, not in the file's


def _form(path: Path) -> _Text | _Parquet:
    """Return how a table is to be read, told from its first bytes."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == b"PAR1":
        from pyarrow import parquet

        return _Parquet(path, tuple(parquet.read_schema(path).names))
    compressed = magic[:2] == b"\x1f\x8b"
    with gzip.open(path) if compressed else path.open("rb") as file:
        line = file.readline(_HEADER_BYTES)
    if not line:
        raise UserError(f"{path} is empty")
    try:
        if b"\0" in line or len(line) == _HEADER_BYTES:
            raise csv.Error
        text = line.decode("utf-8-sig")
        delimiter = "\t" if text.count("\t") > text.count(",") else ","
        names = next(csv.reader([text], delimiter=delimiter), [])
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path} is neither text in UTF-8 nor Parquet") from None
    header = tuple(name.strip() for name in names)
    return _Text(path, header, delimiter, "gzip" if compressed else None)


def _needed(form: _Text | _Parquet, fields: frozenset[int]) -> dict[int, Cell | None]:
    """Return the number of each column to be read: the id first, as None, then the fields'."""
    header, path = form.header, form.path
    spoken = {
        name: {number: cell for number, text in enumerate(header) if (cell := grammar.cell(text))}
        for name, grammar in GRAMMARS.items()
    }
    found = [name for name, cells in spoken.items() if cells]
    if len(found) != 1:
        known = ", ".join(f"{g.example} ({g.name})" for g in GRAMMARS.values())
        mixed = f"mixes those of {' and '.join(found)}" if found else "has none of them"
        raise UserError(f"{path}: columns are to be named like one of {known}; this file {mixed}")
    grammar, cells = GRAMMARS[found[0]], spoken[found[0]]
    if grammar.id not in header:
        raise UserError(f"{path} has no column {grammar.id} with the participant ids")
    if header.count(grammar.id) > 1:
        raise UserError(f"{path} has the column {grammar.id} twice")
    wanted = {number: cell for number, cell in cells.items() if cell.field in fields}
    seen: dict[Cell, int] = {}
    for number, cell in wanted.items():
        if cell in seen:
            raise UserError(f"{path} has the column {header[number]} twice")
        seen[cell] = number
    return {header.index(grammar.id): None, **wanted}


def _ids(column: pd.Series, where: str) -> np.ndarray:
    """Return ids as int64, 0 where there is none."""
    import pandas as pd

    values = pd.to_numeric(column, errors="coerce").astype("float64")
    wrong = (values.isna() & column.notna()) | (values % 1 != 0) & values.notna()
    if pd.api.types.is_bool_dtype(column) or wrong.any() or (values.abs() >= _LARGEST_ID).any():
        raise UserError(f"{where} holds something that is no participant id")
    return values.fillna(0).to_numpy().astype("int64")


def _check_same_people(parts: Sequence[Table]) -> None:
    """Refuse files whose ids are of different applications.

    Each application of UK Biobank has ids of its own for the same people. Joined by mistake, the
    files would give people the data of others, and nothing else would show it.
    """
    with_sex = [part for part in parts if part.has(_SEX.field, _SEX.instance)]
    for one, other in itertools.combinations(with_sex, 2):
        both = one.people.intersection(other.people)
        first, second = (part.numbers(*_SEX)[both] for part in (one, other))
        known = first.notna() & second.notna()
        if known.any() and (first != second)[known].mean() > _OTHER_PEOPLE:
            raise UserError(
                f"{one._origin[_SEX]} and {other._origin[_SEX]} differ in the sex of the same ids: "
                "they seem to be of different applications, whose ids cannot be joined"
            )

"""Reads a table of categorical features and a score from CSV or Parquet, at once or in pieces.

Every cell except the score is text and stays exactly as it is, but for the apostrophe before what a spreadsheet would
execute (``spreadsheet_cells.py``): "X" and "x " differ, and NA and an empty cell are
categories; whoever takes a column for numbers reads its texts as numbers. Blank lines in a CSV file are skipped. In
Parquet, other types become the text that pandas writes to CSV, and a null is refused. A score must be a finite number;
blanks around it are allowed. A text column is stored as its distinct texts and one integer per row, because millions of
rows repeat a few texts.
"""

import datetime
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from slot_rl.estimators.table_files import (
    TableError,
    column_names,
    is_row_number,
    read_batches,
    read_columns,
    refuse_doubled,
)
from slot_rl.spelling import missing_column

IDENTIFIER_SHARE = 0.5
IDENTIFIER_LEAST = 100

LARGEST = 1e19
"""Numbers are at most this far from 0, so that their squares are finite in single precision."""

LEAST_SPREAD = 1e-5
"""Numbers spread by at least this share of their size: what is finer, single precision rounds away."""


@dataclass(frozen=True, eq=False)
class TextColumn:
    """A column of text cells.

    Attributes:
        codes: Index of each row's text in ``distinct``, int32 of shape ``(rows,)``.
        distinct: The texts that occur, in the order of their first rows.
    """

    codes: npt.NDArray[np.int32]
    distinct: tuple[str, ...]

    @classmethod
    def of(cls, cells: pa.ChunkedArray) -> "TextColumn":
        """Builds the column from string cells without nulls."""
        return cls(*_distinct(cells))

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.codes)

    def __getitem__(self, row: int) -> str:
        """Returns one row's cell."""
        return self.distinct[int(self.codes[row])]

    def tolist(self) -> list[str]:
        """Returns every row's cell."""
        return [self.distinct[code] for code in self.codes.tolist()]


@dataclass(frozen=True)
class Table:
    """The columns of a table, or of some consecutive rows of it.

    Attributes:
        path: The file.
        text: The text columns by name.
        score: The score column, float64; None if it was not read.
        first_row: Number of the first row in the file, counted from 1, for messages.
    """

    path: Path
    text: dict[str, TextColumn]
    score: npt.NDArray[np.float64] | None
    first_row: int = 1

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(next(iter(self.text.values())))


def read_table(
    path: Path,
    score: str | None,
    contexts: Sequence[str] = (),
    features: Sequence[str] | None = None,
    known: Sequence[str] = (),
) -> Table:
    """Reads the given columns; context columns come first.

    Args:
        path: A ``.csv`` or ``.parquet`` file.
        score: The score column, or None.
        contexts: Context columns.
        features: Feature columns; None for every column that is neither score nor context, nor holds row numbers.
        known: Columns that may look like identifiers.

    Raises:
        TableError: If the file cannot be read, a column is missing, named twice or given twice, a score is not a
            finite number, or a column that was not given by name looks like an identifier.
    """
    names = column_names(path)
    refuse_doubled(path, names)
    free = [name for name in names if name not in {*contexts, score} and not is_row_number(name)]
    chosen = free if features is None else features
    wanted = [*contexts, *chosen]
    _check_wanted(path, names, wanted, score)
    if not chosen:
        raise TableError(f"expected at least one feature column in {path}, got {', '.join(map(repr, names))}")
    columns = read_columns(path, wanted, score)
    if columns.num_rows == 0:
        raise TableError(f"expected rows in {path}, got a header alone")
    text = {name: _as_text(path, name, columns[name]) for name in wanted}
    if features is None:
        unsaid = {name: cells for name, cells in text.items() if name not in (*contexts, *known)}
        _refuse_identifiers(path, unsaid)
    return Table(path, text, None if score is None else _as_score(path, score, columns[score]))


def stream_table(path: Path, columns: Sequence[str], rows_per_batch: int = 65_536) -> Iterator[Table]:
    """Reads columns as text in batches of rows, so that the file may be larger than the memory.

    Args:
        path: A ``.csv`` or ``.parquet`` file.
        columns: The columns to read; other columns are ignored.
        rows_per_batch: Maximum number of rows of a table.

    Returns:
        Tables of consecutive rows, without scores.

    Raises:
        TableError: At once if the file cannot be opened or a column is missing, named twice or given twice; while
            iterating if a row cannot be read, a cell is null, or there are no rows.
        ValueError: If no column or less than one row is requested.
    """
    if not columns or rows_per_batch < 1:
        raise ValueError(f"expected columns and rows_per_batch >= 1, got {list(columns)} and {rows_per_batch}")
    names = column_names(path)
    refuse_doubled(path, [name for name in names if name in columns])
    _check_wanted(path, names, columns, None)
    return _stream(path, tuple(columns), rows_per_batch)


def _stream(path: Path, columns: Sequence[str], most: int) -> Iterator[Table]:
    first_row = 1
    for batch in read_batches(path, columns, most):
        piece = pa.Table.from_batches([batch])
        yield Table(path, {name: _as_text(path, name, piece[name], first_row) for name in columns}, None, first_row)
        first_row += len(piece)
    if first_row == 1:
        raise TableError(f"expected rows in {path}, got a header alone")


def _check_wanted(path: Path, names: Sequence[str], wanted: Sequence[str], score: str | None) -> None:
    asked = [*wanted, *([] if score is None else [score])]
    for name in asked:
        if name not in names:
            raise TableError(missing_column(name, names, path))
        if asked.count(name) > 1:
            raise TableError(f"expected {name!r} as one of score, context or feature, got it more than once")


def _distinct(cells: pa.ChunkedArray) -> tuple[npt.NDArray[np.int32], tuple[Any, ...]]:
    """Returns each row's place among the cells that occur, and these."""
    # Gives one dictionary for all chunks, with only the cells that occur.
    encoded = cells.dictionary_encode().unify_dictionaries().combine_chunks()
    return encoded.indices.to_numpy(), tuple(encoded.dictionary.to_pylist())


def _as_text(path: Path, name: str, column: pa.ChunkedArray, first_row: int = 1) -> TextColumn:
    if column.null_count:
        row = pc.index(column.is_null(), True).as_py() + first_row
        raise TableError(f"expected a category in column {name!r} of {path}, got a null in row {row}")
    kind = column.type
    if pa.types.is_dictionary(kind):
        # A file's dictionary may hold a text twice, or an unused text.
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_temporal(kind):
        codes, distinct = _distinct(column)
        # In single precision, 0.1 is written with fewer digits.
        return TextColumn(codes, tuple(map(cell_text, map(np.float32, distinct) if kind == pa.float32() else distinct)))
    try:
        return TextColumn.of(column.cast(pa.string()))
    except pa.ArrowException as error:
        raise TableError(f"expected text in column {name!r} of {path}, got {column.type}") from error


def cell_text(cell: object) -> str:
    """Returns a cell's text as pandas writes it to CSV: 25.0, True, 2024-01-31."""
    # A date is written as such, whether or not its column could hold times.
    return str(cell).removesuffix(" 00:00:00") if isinstance(cell, datetime.datetime) else str(cell)


def _as_score(path: Path, name: str, column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.utf8_trim_whitespace(column)
    try:
        # Integers above 2**53 are rounded, as in a CSV file.
        whole = pa.types.is_integer(column.type)
        values: npt.NDArray[np.float64] = column.cast(pa.float64(), safe=not whole).to_numpy()
    except pa.ArrowException as error:
        row, cell = next((i, c) for i, c in enumerate(column.to_pylist(), start=1) if not _is_number(c))
        raise TableError(
            f"expected a number as {name!r} in row {row} of {path}, got {cell!r}{remark_on(cell)}"
        ) from error
    usable = np.abs(values) <= LARGEST
    if not usable.all():
        row = int(np.argmin(usable))
        cell = column[row].as_py()
        raise TableError(f"expected a finite {name!r} in row {row + 1} of {path}, got {cell!r}{remark_on(cell)}")
    return values


def _is_number(cell: object) -> bool:
    try:
        pa.scalar(cell).cast(pa.float64())
    except pa.ArrowException:
        return False
    return True


def remark_on(cell: object) -> str:
    """Returns what to add to a message that refuses a cell: that a number is too large, or has a decimal comma."""
    try:
        large = LARGEST < abs(float(str(cell))) < math.inf
    except ValueError:
        comma = re.fullmatch(r"\s*[+-]?\d+,\d+\s*", str(cell))
        return "; decimals follow a point, and nothing separates thousands" if comma else ""
    return f"; at most {LARGEST:g} can be used" if large else ""


def refuse_narrow(numbers: npt.NDArray[np.float64], name: str, path: Path) -> None:
    """Raises TableError for numbers that differ by too little of their size to tell them apart in single precision."""
    if not len(numbers) or numbers.min() == numbers.max():
        return
    spread, mean = float(numbers.std()), float(numbers.mean())
    if spread < LEAST_SPREAD * float(np.abs(numbers).max()):
        raise TableError(
            f"expected {name!r} of {path} to spread by at least {LEAST_SPREAD:g} of its size, which single precision "
            f"can tell apart, got a spread of {spread:g} around {mean:.9g}; take {mean:.3g} off each"
        )


def _refuse_identifiers(path: Path, text: dict[str, TextColumn]) -> None:
    for name, column in text.items():
        different = len(column.distinct)
        if different > max(IDENTIFIER_LEAST, IDENTIFIER_SHARE * len(column)):
            raise TableError(
                f"expected categories in column {name!r} of {path}, got {different} different values in {len(column)} "
                "rows, which looks like a number or an identifier; name a number with --numeric, "
                "or name the features to use with --features"
            )

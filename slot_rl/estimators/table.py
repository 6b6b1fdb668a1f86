"""Reading a table of categorical features and a score from CSV or Parquet, as text and exactly.

Rules, each tested: every cell but the score is text, kept to the character ("X" and "x " differ, NA and an empty cell
are categories of their own). Blank lines in a CSV are skipped. In Parquet, numbers and booleans become their text; a
null is refused. A score may have blanks around it; it must be a finite number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

IDENTIFIER_SHARE = 0.5
IDENTIFIER_LEAST = 100


class TableError(ValueError):
    """A table cannot be used as it is."""


@dataclass(frozen=True)
class Table:
    """A table's columns.

    Attributes:
        path: Where it was read from.
        text: Each text column's cells, by name, as an array of ``str`` objects.
        score: The score column, float64; None where it was not asked for.
    """

    path: Path
    text: dict[str, npt.NDArray[np.object_]]
    score: npt.NDArray[np.float64] | None

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(next(iter(self.text.values())))


def read_table(
    path: Path, score: str | None, contexts: Sequence[str] = (), features: Sequence[str] | None = None
) -> Table:
    """Reads the columns that are asked for.

    Args:
        path: A ``.csv`` or ``.parquet`` file.
        score: The score column; None to read none.
        contexts: Context columns.
        features: Feature columns; None for every column that is neither score nor context.

    Returns:
        The table, context columns first.

    Raises:
        TableError: If the file cannot be read, a column is missing, named twice or asked for twice, a score is not a
            finite number, or a column that was not asked for by name looks like an identifier.
    """
    columns = _read_columns(path)
    names = [name for name, _ in columns]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise TableError(f"expected every column of {path} once, got {', '.join(map(repr, doubled))} more than once")
    chosen = features if features is not None else [name for name in names if name not in {*contexts, score}]
    wanted = [*contexts, *chosen]
    _check_wanted(path, names, wanted, score)
    if not chosen:
        raise TableError(f"expected at least one feature column in {path}, got {', '.join(map(repr, names))}")
    by_name = dict(columns)
    if len(columns[0][1]) == 0:
        raise TableError(f"expected rows in {path}, got a header alone")
    text = {name: _as_text(path, name, by_name[name]) for name in wanted}
    if features is None:
        _refuse_identifiers(path, {name: cells for name, cells in text.items() if name not in contexts})
    return Table(path, text, None if score is None else _as_score(path, score, by_name[score]))


def _read_columns(path: Path) -> list[tuple[str, pa.ChunkedArray]]:
    if not path.is_file():
        raise TableError(f"expected a CSV or Parquet file, got {path}, which is no file")
    try:
        table = _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TableError(f"expected a readable table in {path}, got: {' '.join(str(error).split())}") from error
    if table.num_columns == 0:
        raise TableError(f"expected columns in {path}, got none")
    return list(zip(table.column_names, table.columns, strict=True))


def _read_csv(path: Path) -> pa.Table:
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    # One thread, so that an error can name its row.
    read = pa.csv.ReadOptions(use_threads=False)
    with pa.csv.open_csv(path, read_options=read, parse_options=parse) as reader:
        names = reader.schema.names
    convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    return pa.csv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)


def _read_parquet(path: Path) -> pa.Table:
    if path.suffix.lower() != ".parquet":
        raise TableError(f"expected a .csv or .parquet file, got {path.name}")
    with pa.parquet.ParquetFile(path) as file:
        return file.read()


def _check_wanted(path: Path, names: Sequence[str], wanted: Sequence[str], score: str | None) -> None:
    asked = [*wanted, *([] if score is None else [score])]
    for name in asked:
        if name not in names:
            raise TableError(f"expected a column {name!r} in {path}, got {', '.join(map(repr, names))}")
        if asked.count(name) > 1:
            raise TableError(f"expected {name!r} as one of score, context or feature, got it more than once")


def _as_text(path: Path, name: str, column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    if column.null_count:
        row = pc.index(column.is_null(), True).as_py() + 1
        raise TableError(f"expected a category in column {name!r} of {path}, got a null in row {row}")
    try:
        cells: npt.NDArray[np.object_] = column.cast(pa.string()).to_numpy().astype(object)
    except pa.ArrowException as error:
        raise TableError(f"expected text in column {name!r} of {path}, got {column.type}") from error
    return cells


def _as_score(path: Path, name: str, column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.utf8_trim_whitespace(column)
    try:
        values: npt.NDArray[np.float64] = column.cast(pa.float64()).to_numpy()
    except pa.ArrowException as error:
        row, cell = next((i, c) for i, c in enumerate(column.to_pylist(), start=1) if not _is_number(c))
        raise TableError(f"expected a number as {name!r} in row {row} of {path}, got {cell!r}") from error
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argmin(finite))
        raise TableError(f"expected a finite {name!r} in row {row + 1} of {path}, got {column[row].as_py()!r}")
    return values


def _is_number(cell: object) -> bool:
    try:
        pa.scalar(cell).cast(pa.float64())
    except pa.ArrowException:
        return False
    return True


def _refuse_identifiers(path: Path, text: dict[str, npt.NDArray[np.object_]]) -> None:
    for name, cells in text.items():
        different = len(set(cells.tolist()))
        if different > max(IDENTIFIER_LEAST, IDENTIFIER_SHARE * len(cells)):
            raise TableError(
                f"expected categories in column {name!r} of {path}, got {different} different values in {len(cells)} "
                "rows, which looks like a number or an identifier; name the features to use with --features"
            )

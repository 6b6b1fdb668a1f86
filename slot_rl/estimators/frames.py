"""Files of items, requests and logs as data frames, whole or in pieces; cells are checked where they become numbers.

CSV cells are read as text, and Parquet columns keep their types. Their text is that of a CSV file that pandas writes.
"""

import contextlib
import datetime
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from slot_rl.estimators.table import LARGEST, cell_text, remark_on
from slot_rl.estimators.table_files import TableError, stream_cells, unreadable
from slot_rl.spelling import missing_column

SUFFIXES = (".csv", ".parquet", ".jsonl")
FRAME_ROWS = 8_192

Integers = npt.NDArray[np.int64]


def read_frame(path: Path) -> pd.DataFrame:
    """Reads a whole file; raises as :func:`stream_frames`."""
    return pd.concat(stream_frames(path), ignore_index=True)


def stream_frames(path: Path, rows: int = FRAME_ROWS) -> Iterator[pd.DataFrame]:
    """Yields consecutive rows of a CSV, Parquet or JSON Lines file; the index counts the file's rows from 0.

    Raises:
        TableError: If the file cannot be read, has no rows, or a column has no name or stands twice.
    """
    if not path.is_file():
        raise TableError(f"expected a file, got {path}, which is no file")
    if path.suffix.lower() not in SUFFIXES:
        raise TableError(f"expected a file ending in {', '.join(SUFFIXES)}, got {path.name}")
    first = 0
    try:
        for frame in _pieces(path, rows):
            frame.index = pd.RangeIndex(first, first + len(frame))
            first += len(frame)
            yield frame
    except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, TableError):
            raise
        raise unreadable(path, error) from error
    if first == 0:
        raise TableError(f"expected rows in {path}, got none")


def _pieces(path: Path, rows: int) -> Iterator[pd.DataFrame]:
    if path.suffix.lower() == ".jsonl":
        with open(path, encoding="utf-8-sig") as lines:
            yield from _json_pieces(path, lines, rows)
        return
    for cells in stream_cells(path, rows):
        plain = {
            name: cells[name].cast(kind.value_type) if pa.types.is_dictionary(kind) else cells[name]
            for name, kind in zip(cells.column_names, cells.schema.types, strict=True)
        }
        yield pa.table(plain).to_pandas(types_mapper=_nullable, ignore_metadata=True)


def _json_pieces(path: Path, lines: Any, rows: int) -> Iterator[pd.DataFrame]:
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except json.JSONDecodeError as error:
            raise TableError(f"expected a JSON object in line {number} of {path}, got: {error.msg}") from error
        if not isinstance(document, dict):
            raise TableError(f"expected a JSON object in line {number} of {path}, got {type(document).__name__}")
        found.append(document)
        if len(found) == rows:
            yield pd.DataFrame(found, dtype=object)
            found = []
    if found:
        # As objects, whole numbers keep all digits beside an empty cell.
        yield pd.DataFrame(found, dtype=object)


def _nullable(kind: pa.DataType) -> Any:
    # Plain integers become floats where a cell is null, and large ones would lose digits.
    if pa.types.is_integer(kind):
        return pd.Int64Dtype()
    return pd.BooleanDtype() if pa.types.is_boolean(kind) else None


def need_columns(frame: pd.DataFrame, columns: Iterable[str], path: Path) -> None:
    """Raises TableError if a column is missing; the path is for the message."""
    for column in columns:
        if column not in frame.columns:
            raise TableError(missing_column(column, frame.columns, path))


def texts(cells: "pd.Series[Any]") -> list[str]:
    """Returns cells as text; a missing one is empty."""
    return ["" if is_missing(cell) else cell_text(cell) for cell in cells.tolist()]


def id_texts(ids: npt.NDArray[Any]) -> pa.Array:
    """Returns ids of any type as text."""
    if ids.dtype.kind in "iu":
        return pa.array(ids).cast(pa.string())  # many at once
    return pa.array([cell_text(each) for each in ids.tolist()], pa.string())


def count_rows(path: Path) -> int:
    """Returns the number of rows; raises as :func:`stream_frames`."""
    if path.is_file() and path.suffix.lower() == ".parquet":
        with contextlib.suppress(pa.ArrowException):
            return int(pa.parquet.read_metadata(path).num_rows)
    return sum(map(len, stream_frames(path)))


def numbers(cells: "pd.Series[Any]", path: Path) -> npt.NDArray[np.float64]:
    """Returns cells as numbers, NaN where one is missing.

    Raises:
        TableError: If a cell is neither empty nor a finite number.
    """
    found = pd.to_numeric(cells.map(_stripped), errors="coerce").to_numpy(np.float64, copy=True, na_value=np.nan)
    missing = np.array([is_missing(cell) for cell in cells.tolist()], dtype=bool)
    if cells.dtype.kind in "mM":  # times count in a unit that depends on the file
        found = np.full(len(cells), np.nan)
    bad = ~missing & ~(np.abs(found) <= LARGEST)
    if bad.any():
        row = int(bad.argmax())
        raise TableError(
            f"expected a finite number in column {cells.name!r}, row {cells.index[row] + 1} of {path}, "
            f"got {str(cells.iloc[row])!r}{remark_on(cells.iloc[row])}"
        )
    return found


def is_numeric(cells: "pd.Series[Any]") -> bool:
    """Returns whether every cell that is not missing is a number, and one is there; dates and booleans are none."""
    present = [cell for cell in cells.tolist() if not is_missing(cell)]
    if any(isinstance(cell, list | dict | np.ndarray | bool | datetime.date | datetime.timedelta) for cell in present):
        return False
    return bool(present) and not pd.to_numeric(pd.Series(present).map(_stripped), errors="coerce").isna().any()


def _stripped(cell: Any) -> Any:
    return cell.strip() or np.nan if isinstance(cell, str) else cell


def is_missing(cell: Any) -> bool:
    """Returns whether a cell is empty: blank text, null, or NaN."""
    if isinstance(cell, str):
        return not cell.strip()
    return cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and np.isnan(cell))

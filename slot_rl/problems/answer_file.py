"""Files of answers: CSV, Parquet or JSON Lines, written piece by piece, whole or not at all."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from slot_rl.estimators.spreadsheet_cells import neutral_table
from slot_rl.io import whole_file


class AnswerWriter:
    """Writes tables of one schema one after the other; the first table's schema is that of the file."""

    def __init__(self, path: Path, suffix: str, raw_cells: bool = False) -> None:
        """Takes the file to write, the ending that says how, and whether CSV has texts that a spreadsheet executes."""
        self._path, self._suffix, self._neutral = path, suffix.lower(), suffix.lower() == ".csv" and not raw_cells
        self._writer: Any = None
        self._schema: pa.Schema | None = None

    def write(self, table: pa.Table) -> None:
        """Writes some rows.

        Raises:
            ValueError: If a column's cells do not have the type that they had in the first table.
        """
        table = pa.table({name: _plain(table[name], self._suffix) for name in table.column_names})
        if self._neutral:
            table = neutral_table(table)
        if self._schema is None:
            self._schema = table.schema
            self._writer = self._opened(table.schema)
        if self._suffix == ".jsonl":
            self._writer.writelines(json.dumps(row, default=str) + "\n" for row in table.to_pylist())
        else:
            self._writer.write_table(_as_declared(table, self._schema))

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.close()

    def _opened(self, schema: pa.Schema) -> Any:
        if self._suffix == ".csv":
            return pa.csv.CSVWriter(self._path, schema)
        if self._suffix == ".parquet":
            return pa.parquet.ParquetWriter(self._path, schema)
        return open(self._path, "w", encoding="utf-8")


@contextmanager
def answer_file(out: Path, raw_cells: bool = False) -> Iterator[AnswerWriter]:
    """Opens a file of answers, see :class:`AnswerWriter`; an error leaves the earlier file as it was."""
    with whole_file(out) as path:
        writer = AnswerWriter(path, out.suffix, raw_cells)
        try:
            yield writer
        finally:
            writer.close()


def arrow_table(frame: pd.DataFrame) -> pa.Table:
    """Returns a data frame as a table; the cells of a column with several types become text."""
    columns = {str(name): _arrow_column(frame[name]) for name in frame.columns}
    return pa.table(columns)


def with_columns(table: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
    """Returns a table with further columns behind its own; one of its own with the same name is left out."""
    kept = [name for name in table.column_names if name not in columns]
    return pa.table({**{name: table[name] for name in kept}, **columns})


def _arrow_column(cells: "pd.Series[Any]") -> pa.Array:
    try:
        return pa.Array.from_pandas(cells)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        as_text = [[str(one) for one in cell] if isinstance(cell, list) else cell for cell in cells.tolist()]
        with contextlib.suppress(pa.ArrowInvalid, pa.ArrowTypeError):
            return pa.array(as_text)
        known = (None if isinstance(cell, float) and math.isnan(cell) else cell for cell in as_text)
        return pa.array(
            [cell if cell is None or isinstance(cell, str) else json.dumps(cell, default=str) for cell in known]
        )


def _as_declared(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Returns the columns of a schema, null where they are missing; raises ValueError if others or other types come."""
    hint = "a .jsonl file can hold both"
    for name in table.column_names:
        if name not in schema.names:
            raise ValueError(f"expected no column {name!r} as in the first rows, got one; {hint}")
    columns = {}
    for kind in schema:
        cells = table[kind.name] if kind.name in table.column_names else pa.nulls(len(table))
        try:
            columns[kind.name] = cells.cast(kind.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(
                f"expected {kind.type} in column {kind.name!r} as in the first rows, got {cells.type}; {hint}"
            ) from error
    return pa.table(columns)


def _plain(column: pa.ChunkedArray, suffix: str) -> pa.ChunkedArray:
    """Returns a column as the file can hold it: text in place of dictionaries and nulls, and of lists in CSV."""
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        return column.cast(pa.string())
    if suffix == ".jsonl" and pa.types.is_floating(column.type):
        return pc.if_else(pc.is_nan(column), None, column)  # JSON has no NaN
    if suffix == ".csv" and pa.types.is_nested(column.type):
        return pa.chunked_array(
            [[None if cell is None else json.dumps(cell) for cell in column.to_pylist()]], pa.string()
        )
    return column

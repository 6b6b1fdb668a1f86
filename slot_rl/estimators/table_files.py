"""Files of tables: CSV and Parquet, opened as Arrow tables and refused by what they are.

The cells of CSV files are read as text; an apostrophe that keeps a spreadsheet from executing one is taken off. What
cells mean, and which columns are used, is for ``table.py`` to say.
"""

import codecs
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from slot_rl.estimators.spreadsheet_cells import original, original_table

CSV_PARSE = pa.csv.ParseOptions(newlines_in_values=True)
# With one thread, an error can name its row.
CSV_READ = pa.csv.ReadOptions(use_threads=False)


class TableError(ValueError):
    """A table cannot be used."""


def column_names(path: Path) -> list[str]:
    """Returns the names of a file's columns; raises TableError if it cannot be read or has none."""
    if not path.is_file():
        raise TableError(f"expected a CSV or Parquet file, got {path}, which is no file")
    if not _is_csv(path) and path.suffix.lower() != ".parquet":
        raise TableError(f"expected a .csv or .parquet file, got {path.name}")
    if _is_csv(path):
        _check_csv(path)
    with _readable(path):
        names = list(map(original, _csv_names(path))) if _is_csv(path) else pa.parquet.read_schema(path).names
    if not names:
        raise TableError(f"expected columns in {path}, got none")
    return list(names)


def is_row_number(name: str) -> bool:
    """Returns whether a column holds the row numbers that pandas stores beside the data: it says nothing of a row."""
    return re.fullmatch(r"\s*|Unnamed: \d+|__index_level_\d+__", name) is not None


def row_number_notice(path: Path) -> str:
    """Returns what to tell the user of a file's columns of row numbers, which are left out; empty without any."""
    found = [] if path.suffix.lower() == ".jsonl" else [name for name in column_names(path) if is_row_number(name)]
    return f"left out as row numbers: {', '.join(map(repr, found))} of {path}" if found else ""


def refuse_doubled(path: Path, names: Sequence[str]) -> None:
    """Raises TableError for a name that stands twice."""
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise TableError(f"expected every column of {path} once, got {', '.join(map(repr, doubled))} more than once")


def stream_cells(path: Path, rows_per_batch: int = 65_536) -> Iterator[pa.Table]:
    """Yields all columns of a CSV or Parquet file in batches of rows; the cells of CSV files are text.

    Raises:
        TableError: If the file cannot be read.
    """
    names = column_names(path)
    refuse_doubled(path, names)
    for batch in read_batches(path, names, rows_per_batch):
        yield pa.Table.from_batches([batch])


def _check_csv(path: Path) -> None:
    """Refuses files of other programs by what they are: other encodings and other separators."""
    with _readable(path), path.open("rb") as file:
        start = file.readline()
    for sign, kind in {b"PK\3\4": "a ZIP file, as workbooks are", b"\x1f\x8b": "a compressed file"}.items():
        if start.startswith(sign):
            raise TableError(f"expected a CSV file in {path}, got {kind}")
    if b"\0" in start or start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise TableError(f"expected {path} in UTF-8, got UTF-16 or another file with zero bytes")
    try:
        header = start.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise TableError(f"expected {path} in UTF-8, got a header in another encoding") from error
    if header.lower().startswith("sep="):
        raise TableError(f"expected the names of the columns in the first line of {path}, got {header!r}")
    if "," not in header:
        for name, mark in {"semicolons": ";", "tabs": "\t", "vertical bars": "|"}.items():
            if mark in header:
                raise TableError(f"expected commas between the columns of {path}, got {name}")


def _csv_names(path: Path) -> list[str]:
    with _csv_source(path) as source, pa.csv.open_csv(source, CSV_READ, CSV_PARSE) as reader:
        return list(reader.schema.names)


def read_columns(path: Path, text: Sequence[str], score: str | None) -> pa.Table:
    """Reads columns at once; those of CSV files as text, the score, too; raises TableError if it cannot."""
    with _readable(path):
        if _is_csv(path):
            with _csv_source(path) as source:
                return original_table(pa.csv.read_csv(source, CSV_READ, CSV_PARSE, _csv_types(path, text, score)))
        with pa.parquet.ParquetFile(path) as file:
            return file.read(columns=[*text, *([] if score is None else [score])])


def _csv_types(path: Path, text: Sequence[str], score: str | None) -> pa.csv.ConvertOptions:
    names = {original(name): name for name in _csv_names(path)}
    types = {names[name]: pa.dictionary(pa.int32(), pa.string()) for name in text}
    # The score is read as text, so that an error can show it as it is in the file.
    types |= {} if score is None else {names[score]: pa.string()}
    return pa.csv.ConvertOptions(column_types=types, include_columns=list(types), strings_can_be_null=False)


def read_batches(path: Path, columns: Sequence[str], most: int) -> Iterator[pa.RecordBatch]:
    """Yields columns in batches of at most so many rows; raises TableError if it cannot."""
    with _readable(path):
        if _is_csv(path):
            # The reader's batches are blocks of bytes, so they are split here.
            with (
                _csv_source(path) as source,
                pa.csv.open_csv(source, CSV_READ, CSV_PARSE, _csv_types(path, columns, None)) as reader,
            ):
                for block in reader:
                    piece = original_table(pa.Table.from_batches([block]))
                    for start in range(0, len(piece), most):
                        yield from piece.slice(start, most).to_batches()
        else:
            # Read ahead, a file of nested columns would be in memory as a whole.
            with pa.parquet.ParquetFile(path, pre_buffer=False) as file:
                yield from file.iter_batches(most, columns=list(columns))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> TableError:
    """Returns the error of a file that cannot be read."""
    said = " ".join(str(error).split())
    foreign = isinstance(error, UnicodeDecodeError) or "invalid UTF8" in said
    return TableError(
        f"expected {path} in UTF-8, got: {said}" if foreign else f"expected a readable table in {path}, got: {said}"
    )


class _WholeLineEnds:
    """A file whose pieces never end between the two characters of a line end.

    The CSV reader drops a line feed at the start of a block if the one before ended in a carriage return, which in a
    quoted cell is a part of the text.
    """

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        """Takes an open file."""
        self._file, self._held = file, b""

    def read(self, size: int) -> bytes:
        """Returns the next bytes, at most as many as are asked for; none at the end."""
        found = self._held + self._file.read(size - len(self._held))
        # A piece of one byte is the end of the file, or the reader would take it for that.
        self._held = b"\r" if len(found) > 1 and found.endswith(b"\r") else b""
        return found[: len(found) - len(self._held)]


@contextmanager
def _csv_source(path: Path) -> Iterator[pa.PythonFile]:
    with path.open("rb") as file:
        yield pa.PythonFile(_WholeLineEnds(file), mode="r")


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"

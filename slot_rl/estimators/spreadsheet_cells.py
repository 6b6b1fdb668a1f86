"""Cells of CSV files that a spreadsheet would take for formulas: written with an apostrophe before them.

A spreadsheet executes a cell that begins with = + - @ or a control character. Such texts, and names of columns, are
common: ``=O`` and ``-OH`` in chemistry. An apostrophe before it makes a text of it; readers here take it off again, so
what was written is read. Numbers, and a sign alone, are as they are.
"""

import re
from collections.abc import Callable

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_SIGNS = "=+\\-@\t\r\n＝＋－＠"
_FORMULA = re.compile(f"'*[{_SIGNS}].", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


def neutral(text: str) -> str:
    """Returns a text as no spreadsheet executes it: with an apostrophe before it if it looks like a formula."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def original(text: str) -> str:
    """Returns the text that :func:`neutral` was given."""
    return text[1:] if text.startswith("'") and neutral(text[1:]) == text else text


def neutral_table(table: pa.Table) -> pa.Table:
    """Returns a table whose texts and names of columns no spreadsheet executes."""
    return _mapped(table, neutral, f"^'*[{_SIGNS}]")


def original_table(table: pa.Table) -> pa.Table:
    """Returns the table that :func:`neutral_table` was given."""
    return _mapped(table, original, f"^'+[{_SIGNS}]")


def neutral_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns a data frame whose texts and names of columns no spreadsheet executes."""
    cells = frame.map(lambda cell: neutral(cell) if isinstance(cell, str) else cell)
    return cells.rename(columns=lambda name: neutral(str(name)))


def _mapped(table: pa.Table, change: Callable[[str], str], pattern: str) -> pa.Table:
    columns = [_column(column, change, pattern) for column in table.columns]
    return pa.table(columns, names=[change(name) for name in table.column_names])


def _column(column: pa.ChunkedArray, change: Callable[[str], str], pattern: str) -> pa.ChunkedArray:
    coded = pa.types.is_dictionary(column.type)
    kind = column.type.value_type if coded else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return column
    texts = column.unify_dictionaries().combine_chunks().dictionary if coded else column
    # Most columns have no such text.
    if not pc.any(pc.match_substring_regex(texts, pattern)).as_py():
        return column
    whole = column.cast(kind).dictionary_encode().combine_chunks()
    changed = pa.array([None if text is None else change(text) for text in whole.dictionary.to_pylist()], kind)
    cells = pc.take(changed, whole.indices)
    return pa.chunked_array([cells.dictionary_encode() if coded else cells])

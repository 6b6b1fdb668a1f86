"""What a campaign is told: rows of categories, of a file or a data frame, with scores that may be missing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.table import LARGEST, Table, TextColumn, cell_text, read_table
from slot_rl.estimators.table_files import TableError, column_names, is_row_number
from slot_rl.spelling import missing_column

MEAN, SPREAD = "predicted_mean", "predicted_spread"
"""Columns of a proposal, for people: the members' mean and standard deviation. They are never features."""
FAILED = ("", "failed", "nan", "na", "n/a", "none")
"""Scores of a measurement that failed, in small or large letters."""
GIVEN = Path("the rows given")
"""What messages call rows that come from no file."""
GivenRows = pd.DataFrame | Sequence[Mapping[str, object]] | Path


@dataclass(frozen=True)
class ToldRows:
    """Rows as text, and their scores.

    Attributes:
        table: The text columns.
        score: Scores in float64, ``(rows,)``; NaN where a measurement failed.
    """

    table: Table
    score: Tensor

    def codes(self, encoding: TableEncoding) -> Tensor:
        """Returns the rows' categories ``(rows, columns)``, contexts first; raises TableError for an unknown one."""
        return torch.cat([encoding.encode_contexts(self.table), encoding.encode_features(self.table)], dim=1)

    def with_scores(self, scores: Sequence[float | None]) -> "ToldRows":
        """Returns the rows with other scores.

        Raises:
            ValueError: If they are not as many as the rows, or one is infinite or too large.
        """
        if len(scores) != len(self.table):
            raise ValueError(f"expected a score for each of {len(self.table)} rows, got {len(scores)}")
        found = [math.nan if score is None else float(score) for score in scores]
        for row, number in enumerate(found, start=1):
            if abs(number) > LARGEST:
                raise ValueError(f"expected a finite score, or None, for row {row}, got {number}")
        return replace(self, score=torch.tensor(found, dtype=torch.float64))


def told_rows(
    rows: GivenRows, score: str | None, contexts: Sequence[str] = (), features: Sequence[str] | None = None
) -> ToldRows:
    """Reads rows of a file, a data frame or a list of mappings.

    Args:
        rows: The rows.
        score: Name of the score column; None if there are no scores, so that all are NaN.
        contexts: Context columns.
        features: Feature columns; None for every column that is neither score nor context, nor of a proposal, nor holds
            row numbers.

    Raises:
        TableError: If a column is missing, a cell is missing, there are no rows, or a score is no number.
    """
    if isinstance(rows, Path):
        table = _of_file(rows, score, contexts, features)
    else:
        table = _of_frame(pd.DataFrame(rows), score, contexts, features)
    found = torch.full((len(table),), math.nan, dtype=torch.float64)
    if score is not None:
        column = table.text.pop(score)
        found = torch.tensor(
            [_score(score, column[row], row, table) for row in range(len(column))], dtype=torch.float64
        )
    return ToldRows(table, found)


def names_of(rows: GivenRows) -> list[str]:
    """Returns the names of the columns."""
    return column_names(rows) if isinstance(rows, Path) else [str(name) for name in pd.DataFrame(rows).columns]


def feature_names(rows: GivenRows, others: Sequence[str]) -> list[str]:
    """Returns the names of the columns that are none of some others, nor of a proposal, nor row numbers."""
    return [name for name in names_of(rows) if name not in (*others, MEAN, SPREAD) and not is_row_number(name)]


def categories_of_file(path: Path) -> dict[str, tuple[str, ...]]:
    """Returns the categories of each column of a file; empty cells below a shorter column are none.

    Raises:
        TableError: If the file cannot be read.
    """
    names = column_names(path)
    table = read_table(path, None, features=names)
    return {name: tuple(text for text in table.text[name].distinct if text) for name in names}


def _of_file(path: Path, score: str | None, contexts: Sequence[str], features: Sequence[str] | None) -> Table:
    """Reads all columns as text, the score as one more context: some scores may be missing."""
    others = [*contexts, *([] if score is None else [score])]
    if features is None and {MEAN, SPREAD} & set(names_of(path)):
        features = feature_names(path, others)
    return read_table(path, None, others, features)


def _of_frame(frame: pd.DataFrame, score: str | None, contexts: Sequence[str], features: Sequence[str] | None) -> Table:
    names = [str(name) for name in frame.columns]
    others = [*contexts, *([] if score is None else [score])]
    chosen = feature_names(frame, others) if features is None else features
    wanted = [*others, *chosen]
    for name in wanted:
        if wanted.count(name) > 1:
            raise TableError(f"expected {name!r} as one of score, context or feature, got it more than once")
        if names.count(name) != 1:
            raise TableError(missing_column(name, names, GIVEN))
    if len(frame) == 0 or not chosen:
        raise TableError(f"expected rows with features in {GIVEN}, got {len(frame)} rows of {len(chosen)} features")
    cells = {name: frame.iloc[:, names.index(name)].tolist() for name in wanted}
    return Table(GIVEN, {name: _text(name, column, name == score) for name, column in cells.items()}, None)


def _text(name: str, cells: Sequence[object], may_miss: bool) -> TextColumn:
    missing = [cell is None or cell is pd.NA or cell != cell for cell in cells]
    if any(missing) and not may_miss:
        raise TableError(
            f"expected a category in column {name!r} of {GIVEN}, got {cells[missing.index(True)]} in row "
            f"{missing.index(True) + 1}"
        )
    texts = ["" if gone else cell_text(cell) for cell, gone in zip(cells, missing, strict=True)]
    return TextColumn.of(pa.chunked_array([pa.array(texts, pa.string())]))


def _score(name: str, cell: str, row: int, table: Table) -> float:
    if cell.strip().lower() in FAILED:
        return math.nan
    try:
        number = float(cell)
    except ValueError:
        number = math.inf
    if abs(number) > LARGEST:
        raise TableError(
            f"expected a finite number, or 'failed', as {name!r} in row {row + 1} of {table.path}, got {cell!r}"
        )
    return number

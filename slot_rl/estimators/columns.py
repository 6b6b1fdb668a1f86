"""How the columns of a file of items or requests become numbers: standardised, embedded, or flagged as missing."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from slot_rl.documents import as_declared
from slot_rl.estimators.frames import is_numeric, need_columns, numbers, texts
from slot_rl.estimators.table import refuse_narrow
from slot_rl.estimators.table_files import TableError, is_row_number
from slot_rl.spelling import nearest

UNSEEN = 0
"""The index of a category that the fit has not seen; its column is then as good as left out."""


@dataclass(frozen=True)
class Encoded:
    """Rows as tensors.

    Attributes:
        numbers: Float tensor of shape ``(rows, numbers)``; a missing number is its column's mean.
        codes: Long tensor of shape ``(rows, categories)``; 0 where a category was not seen in the fit.
    """

    numbers: Tensor
    codes: Tensor

    def __getitem__(self, rows: Any) -> "Encoded":
        """Returns some rows."""
        return Encoded(self.numbers[rows], self.codes[rows])


@dataclass(frozen=True)
class FileColumns:
    """The columns of items or of requests as the fit has seen them.

    Attributes:
        id: The column that names the rows.
        means: Mean of each numeric column, by name.
        flagged: Numeric columns in which numbers were missing; each has a flag, and numbers may be missing again.
        categories: The categories of each other column, by name, sorted as text.
    """

    id: str
    means: Mapping[str, float]
    flagged: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        id_names: Sequence[str],
        path: Path,
        categorical: Collection[str] = (),
        leave: Collection[str] = (),
    ) -> "FileColumns":
        """Returns the columns of a file; all that are not left out, and hold no row numbers.

        Args:
            frame: The rows.
            id_names: Names of which the id's column has one.
            path: The file, for messages.
            categorical: FileColumns that are categories although their cells are numbers.
            leave: FileColumns to leave out.

        Raises:
            TableError: If the id's column is missing, an id stands twice or is empty, or a column's numbers differ by
                too little of their size.
        """
        name = id_column(frame, id_names, path)
        ids = texts(frame[name])
        check_ids(ids, name, path)
        found = [
            column for column in frame.columns if column != name and column not in leave and not is_row_number(column)
        ]
        numeric = [column for column in found if column not in categorical and is_numeric(frame[column])]
        values = {column: numbers(frame[column], path) for column in numeric}
        for column, value in values.items():
            refuse_narrow(value[~np.isnan(value)], column, path)
        return cls(
            name,
            {column: float(np.nanmean(value)) for column, value in values.items()},
            tuple(column for column, value in values.items() if np.isnan(value).any()),
            {column: tuple(sorted(set(texts(frame[column])))) for column in found if column not in numeric},
        )

    @property
    def names(self) -> list[str]:
        """The columns but for the id's."""
        return [*self.means, *self.categories]

    @property
    def width(self) -> int:
        """Numbers of an encoded row."""
        return len(self.means) + len(self.flagged)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Indices of each column of categories, the one for unseen categories included."""
        return tuple(1 + len(known) for known in self.categories.values())

    def encode(self, frame: pd.DataFrame, path: Path) -> Encoded:
        """Encodes rows.

        Raises:
            TableError: If a column is missing, a cell of a numeric column is not a number, or a number is missing where
                the fit has never seen one missing.
        """
        need_columns(frame, self.names, path)
        parts, flags = [], []
        for name, mean in self.means.items():
            values = numbers(frame[name], path)
            missing = np.isnan(values)
            if name in self.flagged:
                flags.append(missing.astype(np.float64))
            elif missing.any():
                row = int(frame.index[int(missing.argmax())]) + 1
                raise TableError(f"expected a number in column {name!r}, row {row} of {path}, got an empty cell")
            parts.append(np.where(missing, mean, values))
        shape = (len(frame), 0)
        codes = [_codes(texts(frame[name]), known) for name, known in self.categories.items()]
        return Encoded(
            torch.tensor(np.stack([*parts, *flags], axis=1) if parts else np.zeros(shape), dtype=torch.float32),
            torch.tensor(np.stack(codes, axis=1) if codes else np.zeros(shape), dtype=torch.long),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "FileColumns":
        """Rebuilds what :meth:`to_json` wrote."""
        return as_declared(cls, values, "columns")


def id_column(frame: pd.DataFrame, names: Sequence[str], path: Path) -> str:
    """Returns the first of the names that is a column; raises TableError if none is."""
    for name in names:
        if name in frame.columns:
            return name
    raise TableError(
        f"expected a column {' or '.join(map(repr, names))} in {path}, got {', '.join(frame.columns)}"
        f"{nearest(names[0], frame.columns)}"
    )


def check_ids(ids: Sequence[str], name: str, path: Path) -> None:
    """Refuses ids that are empty or stand twice; raises TableError with the row."""
    seen: dict[str, int] = {}
    for row, each in enumerate(ids, start=1):
        if not each:
            raise TableError(f"expected an id in column {name!r}, row {row} of {path}, got an empty cell")
        if each in seen:
            raise TableError(f"expected each {name!r} of {path} once, got {each!r} in rows {seen[each]} and {row}")
        seen[each] = row


def _codes(cells: Sequence[str], known: Sequence[str]) -> Any:
    index = {category: code for code, category in enumerate(known, start=1)}
    return np.array([index.get(cell, UNSEEN) for cell in cells], dtype=np.int64)

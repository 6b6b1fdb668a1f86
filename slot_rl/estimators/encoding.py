"""The encoding of a table: the index of each category. It is made once and stored with the estimator."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slot_rl.estimators.table import Table, TableError

UNKNOWN = -1


@dataclass(frozen=True)
class Unknown:
    """A cell with a category that an estimator does not know.

    Attributes:
        row: Number of the row in the file, counted from 1.
        column: Name of the column.
        value: Text of the cell.
    """

    row: int
    column: str
    value: str


@dataclass(frozen=True)
class TableEncoding:
    """Names and categories of an estimator's table; the index of a category is its position in the list.

    Attributes:
        score: Name of the score column.
        features: Categories of each feature, by name, sorted as text.
        contexts: Categories of each context column, by name, sorted as text.
    """

    score: str
    features: Mapping[str, tuple[str, ...]]
    contexts: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, table: Table, score: str, contexts: Sequence[str]) -> "TableEncoding":
        """Returns the encoding by the categories that occur in a table.

        Raises:
            TableError: If a feature has only one category, so that there is nothing to choose.
        """
        categories = {name: tuple(sorted(column.distinct)) for name, column in table.text.items()}
        features = {name: found for name, found in categories.items() if name not in contexts}
        for name, found in features.items():
            if len(found) == 1:
                raise TableError(
                    f"expected at least two categories in feature {name!r} of {table.path}, got only {found[0]!r}; "
                    "leave it out with --features"
                )
        return cls(score, features, {name: categories[name] for name in contexts})

    def encode_features(self, table: Table) -> Tensor:
        """Returns the features' indices, a long tensor of shape ``(rows, features)``.

        Raises:
            TableError: If a cell has an unknown category.
        """
        return _known(table, self.features)

    def encode_contexts(self, table: Table) -> Tensor:
        """Returns the contexts' indices, a long tensor of shape ``(rows, columns)``; raises as above."""
        return _known(table, self.contexts)

    def find_contexts(self, table: Table) -> tuple[Tensor, list[Unknown]]:
        """Returns the contexts' indices and the cells with unknown categories.

        Returns:
            A long tensor of shape ``(rows, columns)`` with -1 for unknown categories, and the unknown cells, row by
            row.
        """
        found = _encode(table, self.contexts)
        names = list(self.contexts)
        cells = [(row, names[column]) for row, column in (found == UNKNOWN).nonzero().tolist()]
        return found, [Unknown(table.first_row + row, name, table.text[name][row]) for row, name in cells]

    def to_json(self) -> dict[str, Any]:
        """Returns the encoding as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TableEncoding":
        """Rebuilds an encoding written by :meth:`to_json`."""
        features = {name: tuple(found) for name, found in values["features"].items()}
        return cls(values["score"], features, {name: tuple(found) for name, found in values["contexts"].items()})


def _known(table: Table, columns: Mapping[str, Sequence[str]]) -> Tensor:
    codes = _encode(table, columns)
    for (name, categories), column in zip(columns.items(), codes.unbind(dim=1), strict=True):
        unknown = (column == UNKNOWN).nonzero()
        if len(unknown):
            row = int(unknown[0])
            refuse_unknown(Unknown(table.first_row + row, name, table.text[name][row]), categories, table.path)
    return codes


def refuse_unknown(cell: Unknown, categories: Sequence[str], path: Path, hint: str = "") -> NoReturn:
    """Raises TableError for a cell with an unknown category; the message names some known categories."""
    known = ", ".join(map(repr, categories[:5])) + (", ..." if len(categories) > 5 else "")
    raise TableError(
        f"expected a known category of {cell.column!r} ({known}) in row {cell.row} of {path}, got {cell.value!r}{hint}"
    )


def _encode(table: Table, columns: Mapping[str, Sequence[str]]) -> Tensor:
    codes: npt.NDArray[np.int64] = np.empty((len(table), len(columns)), dtype=np.int64)
    for i, (name, categories) in enumerate(columns.items()):
        index = {category: code for code, category in enumerate(categories)}
        # One look-up per distinct text.
        column = table.text[name]
        codes[:, i] = np.array([index.get(text, UNKNOWN) for text in column.distinct], dtype=np.int64)[column.codes]
    return torch.from_numpy(codes)

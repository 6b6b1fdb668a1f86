"""The encoding of a table: which category has which index, fixed once and stored with the estimator."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slot_rl.estimators.table import Table, TableError


@dataclass(frozen=True)
class TableEncoding:
    """Names and categories of an estimator's table; a category's index is its place in the list.

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
        """Reads the categories off a table.

        Raises:
            TableError: If a feature has one category only, so that there is nothing to choose.
        """
        categories = {name: tuple(sorted(set(cells.tolist()))) for name, cells in table.text.items()}
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
            TableError: If a cell holds a category that the estimator does not know.
        """
        return _encode(table, self.features)

    def encode_contexts(self, table: Table) -> Tensor:
        """Returns the contexts' indices, a long tensor of shape ``(rows, columns)``; raises as above."""
        return _encode(table, self.contexts)

    def to_json(self) -> dict[str, Any]:
        """Returns the encoding as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TableEncoding":
        """Rebuilds an encoding written by :meth:`to_json`."""
        features = {name: tuple(found) for name, found in values["features"].items()}
        return cls(values["score"], features, {name: tuple(found) for name, found in values["contexts"].items()})


def _encode(table: Table, columns: Mapping[str, Sequence[str]]) -> Tensor:
    if not columns:
        return torch.zeros(len(table), 0, dtype=torch.long)
    encoded = [_encode_column(table, name, categories) for name, categories in columns.items()]
    return torch.from_numpy(np.stack(encoded, axis=1))


def _encode_column(table: Table, name: str, categories: Sequence[str]) -> np.typing.NDArray[np.int64]:
    index = {category: i for i, category in enumerate(categories)}
    codes = np.fromiter((index.get(cell, -1) for cell in table.text[name]), dtype=np.int64, count=len(table))
    if (codes < 0).any():
        row = int(np.argmin(codes))
        known = ", ".join(repr(category) for category in categories[:5]) + (", ..." if len(categories) > 5 else "")
        raise TableError(
            f"expected a known category of {name!r} ({known}) in row {row + 1} of {table.path}, "
            f"got {table.text[name][row]!r}"
        )
    return codes

"""The encoding of a table: the index of each category. It is made once and stored with the estimator."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slot_rl.documents import as_declared
from slot_rl.estimators.described import ColumnKinds, Descriptors, NumberUnit, canonical, number_text, numbers_of
from slot_rl.estimators.table import Table
from slot_rl.estimators.table_files import TableError

UNKNOWN = -1
Codes = npt.NDArray[np.int64]


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

    A context is a row with one entry a context column: an index, or the number itself in a column of numbers.

    Attributes:
        score: Name of the score column.
        features: Categories of each feature, by name, sorted as text; the levels of a number, sorted by size.
        contexts: Categories of each context column, by name, sorted as text; none for a column of numbers.
        numbers: Units of the columns that are numbers, by name: of contexts training rows', of features levels'.
        descriptors: Numbers that describe the categories of a column, by name, in the order of its categories.
    """

    score: str
    features: Mapping[str, tuple[str, ...]]
    contexts: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, NumberUnit] = field(default_factory=dict)
    descriptors: Mapping[str, Descriptors] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        table: Table,
        score: str,
        contexts: Sequence[str],
        kinds: ColumnKinds | None = None,
    ) -> "TableEncoding":
        """Returns the encoding by the categories that occur in a table, or in files that describe them.

        Args:
            table: The table.
            score: Name of the score column.
            contexts: Context columns.
            kinds: What columns are, where they are not just categories.

        Raises:
            TableError: If a feature has only one category, so that there is nothing to choose; if a column that is said
                to be numeric holds another text; or as :meth:`ColumnKinds.check` and :meth:`Descriptors.read`.
        """
        kinds = kinds or ColumnKinds()
        kinds.check(table, contexts)
        descriptors: dict[str, Descriptors] = {}
        categories = {name: tuple(sorted(column.distinct)) for name, column in table.text.items()}
        for name, path in kinds.descriptors.items():
            descriptors[name], categories[name] = Descriptors.read(path, name)
            _refuse_undescribed(table, name, categories[name], path)
            if name in contexts:
                _refuse_alike(descriptors[name], categories[name], path)
        units: dict[str, NumberUnit] = {}
        for name in kinds.numeric:
            # Rows may hold other levels than those to choose from; the estimator learns from them all the same.
            levels = np.array(sorted({*numbers_of(table, name).tolist(), *kinds.levels.get(name, ())}))
            units[name] = NumberUnit.of(levels)
            categories[name] = () if name in contexts else tuple(map(number_text, levels.tolist()))
        features = {name: found for name, found in categories.items() if name not in contexts}
        _refuse_single(table, features)
        encoding = cls(score, features, {name: categories[name] for name in contexts}, units, descriptors)
        return encoding.in_units_of(table, torch.arange(len(table)))

    def in_units_of(self, table: Table, rows: Tensor) -> "TableEncoding":
        """Returns the encoding with the mean and the spread of some rows of its table as units of numeric contexts."""
        units = {name: NumberUnit.of(numbers_of(table, name)[rows.numpy()]) for name in self.numeric_contexts}
        return replace(self, numbers={**self.numbers, **units})

    def with_levels(self, levels: Mapping[str, Sequence[float]]) -> "TableEncoding":
        """Returns the encoding with only some of the levels to choose from, in the same units."""
        chosen = {name: tuple(map(number_text, sorted(found))) for name, found in levels.items()}
        return replace(self, features={name: chosen.get(name, found) for name, found in self.features.items()})

    def with_descriptors(self, files: Mapping[str, Path]) -> "TableEncoding":
        """Returns the encoding with further categories of described columns, from files by column.

        Raises:
            ValueError: If a column is not described, or (a ``TableError``) as :meth:`Descriptors.with_file`.
        """
        features, contexts, descriptors = dict(self.features), dict(self.contexts), dict(self.descriptors)
        for name, path in files.items():
            if name not in descriptors:
                known = ", ".join(descriptors) or "there is none"
                raise ValueError(f"expected --descriptors of a described column ({known}), got {name!r}")
            part = contexts if name in contexts else features
            descriptors[name], part[name] = descriptors[name].with_file(path, name, part[name])
            if name in contexts:
                _refuse_alike(descriptors[name], contexts[name], path)
        return replace(self, features=features, contexts=contexts, descriptors=descriptors)

    @property
    def numeric_contexts(self) -> tuple[str, ...]:
        """Names of the context columns that are numbers."""
        return tuple(name for name in self.contexts if name in self.numbers)

    @property
    def plain_contexts(self) -> dict[str, tuple[str, ...]]:
        """Categories of the context columns that are neither numbers nor described by numbers."""
        return {
            name: found
            for name, found in self.contexts.items()
            if name not in self.numbers and name not in self.descriptors
        }

    @property
    def context_widths(self) -> tuple[int, ...]:
        """How many entries of a context's vector each column has that is a number, or is described by numbers."""
        widths = {**dict.fromkeys(self.numbers, 1), **{name: len(d.names) for name, d in self.descriptors.items()}}
        return tuple(widths[name] for name in self.contexts if name in widths)

    def item_numbers(self, name: str) -> Tensor | None:
        """Returns the standardised numbers of a feature's categories ``(categories, numbers)``; None without any."""
        if name in self.descriptors:
            return self.descriptors[name].vectors
        if name in self.numbers:
            levels = np.array([float(text) for text in self.features[name]])
            return torch.from_numpy(self.numbers[name].standardised(levels)).float().unsqueeze(1)
        return None

    def encode_features(self, table: Table) -> Tensor:
        """Returns the features' indices, a long tensor of shape ``(rows, features)``.

        Raises:
            TableError: If a cell has an unknown category.
        """
        codes = torch.from_numpy(self._encode(table, self.features))
        self._refuse(table, self.features, codes == UNKNOWN)
        return codes

    def encode_levels(self, table: Table) -> tuple[Tensor, Tensor]:
        """Returns the features' indices, and which rows have only levels that can be chosen, ``(rows,)``.

        Raises:
            TableError: If a cell has an unknown category, or is no number in a column of numbers.
        """
        codes = torch.from_numpy(self._encode(table, self.features))
        unknown = codes == UNKNOWN
        numeric = torch.tensor([name in self.numbers for name in self.features])
        for name in self.features:
            if name in self.numbers:
                numbers_of(table, name)
        self._refuse(table, self.features, unknown & ~numeric)
        return codes, ~unknown.any(dim=1)

    def encode_contexts(self, table: Table) -> Tensor:
        """Returns the contexts, ``(rows, columns)``: long, or float64 if there are columns of numbers.

        Raises:
            TableError: If a cell has an unknown category, or is no number in a column of numbers.
        """
        codes = self._encode(table, self.contexts)
        self._refuse(table, self.contexts, torch.from_numpy(codes == UNKNOWN))
        return self._with_numbers(table, codes)

    def find_contexts(self, table: Table) -> tuple[Tensor, list[Unknown]]:
        """Returns the contexts and the cells with unknown categories.

        Returns:
            The contexts as in :meth:`encode_contexts`, with -1, or NaN if there are columns of numbers, for unknown
            categories; and the unknown cells, row by row.

        Raises:
            TableError: If a cell is no number in a column of numbers.
        """
        codes = self._encode(table, self.contexts)
        names = list(self.contexts)
        cells = [(row, names[column]) for row, column in np.argwhere(codes == UNKNOWN).tolist()]
        unknown = [Unknown(table.first_row + row, name, table.text[name][row]) for row, name in cells]
        found = self._with_numbers(table, codes)
        mark = torch.nan if found.is_floating_point() else UNKNOWN
        return found.masked_fill_(torch.from_numpy(codes == UNKNOWN), mark), unknown

    def context_parts(self, contexts: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Splits contexts ``(rows, columns)`` into what an estimator takes.

        Returns:
            The indices ``(rows, plain columns)``, long, and the standardised numbers ``(rows, numbers)``, float; either
            is None if there are no such columns.
        """
        plain: list[Tensor] = []
        parts: list[Tensor] = []
        for name, column in zip(self.contexts, contexts.unbind(dim=1), strict=True):
            if name in self.numbers:
                standardised = self.numbers[name].standardised(column.double().numpy())
                parts.append(torch.from_numpy(standardised).float().unsqueeze(1))
            elif name in self.descriptors:
                parts.append(self.descriptors[name].vectors[column.long()])
            else:
                plain.append(column.long())
        return torch.stack(plain, dim=1) if plain else None, torch.cat(parts, dim=1) if parts else None

    def find_in_parts(
        self, codes: Tensor | None, vectors: Tensor | None, numbers: Mapping[str, Sequence[float]]
    ) -> Tensor:
        """Turns what an estimator takes back into indices.

        Args:
            codes: Indices ``(rows, plain columns)``; None if there are no such columns.
            vectors: Standardised numbers ``(rows, numbers)``, bit for bit as :meth:`context_parts` gives them, or None.
            numbers: The known numbers of each numeric column.

        Returns:
            A long tensor ``(rows, columns)``; a number that is not known has the index after the last known one.
        """
        rows = len(codes) if codes is not None else 0 if vectors is None else len(vectors)
        plain, first = iter(() if codes is None else codes.unbind(dim=1)), 0
        columns = [torch.zeros(rows, 0, dtype=torch.long)]
        for name in self.contexts:
            known = self._known_vectors(name, numbers)
            if known is None:
                found = next(plain)
            else:
                assert vectors is not None
                found = places_of(vectors[:, first : first + known.shape[1]], known)
                first += known.shape[1]
            columns.append(found.unsqueeze(1))
        return torch.cat(columns, dim=1)

    def _known_vectors(self, name: str, numbers: Mapping[str, Sequence[float]]) -> Tensor | None:
        if name in self.numbers:
            standardised = self.numbers[name].standardised(np.array(numbers[name], dtype=np.float64))
            return torch.from_numpy(standardised).float().unsqueeze(1)
        return self.descriptors[name].vectors if name in self.descriptors else None

    def context_names(self, codes: Tensor | None, vectors: Tensor | None) -> list[list[str]]:
        """Returns the cells of contexts, given as an estimator takes them; numbers to six digits."""
        found = self.find_in_parts(codes, vectors, dict.fromkeys(self.numeric_contexts, ()))
        widths, columns = iter(self.context_widths), []
        first = 0
        for column, (name, categories) in enumerate(self.contexts.items()):
            if name in self.numbers:
                assert vectors is not None
                numbers = vectors[:, first].double() * self.numbers[name].spread + self.numbers[name].mean
                columns.append([f"{number:.6g}" for number in numbers.tolist()])
            else:
                columns.append([categories[code] for code in found[:, column].tolist()])
            first += next(widths) if name in self.numbers or name in self.descriptors else 0
        return [list(row) for row in zip(*columns, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Returns the encoding as JSON-ready values."""
        values: dict[str, Any] = {"score": self.score, "features": self.features, "contexts": self.contexts}
        if self.numbers:
            values["numbers"] = {name: asdict(unit) for name, unit in self.numbers.items()}
        if self.descriptors:
            values["descriptors"] = {name: found.to_json() for name, found in self.descriptors.items()}
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TableEncoding":
        """Rebuilds an encoding written by :meth:`to_json`; raises BundleError if it is none."""
        return as_declared(cls, values, "encoding")

    def _encode(self, table: Table, columns: Mapping[str, Sequence[str]]) -> Codes:
        codes = np.zeros((len(table), len(columns)), dtype=np.int64)
        for i, (name, categories) in enumerate(columns.items()):
            column = table.text[name]
            if name in self.numbers and name in self.contexts:
                continue
            index = {category: code for code, category in enumerate(categories)}
            texts = map(canonical, column.distinct) if name in self.numbers else column.distinct
            # One look-up per distinct text.
            codes[:, i] = np.array([index.get(text, UNKNOWN) for text in texts], dtype=np.int64)[column.codes]
        return codes

    def _with_numbers(self, table: Table, codes: Codes) -> Tensor:
        if not self.numeric_contexts:
            return torch.from_numpy(codes)
        rows = codes.astype(np.float64)
        for i, name in enumerate(self.contexts):
            if name in self.numbers:
                rows[:, i] = numbers_of(table, name)
        return torch.from_numpy(rows)

    def _refuse(self, table: Table, columns: Mapping[str, Sequence[str]], unknown: Tensor) -> None:
        for (name, categories), column in zip(columns.items(), unknown.unbind(dim=1), strict=True):
            rows = column.nonzero()
            if len(rows):
                row = int(rows[0])
                refuse_unknown(Unknown(table.first_row + row, name, table.text[name][row]), categories, table.path)


def shown_names(categories: Sequence[str]) -> str:
    """Returns some of the categories, for messages."""
    return ", ".join(map(repr, categories[:5])) + (", ..." if len(categories) > 5 else "")


def refuse_unknown(cell: Unknown, categories: Sequence[str], path: Path, hint: str = "") -> NoReturn:
    """Raises TableError for a cell with an unknown category; the message names some known categories."""
    raise TableError(
        f"expected a known category of {cell.column!r} ({shown_names(categories)}) in row {cell.row} of {path}, "
        f"got {cell.value!r}{hint}"
    )


def places_of(rows: Tensor, known: Tensor) -> Tensor:
    """Returns each row's place among known rows, bit for bit; as many as there are known ones where it is not there."""
    places = {row.tobytes(): place for place, row in enumerate(known.numpy())}
    whole = np.ascontiguousarray(rows.numpy())
    # One look-up per distinct row.
    distinct, inverse = np.unique(whole.view(f"V{whole.itemsize * whole.shape[1]}"), return_inverse=True)
    found = np.array([places.get(row.tobytes(), len(known)) for row in distinct], dtype=np.int64)
    return torch.from_numpy(found[inverse.reshape(len(rows))])


def _refuse_single(table: Table, features: Mapping[str, Sequence[str]]) -> None:
    for name, found in features.items():
        if len(found) == 1:
            raise TableError(
                f"expected at least two categories in feature {name!r} of {table.path}, got only {found[0]!r}; "
                "leave it out with --features"
            )


def _refuse_undescribed(table: Table, name: str, categories: Sequence[str], path: Path) -> None:
    column = table.text[name]
    known = set(categories)
    absent = np.array([text not in known for text in column.distinct])
    if absent.any():
        row = int(np.argmax(absent[column.codes]))
        cell = Unknown(table.first_row + row, name, column[row])
        refuse_unknown(cell, categories, table.path, f", which {path} does not describe")


def _refuse_alike(found: Descriptors, categories: Sequence[str], path: Path) -> None:
    # A context is known by its numbers alone.
    first: dict[tuple[float, ...], str] = {}
    for category, row in zip(categories, found.vectors.tolist(), strict=True):
        other = first.setdefault(tuple(row), category)
        if other != category:
            raise TableError(
                f"expected different numbers for each context in {path}, got equal ones for {other!r} and {category!r}"
            )

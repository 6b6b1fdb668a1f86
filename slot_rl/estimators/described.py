"""Columns that hold numbers, and files of numbers that describe the categories of a column.

A number may be written in several ways: 105 and 105.0 are one level, which is printed as 105. Numbers are standardised
in double precision, by the mean and the spread of what they are compared with.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slot_rl.estimators.table import LARGEST, Table, TextColumn, read_table, remark_on
from slot_rl.estimators.table_files import TableError, column_names, is_row_number

FEW_LEVELS = 20
"""A column of numbers that are not all whole is taken for categories only if it has at most so many of them."""
WHOLE_DIGITS = 1e15
FARTHEST = 1e6
"""Spreads from the mean; numbers farther away count as this far, so that every finite number has a finite score."""

Doubles = npt.NDArray[np.float64]
_Value = TypeVar("_Value")


def parse_number(text: str) -> float | None:
    """Returns the finite number, not above ``LARGEST``, that a text says, or None."""
    try:
        # Python would also read 1_000.
        number = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return number + 0.0 if abs(number) <= LARGEST else None  # -0.0 + 0.0 is 0.0


def number_text(number: float) -> str:
    """Returns the one way in which a number is written."""
    return str(int(number)) if number.is_integer() and abs(number) < WHOLE_DIGITS else repr(float(number))


def canonical(text: str) -> str:
    """Returns a number's text as :func:`number_text` writes it, and any other text as it is."""
    number = parse_number(text)
    return text if number is None else number_text(number)


def numbers_of(table: Table, name: str) -> Doubles:
    """Returns the numbers in a column, of shape ``(rows,)``.

    Raises:
        TableError: If a cell is not a finite number.
    """
    column = table.text[name]
    found = [parse_number(text) for text in column.distinct]
    if None in found:
        bad = np.array([number is None for number in found])
        row = int(np.argmax(bad[column.codes]))
        raise TableError(
            f"expected a finite number in column {name!r} in row {table.first_row + row} of {table.path}, "
            f"got {column[row]!r}{remark_on(column[row])}"
        )
    return np.array(found, dtype=np.float64)[column.codes]


@dataclass(frozen=True)
class NumberUnit:
    """What numbers are compared with.

    Attributes:
        mean: Their mean.
        spread: Their standard deviation; 1 if they are all equal.
    """

    mean: float
    spread: float

    @classmethod
    def of(cls, numbers: Doubles) -> "NumberUnit":
        """Returns the unit of some numbers ``(rows,)``."""
        # Of equal numbers the computed deviation may be a rounding error instead of 0.
        equal = len(numbers) == 0 or bool((numbers == numbers[0]).all())
        spread = 0.0 if equal else float(numbers.std())
        return cls(float(numbers.mean()) if len(numbers) else 0.0, spread if spread > 0 else 1.0)

    def standardised(self, numbers: Doubles) -> Doubles:
        """Returns how many spreads the numbers lie above the mean, at most :data:`FARTHEST` either way."""
        return np.clip((numbers - self.mean) / self.spread, -FARTHEST, FARTHEST)


@dataclass(frozen=True)
class Descriptors:
    """Numbers that describe the categories of a column, in their order.

    Attributes:
        names: Name of each number.
        values: The numbers of each category, in the order of the names.
        fitted: How many categories the fit knew, whose mean and spread are the units; all of them if None.
    """

    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    fitted: int | None = None

    @classmethod
    def read(cls, path: Path, column: str) -> tuple["Descriptors", tuple[str, ...]]:
        """Reads a file with a column of categories and columns of numbers.

        Returns:
            The descriptors, and their categories, sorted as text.

        Raises:
            TableError: If the column is missing, there is no other, a category occurs twice, or a cell is no number.
        """
        names = [name for name in column_names(path) if name != column and not is_row_number(name)]
        if not names:
            raise TableError(f"expected columns of numbers beside {column!r} in {path}, got none")
        table = read_table(path, None, (column,), names)
        keys = table.text[column]
        _refuse_repeated(table, column, keys)
        numbers = np.stack([numbers_of(table, name) for name in names], axis=1)
        cells = keys.tolist()
        order = sorted(range(len(cells)), key=cells.__getitem__)
        values = tuple(tuple(row) for row in numbers[order].tolist())
        return cls(tuple(names), values), tuple(cells[row] for row in order)

    def with_file(self, path: Path, column: str, known: Sequence[str]) -> tuple["Descriptors", tuple[str, ...]]:
        """Returns the descriptors of the known categories, and behind them those of a file, in the same units.

        Raises:
            TableError: As :meth:`read`, if the file has other columns, or other numbers for a known category.
        """
        found, categories = self.read(path, column)
        if set(found.names) != set(self.names):
            raise TableError(
                f"expected the columns {', '.join(map(repr, self.names))} beside {column!r} in {path}, "
                f"got {', '.join(map(repr, found.names))}"
            )
        order = [found.names.index(name) for name in self.names]
        values = dict(zip(known, self.values, strict=True))
        for category, row in zip(categories, found.values, strict=True):
            numbers = tuple(row[i] for i in order)
            if values.setdefault(category, numbers) != numbers:
                raise TableError(f"expected the numbers of {category!r} in {path} as in the fit, got {numbers}")
        return Descriptors(self.names, tuple(values.values()), self.fitted or len(self.values)), tuple(values)

    @cached_property
    def vectors(self) -> Tensor:
        """The standardised numbers, ``(categories, numbers)``."""
        columns = np.array(self.values, dtype=np.float64).T
        scaled = [NumberUnit.of(column[: self.fitted]).standardised(column) for column in columns]
        return torch.from_numpy(np.stack(scaled, axis=1)).float()

    def to_json(self) -> dict[str, Any]:
        """Returns the descriptors as JSON-ready values."""
        return {"names": list(self.names), "values": [list(row) for row in self.values]}


@dataclass(frozen=True)
class ColumnKinds:
    """What the columns of a table are, where they are not just categories.

    Attributes:
        numeric: Columns that hold numbers.
        levels: The numbers to choose from, by column; those of the table if left out.
        descriptors: Files that describe the categories of a column, by column.
        categorical: Columns of numbers that are categories all the same.
    """

    numeric: tuple[str, ...] = ()
    levels: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    descriptors: Mapping[str, Path] = field(default_factory=dict)
    categorical: tuple[str, ...] = ()

    @classmethod
    def parse(
        cls,
        numeric: Sequence[str],
        levels: Sequence[str],
        descriptors: Sequence[str],
        categorical: Sequence[str],
    ) -> "ColumnKinds":
        """Reads flags such as ``temperature=90,105`` and ``ligand=ligands.csv``.

        Raises:
            ValueError: If a flag is not of this form, or a column is named twice.
        """
        chosen = _by_column("--levels", "COLUMN=NUMBER,NUMBER", levels, _levels)
        files = parse_descriptors(descriptors)
        for name in chosen:
            if name not in numeric:
                raise ValueError(f"expected --levels of a column named in --numeric, got {name!r}")
        named = [*numeric, *files, *categorical]
        for name in named:
            if named.count(name) > 1:
                raise ValueError(f"expected {name!r} once in --numeric, --descriptors and --categorical, got it twice")
        return cls(tuple(numeric), chosen, files, tuple(categorical))

    @property
    def known(self) -> tuple[str, ...]:
        """Names of the columns whose kind is said."""
        return (*self.numeric, *self.descriptors, *self.categorical)

    def check(self, table: Table, contexts: Sequence[str]) -> None:
        """Refuses names of columns that a table lacks, and columns that look like numbers but are not said to be.

        Raises:
            TableError: As said.
        """
        for name in self.known:
            if name not in table.text:
                known = ", ".join(map(repr, table.text))
                raise TableError(f"expected a context or a feature of {table.path} ({known}), got {name!r}")
        for name in self.levels:
            if name in contexts:
                raise TableError(f"expected --levels of a feature, got {name!r}, a context, which takes any number")
        for name in table.text:
            if name not in self.known:
                _refuse_measurements(table, name)


def parse_descriptors(texts: Sequence[str]) -> dict[str, Path]:
    """Reads ``ligand=ligands.csv``; raises ValueError for another form, or a column that is named twice."""
    return _by_column("--descriptors", "COLUMN=FILE", texts, lambda name, text: Path(text))


def _levels(name: str, text: str) -> tuple[float, ...]:
    found = [parse_number(part) for part in text.split(",")]
    numbers = sorted({number for number in found if number is not None})
    if None in found or len(numbers) < 2 or len(numbers) < len(found):
        raise ValueError(f"expected at least two different numbers in --levels {name}=NUMBER,NUMBER, got {text!r}")
    return tuple(numbers)


def _by_column(flag: str, form: str, texts: Sequence[str], parse: Callable[[str, str], _Value]) -> dict[str, _Value]:
    found: dict[str, _Value] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value:
            raise ValueError(f"expected {flag} {form}, got {text!r}")
        if name in found:
            raise ValueError(f"expected each column once in {flag}, got {name!r} twice")
        found[name] = parse(name, value)
    return found


def _refuse_repeated(table: Table, column: str, keys: TextColumn) -> None:
    seen: set[int] = set()
    for row, code in enumerate(keys.codes.tolist(), start=1):
        if code in seen:
            raise TableError(
                f"expected each category once in column {column!r} of {table.path}, "
                f"got {keys.distinct[code]!r} again in row {row}"
            )
        seen.add(code)


def _refuse_measurements(table: Table, name: str) -> None:
    distinct = table.text[name].distinct
    if len(distinct) <= FEW_LEVELS:
        return
    found = [parse_number(text) for text in distinct]
    numbers = [number for number in found if number is not None]
    if len(numbers) == len(found) and not all(number.is_integer() for number in numbers):
        raise TableError(
            f"expected categories in column {name!r} of {table.path}, got {len(distinct)} different numbers, not all "
            f"whole; name it with --numeric, or with --categorical to keep it as categories"
        )

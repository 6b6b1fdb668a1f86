"""Logged slates: which items a request was shown, slot by slot, and the score that the page reached."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from slot_rl.estimators.columns import Encoded, FileColumns, id_column
from slot_rl.estimators.frames import Integers, id_texts, is_missing, need_columns, numbers, read_frame, texts
from slot_rl.estimators.table import refuse_narrow
from slot_rl.estimators.table_files import TableError, is_row_number

ITEM_IDS, REQUEST_IDS = ("item", "item_id", "id"), ("request", "request_id", "id")
CANDIDATES, PROPENSITY = "candidates", "propensity"


@dataclass(frozen=True)
class Items:
    """The items of a file.

    Attributes:
        columns: What their columns mean.
        ids: Their ids, in the order of the file.
        encoded: Their cells as numbers.
    """

    columns: FileColumns
    ids: tuple[str, ...]
    encoded: Encoded

    @classmethod
    def read(cls, path: Path, columns: FileColumns | None = None, categorical: Collection[str] = ()) -> "Items":
        """Reads a file with the columns of an estimator's items, or whose columns say what items have.

        Raises:
            TableError: If an id is missing or stands twice, a column is missing, or a cell is no number.
        """
        return cls.of(read_frame(path), path, columns, categorical)

    @classmethod
    def of(
        cls, frame: pd.DataFrame, path: Path, columns: FileColumns | None = None, categorical: Collection[str] = ()
    ) -> "Items":
        """Takes the rows of a file that was read; otherwise as :meth:`read`."""
        own = FileColumns.of(frame, ITEM_IDS, path, categorical)
        known = own if columns is None else columns
        return cls(known, tuple(texts(frame[own.id])), known.encode(frame, path))

    def places(self) -> dict[str, int]:
        """Returns each id's row."""
        return {each: row for row, each in enumerate(self.ids)}


@dataclass(frozen=True)
class SlateRequests:
    """Requests of a file, or some consecutive rows of it.

    Attributes:
        ids: Their ids.
        encoded: Their context's cells as numbers.
        lists: The rows of each request's candidates among the items; None where a request may have every item.
        faults: Why a request cannot be answered; empty where it can.
    """

    ids: list[str]
    encoded: Encoded
    lists: list[Integers | None]
    faults: list[str]


def encode_requests(
    frame: pd.DataFrame, path: Path, columns: FileColumns, items: Sequence[str], least: int, forgive: bool = False
) -> SlateRequests:
    """Encodes some rows of a file of requests.

    Args:
        frame: The rows.
        path: The file, for messages.
        columns: What the columns mean.
        items: The ids of the items.
        least: Fewest candidates of a request.
        forgive: Whether faulty lists are let pass, with the fault.

    Raises:
        TableError: If a cell is not as expected; if a list is too short, has an unknown item, or has one twice.
    """
    named = next((name for name in (columns.id, *REQUEST_IDS) if name in frame.columns), None)
    ids = [""] * len(frame) if named is None else texts(frame[named])
    lists: list[Integers | None] = [None] * len(frame)
    faults = [""] * len(frame)
    if CANDIDATES in frame.columns:
        lists, faults = _lists(frame[CANDIDATES], path, items, least)
        for row, fault in zip(frame.index, faults, strict=True):
            if fault and not forgive:
                raise TableError(f"expected {fault} in column {CANDIDATES!r}, row {row + 1} of {path}")
    return SlateRequests(ids, columns.encode(frame, path), lists, faults)


def _lists(
    cells: "pd.Series[Any]", path: Path, items: Sequence[str], least: int
) -> tuple[list[Integers | None], list[str]]:
    """Returns lists of rows among the items, and what is wrong with each, ``"... , got ..."``."""
    given = [None if is_missing(cell) else cell for cell in cells.tolist()]
    for row, cell in zip(cells.index, given, strict=True):
        if not (cell is None or isinstance(cell, list | tuple | np.ndarray)):
            raise TableError(f"expected a list in column {CANDIDATES!r}, row {row + 1} of {path}, got {cell!r}")
    lengths = np.array([0 if cell is None else len(cell) for cell in given])
    flat = _concatenated([np.asarray(cell) for cell in given if cell is not None and len(cell)])
    names = id_texts(flat)
    codes = pc.index_in(names, pa.array(items, pa.string())).fill_null(-1).to_numpy().astype(np.int64)
    owner, ends = np.repeat(np.arange(len(given)), lengths), np.cumsum(lengths)
    faults = [
        "" if cell is None or length >= least else f"at least {least} candidates, got {length}"
        for cell, length in zip(given, lengths.tolist(), strict=True)
    ]
    for place in np.flatnonzero(codes < 0)[::-1]:
        faults[owner[place]] = f"known items, got {names[int(place)].as_py()!r}"
    keys = owner * (len(items) + 1) + codes
    order = keys.argsort(kind="stable")
    for place in order[1:][np.diff(keys[order]) == 0][::-1]:
        faults[owner[place]] = faults[owner[place]] or f"each item once, got {names[int(place)].as_py()!r} twice"
    pieces = [None if cell is None else codes[end - n : end] for cell, n, end in zip(given, lengths, ends, strict=True)]
    return pieces, faults


def _concatenated(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    if len({part.dtype.kind for part in parts}) > 1:  # numpy would make numbers of texts, or texts of numbers
        parts = [part.astype(object) for part in parts]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class SlateLog:
    """Logged slates.

    Attributes:
        slots: The names of the slots.
        request: Row of each slate's request, ``(slates,)``.
        items: Rows of its items, ``(slates, slots)``.
        score: Its score, ``(slates,)``.
        propensity: The probability with which it was shown, ``(slates,)``; None if the log does not say.
    """

    slots: tuple[str, ...]
    request: Tensor
    items: Tensor
    score: Tensor
    propensity: Tensor | None

    def __len__(self) -> int:
        """Returns the number of slates."""
        return len(self.score)

    @classmethod
    def read(
        cls, path: Path, score: str, slots: Sequence[str], items: Mapping[str, int], requests: Mapping[str, int]
    ) -> "SlateLog":
        """Reads a file with a request's id, one item's id a slot, and a score; slots are the other columns by default.

        Raises:
            TableError: If a column is missing, an id is unknown, a score is not a number, or a propensity is not one,
                or the scores differ by too little of their size.
        """
        frame = read_frame(path)
        name = id_column(frame, REQUEST_IDS, path)
        need_columns(frame, (score, *slots), path)
        others = (name, score, PROPENSITY)
        free = [column for column in frame.columns if column not in others and not is_row_number(column)]
        found = list(slots) or free
        if len(set(found)) < len(found):
            raise TableError(f"expected different columns for the slots, got {', '.join(map(repr, found))}")
        if not found:
            raise TableError(f"expected a column for each slot in {path}, got {', '.join(map(repr, frame.columns))}")
        rows = [_rows_of(frame, column, path, items, "item") for column in found]
        scores = _present(frame, score, path)
        refuse_narrow(scores, score, path)
        return cls(
            tuple(found),
            _rows_of(frame, name, path, requests, "request"),
            torch.stack(rows, dim=1),
            torch.from_numpy(scores).float(),
            _propensities(frame, path),
        )


def _rows_of(frame: pd.DataFrame, column: str, path: Path, places: Mapping[str, int], what: str) -> Tensor:
    cells = texts(frame[column])
    found = np.array([places.get(cell, -1) for cell in cells], dtype=np.int64)
    if (found < 0).any():
        row = int((found < 0).argmax())
        raise TableError(
            f"expected the id of a known {what} in column {column!r}, row {row + 1} of {path}, got {cells[row]!r}"
        )
    return torch.from_numpy(found)


def _present(frame: pd.DataFrame, column: str, path: Path) -> npt.NDArray[np.float64]:
    values = numbers(frame[column], path)
    missing = np.isnan(values)
    if missing.any():
        row = int(missing.argmax()) + 1
        raise TableError(f"expected a number in column {column!r}, row {row} of {path}, got an empty cell")
    return values


def _propensities(frame: pd.DataFrame, path: Path) -> Tensor | None:
    if PROPENSITY not in frame.columns:
        return None
    values = _present(frame, PROPENSITY, path)
    outside = ~((values > 0) & (values <= 1))
    if outside.any():
        row = int(outside.argmax())
        raise TableError(f"expected a propensity above 0 and at most 1 in row {row + 1} of {path}, got {values[row]:g}")
    return torch.from_numpy(values).float()

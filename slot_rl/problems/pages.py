"""Requests for pages as rows of a table: contexts, lists of candidates by id, and answers as items' ids, one a slot."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from slot_rl.estimators.columns import UNSEEN, Encoded, FileColumns, id_column
from slot_rl.estimators.described import canonical
from slot_rl.estimators.encoding import shown_names
from slot_rl.estimators.frames import Integers, need_columns, read_frame, texts
from slot_rl.estimators.slate_log import ITEM_IDS, REQUEST_IDS, Items, encode_requests
from slot_rl.estimators.table import LARGEST
from slot_rl.estimators.table_files import TableError
from slot_rl.problems.answer_file import arrow_table, with_columns
from slot_rl.problems.item_labels import NO_LABELS, ItemLabels
from slot_rl.problems.observation import Observation
from slot_rl.problems.requests import ESTIMATED, PROPENSITY, RANK, REASON, TRUE, Answer, Answers

SLOT_FEATURES = "slot_features"
CELLS = 2**23
"""Most numbers of candidates that are held at once."""


@dataclass(frozen=True)
class PageNames:
    """What files call the items, the slots, and the requests' columns of a slot problem.

    Attributes:
        items: Ids of the pool's vectors.
        vectors: The pool, ``(items, dim)``.
        slots: Names of the slots.
        columns: The requests' columns.
        slot_dim: Numbers with which each request describes each slot, in its column ``slot_features``.
        labels: Categories of the items that constraints speak of.
        whole: Whether constraints speak of single items: then every request offers the whole pool, less what its list
            leaves out.
    """

    items: tuple[str, ...]
    vectors: Tensor
    slots: tuple[str, ...]
    columns: FileColumns
    slot_dim: int = 0
    labels: ItemLabels = NO_LABELS
    whole: bool = False

    @classmethod
    def of(
        cls,
        pool: Tensor,
        slots: int,
        context_dim: int,
        context_sizes: Sequence[int],
        slot_dim: int,
        ids: Sequence[str] | None,
        columns: Sequence[str] | None,
        categories: Mapping[str, Sequence[str]] | None,
    ) -> "PageNames":
        """Returns the names, with numbers for those that are None.

        Args:
            pool: The vectors.
            slots: Slots of a page.
            context_dim: Numbers of a context.
            context_sizes: Categories of each context column.
            slot_dim: As the attribute.
            ids: The vectors' names.
            columns: Names of the context's numbers.
            categories: Names of each context column's categories.

        Raises:
            ValueError: If there are too many or too few names, or a name stands twice.
        """
        items = range(len(pool)) if ids is None else ids
        numbers = [f"context_{i + 1}" for i in range(context_dim)] if columns is None else columns
        if categories is None:
            categories = {f"category_{i + 1}": list(map(str, range(n))) for i, n in enumerate(context_sizes)}
        _check_names("item_ids", items, len(pool))
        _check_names("context_columns", [*numbers, *categories], context_dim + len(context_sizes))
        for name, known in categories.items():
            _check_names(f"categories of {name!r}", known, len(known))
        named = {name: tuple(map(str, known)) for name, known in categories.items()}
        request_columns = FileColumns("request", dict.fromkeys(numbers, 0.0), (), named)
        return cls(
            tuple(map(str, items)), pool, tuple(f"slot_{i + 1}" for i in range(slots)), request_columns, slot_dim
        )

    def parts(self, rows: Encoded) -> dict[str, Tensor]:
        """Returns the contexts of encoded requests, as an observation's parts."""
        vector = {"context_vector": rows.numbers} if self.columns.width else {}
        return vector | ({"context": rows.codes - 1} if self.columns.categories else {})

    def faults(self, frame: pd.DataFrame, rows: Encoded) -> list[str]:
        """Returns what is expected instead of each request's context; empty where it is known."""
        said = [""] * len(frame)
        for (name, known), codes in zip(self.columns.categories.items(), rows.codes.T, strict=True):
            for row in (codes == UNSEEN).nonzero().flatten().tolist():
                cell = texts(frame[name].iloc[[row]])[0]
                said[row] = said[row] or f"a known category of {name!r} ({shown_names(known)}), got {cell!r}"
        return said

    def read_items(self, path: Path) -> tuple[tuple[str, ...], Tensor]:
        """Reads other items from a file: an id, and the numbers of their vectors in the pool's order.

        Columns that constraints speak of are no part of the vectors.

        Raises:
            TableError: If the file has other columns, an id stands twice, or a number is missing.
        """
        frame = read_frame(path)
        frame = frame.drop(columns=[name for name in self.labels.names if name in frame.columns])
        found = Items.of(frame, path)
        dim = self.vectors.shape[1]
        if found.columns.categories or found.columns.flagged or found.columns.width != dim:
            raise TableError(
                f"expected an id and {dim} columns of numbers in {path}, got {', '.join(map(repr, frame.columns))}"
            )
        return found.ids, found.encoded.numbers

    def read_labels(self, path: Path) -> ItemLabels:
        """Reads the categories of other items from the columns that constraints speak of.

        Raises:
            TableError: If a column is missing.
        """
        if not self.labels.names:
            return self.labels
        frame = read_frame(path)
        need_columns(frame, list(self.labels.names), path)
        values = {name: list(map(canonical, texts(frame[name]))) for name in self.labels.names}
        return ItemLabels.of(values, self.labels.names)


class PageDesk:
    """Answers rows of requests with pages."""

    def __init__(
        self,
        names: PageNames,
        items: Path | None = None,
        exclude: Path | None = None,
        forgive: bool = False,
        impossible: Callable[[Observation], dict[int, str]] = lambda observation: {},
    ) -> None:
        """Reads the items.

        Args:
            names: What files call things.
            items: A file of items to choose from; those of the pool if None.
            exclude: A file of pairs of a request's and an item's id: never answer the request with this item.
            forgive: Whether a request that cannot be answered gets an empty answer with the reason.
            impossible: Says which requests the problem's constraints leave nothing, and what they expected.

        Raises:
            TableError: If a file is not as expected, or has too few items.
        """
        self._names, self._forgive, self._impossible, self.unanswered = names, forgive, impossible, 0
        if items is not None and names.whole:
            raise TableError(f"expected no other items with constraints on single items, got {items}")
        self.ids, self._vectors = (names.items, names.vectors) if items is None else names.read_items(items)
        self._labels = names.labels if items is None else names.read_labels(items)
        # As many as fill a page without a repetition, unless the pool itself has fewer.
        self._least = min(len(names.slots), len(names.items))
        if len(self.ids) < self._least:
            raise TableError(f"expected at least {self._least} items in {items}, got {len(self.ids)}")
        self._excluded = {} if exclude is None else read_exclusions(exclude, self.ids)

    def answered(self, frame: pd.DataFrame, answer: Answer, path: Path) -> pa.Table:
        """Returns the rows with their columns, an item's id for each slot, and the scores; the path is for messages.

        Raises:
            TableError: If a row is not as expected.
        """
        asked = encode_requests(frame, path, self._names.columns, self.ids, self._least, self._forgive)
        unknown = self._names.faults(frame, asked.encoded)
        faults = [fault or other for fault, other in zip(asked.faults, unknown, strict=True)]
        given = self._names.parts(asked.encoded)
        if self._names.slot_dim:
            given[SLOT_FEATURES] = read_slot_features(frame, path, len(self._names.slots), self._names.slot_dim)
        lists = [self._allowed(*pair) for pair in zip(asked.ids, asked.lists, strict=True)]
        for row, each in enumerate(lists):
            if each is not None and len(each) < self._least and not faults[row]:
                faults[row] = f"at least {self._least} items that are not excluded, got {len(each)}"
        for row, fault in zip(frame.index, faults, strict=True):
            if fault and not self._forgive:
                raise TableError(f"expected {fault} in row {row + 1} of {path}")
        well = np.flatnonzero([not fault for fault in faults])
        parts = [(part, *self._asked(part, given, lists)) for part in self._parts(well, lists)]
        for part, _, observation in parts:
            for number, fault in self._impossible(observation).items():
                faults[part[number]] = fault
                if not self._forgive:
                    raise TableError(f"expected {fault} in row {frame.index[part[number]] + 1} of {path}, got none")
        well = np.flatnonzero([not fault for fault in faults])
        self.unanswered += len(frame) - len(well)
        found = []
        for part, listed, observation in parts:
            good = torch.tensor([not faults[row] for row in part])
            if bool(good.any()):
                found.append(_chosen(listed[good], answer(observation[good])))
        return with_columns(*self._columns(frame, well, faults, found))

    def _allowed(self, request: str, listed: Integers | None) -> Integers | None:
        excluded = self._excluded.get(request)
        if excluded is None:
            return listed
        listed = np.arange(len(self.ids)) if listed is None else listed
        return listed[~np.isin(listed, excluded)]

    def _parts(self, rows: Integers, lists: list[Integers | None]) -> list[Integers]:
        """Splits rows so that the candidates of each part fit into the memory that is allowed."""
        longest = max((len(self.ids) if (each := lists[row]) is None else len(each) for row in rows), default=1)
        together = max(1, CELLS // (longest * self._vectors.shape[1]))
        return [rows[start : start + together] for start in range(0, len(rows), together)]

    def _asked(
        self, part: Integers, given: Mapping[str, Tensor], lists: list[Integers | None]
    ) -> tuple[Tensor, Observation]:
        """Returns the rows of some requests' candidates among all items, and the requests."""
        every = np.arange(len(self.ids))
        listed = padded([every if (each := lists[row]) is None else each for row in part])
        if self._names.whole:
            offered, listed = listed, torch.from_numpy(every).repeat(len(part), 1)
            # -1, which pads, is the last of one column more than there are items.
            present = torch.zeros(len(part), len(every) + 1, dtype=torch.bool).scatter_(
                1, offered % (len(every) + 1), True
            )
            mask = present[:, None, :-1].expand(-1, len(self._names.slots), -1)
            candidates = self._vectors.expand(len(part), -1, -1)
        else:
            candidates, mask = listed_candidates(self._vectors, listed, len(self._names.slots))
        contexts = {name: rows[torch.from_numpy(part)] for name, rows in given.items()}
        labels = self._labels.at(listed.clamp_min(0))
        return listed, Observation(candidates, None if bool(mask.all()) else mask, **contexts, labels=labels)

    def _columns(
        self, frame: pd.DataFrame, well: Integers, faults: list[str], found: list[tuple[Tensor, Answers]]
    ) -> tuple[pa.Table, dict[str, pa.Array]]:
        """Returns the frame's rows, each as often as it has answers, and the columns to add."""
        slots, ids = self._names.slots, pa.array(self.ids, pa.string())
        none = torch.zeros(0, found[0][0].shape[1] if found else 1, len(slots))
        chosen = torch.cat([none, *(rows for rows, _ in found)]).long().numpy()
        scores = torch.cat([none[:, :, 0], *(answers.estimated for _, answers in found)]).numpy()
        place, rank = np.nonzero(scores > -np.inf)
        missing = np.setdiff1d(np.arange(len(frame)), well)
        row = np.concatenate([well[place], missing])
        order = np.argsort(row, kind="stable")
        empty = (np.arange(len(row)) >= len(place))[order]

        def column(values: npt.NDArray[Any]) -> pa.Array:
            return pa.array(np.concatenate([values, np.zeros(len(missing), values.dtype)])[order], mask=empty)

        columns = {name: ids.take(column(chosen[place, rank, i])) for i, name in enumerate(slots)}
        columns[ESTIMATED] = column(scores[place, rank])
        true = [answers.true for _, answers in found if answers.true is not None]
        if true:
            columns[TRUE] = column(torch.cat(true).numpy()[place, rank])
        drawn = [answers.propensity for _, answers in found if answers.propensity is not None]
        if drawn:
            columns[PROPENSITY] = column(torch.cat(drawn).numpy()[place, rank])
        if scores.shape[1] > 1:
            columns[RANK] = column(rank + 1)
        if self._forgive:
            said = [f"expected {faults[i]}" if faults[i] else None for i in row[order]]
            columns[REASON] = pa.array(said, pa.string())
        return arrow_table(frame.iloc[row[order]]), columns


def _chosen(listed: Tensor, answers: Answers) -> tuple[Tensor, Answers]:
    """Returns the rows of the chosen items among all items, and the answers."""
    return listed.unsqueeze(1).expand(-1, answers.choice.shape[1], -1).gather(2, answers.choice), answers


def _check_names(what: str, names: Sequence[Any], count: int) -> None:
    different = len({str(name) for name in names})
    if len(names) != count or different < count:
        raise ValueError(f"expected {count} different {what}, got {len(names)}, of which {different} are different")


def read_slot_features(frame: pd.DataFrame, path: Path, slots: int, dim: int) -> Tensor:
    """Returns the numbers of each request's slots, ``(rows, slots, dim)``, from lists of lists.

    Raises:
        TableError: If the column is missing, or a cell does not have ``slots`` lists of ``dim`` finite numbers.
    """
    need_columns(frame, [SLOT_FEATURES], path)
    found = np.zeros((len(frame), slots, dim))
    for row, cell in enumerate(frame[SLOT_FEATURES].tolist()):
        try:
            numbers = np.array([list(each) for each in cell], dtype=np.float64)
        except (TypeError, ValueError):
            numbers = np.zeros(0)
        if numbers.shape != (slots, dim) or not (np.abs(numbers) <= LARGEST).all():
            raise TableError(
                f"expected {slots} lists of {dim} finite numbers in column {SLOT_FEATURES!r}, "
                f"row {frame.index[row] + 1} of {path}, got {cell!r}"
            )
        found[row] = numbers
    return torch.from_numpy(found).float()


def padded(lists: Sequence[Integers | None]) -> Tensor:
    """Returns lists as one tensor ``(lists, longest)``, -1 behind the end of a shorter one, and throughout for None."""
    longest = max((len(each) for each in lists if each is not None), default=1)
    found = np.full((len(lists), longest), -1, dtype=np.int64)
    for row, each in enumerate(lists):
        if each is not None:
            found[row, : len(each)] = each
    return torch.from_numpy(found)


def listed_candidates(vectors: Tensor, lists: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """Returns the vectors ``(requests, items, dim)`` of lists that -1 ends, zero behind it, and their mask."""
    present = lists >= 0
    return vectors[lists.clamp_min(0)] * present.unsqueeze(-1), present.unsqueeze(1).expand(-1, slots, -1)


def read_exclusions(path: Path, items: tuple[str, ...]) -> dict[str, Integers]:
    """Reads pairs of a request's and an item's id; returns the rows of the items that each request must not have.

    Raises:
        TableError: If the file has other columns, or an item is unknown.
    """
    frame = read_frame(path)
    request, item = id_column(frame, REQUEST_IDS[:2], path), id_column(frame, ITEM_IDS[:2], path)
    known = {each: row for row, each in enumerate(items)}
    found: dict[str, list[int]] = {}
    for row, (asked, each) in enumerate(zip(texts(frame[request]), texts(frame[item]), strict=True), start=1):
        if each not in known:
            raise TableError(f"expected a known item in column {item!r}, row {row} of {path}, got {each!r}")
        found.setdefault(asked, []).append(known[each])
    return {asked: np.array(rows, dtype=np.int64) for asked, rows in found.items()}

"""Requests for slates as a file: contexts, lists of candidates, and perhaps new items; read piece by piece."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from slot_rl.estimators.columns import id_column
from slot_rl.estimators.frames import FRAME_ROWS, Integers, count_rows, read_frame, stream_frames, texts
from slot_rl.estimators.slate_log import ITEM_IDS, REQUEST_IDS, Items, SlateRequests, encode_requests
from slot_rl.estimators.table import TableError
from slot_rl.problems.answer_file import answer_file, arrow_table, with_columns
from slot_rl.problems.observation import Observation
from slot_rl.problems.requests import ESTIMATED, RANK, REASON, Answer, Answers, RequestFiles, Requests

if TYPE_CHECKING:
    from slot_rl.problems.slates import SlateProblem

CELLS = 2**23
"""Most numbers of candidates that are held at once."""


class SlateFile(Requests):
    """The rows of a file; each is answered with items' ids, one a slot."""

    def __init__(self, problem: "SlateProblem", asked: RequestFiles, report: Callable[[int], None]) -> None:
        """Reads the items and counts the requests.

        Args:
            problem: What the agent was trained on.
            asked: The files; with ``skip_unknown``, a request that cannot be answered gets the reason instead.
            report: Called with the rows counted.

        Raises:
            TableError: If a file is not as expected.
        """
        if asked.requests is None:
            raise TableError("expected --requests FILE for slates, got none")
        self._problem, self._path, self._forgive = problem, asked.requests, asked.skip_unknown
        stored = problem.stored
        self.ids, self.vectors = stored.item_ids, stored.item_vectors()
        if asked.items is not None:
            found = Items.read(asked.items, stored.item_columns)
            known = {each: row for row, each in enumerate(stored.item_ids, start=1)}
            rows = torch.tensor([known.get(each, 0) for each in found.ids])
            self.ids, self.vectors = found.ids, stored.net.item_vectors(found.encoded, rows)
        self._excluded = {} if asked.exclude is None else read_exclusions(asked.exclude, self.ids)
        self._rows = self.distinct = count_rows(self._path)
        self._unanswered = 0
        report(self._rows)

    def __len__(self) -> int:
        """Returns the number of rows."""
        return self._rows

    def figures(self) -> dict[str, str]:
        """Returns the numbers of requests, of items, and of requests without an answer."""
        figures = {"requests": f"{self._rows:,}", "items": f"{len(self.ids):,}"}
        return figures | ({"not answered": f"{self._unanswered:,}"} if self._forgive else {})

    def write(self, out: Path, answer: Answer, report: Callable[[int], None]) -> None:
        """Writes the file's columns, an item's id for each slot, and the scores."""
        with answer_file(out) as writer:
            for frame in stream_frames(self._path, FRAME_ROWS):
                writer.write(self._answered(frame, answer))
                report(len(frame))

    def _answered(self, frame: pd.DataFrame, answer: Answer) -> pa.Table:
        asked = encode_requests(
            frame, self._path, self._problem.stored.request_columns, self.ids, self._problem.slots, self._forgive
        )
        lists = [self._allowed(*pair) for pair in zip(asked.ids, asked.lists, strict=True)]
        faults = [
            fault or ("" if each is None or len(each) else "an item that is not excluded, got none")
            for fault, each in zip(asked.faults, lists, strict=True)
        ]
        for row, fault in zip(frame.index, faults, strict=True):
            if fault and not self._forgive:
                raise TableError(f"expected {fault} in row {row + 1} of {self._path}")
        well = np.flatnonzero([not fault for fault in faults])
        self._unanswered += len(frame) - len(well)
        found = [self._answers(part, asked, lists, answer) for part in self._parts(well, lists)]
        return self._table(frame, well, faults, found)

    def _allowed(self, request: str, listed: Integers | None) -> Integers | None:
        excluded = self._excluded.get(request)
        if excluded is None:
            return listed
        return np.setdiff1d(np.arange(len(self.ids)) if listed is None else listed, excluded)

    def _parts(self, rows: Integers, lists: list[Integers | None]) -> list[Integers]:
        """Splits rows so that the candidates of each part fit into the memory that is allowed."""
        longest = max((len(self.ids) if lists[row] is None else len(lists[row]) for row in rows), default=1)
        together = max(1, CELLS // (longest * self.vectors.shape[1]))
        return [rows[start : start + together] for start in range(0, len(rows), together)]

    def _answers(
        self, part: Integers, asked: SlateRequests, lists: list[Integers | None], answer: Answer
    ) -> tuple[Tensor, Answers]:
        """Answers some rows; returns the rows of the chosen items among all items, and the answers."""
        every = np.arange(len(self.ids))
        listed = padded([every if lists[row] is None else lists[row] for row in part])
        candidates, mask = listed_candidates(self.vectors, listed, self._problem.slots)
        contexts = self._problem.stored.net.context_vectors(asked.encoded[torch.from_numpy(part)])
        answers = answer(Observation(candidates, None if bool(mask.all()) else mask, context_vector=contexts))
        chosen = listed.unsqueeze(1).expand(-1, answers.choice.shape[1], -1).gather(2, answers.choice)
        return chosen, answers

    def _table(
        self, frame: pd.DataFrame, well: Integers, faults: list[str], found: list[tuple[Tensor, Answers]]
    ) -> pa.Table:
        """Returns the rows of the frame, each as often as it has answers, in the frame's order."""
        slots, ids = self._problem.stored.slots, pa.array(self.ids, pa.string())
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
        if scores.shape[1] > 1:
            columns[RANK] = column(rank + 1)
        if self._forgive:
            said = [f"expected {faults[i]}" if faults[i] else None for i in row[order]]
            columns[REASON] = pa.array(said, pa.string())
        return with_columns(arrow_table(frame.iloc[row[order]]), columns, self._path)


def padded(lists: "list[Integers] | list[Integers | None]") -> Tensor:
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

"""Requests as rows of a table of contexts: each distinct context is answered once, and each row is written.

The table is read piece by piece, and what each row asks for is kept as one number (:class:`ContextRows`). It is read a
second time when the answers are written beside its columns.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from slot_rl.estimators.encoding import TableEncoding, Unknown, refuse_unknown
from slot_rl.estimators.frames import Integers, need_columns, read_frame, stream_frames, texts
from slot_rl.estimators.table import Table, TextColumn, stream_table
from slot_rl.estimators.table_files import TableError, stream_cells
from slot_rl.problems.answer_file import answer_file, arrow_table, with_columns
from slot_rl.problems.distinct_contexts import ContextRows
from slot_rl.problems.observation import Observation
from slot_rl.problems.requests import (
    ESTIMATED,
    MEASURED,
    PROPENSITY,
    RANK,
    REASON,
    TRUE,
    Answer,
    Answers,
    RequestFiles,
    Requests,
)

READ_ROWS = WRITE_ROWS = 65_536
Observe = Callable[[Tensor], Observation]
Impossible = Callable[[Observation], dict[int, str]]


class ContextRequests(Requests):
    """Requests for the contexts of a table's rows.

    Attributes:
        rows: The distinct contexts and the rows that ask for them.
        encoding: Names of the columns and categories.
    """

    unit = "context"

    def __init__(
        self,
        path: Path | None,
        rows: ContextRows,
        encoding: TableEncoding,
        observation: Observation,
        forgive: bool,
        impossible: Mapping[int, str],
    ) -> None:
        """Takes the rows.

        Args:
            path: The file; None for the only request of an estimator without context.
            rows: The rows.
            encoding: Names of the columns and categories.
            observation: The requests for the distinct contexts.
            forgive: Whether a row that cannot be answered gets an empty answer with the reason.
            impossible: What constraints expect of the contexts that they leave nothing, by place.
        """
        self._path, self.rows, self.encoding, self._forgive = path, rows, encoding, forgive
        self._impossible, self._possible = impossible, torch.ones(len(rows.distinct), dtype=torch.bool)
        self._possible[list(impossible)] = False
        self._observation, self.distinct = observation, int(self._possible.sum())

    @classmethod
    def read(
        cls,
        asked: RequestFiles,
        encoding: TableEncoding,
        observe: Observe,
        report: Callable[[int], None],
        impossible: Impossible,
    ) -> "ContextRequests":
        """Reads a file of contexts, and perhaps one of categories that must not be chosen.

        Args:
            asked: The files.
            encoding: Names of the columns and categories.
            observe: Returns the requests for contexts ``(contexts, columns)``.
            report: Called with the rows read so far.
            impossible: Says which requests the problem's constraints leave nothing, and what they expected.

        Raises:
            ValueError: If a file is given to an estimator without context columns, or none to one with them; or as
                :func:`read_contexts`.
        """
        path, columns = asked.requests, ", ".join(map(repr, encoding.contexts))
        if columns and path is None:
            raise ValueError(f"expected --requests FILE with {columns}, which the run's estimator asks for, got none")
        if not columns and path is not None:
            raise ValueError(f"expected no --requests for an estimator without context columns, got {path}")
        # A problem without context columns has a single context.
        only = [torch.zeros(1, 1, dtype=torch.long)]
        pieces = only if path is None else read_contexts(path, encoding, asked.skip_unknown, report)
        with ExitStack() as stack:
            rows = stack.enter_context(ContextRows(pieces, asked.folder))
            observation = observe(rows.distinct)
            if asked.exclude is not None:
                observation = replace(observation, mask=allowed_categories(asked.exclude, encoding, rows.distinct))
            faults = impossible(observation)
            if faults and (len(faults) == len(observation) or not asked.skip_unknown):
                place, fault = next(iter(faults.items()))
                raise ValueError(f"expected {fault} for {_shown(encoding, rows.distinct[place])}, got none")
            stack.pop_all()  # the temporary file stays open
        return cls(path, rows, encoding, observation, asked.skip_unknown, faults)

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.rows)

    def figures(self) -> dict[str, str]:
        """Returns the numbers of rows, of distinct contexts and of rows without an answer."""
        figures = {"rows": f"{len(self):,}", "distinct contexts": f"{self.distinct:,}"}
        missing = self.rows.skipped + int(self.rows.counts[~self._possible].sum())
        return figures | ({"not answered": f"{missing:,}"} if self._forgive else {})

    def write(self, out: Path, answer: Answer, report: Callable[[int], None]) -> None:
        """Writes the file's columns, a category for each feature, and the scores."""
        good = self._possible
        columns = ContextAnswers(self.encoding, answer(self._observation[good], self.rows.counts[good]))
        among_good = (good.cumsum(dim=0) - 1).masked_fill(~good, -1).numpy()
        self.rows.rewind()
        with answer_file(out, self.raw_cells) as writer:
            for given in _cells(self._path):
                # The only request of an estimator without context has no columns.
                places = self.rows.places(len(given) or 1)
                said = self._reasons(given, places) if self._forgive else None
                answered = np.where(places < 0, -1, among_good[places])
                writer.write(columns.beside(given, answered, said))
                report(len(places))

    def close(self) -> None:
        """Removes the temporary file."""
        self.rows.close()

    def _reasons(self, given: pa.Table, places: Integers) -> list[str | None]:
        """Returns why rows have no answer, None for those that have one."""
        expected = self._impossible
        said: list[str | None] = [f"expected {expected[i]}" if i in expected else None for i in places.tolist()]
        if (places < 0).any():
            assert self._path is not None
            for cell in self.encoding.find_contexts(_text_table(given, self.encoding.contexts, self._path, 0))[1]:
                said[cell.row] = said[cell.row] or f"expected a known {cell.column}, got {cell.value!r}"
        return said


class ContextAnswers:
    """The answers to distinct contexts as columns, which are repeated for every row that asks."""

    def __init__(self, encoding: TableEncoding, answers: Answers) -> None:
        """Takes the answers to all distinct contexts."""
        exists = answers.estimated > -torch.inf
        self._count = exists.sum(dim=1).numpy()
        self._first = np.concatenate([[0], self._count.cumsum()])[:-1]
        self._columns: dict[str, pa.Array] = {
            name: pa.DictionaryArray.from_arrays(column.int().numpy(), pa.array(categories, pa.string()))
            for (name, categories), column in zip(
                encoding.features.items(), answers.choice[exists].unbind(dim=1), strict=True
            )
        }
        self._columns[ESTIMATED] = pa.array(answers.estimated[exists].numpy())
        if answers.seen is not None:
            seen = answers.seen[exists].numpy()
            self._columns[MEASURED] = pa.array(seen, mask=np.isnan(seen))
        if answers.true is not None:
            # An answer that was not measured has no true score in the file, even if the figures count it as the worst.
            unknown = None if answers.measured is None else (answers.measured[exists] == 0).numpy()
            self._columns[TRUE] = pa.array(answers.true[exists].numpy(), mask=unknown)
        if answers.propensity is not None:
            self._columns[PROPENSITY] = pa.array(answers.propensity[exists].numpy())
        if exists.shape[1] > 1:
            self._columns[RANK] = pa.array(exists.cumsum(dim=1)[exists].numpy())

    def beside(self, given: pa.Table, places: Integers, reasons: list[str | None] | None = None) -> pa.Table:
        """Returns rows with the answers to their contexts, each row as often as it has answers.

        Args:
            given: The rows.
            places: Each row's place among the distinct contexts; -1 for none, which gets an empty answer.
            reasons: Why a row has no answer; None for no such column.
        """
        known = places >= 0
        times = np.where(known, self._count[places], 1)
        row = np.repeat(np.arange(len(places)), times)
        within = np.arange(len(row)) - np.repeat(times.cumsum() - times, times)
        answer = pa.array(self._first[places[row]] + within, mask=~known[row])
        columns = {name: column.take(answer) for name, column in self._columns.items()}
        if reasons is not None:
            columns[REASON] = pa.array([reasons[i] for i in row], pa.string())
        return with_columns(given.take(pa.array(row)) if given.num_columns else given, columns)


class ContextDesk:
    """Answers rows of contexts that are given in Python."""

    def __init__(self, encoding: TableEncoding, observe: Observe, impossible: Impossible) -> None:
        """Takes the names, what makes requests of contexts, and what says which the constraints leave nothing."""
        self._encoding, self._observe, self._impossible = encoding, observe, impossible

    def answered(self, frame: pd.DataFrame, answer: Answer, path: Path) -> pa.Table:
        """Returns the rows with a category for each feature and the scores.

        Raises:
            TableError: If a context is unknown, or the constraints leave it nothing.
        """
        given, names = arrow_table(frame), self._encoding.contexts
        need_columns(frame, names, path)
        if not names:
            only = answer(self._asked(torch.zeros(1, 1, dtype=torch.long)))
            return ContextAnswers(self._encoding, only).beside(given, np.zeros(len(frame), dtype=np.int64))
        found, unknown = self._encoding.find_contexts(_text_table(given, names, path))
        if unknown:
            refuse_unknown(unknown[0], names[unknown[0].column], path)
        return ContextAnswers(self._encoding, answer(self._asked(found))).beside(given, np.arange(len(frame)))

    def _asked(self, contexts: Tensor) -> Observation:
        observation = self._observe(contexts)
        for place, fault in self._impossible(observation).items():
            raise TableError(f"expected {fault} for {_shown(self._encoding, contexts[place])}, got none")
        return observation


def allowed_categories(path: Path, encoding: TableEncoding, contexts: Tensor) -> Tensor:
    """Reads categories that must not be chosen.

    Args:
        path: A file whose rows have a category of one feature each, in the feature's column. With context columns, a
            row concerns only this context.
        encoding: Names of the columns and categories.
        contexts: The contexts that are asked about, ``(contexts, columns)``.

    Returns:
        A boolean tensor of shape ``(contexts, features, categories)``, true where a category may be chosen.

    Raises:
        TableError: If a row is not as expected, or a context has no category left.
    """
    frame, features = read_frame(path), encoding.features
    cells = {name: texts(frame[name]) for name in (*encoding.contexts, *features) if name in frame.columns}
    if not set(cells) & set(features):
        raise TableError(f"expected a column of {', '.join(features)} in {path}, got {', '.join(frame.columns)}")
    named = list(encoding.context_names(*encoding.context_parts(contexts))) if encoding.contexts else [()]
    sizes = torch.tensor([len(found) for found in features.values()])
    allowed = (torch.arange(int(sizes.max())) < sizes.unsqueeze(1)).repeat(len(contexts), 1, 1)
    for row in range(len(frame)):
        given = {name: column[row] for name, column in cells.items() if column[row]}
        chosen = [name for name in given if name in features]
        if len(chosen) != 1:
            raise TableError(f"expected a category of one feature in row {row + 1} of {path}, got {len(chosen)}")
        feature, category = chosen[0], given.pop(chosen[0])
        if category not in features[feature]:
            refuse_unknown(Unknown(row + 1, feature, category), features[feature], path)
        concerned = [given.items() <= dict(zip(encoding.contexts, names, strict=True)).items() for names in named]
        slot, item = list(features).index(feature), features[feature].index(category)
        allowed[torch.tensor(concerned), slot, item] = False
    if not bool(allowed.any(dim=-1).all()):
        context, slot = (~allowed.any(dim=-1)).nonzero()[0].tolist()
        raise TableError(
            f"expected {path} to leave a category of {list(features)[slot]!r} for every context, "
            f"got none for {', '.join(named[context]) or 'the only one'}"
        )
    return allowed


def _shown(encoding: TableEncoding, context: Tensor) -> str:
    """Returns a context ``(columns,)`` in words."""
    if not encoding.contexts:
        return "the only context"
    (names,) = encoding.context_names(*encoding.context_parts(context.unsqueeze(0)))
    return "context " + ", ".join(names)


def _cells(path: Path | None) -> Iterator[pa.Table]:
    """Yields all columns of a file; a table without any for None."""
    if path is None:
        yield pa.table({})
    elif path.suffix.lower() == ".jsonl":
        yield from map(arrow_table, stream_frames(path, WRITE_ROWS))
    else:
        yield from stream_cells(path, WRITE_ROWS)


def _text_table(cells: pa.Table, names: Iterable[str], path: Path, first_row: int = 1) -> Table:
    """Returns some columns as text, as a file's reader does."""
    columns = {name: pa.chunked_array([pa.array(texts(cells[name].to_pandas()), pa.string())]) for name in names}
    return Table(path, {name: TextColumn.of(column) for name, column in columns.items()}, None, first_row)


def _tables(path: Path, columns: tuple[str, ...]) -> Iterator[Table]:
    """Yields context columns as text."""
    if path.suffix.lower() != ".jsonl":
        yield from stream_table(path, columns, READ_ROWS)
        return
    for frame in stream_frames(path, READ_ROWS):
        need_columns(frame, columns, path)
        yield _text_table(arrow_table(frame), columns, path, int(frame.index[0]) + 1)


def read_contexts(
    path: Path, encoding: TableEncoding, skip: bool, report: Callable[[int], None] = lambda rows: None
) -> Iterator[Tensor]:
    """Yields the contexts of consecutive rows of a table.

    Args:
        path: A CSV or Parquet file with the estimator's context columns; others are ignored.
        encoding: The estimator's categories.
        skip: Whether unknown contexts are let pass, for :class:`ContextRows` to leave out.
        report: Called with the rows read so far.

    Yields:
        Tensors of shape ``(rows, columns)`` as :meth:`TableEncoding.find_contexts` gives them.

    Raises:
        TableError: If the file cannot be read, or an unknown context is not let pass.
    """
    rows = 0
    for table in _tables(path, tuple(encoding.contexts)):
        found, unknown = encoding.find_contexts(table)
        if unknown and not skip:
            hint = "; --unknown skip gives such rows an empty answer"
            refuse_unknown(unknown[0], encoding.contexts[unknown[0].column], path, hint)
        rows += len(found)
        report(rows)
        yield found

"""Requests as rows of a table of contexts: each distinct context is answered once, and each row is written.

The table is read once, piece by piece, so memory grows only with the number of distinct contexts. The rows, one number
each, are kept in an unnamed temporary file, which the system removes when the process ends.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from torch import Tensor

from slot_rl.estimators.described import number_text
from slot_rl.estimators.encoding import TableEncoding, refuse_unknown
from slot_rl.estimators.frames import Integers
from slot_rl.estimators.table import stream_table
from slot_rl.io import whole_file
from slot_rl.problems.observation import Observation
from slot_rl.problems.requests import ESTIMATED, TRUE, Answer, Answers, Requests

READ_ROWS = WRITE_ROWS = 65_536
Contexts = npt.NDArray[np.int64 | np.float64]
Observe = Callable[[Tensor], Observation]


class ContextRows:
    """Distinct contexts, sorted, and the rows that ask about them.

    The order of the distinct contexts depends on neither the rows' order nor the pieces that they were read in, so
    that answers to them do not either.

    Attributes:
        distinct: Tensor of shape ``(contexts, columns)``, long or float64 as the pieces.
        counts: How many rows ask about each, long tensor of shape ``(contexts,)``.
        skipped: Rows that were left out, since their context is unknown.
    """

    def __init__(self, pieces: Iterable[Tensor], folder: Path) -> None:
        """Reads the contexts.

        Args:
            pieces: The rows' contexts, tensors of shape ``(rows, columns)``: indices (long), negative where unknown, or
                with columns of numbers float64, NaN where unknown.
            folder: Where the temporary file lies until :meth:`close`.

        Raises:
            ValueError: If there is no row.
        """
        # TemporaryFile has no name and so cannot be left behind.
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed in close)
        self.skipped = 0
        try:
            found, counts = self._spool(pieces)
        except BaseException:
            self.close()
            raise
        order = np.lexsort(found.T[::-1])
        self.distinct, self.counts = torch.from_numpy(found[order]), torch.from_numpy(counts[order])
        # Rows were spooled as places in the order of discovery.
        self._place = np.empty(len(order), dtype=np.int64)
        self._place[order] = np.arange(len(order))

    def __len__(self) -> int:
        """Returns the number of rows."""
        return int(self.counts.sum())

    def places(self, rows: int) -> Iterator[Integers]:
        """Yields the rows' places among the distinct contexts, in the table's order, ``rows`` at a time."""
        self._file.seek(0)
        while len(found := np.fromfile(self._file, dtype=np.int32, count=rows)):
            yield self._place[found]

    def close(self) -> None:
        """Removes the temporary file."""
        self._file.close()

    def __enter__(self) -> "ContextRows":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the temporary file."""
        self.close()

    def _spool(self, pieces: Iterable[Tensor]) -> tuple[Contexts, Integers]:
        """Writes each row's place in the order of discovery; returns the contexts in that order and their counts."""
        places: dict[bytes, int] = {}
        counts: list[int] = []
        kind: npt.DTypeLike = np.int64
        for piece in pieces:
            known = ~piece.isnan() if piece.is_floating_point() else piece >= 0
            rows = piece[known.all(dim=1)].numpy()
            self.skipped += len(piece) - len(rows)
            if len(rows) == 0:
                continue
            kind = rows.dtype
            first, group, count = _group(rows)
            here = [places.setdefault(row.tobytes(), len(places)) for row in rows[first]]
            counts.extend([0] * (len(places) - len(counts)))
            for place, more in zip(here, count.tolist(), strict=True):
                counts[place] += more
            np.array(here, dtype=np.int32)[group].tofile(self._file)
        if not places:
            raise ValueError("expected at least one row with a known context, got none")
        self._file.flush()
        found = np.frombuffer(b"".join(places), dtype=kind).reshape(len(places), -1)
        return found, np.array(counts, dtype=np.int64)


class ContextRequests(Requests):
    """Requests for the contexts of a table's rows.

    Attributes:
        rows: The distinct contexts and the rows that ask for them.
        encoding: Names of the columns and categories.
    """

    unit = "context"

    def __init__(self, rows: ContextRows, encoding: TableEncoding, observe: Observe, shows_skipped: bool) -> None:
        """Takes the rows.

        Args:
            rows: The rows.
            encoding: Names of the columns and categories.
            observe: Returns the requests for contexts ``(contexts, columns)``.
            shows_skipped: Whether the figures say how many rows were left out.
        """
        self.rows, self.encoding, self._shows_skipped = rows, encoding, shows_skipped
        self.observation, self.distinct = observe(rows.distinct), len(rows.distinct)

    @classmethod
    def read(
        cls,
        path: Path | None,
        encoding: TableEncoding,
        folder: Path,
        observe: Observe,
        skip_unknown: bool,
        report: Callable[[int], None] = lambda rows: None,
    ) -> "ContextRequests":
        """Reads a CSV or Parquet file; arguments as for ``Problem.read_requests`` and the constructor.

        Raises:
            ValueError: If a file is given to an estimator without context columns, or none to one with them; if a name
                of the output's columns is taken; or as :func:`read_contexts`.
        """
        columns = ", ".join(map(repr, encoding.contexts))
        if columns and path is None:
            raise ValueError(f"expected --contexts FILE with {columns}, which the run's estimator asks for, got none")
        if not columns and path is not None:
            raise ValueError(f"expected no --contexts for an estimator without context columns, got {path}")
        for name in (ESTIMATED, TRUE):
            if name in (*encoding.contexts, *encoding.features):
                raise ValueError(
                    f"expected no column named {name!r} in the estimator's table, got one: it is the output's"
                )
        # A problem without context columns has a single context.
        only = [torch.zeros(1, 1, dtype=torch.long)]
        pieces = only if path is None else read_contexts(path, encoding, skip_unknown, report)
        return cls(ContextRows(pieces, folder), encoding, observe, skip_unknown)

    def __len__(self) -> int:
        """Returns the number of rows that are answered."""
        return len(self.rows)

    def figures(self) -> dict[str, str]:
        """Returns the numbers of rows, of distinct contexts and of rows left out."""
        figures = {"rows": f"{len(self):,}", "distinct contexts": f"{len(self.rows.distinct):,}"}
        return figures | ({"rows left out as unknown": f"{self.rows.skipped:,}"} if self._shows_skipped else {})

    def write(self, out: Path, answer: Answer, report: Callable[[int], None]) -> None:
        """Writes a CSV or Parquet file with the categories of context and choice, and the scores."""
        table = self._table(answer(self.observation, self.rows.counts))
        texts = (
            field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field for field in table.schema
        )
        schema = pa.schema(list(texts))
        with whole_file(out) as path, table_writer(path, out.suffix, schema) as writer:
            for places in self.rows.places(WRITE_ROWS):
                writer.write_table(table.take(pa.array(places)).cast(schema))
                report(len(places))

    def close(self) -> None:
        """Removes the temporary file."""
        self.rows.close()

    def _table(self, answers: Answers) -> pa.Table:
        """Returns one row for each distinct context; categories as dictionaries, which hold each text once."""
        encoding = self.encoding
        names = (*encoding.contexts.items(), *encoding.features.items())
        contexts = self.rows.distinct.unbind(dim=1) if encoding.contexts else ()
        table = {
            name: pa.array(map(number_text, column.tolist()), pa.string()).dictionary_encode()
            if name in encoding.numeric_contexts
            else pa.DictionaryArray.from_arrays(column.int().numpy(), pa.array(categories, pa.string()))
            for (name, categories), column in zip(names, (*contexts, *answers.choice[:, 0].unbind(dim=1)), strict=True)
        }
        table[ESTIMATED] = pa.array(answers.estimated[:, 0].numpy())
        if answers.true is not None:
            # An answer that was not measured has no true score in the file, even if the figures count it as the worst.
            unknown = None if answers.measured is None else (answers.measured[:, 0] == 0).numpy()
            table[TRUE] = pa.array(answers.true[:, 0].numpy(), mask=unknown)
        return pa.table(table)


def table_writer(path: Path, suffix: str, schema: pa.Schema) -> pa.csv.CSVWriter | pa.parquet.ParquetWriter:
    """Opens a CSV or Parquet file, by the suffix, to which tables of one schema are written one after the other."""
    if suffix.lower() == ".csv":
        return pa.csv.CSVWriter(path, schema)
    return pa.parquet.ParquetWriter(path, schema)


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
    for table in stream_table(path, tuple(encoding.contexts), READ_ROWS):
        found, unknown = encoding.find_contexts(table)
        if unknown and not skip:
            hint = "; --unknown skip leaves such rows out"
            refuse_unknown(unknown[0], encoding.contexts[unknown[0].column], path, hint)
        rows += len(found)
        report(rows)
        yield found


def _group(rows: Contexts) -> tuple[Integers, Integers, Integers]:
    """Returns the first row of each distinct one, each row's place among the distinct ones, and how often they occur.

    Column by column, so that a place never exceeds the number of rows: a code for all columns at once may overflow.
    """
    group = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        if column.dtype != np.int64:
            column = np.unique(column, return_inverse=True)[1].astype(np.int64)
        code = group * (int(column.max()) + 1) + column
        _, first, group, count = np.unique(code, return_index=True, return_inverse=True, return_counts=True)
    return first, group, count

"""Distinct contexts among many rows: each is kept once, and each row as one number in an unnamed temporary file.

Memory grows only with the number of distinct contexts. The system removes the file when the process ends.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slot_rl.estimators.frames import Integers
from slot_rl.estimators.grouping import group_rows

Contexts = npt.NDArray[np.int64 | np.float64]


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
        return int(self.counts.sum()) + self.skipped

    def rewind(self) -> None:
        """Has :meth:`places` begin again with the first row."""
        self._file.seek(0)

    def places(self, rows: int) -> Integers:
        """Returns the places of the next ``rows`` rows among the distinct contexts, -1 where a context is unknown."""
        found = np.fromfile(self._file, dtype=np.int32, count=rows)
        return np.where(found < 0, -1, self._place[found])

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
            known = (~piece.isnan() if piece.is_floating_point() else piece >= 0).all(dim=1)
            rows, spooled = piece[known].numpy(), np.full(len(piece), -1, dtype=np.int32)
            self.skipped += len(piece) - len(rows)
            if len(rows):
                kind = rows.dtype
                first, group, count = group_rows(rows)
                here = [places.setdefault(row.tobytes(), len(places)) for row in rows[first]]
                counts.extend([0] * (len(places) - len(counts)))
                for place, more in zip(here, count.tolist(), strict=True):
                    counts[place] += more
                spooled[known.numpy()] = np.array(here, dtype=np.int32)[group]
            spooled.tofile(self._file)
        if not places:
            raise ValueError("expected at least one row with a known context, got none")
        self._file.flush()
        found = np.frombuffer(b"".join(places), dtype=kind).reshape(len(places), -1)
        return found, np.array(counts, dtype=np.int64)

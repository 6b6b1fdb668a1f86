"""A measured landscape as ground truth: look up the true score of a row in a table of measurements."""

from collections.abc import Callable, Sequence
from math import inf, prod
from pathlib import Path

import torch
from torch import Tensor

from slot_rl.estimators.described import numbers_of
from slot_rl.estimators.encoding import TableEncoding, places_of
from slot_rl.estimators.store import context_tensor
from slot_rl.estimators.table import Table, TableError, read_table

MOST_CELLS = 100_000_000
ContextFinder = Callable[[Tensor | None, Tensor | None], Tensor]


class TruthTable:
    """Every combination's measured score, dense; one that was not measured scores its context's minimum.

    In a context without any measurement, every combination scores the table's minimum.

    Attributes:
        minimum: The lowest measured score.
        maximum: The highest measured score.
    """

    def __init__(self, features: Tensor, contexts: Tensor, score: Tensor, sizes: Sequence[int]) -> None:
        """Builds the look-up; a combination that was measured more than once counts with its mean.

        Args:
            features: Long tensor of shape ``(rows, features)``.
            contexts: Long tensor of shape ``(rows, columns)``; zero columns where there is no context.
            score: Float tensor of shape ``(rows,)``.
            sizes: Categories of each context column, then of each feature.

        Raises:
            ValueError: If the combinations are too many for a dense table.
        """
        if prod(sizes) > MOST_CELLS:
            raise ValueError(f"expected at most {MOST_CELLS:,} combinations in a ground truth, got {prod(sizes):,}")
        self._strides = torch.tensor([prod(sizes[i + 1 :]) for i in range(len(sizes))])
        columns, cells = contexts.shape[1], self._cells(features, contexts)
        shape = prod(sizes[:columns]), prod(sizes[columns:])
        # In place where it can be: a table may have as many cells as the memory bears.
        count = torch.zeros(prod(sizes), dtype=torch.int32).index_add_(0, cells, torch.ones_like(cells).int())
        means = torch.zeros(prod(sizes), dtype=torch.float64).index_add_(0, cells, score.double())
        self._measured = count > 0
        self._find: ContextFinder | None = None
        self._fill(means.div_(count.clamp_min_(1)).view(shape), ~self._measured.view(shape))

    def _fill(self, means: Tensor, gaps: Tensor) -> None:
        """Takes means ``(contexts, combinations)``, changed in place, and fills the gaps with their rows' minimum."""
        highs = means.masked_fill_(gaps, -inf).amax(dim=1)
        lows = means.masked_fill_(gaps, inf).amin(dim=1)
        self.minimum, self.maximum = float(lows.min()), float(highs.max())
        empty = gaps.all(dim=1)
        self._lows = lows.masked_fill_(empty, self.minimum).float()
        self._highs = highs.masked_fill_(empty, self.minimum).float()
        self._scores = torch.where(gaps, lows.unsqueeze(1), means, out=means).flatten().float()
        self._combinations = means.shape[1]

    def find_contexts(self, codes: Tensor | None, vectors: Tensor | None) -> Tensor:
        """Returns the indices ``(batch, columns)`` of contexts whose numbers are given as an estimator takes them.

        Raises:
            ValueError: If the table was not read from a file with such contexts.
        """
        if self._find is None:
            raise ValueError("expected a ground truth that was read from a table with numeric contexts, got another")
        return self._find(codes, vectors)

    @classmethod
    def read(cls, path: Path, encoding: TableEncoding) -> "TruthTable":
        """Reads a table with the columns of an estimator's own table.

        Raises:
            TableError: If a column is missing or a cell holds a category that the estimator does not know.
        """
        table = read_table(path, encoding.score, tuple(encoding.contexts), tuple(encoding.features))
        if table.score is None:
            raise TableError(f"expected a score column in {path}, got none")
        features, offered = encoding.encode_levels(table)
        if not bool(offered.any()):
            raise TableError(f"expected rows in {path} with levels that the estimator may choose, got none")
        contexts, score = encoding.encode_contexts(table), torch.tensor(table.score)
        sizes, find = [len(found) for found in encoding.contexts.values()], None
        if encoding.context_widths:
            contexts, find = _joined(encoding, contexts, table)
            # A context that the table lacks has an index of its own, of which nothing was measured.
            sizes = [int(contexts.max()) + 2]
        sizes += [len(found) for found in encoding.features.values()]
        found = cls(features[offered], contexts[offered], score[offered], sizes)
        found._find = find
        return found

    def __call__(self, choice: Tensor, context: Tensor | None) -> Tensor:
        """Returns the true scores ``(..., batch)`` of choices ``(..., batch, features)`` in ``(batch, columns)``."""
        return self._scores[self._cells(choice, context)]

    def normalised(self, choice: Tensor, context: Tensor | None) -> Tensor:
        """Returns true scores on their contexts' own scale: 0 is the lowest measured one, 1 the highest.

        What was not measured is 0; where a context's measured scores are all equal, every measured choice is 1, since
        there is no better one.

        Args:
            choice: Long tensor of shape ``(..., batch, features)``.
            context: Long tensor of shape ``(batch, columns)``, or None.

        Returns:
            Float tensor of shape ``(..., batch)``.
        """
        cells = self._cells(choice, context)
        rows = cells // self._combinations
        lows, highs = self._lows[rows].double(), self._highs[rows].double()
        shares = torch.where(highs > lows, (self._scores[cells] - lows) / (highs - lows), 1.0)
        return torch.where(self._measured[cells], shares, 0.0).float()

    def best(self, context: Tensor | None, batch: int) -> Tensor:
        """Returns the highest score in each of ``batch`` contexts ``(batch, columns)``, as ``(batch,)``."""
        columns = 0 if context is None else context.shape[1]
        first = torch.zeros(batch, len(self._strides) - columns, dtype=torch.long)
        return self._highs[self._cells(first, context) // self._combinations]

    def measured(self, choice: Tensor, context: Tensor | None) -> Tensor:
        """Returns whether each choice was measured, ``(..., batch)``; arguments as for a call."""
        return self._measured[self._cells(choice, context)]

    def _cells(self, choice: Tensor, context: Tensor | None) -> Tensor:
        slots = choice.shape[-1]
        cells = (choice * self._strides[-slots:]).sum(dim=-1)
        columns = len(self._strides) - slots
        if context is None or columns == 0:
            return cells
        return cells + (context * self._strides[:columns]).sum(dim=-1)


def _joined(encoding: TableEncoding, contexts: Tensor, table: Table) -> tuple[Tensor, ContextFinder]:
    """Returns one index ``(rows, 1)`` for each distinct context, and what finds it; combinations would be too many."""
    numbers = {name: sorted(set(numbers_of(table, name).tolist())) for name in encoding.numeric_contexts}

    def found(codes: Tensor | None, vectors: Tensor | None) -> Tensor:
        return places_of(encoding.find_in_parts(codes, vectors, numbers), known).unsqueeze(1)

    indices = encoding.find_in_parts(*encoding.context_parts(contexts), numbers)
    known = context_tensor(indices)
    return places_of(indices, known).unsqueeze(1), found

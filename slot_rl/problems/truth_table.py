"""A measured landscape as ground truth: look up the true score of a row in a table of measurements."""

from collections.abc import Callable, Sequence
from math import inf, nan, prod
from pathlib import Path

import torch
from torch import Tensor

from slot_rl.estimators.described import numbers_of
from slot_rl.estimators.encoding import TableEncoding, places_of
from slot_rl.estimators.store import context_tensor
from slot_rl.estimators.table import Table, read_table, refuse_narrow
from slot_rl.estimators.table_files import TableError
from slot_rl.problems.base import TrueScores, Unmeasured

MOST_CELLS = 100_000_000
ContextFinder = Callable[[Tensor | None, Tensor | None], Tensor]


class TruthTable:
    """Every combination's measured score, dense; one that was not measured has none, which is NaN.

    If unmeasured combinations count as the worst instead, they score their context's minimum, and in a context without
    any measurement the table's minimum.

    Attributes:
        unmeasured: What unmeasured combinations count as.
        minimum: The lowest measured score.
        maximum: The highest measured score.
    """

    def __init__(
        self,
        features: Tensor,
        contexts: Tensor,
        score: Tensor,
        sizes: Sequence[int],
        unmeasured: Unmeasured = "omit",
    ) -> None:
        """Builds the look-up; a combination that was measured more than once counts with its mean.

        Args:
            features: Long tensor of shape ``(rows, features)``.
            contexts: Long tensor of shape ``(rows, columns)``; zero columns where there is no context.
            score: Float tensor of shape ``(rows,)``.
            sizes: Categories of each context column, then of each feature.
            unmeasured: "omit" for no score where nothing was measured, "worst" for the context's minimum.

        Raises:
            ValueError: If the combinations are too many for a dense table.
        """
        if prod(sizes) > MOST_CELLS:
            raise ValueError(f"expected at most {MOST_CELLS:,} combinations in a ground truth, got {prod(sizes):,}")
        self.unmeasured = unmeasured
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
        """Takes means ``(contexts, combinations)``, zero in the gaps and changed in place, and fills the gaps."""
        self._combinations = means.shape[1]
        total, count = means.sum(dim=1), (~gaps).sum(dim=1)
        highs = means.masked_fill_(gaps, -inf).amax(dim=1)
        lows = means.masked_fill_(gaps, inf).amin(dim=1)
        self.minimum, self.maximum = float(lows.min()), float(highs.max())
        worst = self.unmeasured == "worst"
        for ends in (lows, highs):
            ends.masked_fill_(count == 0, self.minimum if worst else nan)
        self._lows, self._highs = lows.float(), highs.float()
        filling = lows if worst else torch.full_like(lows, nan)
        self._scores = torch.where(gaps, filling.unsqueeze(1), means, out=means).flatten().float()
        self._shares = count / self._combinations
        if worst:
            total, count = total + lows * (self._combinations - count), torch.full_like(count, self._combinations)
        self._means = (total / count).float()

    def find_contexts(self, codes: Tensor | None, vectors: Tensor | None) -> Tensor:
        """Returns the indices ``(batch, columns)`` of contexts whose numbers are given as an estimator takes them.

        Raises:
            ValueError: If the table was not read from a file with such contexts.
        """
        if self._find is None:
            raise ValueError("expected a ground truth that was read from a table with numeric contexts, got another")
        return self._find(codes, vectors)

    @classmethod
    def read(cls, path: Path, encoding: TableEncoding, unmeasured: Unmeasured = "omit") -> "TruthTable":
        """Reads a table with the columns of an estimator's own table.

        Args:
            path: A CSV or Parquet file.
            encoding: The estimator's categories.
            unmeasured: What unmeasured combinations count as.

        Raises:
            TableError: If a column is missing, a cell holds a category that the estimator does not know, or the scores
                differ by too little of their size.
        """
        table = read_table(path, encoding.score, tuple(encoding.contexts), tuple(encoding.features))
        if table.score is None:
            raise TableError(f"expected a score column in {path}, got none")
        refuse_narrow(table.score, encoding.score, path)
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
        found = cls(features[offered], contexts[offered], score[offered], sizes, unmeasured)
        found._find = find
        return found

    def __call__(self, choice: Tensor, context: Tensor | None) -> Tensor:
        """Returns the true scores ``(..., batch)`` of choices ``(..., batch, features)`` in ``(batch, columns)``."""
        return self._scores[self._cells(choice, context)]

    def normalised(self, choice: Tensor, context: Tensor | None) -> Tensor:
        """Returns true scores on their contexts' own scale: 0 is the lowest measured one, 1 the highest.

        What was not measured is NaN, or 0 if it counts as the worst. Where a context's measured scores are all equal,
        every measured choice is 1, since there is no better one.

        Args:
            choice: Long tensor of shape ``(..., batch, features)``.
            context: Long tensor of shape ``(batch, columns)``, or None.

        Returns:
            Float tensor of shape ``(..., batch)``.
        """
        cells = self._cells(choice, context)
        rows = cells // self._combinations
        places = self._places(self._scores[cells], rows, torch.ones(()))
        return torch.where(self._measured[cells], places, 0.0 if self.unmeasured == "worst" else nan).float()

    def best(self, context: Tensor | None, batch: int) -> Tensor:
        """Returns the highest score in each of ``batch`` contexts ``(batch, columns)``, as ``(batch,)``.

        It is NaN in a context without any measurement, unless that counts as the worst.
        """
        return self._highs[self._rows(context, batch)]

    def random(self, context: Tensor | None, batch: int) -> TrueScores:
        """Returns the mean scores, normalised scores and share of measured combinations in each of ``batch`` contexts.

        The means are over the measured combinations, or over all if unmeasured ones count as the worst.
        """
        rows = self._rows(context, batch)
        means, shares = self._means[rows], self._shares[rows]
        alike = shares if self.unmeasured == "worst" else shares / shares  # NaN where nothing is measured
        return TrueScores(means, self._places(means, rows, alike).float(), shares)

    def measured(self, choice: Tensor, context: Tensor | None) -> Tensor:
        """Returns whether each choice was measured, ``(..., batch)``; arguments as for a call."""
        return self._measured[self._cells(choice, context)]

    def _places(self, scores: Tensor, rows: Tensor, alike: Tensor) -> Tensor:
        """Places scores between their contexts' lowest (0) and highest (1); ``alike`` is for where these are equal."""
        lows, highs = self._lows[rows].double(), self._highs[rows].double()
        return torch.where(highs > lows, (scores - lows) / (highs - lows), alike.double())

    def _rows(self, context: Tensor | None, batch: int) -> Tensor:
        """Returns the number of each of ``batch`` contexts, ``(batch,)``."""
        columns = 0 if context is None else context.shape[1]
        first = torch.zeros(batch, len(self._strides) - columns, dtype=torch.long)
        return self._cells(first, context) // self._combinations

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

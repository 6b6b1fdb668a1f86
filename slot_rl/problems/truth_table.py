"""A measured landscape as ground truth: look up the true score of a row in a table of measurements."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.table import TableError, read_table

MOST_CELLS = 100_000_000


class TruthTable:
    """Every combination's measured score, dense; a combination that was not measured scores the table's minimum.

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
        cells = self._cells(features, contexts)
        total = torch.zeros(prod(sizes), dtype=torch.float64).index_add_(0, cells, score.double())
        count = torch.zeros(prod(sizes), dtype=torch.float64).index_add_(0, cells, torch.ones_like(score).double())
        self._measured = count > 0
        means = total / count.clamp_min(1)
        self.minimum, self.maximum = float(means[self._measured].min()), float(means[self._measured].max())
        self._scores = torch.where(self._measured, means, self.minimum).float()

    @classmethod
    def read(cls, path: Path, encoding: TableEncoding) -> "TruthTable":
        """Reads a table with the columns of an estimator's own table.

        Raises:
            TableError: If a column is missing or a cell holds a category that the estimator does not know.
        """
        table = read_table(path, encoding.score, tuple(encoding.contexts), tuple(encoding.features))
        if table.score is None:
            raise TableError(f"expected a score column in {path}, got none")
        sizes = [len(found) for found in (*encoding.contexts.values(), *encoding.features.values())]
        score = torch.tensor(table.score)
        return cls(encoding.encode_features(table), encoding.encode_contexts(table), score, sizes)

    def __call__(self, choice: Tensor, context: Tensor | None) -> Tensor:
        """Returns the true scores ``(..., batch)`` of choices ``(..., batch, features)`` in ``(batch, columns)``."""
        return self._scores[self._cells(choice, context)]

    def best(self, context: Tensor | None, batch: int) -> Tensor:
        """Returns the highest score in each of ``batch`` contexts ``(batch, columns)``, as ``(batch,)``."""
        columns = 0 if context is None else context.shape[1]
        features = len(self._strides) - columns
        tops = self._scores.view(-1, int(self._strides[columns - 1]) if columns else len(self._scores)).amax(dim=1)
        first = torch.zeros(batch, features, dtype=torch.long)
        return tops[self._cells(first, context) // (len(self._scores) // len(tops))]

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

"""The units in which a Gaussian process is fitted to a table, and its estimates in the units of the score again.

A score s is first put within the table's range, with a margin M at both ends, then spread out at the ends by the logit,
then standardised among the rows of its context c:

    t = (s - min) / (max - min) (1 - 2 M) + M,    number = (logit(t) - offset_c) / spread_c

So no context counts for more because its scores differ more, and estimates stay near the range that was measured.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from slot_rl.estimators.fitting import TableRows
from slot_rl.estimators.product_gp import context_places
from slot_rl.estimators.row_scorer import RowScorer

MARGIN = 0.05
"""Share of the range from ``low`` to ``high`` that is below the lowest score, and above the highest one."""
PSEUDO_ROWS = 5
"""So many further rows of each context are taken to have the mean and the variance of all rows."""
MOST_UNIT_CONTEXTS = 1_000_000
"""Combinations of contexts up to which each one has numbers of its own, which take 16 bytes each."""
NARROWEST = 1e-9
"""The range is at least this share of the largest score, so that the logit of scores that are all equal is finite."""


class ScoreUnits(nn.Module):
    """What turns scores into the numbers that a model is fitted to, and such numbers into scores.

    Attributes:
        context_sizes: Categories of each context column; empty without contexts.
        low: No estimate is below it, of shape ``()``, float64.
        high: No estimate is above it, of shape ``()``, float64.
        offset: Mean of the logits of each combination of contexts, ``(combinations,)``, float64. It is ``(1,)``, and
            the same for all rows, without contexts or with more than ``MOST_UNIT_CONTEXTS`` combinations.
        spread: Standard deviation of those logits, of the same shape.
    """

    low: Tensor
    high: Tensor
    offset: Tensor
    spread: Tensor

    def __init__(self, context_sizes: Sequence[int]) -> None:
        """Builds units from 0 to 1; :meth:`of` or stored weights fill them."""
        super().__init__()
        self.context_sizes = tuple(context_sizes)
        combinations = prod(self.context_sizes)
        self._own = self.context_sizes if combinations <= MOST_UNIT_CONTEXTS else ()
        self.register_buffer("low", torch.zeros((), dtype=torch.float64))
        self.register_buffer("high", torch.ones((), dtype=torch.float64))
        self.register_buffer("offset", torch.zeros(prod(self._own), dtype=torch.float64))
        self.register_buffer("spread", torch.ones(prod(self._own), dtype=torch.float64))

    @classmethod
    def of(cls, rows: TableRows, context_sizes: Sequence[int]) -> "ScoreUnits":
        """Finds the units of a table.

        Args:
            rows: Its rows, at least one.
            context_sizes: Categories of each context column; empty without contexts.
        """
        units, score = cls(context_sizes), rows.score.double()
        narrowest = (NARROWEST * score.abs().max()).clamp_min(1e-12)
        width = torch.maximum(score.max() - score.min(), narrowest) / (1 - 2 * MARGIN)
        units.low.copy_(score.min() - MARGIN * width)
        units.high.copy_(units.low + width)
        logits, places = units._logits(score), units._places(rows.contexts, len(rows))
        mean = logits.mean()
        variance = (logits - mean).square().mean()
        counts = torch.bincount(places, minlength=len(units.offset)) + PSEUDO_ROWS

        def shrunk(values: Tensor, toward: Tensor) -> Tensor:
            return (PSEUDO_ROWS * toward).expand(len(counts)).index_add(0, places, values) / counts

        units.offset.copy_(shrunk(logits, mean))
        units.spread.copy_(shrunk((logits - units.offset[places]).square(), variance).sqrt().clamp_min(1e-12))
        return units

    def numbers_of(self, rows: TableRows) -> Tensor:
        """Returns the numbers ``(rows,)``, float64, of the scores of the rows that the units were found from."""
        places = self._places(rows.contexts, len(rows))
        return (self._logits(rows.score.double()) - self.offset[places]) / self.spread[places]

    def forward(self, numbers: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the scores of numbers ``(..., batch)`` of contexts ``(batch, columns)``, of the numbers' type."""
        places = self._places(context, numbers.shape[-1])
        share = torch.sigmoid(self.offset[places] + self.spread[places] * numbers)
        return (self.low + (self.high - self.low) * share).to(numbers.dtype)

    def _logits(self, score: Tensor) -> Tensor:
        return torch.logit((score - self.low) / (self.high - self.low))

    def _places(self, context: Tensor | None, rows: int) -> Tensor:
        return context_places(context, rows, self._own)


class InScoreUnits(RowScorer):
    """A model that was fitted to the numbers of scores, in the units of the score.

    In each context the score rises with the model's number. So if the model is linear in each slot given the others,
    slopes rank all single swaps of a row as their exact effects do. The score of a mixture of rows is near the mean of
    their scores, but not equal to it.

    Attributes:
        model: What was fitted to numbers.
        units: The units that the numbers are in.
    """

    def __init__(self, model: RowScorer, units: ScoreUnits) -> None:
        """Takes the model and its units, which are of the same contexts."""
        super().__init__()
        self.model, self.units = model, units

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Scores configurations; see :meth:`RowScorer.forward`."""
        scores: Tensor = self.units(self.model(features, context), context)
        return scores

"""The mean of several models of a table: models of different kinds err in different places."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slot_rl.estimators.row_scorer import RowScorer


class Blend(RowScorer):
    """Scores configurations by the mean of its parts, in the units of the score."""

    def __init__(self, parts: Sequence[RowScorer]) -> None:
        """Takes the parts, at least two, which score the same features and contexts."""
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the parts' mean; see :meth:`RowScorer.forward`."""
        return torch.stack([part(features, context) for part in self.parts]).mean(dim=0)

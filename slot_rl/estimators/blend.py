"""The mean of several models of a table: models of different kinds err in different places."""

from collections.abc import Sequence
from math import lcm

import torch
from torch import Tensor, nn

from slot_rl.estimators.row_scorer import MemberScorer, RowScorer


class Blend(MemberScorer):
    """Scores configurations by the mean of its parts, in the units of the score."""

    def __init__(self, parts: Sequence[RowScorer]) -> None:
        """Takes the parts, at least two, which score the same features and contexts."""
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the parts' mean; see :meth:`RowScorer.forward`."""
        return torch.stack([part(features, context) for part in self.parts]).mean(dim=0)

    def member_scores(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the scores of the parts' members; a part without members is one.

        Where parts have different numbers of members, those of the smaller ones are repeated, so that all parts weigh
        the same, as in the mean.
        """
        found: list[Tensor] = []
        for part in self.parts:
            if isinstance(part, MemberScorer):
                found.append(part.member_scores(features, context))
            else:
                found.append(part(features, context).unsqueeze(0))
        count = lcm(*map(len, found))
        return torch.cat([scores.repeat_interleave(count // len(scores), dim=0) for scores in found])

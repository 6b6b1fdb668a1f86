"""What scores rows of categorical features, given as indices or as probability rows."""

from abc import abstractmethod

import torch
from torch import Tensor, nn


class RowScorer(nn.Module):
    """Scores configurations of categorical features; its gradient with respect to probability rows is of use."""

    @abstractmethod
    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Scores configurations.

        Args:
            features: Long indices of shape ``(..., batch, features)``, or float rows of probabilities of shape
                ``(..., batch, features, categories)``. Categories that a feature does not have add nothing.
            context: Long tensor of shape ``(batch, columns)``; None if there is no context.

        Returns:
            Tensor of shape ``(..., batch)``.
        """


class MemberScorer(RowScorer):
    """Scores configurations by the mean of several members, whose own scores can be asked for."""

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the members' mean; see :meth:`RowScorer.forward`."""
        return self.member_scores(features, context).mean(dim=0)

    @abstractmethod
    def member_scores(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns each member's scores, ``(members, ..., batch)``, in the units of the score."""


def flat_rows(features: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None, torch.Size]:
    """Returns features and contexts with a single batch dimension, and the dimensions that it stands for.

    Args:
        features: As of :meth:`RowScorer.forward`.
        context: As of :meth:`RowScorer.forward`; every leading dimension has the same contexts.
    """
    leading = features.shape[: -2 if features.is_floating_point() else -1]
    given = None if context is None else context.expand(*leading, -1).flatten(0, len(leading) - 1)
    return features.flatten(0, len(leading) - 1), given, leading

"""What scores rows of categorical features, given as indices or as probability rows."""

from abc import abstractmethod

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

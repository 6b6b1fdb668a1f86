"""Functions drawn from a Gaussian process as members of an ensemble: they differ as far as the rows leave it open."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from slot_rl.estimators.gp_draws import draw_functions
from slot_rl.estimators.grid_kernel import grid_cells
from slot_rl.estimators.product_gp import ProductGP, context_places, grid_mixtures
from slot_rl.estimators.row_scorer import MemberScorer, flat_rows


class DrawnFunctions(MemberScorer):
    """Functions of all combinations of categories, kept as a table, in the units of the score.

    A mixture of rows has the mean of their scores, as of :class:`~slot_rl.estimators.product_gp.ProductGP`.

    Attributes:
        sizes: Categories of each feature.
        context_sizes: Categories of each context column; empty without contexts.
    """

    functions: Tensor

    def __init__(self, sizes: Sequence[int], context_sizes: Sequence[int], members: int) -> None:
        """Builds functions that are 0 throughout; :meth:`of` or stored weights fill them."""
        super().__init__()
        self.sizes, self.context_sizes = tuple(sizes), tuple(context_sizes)
        self.register_buffer("functions", torch.zeros(prod(self.context_sizes), prod(self.sizes), members))

    @classmethod
    def of(cls, gp: ProductGP, members: int, generator: torch.Generator) -> "DrawnFunctions":
        """Draws members from a fitted process; errors as of :func:`~slot_rl.estimators.gp_draws.draw_functions`."""
        drawn = cls(gp.sizes, gp.context_sizes, members)
        drawn.functions.copy_(draw_functions(gp, members, generator).movedim(0, -1))
        return drawn

    def member_scores(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns each member's scores; see :meth:`MemberScorer.member_scores`."""
        flat, given, leading = flat_rows(features, context)
        places = context_places(given, len(flat), self.context_sizes)
        if flat.is_floating_point():
            found = grid_mixtures(flat, places, self.functions.to(flat), self.sizes)
        else:
            found = self.functions[places, grid_cells(flat, self.sizes)]
        return found.T.reshape(-1, *leading)

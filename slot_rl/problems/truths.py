"""Ground truths of the synthetic problems: functions of the chosen vectors whose parameters a seed fixes."""

import torch
from torch import Tensor, nn

from slot_rl.seeding import generator_from

TRUTH_SEED = 0
"""Seeds the parameters ``u`` and ``W`` of both synthetic ground truths, drawn in this order."""


class PairwiseTruth(nn.Module):
    """``0.3 * (sum_s u_s . x_s + sum_{s<t} x_s^T W_st x_t)``: each slot's own worth and all pairs' interaction."""

    linear: Tensor
    pairs: Tensor

    def __init__(self, slots: int, dim: int, linear_scale: float, pair_scale: float, seed: int = TRUTH_SEED) -> None:
        """Draws ``u ~ N(0, linear_scale^2)``, then ``W ~ N(0, pair_scale^2)``, from ``seed``."""
        super().__init__()
        generator = generator_from(seed)
        linear = torch.randn(slots, dim, generator=generator) * linear_scale
        pairs = torch.randn(slots, slots, dim, dim, generator=generator) * pair_scale
        later = torch.ones(slots, slots).triu(diagonal=1)[:, :, None, None]
        self.register_buffer("linear", linear.flatten())
        # As one (slots * dim)-square matrix, block (s, t) holding W_st for s < t and zeros elsewhere.
        self.register_buffer("pairs", (pairs * later).permute(0, 2, 1, 3).reshape(slots * dim, slots * dim))

    def forward(self, vectors: Tensor) -> Tensor:
        """Scores vectors of shape ``(..., slots, dim)`` as ``(...)``."""
        flat = vectors.flatten(-2)
        return 0.3 * (flat @ self.linear + ((flat @ self.pairs) * flat).sum(-1))


class SaturatingTruth(nn.Module):
    """``tanh(pairwise) + 0.3 sin(2 sum_s prod_d x_sd)``: saturates, with a ripple that no pair explains."""

    def __init__(self, pairwise: PairwiseTruth) -> None:
        """Wraps a pairwise truth."""
        super().__init__()
        self.pairwise = pairwise

    def forward(self, vectors: Tensor) -> Tensor:
        """Scores vectors of shape ``(..., slots, dim)`` as ``(...)``."""
        saturated: Tensor = torch.tanh(self.pairwise(vectors))
        return saturated + 0.3 * torch.sin(2 * vectors.prod(dim=-1).sum(dim=-1))


def pick_value(vectors: Tensor) -> Tensor:
    """``-sum_s (x_s - 0.5)^2`` for vectors of shape ``(..., slots, 1)``: pick the items nearest to one half."""
    return -(vectors - 0.5).square().flatten(-2).sum(dim=-1)

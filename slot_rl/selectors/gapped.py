"""Gapped straight-through: what Gumbel noise does for the gradient, without the noise.

Given the draw, its logit is lifted to the largest one and all others are capped a gap below, as a Gumbel perturbation
that led to this draw would have done; then the softmax is differentiated. The estimate is deterministic given the draw.

Fan, Chi, Rudnicky, Ramadge, "Training Discrete Deep Generative Models via Gapped Straight-Through Estimator" (2022).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import Drawn, GivenDraw, Probe, refuse_unless_positive
from slot_rl.selectors.categorical import jacobian_product, one_hot


@dataclass(frozen=True)
class Gapped(GivenDraw):
    """Gapped straight-through.

    Attributes:
        gap: How far below the drawn item's logit the others stay.
        tau: Temperature of the backward softmax.
    """

    name: ClassVar[str] = "gapped"

    gap: float = 1.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        """Refuses a temperature or a gap that is not positive."""
        refuse_unless_positive(gap=self.gap, tau=self.tau)

    def estimate_at(self, logits: Tensor, choice: Tensor, probe: Probe) -> Drawn:
        """Returns ``J(y) g / tau`` with y the softmax of the lifted and capped logits and the slope g at the draw."""
        score, slope = probe.slope(one_hot(choice, logits.shape[-1], logits.dtype))
        top = logits.amax(dim=-1, keepdim=True)
        consistent = torch.minimum(logits, top - self.gap).scatter(-1, choice.unsqueeze(-1), top)
        relaxed = torch.softmax(consistent / self.tau, dim=-1)
        return Drawn(jacobian_product(relaxed, slope) / self.tau, choice, score)

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """One forward and one backward."""
        return 1, 1

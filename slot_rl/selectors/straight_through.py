"""Straight-through: choose hard forward, pretend backward that the choice was the softmax.

The backward pass sends ``J(softmax(logits / tau_backward)) g`` with ``g`` the objective's gradient at the vertex: the
first-order Taylor effect of every swap, weighted by its probability. With noise the forward choice is a draw, and the
estimate is unbiased wherever the objective is linear in each slot given the others. Without noise the forward choice
is the argmax, nothing is explored, and on the toy of this project's origin the logits drift to equality.

Bengio, Léonard, Courville, "Estimating or Propagating Gradients Through Stochastic Neurons" (2013).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import Drawn, GivenDraw, Probe, refuse_unless_positive
from slot_rl.selectors.categorical import draw, jacobian_product, one_hot


@dataclass(frozen=True)
class StraightThrough(GivenDraw):
    """The straight-through estimator.

    Attributes:
        tau_forward: Temperature of the forward draw; without effect when ``noise`` is off.
        tau_backward: Temperature of the backward softmax.
        noise: Whether the forward choice is a draw (default) or the argmax.
    """

    name: ClassVar[str] = "straight_through"

    tau_forward: float = 1.0
    tau_backward: float = 1.0
    noise: bool = True

    def __post_init__(self) -> None:
        """Refuses temperatures that are not positive."""
        refuse_unless_positive(tau_forward=self.tau_forward, tau_backward=self.tau_backward)

    @property
    def scores_draws(self) -> bool:
        """Without noise, or at another temperature, the choice is no draw from ``softmax(logits)``."""
        return self.noise and self.tau_forward == 1.0

    def choose(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """Returns a draw at the forward temperature, or the argmax."""
        return draw(logits / self.tau_forward, generator) if self.noise else logits.argmax(dim=-1)

    def estimate_at(self, logits: Tensor, choice: Tensor, probe: Probe) -> Drawn:
        """Returns ``J(softmax(logits / tau_backward)) g``, with the slope g at the choice."""
        score, slope = probe.slope(one_hot(choice, logits.shape[-1], logits.dtype))
        # Not divided by tau_backward, so that the temperature shapes the Jacobian without changing the step's size.
        return Drawn(jacobian_product(torch.softmax(logits / self.tau_backward, dim=-1), slope), choice, score)

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """One forward and one backward."""
        return 1, 1

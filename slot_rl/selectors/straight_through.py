"""Straight-through: the forward pass uses a hard choice, the backward pass treats it as the softmax.

The estimate is ``J(softmax(logits / tau_backward)) g`` with the slope ``g`` at the choice: the first-order effect of
every swap, weighted by its probability. With noise the choice is a draw, and the estimate is unbiased if the objective
is linear in each slot given the others. Without noise the choice is the argmax. Then nothing is explored, and on the
toy ``scripts/reproduce.py pick-value`` the logits become equal.

Bengio, Léonard, Courville, "Estimating or Propagating Gradients Through Stochastic Neurons" (2013).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import Draws, GivenDraw, Probe, RawEstimate
from slot_rl.selectors.categorical import jacobian_product, one_hot


@dataclass(frozen=True)
class StraightThrough(GivenDraw):
    """The straight-through estimator.

    Attributes:
        tau_forward: Temperature of the forward draw; it has no effect without ``noise``.
        tau_backward: Temperature of the backward softmax.
        noise: Whether the forward choice is a draw (default) or the argmax.
    """

    name: ClassVar[str] = "straight_through"

    tau_forward: float = 1.0
    tau_backward: float = 1.0
    noise: bool = True

    @property
    def scores_draws(self) -> bool:
        """False without noise, or at another temperature than 1."""
        return self.noise and self.tau_forward == 1.0

    @property
    def draws_once(self) -> bool:
        """Whether draws are at the temperature of the logits."""
        return self.tau_forward == 1.0

    def choose(self, logits: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Returns a draw at the forward temperature, or the mode, and the logits on its condition."""
        if not self.noise:
            return draws.mode(logits)
        choice, conditional = draws.draw(logits / self.tau_forward)
        return choice, logits if draws.rules is None else conditional * self.tau_forward

    def estimate_at(self, logits: Tensor, choice: Tensor, probe: Probe) -> RawEstimate:
        """Returns ``J(softmax(logits / tau_backward)) g``, with the slope g at the choice."""
        score, slope = probe.slope(one_hot(choice, logits.shape[-1], logits.dtype))
        # Not divided by tau_backward: the temperature changes the Jacobian's shape but not the size of the step.
        return RawEstimate(jacobian_product(torch.softmax(logits / self.tau_backward, dim=-1), slope), choice, score)

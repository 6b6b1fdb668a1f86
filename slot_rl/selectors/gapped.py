"""Gapped straight-through: the effect of Gumbel noise on the gradient, without the noise.

The logit of the drawn item is set to the largest logit, and all other logits are at most this minus a gap. Gumbel noise
that leads to this draw changes the logits in a similar way. The gradient is that of the softmax of the changed logits;
it is deterministic given the draw.

Fan, Chi, Rudnicky, Ramadge, "Training Discrete Deep Generative Models via Gapped Straight-Through Estimator" (2022).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import GivenDraw, Probe, RawEstimate
from slot_rl.selectors.categorical import jacobian_product, one_hot


@dataclass(frozen=True)
class Gapped(GivenDraw):
    """Gapped straight-through.

    Attributes:
        gap: Smallest difference of the drawn item's logit and the others.
        tau: Temperature of the backward softmax.
    """

    name: ClassVar[str] = "gapped"

    gap: float = 1.0
    tau: float = 1.0

    def estimate_at(self, logits: Tensor, choice: Tensor, probe: Probe) -> RawEstimate:
        """Returns ``J(y) g / tau``, with y the softmax of the changed logits and the slope g at the draw."""
        score, slope = probe.slope(one_hot(choice, logits.shape[-1], logits.dtype))
        top = logits.amax(dim=-1, keepdim=True)
        consistent = torch.minimum(logits, top - self.gap).scatter(-1, choice.unsqueeze(-1), top)
        relaxed = torch.softmax(consistent / self.tau, dim=-1)
        return RawEstimate(jacobian_product(relaxed, slope) / self.tau, choice, score)

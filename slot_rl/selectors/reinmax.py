"""ReinMax: straight-through with Heun's method instead of Euler's, second-order accurate in each slot.

With ``q = (softmax(logits / tau) + z) / 2`` the estimate is ``2 J_q g - J_p g / 2``. At tau = 1 this equals
``[J_p g + (z - p)(z - p)^T g] / 2``, and it is unbiased if the objective is quadratic in each slot given the others.
The variance can still be large: on random quadratics it is several times that of REINFORCE with a mean baseline
(``scripts/reproduce.py quadratics``).

Liu, Dong, Liu, Yu, Gao, "Bridging Discrete and Backpropagation: Straight-Through and Beyond" (2023). At tau = 1 also
Shekhovtsov, "Cold Analysis of Rao-Blackwellized Straight-Through Gumbel-Softmax" (2023), called ZGR.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import GivenDraw, Probe, RawEstimate
from slot_rl.selectors.categorical import jacobian_product, one_hot


@dataclass(frozen=True)
class ReinMax(GivenDraw):
    """The second-order straight-through estimator.

    Attributes:
        tau: Temperature of the softmax in the midpoint q; 1 is unbiased on quadratics.
    """

    name: ClassVar[str] = "reinmax"

    tau: float = 1.0

    def estimate_at(self, logits: Tensor, choice: Tensor, probe: Probe) -> RawEstimate:
        """Returns ``2 J_q g - J_p g / 2``, with the slope g at the draw."""
        vertex = one_hot(choice, logits.shape[-1], logits.dtype)
        score, slope = probe.slope(vertex)
        midpoint = (torch.softmax(logits / self.tau, dim=-1) + vertex) / 2
        first_order = jacobian_product(torch.softmax(logits, dim=-1), slope)
        return RawEstimate(2 * jacobian_product(midpoint, slope) - first_order / 2, choice, score)

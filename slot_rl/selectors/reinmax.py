"""ReinMax: straight-through with Heun's rule in place of Euler's, second-order accurate in each slot.

With ``q = (softmax(logits / tau) + z) / 2`` the estimate is ``2 J_q g - J_p g / 2``. At tau = 1 that is
``[J_p g + (z - p)(z - p)^T g] / 2``, the average of straight-through and of its zero-order twin: unbiased where the
objective is quadratic in each slot given the others. Second order does not mean low variance: on random quadratics its
variance is several times that of REINFORCE with a mean baseline (``scripts/reproduce.py quadratics``).

Liu, Dong, Liu, Yu, Gao, "Bridging Discrete and Backpropagation: Straight-Through and Beyond" (2023). At tau = 1 also
Shekhovtsov, "Cold Analysis of Rao-Blackwellized Straight-Through Gumbel-Softmax" (2023), called ZGR.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import Drawn, GivenDraw, Probe, refuse_unless_positive
from slot_rl.selectors.categorical import jacobian_product, one_hot


@dataclass(frozen=True)
class ReinMax(GivenDraw):
    """The second-order straight-through estimator.

    Attributes:
        tau: Temperature of the softmax in the midpoint; 1 is unbiased on quadratics.
    """

    name: ClassVar[str] = "reinmax"

    tau: float = 1.0

    def __post_init__(self) -> None:
        """Refuses a temperature that is not positive."""
        refuse_unless_positive(tau=self.tau)

    def estimate_at(self, logits: Tensor, choice: Tensor, probe: Probe) -> Drawn:
        """Returns ``2 J_q g - J_p g / 2``, with the slope g at the draw."""
        vertex = one_hot(choice, logits.shape[-1], logits.dtype)
        score, slope = probe.slope(vertex)
        midpoint = (torch.softmax(logits / self.tau, dim=-1) + vertex) / 2
        first_order = jacobian_product(torch.softmax(logits, dim=-1), slope)
        return Drawn(2 * jacobian_product(midpoint, slope) - first_order / 2, choice, score)

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """One forward and one backward."""
        return 1, 1

"""Gumbel-Rao: the hard Gumbel estimate, averaged over the noise that would have led to the same draw.

The objective is asked once, at the draw; only the softmax's Jacobian is averaged, which costs no call. By the
Rao-Blackwell theorem the mean is that of the hard Gumbel estimate and the mean squared error never larger.

Paulus, Maddison, Krause, "Rao-Blackwellizing the Straight-Through Gumbel-Softmax Gradient Estimator" (2021).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import Drawn, Probe, Selector, refuse_unless_positive
from slot_rl.selectors.categorical import conditional_gumbel, draw, jacobian_product, one_hot


@dataclass(frozen=True)
class GumbelRao(Selector):
    """Hard Gumbel-softmax with its Jacobian averaged given the draw.

    Attributes:
        tau: Temperature of the backward softmax.
        k: Noises that the Jacobian is averaged over, the paper's K; 1 has the law of ``gumbel``.
    """

    name: ClassVar[str] = "gumbel_rao"

    tau: float = 1.0
    k: int = 16

    def __post_init__(self) -> None:
        """Refuses a temperature or a number of noises that is not positive."""
        refuse_unless_positive(tau=self.tau, k=self.k)

    def estimate(self, logits: Tensor, probe: Probe, generator: torch.Generator | None) -> Drawn:
        """Returns the mean of ``J(y_k) g / tau`` over k noises given the draw, with the slope g at the draw."""
        choice = draw(logits, generator)
        score, slope = probe.slope(one_hot(choice, logits.shape[-1], logits.dtype))
        noisy, _ = conditional_gumbel(logits, choice.expand(self.k, *choice.shape), generator)
        products = jacobian_product(torch.softmax(noisy / self.tau, dim=-1), slope)
        return Drawn(products.mean(dim=0) / self.tau, choice, score)

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """One forward and one backward."""
        return 1, 1

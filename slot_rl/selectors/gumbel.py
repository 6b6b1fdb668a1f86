"""The Gumbel reparameterisation: add Gumbel noise, take the argmax, differentiate the softmax.

With ``G`` standard Gumbel, ``argmax(logits + G)`` is an exact draw from ``softmax(logits)``, and
``y = softmax((logits + G) / tau)`` is a differentiable stand-in for it. The hard form evaluates the objective at the
one-hot draw and sends its gradient through ``dy/dlogits = J(y) / tau``; the soft form evaluates it at ``y`` itself.

Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax" (2017); Maddison, Mnih, Teh, "The Concrete
Distribution" (2017).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import Drawn, Probe, Selector, refuse_unless_positive
from slot_rl.selectors.categorical import gumbel_noise, jacobian_product, one_hot


@dataclass(frozen=True)
class Gumbel(Selector):
    """Gumbel-softmax, straight-through when hard.

    Attributes:
        tau: Temperature of the backward softmax; low values are less biased and have more exactly-zero gradients.
        hard: Whether the objective sees the one-hot draw (default) or the relaxed row.
    """

    name: ClassVar[str] = "gumbel"

    tau: float = 1.0
    hard: bool = True

    def __post_init__(self) -> None:
        """Refuses a temperature that is not positive."""
        refuse_unless_positive(tau=self.tau)

    @property
    def scores_draws(self) -> bool:
        """The soft form scores a relaxed row."""
        return self.hard

    def estimate(self, logits: Tensor, probe: Probe, generator: torch.Generator | None) -> Drawn:
        """Returns ``J(y) g / tau``, with the slope g at the draw, or at y in the soft form."""
        noisy = logits + gumbel_noise(logits, generator)
        relaxed = torch.softmax(noisy / self.tau, dim=-1)
        choice = noisy.argmax(dim=-1)
        score, slope = probe.slope(one_hot(choice, logits.shape[-1], logits.dtype) if self.hard else relaxed)
        return Drawn(jacobian_product(relaxed, slope).div_(self.tau), choice, score)

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """One forward and one backward."""
        return 1, 1

"""The Gumbel-softmax: add Gumbel noise, take the argmax, differentiate the softmax.

With standard Gumbel noise ``G``, ``argmax(logits + G)`` is an exact draw from ``softmax(logits)``, and
``y = softmax((logits + G) / tau)`` is a differentiable relaxation of it. The hard form evaluates the objective at the
one-hot draw and multiplies its gradient by ``dy/dlogits = J(y) / tau``. The soft form evaluates the objective at ``y``.
Under rules noise is added slot by slot, and the argmax is over the items that are open.

Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax" (2017); Maddison, Mnih, Teh, "The Concrete
Distribution" (2017).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import Draws, Probe, RawEstimate, Selector
from slot_rl.selectors.categorical import conditional_gumbel, gumbel_noise, jacobian_product, one_hot


@dataclass(frozen=True)
class Gumbel(Selector):
    """Gumbel-softmax, straight-through when hard.

    Attributes:
        tau: Temperature of the softmax; low values have less bias and more gradients that are exactly zero.
        hard: Whether the objective receives the one-hot draw (default) or the relaxed row.
    """

    name: ClassVar[str] = "gumbel"

    tau: float = 1.0
    hard: bool = True

    @property
    def scores_draws(self) -> bool:
        """False for the soft form, which scores a relaxed row."""
        return self.hard

    @property
    def draws_once(self) -> bool:
        """Whether it is the hard form."""
        return self.hard

    def estimate(self, logits: Tensor, probe: Probe, draws: Draws) -> RawEstimate:
        """Returns ``J(y) g / tau``, with the slope g at the draw, or at y in the soft form."""
        if draws.rules is None:
            noisy = logits + gumbel_noise(logits, draws.generator)
            choice = noisy.argmax(dim=-1)
        else:
            choice, conditional = draws.draw(logits)
            # The law of the noise is that of the noise of the draw, up to a constant that the softmax cancels.
            noisy, _ = conditional_gumbel(conditional, choice, draws.generator)
        relaxed = torch.softmax(noisy / self.tau, dim=-1)
        score, slope = probe.slope(one_hot(choice, logits.shape[-1], logits.dtype) if self.hard else relaxed)
        return RawEstimate(jacobian_product(relaxed, slope).div_(self.tau), choice, score)

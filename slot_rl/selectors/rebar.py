"""REBAR: REINFORCE with a relaxed control variate, whose mean is added back by the reparameterisation gradient.

With ``s(v) = softmax(v / tau)``, the noisy logits ``y`` that led to the draw z, and new noisy logits ``y~`` given z,
the estimate is ``[f(z) - eta f(s(y~))] (z - p) + eta grad f(s(y)) - eta grad f(s(y~))``. The last two terms have the
same mean as the subtracted control variate, so the estimate is unbiased for every eta and tau.

Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein, "REBAR: Low-Variance, Unbiased Gradient Estimates for Discrete Latent
Variable Models" (2017).
"""

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import Draws, Probe, RawEstimate, Selector, refuse_unless_positive
from slot_rl.selectors.categorical import conditional_gumbel, gumbel_noise, jacobian_product, one_hot


@dataclass(frozen=True)
class Rebar(Selector):
    """REINFORCE with the relaxed score as control variate.

    Attributes:
        eta: Weight of the control variate; 0 is REINFORCE without a baseline.
        tau: Temperature of the relaxation.
    """

    name: ClassVar[str] = "rebar"

    eta: float = 1.0
    tau: float = 0.5

    def __post_init__(self) -> None:
        """Refuses a temperature that is not positive and a weight that is not finite."""
        refuse_unless_positive(tau=self.tau)
        if not isfinite(self.eta):
            raise ValueError(f"expected a finite eta, got {self.eta}")

    def check_rules(self) -> None:
        """Refuses all rules.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "expected another selector than rebar for a problem with constraints, such as rloo or local_expectation: "
            "what is open to a slot jumps with the draws before it, and the gradient of rebar's relaxation misses jumps"
        )

    def estimate(self, logits: Tensor, probe: Probe, draws: Draws) -> RawEstimate:
        """Returns the score-function term with its control variate, plus the control variate's mean."""
        log_p = torch.log_softmax(logits, dim=-1)
        noisy = log_p + gumbel_noise(logits, draws.generator)
        choice = noisy.argmax(dim=-1)
        vertex = one_hot(choice, logits.shape[-1], logits.dtype)
        score = probe.value(vertex)
        again, derivative = conditional_gumbel(logits, choice, draws.generator)
        relaxed = torch.softmax(torch.stack([noisy, again]) / self.tau, dim=-1)
        scores, slopes = probe.slope(relaxed)
        pathwise = jacobian_product(relaxed, slopes) / self.tau
        by_log_p = pathwise[0] - pathwise[1] * derivative
        p = log_p.exp()
        correction = by_log_p - p * by_log_p.sum(dim=-1, keepdim=True)
        advantage = (score - self.eta * scores[1]).to(logits.dtype)[..., None, None]
        return RawEstimate(advantage * (vertex - p) + self.eta * correction, choice, score)

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """One forward for the draw, and a forward and a backward for each of the two relaxed rows."""
        return 3, 2

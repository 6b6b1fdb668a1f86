"""The softmax itself as the selection: the objective receives a mixture of items, which is no configuration.

The gradient is exact for the score of the mixture. That score is not the expected score of a draw: a mixture can have
a high score where no configuration has one. This selector is a baseline that is expected to fail.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import Draws, Probe, RawEstimate, Selector
from slot_rl.selectors.categorical import jacobian_product
from slot_rl.selectors.rules import OPEN


@dataclass(frozen=True)
class Softmax(Selector):
    """The objective at ``softmax(logits / tau)``, by the chain rule.

    Attributes:
        tau: Temperature; low values are closer to a choice and have small gradients.
    """

    name: ClassVar[str] = "softmax"

    tau: float = 1.0

    @property
    def scores_draws(self) -> bool:
        """False: nothing is drawn, and the score is that of the mixture."""
        return False

    def estimate(self, logits: Tensor, probe: Probe, draws: Draws) -> RawEstimate:
        """Returns ``J(y) g / tau`` with the slope g at ``y = softmax(logits / tau)``; the choice is the mode.

        Under rules y has the items that some allowed choice holds, so mixtures may break the rules.
        """
        choice, _ = draws.mode(logits)
        if draws.rules is not None:
            possible = draws.rules.open_items(torch.full_like(choice, OPEN))
            logits = logits.masked_fill(~possible, -torch.inf)
        mixture = torch.softmax(logits / self.tau, dim=-1)
        score, slope = probe.slope(mixture)
        return RawEstimate(jacobian_product(mixture, slope) / self.tau, choice, score)

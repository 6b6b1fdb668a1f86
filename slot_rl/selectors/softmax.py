"""The softmax itself as the selection: the objective sees a mixture of items that no request may name.

Its gradient is exact for the mixture's score, which is another objective than the expected score of a draw: mixtures
can score where no configuration does. It is here as the failing baseline of this project's second origin.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import Drawn, Probe, Selector, refuse_unless_positive
from slot_rl.selectors.categorical import jacobian_product


@dataclass(frozen=True)
class Softmax(Selector):
    """The objective at ``softmax(logits / tau)``, by the chain rule.

    Attributes:
        tau: Temperature; low values are closer to a choice and have vanishing gradients.
    """

    name: ClassVar[str] = "softmax"

    tau: float = 1.0

    def __post_init__(self) -> None:
        """Refuses a temperature that is not positive."""
        refuse_unless_positive(tau=self.tau)

    @property
    def scores_draws(self) -> bool:
        """Nothing is drawn, and the score is the mixture's."""
        return False

    def estimate(self, logits: Tensor, probe: Probe, generator: torch.Generator | None) -> Drawn:
        """Returns ``J(y) g / tau`` with the slope g at ``y = softmax(logits / tau)``; the choice is the argmax."""
        mixture = torch.softmax(logits / self.tau, dim=-1)
        score, slope = probe.slope(mixture)
        return Drawn(jacobian_product(mixture, slope) / self.tau, logits.argmax(dim=-1), score)

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """One forward and one backward."""
        return 1, 1

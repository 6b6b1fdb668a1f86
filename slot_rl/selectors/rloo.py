"""REINFORCE leave-one-out: several draws per row; the baseline of each is the mean score of the others.

The estimate ``1/(k-1) sum_i (f_i - mean f)(z_i - p)`` is unbiased and needs neither slopes nor a learned baseline.

Kool, van Hoof, Welling, "Buy 4 REINFORCE Samples, Get a Baseline for Free!" (2019).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import Draws, Probe, RawEstimate, Selector
from slot_rl.selectors.categorical import one_hot


@dataclass(frozen=True)
class RLOO(Selector):
    """REINFORCE with the leave-one-out baseline.

    Attributes:
        k: Draws per row.
    """

    name: ClassVar[str] = "rloo"

    k: int = 4

    def __post_init__(self) -> None:
        """Refuses fewer than two draws: one draw has no baseline."""
        if self.k < 2:
            raise ValueError(f"expected k >= 2, got {self.k}")

    def estimate(self, logits: Tensor, probe: Probe, draws: Draws) -> RawEstimate:
        """Returns ``1/(k-1) sum_i (f_i - mean f)(z_i - p)``; without rules p is the same for all i and cancels."""
        choices, conditional = draws.draw(logits.expand(self.k, *logits.shape))
        vertices = one_hot(choices, logits.shape[-1], logits.dtype)
        scores = probe.value(vertices)
        if draws.rules is not None:
            vertices -= torch.softmax(conditional, dim=-1)
        precise = scores.to(logits.dtype)
        advantages = (precise - precise.mean(dim=0)) / (self.k - 1)
        return RawEstimate((advantages[..., None, None] * vertices).sum(dim=0), choices[0], scores[0])

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """One forward per draw."""
        return self.k, 0

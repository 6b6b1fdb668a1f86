"""REINFORCE: the score of the draw times the gradient of its log-probability, ``(f(z) - b)(z - p)``.

It needs no slope, is unbiased for every baseline b that does not look at the draw, and spreads one number over all
slots: its variance grows with the number of slots.

Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning" (1992).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from slot_rl.selectors.base import Drawn, GivenDraw, Probe
from slot_rl.selectors.categorical import one_hot


@dataclass(frozen=True)
class Reinforce(GivenDraw):
    """The score-function estimator.

    Attributes:
        baseline: What is taken off the score: "batch", the mean score of the batch's other rows, or "none".
    """

    name: ClassVar[str] = "reinforce"

    baseline: Literal["batch", "none"] = "batch"

    def __post_init__(self) -> None:
        """Refuses an unknown baseline."""
        if self.baseline not in ("batch", "none"):
            raise ValueError(f"expected baseline 'batch' or 'none', got {self.baseline!r}")

    def estimate_at(self, logits: Tensor, choice: Tensor, probe: Probe) -> Drawn:
        """Returns ``(f(z) - b)(z - p)``."""
        vertex = one_hot(choice, logits.shape[-1], logits.dtype)
        score = probe.value(vertex)
        advantage = score.to(logits.dtype)
        rows = score.numel()
        if self.baseline == "batch" and rows > 1:
            # f minus the mean of the others: a row's own score in its baseline would bias the estimate.
            advantage = (advantage - advantage.mean()) * (rows / (rows - 1))
        return Drawn(advantage[..., None, None] * (vertex - torch.softmax(logits, dim=-1)), choice, score)

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """One forward."""
        return 1, 0

"""REINFORCE: the score of the draw times the gradient of its log-probability, ``(f(z) - b)(z - p)``.

It needs no slope and is unbiased for every baseline b that does not depend on the draw. All slots share one number, so
the variance grows with the number of slots.

Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning" (1992).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from slot_rl.selectors.base import GivenDraw, Probe, RawEstimate
from slot_rl.selectors.categorical import one_hot


@dataclass(frozen=True)
class Reinforce(GivenDraw):
    """The score-function estimator.

    Attributes:
        baseline: What is subtracted from the score: "batch", the mean score of the batch's other rows, or "none".
    """

    name: ClassVar[str] = "reinforce"

    baseline: Literal["batch", "none"] = "batch"

    def __post_init__(self) -> None:
        """Refuses an unknown baseline."""
        if self.baseline not in ("batch", "none"):
            raise ValueError(f"expected baseline 'batch' or 'none', got {self.baseline!r}")

    def estimate_at(self, logits: Tensor, choice: Tensor, probe: Probe) -> RawEstimate:
        """Returns ``(f(z) - b)(z - p)``."""
        vertex = one_hot(choice, logits.shape[-1], logits.dtype)
        score = probe.value(vertex)
        advantage = score.to(logits.dtype)
        rows = score.numel()
        if self.baseline == "batch" and rows > 1:
            # f minus the mean of the others. A row's own score in its baseline would bias the estimate.
            advantage = (advantage - advantage.mean()) * (rows / (rows - 1))
        return RawEstimate(advantage[..., None, None] * (vertex - torch.softmax(logits, dim=-1)), choice, score)

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """One forward."""
        return 1, 0

"""Running standardisation of scores, so that one coefficient suits estimators of any scale."""

from dataclasses import dataclass
from math import exp, sqrt

from torch import Tensor

HORIZON = 25_600
"""Scores over which the running statistics forget: the policy improves, so the comparison must follow it."""


@dataclass
class RunningScale:
    """Exponentially forgetting mean and standard deviation.

    Attributes:
        mean: Running mean of the scores.
        variance: Running variance of the scores within a batch.
        seen: Scores seen.
    """

    mean: float = 0.0
    variance: float = 1.0
    seen: int = 0

    def update(self, score: Tensor) -> None:
        """Takes in a batch of at least two scores, ``(batch,)``."""
        # The unbiased variance, not the standard deviation: its running mean is right for batches of any size.
        mean, variance = float(score.mean()), float(score.var())
        # A plain mean until the horizon is reached, so that the first batch weighs no more than the next ones.
        new = max(score.numel() / (self.seen + score.numel()), 1 - exp(-score.numel() / HORIZON))
        self.mean += new * (mean - self.mean)
        self.variance += new * (variance - self.variance)
        self.seen += score.numel()

    def standardise(self, score: Tensor) -> Tensor:
        """Returns scores with the running mean taken off, in running standard deviations."""
        return (score - self.mean) / self.unit

    @property
    def unit(self) -> float:
        """The standard deviation to divide by; never so small that rounding errors would count as differences."""
        return max(sqrt(self.variance), 1e-6 * (1 + abs(self.mean)))

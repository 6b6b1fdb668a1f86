"""The units of vectors: what is taken off and divided by, so that the scale of a user's numbers does not matter."""

import torch
from torch import Tensor

ROUNDING = 1e-6
"""The computed spread of equal numbers may be a rounding error: below this share of their mean, there is none."""


def mean_and_spread(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean and the standard deviation of each number of vectors ``(rows, numbers)``.

    The deviation is 1 where all numbers are equal.
    """
    mean, spread = vectors.mean(dim=0), vectors.std(dim=0)
    return mean, torch.where(spread > ROUNDING * mean.abs(), spread, 1.0)

"""Freezing: an estimator is asked as a copy that nothing can train, so that the caller's module stays as it is."""

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

Score = Callable[..., Tensor]
Frozen = TypeVar("Frozen", bound=Score)


def frozen(score: Frozen) -> Frozen:
    """Returns a copy in eval mode without trainable parameters; anything but a module is returned as it is."""
    if not isinstance(score, nn.Module):
        return score
    return copy.deepcopy(score).eval().requires_grad_(False)

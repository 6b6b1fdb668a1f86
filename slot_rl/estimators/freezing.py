"""Freezing: estimators are called as frozen copies, so that the caller's module never changes."""

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

Score = Callable[..., Tensor]
Frozen = TypeVar("Frozen", bound=Score)


def frozen(score: Frozen) -> Frozen:
    """Returns a copy in eval mode without trainable parameters; anything that is not a module is returned unchanged."""
    if not isinstance(score, nn.Module):
        return score
    return copy.deepcopy(score).eval().requires_grad_(False)

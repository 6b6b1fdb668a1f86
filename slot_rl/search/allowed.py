"""Which items each request allows, spelled out: the form that searches draw and breed from."""

import torch
from torch import Tensor

from slot_rl.problems.base import Observation, Problem


def allowed_items(problem: Problem, observation: Observation) -> Tensor:
    """Returns which items may be chosen, padding left out: boolean tensor of shape ``(batch, slots, items)``."""
    mask = problem.mask(observation)
    shape = (len(observation), problem.slots, problem.items)
    return torch.ones(shape, dtype=torch.bool) if mask is None else mask.expand(shape)

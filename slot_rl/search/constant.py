"""The best constant: one configuration for every request, found by coordinate sweeps where enumeration is too large.

It is what a policy that ignores its observation can reach at best, and thus the bar that a policy must clear to have
learned anything about its requests.
"""

import torch
from torch import Tensor

from slot_rl.problems.base import Observation, Problem


def search_constant(problem: Problem, observation: Observation, sweeps: int = 2) -> Tensor:
    """Improves one slot after another by the mean score over all requests.

    Args:
        problem: The problem.
        observation: The requests, all of which share the configuration; their masks must leave each item that every
            request allows.
        sweeps: Passes over the slots.

    Returns:
        Long tensor of shape ``(slots,)``.

    Raises:
        ValueError: If a slot has no item that every request allows.
    """
    mask = problem.mask(observation)
    common = torch.ones(problem.slots, problem.items, dtype=torch.bool)
    if mask is not None:
        common = mask.expand(len(mask) if mask.dim() == 3 else 1, problem.slots, problem.items).all(dim=0)
    if not common.any(dim=-1).all():
        raise ValueError("expected an item in every slot that all requests allow, got a slot without one")
    constant = common.int().argmax(dim=-1)
    for _ in range(sweeps):
        for slot in range(problem.slots):
            items = common[slot].nonzero().squeeze(-1)
            rows = constant.repeat(len(items), 1)
            rows[:, slot] = items
            means = torch.stack(
                [problem.score(observation, row.expand(len(observation), -1)).double().mean() for row in rows]
            )
            constant = rows[means.argmax()]
    return constant

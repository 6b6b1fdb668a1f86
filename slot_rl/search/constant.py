"""The best constant: one configuration for every request, found by coordinate sweeps where enumeration is too large.

It is what a policy that ignores its observation can reach at best, and so the bar that a policy must clear to have
learned anything about its requests.
"""

import torch
from torch import Tensor

from slot_rl.problems.base import Problem
from slot_rl.problems.observation import Observation


def search_constant(
    problem: Problem,
    observation: Observation,
    sweeps: int = 2,
    starts: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Improves one slot after another by the mean score over all requests.

    Args:
        problem: The problem.
        observation: The requests, all of which share the configuration; their masks must leave each item that every
            request allows.
        sweeps: Passes over the slots.
        starts: Searches, the first from each slot's first item and the others from random ones; the best is kept.
        generator: Source of the random starts.

    Returns:
        Long tensor of shape ``(slots,)``.

    Raises:
        ValueError: If a slot has no item that every request allows, or there are several starts and no generator.
    """
    mask = problem.mask(observation)
    common = torch.ones(problem.slots, problem.items, dtype=torch.bool)
    if mask is not None:
        common = mask.expand(len(mask) if mask.dim() == 3 else 1, problem.slots, problem.items).all(dim=0)
    if not common.any(dim=-1).all():
        raise ValueError("expected an item in every slot that all requests allow, got a slot without one")
    if starts > 1 and generator is None:
        raise ValueError(f"expected a generator for {starts} starts, got none")
    best, best_mean = common.int().argmax(dim=-1), -torch.inf
    for start in range(starts):
        constant = best if start == 0 else torch.multinomial(common.float(), 1, generator=generator).squeeze(-1)
        constant, mean = _sweep(problem, observation, constant, common, sweeps)
        if mean > best_mean:
            best, best_mean = constant, mean
    return best


def _sweep(
    problem: Problem, observation: Observation, constant: Tensor, common: Tensor, sweeps: int
) -> tuple[Tensor, float]:
    """Improves one constant; returns it with its mean score."""
    mean = -torch.inf
    for _ in range(sweeps):
        for slot in range(problem.slots):
            items = common[slot].nonzero().squeeze(-1)
            rows = constant.repeat(len(items), 1)
            rows[:, slot] = items
            means = torch.stack(
                [problem.score(observation, row.expand(len(observation), -1)).double().mean() for row in rows]
            )
            constant, mean = rows[means.argmax()], float(means.max())
    return constant, mean

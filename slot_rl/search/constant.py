"""The best constant: one configuration for every request, found by coordinate sweeps where enumeration is too large.

It is what a policy that ignores its observation can reach at best, and so the bar that a policy must clear to have
learned anything about its requests. A request that does not allow it gets the repaired constant of
:func:`constant_choice`.
"""

import torch
from torch import Tensor

from slot_rl.problems.base import Problem
from slot_rl.problems.observation import Observation
from slot_rl.search.base import ScoreChoice, allowed_items, is_allowed
from slot_rl.search.moves import exchanged
from slot_rl.selectors.categorical import one_hot

_WANTED = 100.0
"""Logit of the constant's items: no item beside them has a probability that a float could tell from 0."""


def search_constant(
    problem: Problem,
    observation: Observation,
    sweeps: int = 2,
    starts: int = 1,
    generator: torch.Generator | None = None,
    score: ScoreChoice | None = None,
) -> Tensor:
    """Improves one slot after another by the mean score over all requests.

    Under constraints a constant counts as what :func:`constant_choice` makes of it, and an exchange with each later
    slot is tried besides a slot's items.

    Args:
        problem: The problem.
        observation: The requests, all of which share the configuration; without constraints, their masks must leave
            each slot an item that every request allows.
        sweeps: Passes over the slots.
        starts: Searches, the first from each slot's first item and the others from random ones; the best is kept.
        generator: Source of the random starts.
        score: Scores choices; ``problem.score`` if None.

    Returns:
        Long tensor of shape ``(slots,)``.

    Raises:
        ValueError: If a slot has no item that every request allows, or there are several starts and no generator.
    """
    common = _common(problem, observation)
    if starts > 1 and generator is None:
        raise ValueError(f"expected a generator for {starts} starts, got none")
    best, best_mean = common.int().argmax(dim=-1), -torch.inf
    for start in range(starts):
        constant = best if start == 0 else torch.multinomial(common.float(), 1, generator=generator).squeeze(-1)
        constant, mean = _sweep(problem, observation, constant, common, sweeps, score or problem.score)
        if mean > best_mean:
            best, best_mean = constant, mean
    return best


def constant_choice(problem: Problem, observation: Observation, constant: Tensor) -> Tensor:
    """Returns what a constant ``(slots,)`` is in each request, ``(batch, slots)``.

    Where a request's mask does not allow an item, it is the slot's first allowed one. A constant that constraints do
    not allow is repaired without chance, by :meth:`Rules.mode` of logits that want its items: slot by slot the items
    that are still open are kept, and the other slots get their first open item. Among listed rows it is the first one
    of those that share the most items with the constant.
    """
    choice = constant.repeat(len(observation), 1)
    if problem.constraints is not None:
        bad = ~is_allowed(problem, observation, choice)
        rules = problem.rules(observation[bad]) if bool(bad.any()) else None
        if rules is not None:
            choice[bad] = rules.mode(_WANTED * one_hot(choice[bad], problem.items, torch.float32))
        return choice
    mask = problem.mask(observation)
    if mask is None:
        return choice
    mask = mask.expand(*choice.shape, problem.items)
    fits = mask.gather(-1, choice.unsqueeze(-1)).squeeze(-1)
    return torch.where(fits, choice, mask.int().argmax(dim=-1))


def _common(problem: Problem, observation: Observation) -> Tensor:
    """Returns the items that a constant may have, ``(slots, items)``."""
    allowed = allowed_items(problem, observation)
    # Under constraints a request that does not allow an item repairs the constant.
    common = allowed.all(dim=0) if problem.constraints is None else allowed.any(dim=0)
    if not common.any(dim=-1).all():
        raise ValueError("expected an item in every slot that all requests allow, got a slot without one")
    return common


def _sweep(
    problem: Problem, observation: Observation, constant: Tensor, common: Tensor, sweeps: int, score: ScoreChoice
) -> tuple[Tensor, float]:
    """Improves one constant; returns it with its mean score."""
    mean = -torch.inf
    for _ in range(sweeps):
        for slot in range(problem.slots):
            rows = _candidates(constant, slot, common[slot], problem.constraints is not None)
            choices = [row.expand(len(observation), -1) for row in rows]
            if problem.constraints is not None:
                choices = [constant_choice(problem, observation, row) for row in rows]
            means = torch.stack([score(observation, choice).double().mean() for choice in choices])
            constant, mean = rows[means.argmax()], float(means.max())
            repaired = choices[int(means.argmax())]
            # What every request makes the same of it is the constant.
            constant = repaired[0] if bool((repaired == repaired[0]).all()) else constant
    return constant, mean


def _candidates(constant: Tensor, slot: int, common: Tensor, exchanges: bool) -> Tensor:
    """Returns constants with each item in a slot, and perhaps with its item exchanged, ``(candidates, slots)``."""
    items = common.nonzero().squeeze(-1)
    rows = constant.repeat(len(items), 1)
    rows[:, slot] = items
    if not exchanges:
        return rows
    later = torch.arange(slot + 1, len(constant))
    return torch.cat([rows, exchanged(constant, torch.full_like(later, slot), later)])

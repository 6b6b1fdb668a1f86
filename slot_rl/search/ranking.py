"""The best constant ranking: items by their mean score alone, whatever the request's context.

Where requests bring candidates from a pool, a constant configuration means little. What a rule can do that ignores
the context is to rank the items, so this is the bar that a policy must clear to have used the context.
"""

from dataclasses import replace

import torch
from torch import Tensor

from slot_rl.problems.base import Problem
from slot_rl.problems.observation import Observation
from slot_rl.search.base import allowed_items, random_choice
from slot_rl.selectors.rules import OPEN, Rules

PAGES = 64
_CHUNK = 1_024


def mean_scores(problem: Problem, generator: torch.Generator, pages: int = PAGES) -> Tensor:
    """Returns each pool item's mean score, ``(vectors,)``, in random slots of random configurations and contexts.

    All items are scored in the same ``pages`` configurations; the calls are counted by the problem.

    Raises:
        ValueError: If the problem has no pool.
    """
    if problem.pool is None:
        raise ValueError(f"expected a problem with a pool of items, got {problem.name} without one")
    requests = problem.sample(pages, generator)
    # Constraints say nothing about a list that holds the whole pool.
    free = problem.with_constraints([]) if problem.constraints is not None else problem
    rest = problem.gather(requests, random_choice(problem, requests, generator))
    slot = torch.randint(problem.slots, (pages,), generator=generator)
    means = []
    for part in problem.pool.split(_CHUNK):
        together = torch.cat([rest, part.expand(pages, -1, -1)], dim=1)
        choice = torch.arange(problem.slots).repeat(len(part), pages, 1)
        items = problem.slots + torch.arange(len(part))
        choice.scatter_(2, slot.expand(len(part), -1).unsqueeze(2), items[:, None, None].expand(-1, pages, 1))
        wider = free.with_items(together.shape[1])
        means.append(wider.score(replace(requests, candidates=together, mask=None), choice).double().mean(dim=1))
        problem.budget.forwards += wider.budget.forwards
    return torch.cat(means)


def ranked_choice(problem: Problem, observation: Observation, means: Tensor) -> Tensor:
    """Returns the candidates with the highest means, the best in the first slot: long tensor ``(batch, slots)``.

    A request with fewer candidates than slots begins again with its best. Under constraints each slot in turn gets the
    best of the candidates that are open to it, of those that stand in the fewest slots before it.
    """
    assert problem.pool is not None
    value = means[_pool_rows(problem.pool, problem.candidates(observation))]
    rules = problem.rules(observation)
    if rules is not None:
        return _filled(rules, value, problem.slots)
    value = value.masked_fill(~allowed_items(problem, observation).all(dim=1), -torch.inf)
    order = value.argsort(dim=1, descending=True, stable=True)
    allowed = (value > -torch.inf).sum(dim=1, keepdim=True).clamp_min(1)
    return order.gather(1, torch.arange(problem.slots) % allowed)


def _filled(rules: Rules, value: Tensor, slots: int) -> Tensor:
    """Fills slots in order with the candidates of the highest value ``(batch, items)``: ``(batch, slots)``."""
    choice = torch.full((len(value), slots), OPEN)
    order = value.argsort(dim=1, descending=True, stable=True)
    used = torch.zeros_like(order)
    for slot in range(slots):
        seldom = used.masked_fill(~rules.open_items(choice, slot), slots + 1)
        choice[:, slot] = order.gather(1, seldom.gather(1, order).argmin(dim=1, keepdim=True)).squeeze(1)
        used.scatter_add_(1, choice[:, slot : slot + 1], torch.ones_like(used))
    return choice


def _pool_rows(pool: Tensor, candidates: Tensor) -> Tensor:
    """Returns the row of each candidate ``(batch, items, dim)`` in the pool; 0 for padding."""
    keys, order = _key(pool).sort()
    place = torch.searchsorted(keys, _key(candidates)).clamp_max(len(keys) - 1)
    return torch.where(keys[place] == _key(candidates), order[place], 0)


def _key(vectors: Tensor) -> Tensor:
    """Returns a number that equal vectors share; others share it with a chance of about 2**-64."""
    weights = torch.randint(2**40, (vectors.shape[-1],), generator=torch.Generator().manual_seed(0)) * 2 + 1
    return (vectors.contiguous().view(torch.int32).long() * weights).sum(dim=-1)

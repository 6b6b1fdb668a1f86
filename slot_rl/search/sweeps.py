"""Plain local search: coordinate sweeps that score every item of one slot after another, and need no gradient.

A row whose last S slots brought nothing stands on a local optimum and starts again at random. Each row's calls are its
own: whatever does not fit into the budget any more is not scored. Under constraints the items of a slot are those that
are open to it, and the exchanges with the other slots are scored as well, without which a permutation could not change.
"""

import torch
from torch import Tensor

from slot_rl.problems.base import Problem
from slot_rl.problems.observation import Observation
from slot_rl.search.base import SearchResult, allowed_items, better_of, check_calls, is_allowed, random_choice
from slot_rl.search.moves import exchanged
from slot_rl.selectors.rules import Rules


def local_search(problem: Problem, observation: Observation, calls: int, generator: torch.Generator) -> SearchResult:
    """Searches by coordinate sweeps from random starts.

    Args:
        problem: The problem; its estimator needs no gradient.
        observation: The requests.
        calls: Forwards a row, exactly.
        generator: Source of the starts.

    Returns:
        The best configuration of each row.

    Raises:
        ValueError: If there is no call to spend.
    """
    check_calls(calls)
    batch = len(observation)
    choice = random_choice(problem, observation, generator)
    score = problem.score(observation, choice)
    best = SearchResult(choice, score)
    left, stale = torch.full((batch,), calls - 1), torch.zeros(batch, dtype=torch.long)
    rules, allowed = problem.rules(observation), allowed_items(problem, observation)
    slot = 0
    while bool((left > 0).any()):
        here = allowed[:, slot] if rules is None else _ruled(problem, observation, rules, choice, slot)
        tried, found = _sweep_slot(problem, observation, choice, slot, here, left)
        left = left - tried
        better = found.score > score
        choice, score = torch.where(better.unsqueeze(1), found.choice, choice), torch.where(better, found.score, score)
        stale = torch.where(better, 0, stale + 1)
        best = better_of(best, SearchResult(choice, score))
        again = ((stale >= problem.slots) & (left > 0)).nonzero().squeeze(-1)
        if len(again):
            choice[again] = random_choice(problem, observation[again], generator)
            score[again] = problem.score(observation[again], choice[again])
            best = better_of(best, SearchResult(choice, score))
            left[again] -= 1
            stale[again] = 0
        slot = (slot + 1) % problem.slots
    return best


def _ruled(problem: Problem, observation: Observation, rules: Rules, choice: Tensor, slot: int) -> Tensor:
    """Returns which items, and which exchanges with a slot, the rules allow, ``(batch, items + slots)``."""
    others = torch.arange(problem.slots)
    swapped = exchanged(choice, torch.full_like(others, slot), others)
    allowed = is_allowed(problem, observation, swapped).T & (choice != choice[:, slot].unsqueeze(1))
    return torch.cat([rules.open_items(choice, slot), allowed], dim=1)


def _sweep_slot(
    problem: Problem, observation: Observation, choice: Tensor, slot: int, allowed: Tensor, left: Tensor
) -> tuple[Tensor, SearchResult]:
    """Scores the other items of a slot, as many as each row has calls left: how many, and each row's best of them."""
    others = allowed & (torch.arange(allowed.shape[1]) != choice[:, slot].unsqueeze(1))
    others &= others.cumsum(dim=1) <= left.unsqueeze(1)
    row, move = others.nonzero(as_tuple=True)
    tried = others.sum(dim=1)
    if len(row) == 0:
        return tried, SearchResult(choice, torch.full((len(choice),), -torch.inf))
    scores = torch.full(others.shape, -torch.inf)
    scores[row, move] = problem.score(observation[row], _moved(choice[row], slot, move, problem.items))
    score, top = scores.max(dim=1)
    return tried, SearchResult(_moved(choice, slot, top, problem.items), score)


def _moved(choice: Tensor, slot: int, move: Tensor, items: int) -> Tensor:
    """Puts an item into a slot of each choice, or from number ``items`` on exchanges it with that of another slot."""
    moved, other = choice.clone(), (move - items).clamp_min(0).unsqueeze(1)
    partner = choice.gather(1, other)
    exchange = (move >= items).unsqueeze(1)
    moved.scatter_(1, other, torch.where(exchange, choice[:, slot : slot + 1], partner))
    moved[:, slot : slot + 1] = torch.where(exchange, partner, move.unsqueeze(1))
    return moved

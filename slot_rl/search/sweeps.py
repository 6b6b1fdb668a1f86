"""Plain local search: coordinate sweeps that score every item of one slot after another, and need no gradient.

A row whose last S slots brought nothing stands on a local optimum and starts again at random. Each row's calls are its
own: whatever does not fit into the budget any more is not scored.
"""

import torch
from torch import Tensor

from slot_rl.problems.base import Problem
from slot_rl.problems.observation import Observation
from slot_rl.search.base import SearchResult, allowed_items, random_choice


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
    if calls < 1:
        raise ValueError(f"expected at least one call per request, got {calls}")
    batch = len(observation)
    choice = random_choice(problem, observation, generator)
    score = problem.score(observation, choice)
    best = SearchResult(choice, score)
    left, stale = torch.full((batch,), calls - 1), torch.zeros(batch, dtype=torch.long)
    allowed = allowed_items(problem, observation)
    slot = 0
    while bool((left > 0).any()):
        tried, found = _sweep_slot(problem, observation, choice, slot, allowed[:, slot], left)
        left = left - tried
        better = found.score > score
        choice, score = torch.where(better.unsqueeze(1), found.choice, choice), torch.where(better, found.score, score)
        stale = torch.where(better, 0, stale + 1)
        best = _better_of(best, SearchResult(choice, score))
        again = ((stale >= problem.slots) & (left > 0)).nonzero().squeeze(-1)
        if len(again):
            choice[again] = random_choice(problem, observation[again], generator)
            score[again] = problem.score(observation[again], choice[again])
            best = _better_of(best, SearchResult(choice, score))
            left[again] -= 1
            stale[again] = 0
        slot = (slot + 1) % problem.slots
    return best


def _sweep_slot(
    problem: Problem, observation: Observation, choice: Tensor, slot: int, allowed: Tensor, left: Tensor
) -> tuple[Tensor, SearchResult]:
    """Scores the other items of a slot, as many as each row has calls left: how many, and each row's best of them."""
    others = allowed & (torch.arange(problem.items) != choice[:, slot].unsqueeze(1))
    others &= others.cumsum(dim=1) <= left.unsqueeze(1)
    row, item = others.nonzero(as_tuple=True)
    tried = others.sum(dim=1)
    if len(row) == 0:
        return tried, SearchResult(choice, torch.full((len(choice),), -torch.inf))
    proposals = choice[row]
    proposals[:, slot] = item
    scores = torch.full(others.shape, -torch.inf)
    scores[row, item] = problem.score(observation[row], proposals)
    score, top = scores.max(dim=1)
    moved = choice.clone()
    moved[:, slot] = top
    return tried, SearchResult(moved, score)


def _better_of(old: SearchResult, new: SearchResult) -> SearchResult:
    better = new.score > old.score
    return SearchResult(
        torch.where(better.unsqueeze(1), new.choice, old.choice), torch.where(better, new.score, old.score)
    )

"""Swaps guided by the estimator's gradient: the cheapest strong competitor of every policy, and its best partner.

One backward pass at a configuration gives the first-order effect of all S(N-1) single swaps at once. Each round scores
the most promising ones that have not failed yet and takes the best of them if it is better. A swap that failed is not
tried again until the configuration changes.
"""

import torch
from torch import Tensor

from slot_rl.problems.base import Problem
from slot_rl.problems.observation import Observation
from slot_rl.search.base import SearchResult, best_of, random_choice
from slot_rl.selectors.categorical import one_hot, swap_effects


def guided_search(
    problem: Problem, observation: Observation, start: Tensor, rounds: int, proposals: int = 1
) -> SearchResult:
    """Improves a start by gradient-guided swaps.

    With one proposal a round, each is scored together with its own gradient: ``1 + rounds`` forwards and as many
    backwards a row. With m > 1, a round costs m forwards, and a forward and a backward more in the rows that it
    changed.

    Args:
        problem: A problem whose estimator is differentiable.
        observation: The requests.
        start: Long tensor of shape ``(batch, slots)``.
        rounds: Rounds of swaps.
        proposals: Swaps scored in each round, m.

    Returns:
        The best configuration of each row.

    Raises:
        ValueError: If the rounds are negative or the proposals below 1.
    """
    if rounds < 0 or proposals < 1:
        raise ValueError(f"expected rounds >= 0 and proposals >= 1, got {rounds} and {proposals}")
    proposals = min(proposals, problem.slots * problem.items)
    mask = problem.mask(observation)
    allowed = torch.ones(1, dtype=torch.bool) if mask is None else mask
    choice, (score, gradient) = start, problem.score_and_slope(observation, start)
    open_swaps = _all_swaps(allowed, choice, gradient)
    for _ in range(rounds):
        effect = swap_effects(gradient, choice)
        swaps = effect.masked_fill(~open_swaps, -torch.inf).flatten(1).topk(proposals, dim=1).indices
        proposed, swap, best, new_gradient = _try(problem, observation, choice, swaps, open_swaps)
        # Where every swap has failed, topk names an arbitrary one, masked perhaps: it must not be taken.
        better = (proposed > score) & open_swaps.flatten(1).gather(1, swap.unsqueeze(1)).squeeze(1)
        # A swap that failed stays closed until the configuration changes, which opens all others again.
        open_swaps = open_swaps.flatten(1).scatter(1, swaps, False).view_as(open_swaps)
        choice = torch.where(better.unsqueeze(1), best, choice)
        open_swaps = torch.where(better[:, None, None], _all_swaps(allowed, choice, gradient), open_swaps)
        score = torch.where(better, proposed, score)
        if new_gradient is not None:
            gradient = torch.where(better[:, None, None], new_gradient, gradient)
        elif bool(better.any()):
            gradient = gradient.clone()
            gradient[better] = problem.score_and_slope(observation[better], choice[better])[1]
    return SearchResult(choice, score, gradient)


def restarted_search(
    problem: Problem, observation: Observation, restarts: int, rounds: int, generator: torch.Generator
) -> SearchResult:
    """Runs :func:`guided_search` from several random starts and keeps each row's best.

    Raises:
        ValueError: If there is no start.
    """
    if restarts < 1:
        raise ValueError(f"expected at least one restart, got {restarts}")
    return best_of(
        [
            guided_search(problem, observation, random_choice(problem, observation, generator), rounds)
            for _ in range(restarts)
        ]
    )


def _try(
    problem: Problem, observation: Observation, choice: Tensor, swaps: Tensor, open_swaps: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Scores swaps ``(batch, proposals)``; returns the best one's score, number and row, and its gradient if known."""
    slot, item = swaps // problem.items, swaps % problem.items
    rows = choice.unsqueeze(1).expand(-1, swaps.shape[1], -1).scatter(2, slot.unsqueeze(2), item.unsqueeze(2))
    if swaps.shape[1] == 1:
        score, gradient = problem.score_and_slope(observation, rows[:, 0])
        return score, swaps[:, 0], rows[:, 0], gradient
    score = problem.score(observation, rows.transpose(0, 1))
    # A closed swap, masked perhaps, is scored where too few are open: it must not hide an open one.
    score, best = score.masked_fill(~open_swaps.flatten(1).gather(1, swaps).T, -torch.inf).max(dim=0)
    batch = torch.arange(len(choice))
    return score, swaps[batch, best], rows[batch, best], None


def _all_swaps(allowed: Tensor, choice: Tensor, like: Tensor) -> Tensor:
    return allowed.expand_as(like) & (one_hot(choice, like.shape[-1], like.dtype) == 0)

"""Swaps guided by the estimator's gradient: the cheapest strong competitor of every policy.

One backward pass at a configuration gives the first-order effect of all S(N-1) single swaps at once. The most
promising one that has not failed yet is scored together with its own gradient; if it is better it is taken, and either
way the next round can begin. A round costs one forward and one backward.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from slot_rl.problems.base import Observation, Problem
from slot_rl.selectors.categorical import one_hot


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        choice: Long tensor of shape ``(batch, slots)``.
        score: The estimator's score of the choice, of shape ``(batch,)``.
    """

    choice: Tensor
    score: Tensor


def random_choice(problem: Problem, observation: Observation, generator: torch.Generator) -> Tensor:
    """Draws one allowed item per slot, uniformly: long tensor of shape ``(batch, slots)``."""
    weights = torch.ones(len(observation), problem.slots, problem.items)
    mask = problem.mask(observation)
    if mask is not None:
        weights = weights * mask
    draws = torch.multinomial(weights.flatten(0, 1), 1, generator=generator)
    return draws.view(len(observation), problem.slots)


def guided_search(problem: Problem, observation: Observation, start: Tensor, rounds: int) -> Found:
    """Improves a start by gradient-guided swaps; costs ``1 + rounds`` forwards and as many backwards a row.

    Args:
        problem: A problem whose estimator is differentiable.
        observation: The requests.
        start: Long tensor of shape ``(batch, slots)``.
        rounds: Swaps to try.

    Returns:
        The best configuration of each row.
    """
    mask = problem.mask(observation)
    allowed = torch.ones(1, dtype=torch.bool) if mask is None else mask
    choice, (score, gradient) = start, _score_and_gradient(problem, observation, start)
    open_swaps = allowed.expand_as(gradient) & (one_hot(choice, problem.items, gradient.dtype) == 0)
    for _ in range(rounds):
        effect = gradient - gradient.gather(-1, choice.unsqueeze(-1))
        swap = effect.masked_fill(~open_swaps, -torch.inf).flatten(1).argmax(dim=1)
        slot, item = swap // problem.items, swap % problem.items
        proposal = choice.scatter(1, slot.unsqueeze(1), item.unsqueeze(1))
        proposed, proposed_gradient = _score_and_gradient(problem, observation, proposal)
        # Where every swap has failed, argmax names an arbitrary one, masked perhaps: it must not be taken.
        better = (proposed > score) & open_swaps.flatten(1).gather(1, swap.unsqueeze(1)).squeeze(1)
        # A swap that failed stays closed until the configuration changes, which opens all others again.
        open_swaps = open_swaps.flatten(1).scatter(1, swap.unsqueeze(1), False).view_as(open_swaps)
        choice = torch.where(better.unsqueeze(1), proposal, choice)
        fresh = allowed.expand_as(gradient) & (one_hot(choice, problem.items, gradient.dtype) == 0)
        open_swaps = torch.where(better[:, None, None], fresh, open_swaps)
        score = torch.where(better, proposed, score)
        gradient = torch.where(better[:, None, None], proposed_gradient, gradient)
    return Found(choice, score)


def restarted_search(
    problem: Problem, observation: Observation, restarts: int, rounds: int, generator: torch.Generator
) -> Found:
    """Runs :func:`guided_search` from several random starts and keeps each row's best.

    Raises:
        ValueError: If there is no start.
    """
    if restarts < 1:
        raise ValueError(f"expected at least one restart, got {restarts}")
    runs = [
        guided_search(problem, observation, random_choice(problem, observation, generator), rounds)
        for _ in range(restarts)
    ]
    score, best = torch.stack([run.score for run in runs]).max(dim=0)
    choices = torch.stack([run.choice for run in runs])
    return Found(choices[best, torch.arange(len(best))], score)


def _score_and_gradient(problem: Problem, observation: Observation, choice: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        selection = one_hot(choice, problem.items, torch.float32).requires_grad_()
        score = problem.score_selection(observation, selection)
        (gradient,) = torch.autograd.grad(score.sum(), selection)
    return score.detach(), gradient

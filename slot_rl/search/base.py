"""What searches share: their result, random starts, and what a request allows."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from slot_rl.problems.base import Problem
from slot_rl.problems.observation import Observation
from slot_rl.selectors.rules import OPEN

ScoreChoice = Callable[[Observation, Tensor], Tensor]


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        choice: Long tensor of shape ``(batch, slots)``.
        score: The estimator's score of the choice, of shape ``(batch,)``.
        slope: The score's gradient there, ``(batch, slots, items)``; None where the search did not ask for it.
    """

    choice: Tensor
    score: Tensor
    slope: Tensor | None = None


def allowed_items(problem: Problem, observation: Observation) -> Tensor:
    """Returns which items may be chosen, padding left out: boolean tensor of shape ``(batch, slots, items)``.

    Under constraints it is those that some allowed configuration holds.
    """
    shape = (len(observation), problem.slots, problem.items)
    rules = problem.rules(observation)
    if rules is not None:
        return rules.open_items(torch.full(shape[:2], OPEN))
    mask = problem.mask(observation)
    return torch.ones(shape, dtype=torch.bool) if mask is None else mask.expand(shape)


def is_allowed(problem: Problem, observation: Observation, choice: Tensor) -> Tensor:
    """Returns which complete choices ``(..., batch, slots)`` masks and constraints allow, ``(..., batch)``."""
    allowed = torch.ones(choice.shape[:-1], dtype=torch.bool)
    mask = problem.mask(observation)
    if mask is not None:
        wide = mask.expand(*choice.shape, problem.items)
        allowed = wide.gather(-1, choice.unsqueeze(-1)).squeeze(-1).all(dim=-1)
    return allowed if problem.constraints is None else allowed & problem.constraints.allows(observation, choice)


def random_choice(problem: Problem, observation: Observation, generator: torch.Generator) -> Tensor:
    """Draws one allowed item per slot, uniformly: long tensor of shape ``(batch, slots)``.

    Under constraints the slots are filled in order, each uniformly from the items that are open to it.
    """
    weights = torch.ones(len(observation), problem.slots, problem.items)
    rules = problem.rules(observation)
    if rules is not None:
        return rules.draw(torch.zeros_like(weights), generator)[0]
    mask = problem.mask(observation)
    if mask is not None:
        weights = weights * mask
    draws = torch.multinomial(weights.flatten(0, 1), 1, generator=generator)
    return draws.view(len(observation), problem.slots)


def best_of(runs: list[SearchResult]) -> SearchResult:
    """Returns each row's best among several searches of the same requests."""
    score, best = torch.stack([run.score for run in runs]).max(dim=0)
    choices = torch.stack([run.choice for run in runs])
    return SearchResult(choices[best, torch.arange(len(best))], score)


def taken(where: Tensor, new: SearchResult, old: SearchResult) -> SearchResult:
    """Returns the new results in the rows ``(batch,)`` where they are taken, and the old ones elsewhere."""
    slope = None
    if new.slope is not None and old.slope is not None:
        slope = torch.where(where[:, None, None], new.slope, old.slope)
    choice = torch.where(where.unsqueeze(1), new.choice, old.choice)
    return SearchResult(choice, torch.where(where, new.score, old.score), slope)


def better_of(old: SearchResult, new: SearchResult) -> SearchResult:
    """Returns the new results in the rows where they are better, and the old ones elsewhere."""
    return taken(new.score > old.score, new, old)


def check_calls(calls: int) -> None:
    """Raises ValueError if there is no call to spend."""
    if calls < 1:
        raise ValueError(f"expected at least one call per request, got {calls}")

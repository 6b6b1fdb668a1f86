"""What searches share: their result, random starts, and the items that a request allows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from slot_rl.problems.base import Problem
from slot_rl.problems.observation import Observation


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
    """Returns which items may be chosen, padding left out: boolean tensor of shape ``(batch, slots, items)``."""
    mask = problem.mask(observation)
    shape = (len(observation), problem.slots, problem.items)
    return torch.ones(shape, dtype=torch.bool) if mask is None else mask.expand(shape)


def random_choice(problem: Problem, observation: Observation, generator: torch.Generator) -> Tensor:
    """Draws one allowed item per slot, uniformly: long tensor of shape ``(batch, slots)``."""
    weights = torch.ones(len(observation), problem.slots, problem.items)
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

"""Enumeration: the exact best of every request, the exact mean, and the best constant, where N^S is small enough."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from slot_rl.problems.base import Problem
from slot_rl.problems.observation import Observation
from slot_rl.search.base import SearchResult, best_of

ScoreChoice = Callable[[Observation, Tensor], Tensor]
MOST_CONFIGURATIONS = 200_000
_CHUNK = 65_536


@dataclass(frozen=True)
class EnumerationResult:
    """What enumerating every configuration of every request shows.

    Attributes:
        best: Highest score of each request, ``(batch,)``.
        choice: The configuration that has it, ``(batch, slots)``.
        mean: Mean score of each request's allowed configurations, ``(batch,)``: the expectation of a random choice.
        constant: The one configuration with the highest mean over the requests, ``(slots,)``.
        constant_scores: Its score in each request, ``(batch,)``.
    """

    best: Tensor
    choice: Tensor
    mean: Tensor
    constant: Tensor
    constant_scores: Tensor


def configurations(problem: Problem) -> int:
    """Returns how many configurations a request has, masks not counted."""
    return prod(problem.sizes)


def check_enumerable(problem: Problem) -> None:
    """Raises ValueError if a request has more than :data:`MOST_CONFIGURATIONS` configurations."""
    if configurations(problem) > MOST_CONFIGURATIONS:
        raise ValueError(
            f"expected at most {MOST_CONFIGURATIONS:,} configurations to enumerate, got {configurations(problem):,}"
        )


def enumerate_landscape(problem: Problem, observation: Observation, score: ScoreChoice) -> EnumerationResult:
    """Scores every configuration of every request.

    Args:
        problem: Gives sizes and masks.
        observation: The requests.
        score: Scores choices ``(..., batch, slots)``; ``problem.score`` or ``problem.true_score``.

    Returns:
        The landscape. A constant must be allowed in every request to count as one.

    Raises:
        ValueError: If a request has more than :data:`MOST_CONFIGURATIONS` configurations, or no configuration is
            allowed in all of them.
    """
    batch = len(observation)
    best, choice = torch.full((batch,), -torch.inf), torch.zeros(batch, problem.slots, dtype=torch.long)
    total, count = torch.zeros(batch, dtype=torch.float64), torch.zeros(batch, dtype=torch.float64)
    top_constant, constant = -torch.inf, choice[0]
    for block, scores, allowed in _scored_blocks(problem, observation, score):
        total += torch.where(allowed, scores, 0.0).double().sum(dim=0)
        count += allowed.sum(dim=0)
        scores = torch.where(allowed, scores, -torch.inf)
        block_best, where = scores.max(dim=0)
        better = block_best > best
        choice = torch.where(better.unsqueeze(1), block[where], choice)
        best = torch.where(better, block_best, best)
        mean, here = _best_mean(block, scores)
        if mean > top_constant:
            top_constant, constant = mean, here
    if top_constant == -torch.inf:
        raise ValueError("expected a configuration that all requests allow, got none")
    constant_scores = score(observation, constant.expand(batch, -1))
    return EnumerationResult(best, choice, (total / count).float(), constant, constant_scores)


def mean_score(problem: Problem, observation: Observation, score: ScoreChoice) -> Tensor:
    """Returns the mean over each request's allowed configurations that have a score, ``(batch,)``; NaN if none has.

    Args:
        problem: Gives sizes and masks.
        observation: The requests.
        score: Scores choices ``(..., batch, slots)``; NaN where there is no score.

    Raises:
        ValueError: If a request has more than :data:`MOST_CONFIGURATIONS` configurations.
    """
    total = torch.zeros(len(observation), dtype=torch.float64)
    count = torch.zeros_like(total)
    for _, scores, allowed in _scored_blocks(problem, observation, score):
        known = allowed & ~scores.isnan()
        total += torch.where(known, scores, 0.0).double().sum(dim=0)
        count += known.sum(dim=0)
    return total / count


def best_constant(problem: Problem, observation: Observation, score: ScoreChoice) -> Tensor | None:
    """Returns the configuration ``(slots,)`` with the highest mean, of those with a score in every request.

    None if there is none; arguments and errors as for :func:`mean_score`.
    """
    top, constant = -torch.inf, None
    for block, scores, allowed in _scored_blocks(problem, observation, score):
        mean, here = _best_mean(block, torch.where(allowed & ~scores.isnan(), scores, -torch.inf))
        if mean > top:
            top, constant = mean, here
    return constant


def exhaustive_search(problem: Problem, observation: Observation) -> SearchResult:
    """Returns the best of all configurations of every request.

    Raises:
        ValueError: If a request has more than :data:`MOST_CONFIGURATIONS` configurations.
    """
    found: list[SearchResult] = []
    for block, scores, allowed in _scored_blocks(problem, observation, problem.score):
        best, where = torch.where(allowed, scores, -torch.inf).max(dim=0)
        found = [best_of([*found, SearchResult(block[where], best)])]
    return found[0]


def _best_mean(block: Tensor, scores: Tensor) -> tuple[float, Tensor]:
    """Returns the highest mean over the requests, and which configuration of the block has it."""
    means = scores.double().mean(dim=1)
    return float(means.max()), block[means.argmax()]


def _scored_blocks(
    problem: Problem, observation: Observation, score: ScoreChoice
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields configurations ``(block, slots)``, their scores and whether they are allowed, ``(block, batch)``."""
    check_enumerable(problem)
    for block in _blocks(problem, len(observation)):
        rows = block.unsqueeze(1).expand(-1, len(observation), -1)
        yield block, score(observation, rows), _allowed(problem, observation, rows)


def _blocks(problem: Problem, batch: int) -> Iterator[Tensor]:
    sizes = torch.tensor(problem.sizes)
    strides = torch.tensor([prod(problem.sizes[i + 1 :]) for i in range(problem.slots)])
    per_block = max(1, _CHUNK // batch)
    for numbers in torch.arange(configurations(problem)).split(per_block):
        yield numbers.unsqueeze(1) // strides % sizes


def _allowed(problem: Problem, observation: Observation, rows: Tensor) -> Tensor:
    if observation.mask is None:
        return torch.ones(rows.shape[:-1], dtype=torch.bool)
    mask = observation.mask.expand(len(rows), -1, -1, -1)
    return mask.gather(-1, rows.unsqueeze(-1)).squeeze(-1).all(dim=-1)

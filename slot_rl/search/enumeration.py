"""Enumeration: the exact best of every request, the exact mean, and the best constant, where N^S is small enough.

Where constraints list the allowed configurations, only those are looked at, however large N^S is. Other constraints
leave out what no request allows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from slot_rl.problems.base import Problem
from slot_rl.problems.constraints.tables import TableRules
from slot_rl.problems.observation import Observation
from slot_rl.search.base import ScoreChoice, SearchResult, best_of, is_allowed
from slot_rl.search.constant import constant_choice, search_constant

MOST_CONFIGURATIONS = 200_000
"""More configurations than this are not enumerated."""
_CHUNK = 65_536


@dataclass(frozen=True)
class EnumerationResult:
    """What enumerating every configuration of every request shows.

    Attributes:
        best: Highest score of each request, ``(batch,)``.
        choice: The configuration that has it, ``(batch, slots)``.
        mean: Mean score of each request's allowed configurations, ``(batch,)``: without constraints the expectation of
            a random choice, which under constraints is drawn slot by slot.
        constant: The one configuration with the highest mean over the requests, ``(slots,)``.
        constant_scores: Its score in each request, ``(batch,)``, repaired where the request does not allow it.
    """

    best: Tensor
    choice: Tensor
    mean: Tensor
    constant: Tensor
    constant_scores: Tensor


def configurations(problem: Problem) -> int:
    """Returns how many configurations a request has at most: those that are listed, or else all, masks not counted."""
    rows = None if problem.constraints is None else problem.constraints.rows
    return prod(problem.sizes) if rows is None else len(rows)


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
        The landscape. A constant must be allowed in every request to count as one. If there is none under
        constraints, it is that of :func:`search_constant`, which requests may repair.

    Raises:
        ValueError: If a request has more than :data:`MOST_CONFIGURATIONS` configurations, or without constraints no
            configuration is allowed in all of them.
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
        if problem.constraints is None:
            raise ValueError("expected a configuration that all requests allow, got none")
        constant = search_constant(problem, observation, score=score)
    constant_scores = score(observation, constant_choice(problem, observation, constant))
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


def highest_score(problem: Problem, observation: Observation, score: ScoreChoice) -> Tensor:
    """Returns the highest score of each request, of those that there are, ``(batch,)``; NaN if there is none.

    Arguments and errors are those of :func:`mean_score`.
    """
    best = torch.full((len(observation),), -torch.inf)
    for _, scores, allowed in _scored_blocks(problem, observation, score):
        best = torch.maximum(best, torch.where(allowed & ~scores.isnan(), scores, -torch.inf).amax(dim=0))
    return best.masked_fill(best == -torch.inf, torch.nan)


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
    """Yields configurations ``(block, slots)``, their scores and whether they are allowed, ``(block, batch)``.

    Raises:
        Infeasible: If a request allows no configuration.
    """
    check_enumerable(problem)
    for block, allowed in _blocks(problem, observation):
        if problem.constraints is not None:
            some = allowed.any(dim=1)
            block, allowed = block[some], allowed[some]
        if len(block):
            yield block, score(observation, _for_all(block, len(observation))), allowed


def _blocks(problem: Problem, observation: Observation) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields configurations, and which requests allow them."""
    batch, rules = len(observation), problem.rules(observation)
    per_block = max(1, _CHUNK // batch)
    if isinstance(rules, TableRules):
        yield from zip(rules.rows.split(per_block), rules.allowed_rows().T.split(per_block), strict=True)
        return
    sizes = torch.tensor(problem.sizes)
    strides = torch.tensor([prod(problem.sizes[i + 1 :]) for i in range(problem.slots)])
    for numbers in torch.arange(configurations(problem)).split(per_block):
        block = numbers.unsqueeze(1) // strides % sizes
        yield block, is_allowed(problem, observation, _for_all(block, batch))


def _for_all(block: Tensor, batch: int) -> Tensor:
    return block.unsqueeze(1).expand(-1, batch, -1)

"""The cross-entropy method: draw rows, fit the distribution that they are drawn from to the best of them, repeat.

Each request has a distribution of its own, in which every slot is an independent categorical over its allowed items.
A round draws rows and moves the probabilities part of the way to the frequencies of its elites. That part keeps every
allowed item possible, which the frequencies of few elites would not. Under constraints a row is drawn slot by slot from
the items that are open to it.

The settings were chosen on 192 requests of ``Slots-v0`` and ``SlotsLarge-v0`` at 31, 200 and 800 calls: a round has
twice as many draws as there are rounds. The hundreds of draws a round that are usual leave such budgets no rounds to
learn in.

Rubinstein, "The Cross-Entropy Method for Combinatorial and Continuous Optimization" (1999); de Boer et al., "A Tutorial
on the Cross-Entropy Method" (2005).
"""

from math import isqrt

import torch
from torch import Tensor

from slot_rl.problems.base import Problem
from slot_rl.problems.observation import Observation
from slot_rl.search.base import SearchResult, allowed_items, best_of, check_calls
from slot_rl.selectors.rules import Rules

MOST_DRAWS = 128


def draws_for(calls: int) -> int:
    """Returns how many draws a round suit a number of calls."""
    return min(MOST_DRAWS, isqrt(2 * calls))


def check_fit(draws: int | None, elite: float, smoothing: float) -> None:
    """Refuses settings with which nothing could be fitted.

    Raises:
        ValueError: If a round has no draw, or a share is not above 0 and at most 1.
    """
    if draws is not None and draws < 1:
        raise ValueError(f"expected draws >= 1, got {draws}")
    if not (0 < elite <= 1 and 0 < smoothing <= 1):
        raise ValueError(f"expected elite and smoothing above 0 and at most 1, got {elite} and {smoothing}")


def cross_entropy_search(
    problem: Problem,
    observation: Observation,
    calls: int,
    generator: torch.Generator,
    draws: int | None = None,
    elite: float = 0.1,
    smoothing: float = 0.3,
) -> SearchResult:
    """Searches by fitting a distribution to the best of its own draws.

    Args:
        problem: The problem; its estimator needs no gradient.
        observation: The requests.
        calls: Forwards a row, exactly; the last round is cut short.
        generator: Source of the draws.
        draws: Rows drawn in a round; :func:`draws_for` the calls if None.
        elite: Share of them that the distribution is fitted to, one row at least.
        smoothing: How far the probabilities move to the elites' frequencies; 1 forgets the earlier rounds.

    Returns:
        The best configuration that each row has drawn.

    Raises:
        ValueError: If there is no call to spend, or the settings are of no use.
    """
    check_calls(calls)
    check_fit(draws, elite, smoothing)
    size = draws_for(calls) if draws is None else draws
    allowed = allowed_items(problem, observation).float()
    probabilities = allowed / allowed.sum(dim=-1, keepdim=True)
    rules, found = problem.rules(observation), list[SearchResult]()
    for done in range(0, calls, size):
        now = min(size, calls - done)
        rows = _drawn(probabilities, now, generator) if rules is None else _ruled(rules, probabilities, now, generator)
        scores = problem.score(observation, rows)
        top, elites = scores.topk(max(1, round(elite * len(rows))), dim=0)
        chosen = rows.gather(0, elites.unsqueeze(-1).expand(-1, -1, problem.slots))
        found = [best_of([*found, SearchResult(chosen[0], top[0])])]
        probabilities = torch.lerp(probabilities, _frequencies(chosen, problem.items), smoothing)
    return found[0]


def _drawn(probabilities: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draws rows: long tensor of shape ``(size, batch, slots)``."""
    draws = torch.multinomial(probabilities.flatten(0, 1), size, replacement=True, generator=generator)
    return draws.T.reshape(size, *probabilities.shape[:2])


def _ruled(rules: Rules, probabilities: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draws rows that rules allow: long tensor of shape ``(size, batch, slots)``."""
    # An open item may have lost all its probability; it must stay possible where no other one is open.
    logits = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
    # One draw of every request at a time, so that memory does not grow with the draws.
    return torch.stack([rules.draw(logits, generator)[0] for _ in range(size)])


def _frequencies(rows: Tensor, items: int) -> Tensor:
    """Returns how often each item stands in each slot of rows ``(rows, batch, slots)``: ``(batch, slots, items)``."""
    counts = torch.zeros(*rows.shape[1:], items)
    counts.scatter_add_(2, rows.permute(1, 2, 0), torch.ones(*rows.shape[1:], len(rows)))
    return counts / len(rows)

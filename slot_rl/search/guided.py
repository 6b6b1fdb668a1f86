"""Swaps guided by the estimator's gradient: the cheapest strong competitor of every policy, and its best partner.

One backward pass at a configuration gives the first-order effect of all S(N-1) single swaps at once. Each round scores
the most promising swap that has not failed yet, or the best swaps of several slots at once, and keeps the result if it
is better. The number of slots halves on failure and doubles on success. A single swap that failed is not tried again
until the configuration changes. Under constraints only allowed swaps are tried, and pairs of swaps as well where single
ones cannot move (see :mod:`slot_rl.search.moves`).

A row that no longer improves starts again at random: after two failures in a row at single swaps, or where no open swap
promises anything. Two is the best patience from random starts on both SlotsLarge-v0 and Slots-v0.
"""

import torch
from torch import Tensor

from slot_rl.problems.base import Problem
from slot_rl.problems.guard import BadScore, NonFiniteScore
from slot_rl.problems.observation import Observation
from slot_rl.search.base import SearchResult, better_of, check_calls, random_choice, taken
from slot_rl.search.moves import moves_of
from slot_rl.seeding import generator_from
from slot_rl.selectors.categorical import masked_logits

PATIENCE = 2
"""Failures in a row at single swaps after which a row from a random start begins again."""


def guided_search(
    problem: Problem,
    observation: Observation,
    start: Tensor | SearchResult,
    rounds: int,
    patience: int | None = None,
    generator: torch.Generator | None = None,
    most_swaps: int = 1,
    first_swaps: int = 1,
    shared: bool = False,
) -> SearchResult:
    """Improves a start by gradient-guided swaps: a forward and a backward a row for the start and for each round.

    Args:
        problem: A problem whose estimator is differentiable.
        observation: The requests.
        start: Long tensor of shape ``(batch, slots)``, which the constraints allow; or a result with its slope, which
            is not asked again.
        rounds: Rounds of swaps.
        patience: Failures in a row at single swaps after which a row starts again at random. It also does so where no
            open swap has a positive first-order effect. None: no row starts again, and each goes on with its next best
            open swap.
        generator: Source of the new starts.
        most_swaps: Slots that may be swapped at once, and that a row that starts again swaps at first.
        first_swaps: Slots that are swapped at first from the given start.
        shared: For a start that is a policy's answer: the new starts of all requests come from the same draws, so that
            what is found depends on a request alone and not on those beside it; and such a start is worth tries
            although no open swap has a positive first-order effect.

    Returns:
        The best configuration that each row has seen.

    Raises:
        ValueError: If the rounds are negative, the swaps out of order, the patience below 1, or rows shall start again
            without a generator.
    """
    if rounds < 0 or not 1 <= first_swaps <= most_swaps:
        raise ValueError(
            f"expected rounds >= 0 and first_swaps from 1 to most_swaps, got {rounds}, {first_swaps} and {most_swaps}"
        )
    if patience is not None and (patience < 1 or generator is None):
        raise ValueError(f"expected patience >= 1 and a generator to start again, got {patience} and {generator}")
    moves = moves_of(problem, observation)
    if not isinstance(start, SearchResult):
        start = SearchResult(start, *problem.score_and_slope(observation, start))
    now = best = start
    most, failures = torch.full_like(now.choice[:, 0], first_swaps), torch.zeros_like(now.choice[:, 0])
    starts: _Starts | None = None
    if patience is not None and generator is not None:
        starts = (_SharedStarts if shared else _Starts)(problem, observation, generator)
    changed = None
    for _ in range(rounds):
        assert now.slope is not None
        moves.look(now.choice, now.slope, changed)
        tried = moves.together(most)
        again = torch.zeros_like(failures, dtype=torch.bool)
        if starts is not None and patience is not None:
            hopeless = tried.count == 0 if shared else tried.gain <= 0
            again = (failures >= patience) | hopeless
            tried.rows[again] = starts.of(again)
        new = SearchResult(tried.rows, *problem.score_and_slope(observation, tried.rows))
        better = (new.score > now.score) & (tried.count > 0)
        changed = better | again
        failed = ~changed & (tried.count == 1)
        moves.close(tried.first.unsqueeze(1), failed)
        failures = torch.where(changed, 0, failures + failed)
        fewer = torch.where(better, 2 * most, tried.count // 2).clamp(1, most_swaps)
        most = torch.where(again, most_swaps, fewer)
        now = taken(changed, new, now)
        best = now if patience is None else better_of(best, now)
    return best


class _Starts:
    """Random starts, drawn ahead: under constraints a few cost as much time as many."""

    def __init__(self, problem: Problem, observation: Observation, generator: torch.Generator) -> None:
        self._problem, self._observation, self._generator = problem, observation, generator
        self._rows = torch.zeros(len(observation), problem.slots, dtype=torch.long)
        self._used = torch.ones(len(observation), dtype=torch.bool)

    def of(self, which: Tensor) -> Tensor:
        """Returns a new start of some requests ``(batch,)``: ``(some, slots)``."""
        if bool((which & self._used).any()):
            self._rows[self._used] = random_choice(self._problem, self._observation[self._used], self._generator)
            self._used[:] = False
        self._used |= which
        return self._rows[which]


class _SharedStarts(_Starts):
    """Random starts of which the first, the second and so on come from one draw for all requests."""

    def __init__(self, problem: Problem, observation: Observation, generator: torch.Generator) -> None:
        super().__init__(problem, observation, generator)
        self._drawn: list[Tensor] = []
        self._count = torch.zeros(len(observation), dtype=torch.long)

    def of(self, which: Tensor) -> Tensor:
        self._count += which
        while len(self._drawn) < int(self._count.max()):
            self._drawn.append(self._next())
        if not self._drawn:
            return self._rows[which]
        return torch.stack(self._drawn)[self._count[which] - 1, which.nonzero().squeeze(1)]

    def _next(self) -> Tensor:
        noise = torch.rand(self._problem.slots, self._problem.items, generator=self._generator)
        logits = masked_logits(noise.expand(len(self._observation), -1, -1), self._problem.mask(self._observation))
        rules = self._problem.rules(self._observation)
        return logits.argmax(dim=-1) if rules is None else rules.in_order(logits)[0]


def single_swap_search(
    problem: Problem, observation: Observation, calls: int, generator: torch.Generator
) -> SearchResult:
    """Searches by single swaps from random starts.

    Args:
        problem: A problem whose estimator is differentiable.
        observation: The requests.
        calls: Forwards and backwards a row, exactly.
        generator: Source of the starts.

    Returns:
        The best configuration of each row.

    Raises:
        ValueError: If there is no call to spend.
    """
    check_calls(calls)
    start = random_choice(problem, observation, generator)
    return guided_search(problem, observation, start, calls - 1, PATIENCE, generator)


def multi_swap_search(
    problem: Problem, observation: Observation, calls: int, generator: torch.Generator
) -> SearchResult:
    """Searches by swaps of several slots at once from random starts; the rest as :func:`single_swap_search`."""
    check_calls(calls)
    start = random_choice(problem, observation, generator)
    return guided_search(problem, observation, start, calls - 1, PATIENCE, generator, problem.slots, problem.slots)


def no_slopes(problem: Problem) -> str | None:
    """Returns why an estimator cannot be asked for the slope at a row; None if it can.

    It is tried on a request of its own, outside the problem's budget. A slope that is not finite is a fault and no
    reason: searches go on to raise it.
    """
    twin, generator = problem.with_fresh_budget(), generator_from(0)
    observation = twin.sample(1, generator)
    try:
        twin.score_and_slope(observation, random_choice(twin, observation, generator))
    except NonFiniteScore:
        return None
    except (BadScore, RuntimeError, TypeError, ValueError) as error:
        return f"expected an estimator that is differentiable at rows, got: {error}"
    return None

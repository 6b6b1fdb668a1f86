"""Swaps guided by the estimator's gradient: the cheapest strong competitor of every policy, and its best partner.

One backward pass at a configuration gives the first-order effect of all S(N-1) single swaps at once. Each round scores
the most promising ones that have not failed yet and takes the best of them if it is better. A swap that failed is not
tried again until the configuration changes. Under constraints only allowed swaps are tried, and pairs of swaps as well
where single ones cannot move (see :mod:`slot_rl.search.moves`).
"""

import torch
from torch import Tensor

from slot_rl.problems.base import Problem
from slot_rl.problems.observation import Observation
from slot_rl.search.base import SearchResult, best_of, random_choice
from slot_rl.search.moves import Moves, moves_of


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
        start: Long tensor of shape ``(batch, slots)``, which the constraints allow.
        rounds: Rounds of swaps.
        proposals: Swaps scored in each round, m.

    Returns:
        The best configuration of each row.

    Raises:
        ValueError: If the rounds are negative or the proposals below 1.
    """
    if rounds < 0 or proposals < 1:
        raise ValueError(f"expected rounds >= 0 and proposals >= 1, got {rounds} and {proposals}")
    moves = moves_of(problem, observation)
    choice, (score, gradient) = start, problem.score_and_slope(observation, start)
    changed = None
    for _ in range(rounds):
        moves.look(choice, gradient, changed)
        numbers = moves.best(proposals)
        proposed, move, best, new_gradient = _try(problem, observation, moves, numbers)
        # Where every move has failed, an arbitrary one is named, masked perhaps: it must not be taken.
        changed = (proposed > score) & moves.open_among(move.unsqueeze(1)).squeeze(1)
        # A move that failed stays closed until the configuration changes, which opens all others again.
        moves.close(numbers)
        choice = torch.where(changed.unsqueeze(1), best, choice)
        score = torch.where(changed, proposed, score)
        if new_gradient is not None:
            gradient = torch.where(changed[:, None, None], new_gradient, gradient)
        elif bool(changed.any()):
            gradient = gradient.clone()
            gradient[changed] = problem.score_and_slope(observation[changed], choice[changed])[1]
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
    problem: Problem, observation: Observation, moves: Moves, numbers: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Scores moves ``(batch, proposals)``; returns the best one's score, number and row, and its gradient if known."""
    rows = moves.rows(numbers)
    if numbers.shape[1] == 1:
        score, gradient = problem.score_and_slope(observation, rows[:, 0])
        return score, numbers[:, 0], rows[:, 0], gradient
    score = problem.score(observation, rows.transpose(0, 1))
    # A closed move, masked perhaps, is scored where too few are open: it must not hide an open one.
    score, best = score.masked_fill(~moves.open_among(numbers).T, -torch.inf).max(dim=0)
    batch = torch.arange(len(rows))
    return score, numbers[batch, best], rows[batch, best], None

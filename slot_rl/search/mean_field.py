"""Mean-field annealing: a relaxed row of each slot follows the softmax of the estimator's slope, ever colder.

The estimator is asked at the mixture of all slots' items. The slope there says what each item is worth beside the
mixture of the others, so all slots improve at once, and no configuration has to be decided on before the end. At least
the last quarter of the calls are multi-swaps from the rounded row (:mod:`slot_rl.search.guided`).

The temperature is in units of the estimator's scale, which is known without a further call: to first order, the slope
at a mixture gives the standard deviation of a random choice's score. The largest one so far counts, because the slope
grows while the rows sharpen.

The constants were chosen on 256 requests of ``Slots-v0`` and ``SlotsLarge-v0`` at 4 to 162 calls. More steps than 24
cost more swaps than they are worth.

Peterson, Anderson, "A Mean Field Theory Learning Algorithm for Neural Networks" (1987).
"""

import torch
from torch import Tensor

from slot_rl.problems.base import Problem
from slot_rl.problems.observation import Observation
from slot_rl.search.base import SearchResult, allowed_items, check_calls, random_choice
from slot_rl.search.guided import PATIENCE, guided_search
from slot_rl.seeding import generator_from

MOST_STEPS = 24
"""Calls at mixtures."""
HOT, COLD = 0.3, 0.03
"""The first and the last temperature, in standard deviations of a random choice's score."""
STEP = 0.7
"""How far a row moves to the softmax of its slope in one step."""


def mean_field_search(
    problem: Problem, observation: Observation, calls: int, generator: torch.Generator
) -> SearchResult:
    """Searches by mean-field annealing, then by multi-swaps.

    Args:
        problem: A problem whose estimator is differentiable at mixtures, without constraints.
        observation: The requests.
        calls: Forwards and backwards a row, exactly.
        generator: Source of new starts of the swaps.

    Returns:
        The best configuration of each row.

    Raises:
        ValueError: If there is no call to spend, or :func:`no_mixtures` says why the problem cannot be searched so.
    """
    check_calls(calls)
    why = no_mixtures(problem)
    if why is not None:
        raise ValueError(why)
    steps = min(MOST_STEPS, calls - max(1, calls // 4))
    if steps == 0:
        start = random_choice(problem, observation, generator)
    else:
        start = annealed_rows(problem, observation, steps).argmax(dim=-1)
    return guided_search(problem, observation, start, calls - steps - 1, PATIENCE, generator, problem.slots)


def annealed_rows(problem: Problem, observation: Observation, steps: int) -> Tensor:
    """Returns the rows ``(batch, slots, items)`` at the end of some steps; items that are not allowed stay at 0."""
    allowed = allowed_items(problem, observation)
    rows = even = allowed / allowed.sum(dim=-1, keepdim=True)
    scale = torch.full((len(rows), 1, 1), torch.finfo(even.dtype).tiny)
    for step in range(steps):
        _, slope = problem.score_and_slope_at(observation, rows)
        centred = slope - (even * slope).sum(dim=-1, keepdim=True)
        scale = (even * centred.square()).sum(dim=(1, 2), keepdim=True).sqrt().maximum(scale)
        temperature = HOT * (COLD / HOT) ** (step / max(1, steps - 1))
        logits = (centred / scale / temperature).masked_fill(~allowed, -torch.inf)
        rows = torch.lerp(rows, logits.softmax(dim=-1), STEP)
    return rows


def no_mixtures(problem: Problem) -> str | None:
    """Returns why mean-field annealing cannot ask the estimator at mixtures; None if it can.

    It is tried on a request of its own, outside the problem's budget.
    """
    if problem.constraints is not None:
        return f"expected a problem without constraints for mean-field annealing, got {problem.constraints}"
    observation = problem.sample(1, generator_from(0))
    allowed = allowed_items(problem, observation)
    try:
        problem.with_fresh_budget().score_and_slope_at(observation, allowed / allowed.sum(dim=-1, keepdim=True))
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        return f"expected an estimator that is differentiable at mixtures for mean-field annealing, got: {error}"
    return None

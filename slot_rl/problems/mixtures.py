"""Whether an estimator says of a mixture of items what it says of the mixture's rows on average.

It does so exactly if it is multilinear in the slots' vectors, for example a sum of products of different slots.
"""

import torch

from slot_rl.problems.base import Problem
from slot_rl.problems.observation import Observation
from slot_rl.selectors.categorical import draw, masked_logits


@torch.no_grad()
def mixture_error(problem: Problem, observation: Observation, draws: int, generator: torch.Generator) -> float:
    """Measures an estimator's error at random mixtures, whose logits are standard normal.

    Args:
        problem: The problem; its budget counts ``1 + draws`` forwards for each request.
        observation: The requests, one mixture each.
        draws: Rows drawn from each mixture, at least 2.
        generator: Source of mixtures and draws.

    Returns:
        The root mean square of the mixture's score minus the mean score of its rows, in standard deviations of the rows
        of a mixture. The error that the mean of ``draws`` rows has by chance is taken off.
    """
    shape = (len(observation), problem.slots, problem.items)
    logits = masked_logits(torch.randn(shape, generator=generator), problem.mask(observation))
    mixed = problem.score_selection(observation, torch.softmax(logits, dim=-1)).double()
    rows = problem.score(observation, draw(logits.expand(draws, -1, -1, -1), generator)).double()
    within = rows.var(dim=0).mean()
    square = (mixed - rows.mean(dim=0)).square().mean() - within / draws
    # Where no choice matters, mixtures are as good as rows.
    return float((square.clamp_min(0) / within).sqrt()) if within > 0 else 0.0

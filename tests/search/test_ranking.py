"""The best constant ranking: mean scores by hand, the order of candidates, masks and short lists."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from slot_rl.problems import SlotProblem
from slot_rl.search import mean_scores, ranked_choice
from slot_rl.seeding import generator_from

POOL = torch.tensor([[0.0], [3.0], [1.0], [2.0]])


def total(items: Tensor, context: Tensor) -> Tensor:
    return items.sum(dim=(-1, -2)) + context.sum(dim=-1)


def test_means_differ_as_the_items_do() -> None:
    problem = SlotProblem(total, 2, pool=POOL, context_dim=1)
    means = mean_scores(problem, generator_from(0), pages=16)
    assert torch.allclose(means - means[0], POOL.squeeze(1).double(), atol=1e-5)
    assert problem.budget.forwards == 4 * 16


def test_items_are_ranked_down_the_page() -> None:
    problem = SlotProblem(total, 3, items=3, pool=POOL, context_dim=1)
    observation = replace(problem.sample(2, generator_from(0)), candidates=POOL[torch.tensor([[0, 2, 1], [3, 0, 2]])])
    means = POOL.squeeze(1).double()
    assert ranked_choice(problem, observation, means).tolist() == [[2, 1, 0], [0, 2, 1]]
    mask = torch.tensor([[True, True, False], [True, False, False]]).unsqueeze(1).expand(-1, 3, -1)
    assert ranked_choice(problem, replace(observation, mask=mask), means).tolist() == [[1, 0, 1], [0, 0, 0]]


def test_a_problem_without_a_pool_has_no_ranking() -> None:
    problem = SlotProblem(lambda items: items.sum(dim=(-1, -2)), 2, 3, 1)
    with pytest.raises(ValueError, match="expected a problem with a pool of items, got slots without one"):
        mean_scores(problem, generator_from(0))

"""Mean-field annealing against a slow second implementation, and what it promises of masks, calls and scales."""

import math

import pytest
import torch
from torch import Tensor

from slot_rl.estimators import EstimatorShape
from slot_rl.problems import Budget, Observation, Problem, SlotProblem
from slot_rl.problems.constraints import Distinct
from slot_rl.search import (
    enumerate_landscape,
    mean_field_search,
    multi_swap_search,
    no_mixtures,
    single_swap_search,
)
from slot_rl.search.mean_field import annealed_rows
from slot_rl.seeding import generator_from
from tests.helpers.rugged import arbitrary_mask, row_problem, rugged_net


class Noted(SlotProblem):
    """Keeps every selection that is scored."""

    def score_selection(self, observation: Observation, selection: Tensor) -> Tensor:
        self.asked = [*getattr(self, "asked", []), selection.detach().clone()]
        return super().score_selection(observation, selection)


def smooth(slots: int = 4, items: int = 6, scale: float = 1.0, kind: type[SlotProblem] = SlotProblem) -> SlotProblem:
    """Slots that have a value each, and neighbours that fit or do not fit."""
    weights = torch.randn(slots, 3, generator=generator_from(0))

    def score(vectors: Tensor) -> Tensor:
        fit = (vectors[..., 1:, :] * vectors[..., :-1, :]).sum(dim=(-1, -2))
        return scale * ((vectors * weights).sum(dim=(-1, -2)) + 0.5 * fit)

    return kind(score, slots, items, 3)


def slow_rows(problem: Problem, request: Observation, allowed: list[list[int]], steps: int) -> list[list[float]]:
    """The rows of one request at the end of the annealing, with loops; slopes are differences of scores."""
    rows = [[float(n in here) / len(here) for n in range(problem.items)] for here in allowed]
    scale = 0.0
    for step in range(steps):

        def score(rows: list[list[float]]) -> float:
            return float(problem.score_selection(request, torch.tensor([rows], dtype=torch.float64).float()))

        slopes = []
        for slot, here in enumerate(allowed):
            slope = {}
            for n in here:
                moved = [list(row) for row in rows]
                moved[slot][n] += 0.25
                back = [list(row) for row in rows]
                back[slot][n] -= 0.25
                slope[n] = (score(moved) - score(back)) / 0.5
            slopes.append(slope)
        spread = 0.0
        for slope in slopes:
            mean = sum(slope.values()) / len(slope)
            spread += sum((value - mean) ** 2 for value in slope.values()) / len(slope)
        scale = max(scale, math.sqrt(spread))
        temperature = 0.3 * 0.1 ** (step / max(1, steps - 1)) * scale
        for slot, slope in enumerate(slopes):
            top = max(slope.values())
            weight = {n: math.exp((value - top) / temperature) for n, value in slope.items()}
            for n in range(problem.items):
                share = weight.get(n, 0.0) / sum(weight.values())
                rows[slot][n] += 0.7 * (share - rows[slot][n])
    return rows


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_rows_are_those_of_the_slow_annealing(steps: int, masked: bool) -> None:
    problem = smooth()
    observation = problem.sample(6, generator_from(1))
    allowed = [[list(range(6))] * 4] * 6
    if masked:
        mask = arbitrary_mask(6, 4, 6, seed=1)
        observation = Observation(observation.candidates, mask)
        allowed = [[mask[row, slot].nonzero().flatten().tolist() for slot in range(4)] for row in range(6)]
    found = annealed_rows(problem, observation, steps)
    for row in range(6):
        expected = torch.tensor(slow_rows(problem, observation[row : row + 1], allowed[row], steps))
        torch.testing.assert_close(found[row], expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("calls", [1, 2, 3, 4, 8, 31, 60])
def test_masked_items_never_get_a_share(calls: int) -> None:
    problem = smooth(kind=Noted)
    mask = arbitrary_mask(20, 4, 6, seed=3)
    observation = Observation(problem.sample(20, generator_from(1)).candidates, mask)
    mean_field_search(problem, observation, calls, generator_from(0))
    assert isinstance(problem, Noted)
    # The first question tries whether the estimator takes mixtures.
    asked = torch.stack([each for each in problem.asked if len(each) == 20])
    assert asked.shape == (calls, 20, 4, 6) and problem.budget == Budget(20 * calls, 20 * calls)
    assert bool((asked.masked_select(~mask.expand_as(asked)) == 0).all())
    torch.testing.assert_close(asked.sum(dim=-1), torch.ones(calls, 20, 4))
    mixed = (asked.amax(dim=-1) < 1 - 1e-3).flatten(1).any(dim=1)
    steps = min(24, calls - max(1, calls // 4))
    # Rows of a single allowed item are whole from the first step on; the swaps ask whole rows alone.
    assert bool(mixed[: min(steps, 1)].all()) and not bool(mixed[steps:].any())


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_units_of_the_score_do_not_matter(scale: float) -> None:
    problem, other = smooth(), smooth(scale=scale)
    observation = problem.sample(30, generator_from(1))
    one = mean_field_search(problem, observation, 12, generator_from(0)).choice
    assert float((one == mean_field_search(other, observation, 12, generator_from(0)).choice).float().mean()) > 0.97


def test_a_flat_estimator_is_no_trouble() -> None:
    problem = SlotProblem(lambda vectors: 0 * vectors.sum(dim=(-1, -2)), 2, 3, 1)
    found = mean_field_search(problem, problem.sample(4, generator_from(0)), 9, generator_from(0))
    assert found.score.tolist() == [0.0] * 4


def test_few_calls_beat_swaps_where_slots_fit_together() -> None:
    problem = smooth(slots=10, items=20)
    observation = problem.sample(60, generator_from(1))
    best = multi_swap_search(problem, observation, 400, generator_from(5)).score.mean()
    found = {
        search: float(best - search(problem, observation, 6, generator_from(0)).score.mean())
        for search in (single_swap_search, multi_swap_search, mean_field_search)
    }
    # The control is the same search without annealing: a random start in place of the rounded rows.
    assert found[mean_field_search] < 0.8 * found[multi_swap_search] < 0.8 * found[single_swap_search]


@pytest.mark.parametrize("kind", ["smooth", "rugged", "rows"])
def test_enough_calls_find_the_optimum_of_enumeration(kind: str) -> None:
    net = rugged_net(EstimatorShape(3, 2, (16, 16)), 0)
    problem: Problem = {"smooth": smooth(), "rugged": SlotProblem(net, 3, 4, 2), "rows": row_problem()}[kind]
    observation = problem.sample(20, generator_from(1))
    best = enumerate_landscape(problem, observation, problem.score).best
    found = mean_field_search(problem, observation, 300, generator_from(0))
    torch.testing.assert_close(found.score, best, atol=1e-4, rtol=1e-4)


def test_constraints_are_refused_before_any_call() -> None:
    problem = smooth().with_constraints([Distinct()])
    with pytest.raises(ValueError, match=r"expected a problem without constraints for mean-field annealing, got Dist"):
        mean_field_search(problem, problem.sample(2, generator_from(0)), 5, generator_from(0))
    assert problem.budget == Budget() and no_mixtures(smooth()) is None

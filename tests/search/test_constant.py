"""The best constant by coordinate sweeps: exact where slots do not interact, never below its start, and guarded."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.problems import Observation, Problem, RowProblem, SlotProblem, check_choice
from slot_rl.search import enumerate_landscape, search_constant
from slot_rl.seeding import generator_from, seeded_initialisation


def separable(slots: int, items: int, seed: int) -> SlotProblem:
    weights = torch.randn(slots, 2, generator=generator_from(seed))
    return SlotProblem(lambda vectors: (vectors * weights).sin().sum(dim=(-1, -2)), slots, items, 2)


def common_mask(batch: int, slots: int, items: int, seed: int) -> Tensor:
    """Masks of which every slot has an item that all requests allow, which need not be the first."""
    generator = generator_from(seed)
    mask = torch.rand(batch, slots, items, generator=generator) < 0.7
    sure = torch.randint(items, (1, slots, 1), generator=generator).expand(batch, slots, 1)
    return mask.scatter(-1, sure, True)


def mean_score(problem: Problem, observation: Observation, constant: tuple[int, ...]) -> float:
    choice = torch.tensor(constant).expand(len(observation), -1)
    return float(problem.score(observation, choice).double().mean())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.booleans(), st.integers(1, 2), st.integers(0, 999))
def test_one_sweep_solves_a_separable_problem(
    batch: int, slots: int, items: int, masked: bool, sweeps: int, seed: int
) -> None:
    problem = separable(slots, items, seed)
    observation = problem.sample(batch, generator_from(seed))
    allowed = torch.ones(slots, items, dtype=torch.bool)
    if masked:
        mask = common_mask(batch, slots, items, seed)
        observation, allowed = Observation(observation.candidates, mask), mask.all(dim=0)
    options = [allowed[slot].nonzero().flatten().tolist() for slot in range(slots)]
    best = max(itertools.product(*options), key=lambda one: mean_score(problem, observation, one))
    assert tuple(search_constant(problem, observation, sweeps).tolist()) == best


def test_short_vocabularies_are_respected() -> None:
    reached = 0
    for seed in range(10):
        with seeded_initialisation(seed):
            net = EstimatorNet(EstimatorShape(3, 3, (16,), (2, 5, 3), (4,), context_dim=2))
        problem = RowProblem(net, torch.arange(4).unsqueeze(-1))
        observation = problem.evaluation_observations(10, generator_from(0))
        constant = search_constant(problem, observation)
        assert all(0 <= int(item) < size for item, size in zip(constant, problem.sizes, strict=True))
        found = mean_score(problem, observation, tuple(constant.tolist()))
        exact = float(enumerate_landscape(problem, observation, problem.score).constant_scores.double().mean())
        assert found <= exact + 1e-6
        reached += found > exact - 1e-6
    assert reached >= 5


def test_interacting_slots_are_improved_as_by_hand() -> None:
    # Scores of (first, second), from the vectors' values 0, 1 and 2.
    values = torch.tensor([[1.0, 2.0, 0.0], [0.0, 3.0, 4.0], [0.0, 0.0, 9.0]])

    def table(vectors: Tensor) -> Tensor:
        chosen = vectors[..., 0].long()
        return values[chosen[..., 0], chosen[..., 1]]

    problem = SlotProblem(table, 2, 3, 1)
    observation = Observation(torch.tensor([[[0.0], [1.0], [2.0]]]))
    # From (0, 0): column 0 is best at 0; row 0 at 1; column 1 at 1; row 1 at 2; column 2 at 2.
    assert search_constant(problem, observation, 1).tolist() == [0, 1]
    assert search_constant(problem, observation, 2).tolist() == [1, 2]
    assert search_constant(problem, observation, 3).tolist() == [2, 2]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 999))
def test_no_masked_item_is_ever_scored(batch: int, slots: int, items: int, seed: int) -> None:
    class Checked(SlotProblem):
        def score(self, observation: Observation, choice: Tensor) -> Tensor:
            check_choice(self, observation, choice)
            return super().score(observation, choice)

    problem = Checked(lambda vectors: vectors.prod(dim=-2).sum(dim=-1), slots, items, 2)
    candidates = problem.sample(batch, generator_from(seed)).candidates
    observation = Observation(candidates, common_mask(batch, slots, items, seed))
    check_choice(problem, observation, search_constant(problem, observation).expand(batch, -1))


def test_the_mean_over_requests_counts_and_not_a_single_one() -> None:
    problem = SlotProblem(lambda vectors: vectors.sum(dim=(-1, -2)), 1, 2, 1)
    observation = Observation(torch.tensor([[[0.0], [5.0]], [[4.0], [0.0]], [[2.0], [0.0]]]))
    assert search_constant(problem, observation).tolist() == [0]
    assert search_constant(problem, observation[:2]).tolist() == [1]


def test_its_cost_is_a_call_for_each_item_and_request() -> None:
    problem = separable(3, 4, 0)
    observation = Observation(problem.sample(5, generator_from(0)).candidates, common_mask(5, 3, 4, 0))
    assert observation.mask is not None
    search_constant(problem, observation, 2)
    assert problem.budget.forwards == 2 * 5 * int(observation.mask.all(dim=0).sum())
    assert problem.budget.backwards == 0


def test_a_slot_without_a_common_item_is_refused() -> None:
    problem = separable(2, 2, 0)
    mask = torch.tensor([[[True, True], [True, False]], [[True, True], [False, True]]])
    observation = Observation(problem.sample(2, generator_from(0)).candidates, mask)
    message = "expected an item in every slot that all requests allow, got a slot without one"
    with pytest.raises(ValueError, match=message):
        search_constant(problem, observation)
    assert search_constant(problem, observation[:1]).shape == (2,)


def test_more_starts_find_a_constant_that_the_first_start_misses() -> None:
    # Two slots must move together: from item 0 in both, every single swap is a loss.
    values = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 3.0]])
    problem = SlotProblem(lambda v: torch.einsum("...i,ij,...j->...", v[..., 0, :], values, v[..., 1, :]), 2, 3, 3)
    observation = Observation(torch.eye(3).expand(2, 3, 3))
    assert search_constant(problem, observation).tolist() == [0, 0]
    assert search_constant(problem, observation, starts=20, generator=generator_from(0)).tolist() == [2, 2]
    best = search_constant(problem, observation, starts=20, generator=generator_from(0))
    assert torch.equal(best, enumerate_landscape(problem, observation, problem.score).constant)


def test_several_starts_need_a_generator() -> None:
    with pytest.raises(ValueError, match="expected a generator for 2 starts, got none"):
        search_constant(separable(2, 3, 0), separable(2, 3, 0).sample(2, generator_from(0)), starts=2)

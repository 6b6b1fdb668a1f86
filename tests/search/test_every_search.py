"""What every search promises, whatever it does in between."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slot_rl.problems import Budget, Observation, Problem, SlotProblem, check_choice
from slot_rl.search import (
    SearchResult,
    cross_entropy_search,
    genetic_search,
    local_search,
    mean_field_search,
    multi_swap_search,
    single_swap_search,
)
from slot_rl.seeding import generator_from
from tests.helpers.rugged import CheckedRows, row_problem, slot_problem

Search = Callable[[Problem, Observation, int, torch.Generator], SearchResult]

BY_SCORE = (local_search, genetic_search, cross_entropy_search)
BY_SLOPE = (single_swap_search, multi_swap_search, mean_field_search)
each_search = pytest.mark.parametrize("search", [*BY_SCORE, *BY_SLOPE])


def paid(search: Search, calls: int) -> Budget:
    return Budget(calls, calls if search in BY_SLOPE else 0)


@each_search
@settings(max_examples=20, deadline=None, derandomize=True)
@given(batch=st.integers(1, 4), calls=st.integers(1, 60), seed=st.integers(0, 10_000))
def test_padding_is_neither_scored_nor_chosen(search: Search, batch: int, calls: int, seed: int) -> None:
    problem = row_problem(seed % 5, CheckedRows)
    observation = problem.sample(batch, generator_from(seed))
    check_choice(problem, observation, search(problem, observation, calls, generator_from(seed)).choice)
    assert problem.budget == paid(search, batch * calls)


@each_search
def test_a_seed_repeats_its_answers_and_nothing_else_changes(search: Search) -> None:
    problem = slot_problem()
    observation = problem.sample(30, generator_from(0))
    kept, before = problem.candidates(observation).clone(), torch.get_rng_state()
    first, again, other = (search(problem, observation, 6, generator_from(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.choice, again.choice) and torch.equal(first.score, again.score)
    # Annealing has no chance in it, and 6 calls leave no new start.
    assert torch.equal(first.choice, other.choice) == (search is mean_field_search)
    assert torch.equal(problem.candidates(observation), kept) and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("search", BY_SCORE)
def test_an_estimator_without_gradient_is_enough(search: Search) -> None:
    problem = SlotProblem(lambda vectors: vectors.detach().sum(dim=(-1, -2)), 2, 3, 1)
    observation = Observation(torch.tensor([[[1.0], [3.0], [2.0]]]))
    assert search(problem, observation, 60, generator_from(0)).choice.tolist() == [[1, 1]]


@each_search
def test_slots_without_a_choice_are_no_trouble(search: Search) -> None:
    problem = slot_problem(items=1)
    found = search(problem, problem.sample(3, generator_from(0)), 25, generator_from(0))
    assert found.choice.tolist() == [[0, 0, 0]] * 3 and problem.budget == paid(search, 75)


@each_search
@pytest.mark.parametrize("calls", [0, -3])
def test_a_search_without_a_call_is_refused(search: Search, calls: int) -> None:
    problem = slot_problem()
    with pytest.raises(ValueError, match=f"expected at least one call per request, got {calls}"):
        search(problem, problem.sample(1, generator_from(0)), calls, generator_from(0))
    assert problem.budget == Budget(0, 0)

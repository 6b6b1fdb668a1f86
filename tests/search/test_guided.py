"""Gradient-guided search against a slow second implementation, and the promises that hold whatever the estimator is.

The second implementation handles one request with sets and loops: it ranks the swaps that are still open by their
first-order effect on the vectors, tries the best, and reopens all of them when one is taken.
"""

import itertools
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slot_rl.estimators import EstimatorShape
from slot_rl.problems import Budget, Observation, Problem, SlotProblem, check_choice
from slot_rl.search import (
    SearchResult,
    best_of,
    enumerate_landscape,
    guided_search,
    mean_field_search,
    multi_swap_search,
    random_choice,
    single_swap_search,
)
from slot_rl.seeding import generator_from
from tests.helpers.limited import forbidden, pages
from tests.helpers.rugged import SIZES, CheckedSlots, arbitrary_mask, row_problem, rugged_net, rugged_row_net

Search = Callable[[Problem, Observation, int, torch.Generator], SearchResult]


def rugged(slots: int = 3, items: int = 4, dim: int = 2, seed: int = 0) -> SlotProblem:
    return SlotProblem(rugged_net(EstimatorShape(slots, dim, (16, 16)), seed), slots, items, dim)


def linear(slots: int, items: int, dim: int, seed: int) -> SlotProblem:
    """A separable problem: each slot has its own direction."""
    weights = torch.randn(slots, dim, generator=generator_from(seed))
    return SlotProblem(lambda vectors: (vectors * weights).sum(dim=(-1, -2)), slots, items, dim)


def one_row_search(
    ask: Callable[[Tensor], Tensor], items: list[dict[int, Tensor]], start: list[int], rounds: int
) -> tuple[list[int], float]:
    """The search for one request, with loops; ``items`` holds each slot's allowed items and their vectors."""

    def look(choice: list[int]) -> tuple[float, Tensor]:
        vectors = torch.stack([items[slot][item] for slot, item in enumerate(choice)]).requires_grad_()
        score = ask(vectors)
        (slope,) = torch.autograd.grad(score, vectors)
        return score.item(), slope

    choice = list(start)
    score, slope = look(choice)
    tried: set[tuple[int, int]] = set()
    for _ in range(rounds):
        swaps = [(slot, item) for slot, allowed in enumerate(items) for item in allowed if item != choice[slot]]
        effects = {
            (s, n): float(slope[s] @ (items[s][n] - items[s][choice[s]])) for s, n in swaps if (s, n) not in tried
        }
        if not effects:
            break
        slot, item = max(effects, key=lambda swap: effects[swap])
        proposal = [item if place == slot else kept for place, kept in enumerate(choice)]
        proposed, proposed_slope = look(proposal)
        if proposed > score:
            choice, score, slope, tried = proposal, proposed, proposed_slope, set()
        else:
            tried.add((slot, item))
    return choice, score


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rounds", [0, 1, 2, 3, 5, 8, 30])
def test_slot_problems_take_the_path_of_the_slow_search(masked: bool, rounds: int) -> None:
    problem, net = rugged(), rugged_net(EstimatorShape(3, 2, (16, 16)), 0)
    candidates = problem.candidates(problem.sample(12, generator_from(1)))
    mask = torch.ones(12, 3, 4, dtype=torch.bool)
    if masked:
        mask = arbitrary_mask(12, 3, 4, seed=2)
    observation = Observation(candidates, mask if masked else None)
    start = random_choice(problem, observation, generator_from(3))
    found = guided_search(problem, observation, start, rounds)
    moved = 0
    for row in range(12):
        items = [{n: candidates[row, n] for n in range(4) if mask[row, slot, n]} for slot in range(3)]
        choice, score = one_row_search(net, items, start[row].tolist(), rounds)
        assert found.choice[row].tolist() == choice
        assert float(found.score[row]) == pytest.approx(score, rel=1e-4, abs=1e-4)
        moved += choice != start[row].tolist()
    assert moved == 0 if rounds == 0 else moved >= 6


@pytest.mark.parametrize("rounds", [0, 1, 2, 3, 5, 8, 30])
def test_row_problems_take_the_path_of_the_slow_search(rounds: int) -> None:
    problem, net = row_problem(), rugged_row_net()
    observation = problem.evaluation_observations(4, generator_from(0))
    start = random_choice(problem, observation, generator_from(3))
    found = guided_search(problem, observation, start, rounds)
    assert net.catalogue is not None
    catalogue = net.catalogue.detach()
    items = [{n: catalogue[slot, n] for n in range(size)} for slot, size in enumerate(SIZES)]
    for row in range(4):
        context = torch.tensor([row])

        def ask(vectors: Tensor, context: Tensor = context) -> Tensor:
            score: Tensor = net(vectors.unsqueeze(0), context.unsqueeze(0)).squeeze(0)
            return score

        choice, score = one_row_search(ask, items, start[row].tolist(), rounds)
        assert found.choice[row].tolist() == choice
        assert float(found.score[row]) == pytest.approx(score, rel=1e-4, abs=1e-4)
    assert torch.equal(found.choice, start) is (rounds == 0)


def test_failed_swaps_are_not_repeated_too_early() -> None:
    asked: list[list[int]] = []

    class Watched(SlotProblem):
        def score_selection(self, observation: Observation, selection: Tensor) -> Tensor:
            asked.append(selection[0].argmax(dim=-1).tolist())
            return super().score_selection(observation, selection)

    # The slope at 0 points to item 3, which overshoots, as do 2 and 1 before it; x = 1 is the only better one.
    problem = Watched(lambda vectors: (vectors - vectors.square() * 0.6).sum(dim=(-1, -2)), 1, 4, 1)
    observation = Observation(torch.tensor([[[0.0], [1.0], [2.0], [3.0]]]))
    found = guided_search(problem, observation, torch.tensor([[0]]), 4)
    assert asked == [[0], [3], [2], [1], [0]]
    assert found.choice.tolist() == [[1]] and found.score.tolist() == pytest.approx([0.4])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(0, 12), st.booleans(), st.integers(0, 10_000))
def test_a_row_and_round_is_one_forward_and_backward(batch: int, rounds: int, masked: bool, seed: int) -> None:
    problem = rugged(seed=seed % 5)
    observation = problem.sample(batch, generator_from(seed))
    if masked:
        observation = Observation(observation.candidates, arbitrary_mask(batch, 3, 4, seed))
    start = random_choice(problem, observation, generator_from(seed))
    guided_search(problem, observation, start, rounds)
    assert problem.budget == Budget((1 + rounds) * batch, (1 + rounds) * batch)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(0, 15), st.integers(1, 3), st.integers(1, 5), st.integers(0, 10_000))
def test_the_search_never_ends_below_its_start(batch: int, rounds: int, slots: int, items: int, seed: int) -> None:
    problem = rugged(slots, items, seed=seed % 5)
    candidates = problem.sample(batch, generator_from(seed)).candidates
    observation = Observation(candidates, arbitrary_mask(batch, slots, items, seed))
    start = random_choice(problem, observation, generator_from(seed))
    found = guided_search(problem, observation, start, rounds)
    check_choice(problem, observation, found.choice)
    assert bool((found.score >= problem.score(observation, start) - 1e-5).all())
    torch.testing.assert_close(problem.score(observation, found.choice), found.score, atol=1e-4, rtol=1e-4)


def test_a_masked_first_item_is_not_taken() -> None:
    problem = SlotProblem(lambda vectors: vectors.sum(dim=(-1, -2)), 1, 2, 1)
    observation = Observation(torch.tensor([[[9.0], [1.0]]]), torch.tensor([[[False, True]]]))
    found = guided_search(problem, observation, torch.tensor([[1]]), 1)
    assert found.choice.tolist() == [[1]] and found.score.tolist() == [1.0]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_slots_many_rounds_solve_a_separable_problem(masked: bool, seed: int) -> None:
    slots, items, batch = 4, 6, 10
    problem = linear(slots, items, 3, seed)
    observation = problem.sample(batch, generator_from(seed))
    if masked:
        observation = Observation(observation.candidates, arbitrary_mask(batch, slots, items, seed))
    start = random_choice(problem, observation, generator_from(seed + 1))
    found = guided_search(problem, observation, start, slots)
    for row in range(batch):
        request = observation[row : row + 1]
        options = [list(range(items))] * slots
        if observation.mask is not None:
            options = [observation.mask[row, slot].nonzero().flatten().tolist() for slot in range(slots)]
        every = torch.tensor(list(itertools.product(*options)))
        scores = problem.score(request, every.unsqueeze(1))
        assert found.choice[row].tolist() == every[scores.argmax()].tolist()


def test_a_search_leaves_its_surroundings_alone() -> None:
    problem = rugged()
    observation = problem.sample(5, generator_from(0))
    start = random_choice(problem, observation, generator_from(1))
    kept, before = start.clone(), torch.get_rng_state()
    with torch.no_grad():
        found = guided_search(problem, observation, start, 5)
        assert not torch.is_grad_enabled()
    for search in (single_swap_search, multi_swap_search, mean_field_search):
        search(problem, observation, 9, generator_from(0))
    assert torch.equal(start, kept) and torch.equal(torch.get_rng_state(), before)
    assert not found.score.requires_grad
    assert not torch.equal(found.choice, start)


def test_random_choices_are_uniform_over_the_allowed_items() -> None:
    problem = SlotProblem(lambda vectors: vectors.sum(dim=(-1, -2)), 2, 5, 1)
    mask = torch.tensor([[False, True, True, False, True], [True, True, True, True, True]]).expand(60_000, 2, 5)
    observation = Observation(torch.zeros(60_000, 5, 1), mask)
    choice = random_choice(problem, observation, generator_from(0))
    assert choice.shape == (60_000, 2)
    for slot, options in enumerate(([1, 2, 4], [0, 1, 2, 3, 4])):
        counts = torch.bincount(choice[:, slot], minlength=5)
        share = 1 / len(options)
        deviation = (60_000 * share * (1 - share)) ** 0.5
        assert counts[options].sum() == 60_000
        assert float((counts[options] - 60_000 * share).abs().max()) < 5 * deviation


def test_random_choices_stay_within_short_vocabularies() -> None:
    problem = row_problem()
    observation = problem.sample(20_000, generator_from(0))
    choice = random_choice(problem, observation, generator_from(1))
    assert [int(column.max()) for column in choice.T] == [1, 4, 2]
    check_choice(problem, observation, choice)
    assert torch.equal(choice, random_choice(problem, observation, generator_from(1)))
    assert not torch.equal(choice, random_choice(problem, observation, generator_from(2)))


def slow_search(problem: Problem, request: Observation, calls: int, most_swaps: int, seed: int) -> tuple[Tensor, float]:
    """The whole search with its restarts for one request, with lists and sets; effects are measured by the mix."""
    generator, budget = generator_from(seed), problem.with_fresh_budget()
    allowed = torch.ones(problem.slots, problem.items, dtype=torch.bool)
    mask = problem.mask(request)
    allowed = allowed if mask is None else mask.expand(1, -1, -1)[0]

    def look(choice: Tensor) -> tuple[float, Tensor]:
        score, slope = budget.score_and_slope(request, choice.unsqueeze(0))
        return float(score), slope[0]

    choice = random_choice(problem, request, generator)[0]
    score, slope = look(choice)
    best, most, failures, tried = (choice, score), most_swaps, 0, set[tuple[int, int]]()
    while budget.budget.forwards < calls:
        swaps = []
        for slot in range(problem.slots):
            open_items = [
                (float(slope[slot, n] - slope[slot, choice[slot]]), slot, n)
                for n in allowed[slot].nonzero().flatten().tolist()
                if n != choice[slot] and (slot, n) not in tried
            ]
            swaps += [max(open_items)] if open_items else []
        swaps = sorted(swaps, reverse=True)
        if failures == 2 or not swaps or swaps[0][0] <= 0:
            choice = random_choice(problem, request, generator)[0]
            score, slope = look(choice)
            most, failures, tried = most_swaps, 0, set()
        else:
            made = [swap for place, swap in enumerate(swaps[:most]) if place == 0 or swap[0] > 0]
            proposal = choice.clone()
            for _, slot, n in made:
                proposal[slot] = n
            proposed, proposed_slope = look(proposal)
            if proposed > score:
                choice, score, slope = proposal, proposed, proposed_slope
                most, failures, tried = min(2 * most, most_swaps), 0, set()
            elif len(made) == 1:
                failures, most = failures + 1, 1
                tried.add(made[0][1:])
            else:
                most = len(made) // 2
        best = max(best, (choice, score), key=lambda known: known[1])
    return best


@pytest.mark.parametrize("kind", ["slots", "masked slots", "rows"])
@pytest.mark.parametrize("swaps", ["single", "several"])
def test_whole_searches_take_the_path_of_the_slow_one(kind: str, swaps: str) -> None:
    problem: Problem = row_problem() if kind == "rows" else rugged(slots=5, items=6)
    several = swaps == "several"
    search, most = (multi_swap_search, problem.slots) if several else (single_swap_search, 1)
    for number in range(12):
        request = problem.sample(1, generator_from(number))
        if kind == "masked slots":
            request = Observation(request.candidates, arbitrary_mask(1, 5, 6, number))
        for calls in (1, 2, 3, 7, 15, 40):
            found = search(problem, request, calls, generator_from(number))
            choice, score = slow_search(problem, request, calls, most, number)
            assert float(found.score) == pytest.approx(score, rel=1e-4, abs=1e-4)
            assert torch.equal(found.choice[0], choice)


@pytest.mark.parametrize("search", [single_swap_search, multi_swap_search])
def test_restarts_reach_the_optimum_where_swaps_get_stuck(search: Search) -> None:
    problem = rugged(slots=3, items=6)
    observation = problem.sample(40, generator_from(0))
    best = enumerate_landscape(problem, observation, problem.score).best
    found = search(problem, observation, 600, generator_from(1))
    assert int((found.score > best - 1e-4).sum()) >= 38
    # The control goes on with the next best swap and never leaves its first optimum.
    start = random_choice(problem, observation, generator_from(1))
    most = problem.slots if search is multi_swap_search else 1
    control = guided_search(problem, observation, start, 599, most_swaps=most, first_swaps=most)
    assert int((control.score > best - 1e-4).sum()) <= 33


def test_several_swaps_climb_faster_than_single_ones() -> None:
    problem = linear(8, 10, 3, seed=0)
    observation = problem.sample(30, generator_from(0))
    best = guided_search(problem, observation, random_choice(problem, observation, generator_from(1)), 8).score
    # Where slots do not depend on one another, all of them are right after a single round.
    several = multi_swap_search(problem, observation, 2, generator_from(1)).score
    torch.testing.assert_close(several, best, atol=1e-4, rtol=1e-4)
    assert bool((single_swap_search(problem, observation, 2, generator_from(1)).score < best - 1e-3).all())


def test_swaps_halve_on_failure_and_double_on_success() -> None:
    asked: list[list[int]] = []

    class Watched(SlotProblem):
        def score_selection(self, observation: Observation, selection: Tensor) -> Tensor:
            asked.append(selection[0].argmax(dim=-1).tolist())
            return super().score_selection(observation, selection)

    # Each slot's first-order gain is its weight, but an even number of ones costs 100; the slope does not show it.
    weight = torch.tensor([4.0, 3.0, 2.0, 1.0])

    def score(vectors: Tensor) -> Tensor:
        ones = vectors.detach()[..., 0].sum(dim=-1)
        return (vectors[..., 0] * weight).sum(dim=-1) - 100 * ((ones % 2 == 0) & (ones > 0))

    problem = Watched(score, 4, 2, 1)
    observation = Observation(torch.tensor([[[0.0], [1.0]]]))
    start = torch.zeros(1, 4, dtype=torch.long)
    found = guided_search(problem, observation, start, 6, most_swaps=4, first_swaps=4)
    # Four fail, two fail, one succeeds, two succeed; then one is left, which fails, and the others lead back.
    assert asked[:6] == [[0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert found.choice.tolist() == [[1, 1, 1, 0]] and found.score.tolist() == [9.0]


@pytest.mark.parametrize("search", [single_swap_search, multi_swap_search])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(batch=st.integers(1, 5), calls=st.integers(1, 40), more=st.integers(1, 20), seed=st.integers(0, 10_000))
def test_more_calls_never_score_lower(search: Search, batch: int, calls: int, more: int, seed: int) -> None:
    problem = rugged(seed=seed % 5)
    candidates = problem.sample(batch, generator_from(seed)).candidates
    observation = Observation(candidates, arbitrary_mask(batch, 3, 4, seed))
    few = search(problem, observation, calls, generator_from(seed))
    many = search(problem, observation, calls + more, generator_from(seed))
    assert bool((many.score >= few.score).all())


def test_a_given_start_is_kept_and_left_after_failures() -> None:
    problem = rugged(slots=4, items=8)
    observation = problem.sample(30, generator_from(0))
    start = guided_search(problem, observation, random_choice(problem, observation, generator_from(1)), 100)
    problem.budget = Budget()
    # A result with its slope is not asked again.
    stuck = guided_search(problem, observation, start, 60)
    assert torch.equal(stuck.choice, start.choice) and problem.budget == Budget(60 * 30, 60 * 30)
    again = guided_search(problem, observation, start, 60, patience=4, generator=generator_from(2))
    assert bool((again.score >= start.score).all()) and int((again.score > start.score + 1e-3).sum()) >= 3


@pytest.mark.parametrize("shared", [True, False])
def test_shared_starts_depend_on_their_request_alone(shared: bool) -> None:
    problem = rugged(slots=4, items=8)
    observation = problem.sample(20, generator_from(0))
    start = random_choice(problem, observation, generator_from(1))

    def found(rows: slice) -> Tensor:
        asked, begin = observation[torch.arange(20)[rows]], start[rows]
        return guided_search(problem, asked, begin, 80, 2, generator_from(2), shared=shared).choice

    apart = torch.cat([found(slice(i, i + 1)) for i in range(20)])
    assert torch.equal(found(slice(None)), apart) == shared


def test_shared_starts_are_allowed_ones() -> None:
    problem = pages()
    observation = problem.sample(30, generator_from(0))
    start = random_choice(problem, observation, generator_from(1))
    asked: list[Tensor] = []
    score = problem.score_and_slope

    def spy(requests: Observation, choice: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(choice)
        return score(requests, choice)

    problem.score_and_slope = spy  # type: ignore[assignment, method-assign]
    guided_search(problem, observation, start, 60, 1, generator_from(2), shared=True)
    assert all(forbidden(problem, observation, choice) == 0 for choice in asked)
    # Rows of which several slots are new at once are new starts.
    assert sum(int(((b != a).sum(dim=1) > 2).sum()) for a, b in pairwise(asked)) > 30


def test_rows_without_an_open_swap_score_nothing_masked() -> None:
    problem = CheckedSlots(lambda vectors: vectors.sum(dim=(-1, -2)), 1, 3, 1)
    observation = Observation(torch.tensor([[[9.0], [1.0], [2.0]]]), torch.tensor([[[False, True, True]]]))
    for patience in (None, 2):
        found = guided_search(problem, observation, torch.tensor([[1]]), 9, patience, generator_from(0))
        assert found.choice.tolist() == [[2]] and found.score.tolist() == [2.0]


@pytest.mark.parametrize(("rounds", "first", "most"), [(-1, 1, 1), (3, 0, 1), (0, 2, 1)])
def test_rounds_and_swaps_out_of_order_are_refused(rounds: int, first: int, most: int) -> None:
    problem = rugged()
    observation = problem.sample(1, generator_from(0))
    start = random_choice(problem, observation, generator_from(0))
    message = f"expected rounds >= 0 and first_swaps from 1 to most_swaps, got {rounds}, {first} and {most}"
    with pytest.raises(ValueError, match=message):
        guided_search(problem, observation, start, rounds, most_swaps=most, first_swaps=first)
    assert problem.budget == Budget(0, 0)


@pytest.mark.parametrize(("patience", "generator"), [(0, generator_from(0)), (2, None)])
def test_restarts_need_patience_and_a_generator(patience: int, generator: torch.Generator | None) -> None:
    problem = rugged()
    observation = problem.sample(1, generator_from(0))
    start = random_choice(problem, observation, generator_from(0))
    with pytest.raises(ValueError, match=f"expected patience >= 1 and a generator to start again, got {patience}"):
        guided_search(problem, observation, start, 3, patience, generator)


def test_the_best_of_several_searches_is_each_rows_own_best() -> None:
    runs = [
        SearchResult(torch.tensor([[0, 1], [2, 3], [4, 5]]), torch.tensor([1.0, 5.0, -2.0])),
        SearchResult(torch.tensor([[6, 7], [8, 9], [10, 11]]), torch.tensor([2.0, 4.0, -3.0])),
        SearchResult(torch.tensor([[12, 13], [14, 15], [16, 17]]), torch.tensor([0.0, 4.5, -1.0])),
    ]
    best = best_of(runs)
    assert best.choice.tolist() == [[6, 7], [2, 3], [16, 17]]
    assert best.score.tolist() == [2.0, 5.0, -1.0]
    assert torch.equal(best_of(runs[:1]).choice, runs[0].choice)


@pytest.mark.parametrize("most_swaps", [1, 3])
@pytest.mark.parametrize("patience", [None, 2])
@pytest.mark.parametrize("rounds", [0, 1, 2, 6, 20])
def test_the_slope_belongs_to_the_returned_configuration(rounds: int, patience: int | None, most_swaps: int) -> None:
    problem = rugged()
    observation = problem.sample(12, generator_from(1))
    start = random_choice(problem, observation, generator_from(3))
    found = guided_search(problem, observation, start, rounds, patience, generator_from(4), most_swaps)
    for row in range(12):
        selection = torch.nn.functional.one_hot(found.choice[row : row + 1], 4).float().requires_grad_()
        (slope,) = torch.autograd.grad(problem.score_selection(observation[row : row + 1], selection).sum(), selection)
        assert found.slope is not None
        torch.testing.assert_close(found.slope[row : row + 1], slope, rtol=1e-3, atol=1e-3)

"""Gradient-guided search against a slow second implementation, and the promises that hold whatever the estimator is.

The second implementation handles one request with sets and loops: it ranks the swaps that are still open by their
first-order effect on the vectors, tries the best, and reopens all of them when one is taken.
"""

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.problems import Budget, Observation, Problem, RowProblem, SlotProblem, check_choice
from slot_rl.search import guided_search, random_choice, restarted_search
from slot_rl.seeding import generator_from, seeded_initialisation


def rugged_net(shape: EstimatorShape, seed: int) -> EstimatorNet:
    """A network whose first-order effects often mislead."""
    with seeded_initialisation(seed):
        net = EstimatorNet(shape)
    with torch.no_grad():
        for part in net.parameters():
            part.mul_(3)
    return net


def rugged(slots: int = 3, items: int = 4, dim: int = 2, seed: int = 0) -> SlotProblem:
    return SlotProblem(rugged_net(EstimatorShape(slots, dim, (16, 16)), seed), slots, items, dim)


def rows(seed: int = 0) -> RowProblem:
    net = rugged_net(EstimatorShape(3, 3, (16,), (2, 5, 3), (4,), context_dim=2), seed)
    return RowProblem(net, torch.arange(4).unsqueeze(-1))


def linear(slots: int, items: int, dim: int, seed: int) -> SlotProblem:
    """A separable problem: each slot has its own direction."""
    weights = torch.randn(slots, dim, generator=generator_from(seed))
    return SlotProblem(lambda vectors: (vectors * weights).sum(dim=(-1, -2)), slots, items, dim)


def arbitrary_mask(batch: int, slots: int, items: int, seed: int) -> Tensor:
    """Any masks with at least one item in each slot, which need not be the first."""
    generator = generator_from(seed)
    mask = torch.rand(batch, slots, items, generator=generator) < 0.4
    sure = torch.randint(items, (batch, slots, 1), generator=generator)
    return mask.scatter(-1, sure, True)


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
def test_each_row_of_a_slot_problem_takes_the_path_of_the_slow_search(masked: bool, rounds: int) -> None:
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
def test_each_context_of_a_row_problem_takes_the_path_of_the_slow_search(rounds: int) -> None:
    problem, net = rows(), rugged_net(EstimatorShape(3, 3, (16,), (2, 5, 3), (4,), context_dim=2), 0)
    observation = problem.evaluation_observations(4, generator_from(0))
    start = random_choice(problem, observation, generator_from(3))
    found = guided_search(problem, observation, start, rounds)
    assert net.catalogue is not None
    catalogue = net.catalogue.detach()
    items = [{n: catalogue[slot, n] for n in range(size)} for slot, size in enumerate((2, 5, 3))]
    for row in range(4):
        context = torch.tensor([row])

        def ask(vectors: Tensor, context: Tensor = context) -> Tensor:
            score: Tensor = net(vectors.unsqueeze(0), context.unsqueeze(0)).squeeze(0)
            return score

        choice, score = one_row_search(ask, items, start[row].tolist(), rounds)
        assert found.choice[row].tolist() == choice
        assert float(found.score[row]) == pytest.approx(score, rel=1e-4, abs=1e-4)
    assert torch.equal(found.choice, start) is (rounds == 0)


def test_swaps_that_failed_are_not_repeated_until_the_configuration_changes() -> None:
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
def test_the_budget_is_exactly_one_forward_and_backward_per_row_and_round(
    batch: int, rounds: int, masked: bool, seed: int
) -> None:
    problem = rugged(seed=seed % 5)
    observation = problem.sample(batch, generator_from(seed))
    if masked:
        observation = Observation(observation.candidates, arbitrary_mask(batch, 3, 4, seed))
    start = random_choice(problem, observation, generator_from(seed))
    guided_search(problem, observation, start, rounds)
    assert problem.budget == Budget((1 + rounds) * batch, (1 + rounds) * batch)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(0, 15), st.integers(1, 3), st.integers(1, 5), st.integers(0, 10_000))
def test_the_search_never_ends_below_its_start_nor_on_a_masked_item(
    batch: int, rounds: int, slots: int, items: int, seed: int
) -> None:
    problem = rugged(slots, items, seed=seed % 5)
    candidates = problem.sample(batch, generator_from(seed)).candidates
    observation = Observation(candidates, arbitrary_mask(batch, slots, items, seed))
    start = random_choice(problem, observation, generator_from(seed))
    found = guided_search(problem, observation, start, rounds)
    check_choice(problem, observation, found.choice)
    assert bool((found.score >= problem.score(observation, start) - 1e-5).all())
    torch.testing.assert_close(problem.score(observation, found.choice), found.score, atol=1e-4, rtol=1e-4)


def test_a_masked_first_item_is_not_taken_when_no_swap_is_left_to_try() -> None:
    problem = SlotProblem(lambda vectors: vectors.sum(dim=(-1, -2)), 1, 2, 1)
    observation = Observation(torch.tensor([[[9.0], [1.0]]]), torch.tensor([[[False, True]]]))
    found = guided_search(problem, observation, torch.tensor([[1]]), 1)
    assert found.choice.tolist() == [[1]] and found.score.tolist() == [1.0]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_as_many_rounds_as_slots_find_the_optimum_of_a_separable_problem(masked: bool, seed: int) -> None:
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


@pytest.mark.parametrize("kind", ["slots", "rows"])
def test_restarts_never_do_worse_than_any_single_search(kind: str) -> None:
    problem: Problem = rows() if kind == "rows" else rugged(slots=4, items=8)
    observation = problem.sample(20, generator_from(0))
    several = restarted_search(problem, observation, 4, 5, generator_from(7))
    assert problem.budget == Budget(4 * 6 * 20, 4 * 6 * 20)
    generator = generator_from(7)
    single = [guided_search(problem, observation, random_choice(problem, observation, generator), 5) for _ in range(4)]
    scores = torch.stack([run.score for run in single])
    assert torch.equal(several.score, scores.amax(dim=0))
    for row in range(20):
        assert several.choice[row].tolist() in [run.choice[row].tolist() for run in single]
    torch.testing.assert_close(problem.score(observation, several.choice), several.score, atol=1e-4, rtol=1e-4)
    assert len(set(scores.argmax(dim=0).tolist())) > 1


def test_a_search_leaves_the_start_the_global_generator_and_the_gradient_mode_alone() -> None:
    problem = rugged()
    observation = problem.sample(5, generator_from(0))
    start = random_choice(problem, observation, generator_from(1))
    kept, before = start.clone(), torch.get_rng_state()
    with torch.no_grad():
        found = guided_search(problem, observation, start, 5)
        assert not torch.is_grad_enabled()
    restarted_search(problem, observation, 2, 1, generator_from(0))
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


def test_random_choices_stay_within_short_vocabularies_and_repeat_under_a_generator() -> None:
    problem = rows()
    observation = problem.sample(20_000, generator_from(0))
    choice = random_choice(problem, observation, generator_from(1))
    assert [int(column.max()) for column in choice.T] == [1, 4, 2]
    check_choice(problem, observation, choice)
    assert torch.equal(choice, random_choice(problem, observation, generator_from(1)))
    assert not torch.equal(choice, random_choice(problem, observation, generator_from(2)))

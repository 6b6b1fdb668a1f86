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

from slot_rl.estimators import EstimatorShape
from slot_rl.problems import Budget, Observation, Problem, SlotProblem, check_choice
from slot_rl.search import SearchResult, best_of, guided_search, random_choice, restarted_search
from slot_rl.seeding import generator_from
from tests.helpers.rugged import SIZES, arbitrary_mask, row_problem, rugged_net, rugged_row_net


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


@pytest.mark.parametrize("kind", ["slots", "rows"])
def test_restarts_never_do_worse_than_any_single_search(kind: str) -> None:
    problem: Problem = row_problem() if kind == "rows" else rugged(slots=4, items=8)
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


def test_a_search_leaves_its_surroundings_alone() -> None:
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


def test_random_choices_stay_within_short_vocabularies() -> None:
    problem = row_problem()
    observation = problem.sample(20_000, generator_from(0))
    choice = random_choice(problem, observation, generator_from(1))
    assert [int(column.max()) for column in choice.T] == [1, 4, 2]
    check_choice(problem, observation, choice)
    assert torch.equal(choice, random_choice(problem, observation, generator_from(1)))
    assert not torch.equal(choice, random_choice(problem, observation, generator_from(2)))


def slow_rounds(
    problem: Problem, request: Observation, items: list[list[int]], start: list[int], rounds: int, proposals: int
) -> tuple[list[int], float, Budget]:
    """Rounds of several swaps for one request, with sets and loops; the swaps' effects are measured by the mix."""

    def look(choice: list[int]) -> tuple[float, Tensor]:
        rows = torch.nn.functional.one_hot(torch.tensor([choice]), problem.items).float().requires_grad_()
        score = twin.score_selection(request, rows)
        (slope,) = torch.autograd.grad(score.sum(), rows)
        return score.item(), slope[0]

    def swapped(slot: int, item: int) -> list[int]:
        return [item if place == slot else kept for place, kept in enumerate(choice)]

    twin = problem.with_fresh_budget()
    choice, tried, budget = list(start), set[tuple[int, int]](), Budget(1, 1)
    score, slope = look(choice)
    for _ in range(rounds):
        swaps = [(s, n) for s, allowed in enumerate(items) for n in allowed if n != choice[s] and (s, n) not in tried]
        swaps.sort(key=lambda swap: float(slope[swap] - slope[swap[0], choice[swap[0]]]), reverse=True)
        # Where fewer are open than there are proposals, the calls are spent all the same.
        budget.forwards += min(proposals, problem.slots * problem.items)
        scored = {swap: float(twin.score(request, torch.tensor([swapped(*swap)]))) for swap in swaps[:proposals]}
        best = max(scored, key=lambda swap: scored[swap], default=None)
        if best is None or scored[best] <= score:
            tried |= scored.keys()
            continue
        choice, score, tried = swapped(*best), scored[best], set()
        slope = look(choice)[1]
        budget.forwards, budget.backwards = budget.forwards + 1, budget.backwards + 1
    return choice, score, budget


@pytest.mark.parametrize(
    ("kind", "proposals"),
    [
        *itertools.product(["slots", "masked slots", "rows"], [2, 3, 5]),
        ("slots", 99),
        ("masked slots", 99),
        ("rows", 99),
    ],
)
def test_several_swaps_take_the_path_of_the_slow_search(kind: str, proposals: int) -> None:
    problem: Problem = row_problem() if kind == "rows" else rugged()
    observation = problem.sample(8, generator_from(1))
    if kind == "masked slots":
        observation = Observation(observation.candidates, arbitrary_mask(8, 3, 4, seed=2))
    start = random_choice(problem, observation, generator_from(3))
    moved = 0
    for rounds in (0, 1, 2, 4, 9):
        twin, budget = problem.with_fresh_budget(), Budget()
        found = guided_search(twin, observation, start, rounds, proposals)
        for row in range(8):
            request = observation[row : row + 1]
            items = [list(range(size)) for size in problem.sizes]
            if request.mask is not None:
                items = [request.mask[0, slot].nonzero().flatten().tolist() for slot in range(3)]
            choice, score, cost = slow_rounds(problem, request, items, start[row].tolist(), rounds, proposals)
            assert found.choice[row].tolist() == choice
            assert float(found.score[row]) == pytest.approx(score, rel=1e-4, abs=1e-4)
            budget.forwards, budget.backwards = budget.forwards + cost.forwards, budget.backwards + cost.backwards
        assert twin.budget == budget
        moved += budget.backwards - 8
    assert moved >= 20


@pytest.mark.parametrize("proposals", [12, 13, 1_000])
def test_all_swaps_at_once_find_the_best_one(proposals: int) -> None:
    problem = rugged()
    observation = problem.sample(20, generator_from(4))
    start = random_choice(problem, observation, generator_from(5))
    found = guided_search(problem, observation, start, 1, proposals)
    guessed = guided_search(problem, observation, start, 1)
    improved, missed = 0, 0
    for row in range(20):
        neighbours = [start[row].tolist()]
        for slot, item in itertools.product(range(3), range(4)):
            neighbours.append([item if place == slot else kept for place, kept in enumerate(start[row].tolist())])
        scores = problem.score(observation[row : row + 1], torch.tensor(neighbours).unsqueeze(1)).squeeze(1)
        assert found.choice[row].tolist() == neighbours[int(scores.argmax())]
        assert float(found.score[row]) == pytest.approx(float(scores.max()), abs=1e-4)
        improved += float(scores.max()) > float(scores[0]) + 1e-3
        missed += float(guessed.score[row]) < float(scores.max()) - 1e-3
    # The first-order effect alone names another swap in some of the rows.
    assert improved >= 15 and missed >= 3


def test_several_failed_swaps_are_not_scored_again() -> None:
    asked: list[list[int]] = []

    class Watched(SlotProblem):
        def score(self, observation: Observation, choice: Tensor) -> Tensor:
            asked.append(choice[:, 0, 0].tolist())
            return super().score(observation, choice)

    # By first-order effect the items rank 4, 3, 2, 1, 0 from item 0 (slope 1), of which 1 alone is better; from item 1
    # (slope -0.2) they rank 0, 2, 3, 4, and none is.
    problem = Watched(lambda vectors: (vectors - vectors.square() * 0.6).sum(dim=(-1, -2)), 1, 5, 1)
    observation = Observation(torch.tensor([[[0.0], [1.0], [2.0], [3.0], [4.0]]]))
    found = guided_search(problem, observation, torch.tensor([[0]]), 4, 2)
    assert asked == [[4, 3], [2, 1], [0, 2], [3, 4]]
    assert found.choice.tolist() == [[1]] and found.score.tolist() == pytest.approx([0.4])
    # Four rounds of two, the start, and the one row that changed.
    assert problem.budget == Budget(1 + 4 * 2 + 1, 2)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 5),
    st.integers(0, 8),
    st.integers(2, 20),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 10_000),
)
def test_several_proposals_never_end_below_the_start(
    batch: int, rounds: int, proposals: int, slots: int, items: int, seed: int
) -> None:
    problem = rugged(slots, items, seed=seed % 5)
    candidates = problem.sample(batch, generator_from(seed)).candidates
    observation = Observation(candidates, arbitrary_mask(batch, slots, items, seed))
    start = random_choice(problem, observation, generator_from(seed))
    found = guided_search(problem, observation, start, rounds, proposals)
    changed = problem.budget.backwards - batch
    fixed = batch * (1 + rounds * min(proposals, slots * items))
    if min(proposals, slots * items) > 1:
        assert problem.budget.forwards == fixed + changed and 0 <= changed <= batch * rounds
    check_choice(problem, observation, found.choice)
    assert bool((found.score >= problem.score(observation, start) - 1e-5).all())
    torch.testing.assert_close(problem.score(observation, found.choice), found.score, atol=1e-4, rtol=1e-4)


def test_a_masked_item_does_not_hide_the_allowed_ones() -> None:
    problem = SlotProblem(lambda vectors: vectors.sum(dim=(-1, -2)), 1, 3, 1)
    observation = Observation(torch.tensor([[[9.0], [1.0], [2.0]]]), torch.tensor([[[False, True, True]]]))
    found = guided_search(problem, observation, torch.tensor([[1]]), 1, 3)
    assert found.choice.tolist() == [[2]] and found.score.tolist() == [2.0]


@pytest.mark.parametrize(("rounds", "proposals"), [(-1, 1), (3, 0), (0, -2)])
def test_negative_rounds_and_no_proposals_are_refused(rounds: int, proposals: int) -> None:
    problem = rugged()
    observation = problem.sample(1, generator_from(0))
    start = random_choice(problem, observation, generator_from(0))
    message = f"expected rounds >= 0 and proposals >= 1, got {rounds} and {proposals}"
    with pytest.raises(ValueError, match=message):
        guided_search(problem, observation, start, rounds, proposals)
    assert problem.budget == Budget(0, 0)


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


@pytest.mark.parametrize("proposals", [1, 3])
@pytest.mark.parametrize("rounds", [0, 1, 2, 6])
def test_the_slope_belongs_to_the_returned_configuration(rounds: int, proposals: int) -> None:
    problem = rugged()
    observation = problem.sample(12, generator_from(1))
    found = guided_search(
        problem, observation, random_choice(problem, observation, generator_from(3)), rounds, proposals
    )
    for row in range(12):
        selection = torch.nn.functional.one_hot(found.choice[row : row + 1], 4).float().requires_grad_()
        (slope,) = torch.autograd.grad(problem.score_selection(observation[row : row + 1], selection).sum(), selection)
        assert found.slope is not None
        torch.testing.assert_close(found.slope[row : row + 1], slope, rtol=1e-3, atol=1e-3)

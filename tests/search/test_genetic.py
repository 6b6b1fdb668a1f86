"""The genetic algorithm: its budget, its masks and its answer whatever the settings, and each of its parts by hand."""

import itertools
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slot_rl.problems import Budget, Observation, Problem, make_problem
from slot_rl.search import allowed_items, best_of, enumerate_landscape, genetic, genetic_search, random_choice
from slot_rl.search.base import SearchResult
from slot_rl.seeding import generator_from
from tests.helpers.rugged import SIZES, arbitrary_mask, check_paid, requests, row_problem, slot_problem


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.integers(1, 5),
    st.integers(1, 60),
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.booleans()),
    st.one_of(st.none(), st.integers(1, 20)),
    st.integers(1, 5),
    st.floats(0, 9),
    st.integers(0, 10_000),
)
def test_every_request_pays_exactly_its_calls(
    batch: int,
    calls: int,
    sizes: tuple[int, int, bool],
    population: int | None,
    tournament: int,
    mutations: float,
    seed: int,
) -> None:
    slots, items, masked = sizes
    problem = slot_problem(slots, items, seed % 5)
    observation = requests(problem, batch, masked, seed)
    found = genetic_search(problem, observation, calls, generator_from(seed), population, tournament, mutations)
    scores = check_paid(problem, observation, found, calls)
    # Not equal: a row that is scored twice may differ in its last bit, and counts with its first score.
    torch.testing.assert_close(found.score, scores.max(dim=0).values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("calls", "population", "shares"),
    [
        (10, 4, [4, 2, 2, 2]),
        (9, 4, [4, 2, 2, 1]),
        (4, 4, [4]),
        (3, 4, [3]),
        (3, 1, [1, 1, 1]),
        (9, 5, [5, 2, 2]),
        (31, None, [4] + [2] * 13 + [1]),
        (200, None, [7] + [3] * 64 + [1]),
        (100_000, None, [32, 16]),
    ],
)
def test_a_generation_breeds_half_the_population(
    calls: int, population: int | None, shares: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = slot_problem()
    asked: list[int] = []

    class Enough(Exception):
        """Ends a search whose first generations have been seen."""

    def watched(problem: Problem, observation: Observation, rows: Tensor) -> Tensor:
        if len(asked) == len(shares):
            raise Enough
        asked.append(rows.shape[1])
        return problem.score(observation, rows.transpose(0, 1)).T

    monkeypatch.setattr(genetic, "_score", watched)
    try:
        genetic_search(problem, problem.sample(2, generator_from(0)), calls, generator_from(0), population)
    except Enough:
        assert calls == 100_000
    assert asked == shares


def test_more_generations_never_end_lower() -> None:
    problem = slot_problem()
    observation = problem.sample(20, generator_from(3))
    # Six rows and then three a generation, from the same generator: the shorter search is the longer one's beginning.
    runs = [genetic_search(problem, observation, calls, generator_from(5), 6).score for calls in range(6, 90, 3)]
    assert all(bool((after >= before).all()) for before, after in itertools.pairwise(runs))
    assert float(runs[-1].mean()) > float(runs[0].mean()) + 0.1


def test_enough_calls_find_the_best_of_a_rugged_problem() -> None:
    problem = slot_problem()
    observation = problem.sample(30, generator_from(3))
    best = enumerate_landscape(problem, observation, problem.score).best
    many = genetic_search(problem, observation, 600, generator_from(0), population=24)
    assert int((many.score > best - 1e-4).sum()) == 30
    few = genetic_search(problem, observation, 10, generator_from(0))
    assert int((few.score > best - 1e-4).sum()) < 20


@pytest.mark.parametrize("calls", [31, 200])
def test_it_beats_as_many_random_rows(calls: int) -> None:
    problem = make_problem("SlotRL/SlotsLarge-v0")
    observation, generator = problem.sample(48, generator_from(11)), generator_from(0)
    rows = [random_choice(problem, observation, generator) for _ in range(calls)]
    at_random = best_of([SearchResult(row, problem.score(observation, row)) for row in rows])
    bred = genetic_search(problem, observation, calls, generator_from(0))
    margin = bred.score - at_random.score
    # Three standard errors above nothing at least.
    assert float(margin.mean()) > 3 * float(margin.std()) / 48**0.5


def test_a_child_always_mutates_where_it_can() -> None:
    allowed = arbitrary_mask(40, 4, 5, 3)
    allowed[0] = torch.eye(5, dtype=torch.bool)[:4]
    allowed[1, :3] = torch.eye(5, dtype=torch.bool)[:3]
    allowed[1, 3] = True
    items = genetic._Items.of(allowed)
    first = allowed.int().argmax(dim=-1).unsqueeze(1).expand(-1, 50, -1)
    children = genetic._mutated(first, items, 0.0, generator_from(0))
    changed = (children != first).sum(dim=2)
    variable = (allowed.sum(dim=-1) > 1).any(dim=1)
    assert not variable[0] and variable[1:].sum() >= 38
    assert torch.equal(changed, variable.long().unsqueeze(1).expand(-1, 50))
    assert bool((children[1, :, 3] != first[1, :, 3]).all())
    assert bool(allowed.unsqueeze(1).expand(-1, 50, -1, -1).gather(3, children.unsqueeze(3)).all())


def test_mutations_are_spread_evenly_over_other_items() -> None:
    allowed = torch.tensor([[True, False, True, True, True, False]] * 4).unsqueeze(0)
    rows = torch.full((1, 40_000, 4), 2)
    children = genetic._mutated(rows, genetic._Items.of(allowed), 2.0, generator_from(0))
    changed = (children != 2).sum(dim=2).double()
    # Two of four slots on average, and one where it would be none: a sixteenth of the children.
    assert float(changed.mean()) == pytest.approx(2 + 1 / 16, abs=0.02)
    shares = children[children != 2].bincount(minlength=6) / float(changed.sum())
    assert shares.tolist() == pytest.approx([1 / 3, 0, 0, 1 / 3, 1 / 3, 0], abs=0.01)
    every = genetic._mutated(rows, genetic._Items.of(allowed), 4.0, generator_from(0))
    assert bool((every != 2).all())


def test_parents_win_tournaments_and_children_mix_them() -> None:
    rows = torch.tensor([[[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2]]])
    scores = torch.tensor([[1.0, 3.0, 2.0]])
    # The best of three wins unless it does not enter: 1 - (2/3) ** k; an entrant may enter twice.
    for tournament, share in ((1, 1 / 3), (2, 5 / 9), (3, 19 / 27), (60, 1.0)):
        children = genetic._children(rows, scores, 30_000, tournament, generator_from(0))
        assert children.shape == (1, 30_000, 4)
        assert float((children == 1).double().mean()) == pytest.approx(share, abs=0.01)
        halves = (children[0] == 1).sum(dim=1).bincount(minlength=5) / 30_000
        both, one = share**2, 2 * share * (1 - share)
        assert float(halves[4]) == pytest.approx(both + one / 16, abs=0.012)
        assert float(halves[2]) == pytest.approx(one * 6 / 16, abs=0.012)


def test_the_best_survive_and_a_row_counts_once() -> None:
    rows = torch.tensor([[[0, 1], [1, 1], [0, 1], [2, 0]], [[0, 0], [0, 0], [0, 0], [1, 0]]])
    scores = torch.tensor([[5.0, 2.0, 5.0, 3.0], [4.0, 4.0, 4.0, 1.0]])
    kept, values = genetic._survivors(rows, scores, 3)
    assert kept[0].tolist() == [[0, 1], [2, 0], [1, 1]] and values[0].tolist() == [5.0, 3.0, 2.0]
    assert kept[1].tolist() == [[0, 0], [1, 0], [0, 0]] and values[1].tolist() == [4.0, 1.0, 4.0]


@pytest.mark.parametrize(
    ("population", "tournament", "mutations", "message"),
    [
        (0, 3, 1.0, "expected population >= 1, got 0"),
        (4, 0, 1.0, "expected tournament >= 1 and mutations >= 0, got 0 and 1.0"),
        (None, 3, -0.5, "expected tournament >= 1 and mutations >= 0, got 3 and -0.5"),
        (None, 3, float("nan"), "expected tournament >= 1 and mutations >= 0, got 3 and nan"),
        (None, 3, float("inf"), "expected tournament >= 1 and mutations >= 0, got 3 and inf"),
    ],
)
def test_settings_that_breed_nothing_are_refused(
    population: int | None, tournament: int, mutations: float, message: str
) -> None:
    problem = slot_problem()
    observation = problem.sample(1, generator_from(0))
    with pytest.raises(ValueError, match=message):
        genetic_search(problem, observation, 9, generator_from(0), population, tournament, mutations)
    assert problem.budget == Budget(0, 0)


def test_allowed_items_are_the_masks_spelled_out() -> None:
    problem = slot_problem()
    observation = requests(problem, 6, True, 0)
    assert observation.mask is not None and torch.equal(allowed_items(problem, observation), observation.mask)
    assert bool(allowed_items(problem, problem.sample(6, generator_from(0))).all())
    rows = row_problem()
    allowed = allowed_items(rows, rows.sample(2, generator_from(0)))
    assert allowed.shape == (2, 3, 5) and allowed.sum(dim=-1).tolist() == [list(SIZES)] * 2
    counts: dict[int, int] = defaultdict(int)
    for slot, item in allowed[0].nonzero().tolist():
        counts[slot] = max(counts[slot], item + 1)
    assert tuple(counts.values()) == SIZES

"""Searches under constraints: every row that is scored is allowed, calls are exact, and the optimum is found."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slot_rl.problems import Budget, Observation, Problem, SlotProblem
from slot_rl.problems.constraints import AtMost, Constraint, Distinct, Feasible, Fixed, Infeasible
from slot_rl.search import (
    SearchResult,
    allowed_items,
    cross_entropy_search,
    genetic_search,
    guided_search,
    is_allowed,
    local_search,
    moves,
    moves_of,
    multi_swap_search,
    random_choice,
    single_swap_search,
    sweeps,
)
from slot_rl.seeding import generator_from
from tests.helpers.limited_cases import Case, Row, each_case, each_engine, make_case, slots
from tests.helpers.rugged import CheckedSlots, refuse

Search = Callable[[Problem, Observation, int, torch.Generator], SearchResult]

BY_SLOPE = (single_swap_search, multi_swap_search)
each_search = pytest.mark.parametrize("search", [local_search, genetic_search, cross_entropy_search, *BY_SLOPE])


def paid(search: Search, calls: int) -> Budget:
    return Budget(calls, calls if search in BY_SLOPE else 0)


def rows_of(choice: Tensor) -> list[Row]:
    return [tuple(row) for row in choice.tolist()]


@each_case
def test_what_is_allowed_is_what_the_rules_allow(name: str, tmp_path: Path) -> None:
    case = make_case(name, tmp_path)
    rules = case.problem.rules(case.observation)
    assert rules is not None
    every = torch.cartesian_prod(*map(torch.arange, case.problem.sizes)).view(-1, 1, case.problem.slots)
    every = every.expand(-1, len(case.observation), -1)
    found = is_allowed(case.problem, case.observation, every)
    assert torch.equal(found, rules.allows(every))
    items = allowed_items(case.problem, case.observation)
    for request in range(len(case.observation)):
        allowed = case.allowed(request)
        assert rows_of(every[found[:, request], 0]) == allowed
        for slot in range(case.problem.slots):
            assert items[request, slot].nonzero().flatten().tolist() == sorted({row[slot] for row in allowed})


@each_case
def test_random_choices_reach_every_allowed_row_and_no_other(name: str, tmp_path: Path) -> None:
    case = make_case(name, tmp_path, batch=2)
    repeated = case.observation[torch.arange(2).repeat_interleave(2_000)]
    choice = random_choice(case.problem, repeated, generator_from(0))
    for request, part in enumerate(choice.split(2_000)):
        assert set(rows_of(part)) == set(case.allowed(request))
    assert torch.equal(choice, random_choice(case.problem, repeated, generator_from(0)))


def test_random_permutations_are_uniform(tmp_path: Path) -> None:
    case = make_case("permutation", tmp_path, batch=1)
    choice = random_choice(case.problem, case.observation[torch.zeros(24_000, dtype=torch.long)], generator_from(0))
    counts = torch.unique(choice, dim=0, return_counts=True)[1]
    assert len(counts) == 24 and float((counts - 1_000).abs().max()) < 5 * (1_000 * 23 / 24) ** 0.5


@each_search
@each_case
@pytest.mark.parametrize("calls", [1, 2, pytest.param(9, marks=pytest.mark.slow), 40])
def test_every_call_is_allowed_and_counted(search: Search, name: str, calls: int, tmp_path: Path) -> None:
    case = make_case(name, tmp_path, seed=calls)
    found = search(case.problem, case.observation, calls, generator_from(calls))
    assert case.problem.budget == paid(search, len(case.observation) * calls)
    refuse(case.problem, case.observation, found.choice)
    score = case.free.score(case.observation, found.choice)
    torch.testing.assert_close(score, found.score, atol=1e-4, rtol=1e-4)
    assert torch.equal(search(case.problem, case.observation, calls, generator_from(calls)).choice, found.choice)


@each_search
@each_engine
def test_many_calls_find_the_constrained_optimum(search: Search, name: str, tmp_path: Path) -> None:
    case = make_case(name, tmp_path)
    found = search(case.problem, case.observation, 200, generator_from(1))
    assert int((found.score > case.best() - 1e-4).sum()) >= 5


@each_case
@pytest.mark.parametrize("most_swaps", [1, 2, 5])
@pytest.mark.parametrize("patience", [None, 2])
def test_guided_search_tries_allowed_moves_alone(
    name: str, patience: int | None, most_swaps: int, tmp_path: Path
) -> None:
    for seed in range(2):
        case = make_case(name, tmp_path, seed, batch=5)
        start = random_choice(case.problem, case.observation, generator_from(seed))
        shared = seed == 1
        found = guided_search(
            case.problem, case.observation, start, 7, patience, generator_from(seed), most_swaps, most_swaps, shared
        )
        refuse(case.problem, case.observation, found.choice)
        assert case.problem.budget == Budget(5 * 8, 5 * 8)
        assert bool((found.score >= case.free.score(case.observation, start) - 1e-5).all())
        score, slope = case.free.score_and_slope(case.observation, found.choice)
        torch.testing.assert_close(score, found.score, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(slope, found.slope, atol=1e-3, rtol=1e-3)


@each_case
@pytest.mark.parametrize("search", BY_SLOPE)
def test_restarts_of_guided_search_find_the_optimum(search: Search, name: str, tmp_path: Path) -> None:
    case = make_case(name, tmp_path, batch=10)
    found = search(case.problem, case.observation, 160, generator_from(0))
    torch.testing.assert_close(found.score, case.best(), atol=1e-4, rtol=1e-4)


def without_pairs(self: Any, which: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    shape = len(which), self._most_pairs()
    return torch.zeros(*shape, 2, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)


@pytest.mark.parametrize(("name", "kind"), [("permutation", "_Exchanges"), ("constant sum", "_ListedRows")])
def test_without_pairs_of_swaps_nothing_could_move(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case(name, tmp_path, batch=40)
    start = random_choice(case.problem, case.observation, generator_from(0))
    found = guided_search(case.problem, case.observation, start, 20)
    assert int((found.choice != start).any(dim=1).sum()) >= 25
    monkeypatch.setattr(getattr(moves, kind), "_found", without_pairs)
    assert torch.equal(guided_search(case.problem, case.observation, start, 20).choice, start)
    # Without a move, every call but the first is another random start.
    few = single_swap_search(case.problem, case.observation, 3, generator_from(0)).score
    assert bool((few < case.best() - 1e-3).any())


def neighbours(case: Case, request: int, row: Row) -> set[Row]:
    """Returns the rows that are one move away, by comparing all pairs of allowed rows."""
    allowed = set(case.allowed(request))
    distance = {other: sum(a != b for a, b in zip(row, other, strict=True)) for other in allowed}
    found = {other for other in allowed if distance[other] == 1}
    listed = case.problem.constraints is not None and case.problem.constraints.rows is not None
    for other in allowed:
        if distance[other] != 2:
            continue
        first, second = (slot for slot in range(len(row)) if row[slot] != other[slot])
        halves = {tuple(other[s] if s == slot else item for s, item in enumerate(row)) for slot in (first, second)}
        exchange = (other[first], other[second]) == (row[second], row[first])
        if (len(halves & allowed) < 2) if listed else exchange:
            found.add(other)
    return found


@each_case
@pytest.mark.parametrize("seed", range(3))
def test_moves_lead_to_the_neighbours_by_their_effects(name: str, seed: int, tmp_path: Path) -> None:
    case = make_case(name, tmp_path, seed)
    choice = random_choice(case.problem, case.observation, generator_from(seed))
    slope = torch.randn(len(choice), case.problem.slots, case.problem.items, generator=generator_from(seed))
    found = moves_of(case.problem, case.observation)
    found.look(choice, slope)
    numbers = found.best(10_000)
    rows, is_open = found.rows(numbers), found.open_among(numbers)
    for request, row in enumerate(rows_of(choice)):
        led = rows_of(rows[request][is_open[request]])
        assert len(led) == len(set(led)) and set(led) == neighbours(case, request, row)
        assert set(rows_of(rows[request][~is_open[request]])) <= {row}
        place = torch.arange(case.problem.slots)
        effects = [
            float((slope[request, place, list(other)] - slope[request, place, list(row)]).sum()) for other in led
        ]
        shown = found.effect[request].gather(0, numbers[request][is_open[request]])
        assert shown.tolist() == pytest.approx(effects, abs=1e-5)
        assert effects == sorted(effects, reverse=True)


@each_case
@pytest.mark.parametrize("seed", range(3))
def test_moves_made_together_are_allowed_and_promising(name: str, seed: int, tmp_path: Path) -> None:
    case = make_case(name, tmp_path, seed, batch=20)
    choice = random_choice(case.problem, case.observation, generator_from(seed))
    slope = torch.randn(len(choice), case.problem.slots, case.problem.items, generator=generator_from(seed))
    found = moves_of(case.problem, case.observation)
    found.look(choice, slope)
    most = torch.arange(len(choice)) % 4 + 1
    made = found.together(most)
    refuse(case.problem, case.observation, made.rows)
    number = found.best(1)
    assert torch.equal(made.first, number[:, 0])
    gain = (slope.gather(2, made.rows.unsqueeze(2)) - slope.gather(2, choice.unsqueeze(2))).sum(dim=(1, 2))
    moved = (made.rows != choice).sum(dim=1)
    assert bool((made.count <= most).all()) and bool((moved >= made.count).all())
    assert bool((moved <= 2 * made.count).all())
    alone = made.count == 1
    torch.testing.assert_close(gain[alone], made.gain[alone], atol=1e-5, rtol=1e-5)
    assert torch.equal(made.rows[alone], found.rows(number)[alone, 0])
    assert bool((gain[made.count > 1] > made.gain[made.count > 1]).all())


def test_exchanges_are_made_together_in_a_permutation() -> None:
    problem, _ = slots(6, 6, 0, Distinct())
    observation = problem.sample(1, generator_from(0))
    # Three pairs of neighbours want to change places.
    slope = torch.eye(6)[[1, 0, 3, 2, 5, 4]].unsqueeze(0) * torch.tensor([3.0, 3, 2, 2, 1, 1]).view(1, 6, 1)
    found = moves_of(problem, observation)
    found.look(torch.arange(6).unsqueeze(0), slope)
    for most, rows in ((1, [1, 0, 2, 3, 4, 5]), (2, [1, 0, 3, 2, 4, 5]), (9, [1, 0, 3, 2, 5, 4])):
        made = found.together(torch.tensor([most]))
        assert made.rows.tolist() == [rows] and made.count.tolist() == [min(most, 3)] and made.gain.tolist() == [6.0]


@pytest.mark.parametrize("constraint", [Feasible(lambda rows: rows[:, 0] != 1), AtMost(1, of=torch.tensor([0, 1, 1]))])
def test_a_single_slot_has_swaps_alone(constraint: Constraint) -> None:
    pool = torch.tensor([[1.0], [2.0], [3.0]])
    problem = SlotProblem(lambda vectors: vectors.sum(dim=(-1, -2)), 1, pool=pool).with_constraints([constraint])
    observation = problem.sample(2, generator_from(0))
    found = moves_of(problem, observation)
    found.look(torch.tensor([[0], [2]]), torch.arange(6).float().view(2, 1, 3))
    allowed = [0, 2] if isinstance(constraint, Feasible) else [0, 1, 2]
    for row, near in zip((0, 2), found.rows(found.best(9)), strict=True):
        assert set(near.flatten().tolist()) == set(allowed)
        assert found.is_open[row // 2].sum() == len(allowed) - 1
    assert guided_search(problem, observation, torch.zeros(2, 1).long(), 3).choice.tolist() == [[2], [2]]


def test_a_move_that_failed_opens_again_with_its_row(tmp_path: Path) -> None:
    case = make_case("permutation", tmp_path, batch=2)
    found = moves_of(case.problem, case.observation)
    choice, slope = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]), torch.zeros(2, 4, 4)
    found.look(choice, slope)
    assert found.is_open.sum(dim=1).tolist() == [6, 6]
    found.close(found.best(4), torch.tensor([True, True]))
    assert found.is_open.sum(dim=1).tolist() == [2, 2]
    found.close(found.best(6), torch.tensor([False, False]))
    found.look(choice.flip(1), slope, torch.tensor([True, False]))
    assert found.is_open.sum(dim=1).tolist() == [6, 2]
    assert rows_of(found.rows(found.best(6))[0]) != [(0, 1, 2, 3)] * 6


def test_the_most_promising_listed_rows_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    case = make_case("constant sum", tmp_path, batch=3)
    choice = random_choice(case.problem, case.observation, generator_from(0))
    slope = torch.randn(3, 3, 5, generator=generator_from(0))
    every = moves_of(case.problem, case.observation)
    every.look(choice, slope)
    best = every.rows(every.best(2))
    monkeypatch.setattr(moves, "MOST_PAIRS", 2)
    monkeypatch.setattr(moves, "_CELLS", 1)
    few = moves_of(case.problem, case.observation)
    few.look(choice, slope)
    assert few.is_open.sum(dim=1).tolist() == [2, 2, 2] and torch.equal(few.rows(few.best(2)), best)


def test_local_search_needs_exchanges_for_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, _ = slots(6, 6, 0, Distinct())
    observation = problem.sample(40, generator_from(0))
    found = local_search(problem, observation, 60, generator_from(0)).score
    monkeypatch.setattr(sweeps, "is_allowed", lambda *given: torch.zeros_like(is_allowed(*given)))
    # What is left are random starts.
    control = local_search(problem, observation, 60, generator_from(0)).score
    assert float((found - control).mean()) > 3 * float((found - control).std()) / 40**0.5


def test_local_search_scores_each_neighbour_of_a_slot_once() -> None:
    asked: list[Row] = []

    class Noted(CheckedSlots):
        def score(self, observation: Observation, choice: Tensor) -> Tensor:
            asked.extend(rows_of(choice))
            return super().score(observation, choice)

    problem = Noted(lambda vectors: -vectors[..., 0].sum(dim=-1) * 0, 3, 4, 1).with_constraints([Distinct()])
    observation = problem.sample(1, generator_from(0))
    local_search(problem, observation, 10, generator_from(0))
    start, *others = asked
    near = [*start]
    free = next(item for item in range(4) if item not in start)
    expected = []
    for slot in range(3):
        expected.append(tuple(free if place == slot else item for place, item in enumerate(near)))
        for other in range(3):
            if other != slot:
                exchanged = [*near]
                exchanged[slot], exchanged[other] = near[other], near[slot]
                expected.append(tuple(exchanged))
    assert others == expected


@each_search
def test_a_single_allowed_row_is_scored_again_and_again(search: Search) -> None:
    problem = SlotProblem(lambda vectors: vectors.sum(dim=(-1, -2)), 2, 3, 1)
    problem = problem.with_constraints([Fixed({0: 2, 1: 1})])
    found = search(problem, problem.sample(3, generator_from(0)), 11, generator_from(0))
    assert found.choice.tolist() == [[2, 1]] * 3 and problem.budget == paid(search, 33)
    start = torch.tensor([[2, 1]] * 3)
    guided = guided_search(problem, problem.sample(3, generator_from(0)), start, 4, most_swaps=2, first_swaps=2)
    assert torch.equal(guided.choice, start)


def test_elites_that_forbid_one_another_leave_no_dead_end(tmp_path: Path) -> None:
    # With full smoothing a slot's only elite item may be taken by a slot before it.
    case = make_case("permutation", tmp_path, batch=8)
    found = cross_entropy_search(case.problem, case.observation, 60, generator_from(0), 6, 0.4, 1.0)
    assert bool(is_allowed(case.problem, case.observation, found.choice).all())
    assert case.problem.budget == Budget(60 * 8, 0)


@each_search
def test_requests_that_allow_nothing_are_refused_by_name(search: Search, tmp_path: Path) -> None:
    case = make_case("distinct", tmp_path, batch=2)
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[1, :, 2:] = False
    observation = Observation(case.observation.candidates, mask)
    with pytest.raises(Infeasible, match=r"expected a configuration that satisfies Distinct\(\) in request 1"):
        search(case.problem, observation, 5, generator_from(0))
    assert case.problem.budget == Budget()


def test_exchanges_are_those_of_a_loop() -> None:
    choice = torch.tensor([[5, 6, 7], [1, 2, 3]])
    pairs = list(itertools.combinations(range(3), 2))
    found = moves.exchanged(choice, *torch.tensor(pairs).T)
    for (first, second), rows in zip(pairs, found, strict=True):
        for before, after in zip(choice.tolist(), rows.tolist(), strict=True):
            before[first], before[second] = before[second], before[first]
            assert after == before

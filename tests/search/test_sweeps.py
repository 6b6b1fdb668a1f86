"""Local search against a slow second implementation that scores one configuration of one request at a time.

Both get the same starts and must ask for the same configurations in the same order, so that the path, the budget and
the answer are compared at once. What must hold whatever the starts are is tested besides.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slot_rl.estimators import EstimatorShape
from slot_rl.problems import Budget, Observation, Problem, SlotProblem, check_choice
from slot_rl.search import enumerate_landscape, local_search, random_choice, sweeps
from slot_rl.seeding import generator_from
from tests.helpers.rugged import requests, row_problem, rugged_net, slot_problem


def allowed_items(problem: Problem, request: Observation) -> list[list[int]]:
    """Returns each slot's allowed items of one request."""
    if request.mask is None:
        return [list(range(size)) for size in problem.sizes]
    return [request.mask[0, slot].nonzero().flatten().tolist() for slot in range(problem.slots)]


def slow_search(
    problem: Problem, request: Observation, calls: int, starts: Iterator[list[int]]
) -> tuple[list[int], float, list[list[int]]]:
    """Local search for one request: its answer, the score, and all that it asked for, in order."""
    asked: list[list[int]] = []
    known: list[float] = []

    def ask(choice: list[int]) -> float:
        asked.append(list(choice))
        known.append(float(problem.score(request, torch.tensor([choice]))))
        return known[-1]

    items = allowed_items(problem, request)
    here = next(starts)
    score, stale = ask(here), 0
    for slot in itertools.cycle(range(problem.slots)):
        if len(asked) == calls:
            break
        others = [[*here[:slot], item, *here[slot + 1 :]] for item in items[slot] if item != here[slot]]
        scored = [(ask(other), other) for other in others[: calls - len(asked)]]
        top, where = max(scored, key=lambda pair: pair[0], default=(-float("inf"), here))
        stale = 0 if top > score else stale + 1
        if top > score:
            score, here = top, where
        if stale == problem.slots and len(asked) < calls:
            here = next(starts)
            score, stale = ask(here), 0
    best = max(range(calls), key=lambda call: known[call])
    return asked[best], known[best], asked


def label(observation: Observation) -> list[float]:
    """Returns a number that tells each request from the others, wherever it stands in a batch."""
    part = observation.context if observation.candidates is None else observation.candidates
    assert part is not None
    numbers: list[float] = part.flatten(1)[:, 0].tolist()
    return numbers


def starts_of(problem: Problem, request: Observation) -> Iterator[list[int]]:
    """Yields the starts of one request, the same whoever asks for them."""
    generator = generator_from(int(abs(label(request)[0]) * 1e6))
    while True:
        yield random_choice(problem, request, generator)[0].tolist()


@pytest.mark.parametrize("calls", [1, 2, 3, 7, 8, 20, 61])
@pytest.mark.parametrize("kind", ["slots", "masked slots", "rows"])
def test_each_row_of_a_batch_asks_what_the_slow_search_asks(
    kind: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem: Problem = row_problem() if kind == "rows" else slot_problem()
    batch = 4 if kind == "rows" else 6
    observation = requests(problem, batch, kind == "masked slots", seed=1)
    if kind == "rows":
        observation = problem.evaluation_observations(batch, generator_from(0))
    streams = {name: starts_of(problem, observation[row : row + 1]) for row, name in enumerate(label(observation))}
    monkeypatch.setattr(
        sweeps, "random_choice", lambda _, rows, __: torch.tensor([next(streams[name]) for name in label(rows)])
    )
    asked: dict[float, list[list[int]]] = defaultdict(list)
    score = problem.score

    def watched(observation: Observation, choice: Tensor) -> Tensor:
        for name, row in zip(label(observation), choice.tolist(), strict=True):
            asked[name].append(row)
        return score(observation, choice)

    problem.score = watched  # type: ignore[method-assign]
    found = local_search(problem, observation, calls, generator_from(0))
    problem.score = score  # type: ignore[method-assign]
    assert problem.budget == Budget(batch * calls, 0)
    for row, name in enumerate(label(observation)):
        request = observation[row : row + 1]
        choice, best, path = slow_search(problem, request, calls, starts_of(problem, request))
        assert asked[name] == path
        assert found.choice[row].tolist() == choice
        assert float(found.score[row]) == pytest.approx(best, rel=1e-4, abs=1e-4)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.integers(1, 5), st.integers(1, 40), st.integers(1, 4), st.integers(1, 5), st.booleans(), st.integers(0, 10_000)
)
def test_each_row_pays_exactly_its_calls(
    batch: int, calls: int, slots: int, items: int, masked: bool, seed: int
) -> None:
    class Checked(SlotProblem):
        def score(self, observation: Observation, choice: Tensor) -> Tensor:
            check_choice(self, observation, choice)
            for name in label(observation):
                asked[name] += 1
            return super().score(observation, choice)

    asked: dict[float, int] = defaultdict(int)
    problem = Checked(rugged_net(EstimatorShape(slots, 2, (8,)), seed % 5), slots, items, 2)
    observation = requests(problem, batch, masked, seed)
    found = local_search(problem, observation, calls, generator_from(seed))
    assert problem.budget == Budget(batch * calls, 0)
    assert asked == dict.fromkeys(label(observation), calls)
    check_choice(problem, observation, found.choice)
    start = problem.score(observation, random_choice(problem, observation, generator_from(seed)))
    assert bool((found.score >= start - 1e-5).all())
    torch.testing.assert_close(problem.score(observation, found.choice), found.score, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("masked", [False, True])
def test_one_sweep_solves_a_separable_problem(masked: bool, seed: int) -> None:
    slots, items, batch = 3, 5, 20
    weights = torch.randn(slots, 2, generator=generator_from(seed))
    problem = SlotProblem(lambda vectors: (vectors * weights).sin().sum(dim=(-1, -2)), slots, items, 2)
    observation = requests(problem, batch, masked, seed)
    each = [observation[row : row + 1] for row in range(batch)]
    best = torch.cat([enumerate_landscape(problem, request, problem.score).best for request in each])
    sizes = [[len(options) for options in allowed_items(problem, request)] for request in each]
    enough = 1 + max(sum(size - 1 for size in row) for row in sizes)
    found = local_search(problem, observation, enough, generator_from(seed))
    torch.testing.assert_close(found.score, best, atol=1e-5, rtol=0)
    if not masked:
        assert enough == 1 + sum(size - 1 for size in problem.sizes)
        short = local_search(problem, observation, enough - 1, generator_from(seed)).score
        assert bool((short < best - 1e-3).any())


def two_basins() -> SlotProblem:
    """Scores of (first, second): the sweep from second = 0 ends on (0, 0) with 1, that from second = 1 on (1, 1)."""
    table = torch.tensor([[1.0, 0.0], [0.0, 2.0]])

    def score(vectors: Tensor) -> Tensor:
        chosen = vectors[..., 0].long()
        return table[chosen[..., 0], chosen[..., 1]]

    return SlotProblem(score, 2, 2, 1)


def test_a_row_on_a_local_optimum_starts_again() -> None:
    problem, batch = two_basins(), 200
    observation = Observation(torch.tensor([[[0.0], [1.0]]]).expand(batch, 2, 1))
    start = random_choice(problem, observation, generator_from(0))
    # One start and its two swaps; no third call is left to leave a local optimum with.
    once = local_search(problem, observation, 3, generator_from(0))
    assert once.score.tolist() == (1.0 + start[:, 1]).tolist()
    assert 60 < int((once.score == 1).sum()) < 140
    # A start costs up to 7 calls and is in the better basin every second time: 1 row in 2 ** 14 stays stuck.
    many = local_search(problem, observation, 100, generator_from(0))
    assert many.score.tolist() == [2.0] * batch and many.choice.tolist() == [[1, 1]] * batch


def test_more_calls_never_end_lower() -> None:
    problem = slot_problem()
    observation = problem.sample(1, generator_from(3))
    best = float(enumerate_landscape(problem, observation, problem.score).best)
    scores = [float(local_search(problem, observation, calls, generator_from(5)).score) for calls in range(1, 40)]
    assert all(after >= before - 1e-5 for before, after in itertools.pairwise(scores))
    assert scores[0] < scores[10] and scores[0] < best - 0.1
    assert float(local_search(problem, observation, 400, generator_from(5)).score) == pytest.approx(best, abs=1e-4)


def test_slots_without_a_choice_cost_their_starts_alone() -> None:
    problem = slot_problem(items=1)
    observation = problem.sample(3, generator_from(0))
    found = local_search(problem, observation, 5, generator_from(0))
    assert found.choice.tolist() == [[0, 0, 0]] * 3
    assert problem.budget == Budget(15, 0)

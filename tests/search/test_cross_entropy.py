"""The cross-entropy method: its budget, its masks and its answer whatever the settings, and its fit by slow loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slot_rl.problems import Budget, make_problem
from slot_rl.search import best_of, cross_entropy, cross_entropy_search, enumerate_landscape, random_choice
from slot_rl.search.base import SearchResult
from slot_rl.seeding import generator_from
from tests.helpers.rugged import check_paid, requests, slot_problem


def watch_probabilities(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Returns the list that every round's probabilities will be put into."""
    seen: list[Tensor] = []
    drawn = cross_entropy._drawn

    def watched(probabilities: Tensor, size: int, generator: torch.Generator) -> Tensor:
        seen.append(probabilities.clone())
        return drawn(probabilities, size, generator)

    monkeypatch.setattr(cross_entropy, "_drawn", watched)
    return seen


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.integers(1, 5),
    st.integers(1, 60),
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.booleans()),
    st.one_of(st.none(), st.integers(1, 20)),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
    st.integers(0, 10_000),
)
def test_every_request_pays_exactly_its_calls(
    batch: int,
    calls: int,
    sizes: tuple[int, int, bool],
    draws: int | None,
    elite: float,
    smoothing: float,
    seed: int,
) -> None:
    slots, items, masked = sizes
    problem = slot_problem(slots, items, seed % 5)
    observation = requests(problem, batch, masked, seed)
    found = cross_entropy_search(problem, observation, calls, generator_from(seed), draws, elite, smoothing)
    scores = check_paid(problem, observation, found, calls)
    assert torch.equal(found.score, scores.max(dim=0).values)


@pytest.mark.parametrize(
    ("calls", "draws", "shares"),
    [
        (10, 4, [4, 4, 2]),
        (8, 4, [4, 4]),
        (3, 4, [3]),
        (3, 1, [1, 1, 1]),
        (31, None, [7, 7, 7, 7, 3]),
        (200, None, [20] * 10),
        (8_300, None, [128] * 64 + [108]),
    ],
)
def test_rounds_are_even_and_the_last_one_is_cut_short(calls: int, draws: int | None, shares: list[int]) -> None:
    problem = slot_problem()
    cross_entropy_search(problem, problem.sample(1, generator_from(0)), calls, generator_from(0), draws)
    assert [len(rows) for rows, _ in problem.asked] == shares


@pytest.mark.parametrize(("elite", "smoothing"), [(0.2, 0.4), (0.5, 1.0), (0.01, 0.7), (1.0, 0.3)])
@pytest.mark.parametrize("masked", [False, True])
def test_probabilities_move_as_slow_loops_over_the_elites_say(
    masked: bool, elite: float, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_probabilities(monkeypatch)
    problem, batch, draws = slot_problem(), 4, 10
    observation = requests(problem, batch, masked, 1)
    cross_entropy_search(problem, observation, 40, generator_from(2), draws, elite, smoothing)
    for request in range(batch):
        for slot in range(problem.slots):
            items = list(range(problem.items))
            if observation.mask is not None:
                items = observation.mask[request, slot].nonzero().flatten().tolist()
            expected = [1 / len(items) if item in items else 0.0 for item in range(problem.items)]
            for (rows, scores), probabilities in zip(problem.asked, seen, strict=True):
                assert probabilities[request, slot].tolist() == pytest.approx(expected, abs=1e-6)
                ranked = sorted(range(draws), key=lambda row: -float(scores[row, request]))
                chosen = [int(rows[row, request, slot]) for row in ranked[: max(1, round(elite * draws))]]
                for item in range(problem.items):
                    share = chosen.count(item) / len(chosen)
                    expected[item] = (1 - smoothing) * expected[item] + smoothing * share


def test_smoothing_keeps_every_allowed_item_possible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = watch_probabilities(monkeypatch)
    problem = slot_problem()
    observation = requests(problem, 5, True, 0)
    found = cross_entropy_search(problem, observation, 30, generator_from(0), 10, 0.1, 1.0)
    (first, scores), *later = problem.asked
    best = first.gather(0, scores.argmax(dim=0)[None, :, None].expand(1, 5, 3))[0]
    assert torch.equal(found.choice, best)
    assert all(torch.equal(rows, best.expand(10, -1, -1)) for rows, _ in later)
    seen.clear()
    cross_entropy_search(problem, observation, 600, generator_from(0), 10, 0.1, 0.4)
    assert observation.mask is not None and len(seen) == 60
    assert all(torch.equal(probabilities > 0, observation.mask) for probabilities in seen)
    assert all(bool((p.sum(dim=-1) - 1).abs().max() < 1e-5) for p in seen)


def test_enough_calls_find_the_best_of_a_rugged_problem() -> None:
    problem = slot_problem()
    observation = problem.sample(30, generator_from(3))
    best = enumerate_landscape(problem, observation, problem.score).best
    many = cross_entropy_search(problem, observation, 800, generator_from(0), smoothing=0.1)
    assert int((many.score > best - 1e-4).sum()) == 30
    few = cross_entropy_search(problem, observation, 10, generator_from(0))
    assert int((few.score > best - 1e-4).sum()) < 20


@pytest.mark.parametrize("calls", [31, pytest.param(200, marks=pytest.mark.slow)])
def test_the_fit_to_the_elites_beats_random_rows(calls: int) -> None:
    problem = make_problem("SlotRL/SlotsLarge-v0")
    observation, generator = problem.sample(200, generator_from(11)), generator_from(0)
    rows = [random_choice(problem, observation, generator) for _ in range(calls)]
    at_random = best_of([SearchResult(row, problem.score(observation, row)) for row in rows]).score
    fitted = cross_entropy_search(problem, observation, calls, generator_from(0)).score
    # A fit to all draws learns nothing of their scores.
    blind = cross_entropy_search(problem, observation, calls, generator_from(0), elite=1.0).score
    # Three standard errors above either.
    for other in (at_random, blind):
        margin = fitted - other
        assert float(margin.mean()) > 3 * float(margin.std()) / 200**0.5


@pytest.mark.parametrize(
    ("draws", "elite", "smoothing", "message"),
    [
        (0, 0.2, 0.4, "expected draws >= 1, got 0"),
        (4, 0.0, 0.4, "expected elite and smoothing above 0 and at most 1, got 0.0 and 0.4"),
        (None, 1.5, 0.4, "expected elite and smoothing above 0 and at most 1, got 1.5 and 0.4"),
        (None, 0.2, 0.0, "expected elite and smoothing above 0 and at most 1, got 0.2 and 0.0"),
        (None, 0.2, float("nan"), "expected elite and smoothing above 0 and at most 1, got 0.2 and nan"),
    ],
)
def test_settings_that_fit_nothing_are_refused(draws: int | None, elite: float, smoothing: float, message: str) -> None:
    problem = slot_problem()
    with pytest.raises(ValueError, match=message):
        cross_entropy_search(
            problem, problem.sample(1, generator_from(0)), 9, generator_from(0), draws, elite, smoothing
        )
    assert problem.budget == Budget(0, 0)

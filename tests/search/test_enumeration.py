"""Enumeration against brute force: ``itertools.product`` and one estimator call per configuration and request."""

import itertools

import pytest
import torch
from torch import Tensor

import slot_rl.search.enumeration as module
from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.problems import Observation, Problem, RowProblem, SlotProblem
from slot_rl.search import EnumerationResult, configurations, enumerate_landscape
from slot_rl.seeding import generator_from, seeded_initialisation


def slot_problem(fewest: int | None = None) -> SlotProblem:
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(3, 2, (8,)))
    return SlotProblem(net, 3, 4, 2, fewest_items=fewest, truth=lambda vectors: -vectors.square().sum(dim=(-1, -2)))


def row_problem() -> RowProblem:
    with seeded_initialisation(1):
        net = EstimatorNet(EstimatorShape(3, 3, (8,), (2, 5, 3), (3,), context_dim=2))
    return RowProblem(net, torch.tensor([[0], [1], [2]]))


def allowed_items(problem: Problem, observation: Observation, row: int, slot: int) -> list[int]:
    if observation.mask is None:
        return list(range(problem.sizes[slot]))
    return [int(n) for n in observation.mask[row, slot].nonzero().flatten()]


def brute_force(problem: Problem, observation: Observation, truth: bool = False) -> EnumerationResult:
    """The landscape by nested loops."""
    ask = problem.true_score if truth else problem.score
    best, choices, means = [], [], []
    scores: list[dict[tuple[int, ...], float]] = []
    for row in range(len(observation)):
        request = observation[row : row + 1]
        options = [allowed_items(problem, observation, row, slot) for slot in range(problem.slots)]
        found = {one: float(ask(request, torch.tensor([one]))) for one in itertools.product(*options)}
        scores.append(found)
        winner = max(found, key=lambda one: found[one])
        best.append(found[winner])
        choices.append(winner)
        means.append(sum(found.values()) / len(found))
    common = [one for one in scores[0] if all(one in found for found in scores)]
    constant = max(common, key=lambda one: sum(found[one] for found in scores))
    return EnumerationResult(
        torch.tensor(best),
        torch.tensor(choices),
        torch.tensor(means),
        torch.tensor(constant),
        torch.tensor([found[constant] for found in scores]),
    )


def assert_same(found: EnumerationResult, expected: EnumerationResult) -> None:
    assert torch.equal(found.choice, expected.choice)
    assert torch.equal(found.constant, expected.constant)
    torch.testing.assert_close(found.best, expected.best, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.mean, expected.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.constant_scores, expected.constant_scores, atol=1e-5, rtol=1e-5)


def arbitrary_mask(seed: int, batch: int, slots: int, items: int) -> Tensor:
    """Masks that are no prefixes; the last item is allowed everywhere, the first is not."""
    mask = torch.rand(batch, slots, items, generator=generator_from(seed)) < 0.5
    mask[..., 0] = False
    mask[..., -1] = True
    return mask


@pytest.mark.parametrize("chunk", [1, 7, 40, 65_536])
@pytest.mark.parametrize("kind", ["slots", "varying", "masked", "rows"])
def test_the_landscape_is_the_one_that_brute_force_finds(
    kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    problem: Problem = row_problem() if kind == "rows" else slot_problem(1 if kind == "varying" else None)
    observation = problem.sample(5, generator_from(2))
    if kind == "rows":
        observation = problem.evaluation_observations(10, generator_from(0))
    if kind == "masked":
        observation = Observation(observation.candidates, arbitrary_mask(3, 5, 3, 4))
    found = enumerate_landscape(problem, observation, problem.score)
    assert_same(found, brute_force(problem, observation))
    assert bool((found.best >= found.mean).all()) and bool((found.best >= found.constant_scores - 1e-6).all())


def test_the_truth_can_be_enumerated_in_the_estimators_place() -> None:
    problem = slot_problem()
    observation = problem.sample(4, generator_from(0))
    found = enumerate_landscape(problem, observation, problem.true_score)
    assert_same(found, brute_force(problem, observation, truth=True))
    assert problem.budget.forwards == 0


def test_every_configuration_is_scored_once() -> None:
    problem = row_problem()
    observation = problem.evaluation_observations(10, generator_from(0))
    assert configurations(problem) == 30
    enumerate_landscape(problem, observation, problem.score)
    assert (problem.budget.forwards, problem.budget.backwards) == (3 * 30 + 3, 0)


def test_by_hand_on_two_requests() -> None:
    problem = SlotProblem(lambda vectors: vectors[..., 0, 0] - 2 * vectors[..., 1, 0], 2, 2, 1)
    observation = Observation(torch.tensor([[[1.0], [4.0]], [[5.0], [3.0]]]))
    found = enumerate_landscape(problem, observation, problem.score)
    # Request 0: -1, -7, 2, -4; request 1: -5, -1, -7, -3 for (0,0), (0,1), (1,0), (1,1); means -3, -4, -2.5, -3.5.
    assert found.best.tolist() == [2.0, -1.0] and found.choice.tolist() == [[1, 0], [0, 1]]
    assert found.mean.tolist() == [-2.5, -4.0]
    assert found.constant.tolist() == [1, 0] and found.constant_scores.tolist() == [2.0, -7.0]


def test_a_constant_must_be_allowed_in_every_request() -> None:
    problem = SlotProblem(lambda vectors: vectors.sum(dim=(-1, -2)), 1, 3, 1)
    candidates = torch.tensor([[[1.0], [5.0], [0.0]], [[1.0], [9.0], [0.0]]])
    mask = torch.tensor([[[True, True, True]], [[True, False, True]]])
    found = enumerate_landscape(problem, Observation(candidates, mask), problem.score)
    assert found.constant.tolist() == [0] and found.constant_scores.tolist() == [1.0, 1.0]
    assert found.choice.tolist() == [[1], [0]]


def test_without_a_common_configuration_there_is_no_constant() -> None:
    problem = SlotProblem(lambda vectors: vectors.sum(dim=(-1, -2)), 1, 2, 1)
    mask = torch.tensor([[[True, False]], [[False, True]]])
    with pytest.raises(ValueError, match="expected .*, got "):
        enumerate_landscape(problem, Observation(torch.zeros(2, 2, 1), mask), problem.score)


def test_too_many_configurations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.MOST_CONFIGURATIONS == 200_000
    problem = slot_problem()
    observation = problem.sample(1, generator_from(0))
    monkeypatch.setattr(module, "MOST_CONFIGURATIONS", 64)
    enumerate_landscape(problem, observation, problem.score)
    spent = problem.budget.forwards
    monkeypatch.setattr(module, "MOST_CONFIGURATIONS", 63)
    with pytest.raises(ValueError, match="expected at most 63 configurations to enumerate, got 64"):
        enumerate_landscape(problem, observation, problem.score)
    assert problem.budget.forwards == spent
    monkeypatch.undo()
    large = SlotProblem(lambda vectors: vectors.sum(dim=(-1, -2)), 6, 8, 1)
    with pytest.raises(ValueError, match="expected at most 200,000 configurations to enumerate, got 262,144"):
        enumerate_landscape(large, large.sample(1, generator_from(0)), large.score)

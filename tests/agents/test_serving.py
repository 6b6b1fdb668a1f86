"""Serving: each mode's calls to the digit, never an answer worse than the pass, and the best of draws by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slot_rl.agents import GumbelAgent
from slot_rl.agents.policy import drawn, most_probable
from slot_rl.agents.sb3 import LearningAgent
from slot_rl.agents.serving import DEFAULT_CALLS, Mode, Serving, serve
from slot_rl.envs import SlotVecEnv
from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.networks import PointerSize
from slot_rl.problems import Observation, Problem, RowProblem, SlotProblem, check_choice
from slot_rl.problems.candidate_draws import unit_uniform
from slot_rl.problems.truths import pick_value
from slot_rl.search import guided_search
from slot_rl.seeding import generator_from, seeded_initialisation
from tests.helpers.options import options_of

CONTEXTS = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 2]])


def row_problem() -> RowProblem:
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(3, 4, (16,), (2, 5, 3), (2, 3), context_dim=3))
    return RowProblem(net, CONTEXTS)


def slot_problem(fewest_items: int | None = None) -> SlotProblem:
    return SlotProblem(pick_value, 4, 8, 1, unit_uniform, fewest_items)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "rows": row_problem,
    "slots": slot_problem,
    "masked slots": lambda: slot_problem(2),
}


def untrained(problem: Problem, seed: int = 0) -> LearningAgent:
    options: Any = options_of("gumbel", policy=PointerSize(width=8, hidden=16))
    return GumbelAgent(SlotVecEnv(problem, 2), options, seed=seed)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(
    ("serving", "forwards", "backwards"),
    [
        (Serving("pass"), 0, 0),
        (Serving("draws", 1), 1, 0),
        (Serving("draws", 7), 7, 0),
        (Serving("search", 2), 2, 2),
        (Serving("search", 6), 6, 6),
        (Serving("draws"), 4, 0),
        (Serving("confident"), 0, 0),
        (Serving("starts", 1), 1, 1),
        (Serving("starts", 9), 9, 9),
        (Serving(), 4, 4),
    ],
)
def test_the_problem_counts_the_calls_that_were_asked_for(
    name: str, serving: Serving, forwards: int, backwards: int
) -> None:
    problem = PROBLEMS[name]()
    observation = problem.sample(9, generator_from(1))
    found = serve(untrained(problem), problem, observation, serving, generator_from(2))
    assert (problem.budget.forwards, problem.budget.backwards) == (9 * forwards, 9 * backwards)
    assert found.choice.shape == (9, problem.slots) and found.score.shape == (9,)
    check_choice(problem, observation, found.choice)
    assert torch.allclose(found.score, problem.score(observation, found.choice), atol=1e-5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(PROBLEMS)), st.sampled_from(["draws", "search"]), st.integers(2, 12), st.integers(0, 10_000)
)
def test_no_mode_is_ever_worse_than_the_pass(name: str, mode: Mode, calls: int, seed: int) -> None:
    problem = PROBLEMS[name]()
    agent, observation = untrained(problem, seed), problem.sample(8, generator_from(seed))
    bare = serve(agent, problem, observation, Serving("pass"))
    served = serve(agent, problem, observation, Serving(mode, calls), generator_from(seed))
    check_choice(problem, observation, served.choice)
    assert torch.equal(bare.choice, agent.choose(observation))
    # One estimator call in two shapes differs by rounding.
    assert bool((served.score >= bare.score - 1e-5).all())


@pytest.mark.parametrize("name", PROBLEMS)
def test_more_calls_find_more(name: str) -> None:
    problem = PROBLEMS[name]()
    agent, observation = untrained(problem), problem.sample(200, generator_from(3))

    def mean(serving: Serving) -> float:
        return float(serve(agent, problem, observation, serving, generator_from(4)).score.mean())

    bare = mean(Serving("pass"))
    assert bare < mean(Serving("draws", 2)) < mean(Serving("draws", 20))
    assert bare < mean(Serving("search", 2)) < mean(Serving("search", 6))


def test_the_best_of_draws_is_the_maximum_by_hand() -> None:
    problem = slot_problem(3)
    agent, observation = untrained(problem), problem.sample(6, generator_from(5))
    generator = generator_from(6)
    with torch.no_grad():
        output = agent.policy.output(observation)
        answers = [most_probable(output.logits, output.rules)]
        answers += [drawn(output.logits, output.rules, generator) for _ in range(4)]
    found = serve(agent, problem, observation, Serving("draws", 5), generator_from(6))
    candidates = observation.tensors()["candidates"].squeeze(-1)
    for request in range(6):
        scores = [
            -sum((float(candidates[request, item]) - 0.5) ** 2 for item in answer[request].tolist())
            for answer in answers
        ]
        best = max(range(5), key=scores.__getitem__)
        assert float(found.score[request]) == pytest.approx(scores[best], abs=1e-6)
        assert found.choice[request].tolist() == answers[best][request].tolist()


def test_draws_follow_the_generator_alone() -> None:
    problem = slot_problem()
    agent, observation = untrained(problem), problem.sample(20, generator_from(0))

    def answer(seed: int) -> torch.Tensor:
        return serve(agent, problem, observation, Serving("draws", 3), generator_from(seed)).choice

    before = agent.policy.generator.get_state(), torch.get_rng_state()
    assert torch.equal(answer(1), answer(1))
    assert not torch.equal(answer(1), answer(2))
    assert torch.equal(before[0], agent.policy.generator.get_state()) and torch.equal(before[1], torch.get_rng_state())


def test_search_is_guided_search_from_the_pass() -> None:
    problem = row_problem()
    agent, observation = untrained(problem), Observation(context=CONTEXTS)
    found = serve(agent, problem, observation, Serving("search"))
    expected = guided_search(problem, observation, agent.choose(observation), rounds=3)
    assert torch.equal(found.choice, expected.choice) and torch.equal(found.score, expected.score)


@pytest.mark.parametrize(
    ("mode", "calls", "message"),
    [
        ("pass", 1, "expected 0 calls for mode pass, got 1"),
        ("draws", 0, "expected at least 1 call for mode draws, got 0"),
        ("search", 1, "expected at least 2 calls for mode search, got 1"),
        ("search", -3, "expected at least 2 calls for mode search, got -3"),
        ("sample", 2, "expected 0 calls for mode sample, got 2"),
        ("sweep", None, "expected mode pass, confident, ranked, sample, starts, draws, search, got 'sweep'"),
    ],
)
def test_calls_that_a_mode_cannot_use_are_refused(mode: Any, calls: int | None, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Serving(mode, calls)
    assert str(caught.value) == message


def test_a_mode_that_is_left_out_follows_from_the_calls() -> None:
    agent = untrained(slot_problem())
    assert Serving.of(agent, None, None) == Serving("starts")
    assert Serving.of(agent, None, 0) == Serving("pass", 0)
    assert Serving.of(agent, None, 9) == Serving("starts", 9)
    assert Serving.of(agent, "draws", None).budget == DEFAULT_CALLS["draws"]


def test_draws_need_a_generator() -> None:
    problem = slot_problem()
    with pytest.raises(ValueError, match="expected a generator for draws, got none"):
        serve(untrained(problem), problem, problem.sample(2, generator_from(0)), Serving("draws"))

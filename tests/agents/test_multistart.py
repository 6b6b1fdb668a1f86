"""Multistart: its calls to the digit, its loss by hand, where it asks, and that its starts differ and help."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slot_rl.agents import load_agent
from slot_rl.agents.multistart import LARGEST_ERROR, MultistartAgent, MultistartOptions, greedy_order
from slot_rl.agents.policy import SlotPolicy
from slot_rl.agents.serving import Serving, serve
from slot_rl.networks import PointerSize
from slot_rl.problems import Observation, Problem, SlotProblem
from slot_rl.problems.candidate_draws import unit_uniform
from slot_rl.problems.truths import pick_value
from slot_rl.seeding import generator_from
from tests.helpers.limited import forbidden, pages

SMALL = PointerSize(width=16, hidden=32, rounds=2, start_dim=4)


def products(items: Tensor) -> Tensor:
    """Multilinear: a product of neighbours."""
    return (items[:, :-1] * items[:, 1:]).sum(dim=(1, 2))


def multilinear(slots: int = 3, items: int = 5) -> SlotProblem:
    return SlotProblem(products, slots, items, 2, lambda shape, generator: torch.randn(shape, generator=generator))


def curved() -> SlotProblem:
    return SlotProblem(pick_value, 4, 8, 1, unit_uniform)


def build(problem: Problem, **options: Any) -> MultistartAgent:
    return MultistartAgent(problem, **{"policy": SMALL, "batch_size": 32, "starts": 4, **options})


@pytest.mark.parametrize(("problem", "mixtures"), [(multilinear, True), (curved, False)])
def test_a_test_decides_where_to_ask(problem: Any, mixtures: bool) -> None:
    agent = build(problem()).learn(4_000)
    assert agent.asks_mixtures == mixtures
    assert agent.mixture_error is not None and (agent.mixture_error <= LARGEST_ERROR) == mixtures
    assert agent.remark is not None and ("at mixtures: at" in agent.remark) == mixtures


def test_a_flag_spares_the_test() -> None:
    for ask in ("mixture", "row"):
        agent = build(curved(), ask=ask).learn(320)
        assert agent.asks_mixtures == (ask == "mixture") and agent.remark is None
        assert agent.problem.budget.forwards == agent.num_timesteps == 320


def test_the_test_is_counted() -> None:
    agent = build(multilinear()).learn(6_500)
    # 2 % of the calls are two requests of 1 + 64 calls.
    assert (agent.num_timesteps - 2 * 65) % 32 == 0
    assert agent.problem.budget.forwards == agent.num_timesteps >= 6_500
    assert agent.problem.budget.backwards == agent.num_timesteps - 2 * 65


def test_each_call_is_a_start() -> None:
    asked: list[tuple[int, ...]] = []
    agent = build(multilinear(), ask="mixture")
    ask = agent.problem.score_selection

    def spy(observation: Any, selection: Tensor) -> Tensor:
        asked.append(tuple(selection.shape[:2]))
        return ask(observation, selection)

    agent.problem.score_selection = spy  # type: ignore[method-assign]
    agent.learn(320)
    # The first third: one start of 32 requests; then four of 8.
    assert asked == [(1, 32)] * 4 + [(4, 8)] * 6


def test_the_weights_by_hand() -> None:
    agent = build(multilinear(), keep=0.4, margin=0.5)
    agent.scale.variance = 4.0
    # Margins of half a standard deviation, 1: the second start is worth twice the first's e-fold.
    found = agent._weights(torch.tensor([[0.0, 3.0], [0.6931472, 3.0]]))
    third = 0.6 / 3
    assert torch.allclose(found, 2 * torch.tensor([[0.4 + third, 0.7], [2 * third, 0.3]]))
    assert torch.allclose(found.mean(dim=0), torch.ones(2))


def test_the_gradient_is_the_slopes_at_a_row() -> None:
    """At rows it is straight-through's: the softmax's Jacobian times the slope at the draw."""
    problem = curved()
    agent = build(problem, ask="row", starts=1, entropy=0.0)
    observation = problem.sample(6, generator_from(1))
    logits = torch.randn(1, 6, 4, 8, generator=generator_from(2)).requires_grad_()
    before = agent.generator.get_state()
    _, selection = agent._asked(observation, logits)
    (found,) = torch.autograd.grad(problem.score_selection(observation, selection).sum(), logits)
    agent.generator.set_state(before)
    _, again = agent._asked(observation, logits)
    choice = again.detach().argmax(dim=-1)[0]
    slope = problem.score_and_slope(observation, choice)[1]
    p = torch.softmax(logits[0], dim=-1)
    assert torch.allclose(found[0], p * (slope - (p * slope).sum(dim=-1, keepdim=True)), atol=1e-5)


@pytest.mark.slow
def test_it_learns_where_a_frozen_policy_does_not() -> None:
    # Measured over seeds 0 to 2: .95 to .97 of the way from random to the best; frozen: about 0.
    problem = multilinear()
    observation = problem.sample(300, generator_from(9))
    choices = torch.cartesian_prod(*[torch.arange(5)] * 3)
    scores = problem.score(observation, choices.unsqueeze(1).expand(-1, 300, -1))
    best, random = float(scores.amax(dim=0).mean()), float(scores.mean())

    def optimality(rate: float) -> float:
        agent = build(problem, learning_rate=rate, policy=PointerSize(16, 64, 3, 4)).learn(30_000)
        return (float(problem.score(observation, agent.choose(observation)).mean()) - random) / (best - random)

    assert optimality(3e-3) > 0.85
    assert optimality(1e-12) < 0.5


def test_starts_differ_and_the_best_of_them_is_better() -> None:
    problem = multilinear(10, 30)
    agent = build(problem, learning_rate=3e-3).learn(12_000)
    observation = problem.sample(200, generator_from(9))
    starts = agent.policy.starts(observation)
    choices = torch.stack([next(starts) for _ in range(6)])
    # Measured over seeds 0 to 3: .09 to .12, and the best is better by .23 to .82.
    assert float((choices[0] != choices[1:]).any(dim=-1).double().mean()) > 0.05
    scores = problem.score(observation, choices)
    assert float(scores.amax(dim=0).mean()) > float(scores[0].mean()) + 0.02
    assert torch.equal(choices[0], agent.policy.confident(observation))


def test_the_greedy_order_by_hand() -> None:
    # The third start adds (4 + 0) / 2 to the first, the second and the fourth 1 / 2 each. Then the second adds more.
    scores = torch.tensor([[1.0, 3.0], [0.0, 4.0], [5.0, 0.0], [2.0, 3.0]])
    assert greedy_order(scores).tolist() == [2, 1, 3]
    assert greedy_order(scores[:1]).tolist() == []


@pytest.fixture
def ordering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts are ordered with 30 % of the calls, so that a short training can do it."""
    monkeypatch.setattr("slot_rl.agents.multistart.ORDER_SHARE", 0.3)


@pytest.mark.usefixtures("ordering")
def test_the_last_update_orders_the_starts() -> None:
    problem = multilinear()
    agent = build(problem, ask="mixture")
    before = agent.policy.network.noises.clone()
    agent.learn(4_000)
    after = agent.policy.network.noises
    assert {tuple(row) for row in before.tolist()} == {tuple(row) for row in after.tolist()}
    assert not torch.equal(before, after)
    # 30 % of the calls are 18 requests with 1 + 64 starts each, which no backward is asked for.
    assert agent.num_timesteps - agent.problem.budget.backwards == 18 * 65
    assert 4_000 <= agent.num_timesteps == problem.budget.forwards < 4_000 + 32


@pytest.mark.usefixtures("ordering")
@pytest.mark.parametrize(("calls", "starts"), [(2_000, 4), (4_000, 1)])
def test_too_few_requests_and_a_single_start_have_no_order(calls: int, starts: int) -> None:
    agent = build(multilinear(), ask="mixture", starts=starts)
    before = agent.policy.network.noises.clone()
    agent.learn(calls)
    assert torch.equal(agent.policy.network.noises, before)
    assert agent.problem.budget.backwards == agent.num_timesteps


@pytest.mark.slow
@pytest.mark.usefixtures("ordering")
def test_ordered_starts_are_better_and_survive_a_checkpoint(tmp_path: Path) -> None:
    # Measured over seeds 0 to 2: the first three starts are .16 to 1.9 better; where a policy is sure, none are.
    problem = multilinear(10, 30)
    agent = build(problem, learning_rate=3e-3).learn(12_000)
    observation = problem.sample(300, generator_from(9))
    first, last = (served(agent.policy, problem, observation, part) for part in (slice(3), slice(-3, None)))
    assert first > last
    agent.save(tmp_path / "run")
    again = load_agent(tmp_path / "run", problem)
    assert again.policy is not None and torch.equal(again.policy.network.noises, agent.policy.network.noises)


def served(policy: SlotPolicy, problem: Problem, observation: Observation, part: slice) -> float:
    """Returns the mean of the requests' best scores among some of the known starts."""
    choices = list(islice(policy.starts(observation), 1 + len(policy.network.noises)))[1:][part]
    return float(problem.score(observation, torch.stack(choices)).amax(dim=0).mean())


def test_serving_begins_with_the_starts() -> None:
    problem = curved()
    agent, observation = build(problem).learn(320), problem.sample(50, generator_from(9))
    before = problem.budget.forwards
    one = serve(agent, problem, observation, Serving("starts", 1), generator_from(0))
    assert torch.equal(one.choice, agent.policy.confident(observation))
    assert problem.budget.forwards - before == 50
    more = serve(agent, problem, observation, Serving("starts", 12), generator_from(0))
    assert problem.budget.forwards - before == 50 * 13
    assert bool((more.score >= one.score - 1e-5).all()) and float((more.score - one.score).mean()) > 0


def test_constraints_are_kept_and_mixtures_refused() -> None:
    problem = pages()
    agent = build(problem).learn(320)
    assert not agent.asks_mixtures and agent.mixture_error is None
    observation = problem.sample(100, generator_from(3))
    starts = agent.policy.starts(observation)
    for _ in range(4):
        assert forbidden(problem, observation, next(starts)) == 0
    with pytest.raises(ValueError, match="expected ask row or auto under constraints, which a mixture can break"):
        build(problem, ask="mixture")


def test_a_seed_repeats_it_and_a_checkpoint_keeps_it(tmp_path: Path) -> None:
    def weights(agent: Any) -> dict[str, Tensor]:
        return dict(agent.policy.state_dict())

    first, second, other = (build(curved(), seed=seed).learn(2_000) for seed in (1, 1, 2))
    assert all(torch.equal(part, weights(second)[name]) for name, part in weights(first).items())
    assert not torch.equal(weights(first)["network.start"], weights(other)["network.start"])
    first.save(tmp_path / "agent")
    again = load_agent(tmp_path / "agent", first.env)
    assert isinstance(again, MultistartAgent)
    assert again.mixture_error == first.mixture_error
    again.learn(640, reset_num_timesteps=False)
    first.learn(640, reset_num_timesteps=False)
    assert again.num_timesteps == first.num_timesteps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ask": "both"}, "expected ask auto, mixture, row, got 'both'"),
        ({"starts": 0}, "expected from 1 to 64 starts"),
        ({"starts": 65}, r"expected from 1 to 64 starts \(batch_size / 2\), got 65"),
        ({"keep": 1.5}, "keep from 0 to 1"),
        ({"first_stage": -0.1}, "first_stage and keep from 0 to 1"),
        ({"margin": 0.0}, "margin > 0"),
        ({"policy": PointerSize()}, "expected start_dim >= 1 for 8 starts, got 0"),
    ],
)
def test_bad_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultistartOptions(**changes)

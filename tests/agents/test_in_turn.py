"""Policies that draw slots in turn: one law for every door, and what independent slots cannot do."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slot_rl.agents import AGENTS, A2CAgent, GumbelAgent, PPOAgent, ReinforceAgent, load_agent
from slot_rl.agents.serving import Serving, serve
from slot_rl.envs import SlotVecEnv
from slot_rl.io import read_json
from slot_rl.networks import PointerSize
from slot_rl.problems import Observation, SlotProblem
from slot_rl.problems.candidate_draws import unit_uniform
from slot_rl.problems.constraints import Distinct
from slot_rl.seeding import generator_from
from slot_rl.selectors import masked_logits
from slot_rl.selectors.rules import most_confident_first
from tests.helpers.equivalence import all_choices
from tests.helpers.options import options_of

SMALL = PointerSize(width=16, hidden=32, rounds=2)


def far_from_one(vectors: Tensor) -> Tensor:
    return -(vectors.flatten(-2).sum(dim=-1) - 1).square()


def sums(items: int = 4, **given: Any) -> SlotProblem:
    """Three slots whose numbers shall add up to one: which item is right depends on the other slots."""
    return SlotProblem(far_from_one, 3, items, 1, unit_uniform, truth=far_from_one, **given)


def build(kind: Any = GumbelAgent, problem: SlotProblem | None = None, **changes: Any) -> Any:
    name = {GumbelAgent: "gumbel", ReinforceAgent: "reinforce", PPOAgent: "ppo", A2CAgent: "a2c"}[kind]
    options = options_of(name, **{"policy": SMALL, "in_turn": True, "learning_rate": 3e-3, **changes})
    return kind(SlotVecEnv(problem or sums(), 64), options, seed=0)


def build_named(name: str) -> Any:
    return AGENTS[name](SlotVecEnv(sums(), 64), options_of(name, policy=SMALL, in_turn=True))


@pytest.mark.parametrize("kind", [GumbelAgent, ReinforceAgent, PPOAgent, A2CAgent])
def test_the_probabilities_of_every_agents_answers_sum_to_one(kind: Any) -> None:
    problem, choices = sums(), all_choices(3, 4)
    agent = build(kind, problem).learn(512)
    observation = problem.sample(1, generator_from(0))[torch.zeros(len(choices), dtype=torch.long)]
    with torch.no_grad():
        log_p = agent.policy.log_probability(observation, choices)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-5)


def test_the_librarys_log_probabilities_are_the_policys() -> None:
    problem = sums()
    policy, observation = build(PPOAgent, problem).policy, problem.sample(30, generator_from(0))
    with torch.no_grad():
        actions, _, log_prob = policy(observation.tensors())
        expected = policy.log_probability(observation, actions)
    _, again, entropy = policy.evaluate_actions(observation.tensors(), actions)
    torch.testing.assert_close(log_prob.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(again, log_prob, atol=1e-5, rtol=0)
    assert again.requires_grad and entropy is not None and bool((entropy > 0).all())


def test_the_answer_fixes_the_clearest_slot_and_thinks_again() -> None:
    problem = sums()
    policy, observation = build(problem=problem).learn(2_560).policy, problem.sample(500, generator_from(0))
    with torch.no_grad():
        thought = policy.network.think(policy.read(observation))

        def rethink(choice: Tensor) -> Tensor:
            nonlocal thought
            thought = policy.network.think_on(thought, choice)
            return masked_logits(thought.logits, None)

        expected = most_confident_first(thought.logits, rethink=rethink)
        assert torch.equal(policy.answer(observation), expected)
        assert torch.equal(policy.confident(observation), expected)
        one_pass = policy.point(observation)[0].argmax(dim=-1)
    assert not torch.equal(one_pass, expected)


def optimality(agent: Any, problem: SlotProblem) -> float:
    observation = problem.sample(1_000, generator_from(99))
    random = torch.randint(problem.items, (1_000, 3), generator=generator_from(1))
    found, by_chance = (problem.score(observation, choice).mean() for choice in (agent.choose(observation), random))
    return float(1 - found / by_chance)


def test_slots_in_turn_learn_to_add_up_and_a_blind_one_does_not() -> None:
    problem = sums(8)
    trained = build(problem=problem, batch_size=64).learn(12_800)
    assert optimality(build(problem=problem), problem) < 0.6 < 0.9 < optimality(trained, problem)


def test_lists_and_constraints_are_kept() -> None:
    problem = sums(5, fewest_items=3, constraints=[Distinct()])
    agent = build(problem=problem, batch_size=64).learn(640)
    observation = problem.sample(300, generator_from(0))
    mask = problem.mask(observation)
    assert mask is not None
    drawn = serve(agent, problem, observation, Serving("sample"), generator_from(1)).choice
    for choice in (agent.choose(observation), drawn):
        assert bool(mask.gather(-1, choice.unsqueeze(-1)).all())
        assert all(len(set(row)) == 3 for row in choice.tolist())


def test_a_checkpoint_remembers_how_slots_are_drawn(tmp_path: Path) -> None:
    problem = sums()
    agent, observation = build(problem=problem).learn(256), problem.sample(50, generator_from(0))
    agent.save(tmp_path / "checkpoint")
    again = load_agent(tmp_path / "checkpoint", SlotVecEnv(sums(), 2))
    assert torch.equal(again.choose(observation), agent.choose(observation))


def test_a_checkpoint_of_before_has_independent_slots(tmp_path: Path) -> None:
    agent = build(in_turn=False)
    agent.save(tmp_path / "checkpoint")
    manifest = tmp_path / "checkpoint" / "manifest.json"
    document = read_json(manifest)
    assert document["options"].pop("in_turn") is False
    manifest.write_text(json.dumps(document))
    again = load_agent(tmp_path / "checkpoint", SlotVecEnv(sums(), 2))
    assert isinstance(again, GumbelAgent) and not again.options.in_turn and not again.policy.in_turn


@pytest.mark.parametrize("name", ["softmax", "rloo", "local_expectation", "rebar", "exact"])
def test_selectors_of_several_draws_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected in_turn False \(--no-in-turn\) for .*, got True"):
        options_of(name, in_turn=True)


@pytest.mark.parametrize("name", ["straight_through", "gumbel_rao", "reinmax", "gapped", "intermediate_loss"])
def test_selectors_of_one_draw_take_turns(name: str) -> None:
    assert build_named(name).policy.in_turn


def test_products_of_large_numbers_stay_finite() -> None:
    problem = SlotProblem(far_from_one, 2, 4, 6)
    policy = build(problem=problem).policy
    candidates = 1e8 * torch.randn(3, 4, 6, generator=generator_from(0))
    assert bool(policy.point(Observation(candidates))[0].isfinite().all())

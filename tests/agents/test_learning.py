"""What agents learn on the problems that the README reports, each beside a control that must fail the same bar."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from slot_rl.agents import AGENTS, GumbelAgent
from slot_rl.agents.sb3 import LearningAgent
from slot_rl.envs import SlotVecEnv
from slot_rl.evaluation import Evaluation, EvaluationConfig
from slot_rl.pretraining import PretrainConfig, pretrain
from slot_rl.problems import Observation, Problem, make_problem
from slot_rl.seeding import generator_from
from tests.helpers.options import options_of

pytestmark = pytest.mark.slow


def trained(name: str, problem: Problem, timesteps: int) -> LearningAgent:
    options = options_of(name)
    agent = AGENTS[name](SlotVecEnv(problem, options.batch_size, seed=0), options)
    assert isinstance(agent, LearningAgent)
    return agent.learn(timesteps)


def share_of_best_slots(choose: Callable[[Observation], Tensor]) -> float:
    """Share of slots on the item nearest to one half, over 2,000 requests of PickValue."""
    observation = make_problem("SlotRL/PickValue-v0").sample(2_000, generator_from(99))
    assert observation.candidates is not None
    best = (observation.candidates.squeeze(-1) - 0.5).abs().argmin(dim=-1, keepdim=True)
    return float((choose(observation) == best).double().mean())


@pytest.mark.parametrize(("name", "bar"), [("gumbel", 0.85), ("reinforce", 0.75), ("ppo", 0.75)])
def test_agents_reach_their_bar_and_a_collapsed_policy_does_not(name: str, bar: float) -> None:
    problem = make_problem("SlotRL/Slots-v0")
    evaluation = Evaluation(problem, EvaluationConfig(eval_size=200))
    agent = trained(name, problem, 150_000)
    assert evaluation.judge(agent.choose).figure("optimality") >= bar
    collapsed = next(row for row in evaluation.references if row.name == "best constant")
    assert collapsed.figure("optimality") < bar - 0.3


def test_a_critic_of_rewards_needs_fewer_than_ppo() -> None:
    problem = make_problem("SlotRL/Slots-v0")
    evaluation = Evaluation(problem, EvaluationConfig(eval_size=200))
    answers = {name: evaluation.judge(trained(name, problem, 10_000).choose) for name in ("learned_critic", "ppo")}
    assert answers["learned_critic"].figure("true_optimality") >= 0.9
    collapsed = next(row for row in evaluation.references if row.name == "best constant")
    for row in (answers["ppo"], collapsed):
        assert row.figure("true_optimality") < 0.85


def test_gumbel_picks_the_value_and_an_untrained_policy_does_not() -> None:
    problem = make_problem("SlotRL/PickValue-v0")
    assert share_of_best_slots(trained("gumbel", problem, 200_000).choose) >= 0.95
    untrained = GumbelAgent(SlotVecEnv(problem, 2))
    assert share_of_best_slots(untrained.choose) < 0.3


def test_on_suzuki_the_policy_uses_its_context(tmp_path: Path, landscape: Callable[[str], Path]) -> None:
    table = landscape("suzuki.csv")
    out = tmp_path / "suzuki"
    pretrain(PretrainConfig(table=table, score="yield", context=("electrophile", "nucleophile"), out=out))
    problem = make_problem("SlotRL/Rows-v0", estimator=out, truth=table)
    evaluation = Evaluation(problem, EvaluationConfig())
    policy = evaluation.judge(trained("gumbel", problem, 200_000).choose)
    constant = next(row for row in evaluation.references if row.name == "constant, best true")
    assert policy.figure("optimality") > 0.95
    assert policy.figure("true_score") > constant.figure("true_score") + 10
    greedy_only = GumbelAgent(SlotVecEnv(problem, 256), options_of("gumbel", entropy=0.0)).learn(200_000)
    assert evaluation.judge(greedy_only.choose).figure("optimality") < 0.95

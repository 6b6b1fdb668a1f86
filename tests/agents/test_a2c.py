"""Stable-Baselines3's A2C with the shared policy: it learns, counts, repeats itself, and steps as one does by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from slot_rl.agents import AGENTS, A2CAgent, PPOAgent, load_agent
from slot_rl.agents.a2c import A2COptions
from slot_rl.agents.base import to_json
from slot_rl.agents.on_policy import OnPolicyAgent
from slot_rl.agents.policy import as_observation
from slot_rl.agents.ppo import PPOOptions
from slot_rl.agents.scale import RunningScale
from slot_rl.envs import SlotsEnv, SlotVecEnv
from slot_rl.evaluation import Evaluation, EvaluationConfig
from slot_rl.networks import PointerSize
from slot_rl.problems import Budget, make_problem
from slot_rl.search import random_choice
from slot_rl.seeding import generator_from

SMALL = PointerSize(width=16, hidden=32, rounds=1)
OPTIONS = A2COptions(batch_size=64, policy=SMALL)


def pick_env(num_envs: int = 64, fewest_items: int | None = None) -> SlotVecEnv:
    return SlotVecEnv("SlotRL/PickValue-v0", num_envs, seed=0, fewest_items=fewest_items)


def build(options: A2COptions = OPTIONS, env: Any = None, seed: int = 0) -> A2CAgent:
    return A2CAgent(pick_env(options.batch_size) if env is None else env, options, seed=seed)


def weights(agent: Any) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in agent.policy.state_dict().items()}


def mean_score(agent: A2CAgent) -> float:
    env = pick_env(2000)
    actions, _ = agent.predict(env.reset(), deterministic=True)
    return float(env.step(actions)[1].mean())


def test_it_learns_and_random_rows_stay_below() -> None:
    problem = make_problem("SlotRL/PickValue-v0")
    observation = problem.sample(2000, generator_from(0))
    at_random = float(problem.score(observation, random_choice(problem, observation, generator_from(0))).mean())
    # Random choices score -1/3 on average, the best of eight about -0.02.
    assert at_random < -0.3 and mean_score(build()) < -0.2
    assert mean_score(build().learn(20_000)) > -0.1


@pytest.mark.slow
def test_it_reaches_its_bar_on_slots() -> None:
    problem = make_problem("SlotRL/Slots-v0")
    evaluation = Evaluation(problem, EvaluationConfig(eval_size=200))
    agent = A2CAgent(SlotVecEnv(problem, A2COptions().batch_size, seed=0)).learn(100_000)
    assert evaluation.judge(agent.choose).figure("optimality") >= 0.74
    collapsed = next(row for row in evaluation.references if row.name == "best constant")
    assert collapsed.figure("optimality") < 0.44


def test_it_is_the_librarys_own_algorithm_with_our_defaults() -> None:
    agent = build()
    assert AGENTS["a2c"].build is A2CAgent
    assert isinstance(agent, A2C) and isinstance(agent, OnPolicyAgent)
    assert A2CAgent.train is OnPolicyAgent.train and A2CAgent.mro().index(OnPolicyAgent) < A2CAgent.mro().index(A2C)
    assert type(agent.policy.optimizer) is torch.optim.Adam
    assert type(agent.policy.optimizer) is type(PPOAgent(pick_env(2048)).policy.optimizer)
    defaults = A2COptions()
    assert (defaults.batch_size, defaults.max_grad_norm, defaults.value_coefficient) == (256, 0.5, 0.5)
    assert defaults.normalise_advantage and agent.normalize_advantage
    assert (agent.n_steps, build(env=pick_env(16)).n_steps) == (1, 4)


@pytest.mark.parametrize("normalise", [True, False])
def test_its_step_follows_the_policy_gradient_by_hand(normalise: bool) -> None:
    options = A2COptions(
        batch_size=64,
        policy=SMALL,
        max_grad_norm=1e9,
        entropy=0.2,
        entropy_schedule="constant",
        normalise_advantage=normalise,
    )
    agent, problem = build(options, seed=2), make_problem("SlotRL/PickValue-v0")
    found: list[torch.Tensor] = []
    query = agent.policy.network.round.linear.weight

    def captured(closure: Any = None) -> None:
        assert query.grad is not None
        found.append(query.grad.clone())

    agent.policy.optimizer.step = captured  # type: ignore[method-assign,assignment]
    agent.learn(64)
    (step,) = found
    buffer = agent.rollout_buffer
    observations: Any = {name: torch.as_tensor(part) for name, part in buffer.observations.items()}  # type: ignore[attr-defined]
    actions = torch.as_tensor(buffer.actions).long()
    scores = problem.score(as_observation(observations), actions)
    target = (scores - scores.mean()) / scores.std()
    values, log_prob, entropy = agent.policy.evaluate_actions(observations, actions)
    advantage = target - values.squeeze(-1).detach()
    if normalise:
        advantage = (advantage - advantage.mean()) / advantage.std()
    assert entropy is not None
    loss = -(advantage * log_prob).mean() - 0.2 * entropy.mean() + 0.5 * (values.squeeze(-1) - target).square().mean()
    (wanted,) = torch.autograd.grad(loss, query)
    assert float(wanted.abs().max()) > 1e-3
    torch.testing.assert_close(step, wanted, atol=1e-5, rtol=1e-4)


def test_timesteps_are_the_problems_calls() -> None:
    env = pick_env()
    agent = build(env=env).learn(1_000)
    assert agent.num_timesteps == 1_024 and env.problem.budget == Budget(1_024, 0)
    assert agent.scale.seen == 1_024 and agent.update_size == 64


def test_padded_items_are_never_chosen_in_training() -> None:
    # The face refuses a masked choice, so a training that ends has made none.
    assert build(env=pick_env(fewest_items=1)).learn(2_000).num_timesteps >= 2_000


def test_a_seed_repeats_its_weights() -> None:
    first, second, other = (weights(build(seed=seed).learn(512)) for seed in (3, 3, 4))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["network.round.linear.weight"], other["network.round.linear.weight"])


def test_step_size_and_entropy_bonus_anneal(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float]] = []
    train = A2C.train

    def watched(self: A2C) -> None:
        train(self)
        seen.append((self.policy.optimizer.param_groups[0]["lr"], self.ent_coef))

    monkeypatch.setattr(A2C, "train", watched)
    build(A2COptions(learning_rate=1e-2, batch_size=64, entropy=0.4, entropy_end=0.2, policy=SMALL)).learn(256)
    left = np.array([0.75, 0.5, 0.25, 0.0])
    assert np.allclose([rate for rate, _ in seen], 1e-2 * left)
    assert np.allclose([bonus for _, bonus in seen], 0.2 + 0.2 * left)


def test_a_checkpoint_restores_the_agent(tmp_path: Path) -> None:
    agent = build().learn(512)
    agent.save(tmp_path)
    again = load_agent(tmp_path, pick_env())
    assert type(again) is A2CAgent and again.options == agent.options and again.num_timesteps == 512
    assert again.scale == agent.scale != RunningScale()
    kept, state = agent.policy.optimizer.state_dict()["state"], again.policy.optimizer.state_dict()["state"]
    assert all(torch.equal(kept[0][name], state[0][name]) for name in ("exp_avg", "exp_avg_sq", "step"))
    obs = pick_env(32).reset()
    assert np.array_equal(agent.predict(obs, deterministic=True)[0], again.predict(obs, deterministic=True)[0])
    assert torch.equal(agent.policy.generator.get_state(), again.policy.generator.get_state())


def test_single_environments_will_do() -> None:
    env = DummyVecEnv([lambda: SlotsEnv("SlotRL/PickValue-v0") for _ in range(4)])
    assert build(env=env).learn(128).num_timesteps == 128


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value_coefficient": -1.0}, "value_coefficient >= 0, got -1.0"),
        ({"batch_size": 1}, "batch_size >= 2"),
        ({"learning_rate": 0.0}, "learning_rate > 0"),
    ],
)
def test_options_refuse_what_no_training_could_use(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        A2COptions(**arguments)


def test_options_of_another_agent_are_refused_and_ours_are_json() -> None:
    wrong: Any = PPOOptions()
    with pytest.raises(TypeError, match="expected A2COptions for A2CAgent, got PPOOptions"):
        A2CAgent(pick_env(), wrong)
    assert to_json(A2COptions())["normalise_advantage"] is True


def test_ppo_still_is_the_librarys_own_with_its_settings() -> None:
    options = PPOOptions(batch_size=128, minibatch_size=32, epochs=3, clip_range=0.1, value_coefficient=0.7)
    agent = PPOAgent(pick_env(64), options, seed=0)
    assert isinstance(agent, PPO) and isinstance(agent, OnPolicyAgent)
    assert (agent.n_steps, agent.batch_size, agent.n_epochs, agent.vf_coef) == (2, 32, 3, 0.7)
    clip: Any = agent.clip_range
    assert clip(1.0) == 0.1
    assert agent.max_grad_norm == 0.5
    assert agent.lr_schedule(0.25) == pytest.approx(options.learning_rate / 4)

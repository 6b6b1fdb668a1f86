"""What every agent promises: it learns, counts, repeats itself under a seed, and suits Stable-Baselines3's tools."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, LogEveryNTimesteps, StopTrainingOnMaxEpisodes
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from slot_rl.agents import AGENTS, GumbelAgent, LearningAgent, PPOAgent, ReinforceAgent, SlotPolicy, load_agent
from slot_rl.agents.learning_options import LearningOptions
from slot_rl.agents.ppo import PPOOptions
from slot_rl.agents.reinforce import ReinforceOptions
from slot_rl.envs import SlotsEnv, SlotVecEnv
from slot_rl.io import BundleError
from slot_rl.networks import PointerSize
from slot_rl.problems import SlotProblem
from slot_rl.problems.truths import pick_value
from tests.helpers.options import options_of

SMALL = PointerSize(width=16, hidden=32, rounds=1)
GumbelOptions = partial(options_of, "gumbel")
OPTIONS: dict[str, LearningOptions] = {
    "gumbel": GumbelOptions(learning_rate=3e-3, batch_size=64, policy=SMALL),
    "learned_critic": options_of(
        "learned_critic",
        learning_rate=3e-3,
        batch_size=64,
        policy=SMALL,
        actor_steps=1,
        actor_batch=16,
        fit_steps=50,
        fewest_steps=25,
    ),
    "reinforce": ReinforceOptions(batch_size=64, policy=SMALL),
    "ppo": PPOOptions(batch_size=128, minibatch_size=64, policy=SMALL),
}
names = pytest.mark.parametrize("name", sorted(OPTIONS))


def pick_env(num_envs: int = 64, fewest_items: int | None = None) -> SlotVecEnv:
    return SlotVecEnv("SlotRL/PickValue-v0", num_envs, seed=0, fewest_items=fewest_items)


def build(name: str, env: Any = None, seed: int = 0) -> LearningAgent:
    options = OPTIONS[name]
    make: Any = AGENTS[name]
    agent: LearningAgent = make(pick_env(options.batch_size) if env is None else env, options, seed=seed)
    return agent


def weights(agent: LearningAgent) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in agent.policy.state_dict().items()}


def mean_score(agent: LearningAgent) -> float:
    env = pick_env(2000)
    actions, _ = agent.predict(env.reset(), deterministic=True)
    return float(env.step(actions)[1].mean())


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in ("learned_critic", "ppo"))) for name in sorted(OPTIONS)],
)
def test_agent_learns_and_an_untrained_one_does_not(name: str) -> None:
    # Random choices score -1/3 on average, the best of eight about -0.02.
    untrained = build(name)
    trained = build(name).learn(20_000)
    assert mean_score(untrained) < -0.2
    assert mean_score(trained) > -0.1


@names
def test_timesteps_are_the_problems_calls(name: str) -> None:
    env = pick_env(OPTIONS[name].batch_size)
    agent = build(name, env).learn(1_000)
    assert agent.num_timesteps == env.problem.budget.forwards >= 1_000
    assert agent.num_timesteps < 1_000 + OPTIONS[name].batch_size
    assert env.problem.budget.backwards == (agent.num_timesteps if name == "gumbel" else 0)


@names
def test_no_agent_scores_without_being_counted(name: str) -> None:
    asked = 0

    def counting(vectors: torch.Tensor) -> torch.Tensor:
        nonlocal asked
        score = pick_value(vectors)
        # The guard has one row scored again, for which nobody learns anything.
        asked += score.numel() if len(score) > 1 else 0
        return score

    problem = SlotProblem(counting, 4, 8, 1)
    asked = 0  # The problem tried its estimator out.
    agent = build(name, SlotVecEnv(problem, OPTIONS[name].batch_size)).learn(512)
    assert asked == problem.budget.forwards == agent.num_timesteps


@names
def test_a_seed_repeats_its_weights(name: str) -> None:
    first, second, other = (weights(build(name, seed=seed).learn(512)) for seed in (3, 3, 4))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["network.round.linear.weight"], other["network.round.linear.weight"])


@names
def test_our_agents_leave_the_global_generators_alone(name: str) -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    build(name).learn(256)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002


@names
def test_a_checkpoint_continues_bit_for_bit(name: str, tmp_path: Path) -> None:
    agent = build(name).learn(512)
    agent.save(tmp_path / "checkpoint")
    assert sorted(p.suffix for p in (tmp_path / "checkpoint").iterdir()) == [".json", ".safetensors"]
    again = load_agent(tmp_path / "checkpoint", pick_env(OPTIONS[name].batch_size))
    assert type(again) is type(agent)
    assert again.options == agent.options
    assert again.num_timesteps == agent.num_timesteps
    obs = pick_env(32).reset()
    assert np.array_equal(agent.predict(obs, deterministic=True)[0], again.predict(obs, deterministic=True)[0])
    if name == "gumbel":  # draws its own requests, so that the environment's state does not matter
        agent.learn(512, reset_num_timesteps=False)
        again.learn(512, reset_num_timesteps=False)
        first, second = weights(agent), weights(again)
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    build("gumbel").save(tmp_path / "checkpoint")
    with pytest.raises(BundleError, match="expected a checkpoint of 'reinforce'.*got 'gumbel'"):
        ReinforceAgent.load(tmp_path / "checkpoint", pick_env())
    with pytest.raises(BundleError, match="agent for this environment"):
        load_agent(tmp_path / "checkpoint", SlotVecEnv("SlotRL/Slots-v0", 8))
    with pytest.raises(BundleError, match="expected a checkpoint of 'reinforce'.*got 'gumbel'"):
        ReinforceAgent.load(tmp_path / "checkpoint")
    with pytest.raises(BundleError, match="manifest.json"):
        load_agent(tmp_path, pick_env())
    with pytest.raises(ValueError, match="whole checkpoint"):
        build("gumbel").save(tmp_path / "other", exclude=["policy"])


def test_a_weight_that_is_not_finite_is_never_written(tmp_path: Path) -> None:
    agent = build("gumbel")
    agent.save(tmp_path / "checkpoint")
    good = {p.name: p.read_bytes() for p in (tmp_path / "checkpoint").iterdir()}
    with torch.no_grad():
        agent.policy.network.round.linear.weight[0, 0] = torch.nan
    with pytest.raises(BundleError, match="finite weights, got NaN or infinity in policy.network.round.linear.weight"):
        agent.save(tmp_path / "checkpoint")
    assert {p.name: p.read_bytes() for p in (tmp_path / "checkpoint").iterdir()} == good


@names
def test_callbacks_see_every_update_and_can_stop_the_training(name: str) -> None:
    class StopAfter(BaseCallback):
        calls = 0

        def _on_step(self) -> bool:
            self.calls += 1
            return self.calls < 3

    stop = StopAfter()
    agent = build(name).learn(10_000, callback=stop)
    assert stop.calls == 3
    assert agent.num_timesteps == 3 * OPTIONS[name].batch_size


class Events(BaseCallback):
    """Counts what Stable-Baselines3 promises to callbacks, and follows the training as its progress bar does."""

    rollouts = ended = shown = total = 0

    def _on_training_start(self) -> None:
        self.total = self.locals["total_timesteps"] - self.model.num_timesteps

    def _on_rollout_start(self) -> None:
        self.rollouts += 1

    def _on_step(self) -> bool:
        self.shown += self.training_env.num_envs
        return True

    def _on_rollout_end(self) -> None:
        self.ended += 1


@names
@pytest.mark.parametrize("envs", [8, 64])
def test_callbacks_are_told_of_rollouts_and_progress(name: str, envs: int) -> None:
    first, second = Events(), Events()
    agent = build(name, pick_env(envs)).learn(512, callback=first, log_interval=None)
    agent.learn(512, callback=second, reset_num_timesteps=False)
    updates = 512 // OPTIONS[name].batch_size
    for events in (first, second):
        assert (events.rollouts, events.ended) == (updates, updates)
        assert events.shown == events.total == 512
    assert agent.num_timesteps == 1024


@names
def test_the_number_of_episodes_can_stop_a_training(name: str) -> None:
    agent = build(name, pick_env(8)).learn(10_000, callback=StopTrainingOnMaxEpisodes(16))
    assert agent.num_timesteps == 128


def test_logs_can_be_asked_for_by_a_callback(capsys: pytest.CaptureFixture[str]) -> None:
    options = OPTIONS["reinforce"]
    agent = ReinforceAgent(pick_env(64), options, verbose=1)
    agent.learn(256, callback=LogEveryNTimesteps(128), log_interval=None)
    assert capsys.readouterr().out.count("value_loss") == 2


@names
def test_evaluate_policy_gives_the_score_that_the_problem_gives(name: str) -> None:
    agent = build(name)
    env = VecMonitor(pick_env(50))
    mean, _ = evaluate_policy(agent, env, n_eval_episodes=400, deterministic=True)
    assert mean == pytest.approx(mean_score(agent), abs=0.05)


@names
def test_padded_items_are_never_chosen_in_training(name: str) -> None:
    # The face refuses a masked choice, so a training that ends has made none.
    env = pick_env(OPTIONS[name].batch_size, fewest_items=1)
    seen: list[bool] = []
    problem = env.problem
    original: Callable[..., torch.Tensor] = problem.mix

    def watched(observation: Any, selection: torch.Tensor) -> torch.Tensor:
        seen.append(bool((selection.detach()[~observation.mask] == 0).all()))
        return original(observation, selection)

    problem.mix = watched  # type: ignore[method-assign]
    agent = build(name, env).learn(2_000)
    assert agent.num_timesteps >= 2_000
    assert all(seen)


def test_gumbel_needs_an_estimator() -> None:
    class Blind(SlotVecEnv):
        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            if attr_name == "problem":
                raise AttributeError(attr_name)
            return super().get_attr(attr_name, indices)

    with pytest.raises(ValueError, match="estimator to ask for 'gumbel'.*got one without"):
        build("gumbel", Blind("SlotRL/PickValue-v0", 64))
    build("reinforce", Blind("SlotRL/PickValue-v0", 64)).learn(64)

    flat = SlotProblem(lambda vectors: pick_value(vectors).detach(), 4, 8, 1)
    with pytest.raises(TypeError, match="differentiable estimator.*no gradient"):
        build("gumbel", SlotVecEnv(flat, 64)).learn(64)


def test_agents_accept_single_environments_too() -> None:
    env = DummyVecEnv([lambda: SlotsEnv("SlotRL/PickValue-v0") for _ in range(4)])
    for name in ("reinforce", "ppo"):
        agent = build(name, env).learn(256)
        assert agent.num_timesteps == 256
    agent = GumbelAgent(SlotsEnv("SlotRL/PickValue-v0"), OPTIONS["gumbel"]).learn(256)
    assert agent.num_timesteps == 256


def test_unmodified_ppo_takes_the_policy_as_it_is() -> None:
    env = SlotVecEnv("SlotRL/PickValue-v0", 64, seed=0)
    agent = PPO(SlotPolicy, env, n_steps=2, batch_size=64, seed=0, policy_kwargs={"size": SMALL}).learn(256)
    assert isinstance(agent.policy, SlotPolicy)
    assert env.problem.budget.forwards == agent.num_timesteps == 256


def test_one_coefficient_suits_estimators_of_any_scale() -> None:
    def trained(scale: float, shift: float) -> dict[str, torch.Tensor]:
        problem = SlotProblem(lambda vectors: pick_value(vectors) * scale + shift, 4, 8, 1)
        return weights(build("gumbel", SlotVecEnv(problem, 64)).learn(640))

    # A power of two and no shift only change exponents, so even the rounding is the same.
    plain, scaled = trained(1.0, 0.0), trained(1024.0, 0.0)
    assert all(torch.equal(plain[key], scaled[key]) for key in plain)
    shifted = trained(1.0, 0.5)
    assert all(torch.allclose(plain[key], shifted[key], atol=1e-4) for key in plain)


def test_gumbels_score_function_is_reinforces_gradient() -> None:
    # With nothing left of the training and no entropy bonus, one update of gumbel is one of REINFORCE on its draws.
    options = GumbelOptions(batch_size=64, policy=SMALL, entropy=0.0, max_grad_norm=1e9, in_turn=False)
    agent = GumbelAgent(pick_env(64), options)
    agent._current_progress_remaining = 0.0
    captured: list[torch.Tensor] = []
    agent.optimizer_step = lambda loss: captured.append(loss) or 0.0  # type: ignore[method-assign,func-returns-value]
    state = agent.generator.get_state()
    agent.update()
    assert agent.problem.budget.forwards == 64

    agent.generator.set_state(state)
    observation = agent.problem.sample(64, agent.generator)
    logits, latent = agent.policy.point(observation)
    estimate = agent.selector(
        logits, lambda rows: agent.problem.score_selection(observation, rows), generator=agent.generator
    )
    target = (estimate.score - estimate.score.mean()) / estimate.score.std()
    values = agent.policy.value_head(latent).squeeze(-1)
    advantage = (target - values).detach()
    advantage = (advantage - advantage.mean()) / advantage.std()
    log_prob = torch.distributions.Categorical(logits=logits).log_prob(estimate.choice).sum(dim=1)
    expected = -(advantage * log_prob).mean() + 0.5 * (values - target).square().mean()
    assert captured[0].item() == pytest.approx(expected.item(), abs=1e-5)
    query = agent.policy.network.round.linear.weight
    (found,) = torch.autograd.grad(captured[0], query)
    (wanted,) = torch.autograd.grad(expected, query)
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (GumbelOptions, {"learning_rate": 0.0}, "learning_rate > 0"),
        (GumbelOptions, {"batch_size": 1}, "batch_size >= 2"),
        (GumbelOptions, {"score_function_share": -0.5}, "score_function_share >= 0, got -0.5"),
        (GumbelOptions, {"value_coefficient": -1.0}, "value_coefficient >= 0, got -1.0"),
        (ReinforceOptions, {"entropy": -0.1}, "entropy bonuses >= 0, got -0.1"),
        (ReinforceOptions, {"max_grad_norm": 0.0}, "max_grad_norm > 0"),
        (PPOOptions, {"minibatch_size": 4096}, "minibatch_size from 2 to batch_size"),
        (PPOOptions, {"epochs": 0}, "epochs >= 1"),
        (PPOOptions, {"value_coefficient": -1.0}, "value_coefficient >= 0, got -1.0"),
        (ReinforceOptions, {"value_coefficient": -1.0}, "value_coefficient >= 0, got -1.0"),
        (PointerSize, {"width": 0}, "width, hidden and rounds >= 1"),
    ],
)
def test_options_refuse_what_no_training_could_use(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gumbel", "expected options with a Gumbel selector, got SelectorOptions"),
        ("reinforce", "expected ReinforceOptions for ReinforceAgent, got SelectorOptions"),
        ("ppo", "expected PPOOptions for PPOAgent, got SelectorOptions"),
    ],
)
def test_options_of_another_agent_are_refused(name: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        AGENTS[name](pick_env(64), options_of("rloo"))
    if name == "gumbel":
        with pytest.raises(TypeError, match="expected options with a Gumbel selector, got .*RLOO"):
            AGENTS[name](pick_env(64), selector=options_of("rloo").selector)
    # An option in words changes the agent's own; one that it does not have is refused.
    assert AGENTS[name](pick_env(64), learning_rate=0.5).options == options_of(name, learning_rate=0.5)
    with pytest.raises(TypeError, match="expected options among .*, got 'calls_per_context'"):
        AGENTS[name](pick_env(64), calls_per_context=3)


def test_reinforce_refuses_episodes_that_go_on() -> None:
    class Endless(SlotVecEnv):
        def step_wait(self) -> Any:
            obs, rewards, dones, infos = super().step_wait()
            return obs, rewards, np.zeros_like(dones), infos

    with pytest.raises(ValueError, match="one-step episodes for reinforce, got 64 that went on"):
        build("reinforce", Endless("SlotRL/PickValue-v0", 64)).learn(64)


@pytest.mark.parametrize("kind", [GumbelAgent, PPOAgent, ReinforceAgent])
def test_the_policy_refuses_foreign_spaces(kind: Any) -> None:
    from gymnasium import Env, spaces

    class Foreign(Env[Any, Any]):
        observation_space = spaces.Box(0, 1, (3,), np.float32)
        action_space = spaces.Discrete(2)

    with pytest.raises(TypeError, match="Dict observation and a MultiDiscrete action"):
        kind(Foreign())


def test_policies_of_all_agents_have_the_same_network() -> None:
    sizes = {name: sum(p.numel() for p in build(name).policy.parameters()) for name in OPTIONS}
    assert len(set(sizes.values())) == 1

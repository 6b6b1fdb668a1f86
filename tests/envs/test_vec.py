"""The environment for Stable-Baselines3: its algorithms and wrappers run on it, and every episode is counted once."""

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from slot_rl.envs import SlotsEnv, SlotVecEnv
from slot_rl.problems import make_problem

SLOTS, PICK = "SlotRL/Slots-v0", "SlotRL/PickValue-v0"


def zeros(count: int) -> npt.NDArray[np.int64]:
    return np.zeros((count, 4), dtype=np.int64)


def batch(env: SlotVecEnv) -> npt.NDArray[np.float32]:
    return env.reset()["candidates"]


def stepped(env: SlotVecEnv) -> dict[str, npt.NDArray[Any]]:
    """Chooses the first items and returns the next observation, which SB3's types do not know to be a dict."""
    observation = env.step(zeros(env.num_envs))[0]
    assert isinstance(observation, dict)
    return observation


def test_every_step_ends_every_episode_and_scores_it_once() -> None:
    env = SlotVecEnv(SLOTS, 3, seed=0)
    env.reset()
    earned: set[float] = set()
    for _ in range(5):
        observation, rewards, dones, _ = env.step(zeros(3))
        assert rewards.dtype == np.float32
        assert (rewards.shape, dones.tolist()) == ((3,), [True] * 3)
        assert isinstance(observation, dict)
        assert env.observation_space.contains({name: part[0] for name, part in observation.items()})
        earned |= set(rewards.tolist())
    assert len(earned) == env.problem.budget.forwards == 15


def test_rewards_of_pick_value_by_hand() -> None:
    env = SlotVecEnv(PICK, 4, seed=0)
    values = batch(env)[:, :, 0].astype(np.float64)
    choice = np.array([[0, 1, 2, 3], [7, 7, 7, 7], [0, 0, 0, 1], [5, 6, 5, 6]])
    rewards = env.step(choice)[1]
    expected = -((np.take_along_axis(values, choice, axis=1) - 0.5) ** 2).sum(axis=1)
    np.testing.assert_allclose(rewards, expected, atol=1e-6)


@pytest.mark.parametrize("count", [1, 99, 100, 101, 250])
def test_only_the_last_hundred_infos_carry_an_episode(count: int) -> None:
    env = SlotVecEnv(PICK, count, seed=0)
    env.reset()
    _, rewards, _, infos = env.step(zeros(count))
    assert isinstance(infos, list) and len(infos) == count
    carrying = infos[-min(count, 100) :]
    assert [info["episode"] for info in carrying] == [{"r": float(reward), "l": 1} for reward in rewards[-100:]]
    rest = infos[: count - len(carrying)]
    assert all(info == {} for info in rest)
    assert len({id(info) for info in rest}) <= 1


def test_infos_of_two_steps_are_not_the_same_objects() -> None:
    env = SlotVecEnv(PICK, 101, seed=0)
    env.reset()
    first, second = env.step(zeros(101))[3], env.step(zeros(101))[3]
    assert not {id(info) for info in first} & {id(info) for info in second}


def test_a_seed_fixes_all_further_requests() -> None:
    one, two = SlotVecEnv(SLOTS, 2, seed=5), SlotVecEnv(SLOTS, 2)
    assert list(two.seed(5)) == [5, 5]
    first = [batch(one), stepped(one)["candidates"], batch(one)]
    again = [batch(two), stepped(two)["candidates"], batch(two)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], first[2])
    one.seed(6)
    assert not np.array_equal(batch(one), first[0])
    one.seed(5)
    assert np.array_equal(batch(one), first[0])


def test_environments_that_nobody_seeded_differ() -> None:
    one, two = SlotVecEnv(SLOTS, 2), SlotVecEnv(SLOTS, 2)
    assert not np.array_equal(batch(one), batch(two))
    assert list(one.seed()) == [None, None]
    assert len({row.tobytes() for row in batch(SlotVecEnv(SLOTS, 50, seed=0))}) == 50


def test_attributes_and_methods_are_reached_once_per_environment() -> None:
    env = SlotVecEnv(SLOTS, 3, seed=0)
    assert env.get_attr("problem") == [env.problem] * 3
    assert env.get_attr("num_envs", indices=[0, 2]) == [3, 3]
    assert env.get_attr("render_mode", indices=1) == [None]
    assert env.env_method("get_attr", "render_mode", indices=[1]) == [[None] * 3]
    assert env.env_method("seed", seed=4) == [[4, 4, 4]] * 3
    assert env.env_is_wrapped(Monitor) == [False] * 3
    assert env.env_is_wrapped(Monitor, indices=[0, 1]) == [False] * 2
    assert env.has_attr("problem") and not env.has_attr("nothing_of_this_name")
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        env.get_attr("nothing_of_this_name")


def test_setting_an_attribute_is_refused() -> None:
    env = SlotVecEnv(SLOTS, 2)
    message = "expected no attribute to be set on a batched environment, got 'render_mode'"
    with pytest.raises(AttributeError, match=message):
        env.set_attr("render_mode", "human")


def test_given_requests_are_opened_once() -> None:
    env = SlotVecEnv(PICK, 2, seed=0)
    values = np.stack([np.linspace(0, 1, 8), np.full(8, 0.5)]).astype(np.float32)[:, :, None]
    env.set_options({"observation": {"candidates": values}})
    assert np.array_equal(batch(env), values)
    assert env.step(np.array([[0, 7, 0, 7], [0, 1, 2, 3]]))[1].tolist() == [-1.0, 0.0]
    assert not np.array_equal(batch(env), values)


def test_given_requests_that_do_not_fit_are_refused() -> None:
    env = SlotVecEnv(PICK, 2)
    env.set_options({"observation": {"candidates": np.zeros((8, 1), np.float32)}})
    message = r"expected 'candidates' of shape \(2, 8, 1\) in the given observation, got \(8, 1\)"
    with pytest.raises(ValueError, match=message):
        env.reset()


@pytest.mark.parametrize("count", [0, -3])
def test_an_empty_batch_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"expected at least one environment, got {count}"):
        SlotVecEnv(SLOTS, count)


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"expected reset\(\) before step\(\), got a step with no open request"):
        SlotVecEnv(SLOTS, 2).step(zeros(2))


def test_actions_that_name_no_item_are_refused() -> None:
    env = SlotVecEnv(SLOTS, 2, seed=0)
    env.reset()
    with pytest.raises(ValueError, match="expected an item from 0 to 7 in slot 0, got 8"):
        env.step(zeros(2) + 8)
    with pytest.raises(ValueError, match=r"expected a choice of shape \(2, 4\), got \(3, 4\)"):
        env.step(zeros(3))
    assert env.problem.budget.forwards == 0


def test_options_beside_a_built_problem_are_refused() -> None:
    with pytest.raises(ValueError, match="expected no options with a problem that is built already, got fewest_items"):
        SlotVecEnv(make_problem(SLOTS), 2, fewest_items=5)


def test_observations_share_no_memory() -> None:
    env = SlotVecEnv(SLOTS, 2, seed=0, fewest_items=5)
    observations = [env.reset(), stepped(env), stepped(env), env.reset()]
    for name in ("candidates", "mask"):
        parts = [observation[name] for observation in observations]
        assert not any(np.shares_memory(a, b) for i, a in enumerate(parts) for b in parts[:i])


def test_writing_into_an_observation_does_not_change_the_request() -> None:
    env = SlotVecEnv(PICK, 2, seed=0)
    observation = env.reset()
    values = observation["candidates"][:, 0, 0].copy()
    observation["candidates"][:] = 0.5
    np.testing.assert_allclose(env.step(zeros(2))[1], -4 * (values - 0.5) ** 2, atol=1e-6)


def test_the_unmodified_ppo_learns_from_it() -> None:
    env = SlotVecEnv(SLOTS, 16, seed=0)
    before = env.problem.budget.forwards
    with torch.random.fork_rng(devices=[]):  # SB3 draws from the global generator
        agent = PPO("MultiInputPolicy", env, n_steps=8, batch_size=64, n_epochs=2, device="cpu")
        weights = [value.clone() for value in agent.policy.parameters()]
        agent.learn(128)
    assert agent.num_timesteps == env.problem.budget.forwards - before == 128
    assert any(not torch.equal(old, new) for old, new in zip(weights, agent.policy.parameters(), strict=True))
    assert agent.ep_info_buffer is not None
    recorded = [episode["r"] for episode in agent.ep_info_buffer]
    np.testing.assert_array_equal(recorded, agent.rollout_buffer.rewards.flatten()[-100:].astype(np.float32))
    # Each return is its own reward: no episode leaks into the next.
    rewards = agent.rollout_buffer.rewards.swapaxes(0, 1).reshape(-1, 1)  # as the buffer flattens the others
    np.testing.assert_allclose(agent.rollout_buffer.advantages, rewards - agent.rollout_buffer.values, atol=1e-6)


def test_vec_monitor_reports_the_same_episodes() -> None:
    env = VecMonitor(SlotVecEnv(PICK, 150, seed=0))
    env.reset()
    for _ in range(2):
        _, rewards, _, infos = env.step(zeros(150))
        # VecMonitor replaces our report of an episode by one of its own, for those without a report as well.
        reported = [(info["episode"]["r"], info["episode"]["l"]) for info in infos]
        assert reported == [(reward, 1) for reward in rewards]
        assert all("t" in info["episode"] for info in infos)


def test_vec_normalize_normalises_candidates_and_rewards() -> None:
    env = VecNormalize(SlotVecEnv(SLOTS, 64, seed=0), norm_obs_keys=["candidates"], clip_obs=100.0)
    env.reset()
    for _ in range(20):
        observation, _, _, _ = env.step(zeros(64))
    assert isinstance(observation, dict)
    original = env.get_original_obs()
    assert isinstance(original, dict)
    assert not np.array_equal(observation["candidates"], original["candidates"])
    assert isinstance(env.obs_rms, dict)
    statistics = env.obs_rms["candidates"]
    np.testing.assert_allclose(
        observation["candidates"],
        (original["candidates"] - statistics.mean) / np.sqrt(statistics.var + env.epsilon),
        rtol=1e-4,
        atol=1e-4,
    )
    # 21 batches of 64 standard normal draws: the mean's own deviation is 1 / sqrt(1344), or 0.027.
    assert np.abs(statistics.mean).max() < 0.14
    assert np.abs(statistics.var - 1).max() < 0.2


def test_sb3s_own_batch_of_single_environments_agrees() -> None:
    made: list[Any] = [lambda: SlotsEnv(SLOTS) for _ in range(4)]
    reference = DummyVecEnv(made)
    reference.seed(0)
    ours = SlotVecEnv(SLOTS, 4)
    assert ours.observation_space == reference.observation_space
    assert isinstance(ours.action_space, gym.spaces.MultiDiscrete)
    assert ours.action_space == reference.action_space
    observation = reference.reset()
    for _ in range(3):
        ours.set_options({"observation": observation})
        ours.reset()
        _, rewards, dones, _ = ours.step(zeros(4))
        observation, expected, expected_dones, _ = reference.step(zeros(4))
        # Batches of other sizes are rounded differently.
        np.testing.assert_allclose(rewards, expected, atol=1e-5)
        assert (rewards.dtype, dones.dtype) == (expected.dtype, expected_dones.dtype)
        assert dones.tolist() == expected_dones.tolist()

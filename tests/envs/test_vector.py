"""The batched environment: no step is wasted on resetting, and gymnasium's own vector environment agrees on all of it.

Gymnasium has no checker for vector environments, so its ``SyncVectorEnv`` over single environments is the reference.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from slot_rl.envs import SlotsEnv, SlotsVectorEnv
from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.problems import Problem, RowProblem, make_problem
from slot_rl.seeding import seeded_initialisation

SLOTS, PICK = "SlotRL/Slots-v0", "SlotRL/PickValue-v0"


def row_problem() -> RowProblem:
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(3, 4, (8,), vocabulary=(2, 3, 4), contexts=(2, 3)))
    return RowProblem(net, torch.tensor([[0, 0], [1, 2], [0, 1]]))


def problem_of(kind: str) -> Problem:
    return {
        "slots": lambda: make_problem(SLOTS),
        "mask": lambda: make_problem(SLOTS, fewest_items=5),
        "rows": row_problem,
    }[kind]()


def first_items(problem: Problem, count: int) -> np.typing.NDArray[np.int64]:
    return np.zeros((count, problem.slots), dtype=np.int64)


def test_the_environment_says_that_it_resets_within_the_step() -> None:
    env = SlotsVectorEnv(SLOTS, 2)
    assert env.metadata["autoreset_mode"] is env.autoreset_mode is AutoresetMode.SAME_STEP
    assert gym.make_vec(SLOTS, num_envs=2).metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


def test_ten_steps_of_two_environments_earn_twenty_rewards() -> None:
    env = SlotsVectorEnv(SLOTS, 2)
    env.reset(seed=0)
    rewards, finished = [], 0
    for _ in range(10):
        _, reward, terminated, truncated, _ = env.step(first_items(env.problem, 2))
        rewards += [value for value in reward.tolist() if value != 0]
        finished += int(terminated.sum())
        assert not truncated.any()
    assert len(set(rewards)) == len(rewards) == finished == 20
    assert env.problem.budget.forwards == 20


def test_rewards_of_pick_value_by_hand() -> None:
    env = SlotsVectorEnv(PICK, 5)
    observation, _ = env.reset(seed=0)
    values = observation["candidates"][:, :, 0].astype(np.float64)
    choice = np.array([[0, 1, 2, 3], [7, 7, 7, 7], [0, 0, 0, 1], [3, 2, 1, 0], [5, 6, 5, 6]])
    rewards = env.step(choice)[1]
    assert rewards.dtype == np.float64
    expected = -((np.take_along_axis(values, choice, axis=1) - 0.5) ** 2).sum(axis=1)
    np.testing.assert_allclose(rewards, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["slots", "mask", "rows"])
def test_gymnasiums_vector_environment_agrees(kind: str) -> None:
    count = 4
    reference = SyncVectorEnv(
        [lambda: SlotsEnv(problem_of(kind)) for _ in range(count)], autoreset_mode=AutoresetMode.SAME_STEP
    )
    env = SlotsVectorEnv(problem_of(kind), count)
    assert env.observation_space == reference.observation_space
    assert env.action_space == reference.action_space
    assert env.single_observation_space == reference.single_observation_space
    assert env.single_action_space == reference.single_action_space

    observation, _ = reference.reset(seed=0)
    for _ in range(3):
        given, info = env.reset(options={"observation": observation})
        assert info == {}
        assert data_equivalence(given, dict(observation), exact=True)
        action = first_items(env.problem, count)
        ours, theirs = env.step(action), reference.step(action)
        assert set(ours[0]) == set(theirs[0])
        assert all(ours[0][name].shape == theirs[0][name].shape for name in ours[0])
        assert all(ours[0][name].dtype == theirs[0][name].dtype for name in ours[0])
        assert data_equivalence(ours[1:4], theirs[1:4])  # rewards, terminated, truncated
        assert data_equivalence(ours[4], theirs[4], exact=True)
        observation = theirs[0]


def test_the_comparison_of_infos_can_fail() -> None:
    env = SlotsVectorEnv(SLOTS, 2)
    observation, _ = env.reset(seed=0)
    infos = env.step(first_items(env.problem, 2))[4]
    assert data_equivalence(infos, infos)
    assert not data_equivalence(infos, {**infos, "extra": 1})
    assert not data_equivalence(infos, {**infos, "final_obs": infos["final_obs"][::-1]}, exact=True)
    assert not data_equivalence(infos, {name: infos[name] for name in infos if name != "_final_obs"})


def test_final_observations_are_those_that_were_answered() -> None:
    env = SlotsVectorEnv(SLOTS, 3, fewest_items=5)
    before, _ = env.reset(seed=0)
    for _ in range(3):
        after, _, _, _, infos = env.step(first_items(env.problem, 3))
        assert infos["final_obs"].shape == (3,)
        assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == [True] * 3
        assert infos["final_info"] == {}
        for i, final in enumerate(infos["final_obs"]):
            assert set(final) == {"candidates", "mask"}
            assert all(np.array_equal(final[name], before[name][i]) for name in final)
            assert not np.array_equal(final["candidates"], after["candidates"][i])
            assert env.single_observation_space.contains(final)
        assert env.observation_space.contains(after)
        before = after


@pytest.mark.skipif(
    gym.__version__.startswith(("1.1", "1.2")),
    reason="that wrapper resets its sums too early with AutoresetMode.SAME_STEP",
)
def test_episode_statistics_are_recorded_by_gymnasiums_wrapper() -> None:
    env = RecordEpisodeStatistics(SlotsVectorEnv(SLOTS, 3))
    env.reset(seed=0)
    for _ in range(4):
        _, rewards, _, _, infos = env.step(np.zeros((3, 4), dtype=np.int64))
        assert np.array_equal(infos["episode"]["r"], rewards)
        assert infos["episode"]["l"].tolist() == [1, 1, 1]
    assert env.episode_count == 12
    assert list(env.return_queue)[-3:] == rewards.tolist()


def test_make_vec_builds_the_batched_environment() -> None:
    env = gym.make_vec(SLOTS, num_envs=3, vectorization_mode="vector_entry_point")
    assert isinstance(env.unwrapped, SlotsVectorEnv)
    observation, _ = env.reset(seed=0)
    assert observation["candidates"].shape == (3, 8, 4)
    assert env.spec is not None
    assert env.spec.id == SLOTS


def test_make_vec_passes_options_on() -> None:
    env = gym.make_vec(SLOTS, num_envs=2, vectorization_mode="vector_entry_point", fewest_items=5)
    assert set(env.reset(seed=0)[0]) == {"candidates", "mask"}


def test_a_seed_fixes_all_further_requests() -> None:
    def walk(env: SlotsVectorEnv, seed: int | None) -> list[bytes]:
        batches = [env.reset(seed=seed)[0]]
        batches += [env.step(first_items(env.problem, 2))[0] for _ in range(3)]
        return [batch["candidates"].tobytes() for batch in batches]

    env = SlotsVectorEnv(SLOTS, 2)
    first = walk(env, 5)
    assert walk(env, 5) == first == walk(SlotsVectorEnv(SLOTS, 2), 5)
    assert len(set(first)) == 4
    assert not set(walk(env, None)) & set(first)


def test_environments_of_a_batch_differ() -> None:
    batch = SlotsVectorEnv(SLOTS, 50).reset(seed=0)[0]["candidates"]
    assert len({row.tobytes() for row in batch}) == 50


@pytest.mark.parametrize("seed", [[1, 2], (1, 2), 1.5])
def test_anything_but_one_seed_is_refused(seed: Any) -> None:
    env = SlotsVectorEnv(SLOTS, 2)
    with pytest.raises(TypeError, match=f"expected one seed for the whole batch, got {type(seed).__name__}"):
        env.reset(seed=seed)


@pytest.mark.parametrize("count", [0, -1])
def test_an_empty_batch_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"expected at least one environment, got {count}"):
        SlotsVectorEnv(SLOTS, count)


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"expected reset\(\) before step\(\), got a step with no open request"):
        SlotsVectorEnv(SLOTS, 2).step(np.zeros((2, 4), dtype=np.int64))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([[0, 0, 0, 0], [0, 8, 0, 0]], "expected an item from 0 to 7 in slot 1, got 8"),
        ([[0, 0, 0, 0], [0, 0, 0, -2]], "expected an item from 0 to 7 in slot 3, got -2"),
        ([[0, 0, 0, 0]], r"expected a choice of shape \(2, 4\), got \(1, 4\)"),
        ([0, 0, 0, 0], r"expected a choice of shape \(2, 4\), got \(4,\)"),
    ],
)
def test_an_action_that_names_no_item_is_refused(action: Any, message: str) -> None:
    env = SlotsVectorEnv(SLOTS, 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(np.array(action))
    assert env.problem.budget.forwards == 0


def test_a_masked_item_is_refused() -> None:
    env = SlotsVectorEnv(SLOTS, 40, fewest_items=5)
    observation, _ = env.reset(seed=0)
    lengths = observation["mask"][:, 0].sum(axis=-1)
    action = np.zeros((40, 4), dtype=np.int64)
    row = int(np.argmax(lengths < 8))
    action[row, 3] = lengths[row]
    with pytest.raises(ValueError, match=f"expected an allowed item in slot 3, got masked item {lengths[row]}"):
        env.step(action)


def test_a_given_batch_that_does_not_fit_is_refused() -> None:
    env = SlotsVectorEnv(SLOTS, 2)
    message = r"expected 'candidates' of shape \(2, 8, 4\) in the given observation, got \(3, 8, 4\)"
    with pytest.raises(ValueError, match=message):
        env.reset(options={"observation": {"candidates": np.zeros((3, 8, 4), np.float32)}})
    with pytest.raises(ValueError, match="expected no reset option but 'observation', got reset_mask"):
        env.reset(options={"reset_mask": np.ones(2, dtype=bool)})


@pytest.mark.parametrize("kind", ["slots", "mask", "rows"])
def test_consecutive_observations_share_no_memory(kind: str) -> None:
    env = SlotsVectorEnv(problem_of(kind), 3)
    action = first_items(env.problem, 3)
    observations = [env.reset(seed=0)[0], env.step(action)[0], env.step(action)[0], env.reset()[0]]
    for name in observations[0]:
        parts = [observation[name] for observation in observations]
        assert not any(np.shares_memory(a, b) for i, a in enumerate(parts) for b in parts[:i])


def test_writing_into_an_observation_does_not_change_the_request() -> None:
    env = SlotsVectorEnv(PICK, 2)
    observation, _ = env.reset(seed=0)
    values = observation["candidates"][:, 0, 0].copy()
    observation["candidates"][:] = 0.5
    rewards = env.step(first_items(env.problem, 2))[1]
    np.testing.assert_allclose(rewards, -4 * (values - 0.5) ** 2, atol=1e-6)


def test_the_global_generator_is_left_alone() -> None:
    env = SlotsVectorEnv(SLOTS, 2)
    before = torch.get_rng_state()
    env.reset(seed=0)
    env.step(first_items(env.problem, 2))
    assert torch.equal(torch.get_rng_state(), before)

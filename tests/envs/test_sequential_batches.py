"""Batches of sequential episodes: gymnasium's and Stable-Baselines3's own batches of single environments agree.

The comparisons walk at random. Their problem has a single request, so that both sides see the same without being told.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from slot_rl.envs import SequentialEnv, SequentialVecEnv, SequentialVectorEnv, SlotsVectorEnv
from slot_rl.problems import Observation, Problem, make_problem
from slot_rl.problems.constraints import Distinct
from tests.helpers.limited import KINDS, SLOTS, distinct_slots, one_request

COUNT = 4
OPTIONS: list[dict[str, Any]] = [
    {},
    {"shaping": "potential"},
    {"infeasible": "penalise", "penalty": -3.0},
    {"infeasible": "penalise", "penalty": -3.0, "shaping": "potential"},
]
options_of = pytest.mark.parametrize("options", OPTIONS, ids=["plain", "shaped", "penalised", "penalised and shaped"])


def drawn(masks: npt.NDArray[Any], random: np.random.Generator, options: dict[str, Any]) -> npt.NDArray[np.int64]:
    """Draws an open item each; where others are penalised, any item now and then."""
    careless = random.random(len(masks)) < (0.4 if "infeasible" in options else 0)
    weights = np.where(careless[:, None], 1.0, masks)
    return np.array([random.choice(len(row), p=row / row.sum()) for row in weights])


def open_actions(env: Any) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = env.action_masks().argmax(axis=1)
    return found


@options_of
@pytest.mark.parametrize("kind", ["distinct", "fixed"])
def test_gymnasiums_vector_environment_agrees(kind: str, options: dict[str, Any]) -> None:
    makers = [lambda: SequentialEnv(KINDS[kind](), **options) for _ in range(COUNT)]
    reference = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    env = SequentialVectorEnv(KINDS[kind](), COUNT, **options)
    assert env.observation_space == reference.observation_space and env.action_space == reference.action_space
    assert env.single_observation_space == reference.single_observation_space
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    ours, theirs = env.reset(seed=0), reference.reset(seed=0)
    assert data_equivalence(ours[0], dict(theirs[0])) and data_equivalence(ours[1], theirs[1], exact=True)
    random, lengths = np.random.default_rng(0), set()
    for _ in range(40):
        actions = drawn(env.action_masks(), random, options)
        found, expected = env.step(actions), reference.step(actions)
        assert data_equivalence(found[0], dict(expected[0]))
        np.testing.assert_allclose(found[1], expected[1], atol=2e-6)
        assert data_equivalence(found[2:4], expected[2:4])
        assert data_equivalence(found[4], expected[4], exact=True)
        assert env.observation_space.contains(found[0])
        lengths.add(int(found[2].sum()))
    # Where episodes end early, the batch does not stay in step.
    assert (lengths == {0, COUNT}) == ("infeasible" not in options)
    assert env.problem.budget.forwards == sum(single.problem.budget.forwards for single in reference.envs)  # type: ignore[attr-defined]


@options_of
@pytest.mark.parametrize("kind", ["distinct", "free"])
def test_sb3s_batch_of_single_environments_agrees(kind: str, options: dict[str, Any]) -> None:
    makers: list[Any] = [lambda: SequentialEnv(KINDS[kind](), **options) for _ in range(COUNT)]
    reference: Any = DummyVecEnv(makers)
    env: Any = SequentialVecEnv(KINDS[kind](), COUNT, seed=0, **options)
    assert env.observation_space == reference.observation_space and env.action_space == reference.action_space
    ours, theirs = env.reset(), reference.reset()
    assert data_equivalence(ours, dict(theirs), exact=False)
    random = np.random.default_rng(1)
    for _ in range(40):
        masks = env.action_masks()
        assert np.array_equal(masks, np.stack(reference.env_method("action_masks")))
        actions = drawn(masks, random, options)
        found, rewards, dones, infos = env.step(actions)
        expected, their_rewards, their_dones, their_infos = reference.step(actions)
        assert data_equivalence(found, dict(expected), exact=False)
        np.testing.assert_allclose(rewards, their_rewards, atol=2e-6)
        assert (rewards.dtype, dones.dtype) == (their_rewards.dtype, their_dones.dtype)
        assert dones.tolist() == their_dones.tolist()
        for info, other in zip(infos, their_infos, strict=True):
            statistics = info.pop("episode", None)
            assert (statistics is not None) == ("terminal_observation" in info)
            other.pop("TimeLimit.truncated", None)
            info.pop("TimeLimit.truncated", None)
            assert data_equivalence(info, other, exact=False)
        assert data_equivalence(env.reset_infos, reference.reset_infos, exact=True)


def test_the_comparison_of_batches_can_fail() -> None:
    env = SequentialVectorEnv(one_request(Distinct()), 2)
    _, infos = env.reset(seed=0)
    assert data_equivalence(infos, infos, exact=True)
    assert not data_equivalence(infos, {**infos, "action_mask": 1 - infos["action_mask"]}, exact=True)
    for _ in range(3):
        infos = env.step(open_actions(env))[4]
    final = infos["final_obs"]
    assert not data_equivalence(infos, {**infos, "final_obs": [None, final[1]]}, exact=True)


@pytest.mark.parametrize("kind", [SequentialVectorEnv, SequentialVecEnv])
def test_a_whole_batch_earns_the_problems_own_scores(kind: Any) -> None:
    problem = distinct_slots()
    env = kind(problem, 33)
    env.reset()
    for episode in range(3):
        request, answer = env._episodes.observation, []
        for slot in range(4):
            answer.append(open_actions(env))
            rewards, done = env.step(answer[-1])[1:3]
            assert done.all() == done.any() == (slot == 3) and (slot == 3 or not rewards.any())
        scores = problem.score(request, torch.as_tensor(np.stack(answer, axis=1))).numpy()
        assert rewards.astype(np.float32).tobytes() == scores.tobytes()
        assert problem.budget.forwards == 2 * 33 * (episode + 1)


def test_requests_are_those_of_the_one_step_environment() -> None:
    one, slot_by_slot = SlotsVectorEnv(SLOTS, 5), SequentialVectorEnv(SLOTS, 5)
    first, second = one.reset(seed=3)[0], slot_by_slot.reset(seed=3)[0]
    for _ in range(2):
        assert np.array_equal(first["candidates"], second["candidates"])
        first = one.step(np.zeros((5, 4), dtype=np.int64))[0]
        for _ in range(4):
            second = slot_by_slot.step(np.zeros(5, dtype=np.int64))[0]


def test_requests_that_go_on_stay_and_others_are_new() -> None:
    env = SequentialVectorEnv(
        make_problem(SLOTS, fewest_items=5).with_constraints([Distinct()]), 6, infeasible="penalise"
    )
    before, _ = env.reset(seed=0)
    env.step(np.arange(6) % 5)
    actions = (np.arange(6) + 1) % 5
    actions[[1, 4]] = [1, 4]  # what they hold already
    after, rewards, done, _, infos = env.step(actions)
    over = np.isin(np.arange(6), [1, 4])
    assert done.tolist() == over.tolist() and (rewards == env.penalty).tolist() == over.tolist()
    for name in ("candidates", "mask"):
        assert np.array_equal(after[name][~over], before[name][~over])
    assert not any(np.array_equal(after["candidates"][i], before["candidates"][i]) for i in (1, 4))
    assert after["slot"].tolist() == [2, 0, 2, 2, 0, 2] and not after["answer"][over].any()
    assert all(np.array_equal(infos["final_obs"][i]["candidates"], before["candidates"][i]) for i in (1, 4))
    # A new request has its own mask, and one that goes on lacks what it holds.
    allowed = after["mask"][:, 0].astype(bool)
    allowed[np.arange(6)[~over], (np.arange(6) % 5)[~over]] = False
    allowed[np.arange(6)[~over], actions[~over]] = False
    assert np.array_equal(env.action_masks(), allowed)


@pytest.mark.parametrize(("count", "kept"), [(3, 3), (150, 100)])
def test_the_last_hundred_infos_carry_an_episode(count: int, kept: int) -> None:
    env = SequentialVecEnv(SLOTS, count, seed=0, shaping="potential")
    env.reset()
    returns = np.zeros(count)
    for slot in range(4):
        _, rewards, dones, infos = env.step(np.full(count, slot))
        returns += rewards
        assert dones.all() == (slot == 3)
    assert ["episode" in info for info in infos] == [False] * (count - kept) + [True] * kept
    np.testing.assert_allclose([info["episode"]["r"] for info in infos[-kept:]], returns[-kept:], atol=2e-6)
    assert all(info["episode"]["l"] == 4 and info["terminal_observation"]["slot"] == 4 for info in infos[-kept:])


def test_an_episode_that_ends_early_is_shorter() -> None:
    env = SequentialVecEnv(distinct_slots(), 2, seed=0, infeasible="penalise", penalty=-3.0)
    env.reset()
    env.step(np.array([0, 1]))
    infos = env.step(np.array([1, 1]))[3]
    assert "episode" not in infos[0] and infos[1]["episode"] == {"r": -3.0, "l": 2}
    assert [info["infeasible"] for info in infos] == [False, True]


def test_masks_reach_each_environment_by_its_index() -> None:
    env = SequentialVecEnv(distinct_slots(), 3, seed=0)
    with pytest.raises(RuntimeError, match=r"expected reset\(\) before action_masks\(\)"):
        env.env_method("action_masks")
    env.reset()
    env.step(np.array([0, 3, 7]))
    rows = env.env_method("action_masks")
    assert [(~row).nonzero()[0].tolist() for row in rows] == [[0], [3], [7]]
    assert [(~row).nonzero()[0].tolist() for row in env.env_method("action_masks", indices=[2, 0])] == [[7], [0]]
    assert (~env.env_method("action_masks", indices=1)[0]).nonzero()[0].tolist() == [3]
    assert env.has_attr("action_masks") and env.get_attr("problem") == [env.problem] * 3
    assert env.env_is_wrapped(Monitor) == [False] * 3 and env.env_method("seed", seed=4, indices=0) == [[4] * 3]
    utils = pytest.importorskip("sb3_contrib.common.maskable.utils")
    assert utils.is_masking_supported(env)
    assert np.array_equal(utils.get_action_masks(env), env.action_masks())


def test_a_batch_that_is_wrong_is_refused() -> None:
    env = SequentialVectorEnv(distinct_slots(), 3)
    env.reset(seed=0)
    env.step(np.array([0, 1, 2]))
    message = r"expected an item that is open to slot 1 under Distinct\(\), got item 1 in environment 1"
    with pytest.raises(ValueError, match=message):
        env.step(np.array([3, 1, 2]))
    with pytest.raises(ValueError, match=r"expected actions of shape \(3,\), got \(2,\)"):
        env.step(np.array([3, 1]))
    with pytest.raises(TypeError, match="expected one seed for the whole batch, got list"):
        env.reset(seed=[1, 2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected at least one environment, got 0"):
        SequentialVecEnv(SLOTS, 0)
    with pytest.raises(RuntimeError, match=r"expected reset\(\) before step\(\), got a step with no open request"):
        SequentialVecEnv(SLOTS, 2).step(np.zeros(2, dtype=np.int64))


@pytest.mark.skipif(
    gym.__version__.startswith(("1.1", "1.2")),
    reason="that wrapper resets its sums too early with AutoresetMode.SAME_STEP",
)
def test_both_libraries_wrappers_count_the_same_episodes() -> None:
    gymnasiums = RecordEpisodeStatistics(SequentialVectorEnv(one_request(Distinct()), 3))
    sb3s = VecMonitor(SequentialVecEnv(one_request(Distinct()), 3))
    gymnasiums.reset(seed=0)
    sb3s.reset()
    for step in range(6):
        actions = np.full(3, step % 3)
        rewards, _, _, infos = gymnasiums.step(actions)[1:]
        their = sb3s.step(actions)[3]
    assert gymnasiums.episode_count == 6 and infos["episode"]["l"].tolist() == [3] * 3
    assert [info["episode"]["l"] for info in their] == [3] * 3
    np.testing.assert_allclose([info["episode"]["r"] for info in their], rewards, atol=1e-6)


def test_make_vec_builds_the_batch_and_passes_options_on() -> None:
    env = gym.make_vec(
        "SlotRL/SlotsSequential-v0",
        num_envs=3,
        vectorization_mode="vector_entry_point",
        fewest_items=5,
        infeasible="penalise",
        penalty=-1.0,
    )
    assert isinstance(env.unwrapped, SequentialVectorEnv) and env.unwrapped.penalty == -1.0
    assert set(env.reset(seed=0)[0]) == {"candidates", "mask", "answer", "slot"}


def test_given_requests_are_opened_once() -> None:
    problem: Problem = make_problem("SlotRL/PickValue-v0")
    values = np.stack([np.linspace(0, 1, 8), np.full(8, 0.5)]).astype(np.float32)[:, :, None]
    env = SequentialVecEnv(problem, 2, seed=0)
    env.set_options({"observation": {"candidates": values}})
    assert np.array_equal(env.reset()["candidates"], values)
    for item in (0, 7, 0, 7):
        rewards = env.step(np.full(2, item))[1]
    assert rewards.tolist() == [-1.0, 0.0]
    assert not np.array_equal(env.reset()["candidates"], values)


@pytest.mark.parametrize("kind", [SequentialVectorEnv, SequentialVecEnv])
def test_consecutive_observations_share_no_memory(kind: Any) -> None:
    env = kind(make_problem(SLOTS, fewest_items=5), 2)
    first = env.reset()
    seen = [first[0] if isinstance(first, tuple) else first]
    for _ in range(5):
        found = env.step(np.zeros(2, dtype=np.int64))
        seen.append(found[0])
    for name in seen[0]:
        parts = [observation[name] for observation in seen]
        assert not any(np.shares_memory(a, b) for i, a in enumerate(parts) for b in parts[:i])
    assert isinstance(env._episodes.observation, Observation)

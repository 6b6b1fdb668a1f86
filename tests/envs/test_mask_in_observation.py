"""MaskInObservation: what its rows and masks hold, step by step, and which environments it refuses."""

import gymnasium as gym
import numpy as np
import pytest

from slot_rl.envs import MaskInObservation, SequentialEnv, SlotsEnv
from slot_rl.problems.constraints import Distinct
from tests.helpers.limited import distinct_slots


def test_it_holds_the_open_items_and_the_answer_so_far() -> None:
    env = MaskInObservation(gym.make("SlotRL/SlotsSequential-v0", constraints=[Distinct()]))
    first, _ = env.reset(seed=0)
    observation, _, _, _, info = env.step(np.int64(3))
    # The parts in alphabetical order: 4 slots of 9 answers, 8 candidates of 4 numbers, 5 places.
    assert observation["observations"].shape == (4 * 9 + 8 * 4 + 5,)
    answer, candidates, slot = np.split(observation["observations"], [36, 68])
    assert answer.reshape(4, 9).argmax(axis=1).tolist() == [4, 0, 0, 0] and slot.tolist() == [0, 1, 0, 0, 0]
    assert candidates.tolist() == first["observations"][36:68].tolist()
    assert observation["action_mask"].tolist() == info["action_mask"].tolist() == [1, 1, 1, 0, 1, 1, 1, 1]
    assert first["action_mask"].tolist() == [1] * 8


def test_the_mask_is_closed_after_the_end() -> None:
    env = MaskInObservation(SequentialEnv(distinct_slots()))
    env.reset(seed=0)
    for item in range(4):
        observation, _, terminated, _, _ = env.step(np.int64(item))
        assert env.observation_space.contains(observation)
    assert terminated and observation["action_mask"].sum() == 0


def test_an_environment_of_one_step_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a SequentialEnv, which has a mask for each step, got <SlotsEnv"):
        MaskInObservation(SlotsEnv("SlotRL/Slots-v0"))  # type: ignore[arg-type]

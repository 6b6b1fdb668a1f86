"""Masks of the one-step environments: what each slot may hold, side by side, at every face and for MaskablePPO."""

import numpy as np
import pytest
import torch

from slot_rl.envs import SlotsEnv, SlotsVectorEnv, SlotVecEnv
from slot_rl.problems import Problem
from tests.helpers.limited import limited_rows, pages

PROBLEMS = {"pages": pages, "rows": limited_rows}
ID = "SlotRL/PickValue-v0"


def test_masks_are_those_of_the_request() -> None:
    env = SlotsEnv(ID, fewest_items=3)
    observation, _ = env.reset(seed=0)
    assert np.array_equal(env.action_masks(), observation["mask"].ravel() != 0)


def test_each_environment_of_a_batch_has_its_own() -> None:
    vec = SlotVecEnv(ID, 4, fewest_items=3)
    observation = vec.reset()
    expected = observation["mask"].reshape(4, -1) != 0
    assert np.array_equal(np.stack(vec.env_method("action_masks")), expected)
    assert np.array_equal(np.stack(vec.env_method("action_masks", indices=[2, 0])), expected[[2, 0]])
    vector = SlotsVectorEnv(ID, 4, fewest_items=3)
    observation, _ = vector.reset(seed=1)
    assert np.array_equal(vector.action_masks(), observation["mask"].reshape(4, -1) != 0)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_under_constraints_they_are_what_allowed_answers_hold(kind: str) -> None:
    problem: Problem = PROBLEMS[kind]()
    env = SlotsEnv(problem)
    for seed in range(5):
        env.reset(seed=seed)
        held = [set[int]() for _ in problem.sizes]
        for row in torch.cartesian_prod(*map(torch.arange, problem.sizes)):
            try:
                env.step(row.numpy())
            except ValueError:
                continue
            for slot, item in enumerate(row.tolist()):
                held[slot].add(item)
        expected = [item in held[slot] for slot, size in enumerate(problem.sizes) for item in range(size)]
        assert env.action_masks().tolist() == expected


def test_masks_before_a_reset_are_refused() -> None:
    with pytest.raises(RuntimeError, match="expected reset"):
        SlotsEnv(ID).action_masks()


def test_maskable_ppo_keeps_the_masks_of_one_step() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    env = SlotVecEnv(ID, 4, seed=0, fewest_items=3)
    model = contrib.MaskablePPO("MultiInputPolicy", env, n_steps=8, batch_size=16, n_epochs=1, seed=0, device="cpu")
    model.learn(64)
    observation = env.reset()
    actions, _ = model.predict(observation, action_masks=np.stack(env.env_method("action_masks")))
    assert observation["mask"][np.arange(4)[:, None], np.arange(4), actions].all()

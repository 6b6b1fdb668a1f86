"""Seeds: whole numbers of any kind, None for a new one, and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slot_rl.agents import AGENTS
from slot_rl.envs import SequentialEnv, SequentialVectorEnv, SlotsEnv, SlotsVectorEnv, SlotVecEnv
from slot_rl.evaluation import EvaluationConfig
from slot_rl.problems import SlotProblem, make_problem
from slot_rl.runs import load, train
from slot_rl.seeding import as_seed, seeded_initialisation


@pytest.mark.parametrize("seed", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_are_plain_numbers(seed: Any) -> None:
    assert (as_seed(seed), type(as_seed(seed))) == (3, int)


def test_none_is_a_new_seed() -> None:
    assert len({as_seed(None) for _ in range(20)}) > 1


@pytest.mark.parametrize("seed", ["3", 3.0, np.float64(3), True])
def test_other_types_are_refused(seed: Any) -> None:
    with pytest.raises(TypeError, match="expected a whole number as seed, got"):
        as_seed(seed)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_generators_do_not_take_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= seed < 2"):
        as_seed(seed)


@pytest.mark.parametrize("name", ["gumbel", "reinforce", "ppo", "expert_iteration", "guided_search", "best_constant"])
def test_agents_take_and_keep_any_kind_of_seed(name: str, tmp_path: Any) -> None:
    for seed in (np.int64(3), None):
        agent = AGENTS[name]("SlotRL/PickValue-v0", seed=seed).learn(64)
        assert type(agent.seed) is int
        agent.save(tmp_path)
    with pytest.raises(TypeError, match="expected a whole number as seed, got float"):
        AGENTS[name]("SlotRL/PickValue-v0", seed=0.5)  # type: ignore[arg-type]


FACES: tuple[Any, ...] = (SlotsEnv, SlotsVectorEnv, SequentialEnv, SequentialVectorEnv)


@pytest.mark.parametrize("face", FACES)
def test_environments_take_numpys_seeds(face: Any) -> None:
    env = face("SlotRL/PickValue-v0")
    first, second = (env.reset(seed=seed)[0]["candidates"] for seed in (3, np.int64(3)))
    assert np.array_equal(first, second)
    with pytest.raises(TypeError, match="expected a whole number as seed, got float|expected one seed for the whole"):
        env.reset(seed=0.5)


def test_a_run_of_numpys_numbers_is_written(tmp_path: Path) -> None:
    number = np.int64
    problem = SlotProblem(lambda vectors: vectors.sum(dim=(1, 2)), number(2), number(3), number(2))  # type: ignore[arg-type]
    assert all(type(size) is int for size in problem.sizes)
    evaluation = EvaluationConfig(number(1), number(8))  # type: ignore[arg-type]
    kinds = {"batch_size": number(64), "learning_rate": np.float32(0.001)}
    run = train(problem, timesteps=number(64), seed=number(3), out=tmp_path / "run", evaluation=evaluation, **kinds)  # type: ignore[arg-type]
    assert run.summary["seed"] == 3 and load(run.folder, problem).agent.options.batch_size == 64  # type: ignore[attr-defined]


def test_another_default_type_is_refused_at_once() -> None:
    env = SlotVecEnv("SlotRL/PickValue-v0", 2)
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ValueError, match=r"expected torch's default dtype float32, got torch.float64"):
            AGENTS["gumbel"](env)
        with pytest.raises(ValueError, match="default dtype"), seeded_initialisation(0):
            pass
        with pytest.raises(ValueError, match="default dtype"):
            make_problem("SlotRL/PickValue-v0")
    finally:
        torch.set_default_dtype(torch.float32)

"""Registration: importing slot_rl makes the ids known and loads nothing heavy, wherever and how often it happens."""

import json
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec, registry

from slot_rl.envs import SlotsEnv
from slot_rl.envs.registration import ENV_IDS, register_envs
from slot_rl.problems import named


def interpreted(code: str, folder: Path) -> str:
    """Runs code in a fresh interpreter, from another folder and with warnings as errors; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_ids_are_those_of_the_problems() -> None:
    assert ENV_IDS == named.IDS
    assert set(ENV_IDS) <= set(registry)


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, json, slot_rl; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(interpreted(code, tmp_path)))
    assert {"slot_rl", "slot_rl.envs.registration", "gymnasium"} <= loaded
    assert not {"torch", "stable_baselines3", "wandb", "matplotlib", "scipy", "pyarrow"} & loaded


def test_a_fresh_interpreter_ignores_a_foreign_envs_folder(tmp_path: Path) -> None:
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("MINE = True\n")
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text("MINE = True\n")
    code = """
import gymnasium as gym
env = gym.make("slot_rl:SlotRL/Slots-v0")
observation, _ = env.reset(seed=0)
print(type(env.unwrapped).__module__, observation["candidates"].shape, env.step([0, 0, 0, 0])[2])
import envs, agents, slot_rl.agents
print(envs.MINE, agents.MINE, slot_rl.agents.__name__)
"""
    assert interpreted(code, tmp_path).splitlines() == [
        "slot_rl.envs.single (8, 4) True",
        "True True slot_rl.agents",
    ]


def test_registering_again_changes_nothing() -> None:
    before = dict(registry)
    register_envs()
    assert dict(registry) == before
    assert all(registry[env_id] is before[env_id] for env_id in ENV_IDS)


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_a_spec_names_entry_points_and_survives_json(env_id: str) -> None:
    spec = gym.spec(env_id)
    assert spec.entry_point == "slot_rl.envs.single:SlotsEnv"
    assert spec.vector_entry_point == "slot_rl.envs.vector:SlotsVectorEnv"
    assert spec.kwargs == {"problem": env_id}
    assert spec.max_episode_steps is None
    assert EnvSpec.from_json(spec.to_json()) == spec


def test_an_environments_spec_survives_json() -> None:
    env = gym.make("SlotRL/Slots-v0", fewest_items=5)
    assert env.spec is not None
    text = env.spec.to_json()
    assert json.loads(text)["kwargs"] == {"problem": "SlotRL/Slots-v0", "fewest_items": 5}
    again = gym.make(EnvSpec.from_json(text))
    assert isinstance(again.unwrapped, SlotsEnv)
    assert again.observation_space == env.observation_space
    assert "mask" in again.reset(seed=0)[0]

"""A training that is continued from a checkpoint ends like one that was never interrupted, bit for bit."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from torch import Tensor

from slot_rl.agents import AGENTS, LearningAgent, load_agent
from slot_rl.agents.base import BUNDLE_KIND, MANIFEST, options_from_json, read_agent, to_json
from slot_rl.agents.selector_agent import SELECTOR_AGENTS
from slot_rl.envs import SlotsEnv, SlotVecEnv
from slot_rl.io import BundleError, write_bundle
from tests.helpers.logged_table import ROWS, row_problem, write_log
from tests.helpers.options import POLICY_AGENTS
from tests.helpers.small_agents import tiny

UPDATES = 25
BUNDLE_KEYS = {"agent", "options", "seed", "format", "kind", "files"}


@dataclass
class Kept(KVWriter):
    """Keeps what is logged, without times."""

    lines: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.lines.append((step, {key: value for key, value in key_values.items() if not key.startswith("time/")}))

    def close(self) -> None:
        pass


class Watching(BaseCallback):
    """Notes the steps that callbacks are told of, and saves before each update but the first."""

    def __init__(self, home: Path | None = None) -> None:
        super().__init__()
        self.home, self.told = home, list[int]()

    def _on_step(self) -> bool:
        self.told.append(self.num_timesteps)
        return True

    def _on_rollout_start(self) -> None:
        agent: Any = self.model
        if agent.updates and self.home is not None:
            agent.save(self.home / str(agent.updates))


@dataclass
class Trained:
    """A training that was never interrupted, with its checkpoints."""

    agent: LearningAgent
    lines: list[tuple[int, dict[str, Any]]]
    told: list[int]
    timesteps: int

    def is_repeated_from(self, folder: Path) -> bool:
        """Whether a checkpoint in an environment at another point ends the same, and logs and tells the same."""
        env = SlotVecEnv(row_problem(), self.agent.n_envs, seed=99)
        agent = load_agent(folder, env)
        assert isinstance(agent, LearningAgent)
        lines, watching = logged(agent), Watching()
        agent.learn(self.timesteps - agent.num_timesteps, watching, log_interval=1, reset_num_timesteps=False)
        same = agent.num_timesteps == self.agent.num_timesteps and agent.updates == self.agent.updates
        same &= lines == self.lines[-len(lines) :] and watching.told == self.told[-len(watching.told) :]
        return same and equal(agent.state()[0], self.agent.state()[0])


def logged(agent: LearningAgent) -> list[tuple[int, dict[str, Any]]]:
    writer = Kept()
    agent.set_logger(Logger(folder=None, output_formats=[writer]))
    return writer.lines


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def train(name: str, home: Path) -> Trained:
    logged_rows = {"logged": write_log(home / "log.csv")} if name in ("reproduction", "aligned") else {}
    options = tiny(name, **logged_rows)
    # Fewer environments than calls in an update, and no divisor of them.
    make: Any = AGENTS[name]
    agent: LearningAgent = make(SlotVecEnv(row_problem(), 8 if name in ("ppo", "a2c") else 7), options, seed=3)
    timesteps = UPDATES * agent.update_size + (2 * ROWS if logged_rows else 0)
    lines, watching = logged(agent), Watching(home)
    agent.learn(timesteps, watching, log_interval=1)
    return Trained(agent, lines, watching.told, timesteps)


# The selectors' agents are one class.
@pytest.mark.parametrize("name", [name for name in POLICY_AGENTS if name == "gumbel" or name not in SELECTOR_AGENTS])
def test_a_checkpoint_continues_bit_for_bit(name: str, tmp_path: Path) -> None:
    trained = train(name, tmp_path)
    (tmp_path / "log.csv").unlink(missing_ok=True)
    assert trained.is_repeated_from(tmp_path / "9")


@pytest.mark.slow
@pytest.mark.parametrize("name", POLICY_AGENTS)
def test_every_cut_continues_bit_for_bit(name: str, tmp_path: Path) -> None:
    trained = train(name, tmp_path)
    cuts = range(1, trained.agent.updates)
    assert len(cuts) >= 20
    assert [cut for cut in cuts if not trained.is_repeated_from(tmp_path / str(cut))] == []


def test_a_loaded_agent_that_is_saved_again_continues_too(tmp_path: Path) -> None:
    trained = train("reinforce", tmp_path)
    load_agent(tmp_path / "9", SlotVecEnv(row_problem(), 7, seed=99)).save(tmp_path / "again")
    assert trained.is_repeated_from(tmp_path / "again")


@pytest.mark.parametrize("name", ["reinforce", "ppo"])
def test_a_checkpoint_goes_on_in_other_environments(name: str, tmp_path: Path) -> None:
    train(name, tmp_path)
    problem = row_problem()
    env = DummyVecEnv([lambda: SlotsEnv(problem) for _ in range(4)])
    agent = load_agent(tmp_path / "9", VecMonitor(env))
    before = agent.num_timesteps
    agent.learn(64, reset_num_timesteps=False)
    assert agent.num_timesteps >= before + 64


@pytest.mark.slow
def test_each_field_of_a_checkpoint_is_needed(tmp_path: Path) -> None:
    known, needed = set[str](), set[str]()
    for name in ("gumbel", "ppo", "learned_critic", "expert_iteration", "aligned", "multistart", "reinforce"):
        (home := tmp_path / name).mkdir()
        trained = train(name, home)
        (home / "log.csv").unlink(missing_ok=True)
        tensors, document = read_agent(home / "9")
        fields = {part if part.startswith("generator.") else part.split(".")[0] for part in tensors}
        for part in sorted(fields | document.keys() - BUNDLE_KEYS):
            known.add(part)
            rest = {key: value for key, value in tensors.items() if key != part and key.split(".")[0] != part}
            kept = {key: value for key, value in document.items() if key != part and key not in BUNDLE_KEYS - {"agent"}}
            kept |= {"options": document["options"], "seed": document["seed"]}
            write_bundle(home / f"without {part}", BUNDLE_KIND, rest, kept, MANIFEST)
            try:
                same = trained.is_repeated_from(home / f"without {part}")
            except (BundleError, KeyError, RuntimeError, AssertionError, ValueError):
                same = False
            if not same:
                needed.add(part)
    # A prior is compared with the training's, the ranking is decided at the very end, and what is known of the problem
    # is for agents without an environment.
    assert known - needed == {"prior", "problem", "ranking"}


def test_options_survive_as_json() -> None:
    for name in POLICY_AGENTS:
        options = AGENTS[name].options
        assert options_from_json(to_json(options), options) == options


def test_stopping_ends_after_the_current_update(tmp_path: Path) -> None:
    class Stopping(BaseCallback):
        def _on_step(self) -> bool:
            agent: Any = self.model
            if agent.updates == 4:
                agent.stop()
            return True

    for name in ("gumbel", "ppo"):
        options = tiny(name)
        env = SlotVecEnv(row_problem(), 8)
        agent: Any = AGENTS[name](env, options, seed=3)
        lines = logged(agent)
        agent.learn(UPDATES * 32, Stopping(), log_interval=1)
        assert agent.updates == len(lines) == 5 and agent.num_timesteps == 5 * 32
        agent.learn(2 * 32, log_interval=1, reset_num_timesteps=False)
        assert agent.updates == 7

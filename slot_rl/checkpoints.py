"""Checkpoints of a training that is under way: when they are written, which are kept, and which is taken up again.

A checkpoint is a folder, written under a random name, synced and renamed, so one that is there is whole, whenever the
process was killed. It is that of an agent (see ``slot_rl.agents``) with one more document: what the training needs
besides its agent.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from typing_extensions import TypedDict

from slot_rl.agents import load_agent
from slot_rl.agents.base import MANIFEST, Agent, read_agent
from slot_rl.console import say
from slot_rl.documents import as_declared
from slot_rl.envs import SlotVecEnv
from slot_rl.io import CHECKPOINT, BundleError, read_json, sha256_of, sync_folder, temporary_name, write_json
from slot_rl.problems import Budget, Problem

TRAINING = "training.json"
KEPT = 3
"""Checkpoints that are kept, the newest ones."""
_PATTERN = f"{CHECKPOINT}-[0-9]*"
WEIGHTS = f"{CHECKPOINT}*/{MANIFEST}"
"""The file of a run with which it replaces an earlier one, as a pattern: that of its first checkpoint."""


@dataclass(frozen=True)
class CheckpointConfig:
    """How often a training is saved, so that --resume can go on from there; the newest three checkpoints are kept.

    Attributes:
        checkpoint_minutes: Minutes between two checkpoints; 0 for none by time.
        checkpoint_steps: Estimator calls between two checkpoints, as well; none by calls if left out.
    """

    checkpoint_minutes: float = 1.0
    checkpoint_steps: int | None = None

    def __post_init__(self) -> None:
        """Refuses intervals of no use."""
        if not self.checkpoint_minutes >= 0 or (self.checkpoint_steps is not None and self.checkpoint_steps < 1):
            raise ValueError(
                "expected checkpoint_minutes >= 0 and checkpoint_steps >= 1, "
                f"got {self.checkpoint_minutes} and {self.checkpoint_steps}"
            )


class WatchState(TypedDict):
    """What the evaluations of a training need; see ``slot_rl.watching``."""

    calls: list[float]
    rows: list[dict[str, Any]]
    next: float
    wall_seconds: float
    cpu_seconds: float


class TrainingState(TypedDict):
    """The contents of ``training.json``; see ``slot_rl.training``."""

    watch: WatchState
    budget: Budget
    pending: dict[str, float | None]
    metrics_lines: int
    skipped: int
    manifest: str


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint.

    Attributes:
        folder: Its folder, from which the agent loads.
        training: What the training needs besides its agent.
    """

    folder: Path
    training: "TrainingState"


def write_checkpoint(run: Path, agent: Agent, training: dict[str, Any]) -> None:
    """Adds a checkpoint to a run's folder, and removes all but the newest three."""
    folder = run / f"{CHECKPOINT}-{agent.num_timesteps:012d}"
    temporary = temporary_name(folder)
    temporary.mkdir()
    try:
        agent.save(temporary)
        # The two documents belong together.
        write_json(temporary / TRAINING, {**training, "manifest": _seal(temporary)})
        if folder.exists():
            _remove(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(run)
    for old in _newest_first(run)[KEPT:]:
        _remove(old)


def newest_checkpoint(run: Path, tell: Callable[[str], None]) -> Checkpoint | None:
    """Returns the newest whole checkpoint of a run; None if there is none. Says which ones are damaged."""
    for folder in _newest_first(run):
        try:
            read_agent(folder)
            training = as_declared(TrainingState, read_json(folder / TRAINING), TRAINING)
            if training["manifest"] != _seal(folder):
                raise BundleError(f"expected {TRAINING} and {MANIFEST} of one checkpoint in {folder}, got those of two")
        except (OSError, BundleError) as error:
            tell(f"left out: {' '.join(str(error).split())}")
        else:
            return Checkpoint(folder, training)
    return None


def agent_of_run(run: Path, problem: Problem, fallback: bool = False) -> Agent:
    """Loads the agent that a run ended with.

    Args:
        run: The run's folder.
        problem: What it was trained on.
        fallback: Take the newest whole checkpoint where the last one is missing or damaged, and say so.

    Raises:
        BundleError: If there is no whole checkpoint; without ``fallback``, if the last one is missing or damaged.
    """
    env = SlotVecEnv(problem, 2)
    try:
        return load_agent(run / CHECKPOINT, env)
    except BundleError as error:
        found = newest_checkpoint(run, say)
        if found is None:
            raise
        if not fallback:
            hint = f"--fallback takes {found.folder.name}, slot-rl train --resume goes on with the training"
            raise BundleError(f"{error}; {hint}") from error
        say(f"{error}; took {found.folder}")
        return load_agent(found.folder, env)


def remove_checkpoints(run: Path) -> None:
    """Removes the checkpoints of a training that has ended."""
    for folder in _newest_first(run):
        _remove(folder)


class CheckpointCallback(BaseCallback):
    """Writes checkpoints between updates, when they are due."""

    def __init__(self, config: CheckpointConfig, write: Callable[[], None]) -> None:
        """Takes how often, and what writes."""
        super().__init__()
        self._config, self._write = config, write
        self._time, self._calls = time.monotonic(), 0

    def _on_step(self) -> bool:
        return True

    def _on_training_start(self) -> None:
        self._time, self._calls = time.monotonic(), self.num_timesteps

    def _on_rollout_start(self) -> None:
        # The callback's own count is of before the update.
        calls, minutes, steps = self.model.num_timesteps, self._config.checkpoint_minutes, self._config.checkpoint_steps
        by_time = minutes > 0 and time.monotonic() - self._time >= 60 * minutes
        by_calls = steps is not None and calls // steps > self._calls // steps
        if (by_time or by_calls) and calls > self._calls:
            self._write()
            self._time, self._calls = time.monotonic(), calls


def _newest_first(run: Path) -> list[Path]:
    return sorted(run.glob(_PATTERN), reverse=True)


def _seal(folder: Path) -> str:
    return sha256_of(folder / MANIFEST)


def _remove(folder: Path) -> None:
    """Removes a checkpoint so that at no time half of it is there under its name."""
    shutil.rmtree(folder.rename(temporary_name(folder)))

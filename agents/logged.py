"""Learning from logged rows: reading them in the terms of a problem's estimator, and scoring each of them once.

A logged row is a configuration that somebody tried, with its context. What it scored there is not needed, since the
estimator scores it. Rows come from a table with the columns of the estimator's own; every category must be one that
the estimator knows. The estimator's calls for them are the first that a training spends, and are counted as all others.
"""

from abc import abstractmethod
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any, TypeVar

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from slot_rl.agents.base import OneStepAgent, needed_problem
from slot_rl.agents.options import LoggedOptions
from slot_rl.agents.scale import RunningScale
from slot_rl.problems import Observation, Problem

Self = TypeVar("Self", bound="LoggedAgent")


@dataclass(frozen=True)
class LoggedRows:
    """Configurations that were tried.

    Attributes:
        observation: The requests that they answered.
        choice: Long tensor of shape ``(rows, slots)``.
    """

    observation: Observation
    choice: Tensor

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.choice)

    def __getitem__(self, rows: Tensor) -> "LoggedRows":
        """Returns some rows by number."""
        return LoggedRows(self.observation[rows], self.choice[rows])


@dataclass(frozen=True)
class ScoredRows:
    """Logged rows and what the estimator said of them.

    Attributes:
        observation: The requests that they answered.
        choice: Long tensor of shape ``(rows, slots)``.
        score: Estimated scores, of shape ``(rows,)``.
        latent: The estimator's latents, of shape ``(rows, width)``; a width of 0 where they are not needed.
    """

    observation: Observation
    choice: Tensor
    score: Tensor
    latent: Tensor

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.choice)

    def __getitem__(self, rows: Tensor) -> "ScoredRows":
        """Returns some rows by number."""
        return ScoredRows(self.observation[rows], self.choice[rows], self.score[rows], self.latent[rows])


def read_logged(path: Path, problem: Problem) -> LoggedRows:
    """Reads logged rows from a CSV or Parquet file; columns that are neither feature nor context are ignored.

    Args:
        path: The file.
        problem: A problem of table rows whose columns and categories have names.

    Raises:
        ValueError: If the problem's categories have no names, there are fewer than two rows, or (a ``TableError``) the
            file cannot be read, a column is missing, or a cell holds a category that the estimator does not know.
    """
    return LoggedRows(*problem.read_logged(path))


class LoggedAgent(OneStepAgent):
    """An agent that imitates logged rows; subclasses say which and how.

    A checkpoint holds the policy, not the rows: it loads without their file, and whoever continues the training reads
    and scores them anew, at the same cost.

    Attributes:
        problem: The problem behind the environment, whose estimator scores rows.
        logged: The logged rows; None until they are read.
        scored: The same with what the estimator said of them; None until a training starts.
    """

    options: LoggedOptions

    def __init__(
        self, env: GymEnv | str, options: Any = None, seed: int = 0, verbose: int = 0, read: bool = True
    ) -> None:
        """Builds the agent; see :class:`slot_rl.agents.base.OneStepAgent`.

        Args:
            env: A slots environment, ``SlotVecEnv`` for speed.
            options: The agent's options, which name the file with the logged rows.
            seed: Seeds weights, rows and draws.
            verbose: As in Stable-Baselines3.
            read: Whether to read the rows now; only an agent out of a checkpoint may do without.

        Raises:
            ValueError: If no file is named, its rows are no rows of the problem, or the environment has no estimator.
        """
        super().__init__(env, options, seed, verbose)
        self.problem = needed_problem(self.env, self.name)
        self.logged = self._read() if read else None
        self.scored: ScoredRows | None = None

    @classmethod
    def load(cls: type[Self], path: Any, env: GymEnv | None = None, **kwargs: Any) -> Self:  # type: ignore[override]
        """Reads a checkpoint folder; see :meth:`slot_rl.agents.checkpoint.CheckpointedAgent.load`."""
        return super().load(path, env, read=False, **kwargs)

    @property
    @abstractmethod
    def row_cost(self) -> int:
        """Forwards that each logged row costs at the start of a training."""

    @abstractmethod
    def score_rows(self, rows: LoggedRows) -> ScoredRows:
        """Asks the estimator about the logged rows, for :attr:`row_cost` forwards each."""

    def check_timesteps(self, timesteps: int) -> None:
        """Refuses a training that the logged rows' own scores would use up."""
        rows = self.logged or self._read()
        cost = len(rows) * self.row_cost
        if self.scored is None and timesteps <= cost:
            raise ValueError(
                f"expected more timesteps than the {cost:,} calls that scoring {len(rows):,} logged rows takes for "
                f"{self.name!r}, got {timesteps:,}"
            )

    def draw_rows(self, count: int) -> ScoredRows:
        """Draws ``count`` logged rows with replacement."""
        assert self.scored is not None
        return self.scored[torch.randint(len(self.scored), (count,), generator=self.generator)]

    def greedy_scores(self, observation: Observation, logits: Tensor) -> Tensor:
        """Scores the policy's own answers, ``(batch,)``, given its logits ``(batch, slots, items)``."""
        return self.problem.score(observation, logits.detach().argmax(dim=-1))

    def weights(self, rows: ScoredRows, generated: Tensor) -> Tensor:
        """Returns the weights of logged rows, ``(batch,)``, given the scores of the policy's answers."""
        assert self.scored is not None
        lowest = float(self.scored.score.min())
        return imitation_weights(self.options, rows.score, generated, lowest, self.scale.unit)

    def _read(self) -> LoggedRows:
        if self.options.logged is None:
            raise ValueError(f"expected --logged FILE with rows to imitate for {self.name!r}, got none")
        return read_logged(self.options.logged, self.problem)

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """Scores the logged rows before the first update, unless this agent has done so before."""
        self.check_timesteps(total_timesteps)
        total, callback = super()._setup_learn(total_timesteps, *args, **kwargs)
        if self.scored is None:
            self.logged = self.logged or self._read()
            self.scored = self.score_rows(self.logged)
            self.num_timesteps += len(self.logged) * self.row_cost
            # Imitation compares scores with one another, so their spread over the rows is the unit throughout.
            self.scale = RunningScale()
            self.scale.update(self.scored.score)
        return total, callback


def imitation_weights(options: LoggedOptions, logged: Tensor, generated: Tensor, lowest: float, unit: float) -> Tensor:
    """Returns each logged row's weight, with mean 1 over the batch, so that a step size means the same throughout.

    Args:
        options: Says which weights, and their constants.
        logged: Scores of the logged rows, of shape ``(batch,)``.
        generated: Scores of the rows that the policy generates for the same requests, of shape ``(batch,)``.
        lowest: The lowest score of all logged rows.
        unit: The standard deviation of the logged rows' scores.

    Returns:
        Tensor of shape ``(batch,)``.
    """
    if options.weighting == "inverse":
        # A policy may generate rows below the lowest logged one; they count as that one.
        inverse = 1 / (((generated - lowest) / unit).clamp_min(0.0) + options.floor)
        return inverse / inverse.mean()
    exponent = (logged - generated) / (options.temperature * unit)
    # exp and its mean in one: with a policy far above all logged rows, every exp would be 0 by itself.
    return len(logged) * torch.softmax(exponent.clamp_max(log(options.clip)), dim=0)

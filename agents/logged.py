"""Learning from logged rows: read them, and score each of them once.

A logged row is a configuration that was tried, with its context. Its measured score is not needed, because the
estimator scores it. Rows come from a table with the columns of the estimator's own table; the estimator must know every
category. Scoring them costs the first estimator calls of a training, which are counted like all others.
"""

from abc import abstractmethod
from dataclasses import dataclass
from math import inf, log
from pathlib import Path
from typing import Any, Literal

import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor
from typing_extensions import Self

from slot_rl.agents.base import Options, needed_problem
from slot_rl.agents.learning_options import LearningOptions
from slot_rl.agents.one_step import OneStepAgent
from slot_rl.agents.policy import most_probable
from slot_rl.agents.scale import RunningScale
from slot_rl.problems import Observation, Problem
from slot_rl.saved_state import parts_of
from slot_rl.seeding import Seed

_REQUEST, _ROW = "logged_request", "logged_row"
"""What the names of the scored rows' parts begin with in a checkpoint."""


@dataclass(frozen=True)
class LoggedOptions(LearningOptions):
    """Imitation of logged rows, which are weighted by their estimated scores.

    Attributes:
        logged: CSV or Parquet file with the rows to imitate, with the columns of the estimator's table; a score column
            is not needed. To learn, this must be given.
        weighting: "advantage" weighs a row by how much better it is than the policy's own answer; "inverse" weighs it
            by how bad that answer is, whatever the row.
        temperature: Of advantage weights, in standard deviations of the logged rows' scores: rows so much better weigh
            e times as much.
        clip: Largest advantage weight, as a multiple of that of a row as good as the policy's own answer.
        offset: Of inverse weights, in standard deviations: added to the distance from the worst logged row.
    """

    logged: Path | None = None
    weighting: Literal["advantage", "inverse"] = "advantage"
    temperature: float = 0.1
    clip: float = 20.0
    offset: float = 0.1

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        if isinstance(self.logged, str):
            # A checkpoint's JSON holds a path as its text.
            object.__setattr__(self, "logged", Path(self.logged))
        if self.weighting not in ("advantage", "inverse"):
            raise ValueError(f"expected weighting advantage or inverse, got {self.weighting!r}")
        if not (0 < self.temperature < inf and 0 < self.offset < inf and 1 <= self.clip < inf):
            raise ValueError(
                "expected temperature > 0, offset > 0 and clip >= 1, all finite, "
                f"got {self.temperature}, {self.offset} and {self.clip}"
            )


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
class ScoredRows(LoggedRows):
    """Logged rows with what the estimator says of them.

    Attributes:
        score: Estimated scores, of shape ``(rows,)``.
        latent: The estimator's latents, of shape ``(rows, width)``; a width of 0 where they are not needed.
    """

    score: Tensor
    latent: Tensor

    def __getitem__(self, rows: Tensor) -> "ScoredRows":
        """Returns some rows by number."""
        return ScoredRows(self.observation[rows], self.choice[rows], self.score[rows], self.latent[rows])


class LoggedAgent(OneStepAgent):
    """An agent that imitates logged rows; subclasses say how.

    A checkpoint holds the scored rows, too, so it loads and goes on without their file.

    Attributes:
        logged: The logged rows; None until they are read.
        scored: The same rows with their estimated scores; None until a training starts.
    """

    options: LoggedOptions
    problem: Problem

    def __init__(
        self, env: Any, options: Any = None, seed: Seed = 0, verbose: int = 0, read: bool = True, **changes: Any
    ) -> None:
        """Builds the agent; see :class:`slot_rl.agents.one_step.OneStepAgent`.

        Args:
            env: A slots environment, ``SlotVecEnv`` for speed.
            options: The agent's options, which name the file with the logged rows.
            seed: Seeds weights, rows and draws.
            verbose: As in Stable-Baselines3.
            read: Whether to read the rows now; only an agent from a checkpoint may do without.
            changes: Single options that differ.

        Raises:
            ValueError: If no file is named, its rows are no rows of the problem, or the environment has no estimator.
        """
        super().__init__(env, options, seed, verbose, **changes)
        self.problem = needed_problem(self.env, self.name)
        self.logged = self._read() if read else None
        self.scored: ScoredRows | None = None

    @classmethod
    def load(  # type: ignore[override]
        cls, path: Any, env: Any = None, defaults: Options | None = None, **kwargs: Any
    ) -> Self:
        """Reads a checkpoint folder; see :meth:`slot_rl.agents.base.Agent.load`."""
        return super().load(path, env, defaults, read=False, **kwargs)

    @property
    @abstractmethod
    def row_cost(self) -> int:
        """Forwards that each logged row costs at the start of a training."""

    @abstractmethod
    def score_rows(self, rows: LoggedRows) -> ScoredRows:
        """Asks the estimator about the logged rows, for :attr:`row_cost` forwards each."""

    def check_timesteps(self, timesteps: int) -> None:
        """Refuses a training whose whole budget would go into scoring the logged rows."""
        if self.scored is not None:
            return
        rows = self.logged or self._read()
        cost = len(rows) * self.row_cost
        if timesteps <= cost:
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
        answers = most_probable(logits.detach(), self.policy.rules(observation))
        return self.problem.score(observation, answers)

    def weights(self, rows: ScoredRows, generated: Tensor) -> Tensor:
        """Returns the weights of logged rows, ``(batch,)``, given the scores of the policy's answers."""
        assert self.scored is not None
        lowest = float(self.scored.score.min())
        return imitation_weights(self.options, rows.score, generated, lowest, self.scale.unit)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns what every agent keeps, and the scored rows."""
        tensors, document = super().state()
        if self.scored is not None:
            rows = self.scored
            tensors |= {f"{_REQUEST}.{name}": part for name, part in rows.observation.tensors().items()}
            tensors |= {f"{_ROW}.{name}": getattr(rows, name) for name in ("choice", "score", "latent")}
        return tensors, document

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Takes back what :meth:`state` gave; a checkpoint of earlier versions has no rows."""
        super().restore(tensors, document)
        if rows := parts_of(tensors, _ROW):
            self.scored = ScoredRows(Observation(**parts_of(tensors, _REQUEST)), **rows)

    def _read(self) -> LoggedRows:
        if self.options.logged is None:
            raise ValueError(f"expected --logged FILE with rows to imitate for {self.name!r}, got none")
        return read_allowed_rows(self.problem, self.options.logged)

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """Scores the logged rows before the first update, unless this agent has done so before."""
        self.check_timesteps(total_timesteps)
        total, callback = super()._setup_learn(total_timesteps, *args, **kwargs)
        if self.scored is None:
            self.logged = self.logged or self._read()
            before = self.problem.budget.forwards
            self.scored = self.score_rows(self.logged)
            self.num_timesteps += self.problem.budget.forwards - before
            # Imitation compares scores with one another, so the spread over the rows is the unit of the whole training.
            self.scale = RunningScale()
            self.scale.update(self.scored.score)
        return total, callback


def read_allowed_rows(problem: Problem, path: Path) -> LoggedRows:
    """Reads logged rows, without those that break a constraint of the problem.

    Raises:
        ValueError: If the file's rows are no rows of the problem, or fewer than two are allowed.
    """
    rows = LoggedRows(*problem.read_logged(path))
    if problem.constraints is None:
        return rows
    # What a policy must not name, it need not learn from.
    allowed = problem.constraints.allows(rows.observation, rows.choice)
    if int(allowed.sum()) < 2:
        raise ValueError(
            f"expected at least two logged rows that satisfy {problem.constraints}, got {int(allowed.sum())} "
            f"of {len(rows)} in {path}"
        )
    return rows[allowed]


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
        # A policy may generate rows below the lowest logged one; they count like that one.
        inverse = 1 / (((generated - lowest) / unit).clamp_min(0.0) + options.offset)
        return inverse / inverse.mean()
    exponent = (logged - generated) / (options.temperature * unit)
    # A softmax, not exp and a mean: with a policy far above all logged rows, every exp would be 0.
    return len(logged) * torch.softmax(exponent.clamp_max(log(options.clip)), dim=0)

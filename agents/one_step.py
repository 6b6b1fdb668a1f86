"""What agents share that make one update after each batch of one-step episodes."""

import sys
import time
from abc import abstractmethod
from math import ceil
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor, nn

from slot_rl.agents.base import problem_of
from slot_rl.agents.policy import SlotPolicy
from slot_rl.agents.sb3 import LearningAgent
from slot_rl.agents.scale import RunningScale
from slot_rl.seeding import Seed, as_seed, generator_from, seeded_initialisation


class OneStepAgent(LearningAgent):
    """An agent that updates once for each batch of one-step episodes.

    Callbacks are told of an update's calls as of steps of the environments, at least of one. A subclass writes
    :meth:`update`: it scores a batch, changes the policy, and returns figures to log.
    """

    def __init__(self, env: Any, options: Any = None, seed: Seed = 0, verbose: int = 0, **changes: Any) -> None:
        """Builds the agent.

        Args:
            env: A slots environment, ``SlotVecEnv`` for speed, its id, or a problem.
            options: The agent's options; the defaults if None.
            seed: Seeds weights, requests and draws; None for a new one.
            verbose: As in Stable-Baselines3.
            changes: Single options that differ, for example ``learning_rate=3e-4``.

        Raises:
            TypeError: If the options are another agent's.
        """
        self.options = self.own_options(options, changes)
        super().__init__(
            SlotPolicy,
            self.environment(env),
            learning_rate=self.step_size,
            verbose=verbose,
            device="cpu",
            support_multi_env=True,
            seed=as_seed(seed),
        )
        self.problem = problem_of(self.env)
        self.steps_played, self._figures = 0, dict[str, float]()
        self._setup_model()

    def _setup_model(self) -> None:
        assert self.env is not None and self.seed is not None
        self._setup_lr_schedule()
        self.env.seed(self.seed)
        self.generator = generator_from(self.seed)
        self.scale = RunningScale()
        with seeded_initialisation(self.seed):
            spaces = self.observation_space, self.action_space
            self.policy = SlotPolicy(*spaces, self.lr_schedule, **self.policy_arguments)

    @abstractmethod
    def update(self) -> dict[str, float]:
        """Scores one batch and improves the policy; returns figures to log."""

    def iterate(self, callbacks: BaseCallback) -> bool:
        """Makes one update."""
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self._update_learning_rate(self.policy.optimizer)
        callbacks.on_rollout_start()
        before = self._calls()
        self._figures = self.update()
        calls = self._calls() - before
        callbacks.update_locals(locals())
        steps = max(1, ceil((calls - self._told_ahead) / self.n_envs))
        self._told_ahead += int(steps * self.n_envs - calls)  # n_envs may be a number of numpy's
        if not self._tell(callbacks, calls, steps):
            return False
        callbacks.on_rollout_end()
        return True

    def _tell(self, callbacks: BaseCallback, calls: int, steps: int) -> bool:
        """Tells callbacks of an update's calls in some steps; returns whether the training goes on."""
        after = self.num_timesteps + calls
        # An estimator call is an episode.
        callbacks.update_locals({"dones": np.arange(self.n_envs) < calls})
        for step in range(1, steps + 1):
            self.num_timesteps = after if step == steps else min(after, self.num_timesteps + self.n_envs)
            if not callbacks.on_step():
                self.num_timesteps = after
                return False
        return True

    def _calls(self) -> int:
        """Returns the problem's own count; an environment without a problem has its steps counted."""
        return self.steps_played if self.problem is None else self.problem.budget.forwards

    def optimizer_step(self, loss: Tensor) -> float:
        """Takes one optimiser step down ``loss``; returns the gradient's norm before clipping."""
        self.policy.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), self.options.max_grad_norm)
        self.policy.optimizer.step()
        return float(norm)

    @property
    def entropy_coefficient(self) -> float:
        """The entropy bonus at this point of the training."""
        return self.options.entropy_over_time.at(self.progress)

    def generators(self) -> dict[str, torch.Generator]:
        """Returns the generators of the policy's draws and of the agent's."""
        return {**super().generators(), "agent": self.generator}

    def dump_logs(self, iteration: int = 0) -> None:
        """Writes the figures of the last update to the logger."""
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        for name, value in self._figures.items():
            self.logger.record(name, value)
        self.logger.record("train/entropy_coefficient", self.entropy_coefficient)
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/time_elapsed", elapsed)
        self.logger.dump(self.num_timesteps)


def policy_gradient(log_prob: Tensor, values: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Returns REINFORCE's surrogate with a learned baseline, and the baseline's squared error.

    Args:
        log_prob: Log-probabilities of the choices, of shape ``(batch,)``.
        values: The baseline's predictions, of shape ``(batch,)``.
        target: Standardised scores, of shape ``(batch,)``.
    """
    advantage = target - values.detach()
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    return (advantage * log_prob).mean(), (values - target).square().mean()


def mean_of(score: Tensor) -> float:
    """Returns the mean of scores in double precision, so that logs do not depend on the order of summation."""
    return float(np.mean(score.detach().numpy(), dtype=np.float64))

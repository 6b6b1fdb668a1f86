"""The training loop of our own agents, with Stable-Baselines3's callbacks, logger and progress bar."""

import sys
import time
from abc import abstractmethod
from typing import Any, TypeVar

import numpy as np
import torch
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from torch import Tensor, nn

from slot_rl.agents.policy import SlotPolicy, policy_kwargs
from slot_rl.agents.policy_agent import PolicyAgent
from slot_rl.agents.scale import RunningScale
from slot_rl.problems import Problem
from slot_rl.seeding import generator_from, seeded_initialisation

Self = TypeVar("Self", bound="OneStepAgent")


class OneStepAgent(PolicyAgent):
    """The loop of an agent that updates once per batch of one-step episodes.

    Subclasses write :meth:`update`: score a batch, change the policy, return figures to log.
    """

    def __init__(self, env: GymEnv | str, options: Any = None, seed: int = 0, verbose: int = 0) -> None:
        """Builds the agent.

        Args:
            env: A slots environment, ``SlotVecEnv`` for speed.
            options: The agent's options; the defaults if None.
            seed: Seeds weights, requests and draws.
            verbose: As in Stable-Baselines3.

        Raises:
            TypeError: If the options are another agent's.
        """
        self.options = self.own_options(options)
        super().__init__(
            SlotPolicy,
            env,
            learning_rate=lambda remaining: self.options.learning_rate * remaining,
            verbose=verbose,
            device="cpu",
            support_multi_env=True,
            seed=seed,
        )
        self._setup_model()

    def _setup_model(self) -> None:
        assert self.env is not None and self.seed is not None
        self._setup_lr_schedule()
        self.env.seed(self.seed)
        self.generator = generator_from(self.seed)
        self.scale = RunningScale()
        kwargs = policy_kwargs(problem_of(self.env), self.options.policy)
        with seeded_initialisation(self.seed):
            self.policy = SlotPolicy(self.observation_space, self.action_space, self.lr_schedule, **kwargs)

    @abstractmethod
    def update(self) -> dict[str, float]:
        """Scores one batch, counts it in ``num_timesteps``, improves the policy; returns figures to log."""

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 10,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Trains until ``total_timesteps`` configurations have been scored.

        Args:
            total_timesteps: Configurations to score; the last batch may exceed it.
            callback: Stable-Baselines3 callbacks, called after each update.
            log_interval: Updates between two log lines.
            tb_log_name: As in Stable-Baselines3.
            reset_num_timesteps: Whether to count from zero.
            progress_bar: Whether to show Stable-Baselines3's progress bar.

        Returns:
            The agent itself.
        """
        total, callbacks = self._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        callbacks.on_training_start(locals(), globals())
        iteration = 0
        while self.num_timesteps < total:
            self._update_current_progress_remaining(self.num_timesteps, total)
            self._update_learning_rate(self.policy.optimizer)
            figures = self.update()
            iteration += 1
            callbacks.update_locals(locals())
            if not callbacks.on_step():
                break
            if iteration % log_interval == 0:
                self._log(figures)
        callbacks.on_training_end()
        return self

    def step(self, loss: Tensor) -> float:
        """Takes one optimiser step down ``loss``; returns the gradient's norm before clipping."""
        self.policy.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), self.options.max_grad_norm)
        self.policy.optimizer.step()
        return float(norm)

    @property
    def entropy_coefficient(self) -> float:
        """The entropy bonus at this point of the training."""
        return self.options.entropy_over_time.at(self.done)

    @property
    def done(self) -> float:
        """The share of the training that is over, from 0 to 1."""
        return 1 - self._current_progress_remaining

    def generators(self) -> dict[str, torch.Generator]:
        """Returns the generators of the policy's draws and of the agent's."""
        return {**super().generators(), "agent": self.generator}

    def _log(self, figures: dict[str, float]) -> None:
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        for name, value in figures.items():
            self.logger.record(name, value)
        self.logger.record("train/entropy_coefficient", self.entropy_coefficient)
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/time_elapsed", elapsed)
        self.logger.dump(self.num_timesteps)


def problem_of(env: Any) -> Problem | None:
    """Returns the problem behind a Stable-Baselines3 environment; None where there is none to be had."""
    try:
        problem = env.get_attr("problem")[0]
    except AttributeError:
        return None
    return problem if isinstance(problem, Problem) else None


def needed_problem(env: Any, agent: str) -> Problem:
    """Returns the problem behind an environment, for an agent that asks its estimator.

    Args:
        env: A Stable-Baselines3 environment.
        agent: The agent's name, for the message.

    Raises:
        ValueError: If there is none.
    """
    problem = problem_of(env)
    if problem is None:
        raise ValueError(
            f"expected an environment with an estimator to ask for {agent!r} (its attribute `problem`), got one "
            "without; reinforce and ppo learn from rewards alone"
        )
    return problem


def policy_gradient(log_prob: Tensor, values: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Returns REINFORCE's surrogate with a learned baseline, and the baseline's squared error.

    Args:
        log_prob: Log-probabilities of the choices, of shape ``(batch,)``.
        values: The baseline's forecasts, of shape ``(batch,)``.
        target: Standardised scores, of shape ``(batch,)``.
    """
    advantage = target - values.detach()
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    return (advantage * log_prob).mean(), (values - target).square().mean()


def mean_of(score: Tensor) -> float:
    """Returns the mean of scores in double precision, so that logs do not depend on the order of summation."""
    return float(np.mean(score.detach().numpy(), dtype=np.float64))

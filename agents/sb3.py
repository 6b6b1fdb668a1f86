"""Agents that learn, as Stable-Baselines3 algorithms with callbacks, logger, progress bar and ``predict``.

:class:`OneStepAgent` makes one update after each batch of one-step episodes. :class:`OnPolicyAgent` adapts
Stable-Baselines3's own on-policy algorithms. A checkpoint holds all that a training depends on: one that is loaded and
continued with ``learn(..., reset_num_timesteps=False)`` ends bit for bit like one that was never interrupted.
"""

import sys
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from math import ceil
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from typing_extensions import Self

from slot_rl.agents.base import Agent, problem_of
from slot_rl.agents.learning_options import LearningOptions, RewardOptions
from slot_rl.agents.no_pickles import NoParameterFile
from slot_rl.agents.policy import SlotPolicy, policy_kwargs
from slot_rl.agents.scale import RunningScale
from slot_rl.envs import SlotVecEnv
from slot_rl.envs.vec import BatchedVecEnv
from slot_rl.problems import IDS, NonFiniteScore, Observation, Problem
from slot_rl.saved_state import optimizer_state, restore_optimizer, restore_weights, weights_of
from slot_rl.seeding import SEEDS, Seed, as_seed, generator_from, seeded_initialisation

MOST_BAD = 9
"""Batches in a row that may be skipped; one more is raised."""


class LearningAgent(Agent, NoParameterFile, BaseAlgorithm):  # type: ignore[misc]  # load() takes the environment as an argument
    """An agent whose answer is one pass of its policy.

    Attributes:
        policy: The policy.
        scale: Running statistics of the scores.
        updates: Updates since the training began.
        on_bad_score: Handles a batch on which the estimator fails, which then is skipped; it is raised if None.
    """

    default_options: ClassVar[LearningOptions]
    options: LearningOptions
    policy: SlotPolicy
    scale: RunningScale
    updates = 0
    on_bad_score: Callable[[NonFiniteScore], None] | None = None
    _told_ahead = 0
    _stopping = False
    _stored_env: Tensor | None = None

    @property
    def update_size(self) -> int:
        """Estimator calls between two updates."""
        return self.options.batch_size

    @property
    def policy_parameters(self) -> int:
        """Parameters of the policy network, without the value head."""
        return sum(part.numel() for part in self.policy.network.parameters())

    @property
    def progress(self) -> float:
        """The share of the training that is over, from 0 to 1."""
        return 1 - self._current_progress_remaining

    @property
    def policy_arguments(self) -> dict[str, Any]:
        """What its policy is built with."""
        options = self.options
        # Not every agent can draw its slots in turn.
        return policy_kwargs(self.problem, options.policy, options.free, getattr(options, "in_turn", False))

    def answer(self, observation: Observation) -> Tensor:
        """Returns the policy's most probable choice, ``(batch, slots)``."""
        with torch.no_grad():
            return self.policy.answer(observation)

    def environment(self, env: Any) -> Any:
        """Returns a problem or its id as a batched environment, and an environment as it is."""
        if not isinstance(env, Problem) and env not in IDS:
            return env
        return SlotVecEnv(env, self.options.num_envs, infeasible="penalise" if self.options.free else "refuse")

    def step_size(self, remaining: float) -> float:
        """Returns Adam's step size when a share ``remaining`` of the training is left."""
        return self.options.learning_rate * remaining

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 10,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Trains until the estimator has been called ``total_timesteps`` times; the last batch may exceed it.

        The arguments are Stable-Baselines3's. ``log_interval`` counts updates; None logs nothing.
        """
        # Callbacks read the name total_timesteps.
        total_timesteps, callbacks = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        callbacks.on_training_start(locals(), globals())
        while self.num_timesteps < total_timesteps and not self._stopping and self._goes_on(callbacks):
            self.updates += 1
            if log_interval is not None and self.updates % log_interval == 0:
                self.dump_logs()
        self._stopping = False
        callbacks.on_training_end()
        return self

    def _goes_on(self, callbacks: BaseCallback) -> bool:
        """Makes one update; without one where scores are bad and somebody handles that, up to ten times in a row."""
        for _ in range(MOST_BAD):
            played, before = self.num_timesteps, 0 if self.problem is None else self.problem.budget.forwards
            try:
                return self.iterate(callbacks)
            except NonFiniteScore as failure:
                if self.on_bad_score is None:
                    raise
                self.on_bad_score(failure)
                if self.problem is not None:
                    self.num_timesteps = played + self.problem.budget.forwards - before
        return self.iterate(callbacks)

    @abstractmethod
    def iterate(self, callbacks: BaseCallback) -> bool:
        """Plays a batch and learns from it, as a rollout of callbacks; returns whether they let the training go on."""

    def stop(self) -> None:
        """Ends the training, or the next one, after the current update: there it can be saved and continued."""
        self._stopping = True

    def _setup_learn(
        self, total_timesteps: int, callback: MaybeCallback = None, reset_num_timesteps: bool = True, *args: Any
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps:
            self.updates = self._told_ahead = 0
        elif self._last_obs is None and self._stored_env is not None and (env := self._batched_env()) is not None:
            env.restore(self._stored_env)
        self._stored_env = None
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Changes the environment; that of a checkpoint is forgotten."""
        super().set_env(env, force_reset)
        self._stored_env = None

    def generators(self) -> dict[str, torch.Generator]:
        """Returns every generator whose state a continued training needs."""
        return {"policy": self.policy.generator}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns the weights, the states of optimiser, generators and environment, and the running statistics.

        Of environments, :class:`slot_rl.envs.SlotVecEnv` has a state that can be stored; others go on as they are.
        """
        tensors = weights_of(self.policy, "policy")
        tensors |= optimizer_state(self.policy.optimizer, "optimizer")
        tensors |= {f"generator.{name}": generator.get_state() for name, generator in self.generators().items()}
        if self._stored_env is not None:  # nothing was played since it was loaded
            tensors["env"] = self._stored_env
        elif (env := self._batched_env()) is not None:
            tensors["env"] = env.state()
        return tensors, {"scale": asdict(self.scale), "updates": self.updates, "told_ahead": self._told_ahead}

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Takes back what :meth:`state` gave; raises :class:`BundleError` if the weights do not fit.

        The environment's state counts for a training that is continued.
        """
        restore_weights(self.policy, tensors, "policy")
        restore_optimizer(self.policy.optimizer, tensors, "optimizer")
        for name, generator in self.generators().items():
            # Checkpoints of earlier versions have fewer.
            if (found := tensors.get(f"generator.{name}")) is not None:
                generator.set_state(found)
        self.scale, self.updates = RunningScale(**document["scale"]), document.get("updates", 0)
        self._told_ahead, self._stored_env = document.get("told_ahead", 0), tensors.get("env")

    def _batched_env(self) -> BatchedVecEnv | None:
        """Returns what is inside the environment's wrappers, if its state can be stored."""
        inside = None if self.env is None else self.env.unwrapped
        return inside if isinstance(inside, BatchedVecEnv) else None


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


class OnPolicyAgent(LearningAgent, OnPolicyAlgorithm):  # type: ignore[misc]
    """One of Stable-Baselines3's on-policy algorithms, which a subclass names as its second base.

    It is built with the shared policy and an annealed step size. Scores are standardised before they become advantages
    and value targets, and the entropy bonus anneals.
    """

    options: RewardOptions
    policy: SlotPolicy

    def __init__(self, env: Any, options: Any = None, seed: Seed = 0, verbose: int = 0, **changes: Any) -> None:
        """Builds the agent; arguments and errors as for :class:`OneStepAgent`."""
        self.options = self.own_options(options, changes)
        self.scale = RunningScale()
        arguments: dict[str, Any] = {
            "learning_rate": self.step_size,
            "ent_coef": self.options.entropy,
            "vf_coef": self.options.value_coefficient,
            "max_grad_norm": self.options.max_grad_norm,
            **self.algorithm_arguments(),
        }
        super().__init__(
            SlotPolicy,
            self.environment(env),
            verbose=verbose,
            seed=as_seed(seed),
            device="cpu",
            _init_setup_model=False,
            **arguments,
        )
        self.problem = problem_of(self.env)
        self.n_steps = max(1, round(self.options.batch_size / self.n_envs))
        self.policy_kwargs = self.policy_arguments
        with seeded_initialisation(as_seed(self.seed)):
            self._setup_model()

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seeds the agent and its environment, and no global generator."""
        self.generator = generator_from(as_seed(seed))
        assert self.env is not None
        self.env.seed(as_seed(seed))

    def iterate(self, callbacks: BaseCallback) -> bool:
        """Plays a batch of episodes and learns from it."""
        assert self.env is not None
        if not self.collect_rollouts(self.env, callbacks, self.rollout_buffer, self.n_steps):
            return False
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self.train()
        return True

    def generators(self) -> dict[str, torch.Generator]:
        """Returns the generators of the policy's draws and of the order of rows."""
        return {**super().generators(), "agent": self.generator}

    def dump_logs(self, iteration: int = 0) -> None:
        """Writes the figures of the last update and of the latest episodes to the logger."""
        super().dump_logs(iteration or self.updates)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns what every agent keeps, and what is logged of earlier updates and episodes."""
        tensors, document = super().state()
        document["gradient_steps"] = self._n_updates
        document["episodes"] = [[episode["r"], episode["l"]] for episode in self.ep_info_buffer or ()]
        return tensors, document

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Takes back what :meth:`state` gave."""
        super().restore(tensors, document)
        self._n_updates = document.get("gradient_steps", 0)
        episodes = ({"r": reward, "l": length} for reward, length in document.get("episodes", ()))
        self.ep_info_buffer = deque(episodes, maxlen=self._stats_window_size)
        self.ep_success_buffer = deque(maxlen=self._stats_window_size)

    @abstractmethod
    def algorithm_arguments(self) -> dict[str, Any]:
        """Returns the arguments that only this algorithm has."""

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Plays a batch of episodes and standardises their scores."""
        if not super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps):
            return False
        scores = torch.as_tensor(rollout_buffer.rewards)
        self.scale.update(scores)
        rollout_buffer.rewards = self.scale.standardise(scores).numpy()
        assert self._last_obs is not None
        with torch.no_grad():
            values = self.policy.predict_values(obs_as_tensor(self._last_obs, self.device))
        rollout_buffer.compute_returns_and_advantage(values, np.ones(env.num_envs, dtype=np.bool_))
        return True

    def train(self) -> None:
        """Runs the algorithm's gradient steps at the entropy bonus of this point of the training."""
        self.ent_coef = self.options.entropy_over_time.at(self.progress)
        with seeded_shuffles(self.generator):
            super().train()
        self.logger.record("train/entropy_coefficient", self.ent_coef)


@contextmanager
def seeded_shuffles(generator: torch.Generator) -> Iterator[None]:
    """Seeds numpy's global generator, from which Stable-Baselines3 takes minibatches, and puts it back as it was."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(int(torch.randint(SEEDS, (), generator=generator)))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


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

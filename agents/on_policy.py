"""Stable-Baselines3's own on-policy algorithms as agents."""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from slot_rl.agents.base import problem_of
from slot_rl.agents.learning_options import RewardOptions
from slot_rl.agents.policy import SlotPolicy
from slot_rl.agents.sb3 import LearningAgent
from slot_rl.agents.scale import RunningScale
from slot_rl.seeding import SEEDS, Seed, as_seed, generator_from, seeded_initialisation


class OnPolicyAgent(LearningAgent, OnPolicyAlgorithm):  # type: ignore[misc]
    """One of Stable-Baselines3's on-policy algorithms, which a subclass names as its second base.

    It is built with the shared policy and an annealed step size. Scores are standardised before they become advantages
    and value targets, and the entropy bonus anneals.
    """

    options: RewardOptions
    policy: SlotPolicy

    def __init__(self, env: Any, options: Any = None, seed: Seed = 0, verbose: int = 0, **changes: Any) -> None:
        """Builds the agent; arguments and errors as for :class:`slot_rl.agents.one_step.OneStepAgent`."""
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

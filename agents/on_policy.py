"""What Stable-Baselines3's on-policy algorithms share when they train the shared policy on one-step episodes.

The algorithms are Stable-Baselines3's own; this class builds them with the shared policy and a step size that anneals,
standardises the scores before they become advantages and value targets, and anneals the entropy bonus.
"""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from slot_rl.agents.base import problem_of
from slot_rl.agents.options import RewardOptions
from slot_rl.agents.policy import SlotPolicy, policy_kwargs
from slot_rl.agents.policy_agent import PolicyAgent
from slot_rl.agents.scale import RunningScale


class OnPolicyAgent(PolicyAgent, OnPolicyAlgorithm):
    """An on-policy algorithm on the environment's rewards; subclasses name it as their second base."""

    options: RewardOptions
    policy: SlotPolicy

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
        self.scale = RunningScale()
        arguments: dict[str, Any] = {
            "learning_rate": lambda remaining: self.options.learning_rate * remaining,
            "ent_coef": self.options.entropy,
            "vf_coef": self.options.value_coefficient,
            "max_grad_norm": self.options.max_grad_norm,
            **self.algorithm_arguments(),
        }
        super().__init__(
            SlotPolicy, env, verbose=verbose, seed=seed, device="cpu", _init_setup_model=False, **arguments
        )
        assert self.env is not None
        self.n_steps = max(1, round(self.options.batch_size / self.n_envs))
        self.policy_kwargs = policy_kwargs(problem_of(self.env), self.options.policy)
        self._setup_model()

    @abstractmethod
    def algorithm_arguments(self) -> dict[str, Any]:
        """Returns the arguments that this algorithm alone has."""

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
        self.ent_coef = self.options.entropy_over_time.at(1 - self._current_progress_remaining)
        super().train()
        self.logger.record("train/entropy_coefficient", self.ent_coef)

"""Stable-Baselines3's PPO with the shared policy, set up for one-step episodes.

The algorithm is Stable-Baselines3's own; this class sets its defaults, standardises the scores before they become
advantages and value targets, anneals the entropy bonus, and saves without pickles.

Schulman et al., "Proximal Policy Optimization Algorithms" (2017).
"""

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from slot_rl.agents.base import problem_of
from slot_rl.agents.options import PPOOptions
from slot_rl.agents.policy import SlotPolicy, policy_kwargs
from slot_rl.agents.policy_agent import PolicyAgent
from slot_rl.agents.scale import RunningScale


class PPOAgent(PolicyAgent, PPO):
    """PPO on the environment's rewards."""

    name = "ppo"
    options_type = PPOOptions
    options: PPOOptions
    policy: SlotPolicy

    def __init__(self, env: GymEnv | str, options: PPOOptions | None = None, seed: int = 0, verbose: int = 0) -> None:
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
        PPO.__init__(
            self,
            SlotPolicy,
            env,
            learning_rate=lambda remaining: self.options.learning_rate * remaining,
            batch_size=self.options.minibatch_size,
            n_epochs=self.options.epochs,
            clip_range=self.options.clip_range,
            ent_coef=self.options.entropy,
            vf_coef=self.options.value_coefficient,
            max_grad_norm=self.options.max_grad_norm,
            verbose=verbose,
            seed=seed,
            device="cpu",
            _init_setup_model=False,
        )
        assert self.env is not None
        self.n_steps = max(1, round(self.options.batch_size / self.n_envs))
        self.policy_kwargs = policy_kwargs(problem_of(self.env), self.options.policy)
        self._setup_model()

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
        """Runs PPO's epochs at the entropy bonus of this point of the training."""
        self.ent_coef = self.options.entropy_over_time.at(1 - self._current_progress_remaining)
        super().train()
        self.logger.record("train/entropy_coefficient", self.ent_coef)

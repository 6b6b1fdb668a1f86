"""Stable-Baselines3's PPO with the shared policy, set up for one-step episodes.

Schulman et al., "Proximal Policy Optimization Algorithms" (2017).
"""

from typing import Any

from stable_baselines3 import PPO

from slot_rl.agents.on_policy import OnPolicyAgent
from slot_rl.agents.options import PPOOptions


class PPOAgent(OnPolicyAgent, PPO):
    """PPO on the environment's rewards."""

    name = "ppo"
    options_type = PPOOptions
    options: PPOOptions

    def algorithm_arguments(self) -> dict[str, Any]:
        """Returns minibatches, epochs and the clipping."""
        return {
            "batch_size": self.options.minibatch_size,
            "n_epochs": self.options.epochs,
            "clip_range": self.options.clip_range,
        }

"""Stable-Baselines3's PPO with the shared policy, set up for one-step episodes.

Schulman et al., "Proximal Policy Optimization Algorithms" (2017).
"""

from dataclasses import dataclass
from typing import Any

from stable_baselines3 import PPO

from slot_rl.agents.learning_options import RewardOptions
from slot_rl.agents.on_policy import OnPolicyAgent


@dataclass(frozen=True)
class PPOOptions(RewardOptions):
    """Stable-Baselines3's PPO with the shared policy.

    Attributes:
        batch_size: Estimator calls between updates.
        minibatch_size: Rows of a gradient step.
        epochs: Passes over each rollout.
        clip_range: How far the probability ratio may move.
    """

    batch_size: int = 2048
    minibatch_size: int = 256
    epochs: int = 4
    clip_range: float = 0.2
    max_grad_norm: float = 0.5

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        if not 2 <= self.minibatch_size <= self.batch_size or self.epochs < 1 or not self.clip_range > 0:
            raise ValueError(
                "expected minibatch_size from 2 to batch_size, epochs >= 1 and clip_range > 0, "
                f"got {self.minibatch_size}, {self.epochs} and {self.clip_range}"
            )


class PPOAgent(OnPolicyAgent, PPO):  # type: ignore[misc]
    """PPO on the environment's rewards."""

    name = "ppo"
    default_options = PPOOptions()
    options: PPOOptions

    def algorithm_arguments(self) -> dict[str, Any]:
        """Returns minibatches, epochs and the clipping."""
        return {
            "batch_size": self.options.minibatch_size,
            "n_epochs": self.options.epochs,
            "clip_range": self.options.clip_range,
        }

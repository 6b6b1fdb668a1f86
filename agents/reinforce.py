"""REINFORCE with a learned value baseline, through ``env.step`` alone: it knows nothing of the estimator.

Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning" (1992).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from slot_rl.agents.learning_options import RewardOptions
from slot_rl.agents.one_step import OneStepAgent, mean_of, policy_gradient


@dataclass(frozen=True)
class ReinforceOptions(RewardOptions):
    """REINFORCE through env.step alone, with the learned value as its baseline."""


class ReinforceAgent(OneStepAgent):
    """Raises the log-probability of choices that score better than the baseline predicts."""

    name = "reinforce"
    default_options = ReinforceOptions()
    options: ReinforceOptions

    def update(self) -> dict[str, float]:
        """Plays one batch of episodes and takes one policy-gradient step."""
        obs, actions, scores = self._play()
        self.scale.update(scores)
        target = self.scale.standardise(scores)
        values, log_prob, entropy = self.policy.evaluate_actions(obs, actions)
        assert entropy is not None
        gain, value_loss = policy_gradient(log_prob, values.squeeze(-1), target)
        loss = self.options.value_coefficient * value_loss - gain - self.entropy_coefficient * entropy.mean()
        norm = self.optimizer_step(loss)
        return {
            "rollout/ep_rew_mean": mean_of(scores),
            "train/loss": loss.item(),
            "train/value_loss": value_loss.item(),
            "train/entropy": entropy.mean().item(),
            "train/grad_norm": norm,
        }

    def _play(self) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        assert self.env is not None
        rows: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []
        for _ in range(max(1, round(self.options.batch_size / self.n_envs))):
            obs: Any = obs_as_tensor(self._last_obs, self.device)  # type: ignore[arg-type]
            with torch.no_grad():
                actions = self.policy.get_distribution(obs).sample()
            self._last_obs, rewards, dones, _ = self.env.step(actions.numpy())  # type: ignore[assignment]
            if not np.all(dones):
                raise ValueError(f"expected one-step episodes for {self.name}, got {int(np.sum(~dones))} that went on")
            self.steps_played += self.n_envs
            rows.append((obs, actions, torch.as_tensor(rewards)))
        obs = {name: torch.cat([row[0][name] for row in rows]) for name in rows[0][0]}
        return obs, torch.cat([row[1] for row in rows]), torch.cat([row[2] for row in rows])

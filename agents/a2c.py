"""Stable-Baselines3's A2C with the shared policy, set up for one-step episodes.

With one-step episodes nothing is bootstrapped: A2C is REINFORCE with a learned baseline and one gradient step a batch.
It is what others report under this name, and a second implementation to check ``reinforce`` against.

Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning" (2016).
"""

from dataclasses import dataclass
from typing import Any

from stable_baselines3 import A2C

from slot_rl.agents.learning_options import RewardOptions
from slot_rl.agents.on_policy import OnPolicyAgent


@dataclass(frozen=True)
class A2COptions(RewardOptions):
    """Stable-Baselines3's A2C with the shared policy.

    Attributes:
        normalise_advantage: Whether each batch's advantages are standardised, as those of reinforce and PPO are.
    """

    max_grad_norm: float = 0.5
    normalise_advantage: bool = True


class A2CAgent(OnPolicyAgent, A2C):  # type: ignore[misc]
    """A2C on the environment's rewards."""

    name = "a2c"
    default_options = A2COptions()
    options: A2COptions

    def algorithm_arguments(self) -> dict[str, Any]:
        """Returns Adam instead of RMSprop, as for every agent, and whether advantages are standardised."""
        return {"use_rms_prop": False, "normalize_advantage": self.options.normalise_advantage}

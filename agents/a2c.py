"""Stable-Baselines3's A2C with the shared policy, set up for one-step episodes.

Where an episode is one step, nothing is left to bootstrap: A2C is REINFORCE with a learned baseline, one gradient step
a batch. It is what others report under this name, and a second implementation for ``reinforce`` to agree with.

Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning" (2016).
"""

from typing import Any

from stable_baselines3 import A2C

from slot_rl.agents.on_policy import OnPolicyAgent
from slot_rl.agents.options import A2COptions


class A2CAgent(OnPolicyAgent, A2C):
    """A2C on the environment's rewards."""

    name = "a2c"
    options_type = A2COptions
    options: A2COptions

    def algorithm_arguments(self) -> dict[str, Any]:
        """Returns Adam in RMSprop's place, as every agent has, and what becomes of the advantages."""
        return {"use_rms_prop": False, "normalize_advantage": self.options.normalise_advantage}

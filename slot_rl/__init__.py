"""slot_rl: policies that name a high-scoring configuration of a frozen estimator in one forward pass.

Importing the package registers its environments with Gymnasium and nothing more: torch, Stable-Baselines3 and wandb
load where they are used.
"""

from slot_rl.envs.registration import register_envs

__version__ = "0.1.0"

register_envs()

"""Options with which every agent that learns makes an update in milliseconds, or keeps more of a state."""

from typing import Any

TINY: dict[str, dict[str, Any]] = {
    "policy": {"width": 8, "hidden": 16, "rounds": 1},
    "learned_critic": {"actor_steps": 1, "actor_batch": 8, "fit_steps": 4, "fewest_steps": 2},
    "ppo": {"minibatch_size": 16},
    "maskable_ppo": {"minibatch_size": 16},
    "multistart": {"rank_starts": 2},
    "expert_iteration": {"replay_size": 5},
    "aligned": {"aligner_steps": 3},
    "gumbel": {"tau_end": 0.1, "tau_schedule": "linear"},
}
"""By the agent's name, and the sizes of the policy."""

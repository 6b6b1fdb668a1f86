"""Environments around a problem, as gymnasium Env, gymnasium VectorEnv and Stable-Baselines3 VecEnv.

In one step an answer names an item for every slot; in the sequential forms a step fills one slot.

The classes load on first use, so that importing the package stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slot_rl.envs.mask_in_observation import MaskInObservation
    from slot_rl.envs.sequential import SequentialEnv
    from slot_rl.envs.sequential_vec import SequentialVecEnv
    from slot_rl.envs.sequential_vector import SequentialVectorEnv
    from slot_rl.envs.single import SlotsEnv
    from slot_rl.envs.vec import SlotVecEnv
    from slot_rl.envs.vector import SlotsVectorEnv

__all__ = [
    "MaskInObservation",
    "SequentialEnv",
    "SequentialVecEnv",
    "SequentialVectorEnv",
    "SlotVecEnv",
    "SlotsEnv",
    "SlotsVectorEnv",
]

_HOMES = {
    "MaskInObservation": "mask_in_observation",
    "SequentialEnv": "sequential",
    "SequentialVecEnv": "sequential_vec",
    "SequentialVectorEnv": "sequential_vector",
    "SlotsEnv": "single",
    "SlotsVectorEnv": "vector",
    "SlotVecEnv": "vec",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

"""Environments around a problem, as gymnasium Env, gymnasium VectorEnv and Stable-Baselines3 VecEnv.

The classes load on first use, so that importing the package stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slot_rl.envs.single import SlotsEnv
    from slot_rl.envs.vec import SlotVecEnv
    from slot_rl.envs.vector import SlotsVectorEnv

__all__ = ["SlotVecEnv", "SlotsEnv", "SlotsVectorEnv"]

_HOMES = {"SlotsEnv": "single", "SlotsVectorEnv": "vector", "SlotVecEnv": "vec"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

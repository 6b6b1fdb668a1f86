"""Registers the environments with Gymnasium; imports nothing heavy, since ``import slot_rl`` runs it."""

from gymnasium.envs.registration import register, registry

ENV_IDS = tuple(f"SlotRL/{name}-v0" for name in ("Slots", "SlotsLarge", "PickValue", "Rows", "Own", "Slate", "Slates"))

SEQUENTIAL_IDS = {env_id: env_id.replace("-v", "Sequential-v") for env_id in ENV_IDS}
"""The id under which each problem is filled slot by slot."""


def register_envs() -> None:
    """Registers every id once; a second call changes nothing."""
    for problem, sequential in SEQUENTIAL_IDS.items():
        _register(problem, problem, "single:SlotsEnv", "vector:SlotsVectorEnv")
        _register(sequential, problem, "sequential:SequentialEnv", "sequential_vector:SequentialVectorEnv")


def _register(env_id: str, problem: str, single: str, vector: str) -> None:
    if env_id not in registry:
        register(
            id=env_id,
            entry_point=f"slot_rl.envs.{single}",
            vector_entry_point=f"slot_rl.envs.{vector}",
            kwargs={"problem": problem},
        )

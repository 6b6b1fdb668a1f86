"""Registers the environments with Gymnasium; imports nothing heavy, since ``import slot_rl`` runs it."""

from gymnasium.envs.registration import register, registry

ENV_IDS = tuple(f"SlotRL/{name}-v0" for name in ("Slots", "SlotsLarge", "PickValue", "Rows", "Own", "Slate", "Slates"))


def register_envs() -> None:
    """Registers every id once; a second call changes nothing."""
    for env_id in ENV_IDS:
        if env_id not in registry:
            register(
                id=env_id,
                entry_point="slot_rl.envs.single:SlotsEnv",
                vector_entry_point="slot_rl.envs.vector:SlotsVectorEnv",
                kwargs={"problem": env_id},
            )

"""Floor 1: policy networks, pure torch."""

from slot_rl.policies.pointer import PointerNetwork, PointerSize

__all__ = ["PointerNetwork", "PointerSize"]

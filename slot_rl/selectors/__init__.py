"""Floor 0: ways through a discrete choice, as pure mathematics on tensors."""

from slot_rl.selectors.base import Estimate, Objective, Selector, masked_logits
from slot_rl.selectors.gumbel import Gumbel
from slot_rl.selectors.straight_through import StraightThrough

__all__ = ["Estimate", "Gumbel", "Objective", "Selector", "StraightThrough", "masked_logits"]

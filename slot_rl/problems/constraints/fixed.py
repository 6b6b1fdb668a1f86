"""Slots whose items are given."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from slot_rl.problems.constraints.base import Constraint, Item, ItemSpace, Slot, check_slots


@dataclass(frozen=True)
class Fixed(Constraint):
    """Some slots hold given items.

    Attributes:
        items: The item of each fixed slot; an item is a name, or a number from 0 (its place in a request's list).
    """

    items: Mapping[Slot, Item]

    def check(self, space: ItemSpace) -> None:
        """Refuses unknown slots and items."""
        if not isinstance(self.items, Mapping) or not self.items:
            raise ValueError(f"expected at least one slot with its item in Fixed, got {self.items!r}")
        check_slots(list(self.items), space)
        self._numbers(space)

    def broken(self, space: ItemSpace, choice: Tensor, labels: Tensor | None) -> Tensor:
        """Returns where a fixed slot holds another item."""
        slots, items = zip(*self._numbers(space).items(), strict=True)
        return (choice[..., list(slots)] != torch.tensor(items)).any(dim=-1)

    def mask(self, space: ItemSpace) -> Tensor:
        """Returns the given items alone for the fixed slots."""
        mask = torch.ones_like(space.mask)
        for slot, item in self._numbers(space).items():
            mask[slot] = False
            mask[slot, item] = True
        return mask

    def _numbers(self, space: ItemSpace) -> dict[int, int]:
        return {(number := space.slot(slot)): space.item(number, item) for slot, item in self.items.items()}

    def __str__(self) -> str:
        """Returns the constraint as it is written."""
        return f"Fixed({dict(self.items)})"

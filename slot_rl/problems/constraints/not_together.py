"""Items that must not stand in one configuration."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slot_rl.problems.constraints.base import Constraint, Item, ItemSpace, Slot

Place = Item | tuple[Slot, Item]


@dataclass(frozen=True)
class NotTogether(Constraint):
    """The items of a pair never stand in one configuration.

    Attributes:
        pairs: Pairs of items. An item is a number or name, in whatever slot, or with its slot as ``(slot, item)``.
    """

    pairs: Sequence[tuple[Place, Place]]

    def check(self, space: ItemSpace) -> None:
        """Refuses unknown items, and items of lists that vary."""
        if not self.pairs:
            raise ValueError("expected at least one pair in NotTogether, got none")
        if not space.fixed:
            raise ValueError(f"expected the same items in every request for {self}, those of {space.problem} vary")
        self.apart(space)

    def broken(self, space: ItemSpace, choice: Tensor, labels: Tensor | None) -> Tensor:
        """Returns where both items of a pair stand."""
        broken = torch.zeros(choice.shape[:-1], dtype=torch.bool)
        for pair in self.pairs:
            first, second = (self._places(space, place) for place in pair)
            for slot, item in first:
                for other, partner in second:
                    if slot != other:
                        broken |= (choice[..., slot] == item) & (choice[..., other] == partner)
        return broken

    def apart(self, space: ItemSpace) -> Tensor:
        """Returns the pairs."""
        slots, items = space.mask.shape
        apart = torch.zeros(slots * items, slots * items, dtype=torch.bool)
        for pair in self.pairs:
            if len(pair) != 2:
                raise ValueError(f"expected pairs in NotTogether, got {pair!r}")
            first, second = (self._places(space, place) for place in pair)
            for slot, item in first:
                for other, partner in second:
                    if slot != other:
                        apart[slot * items + item, other * items + partner] = True
                        apart[other * items + partner, slot * items + item] = True
        return apart

    def _places(self, space: ItemSpace, place: Place) -> list[tuple[int, int]]:
        if isinstance(place, tuple | list):
            slot, item = place
            number = space.slot(slot)
            return [(number, space.item(number, item))]
        if not space.same_items:
            raise ValueError(f"expected pairs of (slot, item) in NotTogether for {space.problem}, got {place!r}")
        return [(slot, space.item(slot, place)) for slot in range(space.slots)]

    def __str__(self) -> str:
        """Returns the constraint as it is written."""
        shown = ", ".join(map(str, self.pairs[:3]))
        return f"NotTogether([{shown}{', …' * (len(self.pairs) > 3)}])"

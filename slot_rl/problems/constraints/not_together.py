"""Items that must not stand in one configuration."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slot_rl.problems.constraints.base import Constraint, Item, ItemSpace, Slot

ItemPlace = Item | tuple[Slot, Item]


@dataclass(frozen=True)
class NotTogether(Constraint):
    """The items of a pair never stand in one configuration.

    Attributes:
        pairs: Pairs of items. An item is a number or name, in whatever slot, or with its slot as ``(slot, item)``.
    """

    pairs: Sequence[tuple[ItemPlace, ItemPlace]]

    def check(self, space: ItemSpace) -> None:
        """Refuses unknown items, and items of lists that vary."""
        if not isinstance(self.pairs, Sequence) or not self.pairs:
            raise ValueError(f"expected at least one pair in NotTogether, got {self.pairs!r}")
        for pair in self.pairs:
            if not _is_pair(pair):
                raise ValueError(f"expected pairs in NotTogether, got {pair!r}")
        if not space.fixed:
            raise ValueError(f"expected the same items in every request for {self}, those of {space.problem} vary")
        self.apart(space)

    def broken(self, space: ItemSpace, choice: Tensor, labels: Tensor | None) -> Tensor:
        """Returns where both items of a pair stand."""
        slots, items = space.mask.shape
        place, (one, other) = choice + items * torch.arange(slots), torch.triu_indices(slots, slots, 1)
        factors = torch.tensor([slots * items, 1])
        held = torch.stack([place[..., one], place[..., other]], dim=-1) @ factors
        return torch.isin(held, self.apart(space) @ factors).any(dim=-1)

    def apart(self, space: ItemSpace) -> Tensor:
        """Returns the pairs."""
        items = space.mask.shape[1]
        found = [
            (slot * items + item, other * items + partner)
            for one, two in self.pairs
            for slot, item in self._places(space, one)
            for other, partner in self._places(space, two)
            if slot != other
        ]
        apart = torch.tensor(found, dtype=torch.long).view(-1, 2)
        return torch.cat([apart, apart.flip(1)])

    def _places(self, space: ItemSpace, place: ItemPlace) -> list[tuple[int, int]]:
        if isinstance(place, tuple | list):
            if not _is_pair(place):
                raise ValueError(f"expected an item or (slot, item) in NotTogether, got {place!r}")
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


def _is_pair(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2

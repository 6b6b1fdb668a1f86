"""No item twice."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from slot_rl.problems.constraints.base import Constraint, ItemSpace, Slot, check_slots


@dataclass(frozen=True)
class Distinct(Constraint):
    """No item stands in two slots of a set.

    Attributes:
        slots: The set; all slots if None. For several sets, use the constraint several times.
    """

    slots: Sequence[Slot] | None = None

    def check(self, space: ItemSpace) -> None:
        """Refuses slots whose items have nothing to do with one another, and more slots than items."""
        slots = check_slots(self.slots, space)
        if not space.same_items:
            raise ValueError(f"expected slots with the same items for {self} in {space.problem}, got different ones")
        if not slots:
            raise ValueError(f"expected at least one slot in {self}, got none")
        items = int(space.mask[list(slots)].any(dim=0).sum())
        if len(slots) > items:
            raise ValueError(f"expected at least {len(slots)} items for {self} in {space.problem}, got {items}")

    def broken(self, space: ItemSpace, choice: Tensor, labels: Tensor | None) -> Tensor:
        """Returns where an item stands twice."""
        held = choice[..., list(check_slots(self.slots, space))].sort(dim=-1).values
        return (held[..., 1:] == held[..., :-1]).any(dim=-1)

    def distinct(self, space: ItemSpace) -> tuple[tuple[int, ...], ...]:
        """Returns the set."""
        return (check_slots(self.slots, space),)

    @property
    def numbered(self) -> bool:
        """False: whatever the items are, none comes twice."""
        return False

    def __str__(self) -> str:
        """Returns the constraint as it is written."""
        return "Distinct()" if self.slots is None else f"Distinct({list(self.slots)})"

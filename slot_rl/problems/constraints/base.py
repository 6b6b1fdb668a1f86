"""What a constraint is: data of a problem that says which configurations are allowed.

A constraint speaks of slots, items and attributes by numbers or by names. A problem tells it what these are in an
:class:`ItemSpace`. Most kinds say what they need in terms that can be counted (masks, sets of distinct slots, quotas).
A kind that only says which configurations break it works too, wherever all configurations can be listed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from slot_rl.problems.constraints.counting import Quota

Slot = int | str
Item = int | str


@dataclass(frozen=True, eq=False)
class ListedRows:
    """Allowed configurations.

    Attributes:
        rows: Long tensor of shape ``(rows, slots)``.
        contexts: The context in which each is allowed, ``(rows, numbers)``; None if they are allowed in every context.
    """

    rows: Tensor
    contexts: Tensor | None = None


class Infeasible(ValueError):
    """No configuration, or not this one, is allowed; the message names the constraint, and the request if it can."""


@dataclass(frozen=True)
class ItemSpace:
    """What constraints can refer to.

    Attributes:
        problem: The problem's name, for messages.
        mask: Which items each slot has, ``(slots, items)``.
        slot_names: Names of the slots; None where they have only numbers.
        item_names: Names of each slot's items; None where they have only numbers.
        same_items: Whether an item's number means the same item in every slot.
        fixed: Whether an item's number means the same item in every request.
        attributes: Names of all attributes that the items have.
        labels: Categories of those that constraints speak of; the items of each request carry their numbers.
        fixed_labels: Those numbers where items are fixed, ``(items, attributes)``; None where they vary.
        read_rows: Reads configurations from a file; None where slots and items have no names.
    """

    problem: str
    mask: Tensor
    slot_names: tuple[str, ...] | None = None
    item_names: tuple[tuple[str, ...], ...] | None = None
    same_items: bool = True
    fixed: bool = True
    attributes: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fixed_labels: Tensor | None = None
    read_rows: Callable[[Path], "ListedRows"] | None = None

    @property
    def slots(self) -> int:
        """Slots of a configuration."""
        return len(self.mask)

    def slot(self, name: Slot) -> int:
        """Returns a slot's number; raises ValueError if there is no such slot."""
        known = self.slot_names or ()
        if isinstance(name, str) and name in known:
            return known.index(name)
        number = _number(name)
        if number is None or not 0 <= number < self.slots:
            said = f"{', '.join(known)}, or " if known else ""
            raise ValueError(f"expected a slot of {self.problem} ({said}0 to {self.slots - 1}), got {name!r}")
        return number

    def item(self, slot: int, name: Item) -> int:
        """Returns an item's number in a slot; raises ValueError if the slot has no such item."""
        known = None if self.item_names is None else self.item_names[slot]
        if known is not None and str(name) in known:
            return known.index(str(name))
        number, count = _number(name), int(self.mask[slot].sum())
        if number is None or not 0 <= number < count or (known is not None and isinstance(name, str)):
            said = f"0 to {count - 1}" if known is None else f"{', '.join(known[:5])}{', …' * (count > 5)}"
            raise ValueError(f"expected an item of slot {slot} of {self.problem} ({said}), got {name!r}")
        return number


class Constraint(ABC):
    """What configurations must satisfy."""

    def check(self, space: ItemSpace) -> None:  # noqa: B027 (most kinds have nothing to refuse)
        """Raises ValueError if the constraint cannot speak of these slots and items."""

    @abstractmethod
    def broken(self, space: ItemSpace, choice: Tensor, labels: Tensor | None) -> Tensor:
        """Returns which configurations break the constraint.

        Args:
            space: The slots and items.
            choice: Long tensor of shape ``(..., batch, slots)``.
            labels: The items' attributes, ``(batch, items, attributes)``; None if there are none.

        Returns:
            Boolean tensor of shape ``(..., batch)``.
        """

    def listed(self, space: ItemSpace) -> ListedRows | None:
        """Returns the only configurations, or None."""
        return None

    def mask(self, space: ItemSpace) -> Tensor | None:
        """Returns the only items that slots may hold, ``(slots, items)``, or None.

        A kind that overrides one of the methods from here on says by them all that it demands.
        """
        return None

    def distinct(self, space: ItemSpace) -> tuple[tuple[int, ...], ...]:
        """Returns the sets of slots that must hold different items."""
        return ()

    def quota(self, space: ItemSpace) -> "QuotaOf | None":
        """Returns the quota that must be kept, or None."""
        return None

    def apart(self, space: ItemSpace) -> Tensor | None:
        """Returns which items exclude each other, or None.

        A row is a pair of places, ``slot * items + item`` of different slots, and stands in both orders: a long tensor
        of shape ``(pairs, 2)``.
        """
        return None

    @property
    def attribute(self) -> str | None:
        """The name of the items' attribute that the constraint speaks of, or None."""
        return None

    @property
    def numbered(self) -> bool:
        """Whether the constraint speaks of single items, which must be the same in every request."""
        return True

    def groups_of(self, items: int) -> Sequence[object] | None:
        """Returns the group of each of so many items, if the constraint says them one by one; otherwise None."""
        return None

    def by_attribute(self, name: str) -> "Constraint":
        """Returns the constraint that speaks of its groups by an attribute's name."""
        return self

    @property
    def countable(self) -> bool:
        """Whether the four methods above say all that the constraint demands."""
        kind = type(self)
        return any(
            getattr(kind, name) is not getattr(Constraint, name) for name in ("mask", "distinct", "quota", "apart")
        )


@dataclass(frozen=True)
class QuotaOf:
    """A quota in terms of a problem's attributes.

    Attributes:
        source: Names what groups the items: quotas of one source are one quota with several bounds.
        quota: The bounds, and the groups where they are the same for every request.
        column: Which of the items' labels are the groups; None where the groups are the same for every request.
        most_of_new: Most slots of each group that is new since the problem was built.
    """

    source: str
    quota: Quota
    column: int | None = None
    most_of_new: int = 0

    def bound(self, labels: Tensor | None) -> Quota:
        """Returns the quota for requests whose items have these labels, ``(batch, items, attributes)``."""
        if self.column is None:
            return self.quota
        if labels is None:
            raise ValueError(f"expected an observation with labels for the quota of {self.source}, got one without")
        group, least, most = labels[:, :, self.column].unsqueeze(1), self.quota.least, self.quota.most
        new = int(group.max()) + 1 - len(most)
        if new > 0:
            least = torch.cat([least, least.new_zeros(new)])
            most = torch.cat([most, most.new_full((new,), self.most_of_new)])
        return Quota(group, least, most)

    def joined(self, other: "QuotaOf") -> "QuotaOf":
        """Returns one quota with the bounds of both, which have the same source."""
        least = torch.maximum(self.quota.least, other.quota.least)
        most = torch.minimum(self.quota.most, other.quota.most)
        most_of_new = min(self.most_of_new, other.most_of_new)
        return QuotaOf(self.source, Quota(self.quota.group, least, most), self.column, most_of_new)


def as_constraints(constraints: Iterable[Constraint]) -> tuple[Constraint, ...]:
    """Returns constraints as a tuple; raises TypeError if something else is given."""
    if not isinstance(constraints, Iterable):
        raise TypeError(f"expected a list of constraints, got {type(constraints).__name__}")
    found = tuple(constraints)
    for each in found:
        if not isinstance(each, Constraint):
            raise TypeError(f"expected constraints, got {type(each).__name__}")
    return found


def check_slots(names: Sequence[Slot] | None, space: ItemSpace) -> tuple[int, ...]:
    """Returns different slots' numbers, all of them for None.

    Raises:
        ValueError: If it is no list, or a slot is unknown or named twice.
    """
    if isinstance(names, str) or not isinstance(names, Sequence | None):
        raise ValueError(f"expected a list of slots, got {names!r}")
    numbers = tuple(range(space.slots)) if names is None else tuple(space.slot(name) for name in names)
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"expected different slots, got {', '.join(map(str, names or ()))}")
    return numbers


def _number(name: Slot | Item) -> int | None:
    if isinstance(name, bool):
        return None
    if isinstance(name, str):
        return int(name) if name.isascii() and name.isdecimal() else None
    try:
        return int(name.__index__())
    except AttributeError:
        return None

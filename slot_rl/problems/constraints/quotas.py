"""How many slots may, or must, hold items with an attribute: at most 2 of one advertiser, at least 1 new item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slot_rl.problems.constraints.base import Constraint, Infeasible, Item, ItemSpace, QuotaOf
from slot_rl.problems.constraints.counting import Quota
from slot_rl.problems.observation import as_tensor

Of = str | Mapping[str, Sequence[Item]] | Any


@dataclass(frozen=True, eq=False)
class _Bounds(Constraint):
    count: int
    of: Of
    value: str | None = None

    def check(self, space: ItemSpace) -> None:
        """Refuses a negative count, and an attribute that the items do not have."""
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 0:
            raise ValueError(f"expected a whole number from 0 in {self}, got {self.count!r}")
        self._groups(space)

    def broken(self, space: ItemSpace, choice: Tensor, labels: Tensor | None) -> Tensor:
        """Returns where a group has too many or too few slots."""
        bound = self.quota(space).bound(labels)
        wide = bound.group.expand(*torch.broadcast_shapes(bound.group.shape, (1, *space.mask.shape)))
        wide = wide.expand(*choice.shape[:-1], -1, -1)
        group = wide.gather(-1, choice.unsqueeze(-1)).squeeze(-1)
        count = torch.nn.functional.one_hot(group, len(bound.most)).sum(dim=-2)
        return ((count < bound.least) | (count > bound.most)).any(dim=-1)

    def quota(self, space: ItemSpace) -> QuotaOf:
        """Returns the quota."""
        source, group, column, named = self._groups(space)
        groups = len(space.labels[source]) if column is not None else int(group.max()) + 1
        groups = max(groups, named + 1)
        least, most = torch.zeros(groups, dtype=torch.long), torch.full((groups,), space.slots)
        self._limit(least, most, slice(None) if named < 0 else slice(named, named + 1))
        return QuotaOf(source, Quota(group, least, most), column)

    def _limit(self, least: Tensor, most: Tensor, groups: slice) -> None:
        """Sets the bounds of some groups."""
        raise NotImplementedError

    def _groups(self, space: ItemSpace) -> tuple[str, Tensor, int | None, int]:
        """Returns the source, the items' groups, the labels' column, and the group that is meant; -1 for each one."""
        if isinstance(self.of, str):
            if self.of not in space.labels:
                known = ", ".join(map(repr, space.labels)) or "none"
                raise ValueError(f"expected an attribute of the items of {space.problem} ({known}), got {self.of!r}")
            known_values = space.labels[self.of]
            if self.value is not None and str(self.value) not in known_values:
                raise ValueError(f"expected a value of {self.of!r} in {self}, got {self.value!r}")
            named = -1 if self.value is None else known_values.index(str(self.value))
            return self.of, torch.zeros(1, 1, 1, dtype=torch.long), list(space.labels).index(self.of), named
        if self.value is not None:
            raise ValueError(f"expected a value with an attribute's name only, got {self.value!r} in {self}")
        codes = self._of_names(space) if isinstance(self.of, Mapping) else as_tensor("an attribute", self.of)
        shape = tuple(space.mask.shape)
        if tuple(codes.shape) not in (shape, shape[1:]) or codes.is_floating_point():
            raise ValueError(
                f"expected one whole number or truth value for each item, {shape}, in {self}, got {tuple(codes.shape)}"
            )
        if not space.fixed:
            raise ValueError(f"expected an attribute's name in {self}: the items of {space.problem} vary, got numbers")
        if not codes.dim() == 2:
            codes = codes.unsqueeze(0)
        named = 1 if codes.dtype == torch.bool else -1
        codes = codes.long()
        if bool((codes < 0).any()):
            raise ValueError(f"expected groups from 0 in {self}, got {int(codes.min())}")
        return str(codes.tolist()), codes.unsqueeze(0), None, named

    def _of_names(self, space: ItemSpace) -> Tensor:
        mask = torch.zeros_like(space.mask)
        assert isinstance(self.of, Mapping)
        for slot, items in self.of.items():
            number = space.slot(slot)
            for item in [items] if isinstance(items, str | int) else items:
                mask[number, space.item(number, item)] = True
        return mask

    def __str__(self) -> str:
        """Returns the constraint as it is written."""
        of = self.of if isinstance(self.of, str | Mapping) else "…"
        value = "" if self.value is None else f", value={self.value!r}"
        return f"{type(self).__name__}({self.count}, of={of!r}{value})"


@dataclass(frozen=True, eq=False)
class AtMost(_Bounds):
    """At most so many slots hold items of each group of an attribute, or of one group.

    Attributes:
        count: Most slots.
        of: The attribute: the name of a column of the items; each item's group as whole numbers, or which items are
            meant as truth values, ``(items,)`` or ``(slots, items)``; or names of items by slot.
        value: The group that is meant, with a column's name; every group if None.
    """

    def _limit(self, least: Tensor, most: Tensor, groups: slice) -> None:
        most[groups] = min(self.count, int(most.max()))


@dataclass(frozen=True, eq=False)
class AtLeast(_Bounds):
    """At least so many slots hold items of one group of an attribute.

    Attributes:
        count: Fewest slots.
        of: As of :class:`AtMost`.
        value: As of :class:`AtMost`.
    """

    def check(self, space: ItemSpace) -> None:
        """Refuses, too, more than there are slots."""
        super().check(space)
        if self.count > space.slots:
            raise Infeasible(f"expected at most {space.slots} slots in {self}, got {self.count}")

    def _limit(self, least: Tensor, most: Tensor, groups: slice) -> None:
        least[groups] = self.count

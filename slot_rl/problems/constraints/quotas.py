"""How many slots may, or must, hold items with an attribute: at most 2 of one advertiser, at least 1 new item."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slot_rl.estimators.described import canonical
from slot_rl.estimators.encoding import shown_names
from slot_rl.problems.constraints.base import Constraint, Infeasible, Item, ItemSpace, QuotaOf
from slot_rl.problems.constraints.counting import Quota

Of = str | Mapping[str, Sequence[Item]] | Any


@dataclass(frozen=True, eq=False)
class _Bounds(Constraint):
    count: int
    of: Of
    value: object = None

    @property
    def attribute(self) -> str | None:
        """The attribute's name, if it is given by name."""
        return self.of if isinstance(self.of, str) else None

    @property
    def numbered(self) -> bool:
        """Whether the groups are given item by item."""
        return self.attribute is None

    def groups_of(self, items: int) -> Sequence[object] | None:
        """Returns the groups, if there is a whole number, a name or a truth value for each of the items."""
        if isinstance(self.of, str | Mapping) or self.value is not None:
            return None
        groups = _numbers(self.of)
        return groups.tolist() if groups.shape == (items,) and not groups.is_floating_point() else None

    def by_attribute(self, name: str) -> Constraint:
        """Returns the quota by an attribute's name; of truth values, the items that are meant."""
        return replace(self, of=name, value=str(True) if _numbers(self.of).dtype == torch.bool else None)

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
        most_of_new = int(most.min()) if named < 0 else space.slots
        return QuotaOf(source, Quota(group, least, most), column, most_of_new)

    def _limit(self, least: Tensor, most: Tensor, groups: slice) -> None:
        """Sets the bounds of some groups."""
        raise NotImplementedError

    def _groups(self, space: ItemSpace) -> tuple[str, Tensor, int | None, int]:
        """Returns the source, the items' groups, the labels' column, and the group that is meant; -1 for each one."""
        return self._by_name(space, self.of) if isinstance(self.of, str) else self._by_item(space)

    def _by_name(self, space: ItemSpace, of: str) -> tuple[str, Tensor, int, int]:
        if of not in space.labels:
            known = ", ".join(map(repr, space.attributes)) or "none"
            raise ValueError(f"expected an attribute of the items of {space.problem} ({known}), got {of!r}")
        known_values = space.labels[of]
        value = None if self.value is None else canonical(str(self.value))
        if value is not None and value not in known_values:
            raise ValueError(f"expected a value of {of!r} ({shown_names(known_values)}), got {self.value!r}")
        named = -1 if value is None else known_values.index(value)
        return of, torch.zeros(1, 1, 1, dtype=torch.long), list(space.labels).index(of), named

    def _by_item(self, space: ItemSpace) -> tuple[str, Tensor, None, int]:
        if self.value is not None:
            raise ValueError(f"expected a value with an attribute's name only, got {self.value!r} in {self}")
        codes = self._of_names(space) if isinstance(self.of, Mapping) else _numbers(self.of)
        shape = tuple(space.mask.shape)
        if tuple(codes.shape) not in (shape, shape[1:]) or codes.is_floating_point():
            raise ValueError(
                f"expected an attribute's name, or one whole number or truth value for each item, {shape}, in {self}, "
                f"got {codes.dtype} {tuple(codes.shape)}"
            )
        if not space.fixed:
            raise ValueError(f"expected an attribute's name in {self}: the items of {space.problem} vary, got numbers")
        if codes.dim() == 1:
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
            for item in [items] if isinstance(items, str) or not isinstance(items, Iterable) else items:
                mask[number, space.item(number, item)] = True
        if not bool(mask.any()):
            raise ValueError(f"expected at least one item in {self}, got none")
        return mask

    def __str__(self) -> str:
        """Returns the constraint as it is written."""
        of = repr(self.of) if isinstance(self.of, str | Mapping) else "…"
        value = "" if self.value is None else f", value={self.value!r}"
        return f"{type(self).__name__}({self.count}, of={of}{value})"


def _numbers(groups: Any) -> Tensor:
    """Returns groups as whole numbers or truth values; names are numbered in order."""
    if isinstance(groups, Tensor):
        return groups
    try:
        values = np.asarray(groups)
    except ValueError as error:
        raise ValueError(f"expected as many groups in each row of a quota, got {groups!r}") from error
    if values.dtype.kind not in "biuf":
        values = np.unique(values.astype(str), return_inverse=True)[1].reshape(values.shape)
    return torch.from_numpy(values if values.dtype.kind in "bf" else values.astype(np.int64))


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

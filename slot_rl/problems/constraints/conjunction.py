"""All constraints of a problem together, and the rules that they make of a batch of requests.

Two engines answer exactly which items keep a configuration completable. :class:`CountingRules` needs no list and works
for any number of items. :class:`TableRules` lists every allowed configuration. What neither can answer exactly is
refused when the problem is built.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod

import torch
from torch import Tensor

from slot_rl.problems.constraints.base import Constraint, Infeasible, ItemSpace, ListedRows, QuotaOf, as_constraints
from slot_rl.problems.constraints.counting import MOST_SIDES, CountingRules, Quota
from slot_rl.problems.constraints.given import GivenRules
from slot_rl.problems.constraints.tables import PrefixIndex, TableRules
from slot_rl.problems.observation import Observation
from slot_rl.selectors.rules import OPEN, Rules

MOST_LISTED = 200_000
"""Configurations up to which all of them are listed, where counting does not decide."""


@dataclass(frozen=True)
class _Table:
    """Listed configurations; each context that is known has one of the lists. A constraint, by number, lists them."""

    index: PrefixIndex
    contexts: Tensor | None
    list_of: Tensor
    constraint: int

    def lists(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Returns the number of each request's list, and whether it has one."""
        if self.contexts is None:
            return torch.zeros(len(observation), dtype=torch.long), torch.ones(len(observation), dtype=torch.bool)
        same = (context_key(observation).unsqueeze(1) == self.contexts).all(dim=-1)
        return self.list_of[same.int().argmax(dim=1)], same.any(dim=1)


class ConstraintSet:
    """Constraints that hold together.

    Attributes:
        constraints: The constraints.
    """

    def __init__(self, constraints: Sequence[Constraint], space: ItemSpace) -> None:
        """Checks the constraints and chooses the engine.

        Raises:
            TypeError: If something is no constraint.
            ValueError: If a constraint does not fit the problem, no configuration satisfies all, or nothing short of
                an exponential search could tell what can be completed.
        """
        self.constraints, self._space = as_constraints(constraints), space
        for each in self.constraints:
            each.check(space)
        self._distinct = self._sets()
        self._mask = space.mask.clone()
        for each in self.constraints:
            mask = each.mask(space)
            self._mask &= space.mask if mask is None else mask
        self._apart = self._together()
        self._leave_only_items_alone()
        alone = self._mask.sum(dim=1) == 1
        self._given = torch.where(alone, self._mask.int().argmax(dim=1), OPEN)
        self._quotas = self._joined_quotas()
        self._parts: dict[tuple[int, ...], ConstraintSet] = {}
        found = {number: each.listed(space) for number, each in enumerate(self.constraints)}
        listed = {number: rows for number, rows in found.items() if rows is not None}
        why = self._not_countable(listed)
        self._table = self._tabled(listed, why) if listed or why else None
        if space.fixed and self._table is None:
            self.rules(Observation(mask=space.mask.unsqueeze(0), labels=self._fixed_labels()), None)

    def __str__(self) -> str:
        """Returns the constraints as they are written."""
        return ", ".join(map(str, self.constraints))

    @property
    def rows(self) -> Tensor | None:
        """Every configuration that some request may have, ``(rows, slots)``; None where they are not listed."""
        return None if self._table is None else self._table.index.rows

    @property
    def numbered(self) -> bool:
        """Whether a constraint speaks of single items, which must be the same in every request."""
        return any(each.numbered for each in self.constraints)

    def possible(self, observation: Observation, mask: Tensor | None) -> Tensor:
        """Returns which requests :meth:`rules` does not refuse, ``(batch,)``; arguments as there."""
        return self._bound(observation, mask)[1]

    def impossible(self, observation: Observation, mask: Tensor | None) -> dict[int, str]:
        """Returns the requests without an allowed configuration by number, and for each what was expected."""
        return {
            number: self._expected(number, observation, mask)
            for number in (~self.possible(observation, mask)).nonzero().flatten().tolist()
        }

    def rules(self, observation: Observation, mask: Tensor | None) -> Rules:
        """Returns what a batch of requests allows.

        Args:
            observation: The requests.
            mask: What they allow by themselves, padding left out, broadcastable to ``(batch, slots, items)``; or None.

        Raises:
            Infeasible: If a request allows no configuration, or too few items to tell; names it and the constraint.
        """
        rules, possible = self._bound(observation, mask)
        if not bool(possible.all()):
            number = int((~possible).int().argmax())
            where = f"request {number} of " if len(possible) > 1 else ""
            what = self._expected(number, observation, mask)
            raise Infeasible(f"expected {what} in {where}{self._space.problem}, got none")
        return rules

    def _bound(self, observation: Observation, mask: Tensor | None) -> tuple[Rules, Tensor]:
        """Returns the rules, and which requests have an allowed configuration."""
        batch = len(observation)
        if self._table is not None:
            given = None if mask is None or mask.dim() == 2 else mask.expand(batch, *self._mask.shape)
            lists, known = self._table.lists(observation)
            listed = TableRules(self._table.index, lists, given)
            return listed, known if given is None else known & listed.allowed_rows().any(dim=1)
        allowed = self._allowed(batch, mask)
        quotas = tuple(each.bound(observation.labels) for each in self._quotas)
        rules = self._counting(allowed, quotas)
        first = int((self._given != OPEN).int().argmin())
        possible = rules.open_items(torch.full(allowed.shape[:2], OPEN), first).any(dim=-1)
        possible &= allowed.any(dim=-1).all(dim=-1)
        if isinstance(rules, GivenRules):
            possible &= rules.possible
        return rules, possible if self._apart is None else possible & self._roomy(allowed)

    def _counting(self, allowed: Tensor, quotas: tuple[Quota, ...]) -> CountingRules | GivenRules:
        if bool((self._given != OPEN).any()) and bool((self._given == OPEN).any()):
            return GivenRules(self._given, allowed, self._distinct, quotas, self._apart)
        return CountingRules(allowed, self._distinct, quotas, self._apart)

    def allows(self, observation: Observation, choice: Tensor) -> Tensor:
        """Returns which choices ``(..., batch, slots)`` satisfy all constraints, ``(..., batch)``; masks do not count.

        It is the same as the rules say, and much cheaper than to fill a choice slot by slot.
        """
        if self._table is None:
            return self.first_broken(observation, choice) < 0
        lists, known = self._table.lists(observation)
        return self._table.index.contains(lists.expand(choice.shape[:-1]), choice) & known

    def first_broken(self, observation: Observation, choice: Tensor) -> Tensor:
        """Returns the place in :attr:`constraints` of the first one that each choice breaks; -1 for none.

        Shapes are those of :meth:`allows`.
        """
        first = torch.full(choice.shape[:-1], -1)
        if self._table is not None:
            missing = ~self.allows(observation, choice)
            if not bool(missing.any()):
                return first
            first[missing] = self._table.constraint
        for number, each in reversed(list(enumerate(self.constraints))):
            first[each.broken(self._space, choice, observation.labels)] = number
        return first

    def _sets(self) -> Tensor:
        """Returns for each slot which set of distinct slots it is in; -1 for none."""
        number = torch.full((self._space.slots,), -1)
        count = 0
        for each in self.constraints:
            for members in each.distinct(self._space):
                slots = torch.tensor(members)
                before = number[slots].unique()
                if bool((before >= 0).any()) and not torch.equal(number == before[0], _among(slots, len(number))):
                    raise ValueError(f"expected sets of slots without a slot in common, got {self}")
                number[slots] = count
                count += 1
        return number

    def _joined_quotas(self) -> list[QuotaOf]:
        joined: dict[str, QuotaOf] = {}
        for each in self.constraints:
            found = each.quota(self._space)
            if found is not None:
                known = joined.get(found.source)
                joined[found.source] = found if known is None else known.joined(found)
        for joint in joined.values():
            if bool((joint.quota.least > joint.quota.most).any()):
                raise Infeasible(f"expected quotas that can be met together for {self._space.problem}, got {self}")
        # The attribute with the fewest groups comes last: its groups become sides.
        return sorted(joined.values(), key=lambda quota: -len(quota.quota.most))

    def _not_countable(self, listed: Collection[int]) -> str:
        """Returns why counting does not decide; empty if it does. Some constraints, by number, list rows."""
        odd = [str(each) for i, each in enumerate(self.constraints) if not each.countable and i not in listed]
        if odd:
            return f"{odd[0]} can only be tried"
        quotas = self._quotas
        if len(quotas) > 2 or (len(quotas) == 2 and len(quotas[-1].quota.most) > MOST_SIDES):
            return f"quotas by {len(quotas)} attributes with many groups depend on one another"
        by_slot = [quota for quota in quotas if quota.quota.group.shape[1] > 1]
        if by_slot and (len(quotas) > 1 or bool((self._distinct >= 0).any())):
            return "quotas by slot and other constraints depend on one another"
        free = self._given == OPEN
        mask, distinct = (self._mask[free], self._distinct[free]) if bool(free.any()) else (self._mask, self._distinct)
        alike = bool((mask == mask[:1]).all()) and len(distinct.unique()) == 1
        if len(quotas) == 2 and not alike:
            return "quotas by two attributes need slots that all allow the same items"
        if self._apart is not None:
            if quotas:
                return "NotTogether and quotas depend on one another"
            # Where everything can be listed, requests' masks may leave few items.
            if prod(self._mask.sum(dim=1).tolist()) <= MOST_LISTED or not bool(self._roomy(self._mask[None]).all()):
                return "NotTogether leaves too few items to say without a search what can be completed"
        kinds = len({(tuple(row.tolist()), int(n)) for row, n in zip(mask, distinct, strict=True)})
        if (quotas or bool((self._distinct >= 0).any())) and kinds > MOST_SIDES:
            fewest = int(self._mask.sum(dim=1).min())
            if quotas or fewest < self._space.slots:
                return f"slots of {kinds} kinds (at most {MOST_SIDES} are counted) depend on one another"
        return ""

    def _tabled(self, listed: Mapping[int, ListedRows], why: str) -> _Table:
        """Lists every configuration that satisfies all constraints."""
        space = self._space
        if not space.fixed:
            raise ValueError(
                f"expected constraints on items that vary by request that counting can decide for {space.problem}, "
                f"got {self}: {why or 'rows can only be listed where items are fixed'}"
            )
        if len(listed) > 1:
            raise ValueError(
                f"expected one table of allowed rows, got {' and '.join(str(self.constraints[i]) for i in listed)}"
            )
        tabled, found = next(iter(listed.items())) if listed else (0, ListedRows(self._every_row(why)))
        rows, place = torch.unique(found.rows, dim=0, return_inverse=True)
        contexts: Tensor | None = None
        of = torch.zeros(len(found.rows), dtype=torch.long)
        if found.contexts is not None:
            contexts, of = torch.unique(found.contexts, dim=0, return_inverse=True)
        lists = torch.zeros(1 if contexts is None else len(contexts), len(rows), dtype=torch.bool)
        lists[of, place] = True
        good = self._satisfying(rows, lists)
        lists = (lists & good)[:, good]
        kept = lists.any(dim=1)
        # Contexts often share a list.
        lists, list_of = torch.unique(lists[kept], dim=0, return_inverse=True)
        index = PrefixIndex(rows[good], lists, space.mask.shape[1])
        return _Table(index, None if contexts is None else contexts[kept], list_of, tabled)

    def _satisfying(self, rows: Tensor, lists: Tensor) -> Tensor:
        """Returns which rows satisfy all constraints; raises Infeasible if none of the lists has one."""
        good = self._mask.gather(1, rows.T).all(dim=0)
        for each in self.constraints:
            good &= ~each.broken(self._space, rows.unsqueeze(1), self._fixed_labels()).squeeze(1)
            if not bool((lists & good).any()):
                raise Infeasible(
                    f"expected a configuration of {self._space.problem} that satisfies {self}, "
                    f"got none left with {each}"
                )
        return good

    def _fixed_labels(self) -> Tensor | None:
        """Returns the labels of one request where they are the same for every one, ``(1, items, attributes)``."""
        labels = self._space.fixed_labels
        return None if labels is None else labels.unsqueeze(0)

    def _every_row(self, why: str) -> Tensor:
        sizes = self._mask.sum(dim=1).tolist()
        if prod(sizes) > MOST_LISTED:
            raise ValueError(
                f"expected constraints that counting can decide, or at most {MOST_LISTED:,} configurations to list, "
                f"for {self._space.problem}, got {self} with {prod(sizes):,}: {why}"
            )
        return torch.cartesian_prod(*(row.nonzero().squeeze(1) for row in self._mask)).view(-1, len(sizes))

    def _together(self) -> Tensor | None:
        """Returns the places that exclude each other, as of :meth:`Constraint.apart`; None if there are none."""
        found = [apart for each in self.constraints if (apart := each.apart(self._space)) is not None]
        return torch.cat(found).unique(dim=0) if found else None

    def _leave_only_items_alone(self) -> None:
        """Takes what excludes a slot's only item from the other slots."""
        if self._apart is not None:
            only = self._mask & (self._mask.sum(dim=1, keepdim=True) == 1)
            self._mask.view(-1)[self._apart[only.flatten()[self._apart[:, 0]], 1]] = False

    def _allowed(self, batch: int, mask: Tensor | None) -> Tensor:
        return (self._mask if mask is None else self._mask & mask).expand(batch, *self._mask.shape)

    def _roomy(self, allowed: Tensor) -> Tensor:
        """Returns for which requests each slot has more items than the other slots can take away, ``(batch,)``."""
        assert self._apart is not None
        slots, items = self._mask.shape
        flat, (one, other) = allowed.flatten(1).long(), self._apart.unbind(dim=1)
        # How many items of each slot an item excludes, and the most that one of a slot's items does.
        place, number = one.unique(return_inverse=True)
        takes = flat.new_zeros(len(flat), len(place) * slots)
        takes.index_add_(1, number * slots + other // items, flat[:, other])
        takes = takes.view(len(flat), len(place), slots) * flat[:, place].unsqueeze(-1)
        rows = (place // items).view(1, -1, 1).expand_as(takes)
        most = flat.new_zeros(len(flat), slots, slots).scatter_reduce_(1, rows, takes, "amax")
        same = (self._distinct.unsqueeze(1) == self._distinct) & (self._distinct >= 0)
        taken = (most + same).masked_fill(torch.eye(slots, dtype=torch.bool), 0).sum(dim=1)
        return (allowed.sum(dim=-1) > taken).all(dim=-1)

    def _expected(self, number: int, observation: Observation, mask: Tensor | None) -> str:
        """Returns what a request does not have: a configuration, with the constraint or the two that leave it nothing.

        All are named if it takes more than two.
        """
        row = slice(number, number + 1)
        own = mask[row] if mask is not None and mask.dim() == 3 and len(mask) > 1 else mask
        count = len(self.constraints)
        for few in (*combinations(range(count), 1), *combinations(range(count), 2)):
            if len(few) < count and not self._leave_something(few, observation[row], own):
                return f"a configuration that satisfies {', '.join(str(self.constraints[i]) for i in few)}"
        allowed = self._allowed(1, own)
        if self._table is None and self._apart is not None and bool(allowed.any(dim=-1).all() & ~self._roomy(allowed)):
            return f"enough items to say what can be completed under {self}"
        return f"a configuration that satisfies {self}"

    def _leave_something(self, few: tuple[int, ...], request: Observation, mask: Tensor | None) -> bool:
        """Whether some of the constraints alone leave a request a configuration; True if they cannot be decided."""
        try:
            if few not in self._parts:
                self._parts[few] = ConstraintSet([self.constraints[i] for i in few], self._space)
            part = self._parts[few]
            return (part._table is None and part._apart is not None) or bool(part.possible(request, mask))
        except Infeasible:
            return False
        except ValueError:
            return True


def context_key(observation: Observation) -> Tensor:
    """Returns what tells requests' contexts apart, ``(batch, numbers)``."""
    parts = [part.double() for part in (observation.context, observation.context_vector) if part is not None]
    return torch.cat(parts, dim=1)


def _among(slots: Tensor, count: int) -> Tensor:
    members = torch.zeros(count, dtype=torch.bool)
    members[slots] = True
    return members

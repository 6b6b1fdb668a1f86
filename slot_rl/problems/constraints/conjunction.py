"""All constraints of a problem together, and the rules that they make of a batch of requests.

Two engines answer exactly which items keep a configuration completable. :class:`CountingRules` needs no list and works
for any number of items. :class:`TableRules` lists every allowed configuration. What neither can answer exactly is
refused when the problem is built.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod

import torch
from torch import Tensor

from slot_rl.problems.constraints.base import Constraint, Infeasible, ItemSpace, ListedRows, QuotaOf
from slot_rl.problems.constraints.counting import MOST_SIDES, CountingRules
from slot_rl.problems.constraints.tables import PrefixIndex, TableRules
from slot_rl.problems.observation import Observation
from slot_rl.selectors.rules import OPEN, Rules

MOST_LISTED = 200_000
"""Configurations up to which all of them are listed, where counting does not decide."""


@dataclass(frozen=True)
class _Table:
    """Listed configurations; each context that is known has one of the lists."""

    index: PrefixIndex
    contexts: Tensor | None
    list_of: Tensor


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
        for each in constraints:
            if not isinstance(each, Constraint):
                raise TypeError(f"expected constraints, got {type(each).__name__}")
            each.check(space)
        self.constraints, self._space = tuple(constraints), space
        self._distinct = self._sets()
        self._mask = space.mask.clone()
        for each in constraints:
            mask = each.mask(space)
            self._mask &= space.mask if mask is None else mask
        self._quotas = self._joined_quotas()
        listed = [(each, found) for each in constraints if (found := each.listed(space)) is not None]
        why = self._not_countable()
        self._table = self._tabled(listed, why) if listed or why else None
        self._apart = None if self._table else self._together()
        if space.fixed and self._table is None:
            labels = None if space.fixed_labels is None else space.fixed_labels.unsqueeze(0)
            self.rules(Observation(mask=space.mask.unsqueeze(0), labels=labels), None)

    def __str__(self) -> str:
        """Returns the constraints as they are written."""
        return ", ".join(map(str, self.constraints))

    @property
    def rows(self) -> Tensor | None:
        """Every configuration that some request may have, ``(rows, slots)``; None where they are not listed."""
        return None if self._table is None else self._table.index.rows

    def rules(self, observation: Observation, mask: Tensor | None) -> Rules:
        """Returns what a batch of requests allows.

        Args:
            observation: The requests.
            mask: What they allow by themselves, padding left out, broadcastable to ``(batch, slots, items)``; or None.

        Raises:
            Infeasible: If a request allows no configuration; names it and the constraint.
        """
        rules, possible = self._bound(observation, mask)
        if not bool(possible.all()):
            self._refuse(~possible, observation, mask)
        return rules

    def _bound(self, observation: Observation, mask: Tensor | None) -> tuple[Rules, Tensor]:
        """Returns the rules, and which requests have an allowed configuration."""
        batch = len(observation)
        if self._table is not None:
            given = None if mask is None or mask.dim() == 2 else mask.expand(batch, *self._mask.shape)
            lists, known = self._lists(self._table, observation)
            listed = TableRules(self._table.index, lists, given)
            return listed, known if given is None else known & listed.allowed_rows().any(dim=1)
        allowed = (self._mask if mask is None else self._mask & mask).expand(batch, *self._mask.shape)
        quotas = tuple(each.bound(observation.labels) for each in self._quotas)
        rules = CountingRules(allowed, self._distinct, quotas, self._apart)
        if self._apart is not None:
            self._refuse_tight(allowed)
        nothing = torch.full(allowed.shape[:2], OPEN)
        return rules, rules.open_items(nothing, 0).any(dim=-1) & allowed.any(dim=-1).all(dim=-1)

    def possible(self, observation: Observation, mask: Tensor | None) -> Tensor:
        """Returns which requests have a configuration that is allowed, ``(batch,)``; arguments as of :meth:`rules`."""
        return self._bound(observation, mask)[1]

    def first_broken(self, observation: Observation, choice: Tensor) -> tuple[Tensor, list[Constraint]]:
        """Returns the number of the first constraint that each choice ``(..., batch, slots)`` breaks; -1 for none.

        The numbers are places in :attr:`constraints`, which are returned too.
        """
        first = torch.full(choice.shape[:-1], -1)
        for number, each in reversed(list(enumerate(self.constraints))):
            first[each.broken(self._space, choice, observation.labels)] = number
        table = self._table
        if table is not None:
            lists, known = self._lists(table, observation)
            missing = ~(table.index.contains(lists.expand(choice.shape[:-1]), choice) & known) & (first < 0)
            tabled = [n for n, each in enumerate(self.constraints) if each.listed(self._space) is not None]
            first[missing] = tabled[0] if tabled else 0
        return first, list(self.constraints)

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

    def _not_countable(self) -> str:
        """Returns why counting does not decide; empty if it does."""
        odd = [str(each) for each in self.constraints if not each.countable and each.listed(self._space) is None]
        if odd:
            return f"{odd[0]} can only be tried"
        quotas = self._quotas
        if len(quotas) > 2 or (len(quotas) == 2 and len(quotas[-1].quota.most) > MOST_SIDES):
            return f"quotas by {len(quotas)} attributes with many groups depend on one another"
        by_slot = [quota for quota in quotas if quota.quota.group.shape[1] > 1]
        if by_slot and (len(quotas) > 1 or bool((self._distinct >= 0).any())):
            return "quotas by slot and other constraints depend on one another"
        alike = bool((self._mask == self._mask[:1]).all()) and len(self._distinct.unique()) == 1
        if len(quotas) == 2 and not alike:
            return "quotas by two attributes need slots that all allow the same items"
        if any(each.apart(self._space) is not None for each in self.constraints):
            if quotas:
                return "NotTogether and quotas depend on one another"
            # Where everything can be listed, requests' masks may leave few items.
            if prod(self._mask.sum(dim=1).tolist()) <= MOST_LISTED or not self._roomy(self._mask.unsqueeze(0)):
                return "NotTogether leaves too few items to say without a search what can be completed"
        kinds = len({(tuple(row.tolist()), int(n)) for row, n in zip(self._mask, self._distinct, strict=True)})
        if (quotas or bool((self._distinct >= 0).any())) and kinds > MOST_SIDES:
            fewest = int(self._mask.sum(dim=1).min())
            if quotas or fewest < self._space.slots:
                return f"slots of {kinds} kinds (at most {MOST_SIDES} are counted) depend on one another"
        return ""

    def _tabled(self, listed: list[tuple[Constraint, ListedRows]], why: str) -> "_Table":
        """Lists every configuration that satisfies all constraints."""
        space = self._space
        if not space.fixed:
            raise ValueError(
                f"expected constraints on items that vary by request that counting can decide for {space.problem}, "
                f"got {self}: {why or 'rows can only be listed where items are fixed'}"
            )
        if listed:
            (first, found), *others = listed
            if others:
                raise ValueError(f"expected one table of allowed rows, got {first} and {others[0][0]}")
        else:
            found = ListedRows(self._every_row(why))
        rows, place = torch.unique(found.rows, dim=0, return_inverse=True)
        contexts: Tensor | None = None
        of = torch.zeros(len(found.rows), dtype=torch.long)
        if found.contexts is not None:
            contexts, of = torch.unique(found.contexts, dim=0, return_inverse=True)
        lists = torch.zeros(1 if contexts is None else len(contexts), len(rows), dtype=torch.bool)
        lists[of, place] = True
        labels = None if space.fixed_labels is None else space.fixed_labels.unsqueeze(0)
        good = self._mask.gather(1, rows.T).all(dim=0)
        for each in self.constraints:
            here = good & ~each.broken(space, rows.unsqueeze(1), labels).squeeze(1)
            if not bool((lists & here).any()):
                raise Infeasible(
                    f"expected a configuration of {space.problem} that satisfies {self}, got none left with {each}"
                )
            good = here
        lists = (lists & good)[:, good]
        kept = lists.any(dim=1)
        # Contexts often share a list.
        lists, list_of = torch.unique(lists[kept], dim=0, return_inverse=True)
        return _Table(
            PrefixIndex(rows[good], lists, space.mask.shape[1]), None if contexts is None else contexts[kept], list_of
        )

    def _every_row(self, why: str) -> Tensor:
        sizes = self._mask.sum(dim=1).tolist()
        if prod(sizes) > MOST_LISTED:
            raise ValueError(
                f"expected constraints that counting can decide, or at most {MOST_LISTED:,} configurations to list, "
                f"for {self._space.problem}, got {self} with {prod(sizes):,}: {why}"
            )
        return torch.cartesian_prod(*(row.nonzero().squeeze(1) for row in self._mask)).view(-1, len(sizes))

    def _lists(self, table: "_Table", observation: Observation) -> tuple[Tensor, Tensor]:
        """Returns the number of each request's list, and whether it has one."""
        if table.contexts is None:
            return torch.zeros(len(observation), dtype=torch.long), torch.ones(len(observation), dtype=torch.bool)
        same = (context_key(observation).unsqueeze(1) == table.contexts).all(dim=-1)
        return table.list_of[same.int().argmax(dim=1)], same.any(dim=1)

    def _together(self) -> Tensor | None:
        found = [apart for each in self.constraints if (apart := each.apart(self._space)) is not None]
        return torch.stack(found).any(dim=0) if found else None

    def _roomy(self, mask: Tensor) -> bool:
        """Whether each slot has more items than the other slots can take away."""
        apart = self._together()
        assert apart is not None
        slots, items = self._mask.shape
        # Most items of slot t that one item of slot s excludes.
        takes = (apart.view(slots, items, slots, items) & mask.any(dim=0)).sum(dim=-1).amax(dim=1)
        same = (self._distinct.unsqueeze(1) == self._distinct) & (self._distinct >= 0)
        takes = (takes + same).masked_fill(torch.eye(slots, dtype=torch.bool), 0).sum(dim=0)
        return bool((mask.sum(dim=-1) > takes).all())

    def _refuse_tight(self, allowed: Tensor) -> None:
        if not self._roomy(allowed):
            number = next(row for row in range(len(allowed)) if not self._roomy(allowed[row : row + 1]))
            raise ValueError(f"expected more items to choose from in request {number} for {self}")

    def _refuse(self, bad: Tensor, observation: Observation, mask: Tensor | None) -> None:
        """Raises Infeasible for the first bad request, with the constraint that leaves nothing."""
        number = int(bad.int().argmax())
        where = f"request {number} of " if len(bad) > 1 else ""
        what = self._culprit(number, observation, mask)
        raise Infeasible(f"expected a configuration that satisfies {what} in {where}{self._space.problem}, got none")

    def _culprit(self, number: int, observation: Observation, mask: Tensor | None) -> str:
        """Returns the constraint, or the two, that leave a request nothing; all if it takes more."""
        row = slice(number, number + 1)
        own = mask[row] if mask is not None and mask.dim() == 3 and len(mask) > 1 else mask
        for few in [*((each,) for each in self.constraints), *combinations(self.constraints, 2)]:
            if len(few) < len(self.constraints) and not self._leave_something(few, observation[row], own):
                return ", ".join(map(str, few))
        return str(self)

    def _leave_something(self, few: Sequence[Constraint], request: Observation, mask: Tensor | None) -> bool:
        """Whether some of the constraints alone leave a request a configuration."""
        if any(each.apart(self._space) is not None for each in few):
            return True
        try:
            ConstraintSet(few, replace(self._space, fixed=False)).rules(request, mask)
        except Infeasible:
            return False
        except ValueError:
            pass  # alone they cannot be counted, and nothing is known
        return True


def context_key(observation: Observation) -> Tensor:
    """Returns what tells requests' contexts apart, ``(batch, numbers)``."""
    parts = [part.double() for part in (observation.context, observation.context_vector) if part is not None]
    return torch.cat(parts, dim=1)


def _among(slots: Tensor, count: int) -> Tensor:
    members = torch.zeros(count, dtype=torch.bool)
    members[slots] = True
    return members

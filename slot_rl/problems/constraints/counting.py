"""Rules that can be completed exactly by counting: distinct items and quotas.

The slots that are still open are completable if there is a flow: from each group of items (between its lower and its
upper bound), through each item that is left (once, where items must be distinct), to the sides that must be filled.
Where slots allow different items, the sides are the kinds of slots. Where all slots allow the same items, they may be
the groups of a second attribute. By Hoffman's circulation theorem (1960) a flow exists if no set of sides is short, so
a few sums over all sets of sides decide, without a search. With all slots alike there are one side and one sum.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import one_hot as rows_of_ones

from slot_rl.selectors.rules import OPEN, Rules

_ANY = -1
"""In place of a slot's number: any slot that is not filled, where all slots are alike."""
MOST_SIDES = 8
"""Kinds of slots, or groups of a second attribute: every set of them is looked at."""


@dataclass(frozen=True)
class Quota:
    """How many slots may hold items of each group of an attribute.

    Attributes:
        group: Each item's group: long tensor that broadcasts to ``(batch, slots, items)``.
        least: Fewest slots of each group, ``(groups,)``, or ``(batch, groups)``.
        most: Most slots of each group, likewise.
    """

    group: Tensor
    least: Tensor
    most: Tensor


class CountingRules(Rules):
    """Distinct items in sets of slots, and quotas by one attribute, or by two where all slots allow the same items."""

    def __init__(self, mask: Tensor, distinct: Tensor, quotas: tuple[Quota, ...], apart: Tensor | None = None) -> None:
        """Counts what a batch of requests has.

        Args:
            mask: Which items each slot allows: boolean tensor ``(batch, slots, items)``.
            distinct: For each slot the number of the set whose slots must hold distinct items, from 0; -1 for none.
            quotas: At most two quotas; of a second one the groups become sides.
            apart: Which items exclude each other: different pairs of places ``slot * items + item``, in both orders,
                ``(pairs, 2)``; there must be so many items that no choice of some slots leaves another slot without
                one.

        Raises:
            ValueError: If there are too many sides.
        """
        batch, slots, items = mask.shape
        self._mask, self._distinct, self._apart = mask, distinct, apart
        self._limited = bool(quotas)
        first = quotas[0] if quotas else _unlimited(slots)
        self._groups = first.most.shape[-1]
        self._least, self._most = _by_request(first.least), _by_request(first.most).clamp_max(slots)
        self._group = first.group.expand(*torch.broadcast_shapes(first.group.shape, (batch, 1, items)))
        self._second = quotas[1] if len(quotas) > 1 else None
        kinds = self._kinds()
        self._alike = max(kinds) == 0 and apart is None
        self._enough = not quotas and self._never_short()
        if self._enough:
            return
        if self._second is None:
            self._sides = max(kinds) + 1
            self._side_of_slot = torch.tensor(kinds)
            self._bits = self._bits_of_kinds()
        else:
            self._sides = self._second.most.shape[-1]
            if max(kinds) > 0:
                raise ValueError("expected slots that all allow the same items for quotas by two attributes")
            second = self._second.group.expand(batch, 1, items)
            self._bits = torch.where(mask[:, :1], 2**second, 0)
        if self._sides > MOST_SIDES:
            raise ValueError(f"expected at most {MOST_SIDES} kinds of slots or groups, got {self._sides}")
        self._sets = torch.arange(2**self._sides)
        self._in_set = self._has_side(self._sets)
        self._left = self._counted()
        kind = (self._group * 2**self._sides + self._bits).expand(batch, -1, items)
        self._codes, numbers = torch.unique(kind, return_inverse=True)
        self._kind = numbers

    def open_items(self, choice: Tensor, slot: int | None = None) -> Tensor:
        """Returns what may stand in each slot; see :meth:`Rules.open_items`."""
        places = torch.arange(choice.shape[-1]) if slot is None else torch.tensor([slot])
        is_open = self._open(choice, places)
        return is_open if slot is None else is_open.squeeze(-2)

    def open_to_unfilled(self, choice: Tensor) -> Tensor:
        """Returns what may stand in the slots that are not filled; once for all slots where they are alike."""
        return self._open(choice, torch.tensor([_ANY])) if self._alike else self.open_items(choice)

    def mode(self, logits: Tensor) -> Tensor:
        """Returns a probable allowed choice; with distinct items alone, that of the highest sum of log-probabilities.

        That is an assignment (Crouse, "On Implementing 2D Rectangular Assignment Algorithms", 2016), exact and several
        times as fast as filling the most confident slot first. Anything else: see :meth:`Rules.mode`.
        """
        if self._apart is not None or self._limited or not bool((self._distinct == 0).all()):
            return super().mode(logits)
        log_p = torch.log_softmax(logits.masked_fill(~self._mask, -torch.inf), dim=-1).detach()
        rows = [linear_sum_assignment(row, maximize=True)[1] for row in log_p.flatten(0, -3).double().numpy()]
        return torch.from_numpy(np.stack(rows)).view(logits.shape[:-1])

    def _open(self, choice: Tensor, places: Tensor) -> Tensor:
        shape = choice.shape
        rows = choice.reshape(-1, *shape[-2:])
        is_open = self._mask[:, places] & ~self._taken(rows, places)
        if not self._enough:
            is_open = is_open & self._completable(rows, places)
        return is_open.view(*shape[:-1], len(places), -1)

    def _taken(self, rows: Tensor, places: Tensor) -> Tensor:
        """Returns which items other slots of the same set hold, or exclude, ``(rows, batch, places, items)``."""
        slots, items = self._mask.shape[-2:]
        held = torch.zeros(*rows.shape, items + 1, dtype=torch.bool)
        held.scatter_(-1, rows.masked_fill(rows == OPEN, items).unsqueeze(-1), True)
        held = held[..., :items]
        taken = torch.zeros(*rows.shape[:-1], len(places), items, dtype=torch.bool)
        for number in self._distinct[places].unique().tolist():
            if number >= 0:
                here = self._distinct[places] == number
                count = held[..., self._distinct == number, :].sum(dim=-2, keepdim=True)
                own = held[..., places[here], :] & (places[here] != _ANY).unsqueeze(-1)
                taken[..., here, :] = count > own.long()
        if self._apart is not None:
            holds = held.flatten(-2).int()
            excluded = torch.zeros_like(holds).index_add_(-1, self._apart[:, 1], holds[..., self._apart[:, 0]])
            taken |= excluded.unflatten(-1, (slots, items))[..., places, :] > 0
        return taken

    def _completable(self, rows: Tensor, places: Tensor) -> Tensor:
        """Returns with which items the other slots can still be filled, ``(rows, batch, places, items)``."""
        filled = rows != OPEN
        held = rows.clamp_min(0)
        others = torch.arange(rows.shape[-1]) != places.unsqueeze(1)
        groups = rows_of_ones(self._of_held(self._group, held), self._groups) * filled.unsqueeze(-1)
        bits = self._of_held(self._bits, held).where(self._distinct >= 0, 0)
        reached = self._reached(bits, torch.arange(rows.shape[-1]))
        count = _sums("ps,lbsg->lbpg", others, groups)
        lost = _sums("ps,lbsg,lbsm->lbpgm", others, groups, reached)
        open_others = others & ~filled.unsqueeze(-2)
        low, high = self._side_bounds(held, filled, others, open_others, places)
        state = _State(
            open_others.sum(dim=-1) - (places == _ANY).long(),
            (self._least - count).clamp_min(0),
            self._most - count,
            self._left.unsqueeze(1) - lost,
            low,
            high,
        )
        kind = self._kind if self._kind.shape[1] == 1 else self._kind[:, places]
        return self._fits(state, places).gather(-1, kind.expand(*rows.shape[:-1], len(places), -1))

    def _fits(self, state: "_State", places: Tensor) -> Tensor:
        """Returns whether the other slots can be filled after an item of each kind, ``(rows, batch, places, kinds)``.

        An item of a kind takes one place of its group, one of its side, and one of those that the group's items fill.
        """
        group, bits = self._codes // 2**self._sides, self._codes % 2**self._sides
        reached = self._reached(bits.unsqueeze(1).expand(-1, len(places)), places).transpose(0, 1)
        single = (self._distinct[places] >= 0).view(-1, 1, 1)
        most = state.most[..., group].unsqueeze(-1) - 1
        left = (state.left[..., group, :] - (reached & single).long()).clamp_min(0)
        low, high = state.low.unsqueeze(-2), state.high.unsqueeze(-2)
        possible = most.squeeze(-1) >= 0
        if self._second is not None:
            here = self._has_side(bits)
            low, high = (low - here).clamp_min(0), high - here
            possible = possible & (high >= 0).all(dim=-1)
        within = self._in_set.T
        needed, space = low @ within, high @ (1 - within)
        total = state.remaining[..., None, None]
        before = torch.minimum(state.most.unsqueeze(-1), state.left)
        upward = before.sum(dim=-2, keepdim=True) - before[..., group, :] + torch.minimum(most, left)
        good = (upward >= needed) & (upward + space >= total)
        if bool((self._least > 0).any()) or self._second is not None:
            least = (state.least[..., group] - 1).clamp_min(0).unsqueeze(-1)
            before = (state.least.unsqueeze(-1) - state.left).clamp_min(0)
            downward = before.sum(dim=-2, keepdim=True) - before[..., group, :] + (least - left).clamp_min(0)
            good &= (downward <= space) & (downward + needed <= total)
        return possible & good.all(dim=-1)

    def _has_side(self, bits: Tensor) -> Tensor:
        """Returns which sides sets ``(sets,)`` have that are given as bits: 1 or 0, ``(sets, sides)``."""
        return ((bits.unsqueeze(1) // 2 ** torch.arange(self._sides)) % 2).long()

    def _side_bounds(
        self, held: Tensor, filled: Tensor, others: Tensor, open_others: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns how many slots each side must and may still take, both ``(rows, batch, places, sides)``."""
        if self._second is None:
            sides = rows_of_ones(self._side_of_slot, self._sides)
            count = _sums("lbps,sh->lbph", open_others, sides) - (places == _ANY).long().unsqueeze(1)
            return count, count
        second = self._of_held(self._second.group.expand(len(held[0]), 1, self._mask.shape[-1]), held)
        taken = rows_of_ones(second, self._sides) * filled.unsqueeze(-1)
        count = _sums("ps,lbsh->lbph", others, taken)
        return (_by_request(self._second.least) - count).clamp_min(0), _by_request(self._second.most) - count

    def _of_held(self, attribute: Tensor, held: Tensor) -> Tensor:
        """Returns an attribute ``(batch, slots or 1, items)`` of held items ``(rows, batch, slots)``."""
        slots, items = self._mask.shape[-2:]
        wide = attribute.expand(len(self._mask), slots, items).expand(len(held), -1, -1, -1)
        return wide.gather(-1, held.unsqueeze(-1)).squeeze(-1)

    def _reached(self, bits: Tensor, slot: Tensor) -> Tensor:
        """Returns for items with side bits ``(..., slots)`` which sets of sides they reach from each slot's own set."""
        if self._second is None:
            own = self._distinct[self._first_slot_of_side()] == self._distinct[slot].unsqueeze(1)
            bits = bits & (own.long() * 2 ** torch.arange(self._sides)).sum(dim=1)
        return (bits.unsqueeze(-1) & self._sets) != 0

    def _first_slot_of_side(self) -> Tensor:
        return torch.stack([(self._side_of_slot == side).long().argmax() for side in range(self._sides)])

    def _kinds(self) -> list[int]:
        """Numbers the kinds of slots: slots of a kind allow the same items and are in the same set."""
        slots = self._mask.shape[1]
        alike = self._group.shape[1] == 1
        kinds: list[int] = []
        firsts: list[int] = []
        for slot in range(slots):
            for kind, other in enumerate(firsts):
                same = self._distinct[slot] == self._distinct[other]
                if bool(same) and torch.equal(self._mask[:, slot], self._mask[:, other]):
                    if alike or torch.equal(self._group[:, slot], self._group[:, other]):
                        kinds.append(kind)
                        break
            else:
                kinds.append(len(firsts))
                firsts.append(slot)
        return kinds

    def _bits_of_kinds(self) -> Tensor:
        """Returns which kinds of slots allow each item, as bits ``(batch, 1, items)``; by slot where groups differ."""
        firsts = self._first_slot_of_side()
        bits = (self._mask[:, firsts].long() * 2 ** torch.arange(self._sides).unsqueeze(-1)).sum(dim=1, keepdim=True)
        if self._group.shape[1] == 1:
            return bits
        # An item number means something else in each slot, so no other kind reaches it.
        return self._mask.long() * 2 ** self._side_of_slot.unsqueeze(-1)

    def _counted(self) -> Tensor:
        """Returns how many slots the items of each group can fill of each set of sides, ``(batch, groups, sets)``."""
        batch, slots, items = self._mask.shape
        left = torch.zeros(batch, self._groups, len(self._sets), dtype=torch.long)
        sets_of_slots = self._distinct.tolist() if self._second is None else self._distinct[:1].tolist()
        for number in dict.fromkeys(sets_of_slots):
            members = [slot for slot, other in enumerate(sets_of_slots) if other == number]
            own = members if self._group.shape[1] > 1 else members[:1]
            for slot in own:
                bits = self._bits[:, slot if self._bits.shape[1] > 1 else 0]
                group = self._group[:, slot if self._group.shape[1] > 1 else 0].expand(batch, items)
                reached = self._reached(bits.unsqueeze(-1), torch.tensor([slot])).squeeze(-2)
                weight = reached.long() if number >= 0 else reached.long() * slots
                left.scatter_add_(1, group.unsqueeze(-1).expand(-1, -1, len(self._sets)), weight)
        return left

    def _never_short(self) -> bool:
        """Returns whether there are so many items that, without a quota, the other slots can always be filled."""
        needed = self._mask.shape[1] if bool((self._distinct >= 0).any()) else 1
        return bool((self._mask.sum(dim=-1) >= needed).all())


@dataclass(frozen=True)
class _State:
    """What is left when some slots are filled, as seen from each place; the place itself counts as filled.

    Attributes:
        remaining: Slots to fill, ``(rows, batch, places)``.
        least: Slots that each group must still fill, ``(rows, batch, places, groups)``.
        most: Slots that each group may still fill, likewise.
        left: Slots of each set of sides that its items can fill, ``(rows, batch, places, groups, sets)``.
        low: Slots that each side must still take, ``(rows, batch, places, sides)``.
        high: Slots that each side may still take, likewise.
    """

    remaining: Tensor
    least: Tensor
    most: Tensor
    left: Tensor
    low: Tensor
    high: Tensor


def _sums(equation: str, *counts: Tensor) -> Tensor:
    """Returns sums of products of small whole numbers; matrix products of floats are several times as fast."""
    return torch.einsum(equation, *(count.float() for count in counts)).long()


def _by_request(bound: Tensor) -> Tensor:
    """Returns a bound of groups in a shape that broadcasts to ``(rows, batch, places, groups)``."""
    return bound.view(-1, 1, bound.shape[-1])


def _unlimited(slots: int) -> Quota:
    return Quota(torch.zeros(1, 1, 1, dtype=torch.long), torch.zeros(1, dtype=torch.long), torch.full((1,), slots))

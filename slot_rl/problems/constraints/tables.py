"""Rules that list every allowed configuration, with a prefix index.

The rows are sorted once. Level s of the index numbers the different beginnings of s items, so that it is known at once
which items continue a beginning: the key of a continuation is the beginning's number and the item.
"""

from functools import cached_property

import torch
from torch import Tensor

from slot_rl.selectors.categorical import one_hot
from slot_rl.selectors.rules import OPEN, Rules

_CELLS = 50_000_000
"""Numbers in memory at a time when rows are compared with partial choices."""


class PrefixIndex:
    """Every allowed configuration, in one of several lists.

    Attributes:
        rows: Different configurations, sorted: long tensor of shape ``(rows, slots)``.
        listed: Which list has which row: boolean tensor of shape ``(lists, rows)``.
        items: Items of the widest slot.
    """

    def __init__(self, rows: Tensor, listed: Tensor, items: int) -> None:
        """Indexes rows.

        Args:
            rows: Different configurations, ``(rows, slots)``.
            listed: Which list has which row, ``(lists, rows)``.
            items: Items of the widest slot.
        """
        self.rows, self.listed, self.items = rows, listed, items
        lists, row = listed.nonzero(as_tuple=True)
        number, self._levels = lists, []
        for slot in range(rows.shape[1]):
            keys, number = torch.unique(number * items + rows[row, slot], return_inverse=True)
            self._levels.append(keys)

    def next_items(self, start: Tensor, choice: Tensor, slot: int) -> Tensor:
        """Returns which items continue a beginning.

        Args:
            start: Each request's list, ``(..., batch)``.
            choice: The configurations, filled before the slot: ``(..., batch, slots)``.
            slot: The slot to fill.

        Returns:
            Boolean tensor of shape ``(..., batch, items)``.
        """
        number = start
        for level in range(slot):
            number, _ = self._step(level, number * self.items + choice[..., level])
        keys = number.unsqueeze(-1) * self.items + torch.arange(self.items)
        return self._step(slot, keys)[1]

    def contains(self, start: Tensor, choice: Tensor) -> Tensor:
        """Returns whether configurations ``(..., slots)`` are in their lists ``(...)``."""
        number, found = start, torch.ones_like(start, dtype=torch.bool)
        for level in range(choice.shape[-1]):
            number, here = self._step(level, number * self.items + choice[..., level])
            found = found & here
        return found

    def _step(self, level: int, keys: Tensor) -> tuple[Tensor, Tensor]:
        known = self._levels[level]
        place = torch.searchsorted(known, keys).clamp_max(len(known) - 1)
        return place, known[place] == keys

    @cached_property
    def row_items(self) -> Tensor:
        """The rows as one-hot numbers, ``(rows, slots * items)``."""
        return one_hot(self.rows, self.items, torch.float32).flatten(1)


class TableRules(Rules):
    """The listed configurations of each request, less those that its mask forbids."""

    def __init__(self, index: PrefixIndex, start: Tensor, mask: Tensor | None) -> None:
        """Looks up the requests.

        Args:
            index: The allowed configurations.
            start: Each request's list, ``(batch,)``.
            mask: What each request allows, ``(batch, slots, items)``; None if everything is allowed.
        """
        self._index, self._start, self._mask = index, start, mask

    def open_items(self, choice: Tensor, slot: int | None = None) -> Tensor:
        """Returns what may stand in each slot; see :meth:`Rules.open_items`."""
        filled = choice != OPEN
        if self._mask is None and slot is not None and torch.equal(filled, _before(slot, filled)):
            return self._index.next_items(self._start.expand(choice.shape[:-1]), choice, slot)
        if bool(filled.all()):
            found = self._swaps(choice)
        else:
            shape = choice.shape
            flat = choice.reshape(-1, *shape[-2:])
            found = torch.stack([self._agreeing(rows) for rows in flat]).view(*shape, -1)
        return found if slot is None else found[..., slot, :]

    @property
    def rows(self) -> Tensor:
        """Every listed configuration, ``(rows, slots)``."""
        return self._index.rows

    def allowed_rows(self) -> Tensor:
        """Returns which of the rows each request allows, ``(batch, rows)``."""
        listed = self._index.listed[self._start]
        if self._mask is not None:
            for slot, items in enumerate(self._index.rows.T):
                listed = listed & self._mask[:, slot].index_select(1, items)
        return listed

    def mode(self, logits: Tensor) -> Tensor:
        """Returns the listed choice with the highest sum of logits, exactly."""
        shape = logits.shape
        flat = logits.reshape(-1, *shape[-3:])
        rows, together = self._index.rows, max(1, _CELLS // len(self._index.rows))
        best = torch.empty(flat.shape[:2], dtype=torch.long)
        for part in torch.arange(shape[-3]).split(together):
            allowed = TableRules(self._index, self._start[part], None if self._mask is None else self._mask[part])
            forbidden = ~allowed.allowed_rows()
            for number, one in enumerate(flat):
                total = torch.zeros(len(part), len(rows))
                for slot in range(rows.shape[1]):
                    total += torch.log_softmax(one[part, slot], dim=-1).index_select(1, rows[:, slot])
                best[number, part] = total.masked_fill(forbidden, -torch.inf).argmax(dim=1)
        return rows[best].view(*shape[:-1])

    def _swaps(self, choice: Tensor) -> Tensor:
        slots, items = choice.shape[-1], self._index.items
        swapped = choice[..., None, None, :].expand(*choice.shape, items, slots).clone()
        for slot in range(slots):
            swapped[..., slot, :, slot] = torch.arange(items)
        found = self._index.contains(self._start[..., None, None].expand(swapped.shape[:-1]), swapped)
        return found if self._mask is None else found & self._mask

    def _agreeing(self, choice: Tensor) -> Tensor:
        """Returns the items of the rows that agree with each slot's other slots, for choices ``(batch, slots)``."""
        slots, items = choice.shape[-1], self._index.items
        filled = choice != OPEN
        held = one_hot(choice.clamp_min(0), items, torch.float32) * filled.unsqueeze(-1)
        allowed, known = self.allowed_rows(), self._index.row_items
        found = []
        for part in torch.arange(len(choice)).split(max(1, _CELLS // len(known))):
            different = filled[part].sum(dim=1, keepdim=True) - held[part].flatten(1) @ known.T
            agree = (different == 0) & allowed[part]
            all_but_one = (different == 1) & allowed[part]
            here = (agree.float() @ known).unflatten(1, (slots, items)) > 0
            other = (all_but_one.float() @ known).unflatten(1, (slots, items)) > 0
            # A row that differs in one slot differs in the slot where it has another item than the choice.
            found.append(here | (other & filled[part].unsqueeze(-1) & (held[part] == 0)))
        return torch.cat(found)


def _before(slot: int, like: Tensor) -> Tensor:
    return (torch.arange(like.shape[-1]) < slot).expand_as(like)

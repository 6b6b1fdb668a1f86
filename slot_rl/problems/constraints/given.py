"""Rules where some slots' items are given: what is left is a smaller problem of the other slots."""

import torch
from torch import Tensor

from slot_rl.problems.constraints.counting import CountingRules, Quota
from slot_rl.selectors.categorical import one_hot
from slot_rl.selectors.rules import OPEN, Rules


class GivenRules(Rules):
    """Counts for the slots that are free, with what the given items take already taken.

    Attributes:
        possible: Which requests allow the given items together, ``(batch,)``.
    """

    def __init__(
        self,
        given: Tensor,
        mask: Tensor,
        distinct: Tensor,
        quotas: tuple[Quota, ...],
        apart: Tensor | None = None,
    ) -> None:
        """Takes what the given items leave.

        Args:
            given: The slots' items, ``(slots,)``; :data:`OPEN` where none is given, in one slot at least.
            mask: As of :class:`CountingRules`, and so are the others.
            distinct: The sets of slots with distinct items.
            quotas: The quotas.
            apart: What excludes each other; nothing that a given item excludes may be left in the mask.
        """
        self._free = (given == OPEN).nonzero().squeeze(1)
        self._given, self._items = given, mask.shape[2]
        fixed = (given != OPEN).nonzero().squeeze(1)
        self.possible = mask[:, fixed, given[fixed]].all(dim=1)
        left = mask[:, self._free].clone()
        for slot in fixed.tolist():
            same = (distinct == distinct[slot]) & (distinct[slot] >= 0)
            left[:, same[self._free], given[slot]] = False
            self.possible &= int((same & (given == given[slot])).sum()) <= 1
        pairs = [_without(quota, fixed, self._free, given) for quota in quotas]
        for quota in pairs:
            self.possible &= (quota.most >= 0).all(dim=1)
        self._rest = CountingRules(left, distinct[self._free], tuple(pairs), self._among_free(apart))

    def open_items(self, choice: Tensor, slot: int | None = None) -> Tensor:
        """Returns what may stand in each slot; see :meth:`Rules.open_items`."""
        free = choice[..., self._free]
        if slot is not None:
            place = (self._free == slot).nonzero()
            if len(place):
                return self._rest.open_items(free, int(place))
            return self._alone(choice)[..., slot, :]
        return self._alone(choice).index_copy(-2, self._free, self._rest.open_items(free))

    def mode(self, logits: Tensor) -> Tensor:
        """Returns a probable allowed choice: the given items, and the mode of the free slots."""
        choice = self._given.expand(logits.shape[:-1]).clone()
        choice[..., self._free] = self._rest.mode(logits[..., self._free, :])
        return choice

    def _alone(self, choice: Tensor) -> Tensor:
        """Returns the given items as the only ones, ``(..., batch, slots, items)``."""
        rows = one_hot(self._given.clamp_min(0), self._items, torch.float32) > 0
        return rows.expand(*choice.shape, -1).clone()

    def _among_free(self, apart: Tensor | None) -> Tensor | None:
        """Returns the pairs of places in free slots, numbered among these."""
        if apart is None:
            return None
        number = torch.full_like(self._given, OPEN)
        number[self._free] = torch.arange(len(self._free))
        slots = number[apart // self._items]
        kept = (slots != OPEN).all(dim=1)
        return (slots * self._items + apart % self._items)[kept]


def _without(quota: Quota, fixed: Tensor, free: Tensor, given: Tensor) -> Quota:
    """Returns a quota of the free slots: the given items have taken their share."""
    group, by_slot = quota.group, quota.group.shape[1] > 1
    held = torch.stack(
        [group[:, slot if by_slot else 0, item] for slot, item in zip(fixed, given[fixed], strict=True)], 1
    )
    count = torch.nn.functional.one_hot(held, quota.most.shape[-1]).sum(dim=1)
    return Quota(group[:, free] if by_slot else group, (quota.least - count).clamp_min(0), quota.most - count)

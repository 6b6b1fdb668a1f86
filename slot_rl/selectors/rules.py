"""Draws under rules: slots are filled one after another, each with an item that lets the others still be filled.

Without rules, slots are drawn independently from ``softmax(logits)``. With rules, slot s is drawn from the softmax of
its logits over the items that are open to it, given the slots before it. The order is that of the slots, so every
choice has one probability: the product of its slots' conditional probabilities.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from slot_rl.selectors.categorical import draw, log_prob_of, one_hot

OPEN = -1
"""What a choice holds in a slot that is not filled yet."""


class Rules(ABC):
    """What a batch of requests allows; its rows are the requests."""

    @abstractmethod
    def open_items(self, choice: Tensor, slot: int | None = None) -> Tensor:
        """Returns which items may stand in each slot, given what the other slots hold.

        An item is open if the slots that are not filled can still be completed with it. So the items that are open to a
        slot of a complete choice are the swaps that stay allowed.

        Args:
            choice: Long tensor of shape ``(..., batch, slots)``, :data:`OPEN` where a slot is not filled yet. What it
                holds must be completable.
            slot: The slot to ask about; every slot if None.

        Returns:
            Boolean tensor of shape ``(..., batch, slots, items)``, or ``(..., batch, items)`` for one slot.
        """

    def open_to_unfilled(self, choice: Tensor) -> Tensor:
        """Returns what may stand in the slots that are not filled; what it says of filled slots has no meaning.

        Args:
            choice: As of :meth:`open_items`, with at least one slot that is not filled.

        Returns:
            Boolean tensor that broadcasts to ``(..., batch, slots, items)``.
        """
        return self.open_items(choice)

    def allows(self, choice: Tensor) -> Tensor:
        """Returns whether complete choices ``(..., batch, slots)`` are allowed, ``(..., batch)``."""
        allowed = torch.ones(choice.shape[:-1], dtype=torch.bool)
        for slot in range(choice.shape[-1]):
            is_open = self.open_items(_prefix(choice, slot), slot)
            allowed &= is_open.gather(-1, choice[..., slot : slot + 1]).squeeze(-1)
        return allowed

    def draw(self, logits: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Draws slot by slot.

        Args:
            logits: Tensor of shape ``(..., batch, slots, items)``; an item at minus infinity is never drawn.
            generator: Random generator; None is the global one.

        Returns:
            The choice ``(..., batch, slots)``, and the logits on its condition: in the logits' shape, minus infinity
            where an item was not open given the slots before it.
        """
        return self._filled(logits, lambda row: draw(row, generator))

    def _filled(self, logits: Tensor, choose: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        choice = torch.full(logits.shape[:-1], OPEN)
        conditional = torch.empty_like(logits)
        for slot in range(logits.shape[-2]):
            is_open = self.open_items(choice, slot)
            conditional[..., slot, :] = logits[..., slot, :].masked_fill(~is_open, -torch.inf)
            choice[..., slot] = choose(conditional[..., slot, :])
        return choice, conditional

    def conditional(self, logits: Tensor, choice: Tensor) -> Tensor:
        """Returns the logits on the condition of a choice, as :meth:`draw` does; differentiable in the logits."""
        rows = [
            logits[..., slot, :].masked_fill(~self.open_items(_prefix(choice, slot), slot), -torch.inf)
            for slot in range(logits.shape[-2])
        ]
        return torch.stack(rows, dim=-2)

    def mode(self, logits: Tensor) -> Tensor:
        """Returns a probable allowed choice ``(..., batch, slots)``: the most confident slot is filled first.

        In each round the slot that is filled is the one whose best open item has the highest probability among its open
        items.
        """
        return most_confident_first(logits, self)

    def in_order(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Fills the slots in the order of draws, each with its most probable open item; returns as :meth:`draw`."""
        return self._filled(logits, lambda row: row.argmax(dim=-1))

    def answer(self, logits: Tensor) -> Tensor:
        """Returns the more probable of :meth:`mode` and :meth:`in_order`, ``(..., batch, slots)``.

        The logits of an item say nothing of what the slots before it exclude, so the mode can be a choice that is never
        drawn; the order of draws alone is short-sighted.
        """
        mode, (ordered, conditional) = self.mode(logits), self.in_order(logits)
        better = log_prob_of(self.conditional(logits, mode), mode) > log_prob_of(conditional, ordered)
        return torch.where(better.unsqueeze(-1), mode, ordered)

    def repaired(self, choice: Tensor, items: int, generator: torch.Generator | None) -> Tensor:
        """Keeps each slot's item where it is open given the slots before it, and draws another one where it is not."""
        # Far above the noise of a draw: an open item that is wanted is always drawn.
        return self.draw(1e6 * one_hot(choice, items, torch.float32), generator)[0]


def most_confident_first(
    logits: Tensor, rules: Rules | None = None, rethink: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Fills the slots one after another, always the one whose best open item is the most probable.

    Args:
        logits: Masked logits, ``(..., batch, slots, items)``.
        rules: What the requests allow; everything that is not masked if None.
        rethink: Returns new masked logits for a choice that some slots of which are filled; the same logits serve all
            slots if None.

    Returns:
        Long tensor of shape ``(..., batch, slots)``.
    """
    return filled_by_confidence(logits, lambda row, slot: row.argmax(dim=-1), rules, rethink)[0]


def filled_by_confidence(
    logits: Tensor,
    choose: Callable[[Tensor, Tensor], Tensor],
    rules: Rules | None = None,
    rethink: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Fills the slots one after another, always the one whose best open item is the most probable.

    Args:
        logits: Masked logits, ``(..., batch, slots, items)``.
        choose: Returns the items ``(..., batch)`` for logits ``(..., batch, items)`` of the slots ``(..., batch)``.
        rules: As of :func:`most_confident_first`.
        rethink: As of :func:`most_confident_first`.

    Returns:
        The choice ``(..., batch, slots)``, and the logits on its condition: those that each slot was filled by.
    """
    choice = torch.full(logits.shape[:-1], OPEN)
    conditional = torch.zeros_like(logits)
    for filled in range(logits.shape[-2]):
        if filled and rethink is not None:
            logits = rethink(choice)
        allowed = logits if rules is None else logits.masked_fill(~rules.open_to_unfilled(choice), -torch.inf)
        confidence = torch.log_softmax(allowed.detach(), dim=-1).amax(dim=-1)
        slot = confidence.masked_fill(choice != OPEN, -torch.inf).argmax(dim=-1, keepdim=True)
        place = slot.unsqueeze(-1).expand(*slot.shape, logits.shape[-1])
        row = allowed.gather(-2, place)
        conditional = conditional.scatter(-2, place, row)
        choice = choice.scatter(-1, slot, choose(row.squeeze(-2), slot.squeeze(-1)).unsqueeze(-1))
    return choice, conditional


def _prefix(choice: Tensor, slot: int) -> Tensor:
    """Returns a choice whose slots are open from the given one on."""
    filled = torch.arange(choice.shape[-1]) < slot
    return choice.masked_fill(~filled, OPEN)

"""Draws in turn: slots are drawn one after another, and what the others hold changes the logits of those to come.

The next slot is always the one that is decided most clearly, so the order differs between requests. It follows from the
logits and the items so far. So a choice has one probability: the product of its slots' probabilities in its order.

Independent slots cannot agree on which of two equally good pairs of items they mean; slots in turn can. Hoogeboom et
al., "Autoregressive Diffusion Models" (2022), draw in any order.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from slot_rl.selectors.categorical import draw
from slot_rl.selectors.rules import Rules, filled_by_confidence

Rethink = Callable[[Tensor], Tensor]


class InTurn(Rules):
    """Takes the place of the requests' rules, which it keeps, in whatever draws choices or weighs them.

    It has the logits itself. Those that its methods are given tell nothing but the shape, and whether they are those of
    several draws.
    """

    def __init__(self, begin: Callable[[int], tuple[Tensor, Rethink]], rules: Rules | None) -> None:
        """Takes what gives the logits.

        Args:
            begin: Returns, for the number of draws of each request, masked logits ``(draws * batch, slots, items)``
                and what gives them anew for a choice ``(draws * batch, slots)`` some slots of which are filled, as
                often as slots are filled and in that order.
            rules: What the requests allow; everything that is not masked if None.
        """
        self._begin, self._rules = begin, rules
        self._kept: tuple[Tensor, Tensor] | None = None

    def open_items(self, choice: Tensor, slot: int | None = None) -> Tensor:
        """Returns what the requests' rules say; without rules, what is not masked."""
        if self._rules is not None:
            return self._rules.open_items(choice, slot)
        allowed = (self._begin(1)[0] > -torch.inf).expand(*choice.shape, -1)
        return allowed if slot is None else allowed[..., slot, :]

    def draw(self, logits: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Draws as :meth:`Rules.draw` does; :meth:`conditional` of the same choice then costs nothing."""
        choice, conditional = self._filled_for(logits, lambda row, slot: draw(row, generator))
        self._kept = choice, conditional
        return choice, conditional.detach()

    def conditional(self, logits: Tensor, choice: Tensor) -> Tensor:
        """Returns the logits on the condition of a choice, each slot's when it was its turn."""
        if self._kept is not None and choice is self._kept[0]:
            return self._kept[1]
        return self._filled_for(logits, lambda row, slot: choice.gather(-1, slot.unsqueeze(-1)).squeeze(-1))[1]

    def mode(self, logits: Tensor) -> Tensor:
        """Returns the choice ``(..., batch, slots)`` of the most probable open item in each turn."""
        return self.in_order(logits)[0]

    def in_order(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Returns :meth:`mode` and the logits on its condition: its order is that of draws."""
        return self._filled_for(logits, lambda row, slot: row.argmax(dim=-1))

    def answer(self, logits: Tensor) -> Tensor:
        """Returns :meth:`mode`."""
        return self.mode(logits)

    def repaired(self, choice: Tensor, items: int, generator: torch.Generator | None) -> Tensor:
        """Returns what the requests' rules make of a choice; without rules, the choice."""
        return choice if self._rules is None else self._rules.repaired(choice, items, generator)

    def _filled_for(self, logits: Tensor, choose: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        leading, shape = logits.shape[:-3], logits.shape[-3:]
        first, rethink = self._begin(leading.numel())
        grouped = (*leading, *shape)

        def again(choice: Tensor) -> Tensor:
            return rethink(choice.flatten(0, -2)).view(grouped)

        return filled_by_confidence(first.view(grouped), choose, self._rules, again)

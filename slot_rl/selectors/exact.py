"""The exact gradient, by enumeration of every configuration. All other selectors estimate it.

For slot s it is ``J_s Q_s`` with ``Q_s[n] = E[f | slot s = n]``. It costs N^S forwards per row. Under rules it is
``sum_x p(x) f(x) (x_s - p_s)``, where the probability p_s depends on the slots of x before s.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import Draws, Probe, RawEstimate, Selector
from slot_rl.selectors.categorical import one_hot
from slot_rl.selectors.rules import Rules


@dataclass(frozen=True)
class Exact(Selector):
    """Enumeration of all configurations.

    Attributes:
        limit: Maximum number of configurations of a row; more are refused.
        chunk: Maximum number of configurations per call of the objective, but at least one per row.
    """

    name: ClassVar[str] = "exact"

    limit: int = 65_536
    chunk: int = 65_536

    def estimate(self, logits: Tensor, probe: Probe, draws: Draws) -> RawEstimate:
        """Returns ``sum_x p(x) f(x) (x - p)``; the choice is a draw that only provides the score."""
        slots, items = logits.shape[-2:]
        self.cost(slots, items)
        log_p = torch.log_softmax(logits, dim=-1)
        choice, _ = draws.draw(logits)
        weighted, expected = torch.zeros_like(logits), torch.zeros_like(logits)
        drawn_scores: list[Tensor] = []
        for rows in self._blocks(logits, draws.rules):
            vertices = one_hot(rows, items, logits.dtype)
            scores = probe.value(vertices)
            # gather instead of a product: a masked item's log-probability is -inf, and -inf times 0 is NaN.
            given = log_p.expand_as(vertices) if draws.rules is None else _log_p_given(draws.rules, logits, rows)
            p = given.gather(-1, rows.unsqueeze(-1)).squeeze(-1).sum(dim=-1).exp()
            # The score of an impossible configuration has no weight, even if it is infinite.
            weight = (p * scores.to(p.dtype)).masked_fill(p == 0, 0.0)
            weighted += torch.einsum("x...,x...sn->...sn", weight, vertices)
            if draws.rules is not None:
                expected += torch.einsum("x...,x...sn->...sn", weight, given.exp())
            drawn_scores.append(scores.where((rows == choice).all(dim=-1), 0).sum(dim=0))
        if draws.rules is None:
            # For every slot, the sum of p(n) Q(n) over its items is E[f].
            expected = log_p.exp() * weighted.sum(dim=-1, keepdim=True)
        return RawEstimate(weighted - expected, choice, sum(drawn_scores[1:], drawn_scores[0]))

    def _blocks(self, logits: Tensor, rules: Rules | None) -> Iterator[Tensor]:
        """Yields choices ``(block, ..., slots)``, the same for all rows: every one that the rules allow some row."""
        *batch, slots, items = logits.shape
        strides = items ** torch.arange(slots - 1, -1, -1, device=logits.device)
        numbers_of_all = torch.arange(items**slots, device=logits.device)
        for numbers in numbers_of_all.split(max(1, self.chunk // max(1, prod(batch)))):
            rows = numbers.unsqueeze(-1) // strides % items
            block = rows.view(-1, *[1] * len(batch), slots).expand(-1, *batch, -1)
            if rules is not None:
                block = block[rules.allows(block).flatten(1).any(dim=1)]
            if len(block):
                yield block

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """One forward per configuration.

        Raises:
            ValueError: If a row has more than ``limit`` configurations.
        """
        if items**slots > self.limit:
            raise ValueError(f"expected at most {self.limit:,} configurations to enumerate, got {items}^{slots}")
        return items**slots, 0


def _log_p_given(rules: Rules, logits: Tensor, rows: Tensor) -> Tensor:
    """Returns log-probabilities ``(block, ..., slots, items)`` given the slots before in rows ``(block, ..., slots)``.

    They are minus infinity where no item is open, which is so only after an item that is not allowed.
    """
    conditional = rules.conditional(logits.expand(len(rows), *logits.shape), rows)
    return torch.log_softmax(conditional, dim=-1).masked_fill(conditional == -torch.inf, -torch.inf)

"""The exact gradient by enumerating every configuration: what all other selectors estimate.

For slot s it is ``J_s Q_s`` with ``Q_s[n] = E[f | slot s = n]``, at N^S forwards a row.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import Drawn, Probe, Selector, refuse_unless_positive
from slot_rl.selectors.categorical import draw, one_hot


@dataclass(frozen=True)
class Exact(Selector):
    """Joint enumeration.

    Attributes:
        limit: Most configurations of a row; more are refused.
        chunk: Most configurations per call of the objective, beyond one per row.
    """

    name: ClassVar[str] = "exact"

    limit: int = 65_536
    chunk: int = 65_536

    def __post_init__(self) -> None:
        """Refuses limits that are not positive."""
        refuse_unless_positive(limit=self.limit, chunk=self.chunk)

    def estimate(self, logits: Tensor, probe: Probe, generator: torch.Generator | None) -> Drawn:
        """Returns ``sum_x p(x) f(x) (x - p)``; the choice is a draw, for its score alone.

        Raises:
            ValueError: If a row has more than ``limit`` configurations.
        """
        slots, items = logits.shape[-2:]
        if items**slots > self.limit:
            raise ValueError(f"expected at most {self.limit:,} configurations to enumerate, got {items}^{slots}")
        batch = logits.shape[:-2]
        log_p = torch.log_softmax(logits, dim=-1)
        strides = items ** torch.arange(slots - 1, -1, -1)
        choice = draw(logits, generator)
        drawn = (choice * strides).sum(dim=-1)
        weighted, score = torch.zeros_like(logits), None
        for numbers in torch.arange(items**slots).split(max(1, self.chunk // max(1, batch.numel()))):
            rows = (numbers.unsqueeze(-1) // strides % items).view(-1, *[1] * len(batch), slots)
            vertices = one_hot(rows.expand(-1, *batch, -1), items, logits.dtype)
            scores = probe.value(vertices)
            # Gathered, not multiplied: a masked item's log-probability of -inf times 0 would be NaN.
            log_joint = log_p.expand_as(vertices).gather(-1, rows.expand(-1, *batch, -1).unsqueeze(-1))
            weight = log_joint.squeeze(-1).sum(dim=-1).exp() * scores.to(logits.dtype)
            weighted += torch.einsum("x...,x...sn->...sn", weight, vertices)
            here = numbers.view(-1, *[1] * len(batch)) == drawn
            found = torch.where(here, scores, 0.0).sum(dim=0)
            score = found if score is None else score + found
        assert score is not None
        # The sum over a slot's items of p(n) Q(n) is E[f], for every slot.
        expectation = weighted.sum(dim=-1, keepdim=True)
        return Drawn(weighted - log_p.exp() * expectation, choice, score)

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """One forward per configuration."""
        return items**slots, 0

"""Local expectation: one draw, and the score of every single swap of it.

``Q_s[n] = f(z with slot s := n)`` is an unbiased estimate of ``E[f | slot s = n]``, and ``J_s Q_s`` is an unbiased
estimate of the gradient. The expectation over each slot is exact; only the other slots are sampled. The estimate is
exact for one slot, and where the slots do not interact. It needs no slope.

Titsias, Lázaro-Gredilla, "Local Expectation Gradients for Black Box Variational Inference" (2015).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import GivenDraw, Probe, RawEstimate
from slot_rl.selectors.categorical import jacobian_product, one_hot
from slot_rl.selectors.swaps import score_swaps


@dataclass(frozen=True)
class LocalExpectation(GivenDraw):
    """The scores of all single swaps of one draw.

    Attributes:
        chunk: Maximum number of configurations per call of the objective, but at least one per row.
    """

    name: ClassVar[str] = "local_expectation"

    chunk: int = 4_096

    def estimate_at(self, logits: Tensor, choice: Tensor, probe: Probe) -> RawEstimate:
        """Returns ``J_s Q_s`` with the scores of all swaps of the draw as Q."""
        slots, items = logits.shape[-2:]
        chosen, vertex = choice.unsqueeze(-1), one_hot(choice, items, logits.dtype)
        score = probe.value(vertex)
        # The k-th swap of a slot uses the k-th item after the drawn one, so that no row scores its draw twice.
        offset = torch.arange(items, device=logits.device)
        slot = torch.arange(slots, device=logits.device).repeat_interleave(items - 1)
        item = choice.movedim(-1, 0)[slot] + offset[1:].repeat(slots).view(-1, *[1] * (choice.dim() - 1))
        swapped = score_swaps(probe, vertex, slot, item % items, self.chunk)
        unchanged = score.to(logits.dtype).expand(slots, 1, *score.shape)
        by_offset = torch.cat([unchanged, swapped.unflatten(0, (slots, -1))], dim=1).movedim((0, 1), (-2, -1))
        q = by_offset.gather(-1, (offset - chosen) % items)
        p = torch.softmax(logits, dim=-1)
        # The score of an impossible swap has no weight, even if it is infinite.
        return RawEstimate(jacobian_product(p, q.masked_fill(p == 0, 0.0)), choice, score)

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """One forward per swap, and one for the draw."""
        return slots * (items - 1) + 1, 0

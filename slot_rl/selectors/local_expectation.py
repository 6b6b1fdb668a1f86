"""Local expectation: one draw, and the score of every single swap of it.

``Q_s[n] = f(z with slot s := n)`` is an unbiased estimate of ``E[f | slot s = n]``, and ``J_s Q_s`` is an unbiased
estimate of the gradient. The expectation over each slot is exact; only the other slots are sampled. The estimate is
exact for one slot, and where the slots do not interact. It needs no slope.

Under rules the swaps that are allowed have the probabilities w given all other slots, and the estimate is
``sum_n w_n (Q_s[n] - b)(e_n - p_s)``, with the probabilities p_s given the slots before s. It is the mean of REINFORCE
over each slot, and without rules w = p_s makes it the same. The baseline b is the mean score of the batch's other rows.

Titsias, Lázaro-Gredilla, "Local Expectation Gradients for Black Box Variational Inference" (2015).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import GivenDraw, Probe, RawEstimate
from slot_rl.selectors.categorical import jacobian_product, one_hot
from slot_rl.selectors.rules import Rules
from slot_rl.selectors.swaps import mean_of_others, score_swaps, swap_probabilities


@dataclass(frozen=True)
class LocalExpectation(GivenDraw):
    """The scores of all single swaps of one draw.

    Attributes:
        chunk: Maximum number of configurations per call of the objective, but at least one per row.
    """

    name: ClassVar[str] = "local_expectation"

    chunk: int = 4_096

    @property
    def draws_once(self) -> bool:
        """False: it scores swaps as well."""
        return False

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

    def estimate_under(
        self, rules: Rules, logits: Tensor, conditional: Tensor, choice: Tensor, probe: Probe
    ) -> RawEstimate:
        """Returns ``sum_n w_n (Q_s[n] - b)(e_n - p_s)``; only swaps that are allowed are scored."""
        vertex = one_hot(choice, logits.shape[-1], logits.dtype)
        score = probe.value(vertex)
        w = swap_probabilities(rules, logits, choice, self.chunk)
        precise = score.to(logits.dtype)
        q = self._allowed_scores(probe, vertex, choice, precise, (w > 0) & (vertex == 0))
        weighted = w * (q - mean_of_others(precise)[..., None, None])
        p = torch.softmax(conditional, dim=-1)
        return RawEstimate(weighted - p * weighted.sum(dim=-1, keepdim=True), choice, score)

    def _allowed_scores(self, probe: Probe, vertex: Tensor, choice: Tensor, score: Tensor, is_swap: Tensor) -> Tensor:
        """Scores the swaps that are allowed, ``(..., slots, items)``; the choice has its score, others have 0.

        Rows with fewer swaps in a slot than others score their choice again.
        """
        slots, items = vertex.shape[-2:]
        swaps_first = is_swap.long().argsort(dim=-1, descending=True, stable=True)
        item = swaps_first.where(is_swap.gather(-1, swaps_first), choice.unsqueeze(-1))
        most = is_swap.sum(dim=-1).flatten(0, -2).amax(dim=0)
        slot, rank = (torch.arange(items) < most.unsqueeze(-1)).nonzero(as_tuple=True)
        by_rank = score.expand(slots, items, *score.shape).clone()
        by_rank[slot, rank] = score_swaps(probe, vertex, slot, item.movedim((-2, -1), (0, 1))[slot, rank], self.chunk)
        return torch.zeros_like(vertex).scatter(-1, item, by_rank.movedim((0, 1), (-2, -1)))

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """One forward per swap, at most under rules, and one for the draw."""
        return slots * (items - 1) + 1, 0

"""Screened expectation: local expectation for the most important swaps, a corrected first-order value for the others.

One backward pass at the draw ranks the swaps of each slot by ``|p * first-order effect|``. The first m are scored. The
others keep their first-order value ``f(z) + g (e_n - z)``. One of them is drawn in proportion to p and scored; its
error, weighted by the total probability of the unscored items, corrects the others on average. The estimate is unbiased
for every m, and equals local expectation if m covers every item. Under rules swaps have the probabilities, and scores
the baseline, of local expectation.

This method is our own; docs/selectors.md shows with figures when it helps.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import Draws, Probe, RawEstimate, Selector
from slot_rl.selectors.categorical import draw, one_hot
from slot_rl.selectors.swaps import mean_of_others, score_swaps, swap_probabilities


@dataclass(frozen=True)
class ScreenedExpectation(Selector):
    """The highest-ranked swaps of one draw exactly, the others by a corrected first-order value.

    Attributes:
        m: Number of highest-ranked swaps of each slot that are scored.
        chunk: Maximum number of configurations per call of the objective, but at least one per row.
    """

    name: ClassVar[str] = "screened_expectation"

    m: int = 2
    chunk: int = 4_096

    def estimate(self, logits: Tensor, probe: Probe, draws: Draws) -> RawEstimate:
        """Returns ``J_s Q_s``, where Q holds scores, first-order values and one correction per slot."""
        slots, items = logits.shape[-2:]
        choice, conditional = draws.draw(logits)
        chosen = choice.unsqueeze(-1)
        vertex = one_hot(choice, items, logits.dtype)
        score, slope = probe.slope(vertex)
        p = w = torch.softmax(conditional, dim=-1)
        log_w = logits
        if draws.rules is not None:
            w = swap_probabilities(draws.rules, logits, choice, self.chunk)
            log_w = w.log()
        effect = slope - slope.gather(-1, chosen)
        highest = (w * effect).abs().scatter(-1, chosen, -1.0).topk(min(self.m, items - 1), dim=-1).indices
        rest = vertex.scatter(-1, highest, 1.0) == 0
        residual, rest_mass = self._draw_from(log_w, rest, chosen, w, draws.generator)
        item = torch.cat([highest, residual], dim=-1)
        weight = torch.cat([w.gather(-1, highest), rest_mass], dim=-1)
        if draws.rules is not None:
            # A swap that is not allowed has no weight; the choice is scored instead.
            item = item.where(w.gather(-1, item) > 0, chosen)
        # The swaps are the first dimension: first the highest swap of every slot, then the second ones.
        slot = torch.arange(slots, device=logits.device).repeat(item.shape[-1])
        swapped = score_swaps(probe, vertex, slot, item.movedim((-1, -2), (0, 1)).flatten(0, 1), self.chunk)
        swapped = swapped.unflatten(0, (-1, slots)).movedim((0, 1), (-1, -2))
        # All values are relative to f(z), which J cancels: differences of small numbers lose fewer digits.
        error = swapped - score.to(logits.dtype)[..., None, None] - effect.gather(-1, item)
        # The score of an impossible swap has no weight, even if it is infinite.
        weighted = (w * effect).scatter_add(-1, item, (weight * error).masked_fill(weight == 0, 0.0))
        if draws.rules is not None:
            # Here J does not cancel f(z), because w is not p.
            weighted += w * (score - mean_of_others(score)).to(w.dtype)[..., None, None]
        return RawEstimate(weighted - p * weighted.sum(dim=-1, keepdim=True), choice, score)

    def _draw_from(
        self, logits: Tensor, rest: Tensor, chosen: Tensor, p: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Draws one unscored item per slot in proportion to p; returns it and the unscored items' probability."""
        if self.m >= logits.shape[-1] - 1:
            return chosen[..., :0], p[..., :0]
        residual = draw(logits.masked_fill(~rest, -torch.inf), generator).unsqueeze(-1)
        return residual, (p * rest).sum(dim=-1, keepdim=True)

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """One forward and backward at the draw, and a forward per scored swap."""
        scored = items - 1 if self.m >= items - 1 else self.m + 1
        return 1 + slots * scored, 1

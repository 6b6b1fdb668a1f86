"""Screened expectation: local expectation where it matters, a first-order guess corrected by one draw elsewhere.

One backward pass at the draw ranks the swaps of each slot by ``|p * first-order effect|``. The m foremost are scored.
The others keep their first-order value ``f(z) + g (e_n - z)``, and one of them, drawn in proportion to p, is scored to
correct it: its error, weighted by the probability that the unscored items have together, is right in the mean. The
estimate is therefore unbiased for every m, and is local expectation where m covers every item.

An idea of this project; docs/selectors.md says with figures when it pays.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from slot_rl.selectors.base import Drawn, Probe, Selector, refuse_unless_positive
from slot_rl.selectors.categorical import draw, one_hot
from slot_rl.selectors.swaps import score_swaps


@dataclass(frozen=True)
class ScreenedExpectation(Selector):
    """The foremost swaps of one draw exactly, the rest by a corrected first-order guess.

    Attributes:
        m: Swaps of each slot that are scored for certain.
        chunk: Most configurations per call of the objective, beyond one per row.
    """

    name: ClassVar[str] = "screened_expectation"

    m: int = 2
    chunk: int = 4_096

    def __post_init__(self) -> None:
        """Refuses a number of swaps or a chunk that is not positive."""
        refuse_unless_positive(m=self.m, chunk=self.chunk)

    def estimate(self, logits: Tensor, probe: Probe, generator: torch.Generator | None) -> Drawn:
        """Returns ``J_s Q_s`` with scores, first-order values and one correction per slot as Q."""
        slots, items = logits.shape[-2:]
        choice = draw(logits, generator)
        chosen = choice.unsqueeze(-1)
        vertex = one_hot(choice, items, logits.dtype)
        score, slope = probe.slope(vertex)
        p = torch.softmax(logits, dim=-1)
        effect = slope - slope.gather(-1, chosen)
        foremost = (p * effect).abs().scatter(-1, chosen, -1.0).topk(min(self.m, items - 1), dim=-1).indices
        rest = vertex.scatter(-1, foremost, 1.0) == 0
        residual, rest_mass = self._draw_from(logits, rest, chosen, p, generator)
        item = torch.cat([foremost, residual], dim=-1)
        # As (swaps, ...): all slots' first swaps, then all slots' second ones.
        swapped = score_swaps(
            probe,
            vertex,
            torch.arange(slots, device=logits.device).repeat(item.shape[-1]),
            item.movedim((-1, -2), (0, 1)).flatten(0, 1),
            self.chunk,
        )
        swapped = swapped.unflatten(0, (-1, slots)).movedim((0, 1), (-1, -2))
        # Everything relative to f(z), which J removes: small numbers cancel better than large ones.
        error = swapped - score.to(logits.dtype)[..., None, None] - effect.gather(-1, item)
        weight = torch.cat([p.gather(-1, foremost), rest_mass], dim=-1)
        # Whatever the objective says of an impossible swap, be it infinite, has no weight.
        weighted = (p * effect).scatter_add(-1, item, (weight * error).masked_fill(weight == 0, 0.0))
        return Drawn(weighted - p * weighted.sum(dim=-1, keepdim=True), choice, score)

    def _draw_from(
        self, logits: Tensor, rest: Tensor, chosen: Tensor, p: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Draws one unscored item per slot in proportion to p; returns it and the unscored items' probability."""
        if self.m >= logits.shape[-1] - 1:
            nothing = chosen[..., :0]
            return nothing, p[..., :0]
        residual = draw(logits.masked_fill(~rest, -torch.inf), generator).unsqueeze(-1)
        return residual, (p * rest).sum(dim=-1, keepdim=True)

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """One forward and backward at the draw, and a forward per scored swap."""
        scored = items - 1 if self.m >= items - 1 else self.m + 1
        return 1 + slots * scored, 1

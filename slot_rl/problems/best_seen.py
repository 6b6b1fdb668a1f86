"""The best rows that were measured already, as answers to requests."""

from dataclasses import dataclass

import torch
from torch import Tensor

from slot_rl.estimators.seen_rows import SeenRows
from slot_rl.selectors.rules import Rules


@dataclass(frozen=True)
class BestSeen:
    """The best measured row of each request that it allows.

    Attributes:
        choice: Long tensor of shape ``(batch, slots)``.
        score: Its measured score ``(batch,)``, float64; -inf where no allowed row is known.
        censored: Whether the measurements are low ones only.
        error: How wrong estimates of promising rows are.
    """

    choice: Tensor
    score: Tensor
    censored: bool
    error: float

    def choice_or(self, other: Tensor) -> Tensor:
        """Returns the rows ``(batch, slots)``, and another answer where no allowed row is known."""
        return torch.where(self.score.isfinite().unsqueeze(1), self.choice, other)

    def better_than(self, estimated: Tensor) -> Tensor:
        """Returns where measured rows are the better answers, ``(batch,)``.

        The highest of many estimates is rather one that is too high (the winner's curse). So another answer is only
        better where its estimate ``(batch,)`` is above the measured score by the error of such estimates.
        """
        return self.score > estimated - self.error

    @classmethod
    def among(cls, seen: SeenRows, places: Tensor, mask: Tensor | None, rules: Rules | None) -> "BestSeen":
        """Finds each request's best row.

        Args:
            seen: The rows.
            places: Each request's place among the known contexts, ``(batch,)``; their number where it is none of them.
            mask: The items that exist, ``(batch, slots, items)`` or ``(slots, items)``; None for all.
            rules: What constraints allow; None without constraints.
        """
        known = places < len(seen.score)
        rows = torch.where(known, places, 0)
        choice = seen.choice[rows].transpose(0, 1)
        exists = torch.arange(seen.score.shape[1]) < seen.counts[rows].unsqueeze(1)
        score = torch.where(known.unsqueeze(1) & exists, seen.score[rows], -torch.inf)
        allowed = torch.ones(choice.shape[:2], dtype=torch.bool)
        if mask is not None:
            allowed = mask.expand(*choice.shape, -1).gather(-1, choice.unsqueeze(-1)).squeeze(-1).all(dim=-1)
        if rules is not None:
            allowed &= rules.allows(choice)
        score = score.masked_fill(~allowed.T, -torch.inf)
        best = score.argmax(dim=1)
        batch = torch.arange(len(best))
        return cls(choice[best, batch], score[batch, best], seen.censored, seen.error)

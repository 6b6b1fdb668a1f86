"""What was measured already: the best rows of each context of the table that an estimator was fitted to.

They are a competitor: on small tables the best measured row is often better than the row that any estimate prefers.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from slot_rl.estimators.encoding import places_of
from slot_rl.estimators.fitting import TableRows
from slot_rl.estimators.grouping import group_rows

KEPT_ROWS = 16
"""Rows that are kept of each context: constraints that come later may forbid the best of them."""
TOP_SHARE, FEWEST_TOP = 0.05, 3
"""Share and least number of a context's held-out rows that count as promising, by their estimates."""


@dataclass(frozen=True)
class SeenRows:
    """The best measured rows of each known context, the best first.

    Attributes:
        choice: Long tensor of shape ``(contexts, kept, features)``.
        score: Their measured scores ``(contexts, kept)``, float64; 0 where a context has fewer rows.
        counts: How many rows each context has, long, ``(contexts,)``.
        censored: Whether the table holds low scores only, so that its best row says little of what there is.
        error: How wrong estimates of promising rows are; see :func:`error_at_top`.
    """

    choice: Tensor
    score: Tensor
    counts: Tensor
    censored: bool = False
    error: float = 0.0

    def check(self, contexts: int, sizes: tuple[int, ...]) -> None:
        """Raises ValueError unless the rows are of so many contexts, and of features with so many categories."""
        shape = tuple(self.choice.shape)
        fits = len(shape) == 3 and shape[0] == contexts and shape[1] > 0 and shape[2] == len(sizes)
        if not fits or self.score.shape != shape[:2] or self.counts.shape != shape[:1]:
            raise ValueError(
                f"expected measured rows ({contexts}, kept, {len(sizes)}) with scores and counts, got {shape} with "
                f"{tuple(self.score.shape)} and {tuple(self.counts.shape)}"
            )
        if bool(((self.choice < 0) | (self.choice >= torch.tensor(sizes))).any()):
            raise ValueError(f"expected measured rows of categories below {sizes}, got others")

    @classmethod
    def of(
        cls,
        features: Tensor,
        contexts: Tensor | None,
        score: Tensor,
        known: Tensor | None,
        censored: bool = False,
        error: float = 0.0,
    ) -> "SeenRows":
        """Finds the best rows; a row that was measured more than once counts with its mean.

        Args:
            features: The table's rows, long, ``(rows, features)``.
            contexts: Their contexts ``(rows, columns)``; None without contexts.
            score: Their measured scores, ``(rows,)``.
            known: The distinct contexts ``(contexts, columns)``; None without contexts.
            censored: See the class.
            error: See the class.
        """
        place = torch.zeros(len(features), dtype=torch.long)
        if contexts is not None and known is not None:
            place = places_of(contexts, known)
        first, group, count = group_rows(torch.cat([place.unsqueeze(1), features], dim=1).numpy())
        means = np.bincount(group, score.double().numpy()) / count
        order = np.lexsort((-means, place.numpy()[first]))
        contexts_of = place.numpy()[first][order]
        rank = np.arange(len(order)) - np.searchsorted(contexts_of, contexts_of)
        kept = rank < KEPT_ROWS
        where = contexts_of[kept], rank[kept]
        number, most = 1 if known is None else len(known), 1 + int(rank[kept].max(initial=0))
        choice = torch.zeros(number, most, features.shape[1], dtype=torch.long)
        found = torch.zeros(number, most, dtype=torch.float64)
        choice[where] = features[torch.from_numpy(first[order][kept])]
        found[where] = torch.from_numpy(means[order][kept])
        counts = torch.from_numpy(np.bincount(contexts_of[kept], minlength=number))
        return cls(choice, found, counts, censored, error)


def error_at_top(predicted: Tensor, rows: TableRows) -> float:
    """Returns the root of the mean squared error of each context's highest estimates.

    Args:
        predicted: Estimates of rows that were not fitted to, ``(rows,)``.
        rows: The rows, with their measured scores.
    """
    errors = []
    for part in rows.by_context():
        count = min(len(part), max(FEWEST_TOP, round(TOP_SHARE * len(part))))
        top = part[predicted[part].topk(count).indices]
        errors.append((predicted[top] - rows.score[top]).double().square())
    return float(torch.cat(errors).mean().sqrt())

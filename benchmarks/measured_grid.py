"""All combinations of a measured landscape: their true scores, and what an ensemble says of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.landscapes import Landscape
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.fitting import TableRows, read_rows
from slot_rl.estimators.grid_kernel import grid_cells
from slot_rl.estimators.row_scorer import MemberScorer
from slot_rl.problems.truth_table import TruthTable


@dataclass(frozen=True)
class Grid:
    """All combinations of a measured landscape, context by context.

    Attributes:
        rows: The measured rows.
        encoding: Their categories.
        features: All combinations of features, ``(combinations, features)``.
        contexts: The contexts, ``(contexts, columns)``; None without.
        true: Normalised true scores, ``(contexts, combinations)``.
        lows: The lowest score that was measured in each context, ``(contexts, 1)``.
        highs: The highest one.
    """

    rows: TableRows
    encoding: TableEncoding
    features: Tensor
    contexts: Tensor | None
    true: Tensor
    lows: Tensor
    highs: Tensor

    @classmethod
    def read(cls, landscape: Landscape, data: Path) -> "Grid":
        """Reads a landscape."""
        path = data / landscape.file
        rows, encoding = read_rows(path, landscape.score, landscape.contexts)
        truth = TruthTable.read(path, encoding, "worst")
        features = torch.cartesian_prod(*(torch.arange(len(found)) for found in encoding.features.values()))
        contexts = None if rows.contexts is None else torch.unique(rows.contexts, dim=0)
        per_context = [None] if contexts is None else [row.expand(len(features), -1) for row in contexts]
        ends = torch.stack([torch.stack(rows.score[part].aminmax()) for part in rows.by_context()])
        true = torch.stack([truth.normalised(features, context) for context in per_context])
        return cls(rows, encoding, features, contexts, true, *ends.split(1, dim=1))

    def member_scores(self, ensemble: MemberScorer) -> Tensor:
        """Returns members' scores of all combinations ``(members, contexts, combinations)``, normalised as the truth.

        An estimate can lie outside 0 and 1.
        """
        contexts: Sequence[Tensor | None] = [None] if self.contexts is None else list(self.contexts)
        parts = self.features.split(512)
        with torch.no_grad():
            found = [torch.cat([_scores(ensemble, part, context) for part in parts], dim=1) for context in contexts]
        return (torch.stack(found, dim=1) - self.lows) / (self.highs - self.lows)

    def unseen(self, seen: TableRows) -> Tensor:
        """Returns which measured combinations a subset lacks, ``(contexts, combinations)``."""
        measured = torch.zeros(self.true.shape, dtype=torch.bool)
        measured[self._places(self.rows)] = True
        measured[self._places(seen)] = False
        return measured

    def _places(self, rows: TableRows) -> tuple[Tensor, Tensor]:
        contexts = torch.zeros(len(rows), dtype=torch.long)
        if rows.contexts is not None and self.contexts is not None:
            contexts = (rows.contexts.unsqueeze(1) == self.contexts).all(dim=2).long().argmax(dim=1)
        return contexts, grid_cells(rows.features, [len(found) for found in self.encoding.features.values()])


def _scores(ensemble: MemberScorer, features: Tensor, context: Tensor | None) -> Tensor:
    return ensemble.member_scores(features, None if context is None else context.expand(len(features), -1))

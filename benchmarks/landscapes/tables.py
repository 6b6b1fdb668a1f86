"""The measured landscapes, and which of their rows an estimator may see.

The estimator's rows are a small part of each landscape, as they are where measurements are dear; all other rows are
held out. What an agent names is looked up in the whole file.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from slot_rl.estimators.fitting import TableFit, TableRows


@dataclass(frozen=True)
class PerContext:
    """So many random rows of each context; of the whole table where there is no context.

    Attributes:
        rows: How many.
    """

    rows: int

    def pick(self, table: TableRows, generator: torch.Generator) -> Tensor:
        """Returns the numbers of the rows to see, in random order.

        Raises:
            ValueError: If a context has fewer rows.
        """
        order = torch.randperm(len(table), generator=generator)
        contexts = torch.zeros(len(table), 1, dtype=torch.long) if table.contexts is None else table.contexts
        _, places, counts = torch.unique(contexts[order], dim=0, return_inverse=True, return_counts=True)
        if int(counts.min()) < self.rows:
            raise ValueError(f"expected at least {self.rows:,} rows in each context, got {int(counts.min()):,} in one")
        by_context = torch.argsort(places, stable=True)
        rank = torch.arange(len(table)) - (counts.cumsum(0) - counts)[places[by_context]]
        chosen = torch.zeros(len(table), dtype=torch.bool)
        chosen[by_context[rank < self.rows]] = True
        return order[chosen]


@dataclass(frozen=True)
class Share:
    """A random share of all rows.

    Attributes:
        share: The share, between 0 and 1.
    """

    share: float

    def pick(self, table: TableRows, generator: torch.Generator) -> Tensor:
        """Returns the numbers of the rows to see, in random order."""
        return torch.randperm(len(table), generator=generator)[: round(self.share * len(table))]


@dataclass(frozen=True)
class LowerHalf:
    """The half of the rows with the lower scores: whatever is better, the estimator has never seen."""

    def pick(self, table: TableRows, generator: torch.Generator) -> Tensor:
        """Returns the numbers of the rows to see, in random order; of equal scores the earlier rows count as lower."""
        lower = torch.argsort(table.score, stable=True)[: len(table) // 2]
        return lower[torch.randperm(len(lower), generator=generator)]


Subset = PerContext | Share | LowerHalf


@dataclass(frozen=True)
class Landscape:
    """A measured landscape, how much of it the estimator sees, and the agents' budget.

    Attributes:
        name: Its name at the command line.
        file: Its file's name.
        score: Its score column.
        contexts: Its context columns.
        subset: The rows that the estimator sees.
        calls: Configurations that the estimator scores in an agent's training.
        fit: How the estimator is fitted; ``validation`` is its share of the rows seen, ``train`` has no meaning.
    """

    name: str
    file: str
    score: str
    contexts: tuple[str, ...]
    subset: Subset
    calls: int = 100_000
    fit: TableFit = field(default_factory=TableFit)

    @property
    def logged_rows(self) -> int:
        """Rows that agents imitate at most: scoring them, twice for some agents, shall not eat up the budget."""
        return self.calls // 4


# A small network in small batches, since there are few rows; and enough of them to judge by when to stop.
_FEW = TableFit(train=0.7, validation=0.25, batch_size=32, hidden=(32,))
_SUZUKI = ("suzuki.csv", "yield", ("electrophile", "nucleophile"))
_FACTORS = ("tfbind_factors.parquet", "score", ("factor",))

LANDSCAPES = {
    landscape.name: landscape
    for landscape in (
        # Fewer epochs than the default: half an hour for tf-2000 brought an R2 of .57, these minutes bring .53.
        Landscape("tf-2000", *_FACTORS, PerContext(2_000), 400_000, TableFit(epochs=60)),
        Landscape("tf-8000", *_FACTORS, PerContext(8_000), 400_000, TableFit(epochs=30)),
        Landscape("suzuki-30", *_SUZUKI, Share(0.3)),
        Landscape("suzuki-80", *_SUZUKI, Share(0.8)),
        Landscape("gb1-384", "gb1.csv", "fitness", (), PerContext(384), fit=_FEW),
        Landscape("gb1-8000", "gb1.csv", "fitness", (), PerContext(8_000)),
        Landscape("tfbind8", "tfbind8.csv", "score", (), LowerHalf()),
        Landscape("arylation-100", "direct_arylation.csv", "yield", (), PerContext(100), fit=_FEW),
    )
}

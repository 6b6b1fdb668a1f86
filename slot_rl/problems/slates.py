"""Slates of a log: pages for requests with contexts, from items that a file names."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from slot_rl.estimators.columns import UNSEEN, Encoded
from slot_rl.estimators.described import number_text
from slot_rl.estimators.slate_log import Items
from slot_rl.estimators.slate_store import StoredSlates
from slot_rl.problems.candidate_draws import different_rows
from slot_rl.problems.constraints import Infeasible
from slot_rl.problems.observation import Observation
from slot_rl.problems.pages import PageNames, listed_candidates, padded
from slot_rl.problems.slots import SlotProblem
from slot_rl.seeding import generator_from

_TOGETHER = 512
MOST_DRAWN = 200
"""Of more items than this, a request without a list sees so many in training and judging, drawn anew each time."""


@dataclass(frozen=True)
class SlateNames(PageNames):
    """The names in an estimator's files, whose columns the estimator makes vectors of.

    Attributes:
        stored: The estimator.
    """

    # Without a default, it could not follow the fields of the base class that have one.
    stored: StoredSlates = field(kw_only=True)

    def parts(self, rows: Encoded) -> dict[str, Tensor]:
        """Returns the context vectors that the estimator makes of encoded requests."""
        return {"context_vector": self.stored.net.context_vectors(rows)}

    def faults(self, frame: pd.DataFrame, rows: Encoded) -> list[str]:
        """Returns no fault: an unknown category falls back to the other columns."""
        return [""] * len(frame)

    def read_items(self, path: Path) -> tuple[tuple[str, ...], Tensor]:
        """Reads items with the columns of the training's; one that the training knew has its embedding."""
        found = Items.read(path, self.stored.item_columns)
        known = {each: row for row, each in enumerate(self.items, start=1)}
        rows = torch.tensor([known.get(each, 0) for each in found.ids])
        return found.ids, self.stored.net.item_vectors(found.encoded, rows)


class SlateProblem(SlotProblem):
    """A slot problem whose candidates are the items of a file, and whose requests are those of the log.

    Attributes:
        stored: The estimator, with its items and requests.
    """

    def __init__(self, stored: StoredSlates, name: str = "slates") -> None:
        """Builds the problem.

        Raises:
            ValueError: If the estimator has no requests, or a list is shorter than the page.
        """
        if not len(stored.requests.numbers) or not stored.item_ids:
            raise ValueError("expected a slate estimator with items and requests, got one without")
        self.stored, drawn = stored, min(MOST_DRAWN, len(stored.item_ids))
        self._lengths = torch.tensor([drawn if each is None else len(each) for each in stored.lists])
        lists = padded(stored.lists)
        self._lists = torch.nn.functional.pad(lists, (0, int(self._lengths.max()) - lists.shape[1]), value=-1)
        super().__init__(
            stored.net,
            len(stored.slots),
            int(self._lengths.max()),
            fewest_items=int(self._lengths.min()),
            name=name,
            pool=stored.item_vectors(),
            contexts=stored.net.context_vectors(stored.requests),
        )
        assert self.pool is not None
        self.names = SlateNames(stored.item_ids, self.pool, stored.slots, stored.request_columns, stored=stored)
        self._attributes = _attributes(stored)

    def sample(self, batch: int, generator: torch.Generator) -> Observation:
        """Draws requests with replacement; one without a list of its own has random items."""
        return self._requests(torch.randint(len(self._lengths), (batch,), generator=generator), generator)

    def evaluation_observations(self, most: int, generator: torch.Generator) -> Observation:
        """Returns ``most`` different requests, or all."""
        return self._requests(torch.randperm(len(self._lengths), generator=generator)[:most], generator)

    def _try_constraints(self) -> None:
        """Looks at every request of the log."""
        generator = generator_from(0)
        for rows in torch.arange(len(self._lengths)).split(_TOGETHER):
            for number, fault in self.impossible(self._requests(rows, generator)).items():
                raise Infeasible(f"expected {fault} in request {int(rows[number])} of {self.name}, got none")

    def _requests(self, rows: Tensor, generator: torch.Generator) -> Observation:
        known = self._lists[rows]
        if (known[:, 0] < 0).any():
            free = (known[:, 0] < 0).unsqueeze(1)
            drawn = different_rows(
                len(rows), min(MOST_DRAWN, len(self.stored.item_ids)), len(self.stored.item_ids), generator
            )
            known = torch.where(free, torch.nn.functional.pad(drawn, (0, self.items - drawn.shape[1]), value=-1), known)
        assert self.pool is not None and self.requests is not None
        candidates, mask = listed_candidates(self.pool, known, self.slots)
        return Observation(
            candidates,
            mask if self.fewest_items < self.items else None,
            **self.requests[rows].tensors(),
            labels=self.labels.at(known.clamp_min(0)),
        )


def _attributes(stored: StoredSlates) -> dict[str, list[str]]:
    """Returns the columns of the items as text: categories, and numbers."""
    columns = stored.item_columns
    numbers = {name: map(number_text, stored.items.numbers[:, i].tolist()) for i, name in enumerate(columns.means)}
    codes = {
        name: [known[code - 1] if code != UNSEEN else "" for code in stored.items.codes[:, i].tolist()]
        for i, (name, known) in enumerate(columns.categories.items())
    }
    return {name: list(texts) for name, texts in numbers.items()} | codes

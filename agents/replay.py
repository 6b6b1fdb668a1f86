"""The best answers found so far, to be imitated more often than they were searched for.

Where requests are rows of a few contexts, each context keeps its single best row; where every request is new, the
memory is a ring of the latest ones.
"""

import torch
from torch import Tensor

from slot_rl.problems import Observation
from slot_rl.search import Found


class Replay:
    """Requests with the best row found for each.

    Attributes:
        capacity: Most requests that are kept.
    """

    def __init__(self, capacity: int) -> None:
        """Makes an empty memory.

        Raises:
            ValueError: If it could hold nothing.
        """
        if capacity < 1:
            raise ValueError(f"expected a replay of at least one request, got {capacity}")
        self.capacity = capacity
        self._parts: dict[str, Tensor] = {}
        self._choice, self._score = torch.zeros(0, 0, dtype=torch.long), torch.zeros(0)
        self._place: dict[tuple[int, ...], int] = {}
        self._added = 0

    def __len__(self) -> int:
        """Returns how many requests are kept."""
        return min(self._added, self.capacity)

    def add(self, observation: Observation, found: Found) -> None:
        """Keeps the rows that were found; a context that is known already keeps its better row."""
        if not self._parts:
            self._allocate(observation, found)
        place, new = self._places(observation, found.score)
        for name, part in observation.tensors().items():
            self._parts[name][place] = part[new]
        self._choice[place], self._score[place] = found.choice[new], found.score[new]

    def sample(self, batch: int, generator: torch.Generator) -> tuple[Observation, Tensor]:
        """Draws requests with replacement, and the rows to imitate, ``(batch, slots)``.

        Raises:
            ValueError: If nothing was added yet.
        """
        if not len(self):
            raise ValueError("expected a replay with requests, got an empty one")
        rows = torch.randint(len(self), (batch,), generator=generator)
        return Observation(**{name: part[rows] for name, part in self._parts.items()}), self._choice[rows]

    def _allocate(self, observation: Observation, found: Found) -> None:
        for name, part in observation.tensors().items():
            self._parts[name] = part.new_zeros(self.capacity, *part.shape[1:])
        self._choice = found.choice.new_zeros(self.capacity, found.choice.shape[1])
        self._score = torch.full((self.capacity,), -torch.inf)

    def _places(self, observation: Observation, score: Tensor) -> tuple[Tensor, Tensor]:
        """Returns where to write which of the new rows."""
        if observation.candidates is not None or observation.context is None:
            new = torch.arange(len(score))[-self.capacity :]
            place = (self._added + new) % self.capacity
            self._added += len(score)
            return place, new
        best: dict[int, int] = {}
        for row, context in enumerate(observation.context.tolist()):
            where = self._place_of(tuple(context))
            rival = score[best[where]] if where in best else self._score[where]
            if bool(score[row] > rival):
                best[where] = row
        return torch.tensor(list(best), dtype=torch.long), torch.tensor(list(best.values()), dtype=torch.long)

    def _place_of(self, context: tuple[int, ...]) -> int:
        """Returns a context's place; a new one takes the place of the oldest where the memory is full."""
        if context not in self._place:
            if self._added >= self.capacity:
                self._place.pop(next(iter(self._place)))
            place = self._added % self.capacity
            self._score[place] = -torch.inf
            self._place[context] = place
            self._added += 1
        return self._place[context]

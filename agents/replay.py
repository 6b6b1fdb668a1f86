"""A memory of the best answers found so far, so that each is learned from more often than it is searched for.

Where requests are a few contexts, each context keeps its single best row. Where every request is new, the memory keeps
the latest requests.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from slot_rl.problems import Observation
from slot_rl.search import SearchResult

_REQUEST = "request."


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
        self._requests: dict[str, Tensor] = {}
        self._found: dict[str, Tensor] = {}
        self._place: dict[tuple[float, ...], int] = {}
        self._added = 0

    def __len__(self) -> int:
        """Returns how many requests are kept."""
        return min(self._added, self.capacity)

    def add(self, observation: Observation, found: SearchResult) -> None:
        """Keeps what was found; a context that is known already keeps its better row."""
        rows = {name: part for name, part in vars(found).items() if part is not None}
        if not self._requests:
            self._requests = self._empty(observation.tensors())
            self._found = self._empty(rows)
            self._found["score"].fill_(-torch.inf)
        place, new = self._places(observation, found.score)
        for memory, parts in ((self._requests, observation.tensors()), (self._found, rows)):
            for name, part in parts.items():
                memory[name][place] = part[new]

    def sample(self, batch: int, generator: torch.Generator) -> tuple[Observation, SearchResult]:
        """Draws requests with replacement, and what was found for them.

        Raises:
            ValueError: If nothing was added yet.
        """
        if not len(self):
            raise ValueError("expected a replay with requests, got an empty one")
        rows = torch.randint(len(self), (batch,), generator=generator)
        observation = Observation(**{name: part[rows] for name, part in self._requests.items()})
        return observation, SearchResult(**{name: part[rows] for name, part in self._found.items()})

    def state(self) -> tuple[dict[str, Tensor], int]:
        """Returns the requests and rows that are kept, in the order of their places, and how many were added in all."""
        parts = {f"{_REQUEST}{name}": part for name, part in self._requests.items()} | self._found
        return {name: part[: len(self)] for name, part in parts.items()}, self._added

    def restore(self, parts: Mapping[str, Tensor], added: int) -> None:
        """Takes back what :meth:`state` gave."""
        whole = self._empty(parts)
        for name, part in parts.items():
            whole[name][: len(part)] = part
        self._requests = {name.removeprefix(_REQUEST): whole.pop(name) for name in parts if name.startswith(_REQUEST)}
        self._found, self._added = whole, added
        contexts = _contexts(Observation(**self._requests)) if parts else None
        # A full memory is a ring, whose next place holds the oldest.
        places = [place % len(self) for place in range(added, added + len(self))] if contexts else []
        self._place = {contexts[place]: place for place in places} if contexts else {}

    def _empty(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: part.new_zeros(self.capacity, *part.shape[1:]) for name, part in parts.items()}

    def _places(self, observation: Observation, score: Tensor) -> tuple[Tensor, Tensor]:
        """Returns where to write which of the new rows."""
        contexts = _contexts(observation)
        if contexts is None:
            new = torch.arange(len(score))[-self.capacity :]
            place = (self._added + new) % self.capacity
            self._added += len(score)
            return place, new
        best: dict[int, int] = {}
        for row, context in enumerate(contexts):
            where = self._place_of(context)
            if bool(score[row] > self._found["score"][where]):
                # Stored at once: a later row of this batch may evict this context and must not be compared with it.
                best[where], self._found["score"][where] = row, score[row]
        return torch.tensor(list(best), dtype=torch.long), torch.tensor(list(best.values()), dtype=torch.long)

    def _place_of(self, context: tuple[float, ...]) -> int:
        """Returns a context's place; a new one takes the place of the oldest where the memory is full."""
        if context not in self._place:
            if self._added >= self.capacity:
                self._place.pop(next(iter(self._place)))
            place = self._added % self.capacity
            self._found["score"][place] = -torch.inf
            self._place[context] = place
            self._added += 1
        return self._place[context]


def _contexts(observation: Observation) -> list[tuple[float, ...]] | None:
    """Returns what tells the requests apart, where they are contexts alone: their indices and their numbers."""
    parts = observation.tensors()
    if not set(parts) <= {"context", "context_vector"}:
        return None
    rows = zip(*(part.tolist() for part in parts.values()), strict=True)
    return [tuple(number for part in row for number in part) for row in rows]

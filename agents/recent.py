"""A memory of the latest rows, for an agent that learns from each of them many times."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Recent:
    """The latest rows of tensors by name; new ones take the places of the oldest.

    Attributes:
        capacity: Most rows that are kept.
    """

    def __init__(self, capacity: int) -> None:
        """Makes an empty memory.

        Raises:
            ValueError: If it could hold nothing.
        """
        if capacity < 1:
            raise ValueError(f"expected a memory of at least one row, got {capacity}")
        self.capacity = capacity
        self._parts: dict[str, Tensor] = {}
        self._added = 0

    def __len__(self) -> int:
        """Returns how many rows are kept."""
        return min(self._added, self.capacity)

    def add(self, parts: Mapping[str, Tensor]) -> None:
        """Keeps rows, tensors of one length by name; the names are always the same."""
        rows = len(next(iter(parts.values())))
        new = torch.arange(rows)[-self.capacity :]
        place = (self._added + new) % self.capacity
        for name, part in parts.items():
            if name not in self._parts:
                self._parts[name] = part.new_zeros(self.capacity, *part.shape[1:])
            self._parts[name][place] = part[new]
        self._added += rows

    def state(self) -> tuple[dict[str, Tensor], int]:
        """Returns the rows that are kept, in the order of their places, and how many were added in all."""
        return {name: part[: len(self)] for name, part in self._parts.items()}, self._added

    def restore(self, parts: Mapping[str, Tensor], added: int) -> None:
        """Takes back what :meth:`state` gave."""
        self._parts, self._added = {}, 0
        if parts:
            self.add(parts)
        self._added = added

    def rows(self, numbers: Tensor) -> dict[str, Tensor]:
        """Returns the rows with these numbers, from 0 to the length, in no order that means something."""
        return {name: part[numbers] for name, part in self._parts.items()}

    def sample(self, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draws rows with replacement.

        Raises:
            ValueError: If nothing was added yet.
        """
        if not len(self):
            raise ValueError("expected a memory with rows, got an empty one")
        return self.rows(torch.randint(len(self), (rows,), generator=generator))

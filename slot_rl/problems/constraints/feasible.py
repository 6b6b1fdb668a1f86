"""Configurations that are listed, or that a function allows."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from slot_rl.problems.constraints.base import Constraint, Infeasible, ItemSpace, ListedRows

Predicate = Callable[[Tensor], Tensor]
"""Takes configurations as item numbers ``(rows, slots)``, returns which are allowed, ``(rows,)``, as booleans."""


@dataclass(frozen=True, eq=False)
class Feasible(Constraint):
    """Only configurations that a function allows, or that a table lists (:meth:`from_table`), are allowed.

    Attributes:
        predicate: The function; it is called with every configuration that there is, when the problem is built.
        path: The table.
    """

    predicate: Predicate | None = None
    path: Path | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Refuses neither and both."""
        if (self.predicate is None) == (self.path is None):
            raise ValueError("expected Feasible(predicate) or Feasible.from_table(file), got neither or both")
        if self.predicate is not None and not callable(self.predicate):
            raise TypeError(f"expected a function in Feasible, got {type(self.predicate).__name__}")

    @classmethod
    def from_table(cls, path: str | Path) -> "Feasible":
        """Returns the constraint to the rows of a CSV or Parquet file.

        It has a column for each slot. With the problem's context columns beside them, each row is allowed in its own
        context, otherwise in every one; other columns are ignored.
        """
        return cls(path=Path(path))

    def listed(self, space: ItemSpace) -> ListedRows | None:
        """Returns the table's rows; None for a function.

        Raises:
            ValueError: If the items vary between requests or have no names, or the file is not usable or has no rows.
        """
        if self.path is None:
            return None
        if space.read_rows is None:
            raise ValueError(f"expected a problem whose slots and items have names for {self}, got {space.problem}")
        found = space.read_rows(self.path)
        if not len(found.rows):
            raise Infeasible(f"expected at least one row in {self}, got none")
        return found

    def broken(self, space: ItemSpace, choice: Tensor, labels: Tensor | None) -> Tensor:
        """Returns what the function forbids; a table is looked up by :class:`TableRules`."""
        if self.predicate is None or not len(choice):
            return torch.zeros(choice.shape[:-1], dtype=torch.bool)
        rows = choice.reshape(-1, choice.shape[-1])
        try:
            allowed = torch.as_tensor(self.predicate(rows.clone()))  # which the function may change
        except Exception as error:
            said = " ".join(str(error).split())
            raise ValueError(f"expected truth values from {self}, got {type(error).__name__}: {said}") from error
        if allowed.dtype != torch.bool or allowed.shape != rows.shape[:1]:
            raise ValueError(
                f"expected {len(rows)} truth values from {self}, got {allowed.dtype} {tuple(allowed.shape)}"
            )
        return ~allowed.view(choice.shape[:-1])

    def __str__(self) -> str:
        """Returns the constraint as it is written."""
        name = getattr(self.predicate, "__name__", type(self.predicate).__name__)
        return f"Feasible({name})" if self.path is None else f"Feasible.from_table({str(self.path)!r})"

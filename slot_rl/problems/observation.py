"""A batch of requests as tensors: candidates, masks, contexts and slot features, as far as they vary."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Kind = Literal["real", "boolean", "categories", "numbers"]
TensorLike = Tensor | npt.ArrayLike


@dataclass(frozen=True)
class Observation:
    """A batch of requests; what does not vary between requests is None.

    Attributes:
        candidates: Float tensor of shape ``(batch, items, dim)``, or None where the candidates are fixed.
        mask: Boolean tensor of shape ``(batch, slots, items)``, true where an item may be chosen, or None.
        context: Long tensor of shape ``(batch, columns)``, or None.
        context_vector: Float tensor of shape ``(batch, context_dim)``, or None.
        slot_features: Float tensor of shape ``(batch, slots, slot_dim)``, or None where the slots are always the same.
        labels: Long tensor of shape ``(batch, items, attributes)``, the candidates' categories that constraints speak
            of; or None.
    """

    candidates: Tensor | None = None
    mask: Tensor | None = None
    context: Tensor | None = None
    context_vector: Tensor | None = None
    slot_features: Tensor | None = None
    labels: Tensor | None = None

    @classmethod
    def of(cls, parts: Mapping[str, Any]) -> "Observation":
        """Builds an observation from arrays or tensors by name, such as an environment's dict; ignores other names."""
        found = {name: torch.as_tensor(parts[name]) for name in KINDS if parts.get(name) is not None}
        masks = {name: part != 0 for name, part in found.items() if KINDS[name] == "boolean"}
        return cls(**{name: part.to(TYPES[KINDS[name]]) for name, part in found.items()} | masks)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the parts that vary, by name."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in parts.items() if part is not None}

    def __len__(self) -> int:
        """Returns the batch size."""
        return len(next(iter(self.tensors().values())))

    def __getitem__(self, rows: Any) -> "Observation":
        """Returns the observations of some rows: a slice, a boolean mask or an index tensor."""
        return replace(self, **{name: part[rows] for name, part in self.tensors().items()})


KINDS: dict[str, Kind] = {
    "candidates": "real",
    "mask": "boolean",
    "context": "categories",
    "context_vector": "real",
    "slot_features": "real",
    "labels": "numbers",
}
"""What the entries of each part are."""
TYPES = {"real": torch.float32, "boolean": torch.bool, "categories": torch.long, "numbers": torch.long}


@dataclass(frozen=True)
class ObservationPart:
    """What one part of an observation holds, without the batch dimension.

    Attributes:
        shape: Its shape for a single request.
        kind: Real numbers, booleans, category indices, or whole numbers from 0.
        sizes: The number of categories of each entry; of whole numbers, how many there are in each column; empty for
            the other kinds.
    """

    shape: tuple[int, ...]
    kind: Kind
    sizes: tuple[int, ...] = ()


def as_tensor(name: str, values: TensorLike) -> Tensor:
    """Returns a tensor as it is, and an array or lists as a tensor: whole numbers as long.

    Raises:
        ValueError: If the values are not numbers in rows of one length.
    """
    if isinstance(values, Tensor):
        return values
    try:
        found = torch.from_numpy(np.array(values))
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected numbers as {name}, got {type(values).__name__}: {error}") from error
    return found if found.is_floating_point() else found.long()

"""Attributes of items that constraints speak of, as category numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ItemLabels:
    """The categories of a pool's vectors.

    Attributes:
        names: The categories of each attribute, by its name.
        codes: Long tensor of shape ``(vectors, attributes)``.
    """

    names: Mapping[str, tuple[str, ...]]
    codes: Tensor

    @classmethod
    def of(cls, labels: Mapping[str, Sequence[object]], vectors: int) -> "ItemLabels":
        """Numbers the categories of each attribute, sorted by name.

        Raises:
            ValueError: If an attribute does not have a category for each vector.
        """
        names: dict[str, tuple[str, ...]] = {}
        columns = [torch.zeros(vectors, 0, dtype=torch.long)]
        for name, values in labels.items():
            texts = [str(value) for value in (values.tolist() if isinstance(values, Tensor) else values)]
            if len(texts) != vectors:
                raise ValueError(f"expected item_labels {name!r} with {vectors} categories, got {len(texts)}")
            names[str(name)] = tuple(sorted(set(texts)))
            number = {text: place for place, text in enumerate(names[str(name)])}
            columns.append(torch.tensor([number[text] for text in texts]).unsqueeze(1))
        return cls(names, torch.cat(columns, dim=1))

    def at(self, rows: Tensor) -> Tensor | None:
        """Returns the categories ``(..., attributes)`` of vectors by number; None without attributes."""
        return self.codes[rows] if self.names else None

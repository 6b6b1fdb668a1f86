"""Attributes of items that constraints speak of, as category numbers."""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass

import torch
from torch import Tensor

from slot_rl.estimators.described import canonical


@dataclass(frozen=True)
class ItemLabels:
    """The categories of some items.

    Attributes:
        names: The categories of each attribute, by its name.
        codes: Long tensor of shape ``(items, attributes)``.
    """

    names: Mapping[str, tuple[str, ...]]
    codes: Tensor

    @classmethod
    def of(
        cls, values: Mapping[str, Sequence[str]], known: Mapping[str, tuple[str, ...]] | None = None
    ) -> "ItemLabels":
        """Numbers the categories of each attribute: those that are known first, then the others in order.

        Args:
            values: A category an item, by the attribute's name.
            known: Categories that have numbers already.
        """
        names: dict[str, tuple[str, ...]] = {}
        columns = []
        for name, texts in values.items():
            before = () if known is None else known[name]
            names[name] = (*before, *sorted(set(texts) - set(before)))
            number = {text: place for place, text in enumerate(names[name])}
            columns.append(torch.tensor([number[text] for text in texts], dtype=torch.long))
        return cls(names, torch.stack(columns, dim=1) if columns else torch.zeros(0, 0, dtype=torch.long))

    def at(self, rows: Tensor) -> Tensor | None:
        """Returns the categories ``(..., attributes)`` of items by number; None without attributes."""
        return self.codes[rows] if self.names else None


NO_LABELS = ItemLabels({}, torch.zeros(0, 0, dtype=torch.long))


def as_attributes(labels: Mapping[str, Sequence[object]], items: int) -> dict[str, list[str]]:
    """Returns the attributes of items as text, numbers in one way of writing.

    Raises:
        ValueError: If an attribute does not have a category for each item.
    """
    if not isinstance(labels, Mapping):
        raise ValueError(f"expected item_labels as a mapping of names to categories, got {type(labels).__name__}")
    found = {}
    for name, given in labels.items():
        values: object = given.tolist() if hasattr(given, "tolist") else given
        if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != items:
            got = repr(values) if isinstance(values, str) or not isinstance(values, Sized) else len(values)
            raise ValueError(f"expected item_labels {name!r} with {items} categories, got {got}")
        found[str(name)] = [canonical(str(value)) for value in values]
    return found

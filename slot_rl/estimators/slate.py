"""The slate estimator: the value of a page of items for a request, from embeddings of context, items and positions.

An item's vector holds its numbers, an embedding of each of its categories, and one of the item itself. All of it is
known before the page is scored, so the vectors are the candidates of a slot problem. In the page, an item meets the
request's context by products (attraction), its position, and the item beside it (saturation).
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slot_rl.documents import as_declared
from slot_rl.estimators.columns import UNSEEN, Encoded, FileColumns
from slot_rl.estimators.slot_products import SlotProducts

FORGOTTEN = 0.05
"""Share of categories and items that the fit hides, so that unseen ones have a meaning."""


@dataclass(frozen=True)
class SlateShape:
    """The sizes of a :class:`SlateNet`.

    Attributes:
        slots: Slots of a page, S.
        item_numbers: Numbers of an item.
        item_sizes: Indices of each category column of items.
        items: Items with an embedding of their own.
        context_numbers: Numbers of a request.
        context_sizes: Indices of each category column of requests.
        category_dim: Length of a category's embedding.
        id_dim: Length of an item's own embedding; 0 for none.
        width: Width of an item on the page.
        hidden: Width of the layers that see the whole page.
        binary: Whether scores are 0 or 1, so that the answer is a probability.
        product_widths: Widths of the layers of products of an item's vector (see ``SlotProducts``); empty for none.
    """

    slots: int
    item_numbers: int
    item_sizes: tuple[int, ...]
    items: int
    context_numbers: int
    context_sizes: tuple[int, ...]
    category_dim: int = 8
    id_dim: int = 8
    width: int = 32
    hidden: int = 64
    binary: bool = False
    product_widths: tuple[int, ...] = ()

    @property
    def dim(self) -> int:
        """Length of an item's vector."""
        return self.item_numbers + self.category_dim * len(self.item_sizes) + self.id_dim

    @property
    def context_dim(self) -> int:
        """Length of a context's vector."""
        return self.context_numbers + self.category_dim * len(self.context_sizes)

    def to_json(self) -> dict[str, Any]:
        """Returns JSON-ready values; without products, as before there were any."""
        return {name: value for name, value in asdict(self).items() if name != "product_widths" or value}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "SlateShape":
        """Rebuilds what :meth:`to_json` wrote."""
        return as_declared(cls, values, "shape")


class SlateNet(nn.Module):
    """Scores pages: items ``(..., slots, dim)`` for contexts ``(..., context_dim)``."""

    item_mean: Tensor
    item_spread: Tensor
    context_mean: Tensor
    context_spread: Tensor
    offset: Tensor
    scale: Tensor

    def __init__(self, shape: SlateShape) -> None:
        """Builds the network with weights from the global generator; see ``slot_rl.seeding``."""
        super().__init__()
        self.shape, width = shape, shape.width
        self.item_tables = nn.ModuleList(nn.Embedding(size, shape.category_dim) for size in shape.item_sizes)
        self.context_tables = nn.ModuleList(nn.Embedding(size, shape.category_dim) for size in shape.context_sizes)
        self.item_ids = nn.Embedding(1 + shape.items, shape.id_dim, padding_idx=UNSEEN) if shape.id_dim else None
        for table in (*self.item_tables, *self.context_tables):
            nn.init.normal_(table.weight, std=0.3)
        if self.item_ids is not None:
            nn.init.zeros_(self.item_ids.weight)
        widths = shape.product_widths
        self.products = SlotProducts(1, shape.dim, widths) if widths else None
        item_width = shape.dim + (widths[-1] if widths else 0)
        self.item, self.context = nn.Linear(item_width, width), nn.Linear(max(1, shape.context_dim), width)
        self.position = nn.Parameter(0.1 * torch.randn(shape.slots, width))
        self.alone = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.beside = nn.Linear(shape.dim, 16)
        joint = shape.slots * width + (shape.slots - 1) * 16
        self.page = nn.Sequential(
            nn.Linear(joint, shape.hidden), nn.SiLU(), nn.Linear(shape.hidden, shape.hidden), nn.SiLU()
        )
        self.slot_head, self.page_head = nn.Linear(width, 1), nn.Linear(shape.hidden, 1)
        for name, size in (("item", shape.dim), ("context", max(1, shape.context_dim))):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_spread", torch.ones(size))
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def item_vectors(self, rows: Encoded, ids: Tensor) -> Tensor:
        """Returns the vectors ``(rows, dim)`` of items; ``ids`` ``(rows,)`` counts the known ones from 1, 0 is new."""
        parts = [rows.numbers, *_embedded(self.item_tables, rows.codes)]
        return torch.cat(parts if self.item_ids is None else [*parts, self.item_ids(ids)], dim=-1)

    def context_vectors(self, rows: Encoded) -> Tensor:
        """Returns the vectors ``(rows, context_dim)`` of requests; one zero where requests have no columns."""
        parts = [rows.numbers, *_embedded(self.context_tables, rows.codes)]
        return torch.cat(parts, dim=-1) if self.shape.context_dim else rows.numbers.new_zeros(len(rows.numbers), 1)

    def to_latent(self, items: Tensor, context: Tensor) -> Tensor:
        """Returns the last hidden layer, ``(..., hidden)``; arguments as for a call."""
        return self._page(items, context)[1]

    def forward(self, items: Tensor, context: Tensor) -> Tensor:
        """Returns scores ``(...)`` of items ``(..., slots, dim)`` for contexts ``(..., context_dim)``."""
        answer = self.logits(items, context)
        return torch.sigmoid(answer) if self.shape.binary else answer * self.scale + self.offset

    def logits(self, items: Tensor, context: Tensor) -> Tensor:
        """Returns standardised scores, or the logits of probabilities."""
        alone, page = self._page(items, context)
        total: Tensor = self.slot_head(alone).squeeze(-1).sum(dim=-1) + self.page_head(page).squeeze(-1)
        return total

    def _page(self, items: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        items = (items - self.item_mean) / self.item_spread
        given = self.context((context - self.context_mean) / self.context_spread).unsqueeze(-2)
        known = items if self.products is None else torch.cat([items, self.products(items)], dim=-1)
        alone = self.alone(self.item(known) * (1 + given) + given + self.position)
        beside = self.beside(items)
        pairs = beside[..., 1:, :] * beside[..., :-1, :]
        return alone, self.page(torch.cat([alone.flatten(-2), pairs.flatten(-2)], dim=-1))


def slate_shape(slots: int, items: FileColumns, known: int, requests: FileColumns, **sizes: Any) -> SlateShape:
    """Returns the shape for files with these columns and ``known`` items."""
    return SlateShape(slots, items.width, items.sizes, known, requests.width, requests.sizes, **sizes)


def forgetful(rows: Encoded, generator: torch.Generator) -> Encoded:
    """Returns rows in which some categories are hidden, so that the index of unseen ones is fitted, too."""
    hidden = torch.rand(rows.codes.shape, generator=generator) < FORGOTTEN
    return Encoded(rows.numbers, rows.codes.masked_fill(hidden, UNSEEN))


def _embedded(tables: nn.ModuleList, codes: Tensor) -> list[Tensor]:
    return [table(codes[..., i]) for i, table in enumerate(tables)]

"""The estimator network: an MLP that computes a score from one vector per slot and from context embeddings.

The vectors are part of each observation (slot problems), or rows of the network's own embedding tables (tables of
categorical features). :attr:`EstimatorNet.catalogue` holds these tables, padded to the same length. A one-hot row times
the catalogue is an embedding look-up, so the same network accepts indices and probability rows.

A slot whose categories are described by numbers has no embeddings: a small network computes its rows from the numbers.
:meth:`EstimatorNet.candidates` gives all slots' rows.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slot_rl.documents import as_declared
from slot_rl.estimators.slot_products import SlotProducts

EMBEDDING_SCALE = 0.5
NUMBER_FIELDS = ("described", "context_numbers", "encoder")


@dataclass(frozen=True)
class EstimatorShape:
    """The sizes of an :class:`EstimatorNet`.

    Attributes:
        slots: Slots of a configuration, S.
        dim: Length D of a slot's vector.
        hidden: Widths of the MLP's hidden layers.
        vocabulary: Number of categories of each slot if the network has embeddings; empty if vectors are given.
        contexts: Number of categories of each context column.
        context_dim: Length of a context column's embedding.
        described: How many numbers describe each category of each slot, 0 for embeddings; empty for embeddings alone.
        context_numbers: How many numbers describe each context column that is a number or is described by numbers.
        encoder: Hidden width of the small networks that read numbers.
        product_widths: Widths of each slot's layers of products (see ``SlotProducts``); empty for none.
    """

    slots: int
    dim: int
    hidden: tuple[int, ...] = (256, 256)
    vocabulary: tuple[int, ...] = ()
    contexts: tuple[int, ...] = ()
    context_dim: int = 16
    described: tuple[int, ...] = ()
    context_numbers: tuple[int, ...] = ()
    encoder: int = 32
    product_widths: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the shape as JSON-ready values; without numbers and products, as before there were any."""
        left_out = set() if self.described or self.context_numbers else {*NUMBER_FIELDS}
        left_out |= set() if self.product_widths else {"product_widths"}
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "EstimatorShape":
        """Rebuilds a shape written by :meth:`to_json`."""
        return as_declared(cls, values, "shape")


class EstimatorNet(nn.Module):
    """Scores configurations given as vectors of shape ``(..., batch, slots, dim)``."""

    offset: Tensor
    scale: Tensor

    def __init__(self, shape: EstimatorShape) -> None:
        """Builds the network with weights from the global generator; see ``slot_rl.seeding``."""
        super().__init__()
        self.shape = shape
        self.catalogue = _embedding_table(shape) if shape.vocabulary else None
        self.context_tables = nn.ModuleList(nn.Embedding(size, shape.context_dim) for size in shape.contexts)
        columns = len(shape.contexts) + len(shape.context_numbers)
        width = shape.slots * shape.dim + columns * shape.context_dim
        self.products: SlotProducts | None = None
        if shape.product_widths:
            self.products = SlotProducts(shape.slots, shape.dim, shape.product_widths)
            width += shape.slots * shape.product_widths[-1]
        self.body = nn.Sequential(*_layers(width, shape.hidden))
        self.head = nn.Linear(shape.hidden[-1], 1)
        # The MLP predicts standardised scores; these buffers convert them to the units of the score.
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.encoders = nn.ModuleDict()
        for slot, numbers in enumerate(shape.described):
            if numbers:
                self.encoders[str(slot)] = _encoder(numbers, shape.encoder, shape.dim)
                self.register_buffer(f"numbers_{slot}", torch.zeros(shape.vocabulary[slot], numbers))
        # Columns have encoders of their own, as they have embeddings: what is learned of one serves any other pair.
        self.context_encoders = nn.ModuleList(
            _encoder(numbers, shape.encoder, shape.context_dim) for numbers in shape.context_numbers
        )

    def describe(self, slot: int, numbers: Tensor) -> None:
        """Takes the numbers ``(categories, numbers)`` that describe a slot's categories."""
        self.get_buffer(f"numbers_{slot}").copy_(numbers)

    def candidates(self) -> Tensor | None:
        """Returns the vectors of all categories ``(slots, items, dim)``, differentiably; None if vectors are given."""
        if self.catalogue is None or not len(self.encoders):
            return self.catalogue
        rows = list(self.catalogue.unbind())
        for name, encoder in self.encoders.items():
            encoded = encoder(self.get_buffer(f"numbers_{name}"))
            rows[int(name)] = nn.functional.pad(encoded, (0, 0, 0, self.catalogue.shape[1] - len(encoded)))
        return torch.stack(rows)

    def encode(self, vectors: Tensor, context: Tensor | None = None, context_vector: Tensor | None = None) -> Tensor:
        """Returns what the network makes of each slot's vector alone, ``(..., batch, slots, width)``."""
        return vectors if self.products is None else torch.cat([self.products(vectors), vectors], dim=-1)

    @property
    def after_encoding(self) -> "AfterEncoding | None":
        """The rest of the network; None if it makes nothing of a vector alone."""
        return None if self.products is None else AfterEncoding(self)

    def to_latent(self, vectors: Tensor, context: Tensor | None = None, context_vector: Tensor | None = None) -> Tensor:
        """Returns the last hidden layer.

        Args:
            vectors: Tensor of shape ``(..., batch, slots, dim)``.
            context: Long tensor of shape ``(batch, contexts)``; None if the network has no context of categories.
            context_vector: Float tensor of shape ``(batch, numbers)``; None if it has no context of numbers.

        Returns:
            Tensor of shape ``(..., batch, hidden[-1])``.
        """
        return self.latent_of(self.encode(vectors), context, context_vector)

    def latent_of(self, encoded: Tensor, context: Tensor | None = None, context_vector: Tensor | None = None) -> Tensor:
        """Returns the last hidden layer of what :meth:`encode` gave."""
        widths = encoded.shape[-1] - self.shape.dim, self.shape.dim
        inputs = torch.cat([part.flatten(-2) for part in encoded.split(widths, dim=-1)], dim=-1)
        parts: list[Tensor] = []
        if len(self.context_tables):
            if context is None:
                raise ValueError(f"expected a context of {len(self.context_tables)} columns, got None")
            parts += [table(context[..., i]) for i, table in enumerate(self.context_tables)]
        if len(self.context_encoders):
            if context_vector is None:
                raise ValueError(f"expected a context of {sum(self.shape.context_numbers)} numbers, got None")
            columns = context_vector.split(self.shape.context_numbers, dim=-1)
            parts += [encoder(column) for encoder, column in zip(self.context_encoders, columns, strict=True)]
        if parts:
            embedded = torch.cat(parts, dim=-1)
            inputs = torch.cat([inputs, embedded.expand(*inputs.shape[:-1], -1)], dim=-1)
        latent: Tensor = self.body(inputs)
        return latent

    def forward(self, vectors: Tensor, context: Tensor | None = None, context_vector: Tensor | None = None) -> Tensor:
        """Returns scores of shape ``(..., batch)``; arguments as for :meth:`to_latent`."""
        return self.score_of(self.to_latent(vectors, context, context_vector))

    def score_of(self, latent: Tensor) -> Tensor:
        """Returns the scores of the last hidden layer."""
        standardised: Tensor = self.head(latent).squeeze(-1)
        return standardised * self.scale + self.offset


class AfterEncoding:
    """Scores what a network's ``encode`` gave: its other layers, called as the network itself is."""

    def __init__(self, net: EstimatorNet) -> None:
        """Takes the network."""
        self.net = net

    def __call__(self, encoded: Tensor, context: Tensor | None = None, context_vector: Tensor | None = None) -> Tensor:
        """Returns scores of shape ``(..., batch)``."""
        return self.net.score_of(self.to_latent(encoded, context, context_vector))

    def to_latent(self, encoded: Tensor, context: Tensor | None = None, context_vector: Tensor | None = None) -> Tensor:
        """Returns the last hidden layer."""
        return self.net.latent_of(encoded, context, context_vector)


def _layers(width: int, hidden: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.SiLU()]
        width = size
    return layers


def _encoder(numbers: int, hidden: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(numbers, hidden), nn.SiLU(), nn.Linear(hidden, dim))


def _embedding_table(shape: EstimatorShape) -> nn.Parameter:
    # Padded to (slots, largest vocabulary, dim): then a selection is one batched product for all features.
    table = torch.randn(len(shape.vocabulary), max(shape.vocabulary), shape.dim) * EMBEDDING_SCALE
    for slot, size in enumerate(shape.vocabulary):
        table[slot, size:] = 0.0
        if shape.described and shape.described[slot]:
            table[slot] = 0.0
    return nn.Parameter(table)

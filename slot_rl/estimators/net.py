"""The estimator network: an MLP that computes a score from one vector per slot and from context embeddings.

The vectors are part of each observation (slot problems), or rows of the network's own embedding tables (tables of
categorical features). :attr:`EstimatorNet.catalogue` holds these tables, padded to the same length. A one-hot row times
the catalogue is an embedding look-up, so the same network accepts indices and probability rows.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

EMBEDDING_SCALE = 0.5


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
    """

    slots: int
    dim: int
    hidden: tuple[int, ...] = (256, 256)
    vocabulary: tuple[int, ...] = ()
    contexts: tuple[int, ...] = ()
    context_dim: int = 16

    def to_json(self) -> dict[str, Any]:
        """Returns the shape as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "EstimatorShape":
        """Rebuilds a shape written by :meth:`to_json`."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)


class EstimatorNet(nn.Module):
    """Scores configurations given as vectors of shape ``(..., batch, slots, dim)``."""

    offset: Tensor
    scale: Tensor

    def __init__(self, shape: EstimatorShape) -> None:
        """Builds the network with weights from the global generator; see ``slot_rl.seeding``."""
        super().__init__()
        self.shape = shape
        self.catalogue = _embedding_table(shape.vocabulary, shape.dim) if shape.vocabulary else None
        self.context_tables = nn.ModuleList(nn.Embedding(size, shape.context_dim) for size in shape.contexts)
        width = shape.slots * shape.dim + len(shape.contexts) * shape.context_dim
        self.body = nn.Sequential(*_layers(width, shape.hidden))
        self.head = nn.Linear(shape.hidden[-1], 1)
        # The MLP predicts standardised scores; these buffers convert them to the units of the score.
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def to_latent(self, vectors: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the last hidden layer.

        Args:
            vectors: Tensor of shape ``(..., batch, slots, dim)``.
            context: Long tensor of shape ``(batch, contexts)``; None if the network has no context.

        Returns:
            Tensor of shape ``(..., batch, hidden[-1])``.
        """
        inputs = vectors.flatten(-2)
        if len(self.context_tables):
            if context is None:
                raise ValueError(f"expected a context of {len(self.context_tables)} columns, got None")
            embedded = torch.cat([table(context[..., i]) for i, table in enumerate(self.context_tables)], dim=-1)
            inputs = torch.cat([inputs, embedded.expand(*inputs.shape[:-1], -1)], dim=-1)
        latent: Tensor = self.body(inputs)
        return latent

    def forward(self, vectors: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns scores of shape ``(..., batch)``; arguments as for :meth:`to_latent`."""
        standardised: Tensor = self.head(self.to_latent(vectors, context)).squeeze(-1)
        return standardised * self.scale + self.offset


def _layers(width: int, hidden: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.SiLU()]
        width = size
    return layers


def _embedding_table(vocabulary: Sequence[int], dim: int) -> nn.Parameter:
    # Padded to (slots, largest vocabulary, dim): then a selection is one batched product for all features.
    table = torch.randn(len(vocabulary), max(vocabulary), dim) * EMBEDDING_SCALE
    for slot, size in enumerate(vocabulary):
        table[slot, size:] = 0.0
    return nn.Parameter(table)

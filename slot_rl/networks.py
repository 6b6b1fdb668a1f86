"""The policy network: a query per slot points at keys per item.

Each round lets every slot look at what it would pick now, then lets the slots look at one another, so that picks can
fit together although they are drawn independently. Items never look at items: the cost is linear in N, the parameters
do not depend on N, and permuting the candidates permutes the logits.

After Vinyals, Fortunato, Jaitly, "Pointer Networks" (2015), with a fixed number of slots in place of a decoder.
"""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from slot_rl.estimators.units import mean_and_spread


@dataclass(frozen=True)
class PointerSize:
    """Sizes of a :class:`PointerNetwork`, one set for every agent.

    Attributes:
        width: Length of queries and keys.
        hidden: Width of the layer through which the slots see one another.
        rounds: How often each slot looks at its tentative pick and at the other slots.
        context: Whether the policy sees the request's context; without it, a control that must do worse.
    """

    width: int = 64
    hidden: int = 256
    rounds: int = 1
    context: bool = True

    def __post_init__(self) -> None:
        """Refuses sizes below 1."""
        if min(self.width, self.hidden, self.rounds) < 1:
            raise ValueError(f"expected width, hidden and rounds >= 1, got {self}")


class PointerNetwork(nn.Module):
    """Gives logits over candidates, and a latent of the request for a value head.

    Attributes:
        latent_dim: Length of the latent.
    """

    catalogue: Tensor | None

    def __init__(
        self,
        slots: int,
        dim: int,
        contexts: tuple[int, ...],
        size: PointerSize,
        catalogue: Tensor | None = None,
        context_dim: int = 0,
        slot_dim: int = 0,
        pool: Tensor | None = None,
        context_vectors: Tensor | None = None,
    ) -> None:
        """Builds the network; weights come from the global generator (see ``slot_rl.seeding``).

        Args:
            slots: Slots of a configuration.
            dim: Length of a candidate's vector.
            contexts: Categories of each context column.
            size: Widths and depth.
            catalogue: Fixed candidates of shape ``(slots, items, dim)``; None if observations bring theirs.
            context_dim: Length of a request's context vector; 0 if there is none.
            slot_dim: Numbers that describe each slot of a request; 0 if there are none.
            pool: Vectors ``(vectors, dim)`` whose units candidates have; they are taken as they are if None.
            context_vectors: Vectors ``(requests, context_dim)`` whose units contexts have; likewise.
        """
        super().__init__()
        self.slots, width = slots, size.width
        contexts, context_dim = (contexts, context_dim) if size.context else ((), 0)
        # A fixed catalogue would only swell every observation; not persistent, since it is the problem's, not learned.
        self.register_buffer("catalogue", catalogue, persistent=False)
        # Different features' embeddings live in unrelated spaces, so each has a projection.
        self.embed: nn.Module = nn.Linear(dim, width) if catalogue is None else _PerSlotLinear(slots, dim, width)
        self.items = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.context_tables = nn.ModuleList(nn.Embedding(categories, slots * width) for categories in contexts)
        self.item_units = None if pool is None else _Units(dim, pool)
        self.context_body = None if context_dim == 0 else _context_body(context_dim, size.hidden, slots * width)
        self.context_units = None if context_dim == 0 else _Units(context_dim, context_vectors)
        self.slot_body = None if slot_dim == 0 else nn.Linear(slot_dim, width)
        self.start = nn.Parameter(torch.randn(slots, width))
        self.rounds = nn.ModuleList(_Round(slots, size) for _ in range(size.rounds))
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.latent_dim = slots * width

    def forward(
        self,
        candidates: Tensor | None,
        mask: Tensor | None,
        context: Tensor | None,
        context_vector: Tensor | None = None,
        slot_features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Points.

        Args:
            candidates: Tensor of shape ``(batch, items, dim)``; None for a fixed catalogue.
            mask: Boolean tensor that broadcasts to ``(batch, slots, items)``, true where allowed; or None.
            context: Long tensor of shape ``(batch, columns)``; or None.
            context_vector: Float tensor of shape ``(batch, context_dim)``; or None.
            slot_features: Float tensor of shape ``(batch, slots, slot_dim)``; or None.

        Returns:
            Logits of shape ``(batch, slots, items)``, not masked, and the latent ``(batch, latent_dim)``.

        Raises:
            ValueError: If candidates or context are missing.
        """
        vectors = self.catalogue if candidates is None else candidates
        if vectors is None:
            raise ValueError("expected candidates in the observation, got none and no fixed catalogue")
        requests = next((part for part in (candidates, context, context_vector) if part is not None), None)
        if requests is None or (context is None and len(self.context_tables)):
            raise ValueError("expected a context in the observation, got none")
        items = self.items(self.embed(vectors if self.item_units is None else self.item_units(vectors)))
        slots = self._start(len(requests), context, context_vector, slot_features)
        for look in self.rounds:
            slots = look(slots, items, mask, candidates is None)
        logits = _affinity(self.query(slots), self.key(items), candidates is None)
        return logits, slots.flatten(1)

    def _start(
        self, batch: int, context: Tensor | None, context_vector: Tensor | None, slot_features: Tensor | None
    ) -> Tensor:
        """Returns what each slot knows before it sees the items, ``(batch, slots, width)``."""
        slots = self.start.expand(batch, -1, -1)
        for column, table in enumerate(self.context_tables):
            assert context is not None
            slots = slots + table(context[:, column]).view(batch, self.slots, -1)
        if self.context_body is not None and self.context_units is not None:
            if context_vector is None:
                raise ValueError("expected a context vector in the observation, got none")
            given = self.context_body(self.context_units(context_vector))
            slots = slots + given.view(batch, self.slots, -1)
        if self.slot_body is not None:
            if slot_features is None:
                raise ValueError("expected slot features in the observation, got none")
            slots = slots + self.slot_body(slot_features)
        return slots


class _Units(nn.Module):
    """Takes off the mean of some vectors and divides by their spread, so that the user's units do not matter."""

    mean: Tensor
    spread: Tensor

    def __init__(self, dim: int, vectors: Tensor | None) -> None:
        super().__init__()
        mean, spread = (torch.zeros(dim), torch.ones(dim)) if vectors is None else mean_and_spread(vectors)
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    def forward(self, vectors: Tensor) -> Tensor:
        return (vectors - self.mean) / self.spread


def _context_body(dim: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, out))


class _Round(nn.Module):
    """Each slot sees its tentative pick; then all slots see one another through one joint layer."""

    def __init__(self, slots: int, size: PointerSize) -> None:
        super().__init__()
        width = size.width
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.norm = nn.LayerNorm(slots * width)
        self.joint = nn.Sequential(
            nn.Linear(slots * width, size.hidden), nn.SiLU(), nn.Linear(size.hidden, slots * width)
        )

    def forward(self, slots: Tensor, items: Tensor, mask: Tensor | None, fixed: bool) -> Tensor:
        affinity = _affinity(self.query(slots), self.key(items), fixed)
        if mask is not None:
            affinity = affinity.masked_fill(~mask, -torch.inf)
        pick = torch.softmax(affinity, dim=-1)
        values = self.value(items)
        slots = slots + (torch.einsum("bsn,snd->bsd", pick, values) if fixed else pick @ values)
        together: Tensor = self.joint(self.norm(slots.flatten(1)))
        return slots + together.view_as(slots)


class _PerSlotLinear(nn.Module):
    """A linear map of its own for each slot's catalogue, ``(slots, items, dim)`` to ``(slots, items, width)``."""

    def __init__(self, slots: int, dim: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(slots, dim, width) / sqrt(dim))
        self.bias = nn.Parameter(torch.zeros(slots, 1, width))

    def forward(self, catalogue: Tensor) -> Tensor:
        return catalogue @ self.weight + self.bias


def _affinity(queries: Tensor, keys: Tensor, fixed: bool) -> Tensor:
    # Keys are (batch, items, width), or (slots, items, width) for a fixed catalogue that the whole batch shares.
    products = torch.einsum("bsd,snd->bsn", queries, keys) if fixed else queries @ keys.transpose(-1, -2)
    return products / sqrt(queries.shape[-1])

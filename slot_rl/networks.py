"""The policy network: a query per slot points at keys per item, and the slots agree in a few rounds.

In each round every slot looks at what it would pick now, and one map over all slots makes the next queries from these
picks and the present queries. All rounds share their weights, but each has a temperature of its own. So the picks fit
together although they are drawn independently. Items never look at items: the cost is linear in N, the parameters do
not depend on N, and permuting the candidates permutes the logits.

A network with starts takes noise: without it, it gives the answer of one pass, and each draw of the noise gives
another start.

After Vinyals, Fortunato, Jaitly, "Pointer Networks" (2015), with a fixed number of slots in place of a decoder.
"""

from dataclasses import dataclass, replace
from math import sqrt

import torch
from torch import Tensor, nn

from slot_rl.estimators.slot_products import products_of_numbers
from slot_rl.estimators.units import mean_and_spread
from slot_rl.selectors.rules import OPEN

ITEM_HIDDEN = 64
KNOWN_STARTS = 64
MOST_WIDTH = 4_096
MOST_MULTIPLIED, NEAR_ZERO, LARGEST_FACTOR = 6, 4.0, 1e5
"""Up to so many numbers of an item, the network sees their products too; those above 1 / NEAR_ZERO are compressed.

Numbers are cut off at the largest factor first, so that no product is infinite.
"""


@dataclass(frozen=True)
class PointerSize:
    """Sizes of a :class:`PointerNetwork`, one set for every agent.

    Attributes:
        width: Length of queries, keys and values.
        hidden: Width of the layer through which the slots see one another.
        rounds: How often each slot looks at its tentative pick and at the other slots.
        start_dim: Numbers of the noise that gives further starts; 0 for a network without starts.
        context: Whether the policy sees the request's context; without it, a control that must do worse.
    """

    width: int = 32
    hidden: int = 256
    rounds: int = 8
    start_dim: int = 0
    context: bool = True

    def __post_init__(self) -> None:
        """Refuses sizes below 1, and those that no memory holds."""
        sizes = self.width, self.hidden, self.rounds
        if min(sizes) < 1 or self.start_dim < 0 or max(*sizes, self.start_dim) > MOST_WIDTH:
            raise ValueError(
                f"expected width, hidden and rounds >= 1 and start_dim >= 0, all up to {MOST_WIDTH:,}, got {self}"
            )


@dataclass(frozen=True)
class Request:
    """What the network has read of a batch of requests.

    Attributes:
        base: What the slots know without the items, ``(batch, slots, width)``.
        items: Keys and values of the items.
        mask: What may be chosen, ``(batch, slots, items)`` or 1 as batch; or None.
    """

    base: Tensor
    items: "_Items"
    mask: Tensor | None

    def repeated(self, times: int) -> "Request":
        """Returns the batch several times, one after another."""
        base, items, mask = self.base.repeat(times, 1, 1), self.items.repeated(times), self.mask
        return Request(base, items, mask.repeat(times, 1, 1) if mask is not None and len(mask) > 1 else mask)


@dataclass(frozen=True)
class Thought:
    """What the slots have agreed on so far.

    Attributes:
        logits: Logits ``(batch, slots, items)``, not masked.
        queries: The slots' queries, ``(batch, slots, width)``.
        request: What they have agreed about.
    """

    logits: Tensor
    queries: Tensor
    request: "Request"

    @property
    def latent(self) -> Tensor:
        """What a value head sees of the request, ``(batch, slots * width)``."""
        return self.queries.flatten(1)

    def repeated(self, times: int) -> "Thought":
        """Returns the batch several times, one after another."""
        if times == 1:
            return self
        return Thought(self.logits.repeat(times, 1, 1), self.queries.repeat(times, 1, 1), self.request.repeated(times))


class PointerNetwork(nn.Module):
    """Gives logits over candidates, and a latent of the request for a value head.

    Attributes:
        latent_dim: Length of the latent.
        item_dim: Length of a candidate's vector.
        has_context: Whether it knows more of a request than its candidates.
        start_dim: Length of the noise that gives further starts; 0 if there are none.
        noises: Noise of the further starts in the order of their use, ``(starts, start_dim)``; random until an agent
            orders them. They are the same for every request, so that an answer depends on its request alone.
    """

    catalogue: Tensor | None
    noises: Tensor

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
        one_hot: bool = False,
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
            one_hot: Whether fixed candidates are the one-hot rows of ``dim`` items, which need no catalogue.
        """
        super().__init__()
        self.slots, self.item_dim, self.start_dim = slots, dim, size.start_dim
        whole = slots * size.width
        contexts, context_dim = (contexts, context_dim) if size.context else ((), 0)
        self.has_context = bool(contexts) or context_dim > 0 or slot_dim > 0
        # A fixed catalogue would only swell every observation; not persistent, since it is the problem's, not learned.
        self.register_buffer("catalogue", catalogue, persistent=False)
        # Features have units of their own; vectors of other requests' candidates are not known without a pool.
        known = pool if catalogue is None else catalogue
        self.item_units = None if known is None else _Units(dim, known)
        self.one_hot = one_hot
        if one_hot:
            self.item_units = _Units.of_one_hot(slots, dim)
        self.items = _ItemBody(dim, size.width, None if catalogue is None and not one_hot else slots)
        self.context_tables = nn.ModuleList(nn.Embedding(categories, whole) for categories in contexts)
        self.context_body = None if context_dim == 0 else _context_body(context_dim, size.hidden, whole)
        self.context_units = None if context_dim == 0 else _Units(context_dim, context_vectors)
        self.slot_body = None if slot_dim == 0 else nn.Linear(slot_dim, size.width)
        self.start_body = None if size.start_dim == 0 else nn.Linear(size.start_dim, whole, bias=False)
        self.start = nn.Parameter(torch.randn(slots, size.width))
        self.round = _Round(whole, size.hidden)
        self.damping = nn.Parameter(torch.tensor(1.0))
        # Logarithms of the inverse temperatures: the first picks are vague, the last ones decided.
        self.sharpness = nn.Parameter(torch.linspace(-1.0, 0.0, size.rounds + 1))
        self.latent_dim = whole
        if size.start_dim:
            self.register_buffer("noises", torch.randn(KNOWN_STARTS, size.start_dim))

    def forward(
        self,
        candidates: Tensor | None,
        mask: Tensor | None,
        context: Tensor | None,
        context_vector: Tensor | None = None,
        slot_features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns the logits ``(batch, slots, items)``, not masked, and the latent; arguments as for :meth:`read`."""
        thought = self.think(self.read(candidates, mask, context, context_vector, slot_features))
        return thought.logits, thought.latent

    def read(
        self,
        candidates: Tensor | None,
        mask: Tensor | None,
        context: Tensor | None,
        context_vector: Tensor | None = None,
        slot_features: Tensor | None = None,
    ) -> Request:
        """Reads requests.

        Args:
            candidates: Tensor of shape ``(batch, items, dim)``; None for a fixed catalogue.
            mask: Boolean tensor that broadcasts to ``(batch, slots, items)``, true where allowed; or None.
            context: Long tensor of shape ``(batch, columns)``; or None.
            context_vector: Float tensor of shape ``(batch, context_dim)``; or None.
            slot_features: Float tensor of shape ``(batch, slots, slot_dim)``; or None.

        Raises:
            ValueError: If candidates or context are missing.
        """
        keys, values = self._keys_and_values(candidates)
        requests = next((part for part in (candidates, context, context_vector) if part is not None), None)
        if requests is None or (context is None and len(self.context_tables)):
            raise ValueError("expected a context in the observation, got none")
        base = self._base(len(requests), context, context_vector, slot_features)
        mask = mask.unsqueeze(0) if mask is not None and mask.dim() == 2 else mask
        return Request(base, _Items(keys, values, candidates is None), mask)

    def _keys_and_values(self, candidates: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the items' keys and values, ``(batch, items, width)`` or ``(slots, items, width)``."""
        vectors = self.catalogue if candidates is None else candidates
        if vectors is None:
            if not self.one_hot or self.item_units is None:
                raise ValueError("expected candidates in the observation, got none and no fixed catalogue")
            return self.items.of_one_hot(self.item_units)
        found: tuple[Tensor, Tensor] = self.items(vectors if self.item_units is None else self.item_units(vectors))
        return found

    def think(self, request: Request, noise: Tensor | None = None) -> Thought:
        """Lets the slots agree.

        Args:
            request: The requests.
            noise: Standard normal numbers ``(batch, start_dim)`` for another start than that of one pass; or None.

        Raises:
            ValueError: If there is noise for a network without starts.
        """
        if noise is not None:
            if self.start_body is None:
                raise ValueError("expected no noise for a network without starts (start_dim 0), got some")
            request = replace(request, base=request.base + self.start_body(noise).view_as(request.base))
        queries, damping = request.base, torch.sigmoid(self.damping)
        *sharpness, last = self.sharpness.exp().unbind()
        for sharp in sharpness:
            picks = request.items.picks(queries * sharp, request.mask)
            queries = torch.lerp(queries, request.base + self.round(queries, picks), damping)
        return Thought(request.items.logits(queries * last), queries, request)

    def think_on(self, thought: Thought, choice: Tensor) -> Thought:
        """Lets the slots agree for one more round, in which some slots already hold their item.

        Args:
            thought: What they have agreed on.
            choice: Long tensor of shape ``(batch, slots)``, :data:`slot_rl.selectors.rules.OPEN` in the other slots.
        """
        request, sharp = thought.request, self.sharpness[-1].exp()
        picks = request.items.picks(thought.queries * sharp, request.mask)
        picks = torch.where((choice == OPEN).unsqueeze(-1), picks, request.items.values_of(choice.clamp_min(0)))
        queries = torch.lerp(thought.queries, request.base + self.round(thought.queries, picks), self.damping.sigmoid())
        return Thought(request.items.logits(queries * sharp), queries, request)

    def _base(
        self, batch: int, context: Tensor | None, context_vector: Tensor | None, slot_features: Tensor | None
    ) -> Tensor:
        """Returns what each slot knows before it sees the items, ``(batch, slots, width)``."""
        base = self.start.expand(batch, -1, -1)
        for column, table in enumerate(self.context_tables):
            assert context is not None
            base = base + table(context[:, column]).view_as(base)
        if self.context_body is not None and self.context_units is not None:
            if context_vector is None:
                raise ValueError("expected a context vector in the observation, got none")
            base = base + self.context_body(self.context_units(context_vector)).view_as(base)
        if self.slot_body is not None:
            if slot_features is None:
                raise ValueError("expected slot features in the observation, got none")
            base = base + self.slot_body(slot_features)
        return base


@dataclass(frozen=True)
class _Items:
    """Keys and values ``(batch, items, width)``, or ``(slots, items, width)`` of a catalogue that a batch shares."""

    keys: Tensor
    values: Tensor
    fixed: bool

    def logits(self, queries: Tensor) -> Tensor:
        """Returns the affinity of queries ``(batch, slots, width)`` and keys, ``(batch, slots, items)``."""
        queries = queries / sqrt(queries.shape[-1])
        if self.fixed:
            return (queries.transpose(0, 1) @ self.keys.transpose(1, 2)).transpose(0, 1)
        return queries @ self.keys.transpose(1, 2)

    def picks(self, queries: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the mean value of what each slot would pick, ``(batch, slots, width)``."""
        if self.fixed:
            # Each slot has items of its own: slots take the place of the batch.
            queries = queries.transpose(0, 1)
            mask = None if mask is None else mask.transpose(0, 1)
        # With a dimension of heads this is a single fused operation, forwards and backwards.
        queries, keys, values = (part.unsqueeze(1) for part in (queries, self.keys, self.values))
        allowed = None if mask is None else mask.unsqueeze(1)
        picks = nn.functional.scaled_dot_product_attention(queries, keys, values, allowed).squeeze(1)
        return picks.transpose(0, 1) if self.fixed else picks

    def values_of(self, choice: Tensor) -> Tensor:
        """Returns the values of the items in a choice ``(batch, slots)``, ``(batch, slots, width)``."""
        if self.fixed:
            return self.values[torch.arange(choice.shape[1]), choice]
        return self.values.gather(1, choice.unsqueeze(-1).expand(-1, -1, self.values.shape[-1]))

    def repeated(self, times: int) -> "_Items":
        """Returns the items of a batch that is repeated as a whole."""
        if self.fixed:
            return self
        return replace(self, keys=self.keys.repeat(times, 1, 1), values=self.values.repeat(times, 1, 1))


class _ItemBody(nn.Module):
    """Makes a key and a value of each item's vector, ``(..., items, dim)``: a linear part and a nonlinear one.

    Different features' embeddings live in unrelated spaces, so each slot of a fixed catalogue has a projection. Few
    numbers that observations bring are a user's own, and their products can matter: on Slots-v0 no agent's network
    learned to multiply them in 100,000 calls (trials; no command repeats them). Most products of several numbers are
    near zero and a few are large; the inverse hyperbolic sine tells the former apart and keeps the latter in bounds.
    """

    def __init__(self, dim: int, width: int, slots: int | None) -> None:
        super().__init__()
        self.multiplies = slots is None and dim <= MOST_MULTIPLIED
        if self.multiplies:
            dim += products_of_numbers(torch.zeros(dim)).shape[-1]
        inner = ITEM_HIDDEN + 2 * width
        self.embed: nn.Module = nn.Linear(dim, inner) if slots is None else _PerSlotLinear(slots, dim, inner)
        hidden, self.head = nn.Linear(ITEM_HIDDEN, ITEM_HIDDEN), nn.Linear(ITEM_HIDDEN, 2 * width)
        self.body = nn.Sequential(nn.SiLU(), hidden, nn.SiLU())
        for layer in (hidden, self.head):
            # He's initialisation: with PyTorch's, the linear part alone would decide for long.
            nn.init.normal_(layer.weight, std=sqrt(2 / ITEM_HIDDEN))
            nn.init.zeros_(layer.bias)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        if self.multiplies:
            products = products_of_numbers(vectors.clamp(-LARGEST_FACTOR, LARGEST_FACTOR))
            vectors = torch.cat([vectors, torch.asinh(NEAR_ZERO * products)], dim=-1)
        return self._of_embedded(self.embed(vectors))

    def of_one_hot(self, units: "_Units") -> tuple[Tensor, Tensor]:
        """Returns the same for one-hot rows in some units, without the matrix of ``items * items`` numbers."""
        assert isinstance(self.embed, _PerSlotLinear)
        weight = self.embed.weight
        return self._of_embedded((weight - units.mean @ weight) / units.spread + self.embed.bias)

    def _of_embedded(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        nonlinear, linear = embedded.split([ITEM_HIDDEN, self.head.out_features], dim=-1)
        keys, values = (self.head(self.body(nonlinear)) + linear).chunk(2, dim=-1)
        return keys, values


class _Round(nn.Module):
    """Makes the slots' next queries from what they would pick and their present queries."""

    def __init__(self, whole: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(whole, whole, bias=False)
        self.norm = nn.LayerNorm(2 * whole)
        self.joint = nn.Sequential(nn.Linear(2 * whole, hidden), nn.SiLU(), nn.Linear(hidden, whole))

    def forward(self, queries: Tensor, picks: Tensor) -> Tensor:
        flat = picks.flatten(1)
        together: Tensor = self.joint(self.norm(torch.cat([flat, queries.flatten(1)], dim=1))) + self.linear(flat)
        return together.view_as(queries)


class _Units(nn.Module):
    """Takes off the mean of some vectors and divides by their spread, so that the user's units do not matter."""

    mean: Tensor
    spread: Tensor

    def __init__(self, dim: int, vectors: Tensor | None) -> None:
        super().__init__()
        mean, spread = torch.zeros(dim), torch.ones(dim)
        if vectors is not None and vectors.dim() == 3:
            mean = vectors.mean(dim=1, keepdim=True)
            spread = (vectors - mean).square().mean(dim=(1, 2), keepdim=True).sqrt().clamp_min(1e-9)
        elif vectors is not None:
            mean, spread = mean_and_spread(vectors)
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    @classmethod
    def of_one_hot(cls, slots: int, items: int) -> "_Units":
        """Returns the units of each slot's one-hot rows."""
        units = cls(items, None)
        units.mean = torch.full((slots, 1, items), 1 / items)
        units.spread = torch.full((slots, 1, 1), max(sqrt(items - 1) / items, 1e-9))
        return units

    def forward(self, vectors: Tensor) -> Tensor:
        return (vectors - self.mean) / self.spread


def _context_body(dim: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, out))


class _PerSlotLinear(nn.Module):
    """A linear map of its own for each slot's catalogue, ``(slots, items, dim)`` to ``(slots, items, width)``."""

    def __init__(self, slots: int, dim: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter((2 * torch.rand(slots, dim, width) - 1) / sqrt(dim))
        self.bias = nn.Parameter(torch.zeros(slots, 1, width))

    def forward(self, catalogue: Tensor) -> Tensor:
        return catalogue @ self.weight + self.bias

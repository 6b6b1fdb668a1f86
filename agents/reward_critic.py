"""A critic of rewards: networks that learn from rewards alone what a configuration is worth.

There are two kinds of networks: plain ones, and ones that also see products of their inputs, each slot's numbers with
one another and learned ones over the whole configuration. Each kind predicts new rewards before it learns from them, so
the error on fresh rewards says which kind suits a problem; the others are left off after a trial. The spread of the
networks says where the critic does not know.

Lakshminarayanan, Pritzel, Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles"
(2017); Jayakumar et al., "Multiplicative Interactions and Where to Find Them" (2020), for products.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor, nn

from slot_rl.agents.recent import Recent
from slot_rl.estimators.net import EMBEDDING_SCALE, EstimatorNet, EstimatorShape
from slot_rl.estimators.units import mean_and_spread
from slot_rl.problems import Observation
from slot_rl.selectors.categorical import one_hot

KINDS = ("plain", "products")
EMBEDDING, PRODUCTS, MOST_MONOMIALS = 8, (16,), 64
BOUND = 4.0
"""Products of a slot's numbers are cut off here, in standard deviations of the numbers: few, but large ones lead."""
WEIGHT_DECAY, LONGEST_GRADIENT = 0.3, 1.0
FORGET = 0.2
"""Weight of the latest rewards in the running error on fresh ones."""


@dataclass(frozen=True)
class CriticShape:
    """What a critic is asked about, and its sizes.

    Attributes:
        slots: Slots of a configuration.
        sizes: Items of each slot, where they are the same in every request; empty where requests bring vectors.
        dim: Length of an item's vector; 0 where items have none.
        numbers: Numbers of a request, with those of its slots.
        contexts: Categories of each context column.
        members: Networks of each kind.
        hidden: Width of the two hidden layers.
    """

    slots: int
    sizes: tuple[int, ...]
    dim: int
    numbers: int
    contexts: tuple[int, ...]
    members: int = 2
    hidden: int = 128


class RewardCritic(nn.Module):
    """Networks of each kind, which score configurations in the units of the reward.

    Attributes:
        shape: The sizes.
        kinds: The kind of each network.
        error: Each network's running mean squared error on fresh rewards, in variances of the reward, ``(networks,)``.
        kept: The kind that the trial has decided for, as its place in :data:`KINDS`; -1 before.
        optimizer: AdamW; its state belongs to a checkpoint.
    """

    error: Tensor
    kept: Tensor
    known: Tensor
    offset: Tensor
    spread: Tensor

    def __init__(self, shape: CriticShape, learning_rate: float) -> None:
        """Builds the networks; weights come from the global generator (see ``slot_rl.seeding``)."""
        super().__init__()
        self.shape = shape
        self.kinds = [kind for kind in KINDS for _ in range(shape.members)]
        self.members = nn.ModuleList(_Member(shape, kind == "products") for kind in self.kinds)
        self.register_buffer("error", torch.ones(len(self.members)))
        self.register_buffer("kept", torch.tensor(-1))
        self.register_buffer("known", torch.tensor(False))
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))
        for name, size in (("vectors", shape.dim), ("numbers", shape.numbers)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_spread", torch.ones(size))
        self.optimizer = torch.optim.AdamW(self.parameters(), learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
        self._learning_rate = learning_rate

    @property
    def asked(self) -> list[int]:
        """The numbers of the networks that are asked: all until the trial has decided."""
        kept = int(self.kept)
        return [number for number, kind in enumerate(self.kinds) if kept < 0 or kind == KINDS[kept]]

    def errors(self) -> dict[str, float]:
        """Returns each kind's mean squared error on fresh rewards, in variances of the reward."""
        return {kind: float(part.mean()) for kind, part in zip(KINDS, self.error.chunk(len(KINDS)), strict=True)}

    def decide(self) -> None:
        """Keeps the kind whose error on fresh rewards is the smallest, and leaves the others off."""
        self.kept.fill_(int(torch.stack([part.mean() for part in self.error.chunk(len(KINDS))]).argmin()))

    def forward(self, observation: Observation, selection: Tensor) -> Tensor:
        """Returns each asked network's scores ``(networks, batch)`` in the units of the reward.

        Args:
            observation: The requests.
            selection: One-hot or relaxed rows, ``(batch, slots, items)``.
        """
        return self._scores(self.rows(observation, selection)) * self.spread + self.offset

    def rows(self, observation: Observation, selection: Tensor) -> dict[str, Tensor]:
        """Returns what the networks see of configurations, by name; arguments as for a call."""
        rows = {"vectors": selection}
        if observation.candidates is not None:
            rows = {"vectors": selection @ observation.candidates}
        given = (observation.context_vector, observation.slot_features)
        numbers = [part.flatten(1) for part in given if part is not None]
        if numbers:
            rows["numbers"] = torch.cat(numbers, dim=1)
        if observation.context is not None and self.shape.contexts:
            rows["context"] = observation.context
        return rows

    def kept_rows(self, observation: Observation, choice: Tensor, reward: Tensor) -> dict[str, Tensor]:
        """Returns what a memory keeps of scored choices ``(batch, slots)``: items by number where they are fixed."""
        selection = choice
        if not self.shape.sizes:
            assert observation.candidates is not None
            selection = one_hot(choice, observation.candidates.shape[1], torch.float32)
        return {**self.rows(observation, selection), "reward": reward}

    @torch.no_grad()
    def watch(self, rows: Mapping[str, Tensor]) -> None:
        """Measures the networks' errors on rewards from which they have not learned."""
        if not self.known:
            return
        target = (rows["reward"] - self.offset) / self.spread
        asked = self.asked
        error = (self._scores(rows) - target).square().mean(dim=1)
        self.error[asked] = torch.lerp(self.error[asked], error, FORGET)

    def learn(self, memory: Recent, steps: int, batch: int, remaining: float, generator: torch.Generator) -> float:
        """Takes some steps towards the rewards of a memory.

        Args:
            memory: What :meth:`kept_rows` gave.
            steps: Gradient steps.
            batch: Rewards of a step.
            remaining: The share of the training that is left, from 1 to 0.
            generator: Source of the batches.

        Returns:
            The mean squared error of the last step, in variances of the reward.
        """
        self._take_units(memory)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate * remaining
        asked, loss = self.asked, torch.zeros(())
        for _ in range(steps):
            rows = memory.sample(batch, generator)
            target = (rows["reward"] - self.offset) / self.spread
            loss = (self._scores(rows) - target).square().mean(dim=1).sum()
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), LONGEST_GRADIENT * len(asked))
            self.optimizer.step()
        return float(loss.detach()) / len(asked)

    def _scores(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Returns standardised scores ``(networks, batch)``."""
        vectors, numbers = rows["vectors"], rows.get("numbers")
        if not self.shape.sizes:
            vectors = (vectors - self.get_buffer("vectors_mean")) / self.get_buffer("vectors_spread")
        if numbers is not None:
            numbers = (numbers - self.get_buffer("numbers_mean")) / self.get_buffer("numbers_spread")
        asked = self.asked
        seen = {"plain": vectors}
        if "products" in {self.kinds[number] for number in asked}:
            seen["products"] = vectors if self.shape.sizes else with_monomials(vectors)
        scores = [self.members[number](seen[self.kinds[number]], numbers, rows.get("context")) for number in asked]
        return torch.stack(scores)

    def _take_units(self, memory: Recent) -> None:
        """Takes the units of rewards from all that are kept, and those of vectors from the first ones."""
        reward = memory["reward"].double()
        self.offset.copy_(reward.mean())
        # Where all rewards are equal, rounding errors must not count as differences.
        self.spread.copy_(reward.std().clamp_min(1e-6 * (1 + abs(float(reward.mean())))))
        if self.known:
            return
        for name in ("numbers",) if self.shape.sizes else ("vectors", "numbers"):
            if self.get_buffer(f"{name}_mean").numel():
                mean, spread = mean_and_spread(memory[name].flatten(0, -2))
                self.get_buffer(f"{name}_mean").copy_(mean)
                self.get_buffer(f"{name}_spread").copy_(spread)
        self.known.fill_(True)


class _Member(nn.Module):
    """One network over a whole configuration, which it sees as a single vector."""

    def __init__(self, shape: CriticShape, products: bool) -> None:
        super().__init__()
        self.catalogue: nn.Parameter | None = None
        dim = with_monomials(torch.zeros(1, shape.dim)).shape[1] if products else shape.dim
        if shape.sizes:
            dim = EMBEDDING
            self.catalogue = nn.Parameter(torch.randn(shape.slots, max(shape.sizes), dim) * EMBEDDING_SCALE)
        width, hidden = shape.slots * dim + shape.numbers, (shape.hidden, shape.hidden)
        widths = PRODUCTS if products else ()
        self.net = EstimatorNet(EstimatorShape(1, width, hidden, contexts=shape.contexts, product_widths=widths))

    def forward(self, vectors: Tensor, numbers: Tensor | None, context: Tensor | None) -> Tensor:
        """Returns standardised scores ``(batch,)``."""
        if self.catalogue is not None and vectors.is_floating_point():
            vectors = torch.einsum("bsn,snd->bsd", vectors, self.catalogue)
        elif self.catalogue is not None:
            vectors = self.catalogue[torch.arange(vectors.shape[1]), vectors]
        seen = vectors.flatten(1) if numbers is None else torch.cat([vectors.flatten(1), numbers], dim=1)
        scores: Tensor = self.net(seen.unsqueeze(1), context)
        return scores


def with_monomials(vectors: Tensor) -> Tensor:
    """Returns vectors ``(..., dim)`` with the products of different numbers beside them, of as high a degree as are few.

    There are at most :data:`MOST_MONOMIALS` numbers in all, cut off at :data:`BOUND`.
    """
    dim, columns = vectors.shape[-1], vectors
    first, before = 0, [(number,) for number in range(dim)]
    for degree in range(2, dim + 1):
        if columns.shape[-1] + comb(dim, degree) > MOST_MONOMIALS:
            break
        # Each product is one of the degree below times a number that comes later.
        made = [(place, number) for place, each in enumerate(before) for number in range(each[-1] + 1, dim)]
        products = columns[..., [first + place for place, _ in made]] * vectors[..., [number for _, number in made]]
        first, before = columns.shape[-1], [(*before[place], number) for place, number in made]
        columns = torch.cat([columns, products], dim=-1)
    return columns.clamp(-BOUND, BOUND)

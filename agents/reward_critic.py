"""A critic of rewards: networks that learn from rewards alone what a configuration is worth.

There are two kinds of networks: plain ones, and ones that also see products of their inputs, each slot's numbers with
one another and learned ones over the whole configuration. The error on held-out rewards says which kind suits a
problem. The spread of several networks of a kind says where the critic does not know.

A critic is fitted anew whenever there are many more rewards than before: a step size that falls to zero finds what one
that never does cannot.

Lakshminarayanan, Pritzel, Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles"
(2017); Jayakumar et al., "Multiplicative Interactions and Where to Find Them" (2020), for products.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from slot_rl.agents.recent import Recent
from slot_rl.estimators.net import EMBEDDING_SCALE, EstimatorNet, EstimatorShape
from slot_rl.estimators.slot_products import products_of_numbers
from slot_rl.estimators.units import mean_and_spread
from slot_rl.problems import Observation, Problem
from slot_rl.seeding import SEEDS, seeded_initialisation

NETWORK_KINDS = ("plain", "products")
EMBEDDING, PRODUCTS = 8, (16,)
BOUND = 4.0
"""Products of a slot's numbers are cut off here, in standard deviations of the numbers: few, but large ones lead."""
HELD_OUT, FEWEST_HELD_OUT = 0.1, 2
LONGEST_GRADIENT, WARM_UP = 1.0, 0.1


@dataclass(frozen=True)
class CriticShape:
    """What a critic is asked about, and its sizes.

    Attributes:
        slots: Slots of a configuration.
        sizes: Items of each slot, where they are the same in every request; empty where requests bring vectors.
        dim: Length of an item's vector; 0 where items have none.
        numbers: Numbers of a request, with those of its slots.
        contexts: Categories of each context column.
        members: Networks.
        hidden: Width of the two hidden layers.
    """

    slots: int
    sizes: tuple[int, ...]
    dim: int
    numbers: int
    contexts: tuple[int, ...]
    members: int = 2
    hidden: int = 128

    @classmethod
    def of(cls, observations: Any, actions: Any, members: int) -> "CriticShape":
        """Returns the sizes for the spaces of a slots environment."""
        parts, sizes = observations.spaces, tuple(map(int, actions.nvec))
        vectors = parts["candidates"].shape[-1] if "candidates" in parts else 0
        numbers = sum(prod(parts[name].shape) for name in ("context_vector", "slot_features") if name in parts)
        contexts = tuple(map(int, parts["context"].nvec)) if "context" in parts else ()
        return cls(len(sizes), () if vectors else sizes, vectors, numbers, contexts, members)


@dataclass(frozen=True)
class CriticFit:
    """Settings for fitting a critic.

    Attributes:
        fit_steps: Most gradient steps.
        fewest_steps: Fewest gradient steps; between the two, one for each :attr:`rewards_a_step` rewards.
        rewards_a_step: Rewards for each gradient step.
        fit_batch: Rewards of a step.
        fit_rate: AdamW's largest step size.
        weight_decay: Decoupled weight decay.
    """

    fit_steps: int = 2_000
    fewest_steps: int = 300
    rewards_a_step: int = 5
    fit_batch: int = 256
    fit_rate: float = 2e-2
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        """Refuses values that no fit could use."""
        counts = self.fewest_steps, self.rewards_a_step, self.fit_batch, self.fit_steps - self.fewest_steps + 1
        if min(counts) < 1 or not (self.fit_rate > 0 and self.weight_decay >= 0):
            raise ValueError(
                "expected 1 <= fewest_steps <= fit_steps, rewards_a_step and fit_batch >= 1, fit_rate > 0 and "
                f"weight_decay >= 0, got {self}"
            )

    def steps_for(self, rewards: int) -> int:
        """Returns the gradient steps for so many rewards."""
        return min(self.fit_steps, max(self.fewest_steps, rewards // self.rewards_a_step))


class RewardCritic(nn.Module):
    """Networks of one kind, which score configurations in the units of the reward."""

    offset: Tensor
    spread: Tensor

    def __init__(self, shape: CriticShape, kind: str) -> None:
        """Builds the networks; weights come from the global generator (see ``slot_rl.seeding``)."""
        super().__init__()
        self.shape, self.kind = shape, kind
        self.members = nn.ModuleList(_Member(shape, kind == "products") for _ in range(shape.members))
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))
        for name, size in (("vectors", shape.dim), ("numbers", shape.numbers)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_spread", torch.ones(size))

    def forward(self, observation: Observation, selection: Tensor) -> Tensor:
        """Returns each network's scores ``(members, batch)`` in the units of the reward.

        Args:
            observation: The requests.
            selection: One-hot or relaxed rows, ``(batch, slots, items)``.
        """
        vectors = selection if self.shape.sizes else selection @ _candidates(observation)
        return self._scores({"vectors": vectors, **_given(self.shape, observation)})

    def of_choices(self, observation: Observation, choices: Tensor) -> Tensor:
        """Returns each network's scores ``(members, several, batch)`` of choices ``(several, batch, slots)``."""
        several, batch, _ = choices.shape
        vectors = _vectors(self.shape, observation, choices).flatten(0, 1)
        given = {name: part.repeat(several, 1) for name, part in _given(self.shape, observation).items()}
        return self._scores({"vectors": vectors, **given}).view(-1, several, batch)

    def _scores(self, rows: Mapping[str, Tensor]) -> Tensor:
        return self.standardised(rows) * self.spread + self.offset

    def standardised(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Returns standardised scores ``(members, batch)`` of what :func:`rewarded_rows` gave."""
        vectors, numbers = rows["vectors"], rows.get("numbers")
        if not self.shape.sizes:
            vectors = (vectors - self.get_buffer("vectors_mean")) / self.get_buffer("vectors_spread")
            vectors = with_products(vectors) if self.kind == "products" else vectors
        if numbers is not None:
            numbers = (numbers - self.get_buffer("numbers_mean")) / self.get_buffer("numbers_spread")
        return torch.stack([member(vectors, numbers, rows.get("context")) for member in self.members])

    def errors(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Returns each network's squared errors ``(members, batch)``, in variances of the reward."""
        return (self.standardised(rows) - (rows["reward"] - self.offset) / self.spread).square()

    def take_units(self, rows: Mapping[str, Tensor]) -> None:
        """Takes the units of rewards, vectors and numbers from rows."""
        mean, deviation = rows["reward"].double().mean(), rows["reward"].double().std()
        self.offset.copy_(mean)
        # Where all rewards are equal, rounding errors must not count as differences.
        self.spread.copy_(deviation.clamp_min(1e-6 * (1 + abs(float(mean)))))
        for name in ("numbers",) if self.shape.sizes else ("vectors", "numbers"):
            if name in rows:
                mean, spread = mean_and_spread(rows[name].flatten(0, -2))
                self.get_buffer(f"{name}_mean").copy_(mean)
                self.get_buffer(f"{name}_spread").copy_(spread)


class CorrectedCritic:
    """An estimator that is known beforehand, and a critic of what rewards differ from it by."""

    def __init__(self, critic: RewardCritic, prior: Problem) -> None:
        """Takes the critic, and the requests' problem with the known estimator."""
        self.critic, self.prior = critic, prior

    def __call__(self, observation: Observation, selection: Tensor) -> Tensor:
        """Returns scores ``(members, batch)`` as :class:`RewardCritic` does."""
        learned: Tensor = self.critic(observation, selection)
        return learned + self.prior.score_selection(observation, selection)

    def of_choices(self, observation: Observation, choices: Tensor) -> Tensor:
        """Returns scores ``(members, several, batch)`` as :class:`RewardCritic` does."""
        return self.critic.of_choices(observation, choices) + self.prior.score(observation, choices)


Critic = RewardCritic | CorrectedCritic


def rewarded_rows(shape: CriticShape, observation: Observation, choice: Tensor, reward: Tensor) -> dict[str, Tensor]:
    """Returns what a memory keeps of choices ``(batch, slots)`` and their rewards: fixed items by their numbers."""
    return {"vectors": _vectors(shape, observation, choice), **_given(shape, observation), "reward": reward}


def fit_critic(
    memory: Recent, shape: CriticShape, fit: CriticFit, kinds: Sequence[str], generator: torch.Generator
) -> tuple[RewardCritic, dict[str, float]]:
    """Fits networks of some kinds to nine tenths of the rewards in a memory, and returns the better kind.

    Args:
        memory: What :func:`rewarded_rows` gave.
        shape: The sizes.
        fit: Steps and step size.
        kinds: Those of :data:`NETWORK_KINDS` that are compared.
        generator: Source of weights, of the rewards that are held out, and of their order.

    Returns:
        The critic with the smallest error on the held-out rewards, and each kind's, in variances of the reward.
    """
    order = torch.randperm(len(memory), generator=generator)
    held_out = max(FEWEST_HELD_OUT, round(HELD_OUT * len(memory)))
    test, train = memory.rows(order[:held_out]), order[held_out:]
    critics, errors = {}, {}
    for kind in kinds:
        with seeded_initialisation(int(torch.randint(SEEDS, (), generator=generator))):
            critics[kind] = RewardCritic(shape, kind)
        _fit(critics[kind], memory, train, fit, generator)
        with torch.no_grad():
            errors[kind] = float(critics[kind].errors(test).mean())
    best = min(errors, key=lambda kind: errors[kind])
    return critics[best].requires_grad_(False), errors


def _fit(critic: RewardCritic, memory: Recent, train: Tensor, fit: CriticFit, generator: torch.Generator) -> None:
    critic.take_units(memory.rows(train))
    optimizer = torch.optim.AdamW(critic.parameters(), fit.fit_rate, weight_decay=fit.weight_decay, fused=True)
    steps = fit.steps_for(len(train))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, fit.fit_rate, steps + 1, pct_start=WARM_UP)
    for _ in range(steps):
        rows = memory.rows(train[torch.randint(len(train), (fit.fit_batch,), generator=generator)])
        optimizer.zero_grad()
        critic.errors(rows).mean(dim=1).sum().backward()
        for member in critic.members:
            nn.utils.clip_grad_norm_(member.parameters(), LONGEST_GRADIENT)
        optimizer.step()
        schedule.step()


def _candidates(observation: Observation) -> Tensor:
    assert observation.candidates is not None
    return observation.candidates


def _vectors(shape: CriticShape, observation: Observation, choices: Tensor) -> Tensor:
    """Returns the vectors of choices ``(..., batch, slots)``, or the choices where items have none."""
    if shape.sizes:
        return choices
    return _candidates(observation)[torch.arange(len(observation)).unsqueeze(1), choices]


def _given(shape: CriticShape, observation: Observation) -> dict[str, Tensor]:
    """Returns what networks see of requests besides the items, by name, ``(batch, ...)``."""
    numbers = [part.flatten(1) for part in (observation.context_vector, observation.slot_features) if part is not None]
    found = {"numbers": torch.cat(numbers, dim=1)} if numbers else {}
    return found | ({"context": observation.context} if observation.context is not None and shape.contexts else {})


class _Member(nn.Module):
    """One network over a whole configuration, which it sees as a single vector."""

    def __init__(self, shape: CriticShape, products: bool) -> None:
        super().__init__()
        self.catalogue: nn.Parameter | None = None
        dim = with_products(torch.zeros(1, shape.dim)).shape[1] if products else shape.dim
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


def with_products(vectors: Tensor) -> Tensor:
    """Returns vectors ``(..., dim)`` with the products of their numbers, cut off at :data:`BOUND`."""
    return torch.cat([vectors, products_of_numbers(vectors)], dim=-1).clamp(-BOUND, BOUND)

"""The policy that all agents share: a thin Stable-Baselines3 ``ActorCriticPolicy`` around the policy network.

It is built from the spaces alone, so it works with Stable-Baselines3's own algorithms:
``PPO(SlotPolicy, SlotVecEnv("SlotRL/Slots-v0", 256))``. Its distribution of independent slots takes a few tensor
operations for all slots together and draws from the policy's generator, unlike ``MultiCategoricalDistribution``.
"""

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from slot_rl.networks import PointerNetwork, PointerSize
from slot_rl.problems import Observation, Problem
from slot_rl.seeding import generator_from
from slot_rl.selectors import masked_logits
from slot_rl.selectors.categorical import gumbel_noise

VALUE_HIDDEN = 64
UNIT_REQUESTS = 1_024
"""Requests from which the units of context vectors are taken."""


def entropy_of(logits: Tensor) -> Tensor:
    """Returns the entropy in nats of independent slots, ``(batch,)``, from masked logits ``(batch, slots, items)``."""
    log_p = torch.log_softmax(logits, dim=-1)
    # A masked item has p = 0 and log p = -inf, whose product is NaN where it should be 0.
    return -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(dim=(-1, -2))


def log_prob_of(logits: Tensor, choice: Tensor) -> Tensor:
    """Returns the log-probability ``(batch,)`` of choices ``(batch, slots)`` from logits ``(batch, slots, items)``."""
    log_p = torch.log_softmax(logits, dim=-1)
    return log_p.gather(-1, choice.unsqueeze(-1)).squeeze(-1).sum(dim=-1)


class SlotDistribution(Distribution):
    """A distribution over choices, from masked logits of shape ``(batch, slots, items)``."""

    def __init__(self, generator: torch.Generator) -> None:
        """Takes the generator that samples are drawn from."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = generator
        self._logits = torch.zeros(0)

    def proba_distribution(self, logits: Tensor) -> "SlotDistribution":
        """Sets the masked logits."""
        self._logits = logits
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """Returns the log-probability ``(batch,)`` of choices ``(batch, slots)``."""
        return log_prob_of(self._logits, actions.long())

    def entropy(self) -> Tensor:
        """Returns the entropy in nats, ``(batch,)``."""
        return entropy_of(self._logits)

    def sample(self) -> Tensor:
        """Draws a choice, ``(batch, slots)``; an item with masked logits is never drawn."""
        return (self._logits + gumbel_noise(self._logits, self._generator)).argmax(dim=-1)

    def mode(self) -> Tensor:
        """Returns the most probable choice, ``(batch, slots)``."""
        return self._logits.argmax(dim=-1)

    def proba_distribution_net(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Refuses: the pointer network gives the logits itself."""
        raise TypeError("expected the logits of a pointer network, got a request for a layer that makes them")

    def actions_from_params(self, logits: Tensor, deterministic: bool = False) -> Tensor:
        """Returns a choice from masked logits."""
        return self.proba_distribution(logits).get_actions(deterministic)

    def log_prob_from_params(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Draws a choice from masked logits and returns it with its log-probability."""
        actions = self.actions_from_params(logits)
        return actions, self.log_prob(actions)


class SlotPolicy(ActorCriticPolicy):
    """Logits from the pointer network, a value from its latent, and slots drawn independently.

    Attributes:
        network: The pointer network.
        generator: Source of sampled choices; seeded from the global generator as the weights are.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        size: PointerSize | None = None,
        catalogue: Tensor | None = None,
        pool: Tensor | None = None,
        context_vectors: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """Builds the policy.

        Args:
            observation_space: Dict of ``candidates``, ``mask`` and ``context``, as far as they vary.
            action_space: MultiDiscrete with one entry per slot.
            lr_schedule: Step size by remaining progress.
            size: Sizes of the pointer network; the default sizes if None.
            catalogue: Fixed candidates ``(slots, items, dim)`` where observations bring none; one-hot rows if None.
            pool: Vectors that candidates are drawn from, ``(vectors, dim)``, for their units.
            context_vectors: Some requests' context vectors ``(requests, context_dim)``, for their units.
            kwargs: Further arguments of ``ActorCriticPolicy``.

        Raises:
            TypeError: If the spaces are not those of a slots environment.
        """
        if not isinstance(observation_space, spaces.Dict) or not isinstance(action_space, spaces.MultiDiscrete):
            raise TypeError(
                "expected a Dict observation and a MultiDiscrete action of a slots environment, "
                f"got {observation_space} and {action_space}"
            )
        self._size = size or PointerSize()
        self._catalogue, self._pool, self._context_vectors = catalogue, pool, context_vectors
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        assert isinstance(self.action_space, spaces.MultiDiscrete)
        assert isinstance(self.observation_space, spaces.Dict)
        sizes = torch.as_tensor(self.action_space.nvec)
        items = int(sizes.max())
        padding = torch.arange(items) < sizes.unsqueeze(-1)
        self.padding: Tensor | None
        self.register_buffer("padding", None if bool(padding.all()) else padding, persistent=False)
        parts = self.observation_space.spaces
        catalogue = self._catalogue
        if "candidates" in parts:
            dim = parts["candidates"].shape[-1]  # type: ignore[index]
        else:
            catalogue = torch.eye(items).expand(len(sizes), -1, -1) if catalogue is None else catalogue
            dim = catalogue.shape[-1]
        contexts = tuple(int(n) for n in parts["context"].nvec) if "context" in parts else ()  # type: ignore[attr-defined]
        numbers = [parts[name].shape if name in parts else (0,) for name in ("context_vector", "slot_features")]
        context_dim, slot_dim = (int(shape[-1]) for shape in numbers if shape is not None)
        numbers_of = context_dim, slot_dim, self._pool, self._context_vectors
        self.network = PointerNetwork(len(sizes), dim, contexts, self._size, catalogue, *numbers_of)
        self.value_head = nn.Sequential(
            nn.Linear(self.network.latent_dim, VALUE_HIDDEN), nn.SiLU(), nn.Linear(VALUE_HIDDEN, 1)
        )
        self.generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def point(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Returns masked logits ``(batch, slots, items)`` and the latent ``(batch, latent_dim)``."""
        mask = self.padding if observation.mask is None else observation.mask
        given = observation.context, observation.context_vector, observation.slot_features
        logits, latent = self.network(observation.candidates, mask, *given)
        return masked_logits(logits, mask), latent

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Returns choices ``(batch, slots)``, values ``(batch, 1)`` and the choices' log-probabilities ``(batch,)``."""
        distribution, values = self.act_and_value(obs)
        actions = distribution.get_actions(deterministic)
        return actions, values, distribution.log_prob(actions)

    def act_and_value(self, obs: PyTorchObs) -> tuple[SlotDistribution, Tensor]:
        """Returns the distribution over choices and the values ``(batch, 1)`` from one pass of the network."""
        logits, latent = self.point(as_observation(obs))
        return SlotDistribution(self.generator).proba_distribution(logits), self.value_head(latent)

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns values ``(batch, 1)``, log-probabilities ``(batch,)`` and entropy ``(batch,)``."""
        distribution, values = self.act_and_value(obs)
        return values, distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: PyTorchObs) -> SlotDistribution:
        """Returns the distribution over choices."""
        return self.act_and_value(obs)[0]

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Returns the values, ``(batch, 1)``."""
        return self.act_and_value(obs)[1]


def as_observation(obs: PyTorchObs) -> Observation:
    """Returns Stable-Baselines3's dict of tensors as an observation; its buffers hold everything as float32."""
    if not isinstance(obs, dict):
        raise TypeError(f"expected a dict observation, got {type(obs).__name__}")
    return Observation.of(obs)


def policy_kwargs(problem: Problem | None, size: PointerSize) -> dict[str, Any]:
    """Returns the arguments that fit :class:`SlotPolicy` to a problem: sizes, fixed candidates, contexts' units."""
    if problem is None:
        return {"size": size}
    contexts = None
    if "context_vector" in problem.observation_parts():
        contexts = problem.sample(UNIT_REQUESTS, generator_from(0)).context_vector
    return {"size": size, "catalogue": problem.catalogue, "pool": problem.pool, "context_vectors": contexts}

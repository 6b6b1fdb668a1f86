"""The policy that all agents share: a thin Stable-Baselines3 ``ActorCriticPolicy`` around the policy network.

It is built from the spaces alone, so it works with Stable-Baselines3's own algorithms:
``PPO(SlotPolicy, SlotVecEnv("SlotRL/Slots-v0", 256))``. Its distribution of independent slots takes a few tensor
operations for all slots together and draws from the policy's generator, unlike ``MultiCategoricalDistribution``.

Where a problem has constraints, slots are drawn one after another under its rules (:class:`slot_rl.selectors.rules`),
and the most probable answer is decoded under them, so that the policy can name nothing else. Slots can also be drawn in
turn: then the network thinks again after each (:class:`slot_rl.selectors.in_turn`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn
from torch.distributions import Distribution as TorchDistribution
from torch.distributions import register_kl
from torch.nn.attention import SDPBackend, sdpa_kernel

from slot_rl.agents.no_pickles import NoFile
from slot_rl.networks import PointerNetwork, PointerSize, Request, Thought
from slot_rl.problems import Observation, Problem
from slot_rl.seeding import generator_from
from slot_rl.selectors import masked_logits
from slot_rl.selectors.categorical import draw, log_prob_of
from slot_rl.selectors.in_turn import InTurn, Rethink
from slot_rl.selectors.rules import Rules, most_confident_first

RulesOf = Callable[[Observation], Rules | None]
VALUE_HIDDEN = 64
STARTS_SEED = 0
"""Seeds the starts beyond those that a network knows."""
UNIT_REQUESTS = 1_024
"""Requests from which the units of context vectors are taken."""


def entropy_of(logits: Tensor) -> Tensor:
    """Returns the entropy in nats of independent slots, ``(batch,)``, from masked logits ``(batch, slots, items)``."""
    log_p = torch.log_softmax(logits, dim=-1)
    # A masked item has p = 0 and log p = -inf, whose product is NaN where it should be 0.
    return -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(dim=(-1, -2))


def given(logits: Tensor, choice: Tensor, rules: Rules | None) -> Tensor:
    """Returns logits ``(batch, slots, items)`` on the condition of a choice; without rules, slots are independent."""
    return logits if rules is None else rules.conditional(logits, choice)


def drawn(logits: Tensor, rules: Rules | None, generator: torch.Generator) -> Tensor:
    """Draws a choice ``(batch, slots)`` from masked logits ``(batch, slots, items)``."""
    return draw(logits, generator) if rules is None else rules.draw(logits, generator)[0]


def most_probable(logits: Tensor, rules: Rules | None) -> Tensor:
    """Returns the answer ``(batch, slots)`` that masked logits ``(batch, slots, items)`` name."""
    return logits.argmax(dim=-1) if rules is None else rules.answer(logits)


class SlotDistribution(Distribution):
    """A distribution over choices, from masked logits of shape ``(batch, slots, items)``, under rules if there are any.

    The entropy under rules is that of each slot given the slots before it, along the last choice that was drawn or
    whose probability was asked for: over the draws, its mean is the entropy of the whole choice.
    """

    def __init__(self, generator: torch.Generator, rules: Rules | None = None) -> None:
        """Takes the generator that samples are drawn from, and the rules of the requests."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator, self._rules = generator, rules
        self._logits = torch.zeros(0)
        self._choice: Tensor | None = None
        self._conditional = self._logits

    def proba_distribution(self, logits: Tensor) -> "SlotDistribution":
        """Sets the masked logits."""
        self._logits = self._conditional = logits
        self._choice = None
        self.distribution = _Divergent(self)
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """Returns the log-probability ``(batch,)`` of choices ``(batch, slots)``."""
        return log_prob_of(self._given(actions.long()), actions.long())

    def entropy(self) -> Tensor:
        """Returns the entropy in nats, ``(batch,)``; see the class."""
        if self._rules is not None and self._choice is None:
            self.sample()
        return entropy_of(self._conditional)

    def divergence(self, other: "SlotDistribution") -> Tensor:
        """Returns the Kullback-Leibler divergence of another distribution from this one in nats, ``(batch,)``.

        Under rules it is that of each slot given the slots before it, along the same choice as :meth:`entropy`.
        """
        if self._rules is not None and self._choice is None:
            self.sample()
        theirs = other._logits if self._choice is None else other._given(self._choice)
        masked = self._conditional == -torch.inf
        log_p, log_q = (
            torch.log_softmax(logits, dim=-1).masked_fill(masked, 0.0) for logits in (self._conditional, theirs)
        )
        return (log_p.exp() * (log_p - log_q)).sum(dim=(-1, -2))

    def sample(self) -> Tensor:
        """Draws a choice, ``(batch, slots)``; an item with masked logits, or that is not allowed, is never drawn."""
        if self._rules is None:
            return draw(self._logits, self._generator)
        self._choice, self._conditional = self._rules.draw(self._logits, self._generator)
        return self._choice

    def mode(self) -> Tensor:
        """Returns the most probable choice, ``(batch, slots)``."""
        return most_probable(self._logits, self._rules)

    def _given(self, choice: Tensor) -> Tensor:
        if self._rules is not None and choice is not self._choice:
            self._choice, self._conditional = choice, self._rules.conditional(self._logits, choice)
        return self._conditional

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


class _Divergent(TorchDistribution):
    """What Stable-Baselines3's ``kl_divergence`` asks of a distribution, as TRPO does."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, choices: SlotDistribution) -> None:
        super().__init__()
        self.choices = choices


@register_kl(_Divergent, _Divergent)  # type: ignore[untyped-decorator]
def _divergence(p: _Divergent, q: _Divergent) -> Tensor:
    return p.choices.divergence(q.choices)


@dataclass(frozen=True)
class PolicyOutput:
    """What a policy says of requests.

    Attributes:
        logits: Masked logits ``(batch, slots, items)``; of slots in turn, those of the first one to be drawn.
        latent: What the value head sees, ``(batch, latent_dim)``.
        rules: What draws keep, and where slots are drawn in turn, how; None if slots are independent.
    """

    logits: Tensor
    latent: Tensor
    rules: Rules | None


class SlotPolicy(NoFile, ActorCriticPolicy):
    """Logits from the pointer network, a value from its latent, and slots drawn independently or in turn.

    Attributes:
        network: The pointer network.
        in_turn: Whether slots are drawn one after another, with the items so far in view.
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
        rules: RulesOf | None = None,
        free: bool = False,
        in_turn: bool = False,
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
            rules: Says what requests allow; everything that is not masked if None.
            free: Whether draws keep no rules, for environments that penalise; answers keep them.
            in_turn: Whether slots are drawn one after another, with the items so far in view.
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
        self._rules, self._free, self.in_turn = rules, free, in_turn
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
        catalogue, one_hot = self._catalogue, False
        if "candidates" in parts:
            dim = parts["candidates"].shape[-1]  # type: ignore[index]
        else:
            one_hot = catalogue is None
            dim = items if catalogue is None else catalogue.shape[-1]
        contexts = tuple(int(n) for n in parts["context"].nvec) if "context" in parts else ()  # type: ignore[attr-defined]
        numbers = [parts[name].shape if name in parts else (0,) for name in ("context_vector", "slot_features")]
        context_dim, slot_dim = (int(shape[-1]) for shape in numbers if shape is not None)
        numbers_of = context_dim, slot_dim, self._pool, self._context_vectors
        self.network = PointerNetwork(len(sizes), dim, contexts, self._size, catalogue, *numbers_of, one_hot=one_hot)
        self.value_head = nn.Sequential(
            nn.Linear(self.network.latent_dim, VALUE_HIDDEN), nn.SiLU(), nn.Linear(VALUE_HIDDEN, 1)
        )
        self.generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        self.optimizer = optimizer_of(self, lr_schedule(1))

    def point(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Returns masked logits ``(batch, slots, items)`` and the latent ``(batch, latent_dim)``."""
        thought = self.network.think(self.read(observation))
        return masked_logits(thought.logits, thought.request.mask), thought.latent

    def output(self, observation: Observation, free: bool = False) -> PolicyOutput:
        """Returns what the policy says of requests; ``free`` leaves out what the requests allow."""
        rules = None if free else self.rules(observation)
        if not self.in_turn:
            return PolicyOutput(*self.point(observation), rules)
        thought = self.network.think(self.read(observation))
        logits = masked_logits(thought.logits, thought.request.mask)
        return PolicyOutput(logits, thought.latent, InTurn(partial(self._begin, thought), rules))

    def _begin(self, thought: Thought, draws: int) -> tuple[Tensor, Rethink]:
        thought = thought.repeated(draws)
        mask = thought.request.mask

        def rethink(choice: Tensor) -> Tensor:
            nonlocal thought
            thought = self.network.think_on(thought, choice)
            return masked_logits(thought.logits, mask)

        return masked_logits(thought.logits, mask), rethink

    def read(self, observation: Observation) -> Request:
        """Returns what the network reads of requests."""
        mask = self.padding if observation.mask is None else observation.mask
        given = observation.context, observation.context_vector, observation.slot_features
        return self.network.read(observation.candidates, mask, *given)

    def rules(self, observation: Observation) -> Rules | None:
        """Returns what the requests allow; None if everything that is not masked."""
        return None if self._rules is None else self._rules(observation)

    def answer(self, observation: Observation) -> Tensor:
        """Returns the most probable allowed choice, ``(batch, slots)``."""
        output = self.output(observation)
        return most_probable(output.logits, output.rules)

    def draw(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Draws an allowed choice, ``(batch, slots)``."""
        return next(self.draws(observation, generator))

    @torch.no_grad()
    def draws(self, observation: Observation, generator: torch.Generator) -> Iterator[Tensor]:
        """Yields allowed choices ``(batch, slots)`` without an end; requests are read once."""
        output = self.output(observation)
        while True:
            yield drawn(output.logits, output.rules, generator)

    @torch.no_grad()
    def confident(self, observation: Observation, noise: Tensor | None = None) -> Tensor:
        """Returns an allowed choice ``(batch, slots)`` whose most confident slot is decided first.

        After each decision the slots think for one more round about the others, which costs a round of the network for
        each slot and no estimator call.

        Args:
            observation: The requests.
            noise: Standard normal numbers ``(batch, start_dim)`` for another start; None for the answer of one pass.
        """
        return self._decided(self.read(observation), self.rules(observation), noise)

    @torch.no_grad()
    def starts(self, observation: Observation) -> Iterator[Tensor]:
        """Yields allowed choices ``(batch, slots)`` for a search to go on from, the best first.

        The first one is :meth:`confident`. A network with starts yields the same with other noise, without an end:
        first with the noises that it knows, in their order. One without starts has no more.
        """
        request, rules = self.read(observation), self.rules(observation)
        yield self._decided(request, rules, None)
        if self.network.start_dim == 0:
            return
        generator = generator_from(STARTS_SEED)
        further = (torch.randn(self.network.start_dim, generator=generator) for _ in count())
        for noise in chain(self.network.noises, further):
            yield self._decided(request, rules, noise.expand(len(observation), -1))

    def _decided(self, request: Request, rules: Rules | None, noise: Tensor | None) -> Tensor:
        logits, rethink = self._begin(self.network.think(request, noise), 1)
        return most_confident_first(logits, rules, rethink)

    def log_probability(self, observation: Observation, choice: Tensor) -> Tensor:
        """Returns the log-probability ``(batch,)`` with which :meth:`draw` gives choices ``(batch, slots)``."""
        output = self.output(observation)
        return log_prob_of(given(output.logits, choice, output.rules).double(), choice)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Returns choices ``(batch, slots)``, values ``(batch, 1)`` and the choices' log-probabilities ``(batch,)``."""
        distribution, values = self.act_and_value(obs)
        actions = distribution.get_actions(deterministic)
        return actions, values, distribution.log_prob(actions)

    def act_and_value(self, obs: PyTorchObs) -> tuple[SlotDistribution, Tensor]:
        """Returns the distribution over choices and the values ``(batch, 1)`` from one pass of the network."""
        observation = as_observation(obs)
        output = self.output(observation, self._free)
        distribution = SlotDistribution(self.generator, output.rules).proba_distribution(output.logits)
        return distribution, self.value_head(output.latent)

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns values ``(batch, 1)``, log-probabilities ``(batch,)`` and entropy ``(batch,)``."""
        distribution, values = self.act_and_value(obs)
        return values, distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: PyTorchObs) -> SlotDistribution:
        """Returns the distribution over choices; it can be differentiated twice, as TRPO does."""
        if not torch.is_grad_enabled():
            return self.act_and_value(obs)[0]
        with sdpa_kernel(SDPBackend.MATH):  # the faster attention has no second derivative
            return self.act_and_value(obs)[0]

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Returns the values, ``(batch, 1)``."""
        return self.act_and_value(obs)[1]


def optimizer_of(policy: BasePolicy, step_size: float) -> torch.optim.Optimizer:
    """Returns the optimiser that a policy was told to have; Adam updates all weights in one operation."""
    fused: dict[str, Any] = {"fused": True} if policy.optimizer_class is torch.optim.Adam else {}
    return policy.optimizer_class(policy.parameters(), lr=step_size, **fused, **policy.optimizer_kwargs)  # type: ignore[call-arg]


def as_observation(obs: PyTorchObs) -> Observation:
    """Returns Stable-Baselines3's dict of tensors as an observation; its buffers hold everything as float32."""
    if not isinstance(obs, dict):
        raise TypeError(f"expected a dict observation, got {type(obs).__name__}")
    return Observation.of(obs)


def policy_kwargs(
    problem: Problem | None, size: PointerSize, free: bool = False, in_turn: bool = False
) -> dict[str, Any]:
    """Returns the arguments that fit :class:`SlotPolicy` to a problem: sizes, fixed candidates, contexts' units."""
    if problem is None:
        return {"size": size, "in_turn": in_turn}
    contexts = None
    if "context_vector" in problem.observation_parts():
        contexts = problem.sample(UNIT_REQUESTS, generator_from(0)).context_vector
    return {
        "size": size,
        "catalogue": problem.catalogue,
        "pool": problem.pool,
        "context_vectors": contexts,
        "rules": problem.rules,
        "free": free,
        "in_turn": in_turn,
    }

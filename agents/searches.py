"""What a policy competes with, as agents: random choices, the best constant, and searches, at a counted budget.

They train no policy. A search calls the estimator for each request; the best constant is found once and then costs
nothing. Their interface is that of every agent, and their ``predict`` is enough for Stable-Baselines3's
``evaluate_policy``, but they are not Stable-Baselines3 algorithms.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from slot_rl.agents.base import Agent, Options, needed_problem
from slot_rl.envs.episodes import observation_space
from slot_rl.io import BundleError
from slot_rl.problems import Observation, Problem, make_problem
from slot_rl.search import (
    check_breeding,
    check_enumerable,
    check_fit,
    configurations,
    constant_choice,
    cross_entropy_search,
    exhaustive_search,
    genetic_search,
    local_search,
    mean_field_search,
    multi_swap_search,
    no_mixtures,
    random_choice,
    search_constant,
    single_swap_search,
)
from slot_rl.seeding import Seed, as_seed, generator_from

CONSTANT_SWEEPS = 2
MOST_REQUESTS, MOST_STARTS = 512, 32
OWN_REQUESTS = 2**32
"""Added to the seed of the requests on which the constant is found, so that it is not judged on the same requests."""


@dataclass(frozen=True)
class SearchOptions(Options):
    """A search from random starts.

    Attributes:
        calls_per_context: Estimator calls for each answer.
    """

    calls_per_context: int = 31

    def __post_init__(self) -> None:
        """Refuses an answer without a call."""
        if self.calls_per_context < 1:
            raise ValueError(f"expected calls_per_context >= 1, got {self.calls_per_context}")


@dataclass(frozen=True)
class LocalSearchOptions(SearchOptions):
    """Plain coordinate sweeps, from a new random start whenever a sweep brings nothing."""


@dataclass(frozen=True)
class GuidedSearchOptions(SearchOptions):
    """Single swaps guided by the estimator's gradient, from a new random start after two failures in a row."""


@dataclass(frozen=True)
class MultiSwapOptions(SearchOptions):
    """The same with swaps of several slots at once, as many as bring something."""


@dataclass(frozen=True)
class MeanFieldOptions(SearchOptions):
    """Relaxed rows that follow the softmax of the estimator's slope, ever colder; then swaps of several slots."""


@dataclass(frozen=True)
class GeneticOptions(SearchOptions):
    """A genetic algorithm.

    Attributes:
        population: Rows that live at once; half the root of the calls if left out, from 4 to 32.
        tournament: Rows that compete to be a parent.
        mutations: Slots of a child that mutate, on average; one at least does.
    """

    population: int | None = None
    tournament: int = 3
    mutations: float = 1.0

    def __post_init__(self) -> None:
        """Refuses settings of no use."""
        super().__post_init__()
        check_breeding(self.population, self.tournament, self.mutations)


@dataclass(frozen=True)
class CrossEntropyOptions(SearchOptions):
    """The cross-entropy method, with an independent categorical for each slot.

    Attributes:
        draws: Rows drawn in a round; the root of twice the calls if left out, at most 128.
        elite: Share of them that the distribution is fitted to.
        smoothing: How far a round moves the probabilities to the elites' frequencies.
    """

    draws: int | None = None
    elite: float = 0.1
    smoothing: float = 0.3

    def __post_init__(self) -> None:
        """Refuses settings of no use."""
        super().__post_init__()
        check_fit(self.draws, self.elite, self.smoothing)


class ReferenceAgent(Agent):
    """An agent without a policy, which answers by :meth:`search`."""

    default_options: ClassVar[Options] = Options()
    problem: Problem

    def __init__(self, env: Any, options: Any = None, seed: Seed = 0, **changes: Any) -> None:
        """Builds the agent.

        Args:
            env: A slots environment, its id, or a problem.
            options: The agent's options; the defaults if None.
            seed: Seeds random choices and starts.
            changes: Single options that differ.

        Raises:
            TypeError: If the options are another agent's.
            ValueError: If the environment has no problem to ask.
        """
        self.options: Any = self.own_options(options, changes)
        env = make_problem(env) if isinstance(env, str) else env
        self.problem = env if isinstance(env, Problem) else needed_problem(env, self.name)
        self.observation_space = observation_space(self.problem)
        self.seed, self.num_timesteps = as_seed(seed), 0

    @abstractmethod
    def search(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Searches for an answer to each request, ``(batch, slots)``."""

    def answer(self, observation: Observation) -> Tensor:
        """Returns the answer to each request, ``(batch, slots)``; the same requests get the same answers."""
        assert self.seed is not None
        return self.search(observation, generator_from(self.seed))

    def learn(self, total_timesteps: int, reset_num_timesteps: bool = True) -> Self:
        """Spends up to about ``total_timesteps`` estimator calls before any request; most references spend none."""
        before = self.problem.budget.forwards
        self.prepare(total_timesteps)
        earlier = 0 if reset_num_timesteps else self.num_timesteps
        self.num_timesteps = earlier + self.problem.budget.forwards - before
        return self

    def prepare(self, timesteps: int) -> None:  # noqa: B027 (most references prepare nothing)
        """Spends calls before any request."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, None]:
        """Answers observations of the environment, one or a batch, as Stable-Baselines3's algorithms do."""
        return self.choose(observation).numpy(), None

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns nothing to keep."""
        return {}, {}

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Takes nothing back."""


class RandomAgent(ReferenceAgent):
    """Chooses at random, uniformly among the allowed items."""

    name = "random"

    def search(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Draws an answer to each request."""
        return random_choice(self.problem, observation, generator)


class BestConstantAgent(ReferenceAgent):
    """Gives every request the same answer, the best on average: the limit of a policy that ignores its request."""

    name = "best_constant"

    def __init__(self, env: Any, options: Any = None, seed: Seed = 0, **changes: Any) -> None:
        """Builds the agent; see :class:`ReferenceAgent`."""
        super().__init__(env, options, seed, **changes)
        self.constant = torch.zeros(self.problem.slots, dtype=torch.long)

    def prepare(self, timesteps: int) -> None:
        """Finds the constant by coordinate sweeps; calls go into requests first, and the rest into more starts."""
        assert self.seed is not None
        generator = generator_from(OWN_REQUESTS + self.seed)
        slots = self.problem.slots
        exchanges = 0 if self.problem.constraints is None else slots * (slots - 1) // 2
        affordable = timesteps // (CONSTANT_SWEEPS * (sum(self.problem.sizes) + exchanges))
        observation = self.problem.evaluation_observations(max(1, min(MOST_REQUESTS, affordable)), generator)
        starts = max(1, min(MOST_STARTS, affordable // len(observation)))
        self.constant = search_constant(self.problem, observation, CONSTANT_SWEEPS, starts, generator)

    def search(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Returns the constant; a request that does not allow it repairs it, see :func:`constant_choice`."""
        return constant_choice(self.problem, observation, self.constant)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns the constant."""
        return {"constant": self.constant}, {}

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Takes the constant back; raises :class:`BundleError` if it is not a choice of this problem."""
        constant = tensors.get("constant", torch.zeros(0))
        fits = (constant.shape, constant.dtype) == ((self.problem.slots,), torch.long) and bool(
            ((constant >= 0) & (constant < torch.tensor(self.problem.sizes))).all()
        )
        if not fits:
            raise BundleError(f"expected a constant for slots of {self.problem.sizes} items, got {constant.tolist()}")
        self.constant = constant


class ExhaustiveSearchAgent(ReferenceAgent):
    """Scores every configuration of every request and answers with the best: the estimator's own optimum."""

    name = "exhaustive_search"

    def __init__(self, env: Any, options: Any = None, seed: Seed = 0, **changes: Any) -> None:
        """Builds the agent; raises ValueError if a request has too many configurations."""
        super().__init__(env, options, seed, **changes)
        check_enumerable(self.problem)

    @property
    def calls_per_context(self) -> int:
        """One estimator call for each configuration; one that constraints forbid to a whole batch is not scored."""
        return configurations(self.problem)

    def search(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Scores all configurations."""
        return exhaustive_search(self.problem, observation).choice


class SearchAgent(ReferenceAgent):
    """A search from random starts for every request, with exactly ``calls_per_context`` estimator calls."""

    default_options: ClassVar[Options] = SearchOptions()
    options: SearchOptions

    @property
    def calls_per_context(self) -> int:
        """Estimator calls for each answer."""
        return self.options.calls_per_context


class LocalSearchAgent(SearchAgent):
    """Plain coordinate sweeps."""

    name = "local_search"
    default_options = LocalSearchOptions()

    def search(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Searches by sweeps."""
        return local_search(self.problem, observation, self.calls_per_context, generator).choice


class SlopeSearchAgent(SearchAgent):
    """A search that takes a score together with its slope."""

    @property
    def backwards_per_context(self) -> int:
        """As many backwards as forwards."""
        return self.calls_per_context


class GuidedSearchAgent(SlopeSearchAgent):
    """Single swaps guided by the estimator's gradient."""

    name = "guided_search"
    default_options = GuidedSearchOptions()

    def search(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Searches by guided swaps."""
        return single_swap_search(self.problem, observation, self.calls_per_context, generator).choice


class MultiSwapAgent(SlopeSearchAgent):
    """Guided swaps of several slots at once."""

    name = "multi_swap"
    default_options = MultiSwapOptions()

    def search(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Searches by swaps of several slots at once."""
        return multi_swap_search(self.problem, observation, self.calls_per_context, generator).choice


class MeanFieldAgent(SlopeSearchAgent):
    """Mean-field annealing of relaxed rows."""

    name = "mean_field"
    default_options = MeanFieldOptions()

    def __init__(self, env: Any, options: Any = None, seed: Seed = 0, **changes: Any) -> None:
        """Builds the agent; raises ValueError if the problem has constraints or its estimator takes no mixtures."""
        super().__init__(env, options, seed, **changes)
        why = no_mixtures(self.problem)
        if why is not None:
            raise ValueError(why)

    def search(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Searches by annealing."""
        return mean_field_search(self.problem, observation, self.calls_per_context, generator).choice


class GeneticAgent(SearchAgent):
    """A genetic algorithm."""

    name = "genetic"
    default_options = GeneticOptions()
    options: GeneticOptions

    def search(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Searches by breeding."""
        settings = (self.options.population, self.options.tournament, self.options.mutations)
        return genetic_search(self.problem, observation, self.calls_per_context, generator, *settings).choice


class CrossEntropyAgent(SearchAgent):
    """The cross-entropy method."""

    name = "cross_entropy"
    default_options = CrossEntropyOptions()
    options: CrossEntropyOptions

    def search(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Searches by fitting a distribution to its best draws."""
        settings = (self.options.draws, self.options.elite, self.options.smoothing)
        return cross_entropy_search(self.problem, observation, self.calls_per_context, generator, *settings).choice

"""What a policy competes with, as agents: the same interface, the same environments, the same counted budget.

None of them trains a policy. Random choices and the searches learn nothing, and a search asks the estimator for each
request anew; the best constant is found once and then costs nothing.
"""

from typing import Any

import torch
from torch import Tensor

from slot_rl.agents.nevergrad import NevergradAgent
from slot_rl.agents.reference_agent import ReferenceAgent, SearchAgent
from slot_rl.agents.search_options import CrossEntropyOptions, GeneticOptions, GuidedSearchOptions, LocalSearchOptions
from slot_rl.io import BundleError
from slot_rl.problems import Observation, Problem
from slot_rl.search import (
    best_of,
    cross_entropy_search,
    genetic_search,
    guided_search,
    local_search,
    random_choice,
    search_constant,
)
from slot_rl.seeding import generator_from

CONSTANT_SWEEPS = 2
MOST_REQUESTS, MOST_STARTS = 512, 32
OWN_REQUESTS = 2**32
"""Added to the seed of the requests that the constant is found on, so that they are not the ones it is judged on."""


class RandomAgent(ReferenceAgent):
    """Chooses at random, uniformly among what is allowed."""

    name = "random"

    def search(self, problem: Problem, observation: Observation, generator: torch.Generator) -> Tensor:
        """Draws an answer to each request."""
        return random_choice(problem, observation, generator)


class BestConstantAgent(ReferenceAgent):
    """Gives every request one and the same answer, the best on the mean: what a collapsed policy can reach."""

    name = "best_constant"

    def _setup_model(self) -> None:
        super()._setup_model()
        self.constant = torch.zeros(self.problem.slots, dtype=torch.long)

    def prepare(self, timesteps: int) -> None:
        """Finds the constant by coordinate sweeps; calls go into requests first, and what is left into starts."""
        assert self.seed is not None
        before, generator = self.problem.budget.forwards, generator_from(OWN_REQUESTS + self.seed)
        affordable = timesteps // (CONSTANT_SWEEPS * sum(self.problem.sizes))
        observation = self.problem.evaluation_observations(max(1, min(MOST_REQUESTS, affordable)), generator)
        starts = max(1, min(MOST_STARTS, affordable // len(observation)))
        self.constant = search_constant(self.problem, observation, CONSTANT_SWEEPS, starts, generator)
        self.num_timesteps += self.problem.budget.forwards - before

    def search(self, problem: Problem, observation: Observation, generator: torch.Generator) -> Tensor:
        """Returns the constant; where a request does not allow it, the first item that it does."""
        mask = problem.mask(observation)
        constant = self.constant.expand(len(observation), -1)
        if mask is None:
            return constant.clone()
        mask = mask.expand(len(observation), problem.slots, problem.items)
        fits = mask.gather(-1, constant.unsqueeze(-1)).squeeze(-1)
        return torch.where(fits, constant, mask.int().argmax(dim=-1))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns the constant."""
        return {"constant": self.constant}, {}

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Takes the constant back; raises :class:`BundleError` if it is no choice of this problem."""
        constant = tensors.get("constant", torch.zeros(0))
        fits = (constant.shape, constant.dtype) == ((self.problem.slots,), torch.long) and bool(
            ((constant >= 0) & (constant < torch.tensor(self.problem.sizes))).all()
        )
        if not fits:
            raise BundleError(f"expected a constant for slots of {self.problem.sizes} items, got {constant.tolist()}")
        self.constant = constant


class LocalSearchAgent(SearchAgent):
    """Plain coordinate sweeps."""

    name = "local_search"
    options_type = LocalSearchOptions

    def search(self, problem: Problem, observation: Observation, generator: torch.Generator) -> Tensor:
        """Searches with exactly as many forwards a request."""
        return local_search(problem, observation, self.calls_per_context, generator).choice


class GuidedSearchAgent(SearchAgent):
    """Swaps guided by the estimator's gradient."""

    name = "guided_search"
    options_type = GuidedSearchOptions
    options: GuidedSearchOptions

    @property
    def backwards_per_context(self) -> int:
        """As many backwards: each row is scored together with its gradient."""
        return self.calls_per_context

    def search(self, problem: Problem, observation: Observation, generator: torch.Generator) -> Tensor:
        """Searches with exactly as many forwards and backwards a request, spread evenly over the starts."""
        calls, starts = self.calls_per_context, self.options.starts
        shares = [calls // starts + (start < calls % starts) for start in range(starts)]
        return best_of(
            [
                guided_search(problem, observation, random_choice(problem, observation, generator), share - 1)
                for share in shares
            ]
        ).choice


class GeneticAgent(SearchAgent):
    """A genetic algorithm."""

    name = "genetic"
    options_type = GeneticOptions
    options: GeneticOptions

    def search(self, problem: Problem, observation: Observation, generator: torch.Generator) -> Tensor:
        """Searches with exactly as many forwards a request."""
        flags = self.options
        settings = (flags.population, flags.tournament, flags.mutations)
        return genetic_search(problem, observation, self.calls_per_context, generator, *settings).choice


class CrossEntropyAgent(SearchAgent):
    """The cross-entropy method."""

    name = "cross_entropy"
    options_type = CrossEntropyOptions
    options: CrossEntropyOptions

    def search(self, problem: Problem, observation: Observation, generator: torch.Generator) -> Tensor:
        """Searches with exactly as many forwards a request."""
        flags = self.options
        settings = (flags.draws, flags.elite, flags.smoothing)
        return cross_entropy_search(problem, observation, self.calls_per_context, generator, *settings).choice


REFERENCES: dict[str, type[ReferenceAgent]] = {
    agent.name: agent
    for agent in (
        RandomAgent,
        BestConstantAgent,
        LocalSearchAgent,
        GuidedSearchAgent,
        GeneticAgent,
        CrossEntropyAgent,
        NevergradAgent,
    )
}

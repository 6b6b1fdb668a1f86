"""What a policy competes with, as agents: the same interface, the same environments, the same counted budget.

None of them trains a policy. Random choices, plain local search and guided search learn nothing and ask the estimator
for each request anew; the best constant is found once and then costs nothing.
"""

from abc import abstractmethod
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from torch import Tensor

from slot_rl.agents.base import needed_problem
from slot_rl.agents.checkpoint import CheckpointedAgent
from slot_rl.agents.options import GuidedSearchOptions, LocalSearchOptions, Options, SearchOptions
from slot_rl.agents.policy import SlotPolicy
from slot_rl.bundles import BundleError
from slot_rl.envs.episodes import from_arrays
from slot_rl.problems import Budget, Observation, Problem
from slot_rl.search import best_of, guided_search, local_search, random_choice, search_constant
from slot_rl.seeding import generator_from

CONSTANT_SWEEPS = 2
MOST_REQUESTS, MOST_STARTS = 512, 32
OWN_REQUESTS = 2**32
"""Added to the seed of the requests that the constant is found on, so that they are not the ones it is judged on."""

Self = TypeVar("Self", bound="ReferenceAgent")


class ReferenceAgent(CheckpointedAgent):
    """An agent without a policy.

    Attributes:
        problem: The problem behind the environment.
        answering: What its answers have asked of the estimator, apart from any training.
    """

    options_type = Options

    def __init__(self, env: GymEnv | str, options: Any = None, seed: int = 0, verbose: int = 0) -> None:
        """Builds the agent.

        Args:
            env: A slots environment.
            options: The agent's options; the defaults if None.
            seed: Seeds random choices and starts.
            verbose: As in Stable-Baselines3.

        Raises:
            TypeError: If the options are another agent's.
            ValueError: If the environment has no problem to ask.
        """
        self.options = self.own_options(options)
        super().__init__(
            SlotPolicy, env, learning_rate=0.0, verbose=verbose, device="cpu", support_multi_env=True, seed=seed
        )
        self.problem = needed_problem(self.env, self.name)
        self._answering = self.problem.with_fresh_budget()
        self._setup_model()

    def _setup_model(self) -> None:
        assert self.env is not None
        self.env.seed(self.seed)

    @property
    def answering(self) -> Budget:
        """What answers have asked of the estimator so far."""
        return self._answering.budget

    def choose(self, observation: Observation) -> Tensor:
        """Returns the answer to each request, ``(batch, slots)``; the same requests have the same answers."""
        assert self.seed is not None
        return self.search(self._answering, observation, generator_from(self.seed))

    @abstractmethod
    def search(self, problem: Problem, observation: Observation, generator: torch.Generator) -> Tensor:
        """Searches for an answer to each request, ``(batch, slots)``."""

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 10,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Prepares what can be prepared; the arguments are those of every agent, ``log_interval`` has no meaning."""
        total, callbacks = self._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        callbacks.on_training_start(locals(), globals())
        self.prepare(total - self.num_timesteps)
        callbacks.on_step()
        callbacks.on_training_end()
        return self

    def prepare(self, timesteps: int) -> None:
        """Spends about ``timesteps`` calls ahead of all requests; nothing unless overridden."""

    def predict(
        self,
        observation: npt.NDArray[Any] | dict[str, npt.NDArray[Any]],
        state: tuple[npt.NDArray[Any], ...] | None = None,
        episode_start: npt.NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[npt.NDArray[Any], None]:
        """Answers observations of the environment, one or a batch, as every Stable-Baselines3 algorithm does."""
        if not isinstance(observation, dict):
            raise TypeError(f"expected a dict observation, got {type(observation).__name__}")
        spaces: Any = self.observation_space
        single = all(np.ndim(part) == len(spaces[name].shape) for name, part in observation.items())
        arrays = {name: np.asarray(part)[None] if single else np.asarray(part) for name, part in observation.items()}
        choice = self.choose(from_arrays(arrays)).numpy()
        return (choice[0] if single else choice), None

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns nothing to keep."""
        return {}, {}

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Takes nothing back."""


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


class SearchAgent(ReferenceAgent):
    """A search from random starts, anew for every request."""

    options_type = SearchOptions
    options: SearchOptions

    @property
    def calls_per_context(self) -> int:
        """Forwards for each answer."""
        return self.options.calls_per_context


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


REFERENCES: dict[str, type[ReferenceAgent]] = {
    agent.name: agent for agent in (RandomAgent, BestConstantAgent, LocalSearchAgent, GuidedSearchAgent)
}

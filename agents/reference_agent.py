"""Agents without a policy: their interface is every agent's, and they ask the problem behind the environment."""

from abc import abstractmethod
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from torch import Tensor

from slot_rl.agents.base import needed_problem
from slot_rl.agents.checkpoint import CheckpointedAgent
from slot_rl.agents.options import Options
from slot_rl.agents.policy import SlotPolicy
from slot_rl.agents.search_options import SearchOptions
from slot_rl.envs.episodes import from_arrays
from slot_rl.problems import Budget, Observation, Problem
from slot_rl.seeding import generator_from

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


class SearchAgent(ReferenceAgent):
    """A search from random starts, anew for every request."""

    options_type = SearchOptions
    options: SearchOptions

    @property
    def calls_per_context(self) -> int:
        """Forwards for each answer."""
        return self.options.calls_per_context

"""Many requests at a time for Stable-Baselines3, whose ``VecEnv`` is not gymnasium's ``VectorEnv``."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from torch import Tensor

from slot_rl.envs.episodes import Arrays, Episodes, Infeasibility, action_space, as_problem, observation_space
from slot_rl.problems import Problem

EPISODES_KEPT = 100
"""Stable-Baselines3 averages the last 100 episodes, so more than 100 reports a step would be made for nothing."""


class BatchedVecEnv(VecEnv):
    """A batch of episodes whose environments cannot differ; a subclass says what a step is.

    Attributes:
        problem: The problem.
    """

    def __init__(self, episodes: Episodes, observations: spaces.Space[Any], actions: spaces.Space[Any]) -> None:
        """Takes the episodes, and the spaces of a single one."""
        self.problem = episodes.problem
        self.render_mode = None  # VecEnv.__init__ asks for it
        self._batch = episodes
        self._actions: npt.NDArray[Any] = np.zeros(0)
        super().__init__(episodes.size, observations, actions)

    @property
    def penalty(self) -> float | None:
        """The reward of an answer that is not allowed; None where such answers are refused."""
        return self._batch.penalty

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds all further requests, from the next reset on."""
        self._batch.seed(np.random.default_rng(seed))
        return [seed] * self.num_envs

    def reset(self) -> Arrays:
        """Opens requests; ``set_options({"observation": ...})`` beforehand opens given ones, stacked."""
        options = self._options[0]
        self._reset_options()
        observation = self._batch.start(options)
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return observation

    def state(self) -> Tensor:
        """Returns what the open requests and all further ones depend on, a tensor of bytes.

        Raises:
            RuntimeError: If an episode is under way.
        """
        return self._batch.state()

    def restore(self, state: Tensor) -> None:
        """Lets the next reset open the requests that were open when :meth:`state` was asked."""
        self._batch.restore(state)

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Keeps the actions for :meth:`step_wait`."""
        self._actions = actions

    def close(self) -> None:
        """Does nothing; there is nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Returns an attribute once per environment."""
        return [getattr(self, attr_name)] * self._count(indices)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuses: the environments of a batch cannot differ."""
        raise AttributeError(f"expected no attribute to be set on a batched environment, got {attr_name!r}")

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Returns what the next actions may be, a row for each environment."""
        return self._batch.masks()

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Calls a method once and returns its result once per environment; of ``action_masks`` each has its row."""
        found = getattr(self, method_name)(*args, **kwargs)
        if method_name == "action_masks":
            return [found[i] for i in self._get_indices(indices)]
        return [found] * self._count(indices)

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Returns False for each: nothing is wrapped."""
        return [False] * self._count(indices)

    def _count(self, indices: Any) -> int:
        return sum(1 for _ in self._get_indices(indices))


class SlotVecEnv(BatchedVecEnv):
    """``num_envs`` one-step episodes at once with one estimator call a step.

    The last 100 infos carry the episode's statistics; the others are one shared empty dict. With
    ``infeasible="penalise"`` answers that are not allowed earn ``penalty`` and the others their scores, and
    ``info["infeasible"]`` tells which ones.
    """

    def __init__(
        self,
        problem: Problem | str,
        num_envs: int = 1,
        seed: int | None = None,
        infeasible: Infeasibility = "refuse",
        penalty: float | None = None,
        **options: Any,
    ) -> None:
        """Builds the environment.

        Args:
            problem: A problem, or a problem's id.
            num_envs: Requests per step.
            seed: Seeds the requests; :meth:`seed` does so later.
            infeasible: As in :class:`slot_rl.envs.SlotsEnv`.
            penalty: Likewise.
            options: Options of ``slot_rl.problems.make_problem``, with an id only.

        Raises:
            ValueError: If the problem cannot be built from the arguments.
        """
        problem = as_problem(problem, options)
        self._episodes = Episodes(problem, num_envs, infeasible, penalty)
        self._episodes.seed(np.random.default_rng(seed))
        super().__init__(self._episodes, observation_space(problem), action_space(problem))

    def step_wait(self) -> VecEnvStepReturn:
        """Scores the choices and opens the next requests."""
        rewards, infeasible = self._episodes.finish(self._actions)
        allowed: dict[str, Any] = {} if self.penalty is None else {"infeasible": False}
        infos = [allowed] * self.num_envs
        for i in infeasible.nonzero()[0].tolist():
            infos[i] = {"infeasible": True}
        for i in range(max(0, self.num_envs - EPISODES_KEPT), self.num_envs):
            infos[i] = {**infos[i], "episode": {"r": float(rewards[i]), "l": 1}}
        return self._episodes.start(), rewards, np.ones(self.num_envs, dtype=np.bool_), infos

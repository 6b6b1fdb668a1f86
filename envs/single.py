"""One request at a time: a Gymnasium environment whose reward is the estimator's score."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.core import ActType

from slot_rl.envs.episodes import Arrays, Episodes, Infeasibility, action_space, as_problem, observation_space
from slot_rl.problems import Problem
from slot_rl.seeding import whole_or_none


class BatchOfOne(gym.Env[Arrays, ActType]):
    """A single episode at a time; a subclass says what a step is.

    Attributes:
        problem: The problem.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self, episodes: Episodes, observations: spaces.Space[Any], actions: spaces.Space[Any], render_mode: None
    ) -> None:
        """Takes the episodes, a batch of one, and the spaces."""
        self.problem, self.render_mode = episodes.problem, render_mode
        self.observation_space, self.action_space = observations, actions
        self._batch = episodes
        self._batch.seed(self.np_random)

    @property
    def penalty(self) -> float | None:
        """The reward of an answer that is not allowed; None where such answers are refused."""
        return self._batch.penalty

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Returns what the next action may be, as sb3-contrib's MaskablePPO takes it."""
        masks: npt.NDArray[np.bool_] = self._batch.masks()[0]
        return masks

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        """Opens a request; ``options["observation"]`` opens a given one."""
        super().reset(seed=whole_or_none(seed))
        if seed is not None:
            self._batch.seed(self.np_random)
        if options and options.get("observation") is not None:
            options = {**options, "observation": _stacked(options["observation"])}
        self._last = self._batch.start(options)
        return first_of(self._last), self._info()

    def _info(self) -> dict[str, Any]:
        """Returns what is told of the open request."""
        return {}


class SlotsEnv(BatchOfOne[npt.NDArray[np.int64]]):
    """One-step episodes: see a request, choose an item per slot, get the estimator's score.

    The observation is a dict of ``candidates``, ``mask`` and ``context``, only those that vary between requests; the
    action holds one item's index per slot. ``reset(options={"observation": ...})`` opens a given request.

    An answer that names a masked item or breaks a constraint is refused. With ``infeasible="penalise"`` it earns
    ``penalty`` instead and counts as one estimator call, and ``info["infeasible"]`` tells which answers did.
    """

    def __init__(
        self,
        problem: Problem | str,
        render_mode: None = None,
        infeasible: Infeasibility = "refuse",
        penalty: float | None = None,
        **options: Any,
    ) -> None:
        """Builds the environment.

        Args:
            problem: A problem, or a problem's id.
            render_mode: None; there is nothing to render.
            infeasible: What becomes of an answer that is not allowed: "refuse" or "penalise".
            penalty: Its reward; with None the mean score of 256 random allowed answers, always the same ones, minus
                three standard deviations.
            options: Options of ``slot_rl.problems.make_problem``, with an id only.

        Raises:
            ValueError: If the problem cannot be built from the arguments.
        """
        problem = as_problem(problem, options)
        episodes = Episodes(problem, 1, infeasible, penalty)
        super().__init__(episodes, observation_space(problem), action_space(problem), render_mode)

    def step(self, action: npt.NDArray[np.int64]) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Scores a choice and ends the episode.

        Raises:
            ValueError: If the action names no item; also if it is not allowed, unless such answers are penalised.
        """
        reward, infeasible = self._batch.finish(np.asarray(action)[None])
        info = {} if self.penalty is None else {"infeasible": bool(infeasible[0])}
        return first_of(self._last), float(reward[0]), True, False, info


def _stacked(observation: Any) -> Arrays:
    if not isinstance(observation, Mapping):
        raise TypeError(f"expected a mapping as the given observation, got {type(observation).__name__}")
    return {name: np.asarray(part)[None] for name, part in observation.items()}


def first_of(arrays: Arrays) -> Arrays:
    """Returns the first observation of a batch."""
    # Copies: an observation that shares memory with the next one would change under its holder.
    return {name: part[0].copy() for name, part in arrays.items()}

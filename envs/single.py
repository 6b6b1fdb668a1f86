"""One request at a time: a Gymnasium environment whose reward is the estimator's score."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from slot_rl.envs.episodes import Arrays, Episodes, Infeasibility, action_space, as_problem, observation_space
from slot_rl.problems import Problem


class SlotsEnv(gym.Env[Arrays, npt.NDArray[np.int64]]):
    """One-step episodes: see a request, choose an item per slot, get the estimator's score.

    The observation is a dict of ``candidates``, ``mask`` and ``context``, only those that vary between requests; the
    action holds one item's index per slot. ``reset(options={"observation": ...})`` opens a given request.

    An answer that names a masked item or breaks a constraint is refused. With ``infeasible="penalise"`` it earns
    ``penalty`` instead and counts as one estimator call, and ``info["infeasible"]`` tells which answers did.
    """

    metadata: dict[str, Any] = {"render_modes": []}

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
        self.problem = as_problem(problem, options)
        self.render_mode = render_mode
        self.observation_space = observation_space(self.problem)  # type: ignore[assignment]
        self.action_space = action_space(self.problem)
        self._episodes = Episodes(self.problem, 1, infeasible, penalty)
        self._episodes.seed(self.np_random)
        self._last: Arrays = {}

    @property
    def penalty(self) -> float | None:
        """The reward of an answer that is not allowed; None where such answers are refused."""
        return self._episodes.penalty

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        """Opens a request; ``options["observation"]`` opens a given one."""
        super().reset(seed=seed)
        if seed is not None:
            self._episodes.seed(self.np_random)
        if options and options.get("observation") is not None:
            options = {**options, "observation": stacked(options["observation"])}
        self._last = self._episodes.start(options)
        return first_of(self._last), {}

    def step(self, action: npt.NDArray[np.int64]) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Scores a choice and ends the episode.

        Raises:
            ValueError: If the action names no item; also if it is not allowed, unless such answers are penalised.
        """
        reward, infeasible = self._episodes.finish(np.asarray(action)[None])
        info = {} if self.penalty is None else {"infeasible": bool(infeasible[0])}
        return first_of(self._last), float(reward[0]), True, False, info


def stacked(observation: Any) -> Arrays:
    """Returns a given observation as a batch of one; raises TypeError if it is no mapping."""
    if not isinstance(observation, Mapping):
        raise TypeError(f"expected a mapping as the given observation, got {type(observation).__name__}")
    return {name: np.asarray(part)[None] for name, part in observation.items()}


def first_of(arrays: Arrays) -> Arrays:
    """Returns the first observation of a batch."""
    # Copies: an observation that shares memory with the next one would change under its holder.
    return {name: part[0].copy() for name, part in arrays.items()}

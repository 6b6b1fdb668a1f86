"""Many requests at a time: a natively batched Gymnasium vector environment, one estimator call a step."""

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from slot_rl.envs.episodes import Arrays, Episodes, Infeasibility, action_space, as_problem, observation_space
from slot_rl.problems import Problem


class SlotsVectorEnv(VectorEnv[Arrays, npt.NDArray[np.int64], npt.NDArray[Any]]):
    """``num_envs`` one-step episodes at once, reset within the step that ends them (SAME_STEP).

    Every step ends every episode, so each step's observation is a new batch of requests and the finished ones are in
    ``infos["final_obs"]``.

    With ``infeasible="penalise"`` answers that are not allowed earn ``penalty`` and the others their scores;
    ``infos["final_info"]["infeasible"]`` tells which ones.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(
        self,
        problem: Problem | str,
        num_envs: int = 1,
        render_mode: None = None,
        infeasible: Infeasibility = "refuse",
        penalty: float | None = None,
        **options: Any,
    ) -> None:
        """Builds the environment.

        Args:
            problem: A problem, or a problem's id.
            num_envs: Requests per step.
            render_mode: None; there is nothing to render.
            infeasible: As in :class:`slot_rl.envs.SlotsEnv`.
            penalty: Likewise.
            options: Options of ``slot_rl.problems.make_problem``, with an id only.

        Raises:
            ValueError: If the problem cannot be built from the arguments.
        """
        self.problem = as_problem(problem, options)
        self.num_envs, self.render_mode = num_envs, render_mode
        self._episodes = Episodes(self.problem, num_envs, infeasible, penalty)
        self._episodes.seed(self.np_random)
        self.single_observation_space = observation_space(self.problem)
        self.single_action_space = action_space(self.problem)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._last: Arrays = {}

    @property
    def penalty(self) -> float | None:
        """The reward of an answer that is not allowed; None where such answers are refused."""
        return self._episodes.penalty

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        """Opens requests; ``options["observation"]`` opens given ones, stacked.

        Raises:
            TypeError: If the seed is a list: one generator draws the whole batch.
        """
        check_one_seed(seed)
        super().reset(seed=seed)
        if seed is not None:
            self._episodes.seed(self.np_random)
        self._last = self._episodes.start(options)
        return dict(self._last), {}

    def step(
        self, actions: npt.NDArray[np.int64]
    ) -> tuple[Arrays, npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]:
        """Scores a batch of choices and opens the next requests.

        Raises:
            ValueError: If an action names no item; also if it is not allowed, unless such answers are penalised.
        """
        rewards, infeasible = self._episodes.finish(actions)
        finished, self._last = self._last, self._episodes.start()
        done, running = np.ones(self.num_envs, dtype=np.bool_), np.zeros(self.num_envs, dtype=np.bool_)
        infos = {
            "final_obs": unstacked(finished, self.num_envs),
            "_final_obs": done.copy(),
            "final_info": {} if self.penalty is None else {"infeasible": infeasible, "_infeasible": done.copy()},
            "_final_info": done.copy(),
        }
        return dict(self._last), rewards.astype(np.float64), done, running, infos


def check_one_seed(seed: Any) -> None:
    """Raises TypeError if a seed is a list: one generator draws the whole batch."""
    if seed is not None and not isinstance(seed, (int, np.integer)):
        raise TypeError(f"expected one seed for the whole batch, got {type(seed).__name__}")


def unstacked(arrays: Arrays, count: int) -> npt.NDArray[np.object_]:
    """Returns a batch of observations as an array of dicts."""
    # Gymnasium's wrappers index final_obs by environment, so it has to be an array of dicts; the dicts hold views.
    # One name at a time: dict(zip(...)) a row would cost four times as much, a fifth of the whole step.
    first, *others = arrays
    rows = np.fromiter(({first: part} for part in arrays[first]), dtype=object, count=count)
    for name in others:
        for row, part in zip(rows, arrays[name], strict=True):
            row[name] = part
    return rows

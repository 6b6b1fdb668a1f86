"""Many requests at a time: a natively batched Gymnasium vector environment, one estimator call a step."""

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from slot_rl.envs.episodes import Arrays, Episodes, Infeasibility, action_space, as_problem, observation_space
from slot_rl.problems import Problem
from slot_rl.seeding import whole_or_none


class BatchedVectorEnv(VectorEnv[Arrays, npt.NDArray[np.int64], npt.NDArray[Any]]):
    """A batch of episodes that are reset within the step that ends them; a subclass says what a step is.

    Attributes:
        problem: The problem.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(
        self, episodes: Episodes, observations: spaces.Space[Any], actions: spaces.Space[Any], render_mode: None
    ) -> None:
        """Takes the episodes, and the spaces of a single one."""
        self.problem, self.num_envs, self.render_mode = episodes.problem, episodes.size, render_mode
        self.autoreset_mode = self.metadata["autoreset_mode"]  # TorchRL asks for it here, as gymnasium's own have it
        self._batch = episodes
        self._batch.seed(self.np_random)
        self.single_observation_space, self.single_action_space = observations, actions
        self.observation_space = batch_space(observations, self.num_envs)
        self.action_space = batch_space(actions, self.num_envs)

    @property
    def penalty(self) -> float | None:
        """The reward of an answer that is not allowed; None where such answers are refused."""
        return self._batch.penalty

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Returns what the next actions may be, a row for each environment, as sb3-contrib's MaskablePPO takes it."""
        return self._batch.masks()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        """Opens requests; ``options["observation"]`` opens given ones, stacked.

        Raises:
            TypeError: If the seed is a list: one generator draws the whole batch.
        """
        if seed is not None and not hasattr(seed, "__index__"):
            raise TypeError(f"expected one seed for the whole batch, got {type(seed).__name__}")
        super().reset(seed=whole_or_none(seed))
        if seed is not None:
            self._batch.seed(self.np_random)
        return self._batch.start(options), self._info()

    def _info(self) -> dict[str, Any]:
        """Returns what is told of the open requests."""
        return {}

    def _final(
        self, last: Arrays, done: npt.NDArray[np.bool_], infeasible: npt.NDArray[np.bool_], **info: Any
    ) -> dict[str, Any]:
        """Returns what gymnasium keeps of the episodes that are over.

        Args:
            last: The last observations of all episodes.
            done: Which episodes are over, ``(num_envs,)``.
            infeasible: Which of them because of what is not allowed, likewise.
            info: What else is told of them.
        """
        observations = _unstacked(last, self.num_envs)
        observations[~done] = None
        if self.penalty is not None:
            info |= {"infeasible": infeasible, "_infeasible": done.copy()}
        return {
            "final_obs": observations,
            "_final_obs": done.copy(),
            "final_info": info,
            "_final_info": done.copy(),
        }


class SlotsVectorEnv(BatchedVectorEnv):
    """``num_envs`` one-step episodes at once, reset within the step that ends them (SAME_STEP).

    Every step ends every episode, so each step's observation is a new batch of requests and the finished ones are in
    ``infos["final_obs"]``.

    With ``infeasible="penalise"`` answers that are not allowed earn ``penalty`` and the others their scores;
    ``infos["final_info"]["infeasible"]`` tells which ones.
    """

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
        problem = as_problem(problem, options)
        episodes = Episodes(problem, num_envs, infeasible, penalty)
        super().__init__(episodes, observation_space(problem), action_space(problem), render_mode)
        self._last: Arrays = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        """Opens requests; see :meth:`BatchedVectorEnv.reset`."""
        self._last, info = super().reset(seed=seed, options=options)
        return dict(self._last), info

    def step(
        self, actions: npt.NDArray[np.int64]
    ) -> tuple[Arrays, npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]:
        """Scores a batch of choices and opens the next requests.

        Raises:
            ValueError: If an action names no item; also if it is not allowed, unless such answers are penalised.
        """
        rewards, infeasible = self._batch.finish(actions)
        finished, self._last = self._last, self._batch.start()
        done, running = np.ones(self.num_envs, dtype=np.bool_), np.zeros(self.num_envs, dtype=np.bool_)
        return dict(self._last), rewards.astype(np.float64), done, running, self._final(finished, done, infeasible)


def _unstacked(arrays: Arrays, count: int) -> npt.NDArray[np.object_]:
    # Gymnasium's wrappers index final_obs by environment, so it has to be an array of dicts; the dicts hold views.
    # One name at a time: dict(zip(...)) a row would cost four times as much, a fifth of the whole step.
    first, *others = arrays
    rows = np.fromiter(({first: part} for part in arrays[first]), dtype=object, count=count)
    for name in others:
        for row, part in zip(rows, arrays[name], strict=True):
            row[name] = part
    return rows

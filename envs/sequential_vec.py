"""Many requests at a time, slot by slot, for Stable-Baselines3 and sb3-contrib's MaskablePPO."""

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from slot_rl.envs.episodes import Arrays, Infeasibility
from slot_rl.envs.slot_by_slot import Shaping, SlotBySlot, Step, as_sequential_problem, sequential_space
from slot_rl.envs.vec import EPISODES_KEPT, BatchedVecEnv
from slot_rl.problems import Problem


class SequentialVecEnv(BatchedVecEnv):
    """``num_envs`` episodes of :class:`slot_rl.envs.SequentialEnv`, with one estimator call where answers are complete.

    The last observation of an episode is in its ``info["terminal_observation"]``, and the mask of the next request in
    ``reset_infos``. Of the episodes that end in a step, the last 100 infos carry the statistics.
    """

    def __init__(
        self,
        problem: Problem | str,
        num_envs: int = 1,
        seed: int | None = None,
        infeasible: Infeasibility = "refuse",
        penalty: float | None = None,
        shaping: Shaping = "none",
        **options: Any,
    ) -> None:
        """Builds the environment.

        Args:
            problem: A problem, or the id of a problem or of its sequential environment.
            num_envs: Requests at a time.
            seed: Seeds the requests; :meth:`seed` does so later.
            infeasible: As in :class:`slot_rl.envs.SequentialEnv`.
            penalty: Likewise.
            shaping: Likewise.
            options: Options of ``slot_rl.problems.make_problem``, with an id only.

        Raises:
            ValueError: If the problem cannot be built from the arguments.
        """
        problem = as_sequential_problem(problem, options)
        self._episodes = SlotBySlot(problem, num_envs, infeasible, penalty, shaping=shaping)
        self._episodes.seed(np.random.default_rng(seed))
        super().__init__(self._episodes, sequential_space(problem), spaces.Discrete(problem.items))

    def reset(self) -> Arrays:
        """Opens requests; ``set_options({"observation": ...})`` beforehand opens given ones, stacked."""
        observation = super().reset()
        self.reset_infos = [{"action_mask": mask} for mask in self._masks()]
        return observation

    def step_wait(self) -> VecEnvStepReturn:
        """Fills the next slots, and opens new requests where episodes end."""
        step = self._episodes.advance(self._actions)
        infos: list[dict[str, Any]] = [{"action_mask": mask} for mask in self._masks()]
        if self.penalty is not None:
            for info, infeasible in zip(infos, step.infeasible.tolist(), strict=True):
                info["infeasible"] = infeasible
        if step.done.any():
            self._finish(step, infos)
        return self._episodes.observed(), step.rewards, step.done, infos

    def _finish(self, step: Step, infos: list[dict[str, Any]]) -> None:
        """Writes into the infos what is left of the episodes that are over, and opens new requests."""
        last = self._episodes.observed()
        lengths = (last["answer"] > 0).sum(axis=1)
        over = step.done.nonzero()[0].tolist()
        for i in over:
            infos[i]["terminal_observation"] = {name: part[i] for name, part in last.items()}
            infos[i]["TimeLimit.truncated"] = False
        for i in over[-EPISODES_KEPT:]:
            infos[i]["episode"] = {"r": float(step.returns[i]), "l": int(lengths[i])}
        self._episodes.restart(step.done)
        masks = self._masks()
        for i in over:
            self.reset_infos[i] = {"action_mask": masks[i]}

    def _masks(self) -> npt.NDArray[np.int8]:
        return self._episodes.masks().astype(np.int8)

"""Many requests at a time, slot by slot: a natively batched Gymnasium vector environment."""

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from slot_rl.envs.episodes import Arrays, Infeasibility
from slot_rl.envs.slot_by_slot import Shaping, SlotBySlot, as_sequential_problem, sequential_space
from slot_rl.envs.vector import BatchedVectorEnv
from slot_rl.problems import Problem


class SequentialVectorEnv(BatchedVectorEnv):
    """``num_envs`` episodes of :class:`slot_rl.envs.SequentialEnv`, with one estimator call where answers are complete.

    An episode that ends is reset within the step (SAME_STEP): its last observation is in ``infos["final_obs"]``.
    """

    def __init__(
        self,
        problem: Problem | str,
        num_envs: int = 1,
        render_mode: None = None,
        infeasible: Infeasibility = "refuse",
        penalty: float | None = None,
        shaping: Shaping = "none",
        **options: Any,
    ) -> None:
        """Builds the environment.

        Args:
            problem: A problem, or the id of a problem or of its sequential environment.
            num_envs: Requests at a time.
            render_mode: None; there is nothing to render.
            infeasible: As in :class:`slot_rl.envs.SequentialEnv`.
            penalty: Likewise.
            shaping: Likewise.
            options: Options of ``slot_rl.problems.make_problem``, with an id only.

        Raises:
            ValueError: If the problem cannot be built from the arguments.
        """
        problem = as_sequential_problem(problem, options)
        self._episodes = SlotBySlot(problem, num_envs, infeasible, penalty, shaping=shaping)
        super().__init__(self._episodes, sequential_space(problem), spaces.Discrete(problem.items), render_mode)

    def step(
        self, actions: npt.NDArray[np.int64]
    ) -> tuple[Arrays, npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]:
        """Fills the next slots, and opens new requests where episodes end.

        Raises:
            ValueError: If an action names no item; also if the item is not open, unless such items are penalised.
        """
        step = self._episodes.advance(actions)
        infos: dict[str, Any] = {}
        if step.done.any():
            # Nothing is open to an episode that is over.
            masks = {"action_mask": np.zeros((self.num_envs, self.problem.items), np.int8), "_action_mask": step.done}
            infos |= self._final(self._episodes.observed(), step.done, step.infeasible, **masks)
            self._episodes.restart(step.done)
        infos |= self._info()
        running = ~step.done
        if self.penalty is not None and running.any():
            infos |= {"infeasible": np.zeros(self.num_envs, dtype=np.bool_), "_infeasible": running.copy()}
        none = np.zeros(self.num_envs, dtype=np.bool_)
        return self._episodes.observed(), step.rewards.astype(np.float64), step.done.copy(), none, infos

    def _info(self) -> dict[str, Any]:
        every = np.ones(self.num_envs, dtype=np.bool_)
        return {"action_mask": self.action_masks().astype(np.int8), "_action_mask": every}

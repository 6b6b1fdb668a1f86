"""One request at a time, slot by slot: a Gymnasium environment for agents that choose one item a step."""

from typing import Any

import numpy as np
from gymnasium import spaces

from slot_rl.envs.episodes import Arrays, Infeasibility
from slot_rl.envs.single import BatchOfOne, first_of
from slot_rl.envs.slot_by_slot import Shaping, SlotBySlot, as_sequential_problem, sequential_space
from slot_rl.problems import Problem


class SequentialEnv(BatchOfOne[np.int64]):
    """Episodes of S steps: see the request and the answer so far, choose the next slot's item, get the score at last.

    The observation is that of :class:`slot_rl.envs.SlotsEnv` with ``answer`` (0 for an open slot, else the item's index
    plus 1) and ``slot``, the slot to fill. Which items may fill it is in ``info["action_mask"]``, as the action space's
    ``sample(mask=...)`` takes it, and in :meth:`action_masks`, as MaskablePPO does; after the end none may.
    """

    def __init__(
        self,
        problem: Problem | str,
        render_mode: None = None,
        infeasible: Infeasibility = "refuse",
        penalty: float | None = None,
        shaping: Shaping = "none",
        **options: Any,
    ) -> None:
        """Builds the environment.

        Args:
            problem: A problem, or the id of a problem or of its sequential environment.
            render_mode: None; there is nothing to render.
            infeasible: What becomes of an item that is not open: "refuse", or "penalise", which ends the episode.
            penalty: The reward then; as in :class:`slot_rl.envs.SlotsEnv`.
            shaping: "none", or "potential", which leaves every return as it is; see ``slot_rl.envs.slot_by_slot``.
            options: Options of ``slot_rl.problems.make_problem``, with an id only.

        Raises:
            ValueError: If the problem cannot be built from the arguments.
        """
        problem = as_sequential_problem(problem, options)
        self._episodes = SlotBySlot(problem, 1, infeasible, penalty, shaping=shaping)
        super().__init__(self._episodes, sequential_space(problem), spaces.Discrete(problem.items), render_mode)

    def step(self, action: np.int64) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Fills the next slot.

        Raises:
            ValueError: If the action names no item; also if the item is not open, unless such items are penalised.
        """
        step = self._episodes.advance(np.asarray(action)[None])
        info = self._info() if self.penalty is None else {**self._info(), "infeasible": bool(step.infeasible[0])}
        return first_of(self._episodes.observed()), float(step.rewards[0]), bool(step.done[0]), False, info

    def _info(self) -> dict[str, Any]:
        return {"action_mask": self.action_masks().astype(np.int8)}

"""One request at a time, slot by slot: a Gymnasium environment for agents that choose one item a step."""

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from slot_rl.envs.episodes import Arrays, Infeasibility, as_problem
from slot_rl.envs.single import first_of, stacked
from slot_rl.envs.slot_by_slot import Shaping, SlotBySlot, sequential_space
from slot_rl.problems import Problem


class SequentialEnv(gym.Env[Arrays, np.int64]):
    """Episodes of S steps: see the request and the answer so far, choose the next slot's item, get the score at last.

    The observation is that of :class:`slot_rl.envs.SlotsEnv` with ``answer`` (0 for an open slot, else the item's index
    plus 1) and ``slot``, the slot to fill. Which items may fill it is in ``info["action_mask"]``, as the action space's
    ``sample(mask=...)`` takes it, and in :meth:`action_masks`, as MaskablePPO does; after the end none may.
    """

    metadata: dict[str, Any] = {"render_modes": []}

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
            problem: A problem, or a problem's id.
            render_mode: None; there is nothing to render.
            infeasible: What becomes of an item that is not open: "refuse", or "penalise", which ends the episode.
            penalty: The reward then; as in :class:`slot_rl.envs.SlotsEnv`.
            shaping: "none", or "potential", which leaves every return as it is; see ``slot_rl.envs.slot_by_slot``.
            options: Options of ``slot_rl.problems.make_problem``, with an id only.

        Raises:
            ValueError: If the problem cannot be built from the arguments.
        """
        self.problem = as_problem(problem, options)
        self.render_mode = render_mode
        self.observation_space = sequential_space(self.problem)  # type: ignore[assignment]
        self.action_space = spaces.Discrete(self.problem.items)
        self._episodes = SlotBySlot(self.problem, 1, infeasible, penalty, shaping=shaping)
        self._episodes.seed(self.np_random)

    @property
    def penalty(self) -> float | None:
        """The reward of an item that is not open; None where it is refused."""
        return self._episodes.penalty

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Returns which items may fill the next slot, ``(items,)``."""
        masks: npt.NDArray[np.bool_] = self._episodes.masks()[0]
        return masks

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        """Opens a request; ``options["observation"]`` opens a given one."""
        super().reset(seed=seed)
        if seed is not None:
            self._episodes.seed(self.np_random)
        if options and options.get("observation") is not None:
            options = {**options, "observation": stacked(options["observation"])}
        return first_of(self._episodes.start(options)), self._info()

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

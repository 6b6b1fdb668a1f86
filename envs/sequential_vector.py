"""Many requests at a time, slot by slot: a natively batched Gymnasium vector environment."""

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from slot_rl.envs.episodes import Arrays, Infeasibility, as_problem
from slot_rl.envs.slot_by_slot import Shaping, SlotBySlot, Step, sequential_space
from slot_rl.envs.vector import check_one_seed, unstacked
from slot_rl.problems import Problem


class SequentialVectorEnv(VectorEnv[Arrays, npt.NDArray[np.int64], npt.NDArray[Any]]):
    """``num_envs`` episodes of :class:`slot_rl.envs.SequentialEnv`, with one estimator call where answers are complete.

    An episode that ends is reset within the step (SAME_STEP): its last observation is in ``infos["final_obs"]``.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}

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
            problem: A problem, or a problem's id.
            num_envs: Requests at a time.
            render_mode: None; there is nothing to render.
            infeasible: As in :class:`slot_rl.envs.SequentialEnv`.
            penalty: Likewise.
            shaping: Likewise.
            options: Options of ``slot_rl.problems.make_problem``, with an id only.

        Raises:
            ValueError: If the problem cannot be built from the arguments.
        """
        self.problem = as_problem(problem, options)
        self.num_envs, self.render_mode = num_envs, render_mode
        self._episodes = SlotBySlot(self.problem, num_envs, infeasible, penalty, shaping=shaping)
        self._episodes.seed(self.np_random)
        self.single_observation_space = sequential_space(self.problem)
        self.single_action_space = spaces.Discrete(self.problem.items)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @property
    def penalty(self) -> float | None:
        """The reward of an item that is not open; None where it is refused."""
        return self._episodes.penalty

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Returns which items may fill the next slots, ``(num_envs, items)``."""
        return self._episodes.masks()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        """Opens requests; ``options["observation"]`` opens given ones, stacked.

        Raises:
            TypeError: If the seed is a list: one generator draws the whole batch.
        """
        check_one_seed(seed)
        super().reset(seed=seed)
        if seed is not None:
            self._episodes.seed(self.np_random)
        return self._episodes.start(options), self._info()

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
            infos |= self._final(step)
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

    def _final(self, step: Step) -> dict[str, Any]:
        """Returns what gymnasium keeps of episodes that are over: nothing is open to them, so their masks are 0."""
        done = step.done
        observations = unstacked(self._episodes.observed(), self.num_envs)
        observations[~done] = None
        final = {
            "action_mask": np.zeros((self.num_envs, self.problem.items), dtype=np.int8),
            "_action_mask": done.copy(),
        }
        if self.penalty is not None:
            final |= {"infeasible": step.infeasible.copy(), "_infeasible": done.copy()}
        return {
            "final_obs": observations,
            "_final_obs": done.copy(),
            "final_info": final,
            "_final_info": done.copy(),
        }

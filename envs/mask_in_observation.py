"""A wrapper for agents that read what the next action may be from the observation, as RLlib's masked module does."""

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from slot_rl.envs.episodes import Arrays
from slot_rl.envs.sequential import SequentialEnv

Masked = dict[str, npt.NDArray[Any]]


class MaskInObservation(gym.ObservationWrapper[Masked, np.int64, Arrays]):
    """Gives ``observations``, the request and the answer so far in one row, and ``action_mask``, 1 for an open item.

    Both are float32. They bear the names that RLlib's ``ActionMaskingTorchRLModule`` reads; TorchRL's ``ActionMask``
    finds the mask as well.
    """

    def __init__(self, env: gym.Env[Arrays, np.int64]) -> None:
        """Takes a sequential environment, wrapped or not.

        Raises:
            TypeError: If the environment does not fill one slot a step.
        """
        super().__init__(env)
        if not isinstance(env.unwrapped, SequentialEnv):
            raise TypeError(f"expected a SequentialEnv, which has a mask for each step, got {env.unwrapped}")
        self._sequential = env.unwrapped
        row = spaces.Box(-np.inf, np.inf, (spaces.flatdim(env.observation_space),), np.float32)
        mask = spaces.Box(0.0, 1.0, (self._sequential.problem.items,), np.float32)
        both: spaces.Space[Any] = spaces.Dict({"action_mask": mask, "observations": row})
        self.observation_space = both

    def observation(self, observation: Arrays) -> Masked:
        """Returns the mask and the flat observation."""
        row = np.asarray(spaces.flatten(self.env.observation_space, observation), np.float32)
        return {"action_mask": self._sequential.action_masks().astype(np.float32), "observations": row}

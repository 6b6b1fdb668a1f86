"""What the three faces of a problem share: its spaces, its observations as arrays, and a batch of one-step episodes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces

from slot_rl.problems import Observation, ObservationPart, Problem, check_choice, make_problem

Arrays = dict[str, npt.NDArray[Any]]


def as_problem(problem: Problem | str, options: Mapping[str, Any]) -> Problem:
    """Returns a problem as it is, or builds it from its id.

    Raises:
        ValueError: If the id is unknown, or options come with a problem that is built already.
        TypeError: If an option is unknown, or the problem is neither a problem nor an id.
    """
    if isinstance(problem, str):
        return make_problem(problem, **options)
    if not isinstance(problem, Problem):
        raise TypeError(f"expected a Problem or a problem's id, got {type(problem).__name__}")
    if options:
        raise ValueError(f"expected no options with a problem that is built already, got {', '.join(options)}")
    return problem


def observation_space(problem: Problem) -> spaces.Dict:
    """Returns the space of a single observation, with the parts that vary; see :class:`Observation`."""
    return spaces.Dict({name: _space(part) for name, part in problem.observation_parts().items()})


def _space(part: ObservationPart) -> spaces.Space[Any]:
    if part.kind == "real":
        return spaces.Box(-np.inf, np.inf, part.shape, np.float32)
    return spaces.MultiBinary(part.shape) if part.kind == "boolean" else spaces.MultiDiscrete(list(part.sizes))


# Quoted: the class takes no type argument in gymnasium before 1.4.
def action_space(problem: Problem) -> "spaces.MultiDiscrete[np.signedinteger[Any]]":
    """Returns the space of a single choice."""
    return spaces.MultiDiscrete(list(problem.sizes))


def to_arrays(observation: Observation) -> Arrays:
    """Returns an observation's parts as arrays; they share memory with its tensors."""
    arrays: Arrays = {name: part.numpy() for name, part in observation.tensors().items()}
    if "mask" in arrays:
        arrays["mask"] = arrays["mask"].view(np.int8)  # gymnasium's MultiBinary holds int8
    return arrays


@dataclass
class Episodes:
    """A batch of one-step episodes: the requests that are open, and the generator that draws the next ones.

    Attributes:
        problem: The problem.
        size: Episodes in the batch.
        observation: The open requests; None before the first start.
    """

    problem: Problem
    size: int
    observation: Observation | None = None

    def __post_init__(self) -> None:
        """Refuses an empty batch."""
        if self.size < 1:
            raise ValueError(f"expected at least one environment, got {self.size}")
        self._generator = torch.Generator()

    def seed(self, random: np.random.Generator) -> None:
        """Seeds all further draws from an environment's own generator."""
        self._generator.manual_seed(int(random.integers(2**63)))

    def start(self, options: Mapping[str, Any] | None = None) -> Arrays:
        """Opens new requests, or the ones in ``options["observation"]``.

        Raises:
            ValueError: If an option is unknown, or the given observation does not fit the problem.
        """
        unknown = set(options or {}) - {"observation"}
        if unknown:
            raise ValueError(f"expected no reset option but 'observation', got {', '.join(sorted(unknown))}")
        if options and options.get("observation") is not None:
            self.observation = self._given(options["observation"])
        else:
            self.observation = self.problem.sample(self.size, self._generator)
        return {name: part.copy() for name, part in to_arrays(self.observation).items()}

    def finish(self, actions: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Scores one choice per open request.

        Args:
            actions: Integers of shape ``(size, slots)``.

        Returns:
            Rewards of shape ``(size,)``.

        Raises:
            RuntimeError: If no request is open.
            TypeError: If the actions are not integers.
            ValueError: If an action names no item, or a masked one.
        """
        if self.observation is None:
            raise RuntimeError("expected reset() before step(), got a step with no open request")
        actions = np.asarray(actions)
        if actions.dtype.kind not in "iu":
            raise TypeError(f"expected integer actions, got {actions.dtype}")
        choice = torch.as_tensor(actions.astype(np.int64, copy=False))
        check_choice(self.problem, self.observation, choice)
        rewards: npt.NDArray[np.float32] = self.problem.score(self.observation, choice).numpy()
        return rewards

    def _given(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Observation:
        spaces_by_name = observation_space(self.problem)
        unknown = set(arrays) - set(spaces_by_name)
        if unknown:
            raise ValueError(
                f"expected only {', '.join(spaces_by_name)} in the given observation, got {', '.join(sorted(unknown))}"
            )
        for name, space in spaces_by_name.items():
            expected = (self.size, *(space.shape or ()))
            found = None if name not in arrays else np.shape(arrays[name])
            if found != expected:
                raise ValueError(f"expected {name!r} of shape {expected} in the given observation, got {found}")
            rows = np.asarray(arrays[name])
            # Gymnasium 1.1 counts fractions as contained.
            whole = rows.dtype.kind in "iu"
            if isinstance(space, spaces.MultiDiscrete) and not (whole and all(map(space.contains, rows))):
                raise ValueError(
                    f"expected {name!r} below {space.nvec.tolist()} in the given observation, got {arrays[name]}"
                )
        return Observation.of({name: np.array(part) for name, part in arrays.items()})

"""What the three faces of a problem share: its spaces, its observations as arrays, and a batch of one-step episodes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from slot_rl.problems import Observation, ObservationPart, Problem, check_choice, make_problem
from slot_rl.search import allowed_items, is_allowed, random_choice
from slot_rl.seeding import generator_from

Arrays = dict[str, npt.NDArray[Any]]
Infeasibility = Literal["refuse", "penalise"]
"""What becomes of an answer that is not allowed: an error, or a stated reward."""
PENALTY_ANSWERS, PENALTY_DEVIATIONS = 256, 3
"""Random allowed answers from which the penalty is taken, and how many standard deviations it lies below their mean."""


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
    if part.kind == "numbers":
        # Not a MultiDiscrete: Stable-Baselines3 takes no table of them.
        return spaces.Box(0, np.broadcast_to(np.array(part.sizes) - 1, part.shape), part.shape, np.int64)
    if part.kind == "boolean":
        # Not a MultiBinary: TorchRL takes no table of them.
        return spaces.Box(0, 1, part.shape, np.int8)
    return spaces.MultiDiscrete(list(part.sizes))


# Quoted: the class takes no type argument in gymnasium before 1.4.
def action_space(problem: Problem) -> "spaces.MultiDiscrete[np.signedinteger[Any]]":
    """Returns the space of a single choice."""
    return spaces.MultiDiscrete(list(problem.sizes))


def to_arrays(observation: Observation) -> Arrays:
    """Returns an observation's parts as arrays; they share memory with its tensors."""
    arrays: Arrays = {name: part.numpy() for name, part in observation.tensors().items()}
    if "mask" in arrays:
        arrays["mask"] = arrays["mask"].view(np.int8)
    return arrays


def default_penalty(problem: Problem) -> float:
    """Returns three standard deviations below the mean score of 256 random allowed answers.

    The draws are the same every time, and the calls count in no budget.
    """
    twin, generator = problem.with_fresh_budget(), generator_from(0)
    observation = twin.sample(PENALTY_ANSWERS, generator)
    scores = twin.score(observation, random_choice(twin, observation, generator)).double()
    # In the precision of rewards, so that a penalty can be told from them by comparing.
    return float((scores.mean() - PENALTY_DEVIATIONS * scores.std()).float())


def checked_penalty(problem: Problem, infeasible: str, penalty: float | None) -> float | None:
    """Returns the reward of an answer that is not allowed; None where such answers are refused.

    Raises:
        ValueError: If ``infeasible`` is unknown, or the penalty is not finite or has no use.
    """
    if infeasible not in get_args(Infeasibility):
        raise ValueError(f"expected infeasible {' or '.join(get_args(Infeasibility))}, got {infeasible!r}")
    if infeasible == "refuse":
        if penalty is not None:
            raise ValueError(f"expected no penalty with infeasible='refuse', got {penalty!r}")
        return None
    if penalty is None:
        return default_penalty(problem)
    number = penalty.item() if isinstance(penalty, np.number) else penalty
    # Rewards are float32.
    limit = float(np.finfo(np.float32).max)
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= limit:
        raise ValueError(f"expected a finite number as penalty, got {penalty!r}")
    return float(number)


@dataclass
class Episodes:
    """A batch of one-step episodes: the requests that are open, and the generator that draws the next ones.

    Attributes:
        problem: The problem.
        size: Episodes in the batch.
        infeasible: What becomes of an answer that is not allowed.
        penalty: Its reward; :func:`default_penalty` if None is given, and None where such answers are refused.
        observation: The open requests; None before the first start.
    """

    problem: Problem
    size: int
    infeasible: Infeasibility = "refuse"
    penalty: float | None = None
    observation: Observation | None = None

    def __post_init__(self) -> None:
        """Refuses an empty batch, and options of no use."""
        if self.size < 1:
            raise ValueError(f"expected at least one environment, got {self.size}")
        self.penalty = checked_penalty(self.problem, self.infeasible, self.penalty)
        self._generator = torch.Generator()
        self._drawn_from = self._generator.get_state()
        # Says whether answers name items at all, where those that are not allowed are no error.
        self._unconstrained = self.problem if self.penalty is None else self.problem.with_constraints([])

    def seed(self, random: np.random.Generator) -> None:
        """Seeds all further draws from an environment's own generator."""
        self._generator.manual_seed(int(random.integers(2**63)))
        self._drawn_from = self._generator.get_state()

    def state(self) -> Tensor:
        """Returns the generator's state from before the open requests were drawn; given ones are drawn anew."""
        return self._drawn_from

    def restore(self, state: Tensor) -> None:
        """Lets the next start open the requests of a :meth:`state`."""
        self._generator.set_state(state)

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
            self._drawn_from = self._generator.get_state()
            self.observation = self.problem.sample(self.size, self._generator)
        return {name: part.copy() for name, part in to_arrays(self.observation).items()}

    def finish(self, actions: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Scores one choice per open request.

        Args:
            actions: Integers of shape ``(size, slots)``.

        Returns:
            Rewards of shape ``(size,)``, and which of them are penalties.

        Raises:
            RuntimeError: If no request is open.
            TypeError: If the actions are not integers.
            ValueError: If an action names no item; also if it is not allowed, unless such answers are penalised.
        """
        if self.observation is None:
            raise RuntimeError("expected reset() before step(), got a step with no open request")
        choice = integers(actions)
        allowed = self._allowed(self.observation, choice)
        return self._rewards(self.observation, choice, allowed, ~allowed), (~allowed).numpy()

    def masks(self) -> npt.NDArray[np.bool_]:
        """Returns which items some allowed answer to the open requests has in each slot.

        The items of all slots stand side by side, without padding, as sb3-contrib's MaskablePPO takes them for
        MultiDiscrete actions: ``(size, items of all slots)``. Under constraints such items may still not fit together.

        Raises:
            RuntimeError: If no request is open.
        """
        observation = self._opened()
        allowed = allowed_items(self.problem, observation)
        masks: npt.NDArray[np.bool_] = torch.cat(
            [allowed[:, slot, :size] for slot, size in enumerate(self.problem.sizes)], dim=1
        ).numpy()
        return masks

    def _opened(self) -> Observation:
        if self.observation is None:
            raise RuntimeError("expected reset() before action_masks(), got no open request")
        return self.observation

    def _allowed(self, observation: Observation, choice: Tensor) -> Tensor:
        """Returns which choices are allowed, ``(size,)``; where others are refused, raises for them."""
        if self.penalty is None:
            check_choice(self.problem, observation, choice)
            return torch.ones(len(choice), dtype=torch.bool)
        check_choice(self._unconstrained, replace(observation, mask=None), choice)
        return is_allowed(self.problem, observation, choice)

    def _rewards(
        self, observation: Observation, choice: Tensor, complete: Tensor, penalised: Tensor
    ) -> npt.NDArray[np.float32]:
        """Returns the scores of complete answers, penalties at one call each, and 0 for the other rows, ``(size,)``."""
        if bool(complete.all()):
            scores: npt.NDArray[np.float32] = self.problem.score(observation, choice).numpy()
            return scores
        rewards = torch.zeros(len(choice))
        if bool(complete.any()):
            rewards[complete] = self.problem.score(observation[complete], choice[complete]).float()
        if self.penalty is not None:
            rewards[penalised] = self.penalty
            self.problem.budget.forwards += int(penalised.sum())
        return rewards.numpy()

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
            if space.dtype == np.int64 and not (whole and all(map(space.contains, rows.astype(np.int64)))):
                sizes = self.problem.observation_parts()[name].sizes
                raise ValueError(f"expected {name!r} below {list(sizes)} in the given observation, got {arrays[name]}")
        return Observation.of({name: np.array(part) for name, part in arrays.items()})


def integers(actions: npt.ArrayLike) -> Tensor:
    """Returns actions as a long tensor; raises TypeError if they are not integers."""
    found = np.asarray(actions)
    if found.dtype.kind not in "iu":
        raise TypeError(f"expected integer actions, got {found.dtype}")
    return torch.as_tensor(found.astype(np.int64, copy=False))

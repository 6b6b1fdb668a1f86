"""Episodes that fill one slot a step: what the three sequential faces share.

An episode's state is a request and a partial answer, whose slots are filled in their order. The last slot earns the
score of the whole answer, every other one nothing, unless rewards are shaped.

Potential-based shaping adds ``Phi(s') - Phi(s)`` to the reward of a step from s to s' (with discount 1). Phi of a
partial answer is the estimator's score of that answer with its open slots filled, one after another, with the first
item that is open to them: one counted call. It is 0 at the start and at the end, so what is added to an episode's
return sums to 0, and the best policy stays the best.

Ng, Harada, Russell, "Policy invariance under reward transformations: theory and application to reward shaping" (1999).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from slot_rl.envs.episodes import Arrays, Episodes, as_problem, integers, observation_space, to_arrays
from slot_rl.envs.registration import SEQUENTIAL_IDS
from slot_rl.problems import Observation, Problem
from slot_rl.search import allowed_items
from slot_rl.selectors.rules import OPEN

Shaping = Literal["none", "potential"]


def sequential_space(problem: Problem) -> spaces.Dict:
    """Returns the space of an observation: the problem's parts, the partial answer, and the slot to fill next.

    ``answer`` holds 0 where a slot is open and otherwise its item's index plus 1. ``slot`` is S at the end.
    """
    parts = observation_space(problem).spaces
    answer = spaces.MultiDiscrete([problem.items + 1] * problem.slots)
    return spaces.Dict({**parts, "answer": answer, "slot": spaces.Discrete(problem.slots + 1)})


def as_sequential_problem(problem: Problem | str, options: Mapping[str, Any]) -> Problem:
    """Returns a problem as :func:`as_problem` does, also from the id of its sequential environment."""
    ids = {sequential: problem_id for problem_id, sequential in SEQUENTIAL_IDS.items()}
    return as_problem(ids.get(problem, problem) if isinstance(problem, str) else problem, options)


@dataclass(frozen=True)
class Step:
    """What a step brought each environment; all arrays have the shape ``(size,)``.

    Attributes:
        rewards: Rewards.
        done: Whether the episode is over.
        infeasible: Whether it is over because of an item that was not open.
        returns: What the finished episode earned, a score or the penalty; 0 for the others.
    """

    rewards: npt.NDArray[np.float32]
    done: npt.NDArray[np.bool_]
    infeasible: npt.NDArray[np.bool_]
    returns: npt.NDArray[np.float32]


class OpenItems:
    """Which items may fill the slots of requests: by the problem's rules, or without any by the requests' mask."""

    def __init__(self, problem: Problem, observation: Observation) -> None:
        """Takes the requests; raises ValueError if one of them allows no answer."""
        self._rules = problem.rules(observation)
        self._allowed = allowed_items(problem, observation) if self._rules is None else None

    def at(self, choice: Tensor, slot: int) -> Tensor:
        """Returns the items that may fill a slot of partial answers ``(batch, slots)``, ``(batch, items)``."""
        if self._rules is not None:
            return self._rules.open_items(choice, slot)
        assert self._allowed is not None
        return self._allowed[:, slot]

    def completed(self, choice: Tensor) -> Tensor:
        """Fills the open slots of partial answers with the first item that is open to them, ``(batch, slots)``."""
        choice = choice.clone()
        for slot in range(choice.shape[1]):
            first = self.at(choice, slot).int().argmax(dim=-1)
            choice[:, slot] = torch.where(choice[:, slot] == OPEN, first, choice[:, slot])
        return choice


@dataclass
class SlotBySlot(Episodes):
    """A batch of episodes of S steps each.

    An item that is not open is refused, or with ``infeasible="penalise"`` ends the episode with the penalty; episodes
    then may be at different slots.

    Attributes:
        shaping: "none", or "potential", which costs a call at every step but the last; see the module.
        choice: The partial answers, ``(size, slots)``.
        slot: The slots to fill next, ``(size,)``.
        open: The items that may fill them, ``(size, items)``; none after the end.
    """

    shaping: Shaping = "none"

    def __post_init__(self) -> None:
        """Refuses options of no use."""
        super().__post_init__()
        self.choice = torch.full((self.size, self.problem.slots), OPEN)
        self.slot = torch.zeros(self.size, dtype=torch.long)
        self._potential = torch.zeros(self.size)
        if self.shaping not in get_args(Shaping):
            raise ValueError(f"expected shaping {' or '.join(get_args(Shaping))}, got {self.shaping!r}")

    def start(self, options: Mapping[str, Any] | None = None) -> Arrays:
        """Opens new requests, or given ones; see :meth:`Episodes.start`."""
        super().start(options)
        self._open_at(torch.ones(self.size, dtype=torch.bool))
        return self.observed()

    def state(self) -> Tensor:
        """Returns the generator's state from before the open requests were drawn.

        Raises:
            RuntimeError: If an episode is under way, or where answers may be penalised, since then requests are drawn
                one after another.
        """
        if self.penalty is not None or bool((self.slot > 0).any()):
            raise RuntimeError(f"expected all episodes at their first slot, got slots {self.slot.tolist()}")
        return super().state()

    def restart(self, done: npt.NDArray[np.bool_]) -> None:
        """Opens new requests where episodes are over."""
        rows = torch.from_numpy(done)
        if bool(rows.all()):
            super().start()
        else:
            assert self.observation is not None
            parts = {name: part.clone() for name, part in self.observation.tensors().items()}
            for name, part in self.problem.sample(int(rows.sum()), self._generator).tensors().items():
                parts[name][rows] = part
            self.observation = replace(self.observation, **parts)
        self._open_at(rows)

    def observed(self) -> Arrays:
        """Returns the observations, as copies."""
        assert self.observation is not None
        arrays = {name: part.copy() for name, part in to_arrays(self.observation).items()}
        return {**arrays, "answer": (self.choice + 1).numpy(), "slot": self.slot.numpy().copy()}

    def masks(self) -> npt.NDArray[np.bool_]:
        """Returns which items may fill the next slot, ``(size, items)``; raises RuntimeError if no request is open."""
        self._opened()
        return self.open.numpy().copy()

    def advance(self, actions: npt.ArrayLike) -> Step:
        """Fills the next slot of each episode.

        Args:
            actions: An item each, ``(size,)``.

        Raises:
            RuntimeError: If no request is open, or an episode is over.
            TypeError: If the actions are not integers.
            ValueError: If an action names no item; also if its item is not open, unless such answers are penalised.
        """
        if self.observation is None or bool((self.slot == self.problem.slots).any()):
            raise RuntimeError("expected reset() before step(), got a step with no open request")
        item = self._items(actions)
        allowed = self.open.gather(1, item.unsqueeze(1)).squeeze(1)
        if self.penalty is None and not bool(allowed.all()):
            self._refuse(item, int((~allowed).int().argmax()))
        before = self._potential
        self.choice[torch.arange(self.size), self.slot] = item
        last = allowed & (self.slot == self.problem.slots - 1)
        self.slot = torch.where(allowed, self.slot + 1, self.problem.slots)
        done = last | ~allowed
        returns = self._rewards(self.observation, self.choice, last, ~allowed)
        self._find_open()
        self._potential = self._potentials(done)
        rewards = returns + (self._potential - before).numpy()
        return Step(rewards, done.numpy(), (~allowed).numpy(), returns)

    def _items(self, actions: npt.ArrayLike) -> Tensor:
        item = integers(actions)
        if tuple(item.shape) != (self.size,):
            raise ValueError(f"expected actions of shape {(self.size,)}, got {tuple(item.shape)}")
        outside = (item < 0) | (item >= self.problem.items)
        if bool(outside.any()):
            raise ValueError(f"expected an item from 0 to {self.problem.items - 1}, got {int(item[outside][0])}")
        return item

    def _refuse(self, item: Tensor, row: int) -> None:
        constraints = self.problem.constraints
        under = "" if constraints is None else f" under {constraints}"
        where = f" in environment {row}" if self.size > 1 else ""
        raise ValueError(
            f"expected an item that is open to slot {int(self.slot[row])}{under}, got item {int(item[row])}{where}"
        )

    def _open_at(self, rows: Tensor) -> None:
        """Opens all slots of some rows, whose requests are new."""
        assert self.observation is not None
        self.choice[rows], self.slot[rows], self._potential[rows] = OPEN, 0, 0.0
        self._fillers = OpenItems(self.problem, self.observation)
        self._find_open()

    def _find_open(self) -> None:
        slots = self.problem.slots
        self.open = torch.zeros(self.size, self.problem.items, dtype=torch.bool)
        # An answer that is over may break the rules, which speak of partial answers alone.
        choice = self.choice.masked_fill((self.slot == slots).unsqueeze(1), OPEN)
        for slot in self.slot.unique().tolist():
            if slot < slots:
                rows = self.slot == slot
                self.open[rows] = self._fillers.at(choice, slot)[rows]

    def _potentials(self, done: Tensor) -> Tensor:
        """Returns Phi of each episode's state, ``(size,)``."""
        found = torch.zeros(self.size)
        if self.shaping == "potential" and not bool(done.all()):
            assert self.observation is not None
            going = ~done
            choice = self._fillers.completed(self.choice.masked_fill(done.unsqueeze(1), OPEN))
            found[going] = self.problem.score(self.observation[going], choice[going]).float()
        return found

"""What a checkpoint says of the problem that its agent was trained on: enough to answer requests, not to score them.

An agent that is loaded without an environment stands in a :class:`RecalledProblem`: what requests look like, the fixed
candidates, and the constraints. Its estimator is not known, so it cannot learn.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from slot_rl.documents import as_declared
from slot_rl.estimators.freezing import Score
from slot_rl.io import BundleError
from slot_rl.problems import Observation, ObservationPart, Problem
from slot_rl.problems.constraints import ConstraintSet, ItemSpace
from slot_rl.problems.constraints.written import as_entry, constraints_of
from slot_rl.selectors.categorical import one_hot
from slot_rl.selectors.rules import Rules

_CATALOGUE, _LABELS = "problem.catalogue", "problem.labels"


@dataclass(frozen=True)
class Recalled:
    """A problem without its estimator, as JSON-ready values.

    Attributes:
        name: The problem's name.
        parts: What observations hold.
        sizes: Items of each slot.
        pool: Length of the vectors of a known pool; None if there is none.
        constraints: The constraints as entries; None if they have no written form.
        slot_names: Names of the slots; None where they have only numbers.
        item_names: Names of each slot's items, once if they are the same; None where they have only numbers.
        same_items: Whether an item's number means the same item in every slot.
        fixed: Whether it means the same in every request.
        labels: Categories of the items' attributes that constraints speak of.
        environments: Environments that the agent played in at once.
    """

    name: str
    parts: dict[str, ObservationPart]
    sizes: tuple[int, ...]
    pool: int | None
    constraints: tuple[dict[str, Any], ...] | None
    slot_names: tuple[str, ...] | None
    item_names: tuple[tuple[str, ...], ...] | None
    same_items: bool
    fixed: bool
    labels: dict[str, tuple[str, ...]]
    environments: int


def remembered(problem: Problem, environments: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns what a checkpoint keeps of a problem: tensors by name, and JSON-ready values."""
    if isinstance(problem, RecalledProblem):
        return problem.state()
    space = problem.item_space()
    held = () if problem.constraints is None else problem.constraints.constraints
    entries = [as_entry(each) for each in held]
    known = [entry for entry in entries if entry is not None]
    named = bool(held)  # names are of use to constraints alone
    names = space.item_names if named else None
    # As text, a slot's number would mean the slot of that name.
    numbered = named and any(name.isdigit() for name in space.slot_names or ())
    recalled = Recalled(
        problem.name,
        problem.observation_parts(),
        problem.sizes,
        None if problem.pool is None else problem.pool.shape[-1],
        tuple(known) if len(known) == len(entries) and not numbered else None,
        space.slot_names if named else None,
        names if names is None or len(set(names)) > 1 else names[:1],
        space.same_items,
        space.fixed,
        dict(space.labels),
        environments,
    )
    return _kept(recalled, problem.catalogue, space.fixed_labels)


def recall(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> "RecalledProblem":
    """Returns what :func:`remembered` kept.

    Raises:
        BundleError: If nothing was kept, or the constraints are not known.
    """
    if "problem" not in document:
        raise BundleError("expected the environment that the agent was trained in, whose spaces this checkpoint lacks")
    found = as_declared(Recalled, document["problem"], "problem")
    if found.constraints is None:
        raise BundleError(
            f"expected the environment of {found.name}, whose constraints a checkpoint cannot write down, got none"
        )
    return RecalledProblem(found, tensors.get(_CATALOGUE), tensors.get(_LABELS))


class RecalledProblem(Problem):
    """A problem whose estimator is not known."""

    def __init__(self, recalled: Recalled, catalogue: Tensor | None = None, labels: Tensor | None = None) -> None:
        """Takes what is known, the fixed candidates, and the labels of items that are the same in every request."""
        super().__init__(recalled.name, recalled.sizes, _refuse, None)
        self._recalled, self._catalogue, self._fixed_labels = recalled, catalogue, labels
        padding = torch.arange(self.items) < torch.tensor(self.sizes).unsqueeze(-1)
        self._padding = None if bool(padding.all()) else padding
        self._constrain(constraints_of(recalled.constraints or ()))

    @property
    def environments(self) -> int:
        """Environments that the agent played in at once."""
        return self._recalled.environments

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns tensors by name, and JSON-ready values."""
        return _kept(self._recalled, self._catalogue, self._fixed_labels)

    @property
    def catalogue(self) -> Tensor | None:
        """Fixed candidates ``(slots, items, dim)``; None where requests bring theirs, or items are one-hot rows."""
        return self._catalogue

    @property
    def pool(self) -> Tensor | None:
        """Vectors as long as those of the pool: a network's units of them are in its weights."""
        return None if self._recalled.pool is None else torch.eye(2, self._recalled.pool)

    def observation_parts(self) -> dict[str, ObservationPart]:
        """Returns what an observation holds."""
        return self._recalled.parts

    def item_space(self) -> ItemSpace:
        """Returns what constraints speak of."""
        known, names = self._recalled, self._recalled.item_names
        return replace(
            super().item_space(),
            slot_names=known.slot_names,
            item_names=names * self.slots if names is not None and len(names) == 1 else names,
            same_items=known.same_items,
            fixed=known.fixed,
            attributes=tuple(known.labels),
            labels=known.labels,
            fixed_labels=self._fixed_labels,
        )

    def rules(self, observation: Observation) -> Rules | None:
        """Returns what the constraints allow requests, which may have another number of candidates than usual."""
        items = self.items if observation.candidates is None else observation.candidates.shape[1]
        if self.constraints is None or items == self.items:
            return super().rules(observation)
        space = replace(self.item_space(), mask=torch.ones(self.slots, items, dtype=torch.bool))
        return ConstraintSet(self.constraints.constraints, space).rules(observation, self.mask(observation))

    def sample(self, batch: int, generator: torch.Generator) -> Observation:
        """Returns empty requests, which have the shapes of true ones."""
        parts = self._recalled.parts
        ones = {name: torch.ones(batch, *part.shape) for name, part in parts.items() if part.kind == "boolean"}
        return Observation.of({name: torch.zeros(batch, *part.shape) for name, part in parts.items()} | ones)

    def candidates(self, observation: Observation) -> Tensor:
        """Returns the request's candidates, or the fixed ones."""
        if observation.candidates is not None:
            return observation.candidates
        return torch.eye(self.items).expand(self.slots, -1, -1) if self._catalogue is None else self._catalogue

    def mask(self, observation: Observation) -> Tensor | None:
        """Returns what may be chosen: the request's mask, without the padding of short slots."""
        if observation.mask is None or self._padding is None:
            return self._padding if observation.mask is None else observation.mask
        return observation.mask & self._padding

    def gather(self, observation: Observation, choice: Tensor) -> Tensor:
        """Returns the chosen vectors, ``(..., batch, slots, dim)``."""
        return self.mix(observation, one_hot(choice, self.candidates(observation).shape[-2], torch.float32))

    def mix(self, observation: Observation, selection: Tensor) -> Tensor:
        """Returns selection-weighted vectors, ``(..., batch, slots, dim)``."""
        if observation.candidates is not None:
            return selection @ observation.candidates
        return torch.einsum("...sn,snd->...sd", selection, self.candidates(observation))

    def with_estimator(self, estimator: Score) -> Problem:
        """Refuses: what an estimator would be asked about is not known."""
        _refuse()

    def read_logged(self, path: Path) -> tuple[Observation, Tensor]:
        """Refuses: names of columns and categories are not known."""
        _refuse()

    def _scored(self, call: Score, observation: Observation, rows: Tensor, vectors: Tensor) -> Tensor:
        _refuse()

    def _ask(self, estimator: Score, observation: Observation, vectors: Tensor) -> Tensor:
        _refuse()

    def _ask_truth(self, truth: Score, observation: Observation, choice: Tensor) -> Tensor:
        _refuse()


def _kept(
    recalled: Recalled, catalogue: Tensor | None, labels: Tensor | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {_CATALOGUE: catalogue, _LABELS: labels}
    # Sizes and names may be numbers of numpy's.
    document = json.loads(json.dumps(asdict(recalled), default=lambda number: number.item()))
    return {name: each for name, each in tensors.items() if each is not None}, {"problem": document}


def refuse_recalled(problem: Problem | None) -> None:
    """Raises ValueError for a problem whose estimator is not known."""
    if isinstance(problem, RecalledProblem):
        _refuse()


def _refuse(*arguments: object) -> NoReturn:
    raise ValueError(
        "expected an environment whose estimator is known, got an agent that was loaded without one: "
        "load(path, env) gives it one"
    )

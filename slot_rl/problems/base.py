"""What a problem is: observations to answer, configurations to score, and a count of everything that was scored.

A problem gives each slot's candidates as vectors, turns a choice (indices) or a selection (one-hot or relaxed rows)
into one vector per slot, and asks the frozen estimator. Both ways meet in the same estimator call, so the reward of a
choice is the same number for an agent that learns through the estimator and for one that only sees rewards.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from operator import index
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import Self

from slot_rl.estimators.answers import check_answers, check_gradient
from slot_rl.estimators.freezing import Score, estimator_name, frozen
from slot_rl.problems.best_seen import BestSeen
from slot_rl.problems.constraints import Constraint, ConstraintSet, Infeasible, ItemSpace
from slot_rl.problems.guard import Asked, BadScore, Guard, largest
from slot_rl.problems.observation import Observation, ObservationPart
from slot_rl.problems.requests import Desk, RequestFiles, Requests
from slot_rl.seeding import check_default_dtype, generator_from
from slot_rl.selectors.categorical import one_hot
from slot_rl.selectors.rules import Rules

Unmeasured = Literal["omit", "worst"]
"""What a choice counts as that a truth table has not measured: as not known, or with its context's minimum."""


TRIED_ROWS = 3
"""Configurations that an estimator is tried on when a problem is built."""


@dataclass(frozen=True)
class TrueScores:
    """What the ground truth says of choices; all tensors have the shape ``(..., batch)``.

    Attributes:
        true: True scores; NaN where a table has not measured the choice, unless that counts as the worst.
        normalised: True scores between each request's lowest (0) and highest (1) measurement; NaN likewise, and None
            unless the ground truth is a table of measurements.
        measured: Whether, or for which share, the table has measured the choice; None likewise.
    """

    true: Tensor
    normalised: Tensor | None = None
    measured: Tensor | None = None


@dataclass(frozen=True)
class RequestNames:
    """Names of requests for tables.

    Attributes:
        title: What the requests are called together.
        names: One name a request.
    """

    title: str
    names: list[str]


@dataclass
class Budget:
    """What has been asked of the estimator.

    Attributes:
        forwards: Configurations scored.
        backwards: Configurations differentiated.
    """

    forwards: int = 0
    backwards: int = 0


class Problem(ABC):
    """A frozen estimator and the requests that it is asked about.

    Attributes:
        name: The problem's id, for reports.
        slots: Slots of a configuration, S.
        sizes: Items that each slot can hold at most, per slot.
        budget: What has been scored and differentiated through this object.
        constraints: What configurations are allowed; None if all are.
    """

    name: str
    slots: int
    sizes: tuple[int, ...]
    budget: Budget
    constraints: ConstraintSet | None = None

    def __init__(self, name: str, sizes: tuple[int, ...], estimator: Score, truth: Score | None) -> None:
        """Takes frozen copies of the estimator and the ground truth; the caller's modules stay as they are."""
        check_default_dtype()
        sizes = tuple(map(index, sizes))  # numpy's numbers are not for JSON
        if not sizes or min(sizes) < 1:
            raise ValueError(f"expected at least one slot with at least one item each, got sizes {sizes}")
        self.name, self.sizes, self.slots = name, sizes, len(sizes)
        self._estimator, self._guard = frozen(estimator), Guard(estimator)
        self._truth = None if truth is None else frozen(truth)
        self.budget = Budget()

    @property
    def items(self) -> int:
        """The widest slot's number of items, N; narrower slots are padded and masked."""
        return max(self.sizes)

    @property
    def catalogue(self) -> Tensor | None:
        """Fixed candidates ``(slots, items, dim)``; None where requests bring theirs, or items are one-hot rows."""
        return None

    @property
    def request_suffixes(self) -> tuple[str, ...]:
        """Endings of the files of answers that :meth:`read_requests` leads to."""
        return ()

    @property
    def pool(self) -> Tensor | None:
        """All vectors ``(vectors, dim)`` that requests' candidates come from; None if they are not known beforehand."""
        return None

    def with_items(self, items: int) -> "Problem":
        """Returns the same problem for requests with up to ``items`` candidates, with a budget of its own.

        Raises:
            ValueError: If requests of this kind of problem do not bring candidates.
        """
        raise ValueError(f"expected a problem whose requests bring candidates, got {self.name}")

    def with_descriptors(self, files: Mapping[str, Path]) -> "Problem":
        """Returns the same problem with further categories, which files describe, by column.

        Raises:
            ValueError: If this kind of problem has no described columns, or a file is not usable.
        """
        raise ValueError(f"expected a problem of table rows with described columns, got {self.name}")

    @abstractmethod
    def observation_parts(self) -> dict[str, ObservationPart]:
        """Returns what an observation of a single request holds, by the names of :class:`Observation`."""

    @abstractmethod
    def sample(self, batch: int, generator: torch.Generator) -> Observation:
        """Draws ``batch`` requests."""

    @abstractmethod
    def candidates(self, observation: Observation) -> Tensor:
        """Returns the vectors that slots choose from: ``(batch, items, dim)``, or ``(slots, items, dim)`` if fixed."""

    @abstractmethod
    def mask(self, observation: Observation) -> Tensor | None:
        """Returns what may be chosen, broadcastable to ``(batch, slots, items)``; None if everything may."""

    @abstractmethod
    def gather(self, observation: Observation, choice: Tensor) -> Tensor:
        """Returns the chosen vectors ``(..., batch, slots, dim)`` of a choice ``(..., batch, slots)``."""

    @abstractmethod
    def mix(self, observation: Observation, selection: Tensor) -> Tensor:
        """Returns selection-weighted vectors ``(..., batch, slots, dim)`` of rows ``(..., batch, slots, items)``."""

    def item_space(self) -> ItemSpace:
        """Returns what constraints can refer to: by default the numbers of slots and items."""
        mask = torch.arange(self.items) < torch.tensor(self.sizes).unsqueeze(-1)
        return ItemSpace(self.name, mask, fixed=False)

    def with_constraints(self, constraints: Sequence[Constraint]) -> Self:
        """Returns the same problem with constraints instead of those that it has, with a budget of its own.

        Raises:
            TypeError: If something is no constraint.
            ValueError: If a constraint does not fit the problem, or they leave nothing, or cannot be decided exactly.
        """
        twin = copy.copy(self)
        twin.budget = Budget()
        twin._constrain(constraints)
        twin._try_constraints()
        return twin

    def rules(self, observation: Observation) -> Rules | None:
        """Returns what the constraints allow the requests; None without constraints.

        Raises:
            Infeasible: If a request allows no configuration.
        """
        return None if self.constraints is None else self.constraints.rules(observation, self.mask(observation))

    def impossible(self, observation: Observation) -> dict[int, str]:
        """Returns the numbers of the requests that the constraints leave no configuration, and what they expected."""
        if self.constraints is None:
            return {}
        return self.constraints.impossible(observation, self.mask(observation))

    def evaluation_observations(self, most: int, generator: torch.Generator) -> Observation:
        """Returns the requests that agents are compared on: ``most`` draws, or fewer where there are not as many."""
        return self.sample(most, generator)

    @torch.no_grad()
    def score(self, observation: Observation, choice: Tensor) -> Tensor:
        """Scores choices, without gradient.

        Args:
            observation: The requests.
            choice: Long tensor of shape ``(..., batch, slots)``.

        Returns:
            Tensor of shape ``(..., batch)``.

        Raises:
            BadScore: If the estimator raises an error, answers something of no use (NaN or infinity: NonFiniteScore),
                or (FaultyEstimator) changes its input or its scores.
        """
        return self._scored(self._estimator, observation, choice, self.gather(observation, choice))

    def score_selection(self, observation: Observation, selection: Tensor) -> Tensor:
        """Scores one-hot or relaxed rows, differentiably.

        Args:
            observation: The requests.
            selection: Float tensor of shape ``(..., batch, slots, items)``.

        Returns:
            Tensor of shape ``(..., batch)``.

        Raises:
            BadScore: As :meth:`score`; also if a gradient is NaN, infinite or too large.
            TypeError: If a gradient is wanted and the estimator gives none.
        """
        return self.score_mixed(observation, selection, self.mix(observation, selection))

    def score_mixed(self, observation: Observation, selection: Tensor, vectors: Tensor) -> Tensor:
        """Scores rows whose vectors are made already, for a caller that wants the gradient with respect to those.

        Args:
            observation: The requests.
            selection: As of :meth:`score_selection`.
            vectors: What :meth:`mix` makes of the selection, ``(..., batch, slots, dim)``.

        Returns:
            As :meth:`score_selection`; raises as it does.
        """
        score = self._scored(self._of_mixtures, observation, selection, vectors)
        return self._differentiable(observation, selection, vectors, score, score.numel())

    def score_and_slope(self, observation: Observation, choice: Tensor) -> tuple[Tensor, Tensor]:
        """Scores choices together with the slope there, which is the first-order effect of every change.

        Args:
            observation: The requests.
            choice: Long tensor of shape ``(batch, slots)``.

        Returns:
            Scores ``(batch,)`` and their gradient with respect to the choices' one-hot rows, ``(batch, slots, items)``;
            raises as :meth:`score_selection`.
        """
        return self.score_and_slope_at(observation, one_hot(choice, self.items, torch.float32))

    def score_and_slope_at(self, observation: Observation, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Scores relaxed rows ``(batch, slots, items)`` together with the slope there; as :meth:`score_and_slope`."""
        with torch.enable_grad(), self.backward_errors_named():
            selection = rows.detach().requires_grad_()
            score = self.score_selection(observation, selection)
            (slope,) = torch.autograd.grad(score.sum(), selection)
        return score.detach(), slope

    def backward_errors_named(self) -> AbstractContextManager[None]:
        """Has an error that the estimator raises in a backward pass become a BadScore, with estimator and batch."""
        return self._guard.backward_errors_named()

    def latent(self, observation: Observation, selection: Tensor) -> Tensor:
        """Returns what the estimator sees in one-hot or relaxed rows before it scores them, differentiably.

        It is counted as a score is: one forward a configuration, and one backward where it is differentiated.

        Args:
            observation: The requests.
            selection: Float tensor of shape ``(..., batch, slots, items)``.

        Returns:
            The estimator's ``to_latent``, a tensor of shape ``(..., batch, width)``.

        Raises:
            BadScore: As :meth:`score_selection`.
            TypeError: If the estimator has no ``to_latent``, or a gradient is wanted and it gives none.
        """
        to_latent = getattr(self._of_mixtures, "to_latent", None)
        if not callable(to_latent):
            raise TypeError(f"expected an estimator with to_latent for {self.name}, got {self._guard.name} without one")
        vectors = self.mix(observation, selection)
        asked = Asked(self.name, observation, selection.detach())
        latent = self._guard.called(partial(self._ask, to_latent), "latents", asked, vectors, further=1)
        rows = latent.shape[:-1].numel()
        self.budget.forwards += rows
        self._guard.bounded("latents", asked, latent, largest(latent, 1))
        return self._differentiable(observation, selection, vectors, latent, rows)

    @property
    def _of_mixtures(self) -> Score:
        """What scores that which :meth:`mix` gives: the estimator."""
        return self._estimator

    @property
    def has_truth(self) -> bool:
        """Whether the ground truth is known."""
        return self._truth is not None

    @torch.no_grad()
    def true_score(self, observation: Observation, choice: Tensor) -> Tensor:
        """Scores choices ``(..., batch, slots)`` by the ground truth, uncounted: no agent can learn from it.

        Raises:
            ValueError: If no ground truth is known.
        """
        if self._truth is None:
            raise ValueError(f"expected a problem with a ground truth, got {self.name} without one")
        return self._ask_true(self._truth, Asked(self.name, observation, choice))

    def true_scores(self, observation: Observation, choice: Tensor) -> TrueScores:
        """Returns all that the ground truth says of choices ``(..., batch, slots)``; raises as :meth:`true_score`."""
        return TrueScores(self.true_score(observation, choice))

    def best_true_scores(self, observation: Observation) -> Tensor | None:
        """Returns the highest true score of each request, ``(batch,)``; None where only a search can find it.

        It is NaN where nothing is measured.
        """
        return None

    def random_true_scores(self, observation: Observation) -> TrueScores | None:
        """Returns the expected true scores of a random choice, ``(batch,)``; None where they are not known at once."""
        return None

    @property
    def unmeasured(self) -> Unmeasured | None:
        """What unmeasured choices count as; None unless the ground truth is a table of measurements."""
        return None

    def best_seen(self, observation: Observation) -> BestSeen | None:
        """Returns the best rows that were measured already; None where no table of measurements is known."""
        return None

    def with_estimator(self, estimator: Score) -> "Problem":
        """Returns the same requests scored by another estimator of their items, with a budget of its own.

        Raises:
            ValueError: If items have no vectors of their own in this kind of problem, or the estimator does not score
                such requests.
        """
        raise ValueError(f"expected a problem of items that requests bring or a pool holds, got {self.name}")

    def with_truth_as_estimator(self) -> "Problem":
        """Returns the same requests scored by the ground truth, with its own budget, to search for the true best.

        Raises:
            ValueError: If this kind of problem cannot be searched so, or no ground truth is known.
        """
        raise ValueError(f"expected a problem whose ground truth can be searched, got {self.name}")

    def request_names(self, observation: Observation) -> RequestNames | None:
        """Returns the requests' names for tables; None where requests have no names."""
        return None

    def read_logged(self, path: Path) -> tuple[Observation, Tensor]:
        """Reads logged rows from a file.

        Args:
            path: A file with one request and choice a row.

        Returns:
            The requests and the choices ``(rows, slots)``.

        Raises:
            ValueError: If this kind of problem has no such files, or the file is not usable.
        """
        raise ValueError(f"expected a problem of table rows whose categories have names for --logged, got {self.name}")

    def read_requests(self, asked: RequestFiles, report: Callable[[int], None] | None = None) -> Requests:
        """Reads files of requests.

        Args:
            asked: The files.
            report: Called with the rows read so far.

        Raises:
            ValueError: If this kind of problem has no request files, or a file is not usable.
        """
        raise ValueError(f"expected a problem with request files, got {self.name}")

    def desk(self, items: Path | None = None) -> Desk:
        """Returns what answers rows of requests that are given in Python.

        Args:
            items: A file of new items; those of the training if None.

        Raises:
            ValueError: If requests of this kind of problem have no columns.
        """
        raise ValueError(f"expected a problem whose requests and items have names, got {self.name}")

    def with_fresh_budget(self) -> "Problem":
        """Returns the same problem with a budget of its own, so that evaluating does not spend the training's."""
        twin = copy.copy(self)
        twin.budget = Budget()
        return twin

    def try_out(self) -> None:
        """Has a few requests scored, so that an estimator or a truth of no use is refused when the problem is built.

        Raises:
            ValueError: If it raises an error, answers something else than a score a row, changes its input, does not
                score a row always the same, alone and among others, or its backward pass fails.
        """
        generator = generator_from(0)
        observation = self.sample(TRIED_ROWS, generator)
        mask, draws = self.mask(observation), torch.rand(TRIED_ROWS, self.slots, self.items, generator=generator)
        choice = (draws if mask is None else draws.masked_fill(~mask, -1)).argmax(dim=-1)
        try:
            for truth in (None,) if self._truth is None else (None, self._truth):
                ask = partial(self._tried, observation, choice, truth)
                check_answers(self._guard.name if truth is None else estimator_name(truth), ask, TRIED_ROWS)
        except BadScore as error:
            raise ValueError(str(error)) from error
        vectors = self.mix(observation, one_hot(choice, self.items, torch.float32)).detach().requires_grad_()
        with torch.enable_grad():
            try:
                score = self._ask(self._of_mixtures, observation, vectors)
            except Exception:  # not differentiable; an agent that needs a gradient says so
                return
            check_gradient(self._guard.name, score, vectors)

    def _tried(self, observation: Observation, choice: Tensor, truth: Score | None, rows: Sequence[int]) -> Tensor:
        """Returns scores of some rows, or their true scores if there is a truth."""
        asked = Asked(self.name, observation[list(rows)], choice[list(rows)])
        if truth is not None:
            return self._ask_true(truth, asked, by_value=True)
        vectors = self.gather(asked.observation, asked.rows)
        return self._guard.called(partial(self._ask, self._estimator), "scores", asked, vectors, by_value=True)

    def _ask_true(self, truth: Score, asked: Asked, by_value: bool = False) -> Tensor:
        def ask(observation: Observation, _: Tensor) -> Tensor:
            return self._ask_truth(truth, observation, asked.rows)

        return Guard(truth).called(ask, "true scores", asked, asked.rows.unsqueeze(-1), by_value=by_value)

    def _constrain(self, constraints: Sequence[Constraint]) -> None:
        """Takes constraints in place of those that there are."""
        self.constraints = ConstraintSet(constraints, self.item_space()) if constraints else None

    def _try_constraints(self) -> None:  # noqa: B027 (a kind whose requests are not known has nothing to try)
        """Raises ValueError if the constraints leave a request nothing that is known beforehand."""

    @abstractmethod
    def _ask(self, estimator: Score, observation: Observation, vectors: Tensor) -> Tensor:
        """Calls the estimator, or its ``to_latent``, on vectors of shape ``(..., batch, slots, dim)``."""

    @abstractmethod
    def _ask_truth(self, truth: Score, observation: Observation, choice: Tensor) -> Tensor:
        """Calls the ground truth on a choice of shape ``(..., batch, slots)``."""

    def _scored(self, call: Score, observation: Observation, rows: Tensor, vectors: Tensor) -> Tensor:
        """Returns the scores of vectors, counted and guarded."""
        ask, asked = partial(self._ask, call), Asked(self.name, observation, rows.detach())
        score = self._guard.called(ask, "scores", asked, vectors)
        self.budget.forwards += score.numel()
        self._guard.bounded("scores", asked, score, score)
        self._guard.watch(ask, asked, vectors, score)
        return score

    def _differentiable(
        self, observation: Observation, selection: Tensor, vectors: Tensor, answer: Tensor, rows: int
    ) -> Tensor:
        """Has an answer's backward pass counted and guarded, and returns the answer."""
        if selection.requires_grad and torch.is_grad_enabled():
            if not answer.requires_grad:
                raise TypeError(f"expected a differentiable estimator for {self.name}, got one that gives no gradient")
            # The hooks must not hold the graph that holds them: such a circle is never freed.
            asked, answered = Asked(self.name, observation, selection.detach()), answer.detach()
            answer.register_hook(lambda _: self._begin_backward(asked, rows))
            vectors.register_hook(lambda gradient: self._check_gradient(gradient, asked, answered))
        return answer

    def _check_gradient(self, gradient: Tensor | None, asked: Asked, answer: Tensor) -> None:
        self._guard.end_backward()
        if gradient is None:  # the answer of a quantised layer looks as if it had one
            raise TypeError("expected a differentiable estimator, got one with a layer that passes no gradient")
        self._guard.bounded("gradients", asked, answer, largest(gradient, 2))

    def _begin_backward(self, asked: Asked, rows: int) -> None:
        self.budget.backwards += rows
        self._guard.begin_backward(asked)


def check_choice(problem: Problem, observation: Observation, choice: Tensor) -> None:
    """Refuses choices that name no item, or one that is masked.

    Args:
        problem: The problem.
        observation: The requests.
        choice: Long tensor of shape ``(batch, slots)``.

    Raises:
        ValueError: If the shape is wrong, an index is out of range, or a masked item is chosen.
        Infeasible: If a constraint is broken; names it.
    """
    expected = (len(observation), problem.slots)
    if tuple(choice.shape) != expected:
        raise ValueError(f"expected a choice of shape {expected}, got {tuple(choice.shape)}")
    limit = torch.tensor(problem.sizes)
    outside = (choice < 0) | (choice >= limit)
    if outside.any():
        row, slot = outside.nonzero()[0].tolist()
        raise ValueError(
            f"expected an item from 0 to {problem.sizes[slot] - 1} in slot {slot}, got {int(choice[row, slot])}"
        )
    if observation.mask is not None:
        masked = ~observation.mask.gather(-1, choice.unsqueeze(-1)).squeeze(-1)
        if masked.any():
            row, slot = masked.nonzero()[0].tolist()
            raise ValueError(f"expected an allowed item in slot {slot}, got masked item {int(choice[row, slot])}")
    if problem.constraints is not None:
        broken = problem.constraints.first_broken(observation, choice)
        if (broken >= 0).any():
            row = int((broken >= 0).int().argmax())
            constraint = problem.constraints.constraints[int(broken[row])]
            raise Infeasible(f"expected a configuration that satisfies {constraint}, got {choice[row].tolist()}")

"""The guard: every answer of an estimator passes here, and one of no use is named before anything learns from it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slot_rl.estimators.answers import described, same_scores
from slot_rl.estimators.freezing import Score, code_place, estimator_name
from slot_rl.estimators.soften import NotSoftenable
from slot_rl.problems.observation import Observation

LARGEST_SCORE = 1e15
"""Scores, latents and gradients are at most this far from 0: sums of their squares are finite in single precision."""
ASKED_AGAIN = 128
"""The first of so many calls is followed by one for a single row that was scored before; no budget counts it."""
Call = Callable[[Observation, Tensor], Any]
"""Calls an estimator, or one of its methods, on requests and vectors ``(..., batch, slots, dim)``."""
_ARGUMENTS = ("items", "context", "context_vector", "slot_features")


class BadScore(ArithmeticError):
    """The estimator did not score a batch as it must.

    Attributes:
        observation: The observations that were scored.
        rows: The choice ``(..., batch, slots)`` or selection ``(..., batch, slots, items)`` that was scored.
        score: The estimator's answer, of shape ``(..., batch)``, of latents ``(..., batch, width)``; empty if there is
            none.
    """

    def __init__(self, message: str, observation: Observation, rows: Tensor, score: object = None) -> None:
        """Keeps the batch, so that a handler can save it."""
        super().__init__(message)
        self.observation, self.rows = observation, rows.detach()
        self.score = score.detach() if isinstance(score, Tensor) else torch.empty(0)


class NonFiniteScore(BadScore):
    """The estimator answered NaN or infinity, as a score, a latent or a gradient."""

    def __init__(
        self,
        what: str,
        bad: int,
        observation: Observation,
        rows: Tensor,
        score: Tensor,
        of: int | None = None,
        source: str = "",
    ) -> None:
        """Keeps the batch, so that a handler can save it.

        Args:
            what: What is not finite, ``"scores"``, ``"latents"`` or ``"gradients"``.
            bad: How many rows are not finite.
            observation: The observations that were scored.
            rows: What was scored.
            score: The estimator's answer.
            of: How many rows were scored; as many as there are scores if None.
            source: Whose answer it is and which row is the first bad one, for the message.
        """
        of = score.numel() if of is None else of
        message = f"expected finite {what} from the estimator, got {bad} of {of} NaN or infinite"
        super().__init__(f"{message}{source}", observation, rows, score)


class FaultyEstimator(BadScore):
    """The estimator changes its input or the score of a row: none of its answers is of use."""


@dataclass(frozen=True)
class Asked:
    """What an estimator is asked.

    Attributes:
        problem: The problem's name.
        observation: The requests.
        rows: The choice ``(..., batch, slots)`` or selection ``(..., batch, slots, items)``.
    """

    problem: str
    observation: Observation
    rows: Tensor


class Guard:
    """Watches over an estimator.

    Attributes:
        name: What messages call it.
    """

    def __init__(self, estimator: Score) -> None:
        """Takes the estimator's name."""
        self.name = estimator_name(estimator)
        self._calls = 0
        self._first: tuple[Call, Observation, Tensor, Tensor, float] | None = None
        self._differentiated: Asked | None = None

    def called(
        self,
        ask: Call,
        what: str,
        asked: Asked,
        vectors: Tensor,
        further: int = 0,
        by_value: bool = False,
    ) -> Tensor:
        """Calls the estimator.

        Args:
            ask: Calls it.
            what: What it answers, for messages.
            asked: What it is asked.
            vectors: What is made of that, ``(..., batch, slots, dim)``.
            further: Dimensions of an answer behind the batch: 1 for latents.
            by_value: Whether changes of its input that torch does not count (numpy's) are found, too.

        Returns:
            Its answer, for scores of shape ``(..., batch)``.

        Raises:
            FaultyEstimator: If it changes its input.
            BadScore: If it raises an error, or answers something else.
        """
        given = {"items": vectors, **vars(asked.observation)}
        before = [
            (name, part, part._version, part.clone() if by_value else None)
            for name, part in given.items()
            if part is not None
        ]
        try:
            answer = ask(asked.observation, vectors)
        except (BadScore, NotSoftenable):
            raise
        except Exception as error:  # code of the user may raise anything
            expected = f"{what} from {self.name} for {asked.problem}, given {_shapes(given)}"
            raise _raised(expected, asked, error) from error
        changed = [name for name, *part in before if _is_changed(*part)]
        if changed:
            message = f"expected {self.name} for {asked.problem} to leave its input as it is, got {changed[0]} changed"
            raise FaultyEstimator(f"{message} in place (let it change a clone)", asked.observation, asked.rows)
        if _fits(answer, vectors, further):
            return answer  # type: ignore[no-any-return]
        shape = f"{tuple(vectors.shape[:-2])}{' and a width' if further else ''}"
        raise BadScore(
            f"expected {what} of shape {shape} from {self.name} for {asked.problem}, given {_shapes(given)}, "
            f"got {described(answer)}",
            asked.observation,
            asked.rows,
            answer,
        )

    @contextmanager
    def backward_errors_named(self) -> Iterator[None]:
        """Names the estimator and the batch in an error of a backward pass inside.

        Raises:
            BadScore: If the estimator's part of the backward pass raises an error.
        """
        self._differentiated = None
        try:
            yield
        except Exception as error:  # code of the user may raise anything
            if isinstance(error, BadScore) or (asked := self._differentiated) is None:
                raise
            raise _raised(f"a gradient from {self.name} for {asked.problem}", asked, error) from error
        finally:
            self._differentiated = None

    def begin_backward(self, asked: Asked) -> None:
        """Is told that the estimator's part of a backward pass begins."""
        self._differentiated = asked

    def end_backward(self) -> None:
        """Is told that it is over."""
        self._differentiated = None

    def bounded(self, what: str, asked: Asked, answer: Tensor, sizes: Tensor) -> Tensor:
        """Returns an answer whose sizes are finite and not too large.

        Args:
            what: What the sizes are of, for messages.
            asked: What the estimator was asked.
            answer: Its answer.
            sizes: The size of each row's answer, or of its gradient, ``(..., batch)``; the sign does not matter.

        Raises:
            NonFiniteScore: If a row is NaN or infinite.
            BadScore: If a row is larger than :data:`LARGEST_SCORE`.
        """
        sizes = sizes.detach().abs()
        good = sizes <= LARGEST_SCORE
        if bool(good.all()):
            return answer
        infinite = ~sizes.isfinite()
        bad = infinite if bool(infinite.any()) else ~good
        number, of = int(bad.sum()), bad.numel()
        source = f", first in row {int(bad.flatten().int().argmax())} ({self.name} for {asked.problem})"
        if bad is infinite:
            raise NonFiniteScore(what, number, asked.observation, asked.rows, answer, of, source)
        raise BadScore(
            f"expected {what} of at most {LARGEST_SCORE:g} in size from the estimator (divide them), got {number} of "
            f"{of} larger, up to {float(sizes.max()):g}{source}",
            asked.observation,
            asked.rows,
            answer,
        )

    def watch(self, ask: Call, asked: Asked, vectors: Tensor, scores: Tensor) -> None:
        """Has the first row that was ever scored scored again, alone, after the first of :data:`ASKED_AGAIN` calls.

        Raises:
            FaultyEstimator: If its score has changed.
        """
        turn, self._calls = self._calls % ASKED_AGAIN, self._calls + 1
        if turn or not scores.numel():
            return
        if self._first is None:
            place = (0,) * (scores.dim() - 1)
            row, score = (part.detach()[place][:1].clone() for part in (vectors, scores))
            parts = {name: part[:1].clone() for name, part in asked.observation.tensors().items()}
            self._first = ask, Observation(**parts), row, score, float(scores.detach().abs().max())
        ask, known, row, score, size = self._first
        with torch.no_grad():
            again = self.called(ask, "scores", Asked(asked.problem, known, row), row, by_value=True)
        if not same_scores(score, again, size):
            raise FaultyEstimator(
                f"expected the same score for the same row from {self.name} for {asked.problem}, got {float(score):g} "
                f"and later, alone, {float(again):g}",
                asked.observation,
                asked.rows,
                scores,
            )


def largest(parts: Tensor, dimensions: int) -> Tensor:
    """Returns the size of the largest entry in the last dimensions; NaN if one is."""
    return parts.detach().abs().flatten(-dimensions).amax(dim=-1)


def _raised(expected: str, asked: Asked, error: Exception) -> BadScore:
    found = f"{type(error).__name__}{code_place(error)}: {' '.join(str(error).split())}"
    return BadScore(f"expected {expected}, got {found}", asked.observation, asked.rows)


def _shapes(given: Mapping[str, Tensor | None]) -> str:
    shown = {name: part for name in _ARGUMENTS if (part := given.get(name)) is not None}
    return " and ".join(f"{name} {tuple(part.shape)}" for name, part in shown.items())


def _is_changed(part: Tensor, version: int, values: Tensor | None) -> bool:
    if part._version != version or values is None:
        return part._version != version
    before, after = (each.nan_to_num() if each.is_floating_point() else each for each in (values, part))
    return not torch.equal(before, after)


def _fits(answer: object, vectors: Tensor, further: int) -> bool:
    if not isinstance(answer, Tensor) or not answer.is_floating_point() or answer.device != vectors.device:
        return False
    leading = vectors.shape[:-2]
    return answer.dim() == len(leading) + further and answer.shape[: len(leading)] == leading

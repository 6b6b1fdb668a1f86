"""Schedules: how a temperature or an entropy bonus changes over a training."""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from typing import Literal, Protocol

ScheduleKind = Literal["constant", "linear", "exponential", "cosine"]


class Schedule(Protocol):
    """A value that depends on the progress of the training, the share that is over."""

    def at(self, progress: float) -> float:
        """Returns the value at a progress from 0 to 1."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same value throughout.

    Attributes:
        value: The value.
    """

    value: float

    def at(self, progress: float) -> float:
        """Returns the value."""
        return self.value


@dataclass(frozen=True)
class _BetweenEnds:
    """A schedule that leads from one value to another.

    Attributes:
        start: The value at the start.
        end: The value at the end.
    """

    start: float
    end: float


@dataclass(frozen=True)
class Linear(_BetweenEnds):
    """A straight line."""

    def at(self, progress: float) -> float:
        """Returns the point of the line; weights both ends, so that both are met exactly."""
        return (1 - progress) * self.start + progress * self.end


@dataclass(frozen=True)
class Exponential(_BetweenEnds):
    """The same ratio over every equal stretch of the training."""

    def __post_init__(self) -> None:
        """Refuses ends that no ratio connects."""
        if not (self.start > 0 and self.end > 0):
            raise ValueError(f"expected an exponential schedule between values > 0, got {self.start} and {self.end}")

    def at(self, progress: float) -> float:
        """Returns the geometric mean of the ends, weighted by ``progress``."""
        return float(self.start ** (1 - progress) * self.end**progress)


@dataclass(frozen=True)
class Cosine(_BetweenEnds):
    """Half a cosine: slow at both ends, steepest in the middle."""

    def at(self, progress: float) -> float:
        """Returns the point of the half wave."""
        weight = (1 - cos(pi * progress)) / 2
        return (1 - weight) * self.start + weight * self.end


def make_schedule(kind: ScheduleKind, start: float, end: float | None) -> Schedule:
    """Builds a schedule by its name.

    Args:
        kind: The shape.
        start: The value at the start.
        end: The value at the end; None for a constant.

    Raises:
        ValueError: If the kind is unknown, a constant is given an end, another one is not, or the ends do not fit it.
    """
    shapes: dict[str, Callable[[float, float], Schedule]] = {
        "linear": Linear,
        "exponential": Exponential,
        "cosine": Cosine,
    }
    if kind == "constant":
        if end is not None:
            raise ValueError(f"expected no end for a constant schedule, got {end}")
        return Constant(start)
    if kind not in shapes:
        raise ValueError(f"expected a schedule among constant, {', '.join(shapes)}, got {kind!r}")
    if end is None:
        raise ValueError(f"expected an end for the {kind} schedule, got none")
    return shapes[kind](start, end)

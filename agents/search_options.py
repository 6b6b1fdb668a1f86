"""The flags of each search that agents are compared with: typed, with defaults."""

from dataclasses import dataclass
from typing import Literal

from slot_rl.agents.options import Options
from slot_rl.search import check_breeding, check_fit


@dataclass(frozen=True)
class SearchOptions(Options):
    """A search from random starts.

    Attributes:
        calls_per_context: Forwards for each answer.
    """

    calls_per_context: int = 31

    def __post_init__(self) -> None:
        """Refuses an answer without a call."""
        if self.calls_per_context < 1:
            raise ValueError(f"expected calls_per_context >= 1, got {self.calls_per_context}")


@dataclass(frozen=True)
class LocalSearchOptions(SearchOptions):
    """Plain coordinate sweeps, from random starts whenever a sweep brings nothing."""


@dataclass(frozen=True)
class GuidedSearchOptions(SearchOptions):
    """Swaps guided by the estimator's gradient.

    Attributes:
        calls_per_context: Forwards, and as many backwards, for each answer.
        calls_per_start: About how many of them one random start gets; on TF factors, a start has converged by 49.
    """

    calls_per_start: int = 49

    def __post_init__(self) -> None:
        """Refuses an answer or a start without a call."""
        super().__post_init__()
        if self.calls_per_start < 1:
            raise ValueError(f"expected calls_per_start >= 1, got {self.calls_per_start}")

    @property
    def starts(self) -> int:
        """Random starts that the calls are spread over."""
        return max(1, round(self.calls_per_context / self.calls_per_start))


@dataclass(frozen=True)
class GeneticOptions(SearchOptions):
    """A genetic algorithm.

    Attributes:
        population: Rows that live at once; half the root of the calls if left out, from 4 to 32.
        tournament: Rows that compete to be a parent.
        mutations: Slots of a child that mutate, on average; one at least does.
    """

    population: int | None = None
    tournament: int = 3
    mutations: float = 1.0

    def __post_init__(self) -> None:
        """Refuses settings that no population could live with."""
        super().__post_init__()
        check_breeding(self.population, self.tournament, self.mutations)


@dataclass(frozen=True)
class CrossEntropyOptions(SearchOptions):
    """The cross-entropy method, with an independent categorical for each slot.

    Attributes:
        draws: Rows drawn in a round; the root of twice the calls if left out, at most 128.
        elite: Share of them that the distribution is fitted to.
        smoothing: How far a round moves the probabilities to the elites' frequencies.
    """

    draws: int | None = None
    elite: float = 0.1
    smoothing: float = 0.3

    def __post_init__(self) -> None:
        """Refuses settings with which nothing could be fitted."""
        super().__post_init__()
        check_fit(self.draws, self.elite, self.smoothing)


@dataclass(frozen=True)
class NevergradOptions(SearchOptions):
    """An optimizer of the package nevergrad.

    Attributes:
        optimizer: Its name in nevergrad's registry.
        variables: How a row is put to it: "array" as an array of numbers that are cast to integers, "transition" and
            "choice" as nevergrad's categoricals of these names.
    """

    optimizer: str = "DiscreteLenglerOnePlusOne"
    variables: Literal["array", "transition", "choice"] = "array"

    def __post_init__(self) -> None:
        """Refuses variables that there are none of; the optimizer's name is nevergrad's to know."""
        super().__post_init__()
        if self.variables not in ("array", "transition", "choice"):
            raise ValueError(f"expected variables array, transition or choice, got {self.variables!r}")

"""What a comparison is made of: one outcome a run, and the curves that the run left.

Statistics, tables and pictures read these and nothing else: a long table, one row a run, no bare arrays.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """How one run ended: one row of the long table.

    A run that failed stays in the table. Its answers count as random choices (optimality 0, no hit), since leaving it
    out would favour agents that break down.

    Attributes:
        task: The problem's label.
        agent: The agent's name.
        seed: The training seed.
        failure: Why the run failed; None if it ended well.
        optimality: ``(score - random) / (best - random)`` of the estimated score.
        hit_rate: Share of requests answered with the best score.
        searched_optimality: The same for guided search from the policy's answer, at as many calls as guided search
            from random starts; None for agents without a policy.
        true_optimality: Optimality of the true score; None without a ground truth.
        gap: Mean estimated minus mean true score; None without a ground truth.
        best_constant: Optimality of the best constant, which a collapsed policy can reach.
        calls_per_context: Forwards for each answer.
        forwards: Configurations scored in training.
        backwards: Configurations differentiated at in training.
        wall_seconds: Seconds of the training on the clock, without its evaluations.
        cpu_seconds: The processor's seconds of the same, one thread.
    """

    task: str
    agent: str
    seed: int
    failure: str | None
    optimality: float
    hit_rate: float
    searched_optimality: float | None = None
    true_optimality: float | None = None
    gap: float | None = None
    best_constant: float | None = None
    calls_per_context: int = 0
    forwards: int = 0
    backwards: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class LearningCurve:
    """A run's evaluations during its training, the last one at its end.

    Attributes:
        task: The problem's label.
        agent: The agent's name.
        seed: The training seed.
        calls: Configurations scored up to each evaluation.
        seconds: The processor's seconds of training up to each evaluation.
        optimality: Optimality at each evaluation.
    """

    task: str
    agent: str
    seed: int
    calls: tuple[float, ...]
    seconds: tuple[float, ...]
    optimality: tuple[float, ...]


@dataclass(frozen=True)
class ServingCurve:
    """What a run's answers gain from calls of the estimator for each request.

    Attributes:
        task: The problem's label.
        agent: The agent's name.
        seed: The training seed.
        calls: Calls for each request, rising.
        optimality: Optimality at so many calls.
    """

    task: str
    agent: str
    seed: int
    calls: tuple[int, ...]
    optimality: tuple[float, ...]


@dataclass(frozen=True)
class Results:
    """Everything that a comparison found.

    Attributes:
        outcomes: One row a run.
        curves: Learning curves of the runs that trained.
        serving: Serving curves of the runs that have one.
    """

    outcomes: Sequence[Outcome]
    curves: Sequence[LearningCurve] = ()
    serving: Sequence[ServingCurve] = ()


def in_order(names: Iterable[str]) -> list[str]:
    """Returns each name once, in the order of first appearance."""
    return list(dict.fromkeys(names))

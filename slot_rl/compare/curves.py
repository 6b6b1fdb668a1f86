"""Many runs as one curve: learning curves over seeds, performance profiles, and how soon one agent reaches another.

All intervals are percentile bootstraps over seeds, from generators of their own, so that the same runs always give the
same picture. Each (task, agent) is resampled alike, whichever others are in the comparison.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median
from typing import Literal, TypeVar

import numpy as np
from scipy.stats import trim_mean

from slot_rl.compare.estimates import Floats
from slot_rl.compare.outcomes import LearningCurve, Outcome

Along = Literal["calls", "seconds"]
"""What a learning curve is drawn against: configurations scored, or the processor's seconds."""

Run = TypeVar("Run", LearningCurve, Outcome)

ALL_TASKS = "all tasks"
"""The task of a profile that pools them all."""

TAILS = (0.025, 0.975)
RESAMPLES = 1000


@dataclass(frozen=True)
class Band:
    """One agent's curve over seeds, with a 95 % interval at each point (pointwise, not for the whole curve).

    Attributes:
        task: The problem's label.
        agent: The agent's name.
        seeds: How many runs it is made of; the interval of a single one has no width.
        at: The abscissas, rising.
        value: The curve.
        low: The interval's lower end at each abscissa.
        high: The interval's upper end at each abscissa.
    """

    task: str
    agent: str
    seeds: int
    at: tuple[float, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Reach:
    """How soon an agent is as good as a target agent ends, see :func:`reach`.

    Attributes:
        task: The problem's label.
        agent: The agent.
        target: The agent whose end is to be reached.
        ratio: Median ratio over seeds; infinite where half of them or more never reach it.
        low: Lower end of the median's 95 % interval.
        high: Upper end of the median's 95 % interval; infinite if resampled medians often are.
        seeds: Seeds that both agents have.
        never: How many of them never reach it.
    """

    task: str
    agent: str
    target: str
    ratio: float
    low: float
    high: float
    seeds: int
    never: int


def aggregate(curves: Iterable[LearningCurve], along: Along, points: int = 200) -> list[Band]:
    """Returns the interquartile mean over seeds of each agent's learning curve on each task.

    Seeds are interpolated linearly on ``points`` evenly spaced abscissas, from the latest first evaluation to the
    earliest last one, so that every seed counts everywhere and none is extrapolated: a run that stopped early shortens
    its agent's curve. If no abscissa is common to all seeds (each was evaluated at its end alone), the band is one
    point, the ends at their median abscissa. Curves without evaluations are left out. With fewer than four seeds the
    interquartile mean is the mean.
    """
    evaluated = [curve for curve in curves if curve.optimality]
    return [_band(task, agent, runs, along, points) for (task, agent), runs in _by_cell(evaluated).items()]


def _band(task: str, agent: str, runs: Sequence[LearningCurve], along: Along, points: int) -> Band:
    abscissas: list[tuple[float, ...]] = [getattr(run, along) for run in runs]
    first, last = max(at[0] for at in abscissas), min(at[-1] for at in abscissas)
    if first < last:
        grid = np.linspace(first, last, points)
        values = np.stack([np.interp(grid, at, run.optimality) for at, run in zip(abscissas, runs, strict=True)])
    else:
        grid = np.array([median(at[-1] for at in abscissas)])
        values = np.array([[run.optimality[-1]] for run in runs])
    picks = np.random.default_rng(0).integers(len(runs), size=(RESAMPLES, len(runs)))
    low, high = np.quantile(trim_mean(values[picks], 0.25, axis=1), TAILS, axis=0)
    middle = trim_mean(values, 0.25, axis=0)
    return Band(task, agent, len(runs), *map(_floats, (grid, middle, low, high)))


def profiles(outcomes: Iterable[Outcome], pooled: bool = False) -> list[Band]:
    """Returns performance profiles: for each agent and task, the share of runs whose optimality is above tau.

    Args:
        outcomes: The runs, failed ones with them.
        pooled: Whether all tasks' runs make one profile an agent, whose task is :data:`ALL_TASKS`; seeds are resampled
            within each task.

    Returns:
        The profiles, exact, at every optimality that a run of the task has, from a little below the worst up to 1 at
        least.
    """
    strata: dict[str, dict[str, list[list[Outcome]]]] = {}
    for (task, agent), runs in _by_cell(outcomes).items():
        strata.setdefault(ALL_TASKS if pooled else task, {}).setdefault(agent, []).append(runs)
    found = []
    for task, by_agent in strata.items():
        every = [run.optimality for parts in by_agent.values() for part in parts for run in part]
        worst, best = min(every), max(1.0, *every)
        grid = np.unique([worst - max(0.03 * (best - worst), 0.01), *every, best])
        found += [_profile(task, agent, parts, grid) for agent, parts in by_agent.items()]
    return found


def _profile(task: str, agent: str, parts: Sequence[Sequence[Outcome]], grid: Floats) -> Band:
    random = np.random.default_rng(0)
    runs = sum(len(part) for part in parts)
    count, resampled = np.zeros(len(grid)), np.zeros((RESAMPLES, len(grid)))
    for part in parts:
        above = (np.array([run.optimality for run in part])[:, None] > grid).astype(float)
        count += above.sum(axis=0)
        times = random.multinomial(len(part), [1 / len(part)] * len(part), size=RESAMPLES)
        resampled += times @ above
    low, high = np.quantile(resampled / runs, TAILS, axis=0)
    return Band(task, agent, runs, *map(_floats, (grid, count / runs, low, high)))


def reach(
    curves: Iterable[LearningCurve], target_agent: str = "ppo", agent: str = "gumbel", along: Along = "calls"
) -> list[Reach]:
    """Returns how soon an agent is first as good as a target agent is at its end, as a share of what the target took.

    For every task and every seed that both agents have: the target's optimality at its last evaluation is the goal; the
    abscissa at which the agent's curve first reaches it, interpolated linearly between evaluations, is divided by the
    target's own last abscissa. A curve that is there at its first evaluation counts with that evaluation's abscissa
    (it may have been there earlier); one that never gets there counts as infinite, also if its budget was smaller than
    the target's, and also if it has no evaluation, as a run that failed. A target without one is no goal. The median
    over seeds is reported; of an even number of seeds it is the mean of the two in the middle, infinite if one of them
    is.

    The interval is the percentile bootstrap of the median over seeds: the order statistics that leave at most 2.5 % of
    the resampled medians outside at each end, without interpolation, so that infinities are allowed.

    A first crossing flatters: a noisy curve touches the goal before it stays there, while the goal itself is one noisy
    evaluation. The ratio says when the agent was first seen as good, not from when on it is.

    Args:
        curves: The runs.
        target_agent: The agent whose end is to be reached.
        agent: The agent that is to reach it.
        along: What is compared.

    Returns:
        One for each task with a seed that both have.

    Raises:
        ValueError: If the target's run took nothing, so that nothing can be a share of it.
    """
    by_cell = _by_cell(curves)
    found = []
    for task in dict.fromkeys(task for task, _ in by_cell):
        goals = {run.seed: run for run in by_cell.get((task, target_agent), []) if run.optimality}
        ratios = [_ratio(run, goals[run.seed], along) for run in by_cell.get((task, agent), []) if run.seed in goals]
        if ratios:
            low, high = _interval_of_median(ratios)
            found.append(
                Reach(task, agent, target_agent, float(median(ratios)), low, high, len(ratios), ratios.count(inf))
            )
    return found


def _ratio(run: LearningCurve, goal: LearningCurve, along: Along) -> float:
    whole: float = getattr(goal, along)[-1]
    if not whole > 0:
        raise ValueError(
            f"expected {goal.agent} on {goal.task}, seed {goal.seed}, to end after more than 0 {along}, got {whole}"
        )
    return _first_crossing(getattr(run, along), run.optimality, goal.optimality[-1]) / whole


def _first_crossing(at: Sequence[float], values: Sequence[float], goal: float) -> float:
    for i, value in enumerate(values):
        if value >= goal:
            if i == 0:
                return at[0]
            return at[i - 1] + (at[i] - at[i - 1]) * (goal - values[i - 1]) / (value - values[i - 1])
    return inf


def _interval_of_median(ratios: Sequence[float]) -> tuple[float, float]:
    values = np.array(ratios)
    picks = np.random.default_rng(0).integers(len(values), size=(10 * RESAMPLES, len(values)))
    medians = np.sort(np.median(values[picks], axis=1))
    outside = int(TAILS[0] * len(medians))
    return float(medians[outside]), float(medians[-1 - outside])


def _by_cell(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """Returns the runs of each task and agent."""
    cells: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.task, run.agent), []).append(run)
    return cells


def _floats(numbers: Floats) -> tuple[float, ...]:
    return tuple(numbers.tolist())

"""Curves over seeds: learning curves, performance profiles, serving curves, and when a curve reaches a goal.

All intervals are percentile bootstraps over seeds. Their random numbers are fixed: the same runs always give the same
figures, and no agent's figures depend on the other agents.
"""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import trim_mean

from slot_rl.compare.statistics import TRIMMED, Floats, Results
from slot_rl.serving_curves import Timing, break_even

Along = Literal["calls", "seconds"]
"""What a learning curve is drawn against: estimator calls in training, or processor seconds."""

ALL_TASKS = "all tasks"
"""The task of a profile of all tasks' runs."""

CHEAP_CALLS = 16
"""Break-evens are of answers with at most so many calls."""

TAILS = (0.025, 0.975)
CURVE_RESAMPLES = 1_000

BAND = ["task", "agent", "seeds", "at", "value", "low", "high"]
REACH = ["task", "agent", "target", "along", "ratio", "low", "high", "seeds", "never"]
BREAK_EVEN = ["task", "agent", "calls", "optimality", "search_calls", "contexts"]
SERVING_FIGURES = ["optimality", "seconds", "own_seconds", "paid_calls"]
"""The figures of a point of a serving curve; those after the first are NaN where times were not measured."""
CALL_COST = ["task", "agent", "calls", "optimality", "seconds", "search", "break_even"]


def learning_bands(curves: pd.DataFrame, along: Along, points: int = 200) -> pd.DataFrame:
    """Returns the interquartile mean over seeds of each agent's learning curve on each task.

    Seeds are interpolated linearly at evenly spaced points, from the latest first evaluation to the earliest last one:
    each seed counts everywhere, and none is extrapolated. A run that stopped early shortens its agent's curve. If the
    seeds have no range in common (each has a single evaluation), the band is one point: the ends at their median.
    With fewer than four seeds the interquartile mean is the mean.

    Returns:
        One row a point: task, agent, seeds (how many), at, value, and the 95 % interval low to high at this point. The
        interval of a single seed has no width.
    """
    evaluated = curves.dropna(subset="optimality").groupby(["task", "agent"], sort=False)
    bands = [_learning_band(str(task), str(agent), runs, along, points) for (task, agent), runs in evaluated]
    return pd.concat(bands, ignore_index=True) if bands else pd.DataFrame(columns=BAND)


def profiles(runs: pd.DataFrame, pooled: bool = False) -> pd.DataFrame:
    """Returns performance profiles: for each agent and task, the share of runs whose optimality is above tau.

    If ``pooled``, all tasks' runs make one profile for each agent, of the task :data:`ALL_TASKS`. Seeds are resampled
    within each task.

    Returns:
        As :func:`learning_bands`, where ``at`` is tau: a little below the worst run, every optimality of a run of the
        task, and 1 if no run is above it.
    """
    bands = []
    for task, there in runs.assign(shown=ALL_TASKS if pooled else runs["task"]).groupby("shown", sort=False):
        worst, best = there["optimality"].min(), max(1.0, there["optimality"].max())
        grid = np.unique([worst - max(0.03 * (best - worst), 0.01), *there["optimality"], best])
        bands += [_profile(str(task), str(agent), mine, grid) for agent, mine in there.groupby("agent", sort=False)]
    return pd.concat(bands, ignore_index=True)


def serving_medians(serving: pd.DataFrame) -> pd.DataFrame:
    """Returns task, agent, calls and medians over seeds, for calls that all seeds of the agent have."""
    seeds = serving.groupby(["task", "agent"])["seed"].transform("nunique")
    points = serving.reindex(columns=["task", "agent", "seed", "calls", *SERVING_FIGURES]).assign(seeds=seeds)
    medians = points.groupby(["task", "agent", "calls"], sort=False).agg(
        {**dict.fromkeys(SERVING_FIGURES, "median"), "seed": "nunique", "seeds": "first"}
    )
    return medians[medians["seed"] == medians["seeds"]].reset_index()[["task", "agent", "calls", *SERVING_FIGURES]]


def reach(curves: pd.DataFrame, target: str, agent: str, along: Along = "calls") -> pd.DataFrame:
    """Returns how soon an agent is first as good as a target agent at its end, as a share of what the target took.

    For every task and every seed that both agents have, the goal is the target's optimality at its last evaluation. The
    calls (or seconds) at which the agent's curve first reaches the goal, interpolated linearly between evaluations, are
    divided by those of the target's whole training. The first evaluation counts if it reaches the goal, although the
    agent may have been as good before. A curve that never reaches the goal counts as infinite, also one without any
    evaluation (a failed run: one row whose optimality is NaN). A target without an evaluation sets no goal.

    The ratio is the median over seeds. Its interval is the percentile bootstrap of the median, without interpolation
    between resampled medians, so that infinite values are allowed.

    The first crossing is optimistic: a noisy curve touches the goal before it stays there, and the goal is one noisy
    evaluation. The ratio says when the agent was first as good, not from when on it always is.

    Returns:
        One row for each task with a seed that both have: task, agent, target, along, ratio, its 95 % interval low to
        high, seeds (that both have), never (how many of them never reach the goal).

    Raises:
        ValueError: If the target's run took 0 calls (or seconds).
    """
    rows = []
    for task, there in curves.groupby("task", sort=False):
        goals = dict(iter(there[there["agent"] == target].dropna(subset="optimality").groupby("seed")))
        mine = there[(there["agent"] == agent) & there["seed"].isin(list(goals))].groupby("seed")
        ratios = np.array([_ratio(run, goals[seed], along) for seed, run in mine])
        if len(ratios):
            low, high = _interval_of_median(ratios)
            never = int(np.isinf(ratios).sum())
            rows.append((task, agent, target, along, float(np.median(ratios)), low, high, len(ratios), never))
    return pd.DataFrame(rows, columns=REACH)


def break_evens(results: Results) -> pd.DataFrame:
    """Returns from how many contexts on a policy costs fewer estimator calls than the best search with as good answers.

    A policy costs its training once, and nothing for its bare answer. A search costs its calls for every answer. Of
    several searches, the best at each number of calls counts. Figures are medians over seeds that ended well.

    Returns:
        Two rows a policy, or one if they are equal: the bare answer, and the best answer for up to 16 calls, the
        cheapest of equals. Columns: task, agent, calls (of the policy's answer), optimality (of this answer),
        search_calls (that the best search needs for the same, interpolated over the logarithm of calls; infinite if
        its curve ends below), contexts (the break-even; infinite if the search needs no more calls than the answer; an
        upper bound if the search's curve ends below). Empty without a policy's or a search's serving curve.
    """
    runs, points = results.runs, serving_medians(results.serving)
    rows = []
    for task, there in points.groupby("task", sort=False):
        here = runs[(runs["task"] == task) & runs["failure"].isna()]
        policies = here[here["searched_optimality"].notna()].groupby("agent", sort=False)["estimator_forwards"].median()
        searches = there[~there["agent"].isin(policies.index)]
        best = searches.groupby("calls")["optimality"].max().cummax()
        for agent, training in policies.items() if len(best) else ():
            for calls, optimality in _best_answers(there[there["agent"] == agent]):
                rows.append((task, agent, calls, optimality, *_break_even(calls, optimality, float(training), best)))
    return pd.DataFrame(rows, columns=BREAK_EVEN)


def call_break_evens(results: Results) -> pd.DataFrame:
    """Returns at which cost of an estimator call an answer of a policy is cheaper than each search's that is as good.

    Figures are medians over seeds that ended well. Training costs nothing here.

    Returns:
        One row an answer and search: task, agent, calls, optimality and seconds of a policy's answer (those of
        :func:`break_evens`), search (its agent), break_even (a :class:`~slot_rl.serving_curves.BreakEven`). Empty
        where times were not measured.
    """
    runs, points = results.runs, serving_medians(results.serving).dropna(subset=SERVING_FIGURES)
    rows = []
    for task, there in points.groupby("task", sort=False):
        here = runs[(runs["task"] == task) & runs["failure"].isna()]
        policies = here.loc[here["searched_optimality"].notna(), "agent"].unique()
        curves = {str(agent): curve.sort_values("calls") for agent, curve in there.groupby("agent", sort=False)}
        searches = [agent for agent in curves if agent not in policies]
        for agent in [agent for agent in policies if agent in curves]:
            for calls, optimality in _best_answers(curves[agent]):
                (timing,) = _timings(curves[agent][curves[agent]["calls"] == calls])
                for search in searches:
                    reached = list(zip(curves[search]["calls"], curves[search]["optimality"], strict=True))
                    found = break_even(optimality, timing, reached, _timings(curves[search]))
                    rows.append((task, agent, calls, optimality, timing.seconds, search, found))
    return pd.DataFrame(rows, columns=CALL_COST)


def _timings(curve: pd.DataFrame) -> list[Timing]:
    return [Timing(*row) for row in curve[["calls", *SERVING_FIGURES[1:]]].itertuples(index=False)]


def _band(*columns: str | int | Floats) -> pd.DataFrame:
    return pd.DataFrame(dict(zip(BAND, columns, strict=True)))


def _learning_band(task: str, agent: str, evaluations: pd.DataFrame, along: Along, points: int) -> pd.DataFrame:
    runs = [(run[along].to_numpy(float), run["optimality"].to_numpy()) for _, run in evaluations.groupby("seed")]
    first, last = max(at[0] for at, _ in runs), min(at[-1] for at, _ in runs)
    if first < last:
        grid = np.linspace(first, last, points)
        values = np.stack([np.interp(grid, at, optimality) for at, optimality in runs])
    else:
        grid = np.array([np.median([at[-1] for at, _ in runs])])
        values = np.array([optimality[-1:] for _, optimality in runs])
    picks = np.random.default_rng(0).integers(len(runs), size=(CURVE_RESAMPLES, len(runs)))
    low, high = np.quantile(trim_mean(values[picks], TRIMMED, axis=1), TAILS, axis=0)
    return _band(task, agent, len(runs), grid, trim_mean(values, TRIMMED, axis=0), low, high)


def _profile(task: str, agent: str, runs: pd.DataFrame, grid: Floats) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    count, resampled = np.zeros(len(grid)), np.zeros((CURVE_RESAMPLES, len(grid)))
    for _, part in runs.groupby("task", sort=False)["optimality"]:
        above = (part.to_numpy()[:, None] > grid).astype(float)
        count += above.sum(axis=0)
        times = generator.multinomial(len(part), [1 / len(part)] * len(part), size=CURVE_RESAMPLES)
        resampled += times @ above
    low, high = np.quantile(resampled / len(runs), TAILS, axis=0)
    return _band(task, agent, len(runs), grid, count / len(runs), low, high)


def _ratio(run: pd.DataFrame, goal: pd.DataFrame, along: Along) -> float:
    last = goal.iloc[-1]
    if not last[along] > 0:
        raise ValueError(
            f"expected {last['agent']} on {last['task']}, seed {last['seed']}, to end after more than 0 {along}, "
            f"got {last[along]:g}"
        )
    return _first_crossing(run[along], run["optimality"], last["optimality"]) / float(last[along])


def _first_crossing(abscissas: ArrayLike, ordinates: ArrayLike, goal: float) -> float:
    """Returns where a curve first reaches a goal, interpolated linearly; infinite if it never does."""
    at, values = np.asarray(abscissas, float), np.asarray(ordinates, float)
    reached = np.flatnonzero(values >= goal)
    if not len(reached):
        return np.inf
    i = reached[0]
    if i == 0:
        return float(at[0])
    return float(at[i - 1] + (at[i] - at[i - 1]) * (goal - values[i - 1]) / (values[i] - values[i - 1]))


def _interval_of_median(ratios: Floats) -> tuple[float, float]:
    picks = np.random.default_rng(0).integers(len(ratios), size=(10 * CURVE_RESAMPLES, len(ratios)))
    medians = np.sort(np.median(ratios[picks], axis=1))
    outside = int(TAILS[0] * len(medians))
    return float(medians[outside]), float(medians[-1 - outside])


def _best_answers(curve: pd.DataFrame) -> list[tuple[int, float]]:
    """Returns calls and optimality of a policy's bare answer and of its best answer for few calls."""
    ranked = curve.sort_values(["optimality", "calls"], ascending=[False, True])
    best = [ranked[ranked["calls"] <= most].head(1) for most in (0, CHEAP_CALLS)]
    answers = [(int(row["calls"]), float(row["optimality"])) for one in best for row in one.to_dict("records")]
    return list(dict.fromkeys(answers))


def _break_even(calls: int, optimality: float, training: float, best: "pd.Series[float]") -> tuple[float, float]:
    """Returns the calls that the best search needs for an optimality, and the break-even."""
    at = best.index.to_numpy(float)
    needed = float(np.exp(_first_crossing(np.log(at), best, optimality)))
    saved = min(needed, at[-1]) - calls
    return needed, training / saved if saved > 0 else np.inf

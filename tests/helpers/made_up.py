"""Made-up results: frames whose figures are worked out by hand, by scipy or by rliable."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slot_rl.compare.statistics import Results

# Seven seeds on three tasks. The tests hold what rliable 1.2.0 prints of them.
SCORES = [
    [0.91, 0.42, 1.03],
    [0.85, 0.55, 0.77],
    [0.99, -0.1, 0.64],
    [0.00, 0.61, 0.93],
    [0.77, 0.48, 0.88],
    [0.90, 0.52, 0.70],
    [0.83, 0.39, 0.95],
]

CURVES = ["task", "agent", "seed", "calls", "seconds", "optimality"]
SERVING = ["task", "agent", "seed", "calls", "optimality"]


def table(scores: Mapping[str, Sequence[Sequence[float]] | NDArray[np.float64]]) -> pd.DataFrame:
    """Returns the runs of (seeds, tasks) of each agent, with a hit rate of one half."""
    return pd.DataFrame(
        [
            made_run(f"t{task}", agent, seed, float(score))
            for agent, runs in scores.items()
            for seed, row in enumerate(runs)
            for task, score in enumerate(row)
        ]
    )


def made_run(
    task: str, agent: str, seed: int, optimality: float, failure: str | None = None, **figures: float
) -> dict[str, Any]:
    """Returns a row of the runs."""
    known = {"searched_optimality": np.nan, "calls_per_context": 0.0, "estimator_forwards": 1_000.0, **figures}
    labels = {"task": task, "agent": agent, "kind": agent, "seed": seed, "failure": failure}
    return {**labels, "optimality": optimality, "hit_rate": 0.5, **known}


def results(runs: Sequence[Any], curves: Sequence[Any] = (), serving: Sequence[Any] = ()) -> Results:
    """Returns results of rows."""
    return Results(pd.DataFrame(runs), pd.DataFrame(curves, columns=CURVES), pd.DataFrame(serving, columns=SERVING))


def records(frame: pd.DataFrame) -> list[Any]:
    """Returns the rows of a frame, whose columns are attributes."""
    return list(frame.itertuples(index=False))


def three_agents(failure: str | None = None) -> Results:
    """Returns three agents on two tasks, four seeds each; seed 101 of the search fails if a reason is given."""
    rows, curves = [], []
    for task in ("one", "two"):
        for i, seed in enumerate(range(100, 104)):
            broken = failure if seed == 101 else None
            known: dict[str, Any] = {"best_constant_optimality": 0.25, "cpu_seconds": 2.0, "estimator_backwards": 0.0}
            known |= {"true_optimality": np.nan, "gap": np.nan, "measured_share": np.nan}
            better = 0.7 + 0.01 * i + 0.002 * (i % 2)
            rows += [
                made_run(task, "ppo", seed, 0.5 + 0.01 * i, searched_optimality=0.8 + 0.01 * i, **known),
                made_run(task, "gumbel", seed, better, searched_optimality=0.95 + 0.002 * i, **known),
                made_run(task, "search", seed, 0.0 if broken else 0.9, broken, calls_per_context=31, **known),
            ]
            for agent, (first, last) in {"ppo": (0.0, 0.5), "gumbel": (0.4, 0.7)}.items():
                curves += [(task, agent, seed, 100.0, 1.0, first), (task, agent, seed, 1_000.0, 4.0, last)]
    return results(rows, curves)

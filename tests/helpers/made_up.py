"""Made-up outcomes: the long table of scores that are worked out by hand, by scipy or by rliable."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from slot_rl.compare.outcomes import Outcome

# Seven seeds on three tasks. What rliable 1.2.0 prints of them stands in the tests.
SCORES = [
    [0.91, 0.42, 1.03],
    [0.85, 0.55, 0.77],
    [0.99, -0.1, 0.64],
    [0.00, 0.61, 0.93],
    [0.77, 0.48, 0.88],
    [0.90, 0.52, 0.70],
    [0.83, 0.39, 0.95],
]


def table(scores: Mapping[str, Sequence[Sequence[float]] | NDArray[np.float64]]) -> list[Outcome]:
    """Returns the long table of (seeds, tasks) of each agent, who hits half the time."""
    return [
        Outcome(f"t{task}", agent, seed, None, float(score), 0.5)
        for agent, runs in scores.items()
        for seed, row in enumerate(runs)
        for task, score in enumerate(row)
    ]

"""What an environment costs beside the estimator's own work."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.speed.timing import rates, ratio
from slot_rl.console import print_table
from slot_rl.envs import SlotsEnv, SlotsVectorEnv, SlotVecEnv
from slot_rl.problems import make_problem
from slot_rl.search import random_choice
from slot_rl.seeding import generator_from

SINGLES = 64


@dataclass(frozen=True)
class EnvBenchmark:
    """Rows per second of each face of a problem.

    Attributes:
        env: The environment's id.
        batch: Rows per step of the batched faces.
        repeats: Rounds; each round times every face once, so that a slow moment hits all.
        seconds: Seconds per face and round.
    """

    env: str = "SlotRL/Slots-v0"
    batch: int = 1024
    repeats: int = 15
    seconds: float = 0.3

    def __post_init__(self) -> None:
        """Refuses an empty measurement."""
        if self.batch < 1 or self.repeats < 1 or not self.seconds > 0:
            raise ValueError(
                "expected batch >= 1, repeats >= 1 and seconds > 0, "
                f"got {self.batch}, {self.repeats} and {self.seconds}"
            )


def benchmark_env(config: EnvBenchmark) -> dict[str, float]:
    """Times every face in turn and prints medians.

    Returns:
        Median ratios of rows per second: ``vector/score``, ``vec/score``, ``vector/sync``.
    """
    faces = _faces(config)
    steps = rates({name: step for name, (_, step) in faces.items()}, config.repeats, config.seconds)
    rows = {name: [faces[name][0] * rate for rate in found] for name, found in steps.items()}
    base, sync = rows["problem.score"], rows[_sync_name()]
    print_table(
        f"{config.env}, batch {config.batch}, one thread, medians of {config.repeats} rounds",
        ["", "rows/s", "of score", "of sync"],
        [
            [name, f"{median(found):,.0f}", f"{ratio(found, base):.2f}", f"{ratio(found, sync):.1f}x"]
            for name, found in rows.items()
        ],
    )
    return {
        "vector/score": ratio(rows["SlotsVectorEnv"], base),
        "vec/score": ratio(rows["SlotVecEnv"], base),
        "vector/sync": ratio(rows["SlotsVectorEnv"], sync),
    }


def _faces(config: EnvBenchmark) -> dict[str, tuple[int, Callable[[], Any]]]:
    problem = make_problem(config.env)
    generator = generator_from(0)
    observation = problem.sample(config.batch, generator)
    choice = random_choice(problem, observation, generator)
    actions: npt.NDArray[np.int64] = choice.numpy()
    vector, vec = SlotsVectorEnv(problem, config.batch), SlotVecEnv(problem, config.batch)
    sync = gym.vector.SyncVectorEnv(
        [partial(SlotsEnv, problem) for _ in range(SINGLES)], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
    )
    vector.reset(seed=0)
    vec.reset()
    sync.reset(seed=0)
    few = torch.zeros(SINGLES, problem.slots, dtype=torch.long).numpy()
    return {
        "problem.score": (config.batch, lambda: problem.score(observation, choice)),
        "SlotsVectorEnv": (config.batch, lambda: vector.step(actions)),
        "SlotVecEnv": (config.batch, lambda: vec.step(actions)),
        _sync_name(): (SINGLES, lambda: sync.step(few)),
    }


def _sync_name() -> str:
    return f"SyncVectorEnv, {SINGLES} singles"

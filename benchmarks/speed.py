"""Speed of environments and selectors, as ratios within one run: absolute times on a shared machine say little.

Each round times every candidate once, so that a slow moment of the machine affects all of them.

- ``env``: rows per second of the environments, compared with the problem's own scoring.
- ``selectors``: time of each selector, compared with the calls of the objective that it needs. These calls are made
  with as many rows at once, on rows that exist already. Torch's own ``gumbel_softmax(hard=True)`` is timed as well.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor
from torch.nn import functional

from slot_rl.console import print_table, progress_bar
from slot_rl.envs import SlotsEnv, SlotsVectorEnv, SlotVecEnv
from slot_rl.problems import make_problem
from slot_rl.problems.named import own_env
from slot_rl.search import random_choice
from slot_rl.seeding import generator_from
from slot_rl.selectors import NAMES, Objective, Selector, make
from slot_rl.selectors.base import Probe
from slot_rl.selectors.categorical import one_hot

SINGLES = 64
MOST_FORWARDS = 1_000
SYNC = f"SyncVectorEnv, {SINGLES} singles"
TORCH = "torch gumbel_softmax(hard=True)"


@dataclass(frozen=True)
class SelectorBenchmark:
    """Time per call of each selector, compared with the bare objective.

    Attributes:
        batch: Rows per call, or per step of the batched environments.
        repeats: Rounds.
        seconds: Least seconds of each measurement.
    """

    batch: int = 1024
    repeats: int = 7
    seconds: float = 0.1

    def __post_init__(self) -> None:
        """Refuses an empty measurement."""
        if self.batch < 1 or self.repeats < 1 or not self.seconds > 0:
            raise ValueError(
                "expected batch >= 1, repeats >= 1 and seconds > 0, "
                f"got {self.batch}, {self.repeats} and {self.seconds}"
            )


@dataclass(frozen=True)
class EnvBenchmark(SelectorBenchmark):
    """Rows per second of each environment of a problem.

    Attributes:
        env: The environment's id.
        problem: Your own problem, path.py:function with --trust; its env is SlotRL/Own-v0.
        trust: Execute the Python file of the problem, with all your rights.
    """

    repeats: int = 15
    seconds: float = 0.3
    env: str = "SlotRL/Slots-v0"
    problem: str | None = None
    trust: bool = False

    def __post_init__(self) -> None:
        """Refuses an empty measurement; an own problem has its own env."""
        super().__post_init__()
        object.__setattr__(self, "env", own_env(self.env, self.problem, EnvBenchmark.env))


def benchmark_env(config: EnvBenchmark) -> dict[str, float]:
    """Times every environment and prints medians.

    Returns:
        Median ratios of rows per second: ``vector/score``, ``vec/score``, ``vector/sync``.
    """
    steps = _environment_steps(config)
    found = rates(steps, config)
    rows = {name: [(SINGLES if name == SYNC else config.batch) * rate for rate in found[name]] for name in steps}
    base, sync = rows["problem.score"], rows[SYNC]
    cells = [
        [name, f"{median(one):,.0f}", f"{ratio(one, base):.2f}", f"{ratio(one, sync):.1f}x"]
        for name, one in rows.items()
    ]
    print_table(_title(config.env, config), ["", "rows/s", "of score", "of sync"], cells)
    return {
        "vector/score": ratio(rows["SlotsVectorEnv"], base),
        "vec/score": ratio(rows["SlotVecEnv"], base),
        "vector/sync": ratio(rows["SlotsVectorEnv"], sync),
    }


def _environment_steps(config: EnvBenchmark) -> dict[str, Callable[[], Any]]:
    problem = make_problem(config.env, problem=config.problem, trust=config.trust)
    generator = generator_from(0)
    observation = problem.sample(config.batch, generator)
    choice = random_choice(problem, observation, generator)
    vector, vec = SlotsVectorEnv(problem, config.batch), SlotVecEnv(problem, config.batch)
    sync = gym.vector.SyncVectorEnv(
        [partial(SlotsEnv, problem) for _ in range(SINGLES)], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
    )
    vector.reset(seed=0)
    vec.reset()
    sync.reset(seed=0)
    few = torch.zeros(SINGLES, problem.slots, dtype=torch.long).numpy()
    return {
        "problem.score": lambda: problem.score(observation, choice),
        "SlotsVectorEnv": lambda: vector.step(choice.numpy()),
        "SlotVecEnv": lambda: vec.step(choice.numpy()),
        SYNC: lambda: sync.step(few),
    }


def benchmark_selectors(config: SelectorBenchmark) -> dict[str, dict[str, float]]:
    """Times every selector on both shipped problems and prints medians.

    ``exact`` and selectors that score more than :data:`MOST_FORWARDS` configurations per row are left out.

    Returns:
        For each problem, each selector's time divided by that of its bare objective, and under :data:`TORCH` the time
        of ``gumbel`` divided by torch's.
    """
    return {name: _benchmark_on(name, config) for name in ("SlotRL/Slots-v0", "SlotRL/SlotsLarge-v0")}


def _benchmark_on(env_id: str, config: SelectorBenchmark) -> dict[str, float]:
    problem, generator = make_problem(env_id), generator_from(0)
    observation = problem.sample(config.batch, generator)
    logits = torch.randn(config.batch, problem.slots, problem.items, generator=generator)
    vertex = one_hot(random_choice(problem, observation, generator), problem.items, logits.dtype)
    objective = partial(problem.score_selection, observation)
    steps: dict[str, Callable[[], Any]] = {TORCH: partial(_step_torch, logits, objective)}
    for name in NAMES:
        selector = make(name)
        if name != "exact" and selector.cost(problem.slots, problem.items)[0] <= MOST_FORWARDS:
            steps[name] = partial(_step_selector, selector, logits, objective, generator)
            steps[f"{name}, bare"] = partial(_call_objective, selector, vertex, objective)
    found = rates(steps, config)
    times = {name: f"{1e3 / median(one):.2f}" for name, one in found.items()}
    overheads = {name: ratio(found[f"{name}, bare"], found[name]) for name in NAMES if name in found}
    against_torch = ratio(found[TORCH], found["gumbel"])
    rows = [[name, times[name], times[f"{name}, bare"], f"{overhead:.2f}x"] for name, overhead in overheads.items()]
    rows.append([TORCH, times[TORCH], "", f"gumbel {against_torch:.2f}x of it"])
    print_table(_title(env_id, config), ["", "ms", "bare ms", "of bare"], rows)
    return {**overheads, TORCH: against_torch}


def _step_selector(selector: Selector, logits: Tensor, objective: Objective, generator: torch.Generator) -> None:
    leaf = logits.detach().requires_grad_()
    selector(leaf, objective, generator=generator).surrogate.mean().backward()


def _step_torch(logits: Tensor, objective: Objective) -> None:
    leaf = logits.detach().requires_grad_()
    objective(functional.gumbel_softmax(leaf, hard=True)).mean().backward()


def _call_objective(selector: Selector, vertex: Tensor, objective: Objective) -> None:
    """Computes the values and slopes that one call of the selector needs."""
    probe = Probe(objective, vertex.dtype)
    forwards, backwards = selector.cost(*vertex.shape[-2:])
    for _ in range(backwards):
        probe.slope(vertex)
    left = forwards - backwards
    together = max(1, getattr(selector, "chunk", left * len(vertex)) // len(vertex))
    while left > 0:
        rows = min(together, left)
        # The expanded rows share memory, which makes the bare objective as fast as possible.
        probe.value(vertex.expand(rows, *vertex.shape))
        left -= rows


def rates(steps: Mapping[str, Callable[[], Any]], config: SelectorBenchmark) -> dict[str, list[float]]:
    """Returns for each step its runs per second in every round."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    with progress_bar() as progress:
        task = progress.add_task("timing", total=config.repeats, note="")
        for _ in range(config.repeats):
            for name, step in steps.items():
                found[name].append(_per_second(step, config.seconds))
            progress.advance(task)
    return found


def _per_second(step: Callable[[], Any], seconds: float) -> float:
    step()  # warms up
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        step()
        count += 1
    return count / elapsed


def ratio(found: list[float], base: list[float]) -> float:
    """Returns the median over rounds of the ratio of two rates; slow rounds affect both rates and cancel."""
    return median(rate / other for rate, other in zip(found, base, strict=True))


def _title(env_id: str, config: SelectorBenchmark) -> str:
    return f"{env_id}, batch {config.batch}, one thread, medians of {config.repeats} rounds"

"""Time of one pass under constraints, as a ratio to the pass without them, within one run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.speed import SelectorBenchmark, rates, ratio
from slot_rl.agents import GumbelAgent, LearningAgent
from slot_rl.console import print_table
from slot_rl.problems import SlotProblem
from slot_rl.problems.constraints import AtLeast, AtMost, Constraint, Distinct
from slot_rl.seeding import generator_from

SLOTS, ITEMS, DIM, POOL = 6, 200, 16, 1_000
FREE = "no constraint"
CONSTRAINTS: dict[str, tuple[Constraint, ...]] = {
    FREE: (),
    "distinct": (Distinct(),),
    "distinct, at most 2 of a group": (Distinct(), AtMost(2, "group")),
    "the same, at least 1 new": (Distinct(), AtMost(2, "group"), AtLeast(1, "new", True)),
}


@dataclass(frozen=True)
class AnswerBenchmark(SelectorBenchmark):
    """Time of one pass for 6 slots and 200 items, with and without constraints."""

    batch: int = 256
    seconds: float = 0.5


def benchmark_answers(config: AnswerBenchmark) -> dict[str, float]:
    """Times one pass, and draws, and prints medians.

    Returns:
        For each set of constraints the time of a pass, divided by that without constraints.
    """
    passes: dict[str, Callable[[], Any]] = {}
    draws: dict[str, Callable[[], Any]] = {}
    for name, constraints in CONSTRAINTS.items():
        problem = _problem(constraints)
        agent: LearningAgent = GumbelAgent(problem, GumbelAgent.independent_slots)
        observation = problem.sample(config.batch, generator_from(0))
        passes[name] = partial(agent.choose, observation)
        draws[name] = torch.no_grad()(partial(agent.policy.draw, observation, generator_from(1)))
    found = {kind: rates(steps, config) for kind, steps in (("one pass", passes), ("a draw", draws))}
    ratios = {name: ratio(found["one pass"][FREE], found["one pass"][name]) for name in CONSTRAINTS}
    rows = [
        [
            name,
            *(f"{1e3 / median(found[kind][name]):.1f}" for kind in found),
            f"{ratios[name]:.2f}x",
        ]
        for name in CONSTRAINTS
    ]
    title = f"{SLOTS} slots, {ITEMS} items, batch {config.batch}, one thread, medians of {config.repeats} rounds"
    print_table(title, ["", *(f"{kind}, ms" for kind in found), "ratio"], rows)
    return ratios


def _problem(constraints: tuple[Constraint, ...]) -> SlotProblem:
    pool = torch.randn(POOL, DIM, generator=generator_from(0))
    labels: dict[str, list[object]] = {"group": [i % 50 for i in range(POOL)], "new": [i % 7 == 0 for i in range(POOL)]}
    return SlotProblem(
        lambda items: items.sum(dim=(-1, -2)), SLOTS, ITEMS, pool=pool, item_labels=labels, constraints=constraints
    )

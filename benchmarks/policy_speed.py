"""Speed of the policy: a training update beside the matrix products in it, and the time of one pass.

No update can be faster than its matrix products at the rate of a large product on this machine. What share of the
update's time these would take says how much is lost on everything else.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from benchmarks.speed import SelectorBenchmark, rates, ratio
from slot_rl.agents import GumbelAgent
from slot_rl.console import print_table, say
from slot_rl.problems import SlotProblem, make_problem
from slot_rl.seeding import generator_from

TRAINED = ("SlotRL/Slots-v0", "SlotRL/SlotsLarge-v0")
TIMED_PASSES = ((1, 20), (256, 200))
"""Requests and items of the passes that are timed."""
SLOTS, DIM = 6, 16
SIDE = 1_024
PRODUCT = f"product of two {SIDE:,} x {SIDE:,} matrices"


@dataclass(frozen=True)
class PolicyBenchmark(SelectorBenchmark):
    """Rows per second of a training update, the share of its matrix products, and the time of one pass."""

    seconds: float = 0.3


def benchmark_policy(config: PolicyBenchmark) -> dict[str, float]:
    """Times updates of ``gumbel`` with independent slots and passes of its policy, and prints medians.

    Returns:
        For each problem, the share of an update's time that its matrix products would take at the machine's rate.
    """
    steps: dict[str, Callable[[], Any]] = {env_id: _update(env_id, config.batch) for env_id in TRAINED}
    work = {env_id: product_flops(step) for env_id, step in steps.items()}
    left, right = torch.randn(2, SIDE, SIDE, generator=generator_from(0)).unbind()
    steps[PRODUCT] = lambda: left @ right
    steps |= {f"{batch} x {items}": _one_pass(batch, items) for batch, items in TIMED_PASSES}
    found = rates(steps, config)
    speed = [rate * 2 * SIDE**3 for rate in found[PRODUCT]]
    shares = {env_id: ratio([rate * work[env_id] for rate in found[env_id]], speed) for env_id in TRAINED}
    rows = [
        [
            env_id,
            f"{1e3 / median(found[env_id]):.1f}",
            f"{config.batch * median(found[env_id]):,.0f}",
            f"{work[env_id] / config.batch / 1e6:.2f}",
            f"{shares[env_id]:.2f}",
        ]
        for env_id in TRAINED
    ]
    title = f"an update of gumbel, batch {config.batch}, one thread, medians of {config.repeats} rounds"
    print_table(title, ["", "ms", "rows/s", "MFLOP/row", "share of products"], rows)
    say(f"{PRODUCT}: {median(speed) / 1e9:.0f} GFLOP/s")
    times = [1e3 / median(found[f"{batch} x {items}"]) for batch, items in TIMED_PASSES]
    passes = [
        [f"{batch:,}", f"{items:,}", f"{time:.2f}"] for (batch, items), time in zip(TIMED_PASSES, times, strict=True)
    ]
    print_table(f"one pass, {SLOTS} slots", ["requests", "items", "ms"], passes)
    return shares


def _update(env_id: str, batch: int) -> Callable[[], object]:
    agent = GumbelAgent(make_problem(env_id), replace(GumbelAgent.independent_slots, batch_size=batch))
    return partial(agent.learn, batch)


def _one_pass(batch: int, items: int) -> Callable[[], Tensor]:
    problem = SlotProblem(lambda vectors: vectors.sum(dim=(-1, -2)), SLOTS, items, DIM)
    return partial(GumbelAgent(problem, GumbelAgent.independent_slots).choose, problem.sample(batch, generator_from(0)))


def product_flops(step: Callable[[], Any]) -> int:
    """Returns the floating-point operations of the matrix products in a step. A multiply-add is two."""
    ops = torch.ops.aten
    attention: dict[Any, Any] = {
        ops._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        ops._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        step()
    return int(counter.get_total_flops())


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))

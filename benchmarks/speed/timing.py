"""Timing in rounds: each round times every contestant once, so that a slow moment hits all of them."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from slot_rl.console import progress_bar


def per_second(step: Callable[[], Any], seconds: float) -> float:
    """Returns how often a step runs in a second, measured for at least ``seconds`` after one run to warm up."""
    step()
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        step()
        count += 1
    return count / elapsed


def rates(contestants: Mapping[str, Callable[[], Any]], repeats: int, seconds: float) -> dict[str, list[float]]:
    """Returns each contestant's runs per second in every round."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    with progress_bar() as progress:
        task = progress.add_task("timing", total=repeats, note="")
        for _ in range(repeats):
            for name, step in contestants.items():
                found[name].append(per_second(step, seconds))
            progress.advance(task)
    return found


def ratio(rates: list[float], base: list[float]) -> float:
    """Returns the median over rounds of one contestant's rate by another's, so that the machine's drift cancels."""
    return median(rate / other for rate, other in zip(rates, base, strict=True))

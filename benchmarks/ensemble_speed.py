"""Time of an ensemble's call, as a ratio to the call of one member, within one run, beside the ratio of products."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.policy_speed import product_flops
from benchmarks.speed import SelectorBenchmark, rates, ratio
from slot_rl.console import print_table
from slot_rl.estimators.net_ensemble import NetEnsemble, NetEnsembleShape
from slot_rl.seeding import generator_from
from slot_rl.selectors.categorical import one_hot

SIZES = (20,) * 4
BATCHES = (1, 128, 1_024)


@dataclass(frozen=True)
class EnsembleBenchmark(SelectorBenchmark):
    """Time of a call of several networks, compared with one network, for 1, 128 and 1,024 rows.

    Attributes:
        members: Networks.
    """

    seconds: float = 0.05
    members: int = 5

    def __post_init__(self) -> None:
        """Refuses an empty measurement, and one member, which is what the others are compared with."""
        super().__post_init__()
        if self.members < 2:
            raise ValueError(f"expected members >= 2, got {self.members}")


def benchmark_ensemble(config: EnsembleBenchmark) -> dict[str, float]:
    """Times calls with and without a gradient and prints medians.

    Returns:
        For each kind of call the time of the ensemble, divided by that of one member.
    """
    calls = {members: _calls(members) for members in (1, config.members)}
    found = rates({f"{members}, {name}": step for members in calls for name, step in calls[members].items()}, config)
    lines, ratios = [], {}
    for name in calls[1]:
        one, several = (found[f"{members}, {name}"] for members in calls)
        ratios[name] = ratio(one, several)
        products = product_flops(calls[config.members][name]) / product_flops(calls[1][name])
        times = (f"{1e6 / median(each):,.0f}" for each in (one, several))
        lines.append([name, *times, f"{ratios[name]:.2f}x", f"{products:.2f}x"])
    title = f"{config.members} members in one call, one thread, medians of {config.repeats} rounds"
    print_table(title, ["", "one, us", f"{config.members}, us", "ratio", "of products"], lines)
    return ratios


def _calls(members: int) -> dict[str, Callable[[], Any]]:
    nets = NetEnsemble(NetEnsembleShape(SIZES, (), members), generator_from(0)).requires_grad_(False)
    calls: dict[str, Callable[[], Any]] = {}
    for batch in BATCHES:
        choice = torch.randint(SIZES[0], (batch, len(SIZES)), generator=generator_from(1))
        calls[f"{batch:,} rows, scores"] = torch.no_grad()(partial(nets, choice))
        calls[f"{batch:,} rows, slopes"] = partial(_slopes, nets, one_hot(choice, SIZES[0], torch.float32))
    return calls


def _slopes(nets: NetEnsemble, rows: Tensor) -> None:
    nets(rows.requires_grad_()).sum().backward()

"""What each selector costs beside the calls of the objective that it cannot do without.

The bare objective is asked for as many values and slopes as the selector asks for, in as large calls, on rows that are
already built; whatever the selector takes longer is its overhead. Torch's own ``gumbel_softmax(hard=True)`` with the
same objective stands beside ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.speed.timing import rates, ratio
from slot_rl.console import print_table
from slot_rl.problems import make_problem
from slot_rl.search import random_choice
from slot_rl.seeding import generator_from
from slot_rl.selectors import NAMES, Objective, Selector, make
from slot_rl.selectors.base import Probe
from slot_rl.selectors.categorical import one_hot

ENVS = ("SlotRL/Slots-v0", "SlotRL/SlotsLarge-v0")
MOST_FORWARDS = 1_000
TORCH = "torch gumbel_softmax(hard=True)"


@dataclass(frozen=True)
class SelectorBenchmark:
    """Time per call of each selector, beside the bare objective's.

    Attributes:
        batch: Rows per call.
        repeats: Rounds; each round times every selector and its bare objective once.
        seconds: Least seconds for each in a round.
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


def benchmark_selectors(config: SelectorBenchmark) -> dict[str, dict[str, float]]:
    """Times every selector on both shipped problems and prints medians.

    Selectors that score more than :data:`MOST_FORWARDS` configurations a row are left out, exact always.

    Returns:
        For each problem, each selector's time as a multiple of its bare objective's, and under
        :data:`TORCH` the time of ours as a multiple of torch's.
    """
    return {env_id: _benchmark(env_id, config) for env_id in ENVS}


def _benchmark(env_id: str, config: SelectorBenchmark) -> dict[str, float]:
    problem, generator = make_problem(env_id), generator_from(0)
    observation = problem.sample(config.batch, generator)
    logits = torch.randn(config.batch, problem.slots, problem.items, generator=generator)
    vertex = one_hot(random_choice(problem, observation, generator), problem.items, logits.dtype)
    objective = partial(problem.score_selection, observation)
    steps: dict[str, Callable[[], Any]] = {TORCH: partial(_through_torch, logits, objective)}
    for name in NAMES:
        selector = make(name)
        if name != "exact" and selector.cost(problem.slots, problem.items)[0] <= MOST_FORWARDS:
            steps[name] = partial(_through, selector, logits, objective, generator)
            steps[f"{name}, bare"] = partial(_bare, selector, vertex, objective)
    found = rates(steps, config.repeats, config.seconds)
    names = [name for name in NAMES if name in found]
    overheads = {name: ratio(found[f"{name}, bare"], found[name]) for name in names}
    versus = ratio(found[TORCH], found["gumbel"])
    rows = []
    for name in names:
        bare = found[f"{name}, bare"]
        rows.append([name, _milliseconds(found[name]), _milliseconds(bare), f"{overheads[name]:.2f}x"])
    rows.append([TORCH, _milliseconds(found[TORCH]), "", f"gumbel {versus:.2f}x of it"])
    title = f"{env_id}, batch {config.batch}, one thread, medians of {config.repeats} rounds"
    print_table(title, ["", "ms", "bare ms", "of bare"], rows)
    return {**overheads, TORCH: versus}


def _through(selector: Selector, logits: Tensor, objective: Objective, generator: torch.Generator) -> None:
    leaf = logits.detach().requires_grad_()
    selector(leaf, objective, generator=generator).surrogate.mean().backward()


def _through_torch(logits: Tensor, objective: Objective) -> None:
    leaf = logits.detach().requires_grad_()
    objective(functional.gumbel_softmax(leaf, hard=True)).mean().backward()


def _bare(selector: Selector, vertex: Tensor, objective: Objective) -> None:
    """Asks for the values and slopes that one call of the selector asks for."""
    probe = Probe(objective, vertex.dtype)
    forwards, backwards = selector.cost(*vertex.shape[-2:])
    for _ in range(backwards):
        probe.slope(vertex)
    left = forwards - backwards
    together = max(1, getattr(selector, "chunk", left * len(vertex)) // len(vertex))
    while left > 0:
        rows = min(together, left)
        # The copies share memory, as the rows of no selector do: the bare objective gets every advantage.
        probe.value(vertex.expand(rows, *vertex.shape))
        left -= rows


def _milliseconds(found: list[float]) -> str:
    return f"{1e3 / median(found):.2f}"

"""The toy of this project's second origin: from eight numbers pick the one nearest to one half, in four slots.

Whoever asked had tried softmax, low temperatures, and argmax forward with softmax backward, and saw the logits drift to
equality; Gumbel noise worked. This trains each way on two policies, a plain network on the raw list and a pointer
network that treats all items alike, and shows the share of slots on the best item and the spread of the logits: where
it shrinks, the policy has forgotten how to choose.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.reproductions.results import Place, publish
from slot_rl.console import progress_bar
from slot_rl.networks import PointerNetwork, PointerSize
from slot_rl.plots import Panel, plot_curves
from slot_rl.problems import Observation, Problem, make_problem
from slot_rl.problems.named import PICK_VALUE
from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors import RLOO, Gumbel, LocalExpectation, ReinMax, Selector, Softmax, StraightThrough

BATCH, LEARNING_RATE, HIDDEN, EVALUATED, POINTS = 256, 1e-3, 128, 2_000, 60
PolicyKind = Literal["plain", "pointer"]
METHODS: dict[str, Selector] = {
    "softmax": Softmax(),
    "softmax, tau .1": Softmax(tau=0.1),
    "straight_through, no noise": StraightThrough(noise=False),
    "straight_through": StraightThrough(),
    "gumbel, soft": Gumbel(hard=False),
    "gumbel": Gumbel(),
    "gumbel, tau .3": Gumbel(tau=0.3),
    "reinmax": ReinMax(),
    "rloo, k 4": RLOO(k=4),
    "local_expectation": LocalExpectation(),
}
PUBLISHED: dict[PolicyKind, dict[str, str]] = {
    "plain": {
        "softmax": ".22",
        "straight_through, no noise": ".14",
        "gumbel": ".86",
        "gumbel, soft": ".84",
        "reinmax": ".58",
        "rloo, k 4": ".51",
    },
    "pointer": {
        "softmax": ".90",
        "straight_through": ".53-.58",
        "gumbel, tau .3": ".98",
        "reinmax": ".97",
        "rloo, k 4": ".985",
    },
}
"""Shares of slots on the best item; the pointer network's straight-through is published without saying whether with
noise."""


@dataclass(frozen=True)
class PickValueConfig:
    """The slots toy: which ways of choosing learn to pick the value, and what happens to the logits.

    Attributes:
        seed: Seeds weights, requests and draws.
        steps: Steps of 256 requests each; the published shares are after 3,000.
        place: Where the results go.
    """

    seed: int = 0
    steps: int = 3_000
    place: Place = field(default_factory=Place)

    def __post_init__(self) -> None:
        """Refuses a training too short to plot."""
        if self.steps < POINTS:
            raise ValueError(f"expected steps >= {POINTS}, got {self.steps}")


@dataclass(frozen=True)
class Learned:
    """One training.

    Attributes:
        steps: When it was looked at.
        share: Share of slots on the best item.
        spread: Standard deviation of a slot's logits over its items, mean over slots and requests.
    """

    steps: list[float]
    share: list[float]
    spread: list[float]

    @property
    def final_share(self) -> float:
        """The mean share over the last tenth of the looks: on the pointer network single looks swing widely."""
        last = self.share[-max(1, len(self.share) // 10) :]
        return sum(last) / len(last)


def reproduce_pick_value(config: PickValueConfig) -> dict[PolicyKind, dict[str, Learned]]:
    """Trains every method on both policies, prints the table, draws shares and spreads.

    Returns:
        The trainings by policy and method.
    """
    folder = config.place.folder("pick-value")
    found: dict[PolicyKind, dict[str, Learned]] = {}
    with progress_bar() as progress:
        task = progress.add_task("training", total=len(PUBLISHED) * len(METHODS) * POINTS, note="")
        for kind in PUBLISHED:
            for name, selector in METHODS.items():
                progress.update(task, note=f"{kind}, {name}")
                learned = learn(kind, selector, config.steps, config.seed, lambda: progress.advance(task))
                found.setdefault(kind, {})[name] = learned
    rows = [
        [
            f"{kind}, {name}",
            f"{learned.final_share:.3f}",
            PUBLISHED[kind].get(name, ""),
            f"{learned.spread[0]:.3f}",
            f"{learned.spread[-1]:.3g}",
        ]
        for kind, by in found.items()
        for name, learned in by.items()
    ]

    def draw(path: Path) -> None:
        plot_curves(path, _panels(found), "steps of 256 requests")

    columns = ["", "share", "theirs", "spread", "at last"]
    figures = {kind: {name: vars(learned) for name, learned in by.items()} for kind, by in found.items()}
    publish(folder, config, "pick the value nearest to one half", columns, rows, figures, draw)
    return found


def learn(kind: PolicyKind, selector: Selector, steps: int, seed: int, on_point: Callable[[], None]) -> Learned:
    """Trains one method on one policy by the slope through the true objective, and watches share and spread."""
    problem, generator = make_problem(PICK_VALUE), generator_from(seed)
    logits_of, parameters = _policy(kind, problem, seed)
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    test = problem.sample(EVALUATED, generator_from(seed + 1))
    learned = Learned([], [], [])

    def look(step: int) -> None:
        with torch.no_grad():
            logits = logits_of(test)
        learned.steps.append(float(step))
        learned.share.append(float((logits.argmax(dim=-1) == _best(test)).double().mean()))
        learned.spread.append(float(logits.std(dim=-1).mean()))

    for step in range(steps):
        if step * POINTS // steps == len(learned.steps):
            look(step)
            on_point()
        observation = problem.sample(BATCH, generator)
        objective = partial(problem.score_selection, observation)
        estimate = selector(logits_of(observation), objective, generator=generator)
        optimizer.zero_grad()
        (-estimate.surrogate.mean()).backward()
        optimizer.step()
    look(steps)
    return learned


def _policy(
    kind: PolicyKind, problem: Problem, seed: int
) -> tuple[Callable[[Observation], Tensor], list[nn.Parameter]]:
    """Returns what gives logits ``(batch, slots, items)``, and its parameters."""
    with seeded_initialisation(seed):
        plain = nn.Sequential(
            nn.Linear(problem.items, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, problem.slots * problem.items),
        )
        pointer = PointerNetwork(problem.slots, 1, (), PointerSize())

    def plain_logits(observation: Observation) -> Tensor:
        rows: Tensor = plain(problem.candidates(observation).squeeze(-1))
        return rows.view(-1, problem.slots, problem.items)

    def pointer_logits(observation: Observation) -> Tensor:
        logits: Tensor = pointer(observation.candidates, None, None)[0]
        return logits

    if kind == "plain":
        return plain_logits, list(plain.parameters())
    return pointer_logits, list(pointer.parameters())


def _best(observation: Observation) -> Tensor:
    """Returns the item nearest to one half, ``(batch, 1)``: the same for every slot."""
    assert observation.candidates is not None
    return (observation.candidates.squeeze(-1) - 0.5).abs().argmin(dim=-1, keepdim=True)


def _panels(found: dict[PolicyKind, dict[str, Learned]]) -> list[Panel]:
    panels = []
    for kind, by in found.items():
        shares = {name: (learned.steps, learned.share) for name, learned in by.items()}
        spreads = {name: (learned.steps, learned.spread) for name, learned in by.items()}
        panels.append(Panel(f"{kind} network", "share of slots on the best item", shares))
        panels.append(Panel(f"{kind} network", "spread of the logits", spreads, log=True))
    return panels

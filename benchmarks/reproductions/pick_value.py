"""The pick-value toy: each of four slots chooses the one of eight numbers that is nearest to one half.

With softmax, low temperatures, or an argmax with the gradient of the softmax, the logits become equal; with Gumbel
noise the policy learns. Each method trains two policies: a plain network on the list of numbers, and a pointer network
that treats all items alike. The figures are the share of slots with the best item and the spread of the logits. If the
spread shrinks, the policy prefers no item.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.reproductions.results import Place, mean_of_last, run_each, write_results
from slot_rl.looks import looks_of
from slot_rl.networks import PointerNetwork, PointerSize
from slot_rl.plots import Panel, plot_curves
from slot_rl.problems import Observation, Problem, make_problem
from slot_rl.problems.named import PICK_VALUE
from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors import RLOO, Gumbel, LocalExpectation, ReinMax, Selector, Softmax, StraightThrough

BATCH, EVALUATED, POINTS = 256, 2_000, 60
PolicyKind = Literal["plain", "pointer"]
POLICY_KINDS: tuple[PolicyKind, ...] = ("plain", "pointer")
# Each method with its published shares of slots with the best item. Whether the published straight-through of the
# pointer network has noise is unknown.
PICK_METHODS: dict[str, tuple[Selector, dict[PolicyKind, str]]] = {
    "softmax": (Softmax(), {"plain": ".22", "pointer": ".90"}),
    "softmax, tau .1": (Softmax(tau=0.1), {}),
    "straight_through, no noise": (StraightThrough(noise=False), {"plain": ".14"}),
    "straight_through": (StraightThrough(), {"pointer": ".53-.58"}),
    "gumbel, soft": (Gumbel(hard=False), {"plain": ".84"}),
    "gumbel": (Gumbel(), {"plain": ".86"}),
    "gumbel, tau .3": (Gumbel(tau=0.3), {"pointer": ".98"}),
    "reinmax": (ReinMax(), {"plain": ".58", "pointer": ".97"}),
    "rloo, k 4": (RLOO(k=4), {"plain": ".51", "pointer": ".985"}),
    "local_expectation": (LocalExpectation(), {}),
}


@dataclass(frozen=True)
class PickValueConfig:
    """The pick-value toy: which selectors learn to choose the value nearest to one half.

    Attributes:
        seed: Seeds weights, requests and draws.
        steps: Steps of 256 requests each; the published shares are after 3,000.
        place: Where the results go.
    """

    seed: int = 0
    steps: int = 3_000
    place: Place = Place()

    def __post_init__(self) -> None:
        """Refuses a training too short to plot."""
        if self.steps < POINTS:
            raise ValueError(f"expected steps >= {POINTS}, got {self.steps}")


@dataclass(frozen=True)
class Learned:
    """The figures of one training.

    Attributes:
        steps: The steps of the evaluations.
        share: Share of slots with the best item.
        spread: Standard deviation of a slot's logits over its items, averaged over slots and requests.
    """

    steps: list[float]
    share: list[float]
    spread: list[float]

    @property
    def final_share(self) -> float:
        """The mean share over the last tenth of the evaluations, because single evaluations vary widely."""
        return mean_of_last(self.share, 10)


def reproduce_pick_value(config: PickValueConfig) -> None:
    """Trains every method on both policies, prints the table, draws shares and spreads."""
    folder = config.place.folder("pick-value")
    keys = [(kind, name) for kind in POLICY_KINDS for name in PICK_METHODS]
    learned = run_each(keys, POINTS, lambda key, on_point: learn(*key, config.steps, config.seed, on_point))
    rows = []
    for (kind, name), one in learned.items():
        spreads = [f"{one.spread[0]:.3f}", f"{one.spread[-1]:.3g}"]
        rows.append([f"{kind}, {name}", f"{one.final_share:.3f}", PICK_METHODS[name][1].get(kind, ""), *spreads])
    found = {kind: {name: learned[kind, name] for name in PICK_METHODS} for kind in POLICY_KINDS}
    table = ("pick the value nearest to one half", ["", "share", "theirs", "spread", "at last"], rows)
    figures = {kind: {name: vars(one) for name, one in by.items()} for kind, by in found.items()}
    panels = _panels(found)
    write_results(
        folder,
        config,
        table,
        figures,
        lambda path: plot_curves(path, panels, "steps of 256 requests", looks_of(PICK_METHODS)),
    )


def learn(kind: PolicyKind, method: str, steps: int, seed: int, on_point: Callable[[], None]) -> Learned:
    """Trains one policy by one of :data:`PICK_METHODS` and evaluates it at equally spaced steps."""
    problem, generator, selector = make_problem(PICK_VALUE), generator_from(seed), PICK_METHODS[method][0]
    logits_of, parameters = _policy(kind, problem, seed)
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    test = problem.sample(EVALUATED, generator_from(seed + 1))
    learned = Learned([], [], [])

    def evaluate(step: int) -> None:
        with torch.no_grad():
            logits = logits_of(test)
        learned.steps.append(float(step))
        learned.share.append(float((logits.argmax(dim=-1) == _best(test)).double().mean()))
        learned.spread.append(float(logits.std(dim=-1).mean()))

    for step in range(steps):
        if step * POINTS // steps == len(learned.steps):
            evaluate(step)
            on_point()
        observation = problem.sample(BATCH, generator)
        objective = partial(problem.score_selection, observation)
        estimate = selector(logits_of(observation), objective, generator=generator)
        optimizer.zero_grad()
        (-estimate.surrogate.mean()).backward()
        optimizer.step()
    evaluate(steps)
    return learned


def _policy(
    kind: PolicyKind, problem: Problem, seed: int
) -> tuple[Callable[[Observation], Tensor], list[nn.Parameter]]:
    """Returns a function that computes logits ``(batch, slots, items)``, and its parameters."""
    with seeded_initialisation(seed):
        plain = nn.Sequential(
            nn.Linear(problem.items, 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, problem.slots * problem.items),
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
    """Returns the item nearest to one half, ``(batch, 1)``, the same for every slot."""
    assert observation.candidates is not None
    return (observation.candidates.squeeze(-1) - 0.5).abs().argmin(dim=-1, keepdim=True)


def _panels(found: dict[PolicyKind, dict[str, Learned]]) -> list[Panel]:
    panels = []
    for kind, by in found.items():
        shares = {name: (one.steps, one.share) for name, one in by.items()}
        spreads = {name: (one.steps, one.spread) for name, one in by.items()}
        panels.append(Panel(f"{kind} network", "share of slots with the best item", shares))
        panels.append(Panel(f"{kind} network", "spread of the logits", spreads, log=True))
    return panels

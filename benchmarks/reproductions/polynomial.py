"""Polynomial programming: 128 slots of four values learn to come near a value that none of them has.

Minimise the mean of ``|w(z) - .45|^p`` over 128 independent slots whose four values are fixed, by stochastic gradients
through one batch of 8 draws a step. Straight-through settles on a mixture of values; p = 1.5 and p = 2 differ in how
much that costs.

Liu, Dong, Liu, Yu, Gao, "Bridging Discrete and Backpropagation: Straight-Through and Beyond" (2023), section 6.1.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.reproductions.results import Place, publish
from slot_rl.console import progress_bar
from slot_rl.plots import Panel, plot_curves
from slot_rl.seeding import generator_from
from slot_rl.selectors import Gumbel, GumbelRao, ReinMax, Selector, StraightThrough

SLOTS, ITEMS, BATCH, TARGET, LEARNING_RATE = 128, 4, 8, 0.45, 1e-3
STEPS_PER_EPOCH = 200
METHODS: dict[str, Selector | None] = {
    "straight_through": StraightThrough(),
    "gumbel, tau .1": Gumbel(tau=0.1),
    "gumbel_rao, tau .1, k 20": GumbelRao(tau=0.1, k=20),
    "reinmax": ReinMax(),
    "exact gradient": None,
}
PUBLISHED = {1.5: (0.2272, 0.0203, 0.0156, 0.0152, 0.0138), 2.0: (0.1480, 0.0075, 0.0045, 0.0043, 0.0034)}


@dataclass(frozen=True)
class PolynomialConfig:
    """Polynomial programming, the ReinMax paper's toy.

    Attributes:
        seed: Seeds the draws; the four values are always those of seed 0.
        epochs: Epochs of 200 steps; the published table has 50.
        place: Where the results go.
    """

    seed: int = 0
    epochs: int = 50
    place: Place = field(default_factory=Place)

    def __post_init__(self) -> None:
        """Refuses an empty training."""
        if self.epochs < 1:
            raise ValueError(f"expected epochs >= 1, got {self.epochs}")


def reproduce_polynomial(config: PolynomialConfig) -> dict[float, dict[str, list[float]]]:
    """Trains with every method at both powers, prints the table, draws the curves.

    Returns:
        For each power and method, each epoch's mean loss.
    """
    folder = config.place.folder("poly")
    curves: dict[float, dict[str, list[float]]] = {}
    with progress_bar() as progress:
        task = progress.add_task("poly", total=len(PUBLISHED) * len(METHODS) * config.epochs, note="")
        for power in PUBLISHED:
            for name, selector in METHODS.items():
                progress.update(task, note=f"p = {power}, {name}")
                losses = minimise(power, selector, config.epochs, config.seed, lambda: progress.advance(task))
                curves.setdefault(power, {})[name] = losses
    rows = [
        [f"p = {power}, {name}", f"{curves[power][name][-1]:.4f}", f"{theirs:.4f}", f"{floor(power):.5f}"]
        for power, published in PUBLISHED.items()
        for name, theirs in zip(METHODS, published, strict=True)
    ]

    def draw(path: Path) -> None:
        epochs = [float(epoch + 1) for epoch in range(config.epochs)]
        panels = [
            Panel(f"p = {power}", "mean loss", {name: (epochs, losses) for name, losses in by.items()}, log=True)
            for power, by in curves.items()
        ]
        plot_curves(path, panels, f"epochs of {STEPS_PER_EPOCH} steps")

    title = f"polynomial programming, loss of epoch {config.epochs}"
    publish(
        folder, config, title, ["", "ours", "published", "floor"], rows, {str(k): v for k, v in curves.items()}, draw
    )
    return curves


def values() -> Tensor:
    """Returns the four values, ``(items,)``: normals of seed 0, stretched to [0, 1]."""
    drawn = torch.randn(ITEMS, generator=generator_from(0))
    return (drawn - drawn.min()) / (drawn.max() - drawn.min())


def floor(power: float) -> float:
    """Returns the lowest possible loss: every slot on the value nearest to the target."""
    return float((values() - TARGET).abs().min() ** power)


def minimise(
    power: float, selector: Selector | None, epochs: int, seed: int, on_epoch: Callable[[], None]
) -> list[float]:
    """Trains one method from equal logits; None is the exact gradient, which the slots' independence makes cheap.

    Returns:
        Each epoch's mean loss over its draws.
    """
    generator, items = generator_from(seed), values()
    logits = torch.zeros(SLOTS, ITEMS, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=LEARNING_RATE)

    def objective(selection: Tensor, /) -> Tensor:
        return -((selection @ items) - TARGET).abs().pow(power).mean(dim=-1)

    losses = []
    for _ in range(epochs):
        total = 0.0
        for _ in range(STEPS_PER_EPOCH):
            if selector is None:
                loss = (torch.softmax(logits, dim=-1) @ (items - TARGET).abs().pow(power)).mean()
            else:
                loss = -selector(logits.expand(BATCH, -1, -1), objective, generator=generator).surrogate.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / STEPS_PER_EPOCH)
        on_epoch()
    return losses

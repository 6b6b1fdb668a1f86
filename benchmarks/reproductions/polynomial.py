"""Polynomial programming: 128 slots choose among four fixed values, none of which is the target .45.

The mean of ``|w(z) - .45|^p`` over 128 independent slots is minimised by stochastic gradients with 8 draws per step,
for p = 1.5 and p = 2. Straight-through converges to a mixture of values.

Liu, Dong, Liu, Yu, Gao, "Bridging Discrete and Backpropagation: Straight-Through and Beyond" (2023), section 6.1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.reproductions.results import Place, run_each, write_results
from slot_rl.looks import looks_of
from slot_rl.plots import Panel, plot_curves
from slot_rl.seeding import generator_from
from slot_rl.selectors import Gumbel, GumbelRao, ReinMax, Selector, StraightThrough

TARGET, STEPS_PER_EPOCH = 0.45, 200
POWERS = (1.5, 2.0)
# Each method with its published loss for each power.
POLYNOMIAL_METHODS: dict[str, tuple[Selector | None, dict[float, float]]] = {
    "straight_through": (StraightThrough(), {1.5: 0.2272, 2.0: 0.1480}),
    "gumbel, tau .1": (Gumbel(tau=0.1), {1.5: 0.0203, 2.0: 0.0075}),
    "gumbel_rao, tau .1, k 20": (GumbelRao(tau=0.1, k=20), {1.5: 0.0156, 2.0: 0.0045}),
    "reinmax": (ReinMax(), {1.5: 0.0152, 2.0: 0.0043}),
    "exact gradient": (None, {1.5: 0.0138, 2.0: 0.0034}),
}


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
    place: Place = Place()

    def __post_init__(self) -> None:
        """Refuses an empty training."""
        if self.epochs < 1:
            raise ValueError(f"expected epochs >= 1, got {self.epochs}")


def reproduce_polynomial(config: PolynomialConfig) -> None:
    """Trains with every method and both powers, prints the table, draws the curves."""
    folder = config.place.folder("poly")
    keys = [(power, name) for power in POWERS for name in POLYNOMIAL_METHODS]
    losses = run_each(keys, config.epochs, lambda key, on_epoch: minimise(*key, config.epochs, config.seed, on_epoch))
    rows = []
    for (power, name), curve in losses.items():
        published = POLYNOMIAL_METHODS[name][1][power]
        rows.append([f"p = {power}, {name}", f"{curve[-1]:.4f}", f"{published:.4f}", f"{lowest_loss(power):.5f}"])
    epochs = [float(epoch + 1) for epoch in range(config.epochs)]
    figures = {str(power): {name: losses[power, name] for name in POLYNOMIAL_METHODS} for power in POWERS}
    panels = [
        Panel(f"p = {power}", "mean loss", {name: (epochs, curve) for name, curve in curves.items()}, log=True)
        for power, curves in figures.items()
    ]
    table = (f"polynomial programming, loss of epoch {config.epochs}", ["", "ours", "published", "lowest"], rows)
    label = f"epochs of {STEPS_PER_EPOCH} steps"
    write_results(
        folder, config, table, figures, lambda path: plot_curves(path, panels, label, looks_of(POLYNOMIAL_METHODS))
    )


def values() -> Tensor:
    """Returns the four values, ``(items,)``: normals of seed 0, stretched to [0, 1]."""
    drawn = torch.randn(4, generator=generator_from(0))
    return (drawn - drawn.min()) / (drawn.max() - drawn.min())


def lowest_loss(power: float) -> float:
    """Returns the lowest possible loss: every slot has the value nearest to the target."""
    return float((values() - TARGET).abs().min() ** power)


def minimise(power: float, method: str, epochs: int, seed: int, on_epoch: Callable[[], None]) -> list[float]:
    """Trains one of :data:`POLYNOMIAL_METHODS` from equal logits; returns the mean loss of each epoch."""
    generator, items, selector = generator_from(seed), values(), POLYNOMIAL_METHODS[method][0]
    logits = torch.zeros(128, len(items), requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=1e-3)

    def objective(selection: Tensor, /) -> Tensor:
        return -((selection @ items) - TARGET).abs().pow(power).mean(dim=-1)

    losses = []
    for _ in range(epochs):
        total = 0.0
        for _ in range(STEPS_PER_EPOCH):
            if selector is None:  # the exact gradient, cheap because the slots are independent
                loss = (torch.softmax(logits, dim=-1) @ (items - TARGET).abs().pow(power)).mean()
            else:
                loss = -selector(logits.expand(8, -1, -1), objective, generator=generator).surrogate.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / STEPS_PER_EPOCH)
        on_epoch()
    return losses

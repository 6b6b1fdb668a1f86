"""The toy of intermediate loss sampling: a distribution learns a target distribution from single draws.

Maximise ``E[sum_n t_n log z_n]`` over the logits of ``z``'s distribution p, with one draw a step, and watch
``KL(t || p)``, as the idea's author did: five targets of five probabilities, plain gradient descent. At a one-hot draw
the slope is ``t_n / 1e-8``, so every step, however small, moves the target ``pi_D`` to t without the drawn item. The
published form is therefore the same for every step, and where its mean vanishes p is proportional to ``t (1 - t)``, not
to t: near, and not right. The mirror form, which takes slopes at their word, has nothing to hold on to here.

Shlis, "Intermediate Loss Sampling: A Differentiable Categorical Sampler" (2019).
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
from slot_rl.selectors import Gumbel, IntermediateLoss, Selector

TARGETS, ITEMS, LEARNING_RATE, EPSILON = 5, 5, 0.01, 1e-8
POINTS = 200
METHODS: dict[str, Selector | None] = {
    "gumbel, tau .1": Gumbel(tau=0.1, hard=False),
    "gumbel, tau 1": Gumbel(tau=1.0, hard=False),
    "gumbel, tau 10": Gumbel(tau=10.0, hard=False),
    "published form, step .1": IntermediateLoss(0.1, "sum", faithful=True),
    "published form, step .01": IntermediateLoss(0.01, "sum", faithful=True),
    "published form, step .001": IntermediateLoss(0.001, "sum", faithful=True),
    "pi_D - p, step .01": IntermediateLoss(0.01, "sum"),
    "mirror, step .01": IntermediateLoss(0.01),
    "exact gradient": None,
}
PUBLISHED = {
    "gumbel, tau .1": ".0174, after .0047",
    "gumbel, tau 1": ".0020",
    "gumbel, tau 10": ".0186",
    "published form, step .1": ".0016",
    "published form, step .01": ".0016",
    "published form, step .001": ".0016",
}


@dataclass(frozen=True)
class IntermediateLossConfig:
    """The toy of intermediate loss sampling.

    Attributes:
        seed: Seeds targets, first logits and draws; the same for every method. The published targets are unknown.
        steps: Steps of one draw each; the published curves have 50,000.
        place: Where the results go.
    """

    seed: int = 0
    steps: int = 50_000
    place: Place = field(default_factory=Place)

    def __post_init__(self) -> None:
        """Refuses a training too short to plot."""
        if self.steps < POINTS:
            raise ValueError(f"expected steps >= {POINTS}, got {self.steps}")


def reproduce_intermediate_loss(config: IntermediateLossConfig) -> dict[str, list[float]]:
    """Trains with every method on the same targets, prints the table, draws the curves.

    Returns:
        For each method the mean of ``KL(t || p)`` per probability, over the training.
    """
    folder = config.place.folder("intermediate-loss")
    curves: dict[str, list[float]] = {}
    with progress_bar() as progress:
        task = progress.add_task("toy", total=len(METHODS) * POINTS, note="")
        for name, selector in METHODS.items():
            progress.update(task, note=name)
            curves[name] = descend(selector, config.steps, config.seed, lambda: progress.advance(task))
    rows = [
        [name, f"{min(curve):.4f}", f"{final(curve):.4f}", PUBLISHED.get(name, "")] for name, curve in curves.items()
    ]
    target, _ = start(config.seed)
    fixed_point = target * (1 - target)
    mean_zero = divergence(target, fixed_point / fixed_point.sum(dim=-1, keepdim=True))
    rows.append(["where the published form's mean is 0", "", f"{mean_zero:.4f}", ""])

    def draw(path: Path) -> None:
        steps = [config.steps * point / POINTS for point in range(POINTS)]
        gumbels = {name: (steps, curve) for name, curve in curves.items() if name.startswith("gumbel")}
        others = {name: (steps, curve) for name, curve in curves.items() if not name.startswith("gumbel")}
        gumbels["exact gradient"] = others["exact gradient"]
        value = "KL(target || model) per probability"
        panels = [Panel("relaxed draws", value, gumbels, log=True), Panel("true draws", value, others, log=True)]
        plot_curves(path, panels, "steps of one draw")

    figures = {"curves": curves, "mean_zero": mean_zero}
    publish(
        folder,
        config,
        "learning a distribution from single draws",
        ["", "least", "last", "published"],
        rows,
        figures,
        draw,
    )
    return curves


def start(seed: int) -> tuple[Tensor, Tensor]:
    """Returns targets and first logits, both ``(targets, items)``."""
    generator = generator_from(seed)
    raw, logits = (torch.rand(TARGETS, ITEMS, generator=generator) for _ in range(2))
    return raw / raw.sum(dim=-1, keepdim=True), logits


def divergence(target: Tensor, model: Tensor) -> float:
    """Returns ``KL(target || model)``, divided by the number of probabilities as published."""
    return float((target * (target.log() - (model + EPSILON).log())).mean())


def final(curve: list[float]) -> float:
    """Returns the mean of a curve's last twentieth: single steps are noisy."""
    last = curve[-max(1, len(curve) // 20) :]
    return sum(last) / len(last)


def descend(selector: Selector | None, steps: int, seed: int, on_point: Callable[[], None]) -> list[float]:
    """Trains one method; None is the exact gradient.

    Returns:
        The divergence at equally spaced steps.
    """
    target, logits = start(seed)
    generator = generator_from(seed + 1)
    logits = logits.unsqueeze(1).requires_grad_()

    def objective(selection: Tensor, /) -> Tensor:
        return (target * (selection[..., 0, :] + EPSILON).log()).sum(dim=-1)

    curve: list[float] = []
    for step in range(steps):
        if step * POINTS // steps == len(curve):
            curve.append(divergence(target, torch.softmax(logits.detach()[:, 0], dim=-1)))
            on_point()
        if selector is None:
            gain = (target * torch.log_softmax(logits[:, 0], dim=-1)).sum()
        else:
            gain = selector(logits, objective, generator=generator).surrogate.sum()
        (gradient,) = torch.autograd.grad(gain, logits)
        # The published loss is a mean over all probabilities.
        logits.data += LEARNING_RATE * gradient / target.numel()
    return curve

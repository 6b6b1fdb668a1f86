"""The toy of intermediate loss sampling: a distribution learns a target distribution from single draws.

``E[sum_n t_n log z_n]`` is maximised over the logits of ``z``'s distribution p with one draw per step. The figure is
``KL(t || p)``. As published, there are five targets t of five probabilities and plain gradient descent.

At a one-hot draw the slope is ``t_n / 1e-8``, so every step, even a small one, moves the target ``pi_D`` to t without
the drawn item. Therefore the published form gives the same result for every step, and its mean is 0 where p is
proportional to ``t (1 - t)``, which is near t but not equal. The mirror form uses the slope itself and diverges.

Shlis, "Intermediate Loss Sampling: A Differentiable Categorical Sampler" (2019).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.reproductions.results import Place, mean_of_last, run_each, write_results
from slot_rl.looks import looks_of
from slot_rl.plots import Panel, plot_curves
from slot_rl.seeding import generator_from
from slot_rl.selectors import Gumbel, IntermediateLoss, Selector

EPSILON = 1e-8
CURVE_POINTS = 200
# Each method with its published divergence.
TOY_METHODS: dict[str, tuple[Selector | None, str]] = {
    "gumbel, tau .1": (Gumbel(tau=0.1, hard=False), ".0174, after .0047"),
    "gumbel, tau 1": (Gumbel(tau=1.0, hard=False), ".0020"),
    "gumbel, tau 10": (Gumbel(tau=10.0, hard=False), ".0186"),
    "published form, step .1": (IntermediateLoss(0.1, "sum", faithful=True), ".0016"),
    "published form, step .01": (IntermediateLoss(0.01, "sum", faithful=True), ".0016"),
    "published form, step .001": (IntermediateLoss(0.001, "sum", faithful=True), ".0016"),
    "pi_D - p, step .01": (IntermediateLoss(0.01, "sum"), ""),
    "mirror, step .01": (IntermediateLoss(0.01), ""),
    "exact gradient": (None, ""),
}


@dataclass(frozen=True)
class IntermediateLossConfig:
    """The toy of intermediate loss sampling.

    Attributes:
        seed: Seeds targets, initial logits and draws, the same for every method. The published targets are unknown.
        steps: Steps of one draw each; the published curves have 50,000.
        place: Where the results go.
    """

    seed: int = 0
    steps: int = 50_000
    place: Place = Place()

    def __post_init__(self) -> None:
        """Refuses a training too short to plot."""
        if self.steps < CURVE_POINTS:
            raise ValueError(f"expected steps >= {CURVE_POINTS}, got {self.steps}")


def reproduce_intermediate_loss(config: IntermediateLossConfig) -> None:
    """Trains with every method on the same targets, prints the table, draws the curves."""
    folder = config.place.folder("intermediate-loss")
    curves = run_each(
        TOY_METHODS, CURVE_POINTS, lambda name, on_point: descend(name, config.steps, config.seed, on_point)
    )
    rows = [
        [name, f"{min(curve):.4f}", f"{mean_of_last(curve, 20):.4f}", TOY_METHODS[name][1]]
        for name, curve in curves.items()
    ]
    target, _ = start(config.seed)
    fixed_point = target * (1 - target)
    mean_zero = divergence(target, fixed_point / fixed_point.sum(dim=-1, keepdim=True))
    rows.append(["where the published form's mean is 0", "", f"{mean_zero:.4f}", ""])
    table = ("learning a distribution from single draws", ["", "least", "last", "published"], rows)
    panels = _curve_panels(curves, config.steps)
    figures = {"curves": curves, "mean_zero": mean_zero}
    write_results(
        folder,
        config,
        table,
        figures,
        lambda path: plot_curves(path, panels, "steps of one draw", looks_of(TOY_METHODS)),
    )


def _curve_panels(curves: dict[str, list[float]], steps: int) -> list[Panel]:
    along = [steps * point / CURVE_POINTS for point in range(CURVE_POINTS)]
    gumbels = {name: (along, curve) for name, curve in curves.items() if name.startswith("gumbel")}
    others = {name: (along, curve) for name, curve in curves.items() if not name.startswith("gumbel")}
    gumbels["exact gradient"] = others["exact gradient"]
    value = "KL(target || model) per probability"
    return [Panel("relaxed draws", value, gumbels, log=True), Panel("one-hot draws", value, others, log=True)]


def start(seed: int) -> tuple[Tensor, Tensor]:
    """Returns targets and initial logits, both of shape ``(5, 5)``: five targets of five probabilities."""
    generator = generator_from(seed)
    raw, logits = (torch.rand(5, 5, generator=generator) for _ in range(2))
    return raw / raw.sum(dim=-1, keepdim=True), logits


def divergence(target: Tensor, model: Tensor) -> float:
    """Returns ``KL(target || model)``, divided by the number of probabilities, as published."""
    return float((target * (target.log() - (model + EPSILON).log())).mean())


def descend(method: str, steps: int, seed: int, on_point: Callable[[], None]) -> list[float]:
    """Trains one of :data:`TOY_METHODS`; returns the divergence at equally spaced steps."""
    target, logits = start(seed)
    generator, selector = generator_from(seed + 1), TOY_METHODS[method][0]
    logits = logits.unsqueeze(1).requires_grad_()

    def objective(selection: Tensor, /) -> Tensor:
        return (target * (selection[..., 0, :] + EPSILON).log()).sum(dim=-1)

    curve: list[float] = []
    for step in range(steps):
        if step * CURVE_POINTS // steps == len(curve):
            curve.append(divergence(target, torch.softmax(logits.detach()[:, 0], dim=-1)))
            on_point()
        if selector is None:
            gain = (target * torch.log_softmax(logits[:, 0], dim=-1)).sum()
        else:
            gain = selector(logits, objective, generator=generator).surrogate.sum()
        (gradient,) = torch.autograd.grad(gain, logits)
        # The published loss is a mean over all probabilities.
        logits.data += 0.01 * gradient / target.numel()
    return curve

"""Bias and variance on random quadratics, by enumeration: the table of the ReinMax discussion.

There is one slot of n items and ``f(z) = z^T A z + b^T z`` with ``A = Q^T Q``. All n draws are enumerated for each
selector that depends on one draw alone. As published, estimates are rescaled by ``s = |true| / |mean|``: the squared
bias is ``|s mean - true|^2``, and the variance is ``s^2`` times the total variance.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.reproductions.results import Place, write_results
from slot_rl.plots import Point, plot_bias_and_variance
from slot_rl.seeding import generator_from
from slot_rl.selectors import (
    Exact,
    Gapped,
    IntermediateLoss,
    LocalExpectation,
    Objective,
    Reinforce,
    ReinMax,
    StraightThrough,
)
from slot_rl.selectors.base import GivenDraw

PROBLEMS = ((4, 0), (8, 0), (12, 0), (4, 1))
_UNPUBLISHED = ("", "", "", "")
PUBLISHED_BIAS = {"straight_through": ("0.2781", "2.745", "4.525", "0.08107")}
PUBLISHED_VARIANCE = {
    "straight_through": ("0.7724", "17.85", "40.27", "0.2701"),
    "reinmax": ("13.79", "77.53", "170.5", "1.534"),
    "reinforce, mean baseline": ("1.7", "10", "28", ""),
}


@dataclass(frozen=True)
class QuadraticsConfig:
    """Bias and variance on random quadratics, by enumeration.

    Attributes:
        place: Where the results go.
    """

    place: Place = Place()


@dataclass(frozen=True)
class Moments:
    """Squared bias and variance of a rescaled estimate, and the squared length of the true gradient."""

    bias2: float
    variance: float
    true2: float


def reproduce_quadratics(config: QuadraticsConfig) -> dict[str, list[Moments]]:
    """Enumerates every problem with every selector, prints the table, draws the picture.

    Returns:
        The moments of each selector, one per problem.
    """
    folder = config.place.folder("quadratics")
    found: dict[str, list[Moments]] = {}
    for items, seed in PROBLEMS:
        objective, logits = quadratic_problem(items, seed)
        for name, selector, shifted in _candidates(objective, logits):
            found.setdefault(name, []).append(moments(selector, logits, shifted))
    rows = []
    for name, row in found.items():
        bias, variance = (by.get(name, _UNPUBLISHED) for by in (PUBLISHED_BIAS, PUBLISHED_VARIANCE))
        for cell, (items, seed), bias2, var in zip(row, PROBLEMS, bias, variance, strict=True):
            rows.append([name, f"{items}, {seed}", _ours(cell.bias2), bias2, _ours(cell.variance), var])
    figures = {name: [vars(cell) for cell in row] for name, row in found.items()}
    panels = {
        f"{items} items, seed {seed}": [
            Point(name, row[i].bias2 / row[i].true2, row[i].variance / row[i].true2) for name, row in found.items()
        ]
        for i, (items, seed) in enumerate(PROBLEMS)
    }
    columns = ["selector", "n, seed", "bias²", "theirs", "variance", "theirs"]
    table = ("random quadratics, by enumeration", columns, rows)
    write_results(folder, config, table, figures, lambda path: plot_bias_and_variance(path, panels))
    return found


def quadratic_problem(items: int, seed: int) -> tuple[Objective, Tensor]:
    """Returns the objective and the logits ``(1, items)`` of one published problem, in float64."""
    generator = generator_from(seed)
    # Drawn in float32 and in this order, as published.
    root, linear, logits = (torch.randn(shape, generator=generator) for shape in ((items, items), items, items))
    matrix, slope = (root.T @ root).double(), linear.double()

    def objective(selection: Tensor, /) -> Tensor:
        rows = selection[..., 0, :]
        return ((rows @ matrix) * rows).sum(dim=-1) + rows @ slope

    return objective, logits.double().unsqueeze(0)


def moments(selector: GivenDraw, logits: Tensor, objective: Objective) -> Moments:
    """Enumerates the draws of one slot's logits ``(1, items)``."""
    items = logits.shape[-1]
    p = torch.softmax(logits[0], dim=-1)
    rows = logits.expand(items, 1, items)
    gradient = selector.given(rows, torch.arange(items).unsqueeze(-1), objective)[:, 0]
    leaf = logits.unsqueeze(0).requires_grad_()
    (true,) = torch.autograd.grad(Exact()(leaf, objective).surrogate.sum(), leaf)
    mean = p @ gradient
    scale = true.norm() / mean.norm()
    variance = scale**2 * (p * (gradient - mean).square().sum(dim=-1)).sum()
    return Moments(float((scale * mean - true[0, 0]).square().sum()), float(variance), float(true.square().sum()))


def _candidates(objective: Objective, logits: Tensor) -> list[tuple[str, GivenDraw, Objective]]:
    mean = float(torch.softmax(logits[0], dim=-1) @ objective(torch.eye(logits.shape[-1]).double().unsqueeze(1)))

    def centred(selection: Tensor, /) -> Tensor:
        return objective(selection) - mean

    return [
        ("straight_through", StraightThrough(), objective),
        ("reinmax", ReinMax(), objective),
        ("gapped", Gapped(), objective),
        ("intermediate_loss", IntermediateLoss(), objective),
        ("reinforce, no baseline", Reinforce("none"), objective),
        ("reinforce, mean baseline", Reinforce("none"), centred),
        ("local_expectation", LocalExpectation(), objective),
    ]


def _ours(value: float) -> str:
    # Smaller values are rounding errors of float64.
    return "0" if value < 1e-20 else f"{value:.4g}"

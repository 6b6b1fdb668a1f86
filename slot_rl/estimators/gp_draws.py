"""Functions drawn from a Gaussian process after it has seen its rows: members of an ensemble of a kind of their own.

Matheron's rule: draw a function f from the process before it has seen anything, and measurements f(X) + e of the seen
rows X. With K the covariance of the measurements,

    f(x) + k(x, X) K^-1 (y - f(X) - e)

is a draw from the process after it has seen y. The kernel is a sum of products over columns, so a function of all
combinations is drawn column by column, at the price of a few passes over the combinations.

Wilson, Borovitskiy, Terenin, Mostowsky, Deisenroth, "Efficiently Sampling Functions from Gaussian Process Posteriors"
(2020).
"""

from math import prod

import torch
from torch import Tensor

from slot_rl.estimators.category_gp import CategoryGP
from slot_rl.estimators.grid_kernel import GridKernel, grid_cells, solve_kernel
from slot_rl.estimators.product_gp import ProductGP

MOST_DRAWN_NUMBERS = 100_000_000
"""Numbers that draws may hold: 400 MB."""


def draw_functions(gp: ProductGP | CategoryGP, draws: int, generator: torch.Generator) -> Tensor:
    """Draws functions of all combinations of categories from a fitted process, in the units of the score.

    Up to ``MOST_EXACT`` rows they are exact; beyond, as exact as conjugate gradients are.

    Args:
        gp: The process.
        draws: How many functions.
        generator: Source of the draws.

    Returns:
        ``(draws, combinations of contexts, combinations of features)``; the last column counts fastest, as in
        ``torch.cartesian_prod``.

    Raises:
        ValueError: If the combinations are too many, or no draw is asked for.
    """
    sizes = (*gp.context_sizes, *gp.sizes)
    if draws < 1:
        raise ValueError(f"expected draws >= 1, got {draws}")
    if draws * prod(sizes) > MOST_DRAWN_NUMBERS:
        raise ValueError(
            f"expected draws of at most {MOST_DRAWN_NUMBERS:,} numbers, got {draws} of {prod(sizes):,} combinations"
        )
    kernel: GridKernel = gp.kernel
    places = grid_cells(gp.rows, sizes)
    found = torch.empty(draws, prod(sizes))
    measured = torch.empty(len(places), draws, dtype=torch.float64)
    for draw in range(draws):
        prior = kernel.draw_prior(sizes, generator)
        noise = torch.randn(len(places), generator=generator, dtype=torch.float64) * kernel.noise.sqrt()
        found[draw], measured[:, draw] = prior, prior[places] + noise
    weights = gp.weights.unsqueeze(1) - solve_kernel(kernel, gp.rows, measured, sizes)
    for function, weight in zip(found, weights.unbind(dim=1), strict=True):
        grid = weight.new_zeros(prod(sizes)).index_add_(0, places, weight)
        function += kernel.grid_product(grid, sizes).to(function)
    return found.mul_(gp.spread).add_(gp.offset).view(draws, prod(gp.context_sizes), -1)


def draw_scores(gp: ProductGP | CategoryGP, rows: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Draws functions at some rows alone, where all combinations are too many; in the units of the score.

    Args:
        gp: The process.
        rows: The rows' categories, ``(rows, columns)``, contexts first; the time grows with the cube of their number.
        draws: How many functions.
        generator: Source of the draws.

    Returns:
        ``(draws, rows)``.
    """
    kernel: GridKernel = gp.kernel
    across = kernel.between(rows, gp.rows)
    solved = solve_kernel(kernel, gp.rows, across.T, (*gp.context_sizes, *gp.sizes))
    # Equal rows, and rounding, leave the covariance with eigenvalues a little below zero.
    values, vectors = torch.linalg.eigh(kernel.between(rows, rows) - across @ solved)
    normal = torch.randn(draws, len(rows), generator=generator, dtype=torch.float64)
    found: Tensor = across @ gp.weights + normal * values.clamp_min(0).sqrt() @ vectors.T
    return (found * gp.spread + gp.offset).to(torch.get_default_dtype())

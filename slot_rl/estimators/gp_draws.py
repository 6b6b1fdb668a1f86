"""Functions drawn from a Gaussian process after it has seen its rows: members of an ensemble of a kind of their own.

Matheron's rule: draw a function f from the process before it has seen anything, and measurements f(X) + e of the seen
rows X. With K the covariance of the measurements,

    f(x) + k(x, X) K^-1 (y - f(X) - e)

is a draw from the process after it has seen y. The kernel is a sum of products over columns, so a function of all
combinations is drawn column by column, at the price of a few passes over the combinations.

Wilson, Borovitskiy, Terenin, Mostowsky, Deisenroth, "Efficiently Sampling Functions from Gaussian Process Posteriors"
(2020).
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from slot_rl.estimators.product_gp import ProductGP, ProductKernel, grid_cells, solve_kernel

MOST_DRAWN_NUMBERS = 100_000_000
"""Numbers that draws may hold: 400 MB."""


def draw_functions(gp: ProductGP, draws: int, generator: torch.Generator) -> Tensor:
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
    kernel, places = gp.kernel, grid_cells(gp.rows, sizes)
    found = torch.empty(draws, prod(sizes))
    measured = torch.empty(len(places), draws, dtype=torch.float64)
    for draw in range(draws):
        prior = draw_prior(kernel, sizes, generator)
        noise = torch.randn(len(places), generator=generator, dtype=torch.float64) * kernel.noise.sqrt()
        found[draw], measured[:, draw] = prior, prior[places] + noise
    weights = gp.weights.unsqueeze(1) - solve_kernel(kernel, gp.rows, measured, sizes)
    for function, weight in zip(found, weights.unbind(dim=1), strict=True):
        grid = weight.new_zeros(prod(sizes)).index_add_(0, places, weight)
        function += kernel.grid_product(grid, sizes).to(function)
    return (found * gp.spread + gp.offset).to(found).view(draws, prod(gp.context_sizes), -1)


def draw_prior(kernel: ProductKernel, sizes: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draws one function ``(combinations,)`` of the kernel, standardised and in float64, before anything is seen."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    product, total = normal(*sizes), kernel.constant.sqrt() * normal()
    for column, (size, likeness, weight) in enumerate(zip(sizes, kernel.likeness, kernel.weights, strict=True)):
        # The root of rho + (1 - rho) I: it scales what a column's categories have in common, and what they have not.
        own, common = (1 - likeness).sqrt(), (1 - likeness + size * likeness).sqrt()
        product = own * product + (common - own) * product.mean(dim=column, keepdim=True)
        shape = [size if other == column else 1 for other in range(len(sizes))]
        total = total + weight.sqrt() * normal(*shape)
    return (kernel.scale.sqrt() * product + total).flatten()

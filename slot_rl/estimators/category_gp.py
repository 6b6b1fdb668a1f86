"""A Gaussian process that learns which categories of a column are alike, for tables of few rows of many categories.

The kernel is that of :mod:`slot_rl.estimators.product_gp`, but two categories of a column are not just equal or
different. Each one has a short vector b of length below 1, and

    k_c(i, j) = rho_c + (1 - rho_c) ([i = j] + [i != j] <b_i, b_j>)

takes the place of the column's factor. Its draws are members of an ensemble: what it takes for alike is uncertain, and
a process without such vectors errs elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from slot_rl.estimators.grid_kernel import solve_kernel
from slot_rl.estimators.product_gp import (
    FITTED_ROWS,
    PRIORS,
    KernelNumbers,
    ProductKernel,
    first_numbers,
    fitted_kernel,
    product_kernel,
)

VECTOR_LENGTH = 3
FEWEST_CATEGORIES = 5
"""Columns with fewer categories have no vectors: all of them were seen often."""


@dataclass(frozen=True)
class CategoryKernel:
    """The numbers of the kernel, in float64.

    Attributes:
        plain: The numbers that do not depend on vectors.
        alike: For each column, how alike its categories are, ``(categories, categories)``, 1 on the diagonal.
    """

    plain: ProductKernel
    alike: tuple[Tensor, ...]

    @property
    def noise(self) -> Tensor:
        """Variance of a measurement, of shape ``()``."""
        return self.plain.noise

    @property
    def factors(self) -> list[Tensor]:
        """Each column's factor of the product, ``(categories, categories)``."""
        return [rho + (1 - rho) * alike for rho, alike in zip(self.plain.likeness, self.alike, strict=True)]

    def between(self, rows: Tensor, others: Tensor) -> Tensor:
        """Returns the kernel of rows ``(m, columns)`` and others ``(n, columns)``, ``(m, n)``, without noise."""
        product, total = self.plain.scale, self.plain.constant
        for column, (factor, weight) in enumerate(zip(self.factors, self.plain.weights, strict=True)):
            mine, theirs = rows[:, column], others[:, column]
            product = product * factor[mine][:, theirs]
            total = total + weight * (mine.unsqueeze(1) == theirs)
        return product + total

    def grid_product(self, values: Tensor, sizes: Sequence[int]) -> Tensor:
        """Multiplies the kernel of all combinations of categories by values ``(combinations,)``."""
        grid = product = values.view(*sizes)
        for column, factor in enumerate(self.factors):
            product = _along(product, factor, column)
        nothing = torch.zeros_like(self.plain.scale)
        additive = ProductKernel(self.plain.constant, nothing, self.plain.likeness, self.plain.weights, self.noise)
        return self.plain.scale * product.flatten() + additive.grid_product(grid.flatten(), sizes)

    def draw_prior(self, sizes: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draws one standardised function ``(combinations,)`` before anything is seen."""
        total = self.plain.draw_sum(sizes, generator)
        product = torch.randn(tuple(sizes), generator=generator, dtype=torch.float64)
        for column, factor in enumerate(self.factors):
            identity = torch.eye(len(factor), dtype=torch.float64)
            product = _along(product, torch.linalg.cholesky(factor + 1e-8 * identity), column)
        return self.plain.scale.sqrt() * product.flatten() + total


@dataclass(frozen=True)
class CategoryGP:
    """A fitted process; :func:`slot_rl.estimators.gp_draws.draw_functions` draws from it."""

    sizes: tuple[int, ...]
    context_sizes: tuple[int, ...]
    rows: Tensor
    weights: Tensor
    offset: Tensor
    spread: Tensor
    kernel: CategoryKernel


def fit_category_gp(
    rows: Tensor, score: Tensor, sizes: Sequence[int], context_sizes: Sequence[int], generator: torch.Generator
) -> CategoryGP:
    """Fits the kernel's numbers to some rows (maximum a posteriori), and the mean to all.

    Args:
        rows: The rows' categories, ``(rows, columns)``, contexts first.
        score: Their scores, ``(rows,)``; they must vary.
        sizes: Categories of each feature.
        context_sizes: Categories of each context column; empty without contexts.
        generator: Source of the vectors at the start, and of the rows that decide the kernel's numbers.
    """
    columns, score = (*context_sizes, *sizes), score.double()
    offset, spread = score.mean(), score.std().clamp_min(1e-12)
    standardised = (score - offset) / spread
    chosen = torch.randperm(len(rows), generator=generator)[:FITTED_ROWS]
    kernel = _fit_kernel(rows[chosen], standardised[chosen], columns, generator)
    weights = solve_kernel(kernel, rows, standardised.unsqueeze(1), columns).squeeze(1)
    return CategoryGP(tuple(sizes), tuple(context_sizes), rows, weights, offset, spread, kernel)


def _fit_kernel(rows: Tensor, score: Tensor, sizes: Sequence[int], generator: torch.Generator) -> CategoryKernel:
    start = {**first_numbers(len(sizes)), "own": torch.ones(len(sizes))}
    vectors = {
        _vectors_of(column): torch.randn(size, VECTOR_LENGTH, generator=generator) / 2
        for column, size in enumerate(sizes)
        if size >= FEWEST_CATEGORIES
    }
    priors = PRIORS | dict.fromkeys(vectors, (0.0, 1.0))
    return fitted_kernel(start | vectors, partial(_category_kernel, sizes), priors, rows, score)


def _vectors_of(column: int) -> str:
    return f"vectors {column}"


def _category_kernel(sizes: Sequence[int], free: KernelNumbers) -> CategoryKernel:
    alike = []
    for column, size in enumerate(sizes):
        identity = torch.eye(size, dtype=torch.float64)
        vectors = free.get(_vectors_of(column))
        if vectors is None:
            alike.append(identity)
            continue
        vectors = vectors / (vectors.square().sum(dim=1, keepdim=True) + free["own"][column].exp()).sqrt()
        inner = vectors @ vectors.T
        alike.append(inner * (1 - identity) + identity)
    return CategoryKernel(product_kernel(free), tuple(alike))


def _along(grid: Tensor, matrix: Tensor, column: int) -> Tensor:
    product: Tensor = torch.tensordot(matrix, grid, dims=([1], [column]))
    return product.movedim(0, column)

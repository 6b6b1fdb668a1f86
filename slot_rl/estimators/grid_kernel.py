"""Kernels of rows of categories, and how equations with them are solved for few rows and for many.

With many rows, by conjugate gradients on the grid of all combinations, where products with the kernel are cheap:
Wilson, Nickisch, "Kernel Interpolation for Scalable Structured Gaussian Processes" (2015).
"""

from collections.abc import Sequence
from math import prod
from typing import Protocol

import torch
from torch import Tensor

MOST_EXACT = 4_000
"""Rows up to which the equations are solved by a Cholesky decomposition."""
MOST_GRID_CELLS = 4_000_000
"""Combinations of categories up to which more rows than that are solved for, by conjugate gradients on the grid."""
CG_STEPS, CG_TOLERANCE = 80, 1e-3


class GridKernel(Protocol):
    """A kernel of rows of categories whose products with a vector of all combinations are cheap."""

    @property
    def noise(self) -> Tensor:
        """Variance of a measurement, of shape ``()``."""

    def between(self, rows: Tensor, others: Tensor) -> Tensor:
        """Returns the kernel of rows ``(m, columns)`` and others ``(n, columns)``, ``(m, n)``, without noise."""

    def grid_product(self, values: Tensor, sizes: Sequence[int]) -> Tensor:
        """Multiplies the kernel of all combinations of categories by values ``(combinations,)``."""

    def draw_prior(self, sizes: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draws a function ``(combinations,)`` of all combinations, before anything is seen."""


def too_many(rows: int, sizes: Sequence[int]) -> str:
    """Says why so many rows of so many combinations cannot be solved for; an empty text if they can."""
    cells = prod(sizes)
    if rows <= MOST_EXACT or cells <= MOST_GRID_CELLS:
        return ""
    return (
        f"expected at most {MOST_EXACT:,} rows, or {MOST_GRID_CELLS:,} combinations of categories, for a Gaussian "
        f"process, got {rows:,} rows of {cells:,} combinations"
    )


def solve_kernel(kernel: GridKernel, rows: Tensor, values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Divides values ``(rows, columns)`` by the covariance of the rows' measurements, noise included.

    Args:
        kernel: The kernel's numbers.
        rows: The rows' categories, contexts first.
        values: What to divide; for the standardised scores the result is the rows' weights in the posterior mean.
        sizes: Categories of each column, contexts first.
    """
    if len(rows) <= MOST_EXACT:
        identity = torch.eye(len(rows), dtype=torch.float64)
        factor = torch.linalg.cholesky(kernel.between(rows, rows) + kernel.noise * identity)
        return torch.cholesky_solve(values, factor)
    places = grid_cells(rows, sizes)
    return torch.stack([_by_conjugate_gradients(kernel, places, each, sizes) for each in values.unbind(dim=1)], dim=1)


def _by_conjugate_gradients(kernel: GridKernel, places: Tensor, values: Tensor, sizes: Sequence[int]) -> Tensor:
    def product(values: Tensor) -> Tensor:
        # Equal rows share a cell, so values are added up and not written.
        grid = values.new_zeros(prod(sizes)).index_add_(0, places, values)
        return kernel.grid_product(grid, sizes)[places] + kernel.noise * values

    solution, residual = torch.zeros_like(values), values.clone()
    direction, square = residual.clone(), residual.square().sum()
    enough = CG_TOLERANCE**2 * square
    for _ in range(CG_STEPS):
        image = product(direction)
        step = square / (direction * image).sum()
        solution, residual = solution + step * direction, residual - step * image
        before, square = square, residual.square().sum()
        if bool(square < enough):
            break
        direction = residual + (square / before) * direction
    return solution


def grid_cells(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Returns the places ``(...)`` of rows ``(..., columns)`` among all combinations of categories."""
    return (rows * _strides(sizes)).sum(dim=-1)


def rows_of_cells(cells: Tensor, sizes: Sequence[int]) -> Tensor:
    """Returns the rows ``(cells, columns)`` at places ``(cells,)`` among all combinations of categories."""
    return cells.unsqueeze(1) // _strides(sizes) % torch.tensor(tuple(sizes))


def _strides(sizes: Sequence[int]) -> Tensor:
    return torch.tensor([prod(sizes[column + 1 :]) for column in range(len(sizes))], dtype=torch.long)

"""A Gaussian process over rows of categories, for tables of few rows: its mean is the estimator.

The kernel of two rows is a constant, a product over columns, and a sum over columns:

    k(x, x') = a + s prod_c (rho_c + (1 - rho_c) [x_c = x'_c]) + sum_c w_c [x_c = x'_c]

The product says that rows are the more alike the fewer columns differ, by rho_c for column c. Contexts are columns like
any other, so that what is known of one context serves the others as far as rho says.

The posterior mean is linear in the one-hot row of each column given the others. So the slope at a row gives the exact
effect of every single swap, and mixtures of rows have the mean of their rows' scores.

Rasmussen, Williams, "Gaussian Processes for Machine Learning" (2006), chapters 2 and 5.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

from slot_rl.estimators.grid_kernel import MOST_GRID_CELLS, GridKernel, grid_cells, solve_kernel, too_many
from slot_rl.estimators.kept_fit import KeptFit, KeptLoop
from slot_rl.estimators.row_scorer import RowScorer, flat_rows
from slot_rl.selectors.categorical import one_hot

FITTED_ROWS, FITTED_CONTEXTS, ROWS_OF_CONTEXT = 600, 5, 160
"""Rows that decide the kernel's numbers: of few contexts many each, so that what happens within a context is seen."""
FIT_STEPS, STEP_SIZE = 50, 0.1
SMALLEST_NOISE = 1e-4
PRIORS = {"likeness": (0.0, 4.0), "noise": (-2.0, 4.0), "weights": (-2.0, 8.0), "scale": (0.0, 8.0)}
"""Means and variances of the normal priors of the kernel's free numbers."""
CHUNK_CELLS = 16_000_000
"""Numbers that a part of a batch may take while it is scored."""

KernelNumbers = dict[str, Tensor]
FittedKernel = TypeVar("FittedKernel", bound=GridKernel)


@dataclass(frozen=True)
class ProductKernel:
    """The numbers of the kernel, in float64.

    Attributes:
        constant: a, of shape ``()``.
        scale: s, of shape ``()``.
        likeness: rho, from 0 to 1, of shape ``(columns,)``.
        weights: w, of shape ``(columns,)``.
        noise: Variance of a measurement, of shape ``()``.
    """

    constant: Tensor
    scale: Tensor
    likeness: Tensor
    weights: Tensor
    noise: Tensor

    def between(self, rows: Tensor, others: Tensor) -> Tensor:
        """Returns the kernel of rows ``(m, columns)`` and others ``(n, columns)``, ``(m, n)``, without noise."""
        product, total = self.scale, self.constant
        for column, (likeness, weight) in enumerate(zip(self.likeness, self.weights, strict=True)):
            same = (rows[:, column].unsqueeze(1) == others[:, column]).to(likeness)
            product = product * (likeness + (1 - likeness) * same)
            total = total + weight * same
        return product + total

    def grid_product(self, values: Tensor, sizes: Sequence[int]) -> Tensor:
        """Multiplies the kernel of all combinations of categories by values ``(combinations,)``."""
        grid = values.view(*sizes)
        product, total = grid, self.constant * values.sum()
        for column, (likeness, weight) in enumerate(zip(self.likeness, self.weights, strict=True)):
            others = [other for other in range(len(sizes)) if other != column]
            total = total + weight * (grid.sum(dim=others, keepdim=True) if others else grid)
            product = likeness * product.sum(dim=column, keepdim=True) + (1 - likeness) * product
        return (self.scale * product + total).flatten()

    def draw_prior(self, sizes: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draws a function ``(combinations,)`` of all combinations, before anything is seen."""
        total = self.draw_sum(sizes, generator)
        product = torch.randn(tuple(sizes), generator=generator, dtype=torch.float64)
        for column, (size, likeness) in enumerate(zip(sizes, self.likeness, strict=True)):
            # The root of rho + (1 - rho) I scales what a column's categories have in common, and what they have not.
            own, common = (1 - likeness).sqrt(), (1 - likeness + size * likeness).sqrt()
            product = own * product + (common - own) * product.mean(dim=column, keepdim=True)
        return self.scale.sqrt() * product.flatten() + total

    def draw_sum(self, sizes: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draws the part ``(combinations,)`` of such a function that is a constant and a sum over columns."""
        total = self.constant.sqrt() * torch.randn((), generator=generator, dtype=torch.float64)
        for column, (size, weight) in enumerate(zip(sizes, self.weights, strict=True)):
            shape = [size if other == column else 1 for other in range(len(sizes))]
            total = total + weight.sqrt() * torch.randn(shape, generator=generator, dtype=torch.float64)
        return total.flatten()


class ProductGP(RowScorer):
    """The posterior mean of a fitted Gaussian process, in the units of the score.

    Attributes:
        sizes: Categories of each feature.
        context_sizes: Categories of each context column; empty without contexts.
    """

    rows: Tensor
    weights: Tensor
    offset: Tensor
    spread: Tensor

    def __init__(self, sizes: Sequence[int], context_sizes: Sequence[int], rows: int) -> None:
        """Builds a process that knows nothing; :func:`fit_gp` or stored weights fill it.

        Args:
            sizes: Categories of each feature.
            context_sizes: Categories of each context column; empty without contexts.
            rows: How many rows it will have seen.
        """
        super().__init__()
        self.sizes, self.context_sizes = tuple(sizes), tuple(context_sizes)
        columns = len(self.context_sizes) + len(self.sizes)
        # What it has seen: contexts first, then features.
        self.register_buffer("rows", torch.zeros(rows, columns, dtype=torch.long))
        self.register_buffer("weights", torch.zeros(rows, dtype=torch.float64))
        for name in ("offset", "spread", "constant", "scale", "noise"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))
        for name in ("likeness", "additive"):
            self.register_buffer(name, torch.zeros(columns, dtype=torch.float64))
        self._means: Tensor | None = None

    @property
    def kernel(self) -> ProductKernel:
        """The kernel's numbers."""
        return ProductKernel(*map(self.get_buffer, ("constant", "scale", "likeness", "additive", "noise")))

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Scores configurations; see :meth:`RowScorer.forward`."""
        soft = features.is_floating_point()
        flat, given, leading = flat_rows(features, context)
        places = context_places(given, len(flat), self.context_sizes)
        if self._tabulated:
            choice = _choice_of(flat) if soft and not features.requires_grad else None if soft else flat
            if choice is None:
                means = grid_mixtures(flat, places, self._table.unsqueeze(-1), self.sizes).squeeze(-1)
            else:
                means = self._table[places, grid_cells(choice, self.sizes)]
        else:
            means = self._summed(flat if soft else one_hot(flat, max(self.sizes), torch.float32), places)
        dtype = features.dtype if soft else torch.get_default_dtype()
        return (means.to(dtype) * self.spread + self.offset).to(dtype).view(leading)

    @property
    def _tabulated(self) -> bool:
        """Whether a table of all means is faster than a sum over what was seen: a product takes less than a look-up."""
        cells = prod(self.sizes)
        return cells * prod(self.context_sizes) <= MOST_GRID_CELLS and cells <= 10 * len(self.rows) * len(self.sizes)

    @property
    def _table(self) -> Tensor:
        """The standardised means ``(combinations of contexts, combinations of features)``."""
        if self._means is None:
            sizes = [*self.context_sizes, *self.sizes]
            weights = torch.zeros(prod(sizes), dtype=torch.float64)
            weights.index_add_(0, grid_cells(self.rows, sizes), self.weights)
            self._means = self.kernel.grid_product(weights, sizes).float().view(prod(self.context_sizes), -1)
        return self._means

    def _summed(self, rows: Tensor, places: Tensor) -> Tensor:
        """Returns the same by the sum over what was seen."""
        most = max(1, CHUNK_CELLS // len(self.rows))
        parts = zip(rows.split(most), places.split(most), strict=True)
        return torch.cat([self._summed_part(part, place) for part, place in parts])

    def _summed_part(self, rows: Tensor, places: Tensor) -> Tensor:
        contexts, kernel = len(self.context_sizes), self.kernel
        product, total = kernel.scale.to(rows), kernel.constant.to(rows)
        for column, (likeness, weight) in enumerate(
            zip(kernel.likeness.to(rows), kernel.weights.to(rows), strict=True)
        ):
            seen = self.rows[:, column]
            if column < contexts:
                stride = prod(self.context_sizes[column + 1 :])
                same = ((places // stride % self.context_sizes[column]).unsqueeze(1) == seen).to(rows)
            else:
                same = rows[:, column - contexts].index_select(1, seen)
            product = product * (likeness + (1 - likeness) * same)
            total = total + weight * same
        return (product + total) @ self.weights.to(rows)


def context_places(context: Tensor | None, rows: int, sizes: Sequence[int]) -> Tensor:
    """Returns the place of each row's context among all combinations of context categories, ``(rows,)``.

    Raises:
        ValueError: If there are context columns and no context is given.
    """
    if not sizes:
        return torch.zeros(rows, dtype=torch.long)
    if context is None:
        raise ValueError(f"expected a context of {len(sizes)} columns, got None")
    return grid_cells(context, sizes)


def grid_mixtures(rows: Tensor, places: Tensor, values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Averages values of all combinations by probability rows, ``(batch, functions)``.

    Args:
        rows: The rows, ``(batch, features, categories)``.
        places: The place of each row's context, ``(batch,)``.
        values: ``(combinations of contexts, combinations of features, functions)``.
        sizes: Categories of each feature.
    """
    most = max(1, CHUNK_CELLS // values[0].numel())
    means = rows.new_zeros(len(rows), values.shape[-1])
    for place in places.unique():
        for part in (places == place).nonzero().squeeze(1).split(most):
            means = means.index_add(0, part, _contracted(rows[part], values[place], sizes))
    return means


def _contracted(rows: Tensor, values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Averages over one feature after another, ``(batch, functions)``."""
    first, *others = sizes
    left = rows[:, 0, :first] @ values.reshape(first, -1)
    for feature, size in enumerate(others, start=1):
        left = torch.bmm(rows[:, feature, :size].unsqueeze(1), left.view(len(rows), size, -1)).squeeze(1)
    return left


def fit_gp(
    rows: Tensor,
    score: Tensor,
    sizes: Sequence[int],
    context_sizes: Sequence[int],
    generator: torch.Generator,
    kept: KeptFit | None = None,
) -> ProductGP:
    """Fits the kernel's numbers to some rows (maximum a posteriori) and the mean to all rows.

    Args:
        rows: The rows' categories, ``(rows, columns)``, contexts first.
        score: Their scores, ``(rows,)``; they must vary.
        sizes: Categories of each feature.
        context_sizes: Categories of each context column; empty without contexts.
        generator: Chooses the rows that the kernel's numbers are fitted to.
        kept: Where the fit is kept once it is over; one that is there is taken.

    Raises:
        ValueError: If there are too many rows for the number of combinations, see :func:`too_many`.
    """
    reason = too_many(len(rows), [*context_sizes, *sizes])
    if reason:
        raise ValueError(reason)
    gp = ProductGP(sizes, context_sizes, len(rows))
    score = score.double()
    offset, spread = score.mean(), score.std().clamp_min(1e-12)
    standardised = (score - offset) / spread
    for _ in KeptLoop(kept, gp.state_dict(), generator).steps(1):
        kernel = _fit_kernel(rows, standardised, len(context_sizes), generator)
        weights = solve_kernel(kernel, rows, standardised.unsqueeze(1), [*context_sizes, *sizes]).squeeze(1)
        found = {"rows": rows, "weights": weights, "offset": offset, "spread": spread, "constant": kernel.constant}
        found |= {"scale": kernel.scale, "likeness": kernel.likeness, "additive": kernel.weights, "noise": kernel.noise}
        gp.load_state_dict(found)
    return gp


def _fit_kernel(rows: Tensor, score: Tensor, contexts: int, generator: torch.Generator) -> ProductKernel:
    chosen = _chosen(rows[:, :contexts], generator)
    return fitted_kernel(first_numbers(rows.shape[1]), product_kernel, PRIORS, rows[chosen], score[chosen])


def fitted_kernel(
    start: KernelNumbers,
    kernel_of: Callable[[KernelNumbers], FittedKernel],
    priors: Mapping[str, tuple[float, float]],
    rows: Tensor,
    score: Tensor,
) -> FittedKernel:
    """Fits a kernel's numbers to rows, maximum a posteriori.

    Args:
        start: The numbers by name, each free to take any value.
        kernel_of: Makes the kernel of them.
        priors: Means and variances of their normal priors, by name.
        rows: The rows' categories, ``(rows, columns)``.
        score: Their standardised scores, ``(rows,)``.
    """
    free = {name: value.double().requires_grad_() for name, value in start.items()}
    optimizer = torch.optim.Adam(free.values(), STEP_SIZE)
    identity = torch.eye(len(rows), dtype=torch.float64)
    for _ in range(FIT_STEPS):
        kernel = kernel_of(free)
        fit = surprise_slope(kernel.between(rows, rows) + kernel.noise * identity, score.unsqueeze(1))
        distances = [(free[name] - mean).square().sum() / variance for name, (mean, variance) in priors.items()]
        optimizer.zero_grad()
        (fit + 0.5 * torch.stack(distances).sum()).backward()
        optimizer.step()
    return kernel_of({name: value.detach() for name, value in free.items()})


def surprise_slope(covariance: Tensor, score: Tensor) -> Tensor:
    """Returns a number whose gradient is that of minus the log-density of scores, by the closed form.

    It is half of ``K^-1 - w w^T`` for the covariance K and the weights w = K^-1 y: no gradient goes through a Cholesky
    decomposition, which takes several times as long.

    Args:
        covariance: K, of the scores' measurements, ``(rows, rows)``.
        score: y, ``(rows, 1)``.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance.detach()))
    weights = inverse @ score
    return 0.5 * (covariance * (inverse - weights @ weights.T)).sum()


def first_numbers(columns: int) -> KernelNumbers:
    """Returns where the numbers of :func:`product_kernel` begin."""
    single = {"constant": torch.tensor(-1.0), "scale": torch.tensor(0.0), "noise": torch.tensor(-1.5)}
    return {**single, "likeness": torch.zeros(columns), "weights": torch.full((columns,), -2.0)}


def product_kernel(free: KernelNumbers) -> ProductKernel:
    """Returns the kernel of numbers that may take any value; others than its own are ignored."""
    positive = {name: free[name].exp() for name in ("constant", "scale", "weights", "noise")}
    positive["noise"] = positive["noise"] + SMALLEST_NOISE
    return ProductKernel(likeness=torch.sigmoid(free["likeness"]), **positive)


def _chosen(contexts: Tensor, generator: torch.Generator) -> Tensor:
    """Returns the numbers of the rows that decide the kernel's numbers."""
    order = torch.randperm(len(contexts), generator=generator)
    if contexts.shape[1] == 0:
        return order[:FITTED_ROWS]
    distinct, place = torch.unique(contexts, dim=0, return_inverse=True)
    if len(distinct) <= FITTED_CONTEXTS:
        return order[: FITTED_CONTEXTS * ROWS_OF_CONTEXT]
    asked = torch.randperm(len(distinct), generator=generator)[:FITTED_CONTEXTS]
    return torch.cat([order[place[order] == context][:ROWS_OF_CONTEXT] for context in asked])


def _choice_of(rows: Tensor) -> Tensor | None:
    """Returns the indices of one-hot rows ``(batch, features, categories)``; None if a row is none."""
    largest, choice = rows.max(dim=-1)
    hard = bool((largest == 1).all()) and bool((rows.abs().sum(dim=-1) == 1).all())
    return choice if hard else None

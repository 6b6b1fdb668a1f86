"""The Gaussian process: its kernel and mean by hand, its solvers and forms agree, and it finds what others miss."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from slot_rl.estimators import grid_kernel, product_gp
from slot_rl.estimators.grid_kernel import too_many
from slot_rl.estimators.product_gp import ProductGP, ProductKernel, fit_gp, surprise_slope
from slot_rl.problems import RowProblem
from slot_rl.search import guided_search, random_choice
from slot_rl.seeding import generator_from
from slot_rl.selectors.categorical import one_hot

SIZES, CONTEXTS = (4, 3, 5), (2, 3)
COLUMNS = (*CONTEXTS, *SIZES)


def all_rows(sizes: tuple[int, ...]) -> Tensor:
    return torch.cartesian_prod(*map(torch.arange, sizes)).view(-1, len(sizes))


def kernel(columns: int) -> ProductKernel:
    generator = generator_from(3)
    one = torch.tensor(0.7, dtype=torch.float64)
    likeness, weights = torch.rand(2, columns, generator=generator, dtype=torch.float64)
    return ProductKernel(one / 2, 2 * one, likeness, weights, one / 10)


def truth(rows: Tensor) -> Tensor:
    """A product of columns and a sum."""
    value = rows.double()
    return 3 + 10 * (value[:, 0] + 1) * torch.sin(value[:, -1]) + value[:, 1]


def fitted(context_sizes: tuple[int, ...] = CONTEXTS, share: float = 0.5) -> tuple[ProductGP, Tensor, Tensor]:
    rows = all_rows((*context_sizes, *SIZES))
    seen = torch.randperm(len(rows), generator=generator_from(1))[: round(share * len(rows))]
    gp = fit_gp(rows[seen], truth(rows[seen]), SIZES, context_sizes, generator_from(2))
    return gp, rows, seen


def scores(gp: ProductGP, rows: Tensor, soft: bool = True) -> Tensor:
    contexts = len(gp.context_sizes)
    choice = rows[:, contexts:]
    found: Tensor = gp(one_hot(choice, 5, torch.float32) if soft else choice, rows[:, :contexts] if contexts else None)
    return found


def test_the_kernel_by_hand() -> None:
    half = torch.tensor(0.5, dtype=torch.float64)
    numbers = torch.tensor([0.2, 0.6], dtype=torch.float64), torch.tensor([1.0, 3.0], dtype=torch.float64)
    found = ProductKernel(half, 2 * half, *numbers, half).between(torch.tensor([[0, 1]]), all_rows((2, 2)))
    # Equal in the second column alone: .5 + 1 * .2 * 1 + 3; nowhere: .5 + .2 * .6; in both: .5 + 1 + 4; in the first.
    assert found.tolist() == [pytest.approx([0.5 + 0.6 + 1, 0.5 + 1 + 4, 0.5 + 0.12, 0.5 + 0.2 + 3])]


def test_the_product_on_the_grid_is_the_kernels() -> None:
    numbers, rows = kernel(3), all_rows((2, 3, 4))
    values = torch.randn(len(rows), generator=generator_from(0), dtype=torch.float64)
    assert torch.allclose(numbers.grid_product(values, (2, 3, 4)), numbers.between(rows, rows) @ values)


def test_the_slope_of_the_surprise_is_that_of_the_log_density() -> None:
    score = torch.randn(12, 1, generator=generator_from(1), dtype=torch.float64)
    factor = torch.randn(12, 12, generator=generator_from(0), dtype=torch.float64, requires_grad=True)
    covariance = factor @ factor.T + torch.eye(12).double()
    density = torch.distributions.MultivariateNormal(torch.zeros(12).double(), covariance).log_prob(score.squeeze(1))
    (expected,) = torch.autograd.grad(-density, factor, retain_graph=True)
    (found,) = torch.autograd.grad(surprise_slope(covariance, score), factor)
    assert torch.allclose(found, expected)


@pytest.mark.parametrize("context_sizes", [(), CONTEXTS])
def test_the_mean_is_the_textbooks(context_sizes: tuple[int, ...]) -> None:
    gp, rows, seen = fitted(context_sizes)
    y = truth(rows[seen])
    standardised = (y - y.mean()) / y.std()
    covariance = gp.kernel.between(rows[seen], rows[seen]) + gp.kernel.noise * torch.eye(len(seen), dtype=torch.float64)
    mean = gp.kernel.between(rows, rows[seen]) @ torch.linalg.inv(covariance) @ standardised
    expected = (mean * y.std() + y.mean()).float()
    for found in (scores(gp, rows), scores(gp, rows, soft=False), scores(gp, rows[:7])):
        assert torch.allclose(found, expected[: len(found)], atol=1e-3)


@pytest.mark.parametrize("context_sizes", [(), CONTEXTS])
def test_table_and_sum_agree_at_mixtures(context_sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    gp, rows, _ = fitted(context_sizes)
    mixed = torch.softmax(torch.randn(2, 9, 3, 5, generator=generator_from(4)), dim=-1)
    for slot, size in enumerate(SIZES):
        mixed[:, :, slot, size:] = 0
    mixed = (mixed / mixed.sum(dim=-1, keepdim=True)).requires_grad_()
    context = rows[:9, : len(context_sizes)] if context_sizes else None
    found = []
    for tabulated, chunk in product((True, False), (16_000_000, 100)):
        monkeypatch.setattr(ProductGP, "_tabulated", tabulated)
        monkeypatch.setattr(product_gp, "CHUNK_CELLS", chunk)
        score = gp(mixed, context)
        (slope,) = torch.autograd.grad(score.sum(), mixed)
        found.append((score.detach(), slope - slope.mean(dim=-1, keepdim=True)))
    for score, _ in found[1:]:
        assert torch.allclose(score, found[0][0], atol=1e-3)
    # Off the rows that add up to 1 the two forms differ, so their slopes do by the same number for all items of a slot.
    assert torch.allclose(found[1][1], found[0][1], atol=1e-3) and torch.allclose(found[3][1], found[2][1], atol=1e-3)
    for slot, size in enumerate(SIZES):
        first, second = (slope[:, :, slot, :size] for slope in (found[0][1], found[2][1]))
        assert torch.allclose(first - first[..., :1], second - second[..., :1], atol=1e-3)


def test_a_slope_is_the_exact_effect_of_each_swap() -> None:
    gp, rows, _ = fitted(())
    row = one_hot(rows[7:8], 5, torch.float32).requires_grad_()
    (slope,) = torch.autograd.grad(gp(row).sum(), row)
    for slot, size in enumerate(SIZES):
        swapped = rows[7].repeat(size, 1)
        swapped[:, slot] = torch.arange(size)
        effects = scores(gp, swapped) - scores(gp, rows[7:8])
        assert torch.allclose(slope[0, slot, :size] - slope[0, slot, rows[7, slot]], effects, atol=1e-3)


def test_both_solvers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, rows, seen = fitted()
    monkeypatch.setattr(grid_kernel, "MOST_EXACT", 10)
    monkeypatch.setattr(grid_kernel, "CG_TOLERANCE", 1e-9)
    gradients = fit_gp(rows[seen], truth(rows[seen]), SIZES, CONTEXTS, generator_from(2))
    assert torch.allclose(gradients.weights, exact.weights, atol=1e-4)
    # Repeated rows share a cell of the grid.
    doubled = torch.cat([rows[seen], rows[seen]])
    again = fit_gp(doubled, truth(doubled), SIZES, CONTEXTS, generator_from(2))
    covariance = again.kernel.between(doubled, doubled) + again.kernel.noise * torch.eye(len(doubled)).double()
    y = truth(doubled)
    assert torch.allclose(covariance @ again.weights, (y - y.mean()) / y.std(), atol=1e-4)


def test_it_predicts_unseen_rows_where_a_constant_does_not() -> None:
    gp, rows, seen = fitted(share=0.4)
    unseen = torch.ones(len(rows), dtype=torch.bool).index_fill_(0, seen, False)
    error = (scores(gp, rows[unseen]) - truth(rows[unseen])).square().mean() / truth(rows[unseen]).var()
    assert float(error) < 0.05  # measured: .001


def test_contexts_share_what_they_have_in_common() -> None:
    """A context of which nothing was seen is predicted from the others."""
    rows = all_rows(COLUMNS)
    known = ~((rows[:, 0] == 1) & (rows[:, 1] == 2))
    gp = fit_gp(rows[known], truth(rows[known]), SIZES, CONTEXTS, generator_from(2))
    unseen = rows[~known]
    error = (scores(gp, unseen) - truth(unseen)).square().mean() / truth(unseen).var()
    assert float(error) < 0.3


def test_it_is_an_estimator_of_rows() -> None:
    gp, rows, _ = fitted()
    problem = RowProblem(gp, all_rows(CONTEXTS), sizes=SIZES, context_sizes=CONTEXTS)
    observation = problem.evaluation_observations(6, generator_from(0))
    start = random_choice(problem, observation, generator_from(1))
    found = guided_search(problem, observation, start, 12, 2, generator_from(2))
    best = scores(gp, rows).view(6, -1).amax(dim=1)
    assert torch.allclose(found.score, best, atol=1e-3)
    assert problem.budget.forwards == problem.budget.backwards == 6 * 13


def test_bad_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gp, rows, _ = fitted()
    with pytest.raises(ValueError, match="expected a context of 2 columns, got None"):
        gp(rows[:, 2:])
    monkeypatch.setattr(grid_kernel, "MOST_EXACT", 10)
    assert too_many(11, [20] * 4) == ""
    with pytest.raises(ValueError, match="got 11 rows of 10,000,000 combinations"):
        fit_gp(rows[:11], truth(rows[:11]), [10] * 5, [10] * 2, generator_from(0))


def test_the_kernel_is_fitted_to_few_contexts_with_many_rows() -> None:
    contexts = torch.arange(24).repeat_interleave(300).unsqueeze(1)
    chosen: Any = product_gp._chosen(contexts, generator_from(0))
    assert len(chosen) == 5 * 160 and len(contexts[chosen].unique()) == 5
    assert len(product_gp._chosen(contexts[:, :0], generator_from(0))) == 600
    assert len(product_gp._chosen(contexts[:1200], generator_from(0))) == 800

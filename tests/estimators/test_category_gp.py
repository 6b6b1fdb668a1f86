"""The process that learns which categories are alike: its kernel, its draws, and that it learns what another cannot."""

import pytest
import torch
from torch import Tensor

from slot_rl.estimators.category_gp import CategoryGP, fit_category_gp
from slot_rl.estimators.gp_draws import draw_functions
from slot_rl.estimators.grid_kernel import grid_cells
from slot_rl.estimators.product_gp import fit_gp
from slot_rl.seeding import generator_from

SIZES = (12, 12, 2)


def all_rows() -> Tensor:
    return torch.cartesian_prod(*map(torch.arange, SIZES))


def truth(rows: Tensor) -> Tensor:
    """Categories come in three groups, and nothing but the group matters."""
    groups = rows % 3
    return torch.tensor([[3.0, -1, 0], [-2, 4, 1], [0, 1, -3]])[groups[:, 0], groups[:, 1]] + 0.3 * rows[:, 2]


def fitted(count: int = 60) -> tuple[CategoryGP, Tensor]:
    seen = torch.randperm(len(all_rows()), generator=generator_from(0))[:count]
    rows = all_rows()[seen]
    return fit_category_gp(rows, truth(rows), SIZES, (), generator_from(1)), seen


def mean_of(kernel: object, rows: Tensor, weights: Tensor, offset: Tensor, spread: Tensor) -> Tensor:
    found: Tensor = kernel.between(all_rows(), rows) @ weights * spread + offset  # type: ignore[attr-defined]
    return found


def test_the_product_on_the_grid_is_the_kernels() -> None:
    gp, _ = fitted()
    values = torch.randn(len(all_rows()), generator=generator_from(2), dtype=torch.float64)
    assert torch.allclose(gp.kernel.grid_product(values, SIZES), gp.kernel.between(all_rows(), all_rows()) @ values)
    assert gp.kernel.alike[2].tolist() == [[1, 0], [0, 1]]  # Two categories have no vectors.
    assert all(bool((alike.diagonal() == 1).all()) for alike in gp.kernel.alike)


def test_the_prior_has_the_kernels_covariance() -> None:
    gp, _ = fitted()
    generator, rows = generator_from(3), all_rows()[::17]
    places = grid_cells(rows, SIZES)
    found = torch.stack([gp.kernel.draw_prior(SIZES, generator)[places] for _ in range(1_000)])
    covariance = gp.kernel.between(rows, rows)
    spread = covariance.diagonal()
    error = ((spread.unsqueeze(0) * spread.unsqueeze(1) + covariance.square()) / len(found)).sqrt()
    assert bool(((found.T.cov() - covariance).abs() <= 5 * error).all())


def test_draws_have_the_mean_of_the_process() -> None:
    gp, seen = fitted()
    found = draw_functions(gp, 300, generator_from(4)).flatten(1).double()
    mean = mean_of(gp.kernel, gp.rows, gp.weights, gp.offset, gp.spread)
    error = found.std(dim=0) / 300**0.5
    assert bool(((found.mean(dim=0) - mean).abs() <= 5 * error + 1e-3).all())
    unseen = torch.ones(len(mean), dtype=torch.bool).index_fill_(0, seen, False)
    assert float(found[:, seen].std(dim=0).mean()) < 0.7 * float(found[:, unseen].std(dim=0).mean())


def test_it_learns_which_categories_are_alike() -> None:
    """From 60 of 288 rows; a process that knows categories only as different cannot."""
    gp, seen = fitted()
    plain = fit_gp(gp.rows, truth(gp.rows), SIZES, (), generator_from(1))
    unseen = torch.ones(len(all_rows()), dtype=torch.bool).index_fill_(0, seen, False)
    target = truth(all_rows())[unseen]
    errors = [
        float(
            (mean_of(each.kernel, each.rows, each.weights, each.offset, each.spread)[unseen] - target).square().mean()
        )
        for each in (gp, plain)
    ]
    assert errors[0] < 0.2 * float(target.var()) < 0.5 * float(target.var()) < errors[1]
    alike = gp.kernel.alike[0]
    same = (torch.arange(12) % 3).unsqueeze(0) == (torch.arange(12) % 3).unsqueeze(1)
    assert float(alike[same].mean()) > float(alike[~same].mean()) + 0.5


def test_the_same_seed_gives_the_same_process() -> None:
    first, second = fitted()[0], fitted()[0]
    assert torch.equal(first.weights, second.weights)
    assert first.weights.dtype == torch.float64


@pytest.mark.parametrize("rows", [2, 5])
def test_few_rows_are_enough(rows: int) -> None:
    gp, _ = fitted(rows)
    assert bool(draw_functions(gp, 3, generator_from(0)).isfinite().all())

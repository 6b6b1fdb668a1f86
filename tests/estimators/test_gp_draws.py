"""Draws from the Gaussian process: their mean and covariance are the exact ones, and they pass near what was seen."""

from math import prod, sqrt

import pytest
import torch
from torch import Tensor

from slot_rl.estimators import gp_draws, grid_kernel
from slot_rl.estimators.gp_draws import draw_functions
from slot_rl.estimators.grid_kernel import grid_cells, solve_kernel
from slot_rl.estimators.product_gp import ProductGP, ProductKernel
from slot_rl.seeding import generator_from

SIZES, CONTEXTS = (3, 2), (2,)
COLUMNS = (*CONTEXTS, *SIZES)
DRAWS = 1_500


def all_rows(sizes: tuple[int, ...] = COLUMNS) -> Tensor:
    return torch.cartesian_prod(*map(torch.arange, sizes)).view(-1, len(sizes))


def kernel(noise: float = 0.1) -> ProductKernel:
    one = torch.tensor(1.0, dtype=torch.float64)
    return ProductKernel(
        one / 2, 1.5 * one, torch.tensor([0.7, 0.2, 0.4]).double(), torch.tensor([0.3, 0.1, 0.6]).double(), noise * one
    )


def process(noise: float = 0.1, repeated: bool = False) -> tuple[ProductGP, Tensor, Tensor]:
    """A process with given numbers that has seen five rows, in a score of mean 10 and spread 2."""
    rows, scores = all_rows()[[0, 3, 4, 7, 10]], torch.tensor([1.0, -0.5, 0.3, 2.0, -1.0]).double()
    if repeated:
        rows, scores = torch.cat([rows, rows[:2]]), torch.cat([scores, -scores[:2]])
    gp, numbers = ProductGP(SIZES, CONTEXTS, len(rows)), kernel(noise)
    weights = solve_kernel(numbers, rows, scores.unsqueeze(1), COLUMNS).squeeze(1)
    found = {"rows": rows, "weights": weights, "offset": torch.tensor(10.0), "spread": torch.tensor(2.0)}
    found |= {"constant": numbers.constant, "scale": numbers.scale, "likeness": numbers.likeness}
    gp.load_state_dict({**found, "additive": numbers.weights, "noise": numbers.noise})
    return gp, rows, scores


def exact(gp: ProductGP, rows: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The posterior's mean and covariance by the textbook, in the units of the score."""
    seen = gp.kernel.between(rows, rows) + gp.kernel.noise * torch.eye(len(rows)).double()
    across = gp.kernel.between(all_rows(), rows) @ torch.linalg.inv(seen)
    covariance = gp.kernel.between(all_rows(), all_rows()) - across @ gp.kernel.between(rows, all_rows())
    return across @ scores * 2 + 10, 4 * covariance


def assert_moments(found: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Five standard errors: of a mean, and of a covariance of normal draws."""
    found = found.double()
    spread = covariance.diagonal()
    assert bool(((found.mean(dim=0) - mean).abs() <= 5 * (spread / len(found)).sqrt()).all())
    error = ((spread.unsqueeze(0) * spread.unsqueeze(1) + covariance.square()) / len(found)).sqrt()
    assert bool(((found.T.cov() - covariance).abs() <= 5 * error).all())


def test_the_prior_has_the_kernels_covariance() -> None:
    generator = generator_from(0)
    found = torch.stack([kernel().draw_prior(COLUMNS, generator) for _ in range(DRAWS)])
    assert_moments(found, torch.zeros(prod(COLUMNS)).double(), kernel().between(all_rows(), all_rows()))


@pytest.mark.parametrize("repeated", [False, True])
def test_draws_have_the_exact_mean_and_covariance(repeated: bool) -> None:
    gp, rows, scores = process(repeated=repeated)
    found = draw_functions(gp, DRAWS, generator_from(1))
    assert found.shape == (DRAWS, 2, 6) and found.dtype == torch.float32
    mean, covariance = exact(gp, rows, scores)
    assert_moments(found.flatten(1), mean, covariance)
    with pytest.raises(AssertionError):  # The prior's covariance is another one.
        assert_moments(found.flatten(1), mean, 4 * gp.kernel.between(all_rows(), all_rows()))


def test_draws_pass_near_the_seen_rows_and_differ_elsewhere() -> None:
    gp, rows, scores = process(noise=1e-6)
    found = draw_functions(gp, 50, generator_from(2)).flatten(1)
    seen = grid_cells(rows, COLUMNS)
    assert float((found[:, seen] - (2 * scores + 10).float()).abs().max()) < 5 * 2 * sqrt(1e-6) * 1.1
    unseen = torch.ones(prod(COLUMNS), dtype=torch.bool).index_fill_(0, seen, False)
    assert float(found[:, unseen].std(dim=0).min()) > 0.5


def test_draws_by_conjugate_gradients_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    gp, _, _ = process(repeated=True)
    found = draw_functions(gp, 3, generator_from(3))
    monkeypatch.setattr(grid_kernel, "MOST_EXACT", 2)
    monkeypatch.setattr(grid_kernel, "CG_TOLERANCE", 1e-9)
    assert torch.allclose(draw_functions(gp, 3, generator_from(3)), found, atol=1e-4)


def test_without_contexts_there_is_one_row_of_combinations() -> None:
    gp = ProductGP((3, 4), (), 1)
    gp.load_state_dict({**gp.state_dict(), "spread": torch.ones(()), "noise": torch.ones(()), "scale": torch.ones(())})
    assert draw_functions(gp, 2, generator_from(0)).shape == (2, 1, 12)


def test_too_many_numbers_and_no_draws_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gp_draws, "MOST_DRAWN_NUMBERS", 24)
    gp, _, _ = process()
    assert len(draw_functions(gp, 2, generator_from(0))) == 2
    with pytest.raises(ValueError, match="at most 24 numbers, got 3 of 12 combinations"):
        draw_functions(gp, 3, generator_from(0))
    with pytest.raises(ValueError, match="expected draws >= 1, got 0"):
        draw_functions(gp, 0, generator_from(0))

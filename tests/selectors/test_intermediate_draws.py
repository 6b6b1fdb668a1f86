"""Bernoulli, Poisson and Gaussian draws with an intermediate loss: exact or biased as documented.

The noise is replaced by every value that it can take, or by the nodes of a quadrature, so that a mean is a weighted sum
and not an average of samples; the exact gradients are in closed form. Real draws are compared with the same gradients
by z-tests under a fixed generator, each with a case that must fail.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Normal, Poisson, kl_divergence

from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors import BernoulliDraw, GaussianDraw, PoissonDraw
from slot_rl.selectors.intermediate_draws import DrawEstimate, DrawObjective
from tests.helpers.equivalence import mean_z

Z_BOUND = 5.0
SMALL = 1e-6
LOGITS = torch.tensor([0.4, -1.3, 2.0], dtype=torch.float64)
LOG_RATE = torch.tensor([0.5, -0.4], dtype=torch.float64)
MEAN = torch.tensor([0.3, -0.8], dtype=torch.float64)
LOG_STD = torch.tensor([-0.2, 0.3], dtype=torch.float64)
WEIGHTS = torch.tensor([1.7, -0.6, 0.9], dtype=torch.float64)


def linear(drawn: Tensor) -> Tensor:
    return drawn @ WEIGHTS[: drawn.shape[-1]].to(drawn.dtype)


def multilinear(drawn: Tensor) -> Tensor:
    """Linear in each dimension given the others; every dimension interacts with another."""
    return (drawn * drawn.roll(1, dims=-1)).sum(dim=-1) + linear(drawn)


def square(drawn: Tensor) -> Tensor:
    return drawn.square().sum(dim=-1)


def gradients(estimate: DrawEstimate, *parameters: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(estimate.surrogate.sum(), parameters)


def leaf(parameter: Tensor, rows: int) -> Tensor:
    return parameter.expand(rows, -1).clone().requires_grad_()


@dataclass(frozen=True)
class Grid:
    """Points ``(rows, dims)`` that represent a distribution, and their weights ``(rows,)``."""

    point: Tensor
    weight: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """The weighted mean of values ``(rows, dims)``."""
        return self.weight @ values


def product_grid(points: Tensor, weights: Tensor) -> Grid:
    """The product of one-dimensional grids: points ``(number,)`` with weights ``(dims, number)``."""
    dims, number = weights.shape
    index = torch.cartesian_prod(*[torch.arange(number)] * dims).view(-1, dims)
    return Grid(points[index], weights[torch.arange(dims), index].prod(dim=1))


def bernoulli_mean(monkeypatch: pytest.MonkeyPatch, objective: DrawObjective, step: float) -> Tensor:
    """The estimate's exact mean over every outcome."""
    p = torch.sigmoid(LOGITS)
    grid = product_grid(torch.tensor([0.0, 1.0], dtype=torch.float64), torch.stack([1 - p, p], dim=1))
    monkeypatch.setattr(torch, "bernoulli", lambda probability, generator: grid.point)
    logits = leaf(LOGITS, len(grid.point))
    estimate = BernoulliDraw(step)(logits, objective)
    assert torch.equal(estimate.draw, grid.point)
    return grid.mean(*gradients(estimate, logits))


def bernoulli_truth(objective: DrawObjective) -> Tensor:
    """``p (1 - p) (E[f | 1] - E[f | 0])`` for each dimension, by automatic differentiation of the expectation."""
    logits = LOGITS.clone().requires_grad_()
    p = torch.sigmoid(logits)
    grid = product_grid(torch.tensor([0.0, 1.0], dtype=torch.float64), torch.stack([1 - p, p], dim=1))
    (gradient,) = torch.autograd.grad(grid.weight @ objective(grid.point), logits)
    return gradient


COUNTS = torch.arange(60, dtype=torch.float64)


def counts() -> Grid:
    """Counts of both dimensions up to where their probability vanishes."""
    return product_grid(COUNTS, Poisson(LOG_RATE.exp().unsqueeze(1)).log_prob(COUNTS).exp())


def poisson_mean(monkeypatch: pytest.MonkeyPatch, objective: DrawObjective, step: float) -> Tensor:
    """The estimate's mean by a series over the counts."""
    grid = counts()
    monkeypatch.setattr(torch, "poisson", lambda rate, generator: grid.point)
    log_rate = leaf(LOG_RATE, len(grid.point))
    estimate = PoissonDraw(step)(log_rate, objective)
    assert torch.equal(estimate.draw, grid.point)
    return grid.mean(*gradients(estimate, log_rate))


def poisson_truth(objective: DrawObjective) -> Tensor:
    """``lambda E[f(z + 1) - f(z)]`` for each dimension."""
    grid = counts()
    gains = [objective(grid.point + unit) - objective(grid.point) for unit in torch.eye(2, dtype=torch.float64)]
    gradient: Tensor = LOG_RATE.exp() * grid.mean(torch.stack(gains, dim=1))
    return gradient


def gaussian_mean(
    monkeypatch: pytest.MonkeyPatch, objective: DrawObjective, step: float, nodes: int = 30
) -> tuple[Tensor, Tensor]:
    """The means of both estimates by Gauss-Hermite quadrature over the noise."""
    points, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(nodes))
    grid = product_grid(points, (weights / weights.sum()).expand(2, nodes))
    monkeypatch.setattr(torch, "randn", lambda shape, dtype, generator: grid.point)
    mean, log_std = leaf(MEAN, len(grid.point)), leaf(LOG_STD, len(grid.point))
    by_mean, by_log_std = gradients(GaussianDraw(step)(mean, log_std, objective), mean, log_std)
    return grid.mean(by_mean), grid.mean(by_log_std)


def polynomial(drawn: Tensor) -> Tensor:
    x, y = drawn.unbind(dim=-1)
    return x**3 + 2 * x * y**2 + y


def expected_polynomial(mean: Tensor, std: Tensor) -> Tensor:
    (m, n), (s, t) = mean.unbind(), std.unbind()
    return m**3 + 3 * m * s**2 + 2 * m * (n**2 + t**2) + n


def wave(drawn: Tensor) -> Tensor:
    x, y = drawn.unbind(dim=-1)
    return torch.sin(x) * torch.exp(y / 2)


def expected_wave(mean: Tensor, std: Tensor) -> Tensor:
    (m, n), (s, t) = mean.unbind(), std.unbind()
    return torch.sin(m) * torch.exp(-(s**2) / 2) * torch.exp(n / 2 + t**2 / 8)


def gaussian_truth(expectation: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    mean, log_std = MEAN.clone().requires_grad_(), LOG_STD.clone().requires_grad_()
    by_mean, by_log_std = torch.autograd.grad(expectation(mean, log_std.exp()), (mean, log_std))
    return by_mean, by_log_std


SMOOTH = [(polynomial, expected_polynomial), (wave, expected_wave)]


def assert_proportional_to_the_step(error: Callable[[float], Tensor]) -> None:
    """The error of a mean is not zero, and is ten times smaller at a tenth of the step."""
    wide, narrow, none = (float(error(step).norm()) for step in (1e-2, 1e-3, SMALL))
    assert narrow > 1e-6
    assert wide / narrow == pytest.approx(10, rel=0.1)
    assert none < 2e-3 * narrow


@pytest.mark.parametrize("objective", [linear, multilinear])
def test_bernoulli_tends_to_the_exact_gradient_if_linear(
    objective: DrawObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = bernoulli_truth(objective)
    assert_proportional_to_the_step(lambda step: bernoulli_mean(monkeypatch, objective, step) - truth)


@pytest.mark.parametrize("step", [0.1, 1.0, 20.0])
def test_bernoullis_mean_has_a_closed_form(step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.sigmoid(LOGITS)
    expected = (torch.sigmoid(LOGITS + step * WEIGHTS) - p) / step
    assert float((bernoulli_mean(monkeypatch, linear, step) - expected).abs().max()) < 1e-12
    # The slope of a square is 2 if the draw is 1, and 0 if it is 0.
    expected = p * (torch.sigmoid(LOGITS + step * 2) - p) / step
    assert float((bernoulli_mean(monkeypatch, square, step) - expected).abs().max()) < 1e-12


def test_the_bernoulli_estimate_has_the_known_bias_on_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.sigmoid(LOGITS)
    bias = bernoulli_mean(monkeypatch, square, SMALL) - bernoulli_truth(square)
    assert float((bias - p * (1 - p) * (2 * p - 1)).abs().max()) < 1e-5
    assert float(bias.abs().max()) > 0.05


@pytest.mark.parametrize("objective", [linear, multilinear])
def test_poisson_tends_to_the_exact_gradient_if_linear(
    objective: DrawObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = poisson_truth(objective)
    assert_proportional_to_the_step(lambda step: poisson_mean(monkeypatch, objective, step) - truth)


@pytest.mark.parametrize("step", [0.01, 0.1, 0.3])
def test_poissons_mean_has_a_closed_form(step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rate = LOG_RATE.exp()
    expected = rate * torch.expm1(step * WEIGHTS[:2]) / step
    assert float((poisson_mean(monkeypatch, linear, step) - expected).abs().max()) < 1e-12
    # E[exp(2 step z)] is the moment-generating function of the counts.
    expected = rate * torch.expm1(rate * torch.expm1(torch.tensor(2 * step, dtype=torch.float64))) / step
    assert float((poisson_mean(monkeypatch, square, step) - expected).abs().max()) < 1e-10


def test_the_poisson_estimate_has_the_known_bias_on_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = LOG_RATE.exp()
    truth = poisson_truth(square)
    assert float((truth - rate * (2 * rate + 1)).abs().max()) < 1e-12
    assert float((poisson_mean(monkeypatch, square, SMALL) - truth + rate).abs().max()) < 1e-4


@pytest.mark.parametrize(("objective", "expectation"), SMOOTH)
def test_gaussian_mean_gradients_are_exact_at_every_step(
    objective: DrawObjective, expectation: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, _ = gaussian_truth(expectation)
    for step in (1e-3, 0.01, 0.1):
        by_mean, _ = gaussian_mean(monkeypatch, objective, step)
        assert float((by_mean - truth).abs().max()) < 1e-10


@pytest.mark.parametrize(("objective", "expectation"), SMOOTH)
def test_gaussian_spread_gradients_tend_to_the_exact_ones(
    objective: DrawObjective, expectation: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, truth = gaussian_truth(expectation)
    assert_proportional_to_the_step(lambda step: gaussian_mean(monkeypatch, objective, step)[1] - truth)


def test_each_gaussian_draw_at_a_finite_step_is_in_closed_form() -> None:
    mean, log_std = leaf(MEAN, 100), leaf(LOG_STD, 100)
    std = LOG_STD.exp()
    for step in (0.01, 0.1, 0.5):
        estimate = GaussianDraw(step)(mean, log_std, wave, generator_from(0))
        by_mean, by_log_std = gradients(estimate, mean, log_std)
        at = estimate.draw.clone().requires_grad_()
        (slope,) = torch.autograd.grad(wave(at).sum(), at)
        noise = (estimate.draw - MEAN) / std
        assert float((by_mean - slope).abs().max()) < 1e-12
        expected = torch.expm1(step * std * noise * slope) / step + step * (std * slope).square()
        assert float((by_log_std - expected).abs().max()) < 1e-11


ROWS = 200_000


def test_bernoulli_draws_are_unbiased_if_linear_only() -> None:
    logits = leaf(LOGITS, ROWS)
    for objective, unbiased in ((multilinear, True), (square, False)):
        (gradient,) = gradients(BernoulliDraw(SMALL)(logits, objective, generator_from(0)), logits)
        z = mean_z(gradient, bernoulli_truth(objective))
        assert z < Z_BOUND if unbiased else z > 2 * Z_BOUND


def test_poisson_draws_are_unbiased_if_linear_only() -> None:
    log_rate = leaf(LOG_RATE, ROWS)
    for objective, unbiased in ((multilinear, True), (square, False)):
        (gradient,) = gradients(PoissonDraw(SMALL)(log_rate, objective, generator_from(0)), log_rate)
        z = mean_z(gradient, poisson_truth(objective))
        assert z < Z_BOUND if unbiased else z > 2 * Z_BOUND


@pytest.mark.parametrize(("objective", "expectation"), SMOOTH)
def test_real_gaussian_draws_are_unbiased_and_wider_ones_are_not(
    objective: DrawObjective, expectation: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    mean, log_std, truth = leaf(MEAN, ROWS), leaf(LOG_STD, ROWS), gaussian_truth(expectation)

    def worst() -> float:
        both = gradients(GaussianDraw(SMALL)(mean, log_std, objective, generator_from(0)), mean, log_std)
        return max(mean_z(gradient, exact) for gradient, exact in zip(both, truth, strict=True))

    assert worst() < Z_BOUND
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: 1.1 * randn(*shape, **options))
    assert worst() > 2 * Z_BOUND


Family = Callable[..., DrawEstimate]


def bernoulli_target(drawn: Tensor, slope: Tensor, step: float, logits: Tensor) -> Distribution:
    return Bernoulli(logits=logits + step * slope)


def poisson_target(drawn: Tensor, slope: Tensor, step: float, log_rate: Tensor) -> Distribution:
    return Poisson((log_rate + step * slope).exp())


def gaussian_target(drawn: Tensor, slope: Tensor, step: float, mean: Tensor, log_std: Tensor) -> Distribution:
    """A natural-gradient step: the Fisher information is 1 / variance for the mean and 2 for the log std."""
    variance = (2 * log_std).exp()
    return Normal(mean + step * variance * slope, (log_std + step / 2 * (drawn - mean) * slope).exp())


FAMILIES = [
    (BernoulliDraw, (LOGITS[:2],), bernoulli_target, lambda logits: Bernoulli(logits=logits)),
    (PoissonDraw, (LOG_RATE,), poisson_target, lambda log_rate: Poisson(log_rate.exp())),
    (GaussianDraw, (MEAN, LOG_STD), gaussian_target, lambda mean, log_std: Normal(mean, log_std.exp())),
]
EVERY_FAMILY = pytest.mark.parametrize(
    ("family", "parameters"), [(family, parameters) for family, parameters, _, _ in FAMILIES]
)


@pytest.mark.parametrize("step", [0.01, 0.1, 1.0])
@pytest.mark.parametrize(("family", "parameters", "target", "law"), FAMILIES)
def test_the_estimate_descends_the_divergence_from_the_target(
    family: Callable[[float], Family],
    parameters: tuple[Tensor, ...],
    target: Callable[..., Distribution],
    law: Callable[..., Distribution],
    step: float,
) -> None:
    leaves = [leaf(parameter, 200) for parameter in parameters]
    estimate = family(step)(*leaves, wave, generator_from(0))
    assert torch.equal(estimate.surrogate.detach(), estimate.score)
    assert torch.equal(estimate.score, wave(estimate.draw))
    at = estimate.draw.clone().requires_grad_()
    (slope,) = torch.autograd.grad(wave(at).sum(), at)
    fixed = target(estimate.draw, slope, step, *parameters)
    divergence = torch.autograd.grad(kl_divergence(fixed, law(*leaves)).sum(), leaves)
    for gradient, expected in zip(gradients(estimate, *leaves), divergence, strict=True):
        torch.testing.assert_close(gradient, -expected / step, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("family", [BernoulliDraw, PoissonDraw, GaussianDraw])
@pytest.mark.parametrize("step", [0.0, -0.1, float("nan")])
def test_a_step_that_is_not_positive_is_refused(family: Callable[[float], Family], step: float) -> None:
    with pytest.raises(ValueError, match=f"expected step > 0, got {step}"):
        family(step)


@EVERY_FAMILY
def test_draws_depend_on_the_given_generator_alone(
    family: Callable[[], Family], parameters: tuple[Tensor, ...]
) -> None:
    leaves = [leaf(parameter, 50) for parameter in parameters]
    before = torch.get_rng_state()
    first, second, other = (family()(*leaves, wave, generator_from(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.draw, second.draw) and not torch.equal(first.draw, other.draw)
    for one, two in zip(gradients(first, *leaves), gradients(second, *leaves), strict=True):
        assert torch.equal(one, two)


@EVERY_FAMILY
def test_without_a_generator_the_global_one_is_drawn_from(
    family: Callable[[], Family], parameters: tuple[Tensor, ...]
) -> None:
    leaves = [leaf(parameter, 50) for parameter in parameters]
    with seeded_initialisation(1):
        drawn = family()(*leaves, wave).draw
    assert torch.equal(drawn, family()(*leaves, wave, generator_from(1)).draw)


@EVERY_FAMILY
def test_the_objectives_parameters_get_no_gradient(
    family: Callable[[], Family], parameters: tuple[Tensor, ...]
) -> None:
    with seeded_initialisation(0):
        network = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    leaves = [leaf(parameter, 20) for parameter in parameters]
    family()(*leaves, lambda drawn: network(drawn).squeeze(-1), generator_from(0)).surrogate.sum().backward()
    assert all(weight.grad is None and weight.requires_grad for weight in network.parameters())
    assert all(parameter.grad is not None and bool((parameter.grad != 0).any()) for parameter in leaves)


@EVERY_FAMILY
def test_an_objective_without_a_slope_is_refused(family: Callable[[], Family], parameters: tuple[Tensor, ...]) -> None:
    with pytest.raises(TypeError, match="expected a differentiable objective"):
        family()(*[leaf(parameter, 3) for parameter in parameters], lambda drawn: wave(drawn.detach()))


@pytest.mark.parametrize("step", [0.1, 0.01])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@EVERY_FAMILY
def test_half_precision_gives_the_gradient_to_its_own_precision(
    family: Callable[[float], Family], parameters: tuple[Tensor, ...], dtype: torch.dtype, step: float
) -> None:
    results = []
    for precision in (dtype, torch.float64):
        leaves = [leaf(parameter.to(dtype).to(precision), 1) for parameter in parameters]
        # The slope of a linear objective, and so the gradient by the first parameter, is the same at every draw.
        estimate = family(step)(*leaves, linear, generator_from(0))
        results.append(gradients(estimate, *leaves)[0].double())
    torch.testing.assert_close(results[0], results[1], rtol=4 * torch.finfo(dtype).eps, atol=0)


@EVERY_FAMILY
def test_the_surrogate_is_the_score_of_steep_objectives(
    family: Callable[[], Family], parameters: tuple[Tensor, ...]
) -> None:
    leaves = [leaf(parameter.float(), 20) for parameter in parameters]
    estimate = family()(*leaves, lambda drawn: 1000 * drawn.sum(dim=-1), generator_from(0))
    assert torch.equal(estimate.surrogate.detach(), estimate.score)

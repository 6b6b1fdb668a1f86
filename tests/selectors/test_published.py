"""The published figures that need no training, to the printed digits.

Every draw is forced, so that nothing is sampled: means and variances are sums over all configurations, weighted by
their probability. A short training at the end shows which selectors reach a near optimum.
"""

from typing import Literal

import pytest
import torch
from torch import Tensor

from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors import (
    RLOO,
    Exact,
    IntermediateLoss,
    LocalExpectation,
    Objective,
    Reinforce,
    ReinMax,
    Selector,
    Softmax,
    StraightThrough,
)
from tests.helpers.equivalence import Enumeration, all_choices, force, gradient_of, law, quadratic, vertices


def probability_of(logits: Tensor, choices: Tensor) -> Tensor:
    return law(torch.softmax(logits, dim=-1), choices)


def enumerated(
    monkeypatch: pytest.MonkeyPatch, selector: Selector, logits: Tensor, objective: Objective
) -> Enumeration:
    """The selector's gradient for every configuration that it can draw."""
    choices = all_choices(*logits.shape)
    force(monkeypatch, selector, [choices])
    rows = logits.expand(len(choices), *logits.shape)
    return Enumeration(gradient_of(selector, rows, objective), probability_of(logits, choices))


def expectation(logits: Tensor, objective: Objective) -> Tensor:
    choices = all_choices(*logits.shape)
    return probability_of(logits, choices) @ objective(vertices(choices, logits.shape[1]))


def random_quadratic(items: int, seed: int) -> tuple[Tensor, Objective]:
    """The published logits and objective for one slot, drawn in float32 and then used in float64."""
    generator = generator_from(seed)
    root = torch.randn(items, items, generator=generator)
    linear = torch.randn(items, generator=generator)
    logits = torch.randn(items, generator=generator)
    return logits.double().view(1, items), quadratic((root.T @ root).double(), linear.double())


def scaled_bias_and_variance(
    monkeypatch: pytest.MonkeyPatch, selector: Selector, logits: Tensor, objective: Objective
) -> tuple[float, float]:
    """Squared bias and total variance of the estimate that is scaled to the true gradient's length."""
    leaf = logits.clone().requires_grad_()
    (truth,) = torch.autograd.grad(expectation(leaf, objective), leaf)
    estimates = enumerated(monkeypatch, selector, logits, objective)
    scale = float(truth.norm() / estimates.mean.norm())
    return float((scale * estimates.mean - truth).square().sum()), scale**2 * estimates.total_variance


QUADRATICS = [
    (4, 0, "0.2781", "0.7724", "13.79"),
    (8, 0, "2.745", "17.85", "77.53"),
    (12, 0, "4.525", "40.27", "170.5"),
    (4, 1, "0.08107", "0.2701", "1.534"),
]


@pytest.mark.parametrize(("items", "seed", "bias2", "first_order", "second_order"), QUADRATICS)
def test_figure_1_bias_and_variance_on_random_quadratics(
    items: int, seed: int, bias2: str, first_order: str, second_order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, objective = random_quadratic(items, seed)
    bias, variance = scaled_bias_and_variance(monkeypatch, StraightThrough(), logits, objective)
    assert (f"{bias:.4g}", f"{variance:.4g}") == (bias2, first_order)
    bias, variance = scaled_bias_and_variance(monkeypatch, ReinMax(), logits, objective)
    assert f"{variance:.4g}" == second_order and bias < 1e-25


@pytest.mark.parametrize(
    ("items", "second_order", "score_function"), [(4, "13.8", "1.7"), (8, "77.5", "10"), (12, "170", "28")]
)
def test_reinmax_has_more_variance_than_reinforce(
    items: int, second_order: str, score_function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, objective = random_quadratic(items, 0)
    mean = expectation(logits, objective)
    _, variance = scaled_bias_and_variance(monkeypatch, ReinMax(), logits, objective)
    assert f"{variance:.3g}" == second_order
    bias, variance = scaled_bias_and_variance(monkeypatch, Reinforce("none"), logits, lambda z: objective(z) - mean)
    assert f"{variance:.2g}" == score_function and bias < 1e-25


TARGETS = torch.tensor([0.6, 0.51, 0.48], dtype=torch.float64)


def three_bernoullis(selection: Tensor) -> Tensor:
    """``sum_i (b_i - t_i)^2``, where b_i is 1 if slot i chose its first item."""
    return (selection[..., 0] - TARGETS.to(selection.dtype)).square().sum(dim=-1)


def by_shared_logit(
    monkeypatch: pytest.MonkeyPatch, selector: Selector, objective: Objective, draws_per_row: int
) -> Enumeration:
    """The gradient along the logit eta = 0 that all three slots share; their logits are ``(eta, 0)``."""
    # (tuples, draws, slots); at eta = 0 all configurations and all tuples of them are equally likely.
    draws = all_choices(3 * draws_per_row, 2).view(-1, draws_per_row, 3)
    force(monkeypatch, selector, [draws.transpose(0, 1) if draws_per_row > 1 else draws[:, 0]])
    gradient = gradient_of(selector, torch.zeros(len(draws), 3, 2, dtype=torch.float64), objective)
    return Enumeration(
        gradient[:, :, :1].sum(dim=1, keepdim=True), torch.full((len(draws),), 1 / len(draws), dtype=torch.float64)
    )


@pytest.mark.parametrize(
    ("selector", "centred", "draws_per_row", "variance"),
    [
        (Reinforce("none"), False, 1, ".43842"),
        (Reinforce("none"), True, 1, ".004650"),
        (RLOO(2), False, 2, ".007275"),
        (LocalExpectation(), False, 1, ".000000000000"),
    ],
    ids=["reinforce", "mean baseline", "rloo-2", "local_expectation"],
)
def test_figure_3_three_bernoullis_that_share_a_logit(
    selector: Selector, centred: bool, draws_per_row: int, variance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = expectation(torch.zeros(3, 2, dtype=torch.float64), three_bernoullis) if centred else torch.zeros(())
    estimates = by_shared_logit(monkeypatch, selector, lambda z: three_bernoullis(z) - baseline, draws_per_row)
    assert float(estimates.mean) == pytest.approx(-0.045, abs=1e-12)
    assert f"{estimates.total_variance:.{len(variance) - 1}f}" == f"0{variance}"


def distance_to(target: float) -> Objective:
    """``-(b - t)^2`` for one slot, where b is 1 if it chose its first item."""
    return lambda selection: -(selection[..., 0, 0] - target).square()


@pytest.mark.parametrize(("target", "start", "optimum"), [(0.499, 0.250001, 0.249001), (0.45, 0.2525, 0.2025)])
def test_figure_4_start_and_optimum_of_a_single_bernoulli(target: float, start: float, optimum: float) -> None:
    even = torch.zeros(1, 2, dtype=torch.float64)
    assert -float(expectation(even, distance_to(target))) == pytest.approx(start, abs=1e-12)
    assert -float(distance_to(target)(torch.eye(2, dtype=torch.float64).unsqueeze(1)).max()) == pytest.approx(optimum)


def trained(selector: Selector, target: float) -> float:
    """The expected distance at the end of gradient ascent with the selector's estimates, from equal logits."""
    logits = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([logits], lr=3.0, maximize=True)
    generator = generator_from(0)
    for _ in range(600):
        optimiser.zero_grad()
        selector(logits.expand(1024, 1, 2), distance_to(target), generator=generator).surrogate.mean().backward()
        optimiser.step()
    return -float(expectation(logits.detach(), distance_to(target)))


@pytest.mark.parametrize("selector", [RLOO(2), Reinforce(), Exact()], ids=repr)
def test_figure_4_unbiased_selectors_reach_the_optimum(selector: Selector) -> None:
    assert trained(selector, 0.45) == pytest.approx(0.2025, abs=5e-4)


@pytest.mark.parametrize("selector", [StraightThrough(), Softmax()], ids=repr)
def test_figure_4_slope_based_selectors_stay_near_the_start(selector: Selector) -> None:
    # Their gradient is zero where the probability is the target: .45 * .55^2 + .55 * .45^2.
    assert trained(selector, 0.45) == pytest.approx(0.2475, abs=5e-3)


def perceptron(seed: int) -> Objective:
    """A network of 32 hidden units over 4 slots of 8 items; its scores have a standard deviation of about 1."""
    with seeded_initialisation(seed):
        network = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)).double()
    return lambda selection: 4 * network(4 * selection.flatten(-2)).squeeze(-1)


EVEN = torch.zeros(4, 8, dtype=torch.float64)


def relative_variance(estimates: Enumeration) -> float:
    return estimates.total_variance / float(estimates.mean.square().sum())


def sums_before_normalising(step: float, objective: Objective) -> Tensor:
    """The divisor of the ``sum`` form, for every draw and slot."""
    vertex = vertices(all_choices(*EVEN.shape), EVEN.shape[1]).requires_grad_()
    (slope,) = torch.autograd.grad(objective(vertex).sum(), vertex)
    improvement = slope - (slope * vertex).sum(dim=-1, keepdim=True)
    return 1 + step * improvement.sum(dim=-1).detach()


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_pole_of_sum_gives_it_an_enormous_variance(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = perceptron(seed)
    published = enumerated(monkeypatch, IntermediateLoss(1.0, "sum"), EVEN, objective)
    mirror = enumerated(monkeypatch, IntermediateLoss(1.0), EVEN, objective)
    # Measured: 2,421, 4,901, 6,890 and 3,674 against 0.24, 0.28, 0.31 and 0.15. The published 2,290 to 8,021 come
    # from an unknown network.
    assert relative_variance(published) > 2_000
    assert relative_variance(published) > 5_000 * relative_variance(mirror)
    by_slot = published.probability[:, None] * (published.gradient - published.mean).square().sum(dim=-1)
    near_the_pole = sums_before_normalising(1.0, objective).abs() < 0.1
    assert float(near_the_pole.double().mean()) < 0.03
    assert float(by_slot[near_the_pole].sum() / by_slot.sum()) > 0.99


@pytest.mark.parametrize("normaliser", ["sum", "simplex"])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_small_steps_leave_the_noise_of_the_draw(
    seed: int, normaliser: Literal["sum", "simplex"], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = perceptron(seed)
    assert float(sums_before_normalising(0.01, objective).min()) > 0.8
    published = enumerated(monkeypatch, IntermediateLoss(0.01, normaliser), EVEN, objective)
    mirror = enumerated(monkeypatch, IntermediateLoss(0.01), EVEN, objective)
    # The gradient is z - p plus the signal times the step, and z - p alone has this variance.
    assert published.total_variance == pytest.approx(4 * (1 - 1 / 8), rel=0.1)
    assert relative_variance(published) > 1_000 * relative_variance(mirror)

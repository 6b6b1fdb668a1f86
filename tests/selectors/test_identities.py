"""Relations between selectors: identities for every draw, distributions, and the objectives without bias.

If possible every draw is forced in turn, so that a mean over draws is exact. If noise must remain, z-tests
and Kolmogorov-Smirnov tests under a fixed generator are used instead, each with a wrong variant that must fail.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from scipy import stats
from torch import Tensor

from slot_rl.seeding import generator_from
from slot_rl.selectors import (
    NAMES,
    Exact,
    Gumbel,
    GumbelRao,
    IntermediateLoss,
    LocalExpectation,
    Objective,
    Rebar,
    Reinforce,
    ReinMax,
    ScreenedExpectation,
    Selector,
    StraightThrough,
    make,
)
from slot_rl.selectors.categorical import conditional_gumbel
from tests.helpers.equivalence import all_choices, difference_z, force, jacobian, law, mean_z, vertices
from tests.helpers.equivalence import true_gradient as masked_true_gradient

Z_BOUND = 5.0
KS_LEVEL = 1e-4


def some_logits(slots: int, items: int, seed: int) -> Tensor:
    return torch.randn(slots, items, dtype=torch.float64, generator=generator_from(seed))


def polynomial(slots: int, items: int, degree: int, seed: int) -> Objective:
    """A sum of products over the slots of random polynomials, each of the given degree in its slot."""
    generator = generator_from(seed)
    slopes = torch.randn(5, slots, items, dtype=torch.float64, generator=generator)
    offsets = torch.randn(5, slots, dtype=torch.float64, generator=generator)

    def objective(selection: Tensor) -> Tensor:
        features = torch.einsum("...sn,ksn->...ks", selection, slopes)
        return (offsets + features**degree).prod(dim=-1).sum(dim=-1)

    return objective


def perceptron(slots: int, items: int, seed: int, scale: float = 1.0) -> Objective:
    """A random network with one hidden layer: its slots interact, and it is not a polynomial."""
    generator = generator_from(seed)
    inward = 1.5 * torch.randn(slots * items, 16, dtype=torch.float64, generator=generator)
    outward = scale * torch.randn(16, dtype=torch.float64, generator=generator)
    return lambda selection: torch.tanh(selection.flatten(-2) @ inward) @ outward


def separable(slots: int, items: int, seed: int) -> Objective:
    """A sum over the slots of functions that are far from linear, without interaction."""
    slopes = torch.randn(slots, items, dtype=torch.float64, generator=generator_from(seed))
    return lambda selection: torch.exp((selection * slopes).sum(dim=-1)).sum(dim=-1)


def run(selector: Selector, logits: Tensor, objective: Objective, seed: int) -> tuple[Tensor, Tensor]:
    """Each row's gradient estimate and choice."""
    leaf = logits.clone().requires_grad_()
    estimate = selector(leaf, objective, generator=generator_from(seed))
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    return gradient, estimate.choice


def true_gradient(logits: Tensor, objective: Objective) -> Tensor:
    return masked_true_gradient(logits, torch.ones(logits.shape, dtype=torch.bool), objective)


def mean_gradient(monkeypatch: pytest.MonkeyPatch, selector: Selector, logits: Tensor, objective: Objective) -> Tensor:
    """The estimate's exact mean, from one run of the selector for every configuration."""
    choices = all_choices(*logits.shape)
    force(monkeypatch, selector, [choices])
    gradient, drawn = run(selector, logits.expand(len(choices), *logits.shape), objective, 0)
    assert torch.equal(drawn, choices)
    return torch.einsum("r,rsn->sn", law(torch.softmax(logits, dim=-1), choices), gradient)


def test_reinmax_averages_first_and_zero_order_estimates() -> None:
    logits = 2 * torch.randn(300, 3, 5, dtype=torch.float64, generator=generator_from(0))
    objective = perceptron(3, 5, 1)
    gradient, choice = run(ReinMax(), logits, objective, 2)
    vertex = vertices(choice, 5).requires_grad_()
    (slope,) = torch.autograd.grad(objective(vertex).sum(), vertex)
    vertex, p = vertex.detach(), torch.softmax(logits, dim=-1)
    first_order = torch.einsum("rsnm,rsm->rsn", jacobian(p), slope)
    zero_order = (vertex - p) * ((vertex - p) * slope).sum(dim=-1, keepdim=True)
    assert float((gradient - 0.5 * (first_order + zero_order)).abs().max()) < 1e-12
    elsewhere, same_choice = run(ReinMax(tau=1.1), logits, objective, 2)
    assert torch.equal(choice, same_choice) and float((elsewhere - gradient).abs().max()) > 0.1


def same_law(first: Tensor, second: Tensor) -> bool:
    """Whether the samples have equal distributions of all coordinates and of random combinations of them."""
    first, second = first.flatten(1), second.flatten(1)
    mixed = torch.randn(first.shape[1], 8, dtype=torch.float64, generator=generator_from(99))
    first, second = torch.cat([first, first @ mixed], dim=1), torch.cat([second, second @ mixed], dim=1)
    least = min(
        float(stats.ks_2samp(a.numpy(), b.numpy(), method="asymp").pvalue)
        for a, b in zip(first.T, second.T, strict=True)
    )
    return least > KS_LEVEL / first.shape[1]


@pytest.mark.parametrize(("tau", "another_tau"), [(1.0, 1.1), (0.3, 0.33)])
def test_gumbel_rao_with_one_noise_has_gumbels_law_and_no_other(tau: float, another_tau: float) -> None:
    rows = some_logits(2, 4, 0).expand(20_000, 2, 4)
    objective = perceptron(2, 4, 1)
    gumbel, _ = run(Gumbel(tau), rows, objective, 2)
    assert same_law(gumbel, run(Gumbel(tau), rows, objective, 3)[0])
    assert same_law(gumbel, run(GumbelRao(tau, k=1), rows, objective, 4)[0])
    assert not same_law(gumbel, run(GumbelRao(another_tau, k=1), rows, objective, 4)[0])
    assert not same_law(gumbel, run(GumbelRao(tau, k=2), rows, objective, 4)[0])


def test_gumbel_rao_has_a_kth_of_gumbels_variance_given_a_draw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits, objective, k = some_logits(1, 4, 5), perceptron(1, 4, 6), 8
    gumbel, drawn = run(Gumbel(0.7), logits.expand(60_000, 1, 4), objective, 1)
    for item in range(4):
        given = gumbel[drawn[:, 0] == item]
        assert len(given) > 1000
        force(monkeypatch, GumbelRao(), [torch.full((20_000, 1), item)])
        averaged, _ = run(GumbelRao(0.7, k), logits.expand(20_000, 1, 4), objective, item)
        assert difference_z(given, averaged) < Z_BOUND
        assert float(averaged.var(dim=0).sum() * k / given.var(dim=0).sum()) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("tau", [0.3, 1.0])
@pytest.mark.parametrize(("slots", "items", "seed"), [(1, 3, 0), (2, 4, 10), (3, 6, 20)])
def test_gumbel_raos_error_is_below_gumbels_and_falls_with_k(slots: int, items: int, seed: int, tau: float) -> None:
    rows = some_logits(slots, items, seed).expand(20_000, slots, items)
    objective = perceptron(slots, items, seed + 1)
    gradients = [run(Gumbel(tau), rows, objective, seed + 2)[0]]
    gradients += [run(GumbelRao(tau, k), rows, objective, seed + 3 + k)[0] for k in (1, 2, 4, 16)]
    common = torch.stack(gradients).mean(dim=(0, 1))
    error = [float((gradient - common).square().sum(dim=(1, 2)).mean()) for gradient in gradients]
    gumbel, one, two, four, sixteen = error
    assert one == pytest.approx(gumbel, rel=0.05)
    assert sixteen < four < two < one
    # The draw's part of the variance stays, and the noise's part is divided by k: 16 noises remove 15/16 of it.
    noise_share = (one - sixteen) * 16 / 15
    assert noise_share > 0.05 * one
    assert four == pytest.approx(one - 0.75 * noise_share, rel=0.05)


def test_the_mirror_form_tends_to_straight_through() -> None:
    rows = 2 * torch.randn(200, 3, 5, dtype=torch.float64, generator=generator_from(0))
    objective = perceptron(3, 5, 1, scale=0.3)
    target, choice = run(StraightThrough(), rows, objective, 2)
    gaps = []
    for step in (1e-2, 1e-3, 1e-4):
        gradient, drawn = run(IntermediateLoss(step), rows, objective, 2)
        assert torch.equal(drawn, choice)
        gaps.append((gradient - target).flatten(1).norm(dim=1))
    assert float(gaps[0].min()) > 1e-6
    for wide, narrow in zip(gaps[:-1], gaps[1:], strict=True):
        ratio = wide / narrow
        assert float(ratio.min()) > 9 and float(ratio.max()) < 11
    assert float((gaps[-1] / target.flatten(1).norm(dim=1)).max()) < 1e-3


@pytest.mark.parametrize("step", [0.01, 0.1, 1.0, 30.0])
def test_the_mirror_form_is_bounded_by_one_over_the_step(step: float) -> None:
    rows = 2 * torch.randn(200, 3, 5, dtype=torch.float64, generator=generator_from(0))
    for scale in (1.0, 1e3, 1e9):
        gradient, _ = run(IntermediateLoss(step), rows, perceptron(3, 5, 1, scale), 2)
        assert float(gradient.abs().max()) <= 1 / step
    assert float(gradient.abs().max()) > 0.9 / step
    assert float(run(StraightThrough(), rows, perceptron(3, 5, 1, 1e9), 2)[0].abs().max()) > 1e6 / step


def test_local_expectation_is_exact_for_one_slot() -> None:
    rows = 2 * torch.randn(100, 1, 7, dtype=torch.float64, generator=generator_from(0))
    objective = perceptron(1, 7, 1)
    exact, _ = run(Exact(), rows, objective, 2)
    assert float((run(LocalExpectation(), rows, objective, 3)[0] - exact).abs().max()) < 1e-12
    assert float(exact.abs().max()) > 0.1


def test_local_expectation_is_exact_for_independent_slots() -> None:
    rows = 2 * torch.randn(30, 3, 4, dtype=torch.float64, generator=generator_from(0))
    exact, _ = run(Exact(), rows, separable(3, 4, 1), 2)
    assert float((run(LocalExpectation(), rows, separable(3, 4, 1), 3)[0] - exact).abs().max()) < 1e-12
    exact, _ = run(Exact(), rows, perceptron(3, 4, 1), 2)
    assert float((run(LocalExpectation(), rows, perceptron(3, 4, 1), 3)[0] - exact).abs().max()) > 0.1


@pytest.mark.parametrize("items", [2, 3, 6])
def test_screening_every_item_is_local_expectation(items: int) -> None:
    rows = 2 * torch.randn(50, 3, items, dtype=torch.float64, generator=generator_from(0))
    objective = perceptron(3, items, 1)
    local, choice = run(LocalExpectation(), rows, objective, 2)
    for m in (items - 1, items, items + 5):
        screened, drawn = run(ScreenedExpectation(m), rows, objective, 2)
        assert torch.equal(drawn, choice)
        assert float((screened - local).abs().max()) < 1e-12
    if items > 3:
        assert float((run(ScreenedExpectation(items - 3), rows, objective, 2)[0] - local).abs().max()) > 1e-3


@dataclass(frozen=True)
class Uncorrected(ScreenedExpectation):
    """Screened expectation without the correction: the residual is never drawn."""

    def _draw_from(
        self, logits: Tensor, rest: Tensor, chosen: Tensor, p: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        return chosen[..., :0], p[..., :0]


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize(("slots", "items"), [(1, 5), (2, 4)])
def test_screened_expectation_is_unbiased_by_enumeration(
    slots: int, items: int, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        logits, objective = some_logits(slots, items, seed), perceptron(slots, items, seed + 10)
        choices = all_choices(slots, items)
        pairs = [choices.repeat_interleave(len(choices), dim=0), choices.repeat(len(choices), 1)]
        forced = force(monkeypatch, ScreenedExpectation(), pairs)
        gradient, _ = run(ScreenedExpectation(m), logits.expand(len(choices) ** 2, slots, items), objective, 0)
        weight = forced.probabilities[0] * forced.probabilities[1]
        assert float(weight.sum()) == pytest.approx(1, abs=1e-12)
        mean = torch.einsum("r,rsn->sn", weight, gradient)
        assert float((mean - true_gradient(logits, objective)).abs().max()) < 1e-12


@pytest.mark.parametrize("m", [1, 2])
def test_screened_expectation_needs_its_correction(m: int) -> None:
    logits, objective = some_logits(3, 5, 0), perceptron(3, 5, 1)
    rows, truth = logits.expand(30_000, 3, 5), true_gradient(logits, objective)
    assert mean_z(run(ScreenedExpectation(m), rows, objective, 2)[0], truth) < Z_BOUND
    assert mean_z(run(Uncorrected(m), rows, objective, 2)[0], truth) > 2 * Z_BOUND


@pytest.mark.parametrize(
    ("selector", "degree", "unbiased"),
    [
        (StraightThrough(), 1, True),
        (StraightThrough(), 2, False),
        (ReinMax(), 1, True),
        (ReinMax(), 2, True),
        (ReinMax(), 3, False),
        (ReinMax(tau=1.5), 2, False),
        (LocalExpectation(), 3, True),
        (Reinforce("none"), 3, True),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("slots", "items"), [(1, 2), (1, 6), (2, 4), (3, 3)])
def test_selectors_are_unbiased_up_to_their_degree_only(
    slots: int, items: int, selector: Selector, degree: int, unbiased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        logits, objective = some_logits(slots, items, seed), polynomial(slots, items, degree, seed + 10)
        truth = true_gradient(logits, objective)
        bias = float((mean_gradient(monkeypatch, selector, logits, objective) - truth).norm() / truth.norm())
        assert bias < 1e-12 if unbiased else bias > 1e-3


ZERO_SUM: Sequence[Selector] = [
    *(make(name) for name in NAMES),
    StraightThrough(tau_backward=0.5),
    Gumbel(0.3, hard=False),
    ReinMax(tau=0.5),
    IntermediateLoss(normaliser="simplex"),
    IntermediateLoss(normaliser="sum"),
    ScreenedExpectation(m=1),
]


def sum_over_a_slot(selector: Selector) -> float:
    """The largest sum of a slot's gradient over its items, relative to the gradient's largest entry."""
    rows = torch.randn(100, 3, 4, dtype=torch.float64, generator=generator_from(0))
    gradient, _ = run(selector, rows, perceptron(3, 4, 1), 2)
    assert float(gradient.abs().max()) > 1e-3
    return float(gradient.sum(dim=-1).abs().max() / gradient.abs().max())


@pytest.mark.parametrize("selector", ZERO_SUM, ids=repr)
def test_the_gradient_of_a_slot_sums_to_zero(selector: Selector) -> None:
    assert sum_over_a_slot(selector) < 1e-12


def test_the_faithful_intermediate_loss_lets_the_logits_drift() -> None:
    assert sum_over_a_slot(IntermediateLoss(normaliser="sum", faithful=True)) > 0.1


@pytest.mark.parametrize("tau", [0.1, 0.5, 3.0])
def test_rebar_without_control_variate_is_reinforce(tau: float) -> None:
    rows = 2 * torch.randn(200, 3, 5, dtype=torch.float64, generator=generator_from(0))
    objective = perceptron(3, 5, 1)
    plain, choice = run(Reinforce("none"), rows, objective, 2)
    rebar, drawn = run(Rebar(eta=0.0, tau=tau), rows, objective, 2)
    assert torch.equal(choice, drawn)
    assert float((rebar - plain).abs().max()) < 1e-12


REBARS = [Rebar(1.0, 0.3), Rebar(1.0, 0.5), Rebar(1.0, 2.0), Rebar(0.5, 0.5), Rebar(-1.0, 1.0), Rebar(3.0, 1.0)]


@pytest.mark.parametrize("selector", REBARS, ids=repr)
def test_rebar_is_unbiased_for_every_eta_and_tau(selector: Rebar, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, objective = some_logits(2, 4, 0), perceptron(2, 4, 1)
    rows, truth = logits.expand(40_000, 2, 4), true_gradient(logits, objective)
    assert mean_z(run(selector, rows, objective, 2)[0], truth) < Z_BOUND

    def without_derivative(logits: Tensor, choice: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        noisy, derivative = conditional_gumbel(logits, choice, generator)
        return noisy, torch.zeros_like(derivative)

    monkeypatch.setattr("slot_rl.selectors.rebar.conditional_gumbel", without_derivative)
    assert mean_z(run(selector, rows, objective, 2)[0], truth) > 2 * Z_BOUND

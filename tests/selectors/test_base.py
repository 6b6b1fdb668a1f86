"""Tests of the parts that all selectors share: the estimate, the probe that calls the objective, and the surrogate.

The surrogate is tested with a selector that returns a given gradient.
"""

import math
from dataclasses import FrozenInstanceError, dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors import NAMES, Estimate, Selector, make
from slot_rl.selectors.base import Draws, GivenDraw, Probe, RawEstimate, refuse_unless_positive, with_gradient

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def total(selection: Tensor) -> Tensor:
    """The square of the sum of a selection's entries, weighted by their positions."""
    places = torch.arange(1.0, selection.shape[-1] + 1, dtype=selection.dtype)
    return (selection * places).flatten(-2).sum(dim=-1).square()


class Network(nn.Module):
    """A small trained objective, whose parameters require gradients."""

    def __init__(self, slots: int, items: int) -> None:
        super().__init__()
        self.layer = nn.Linear(slots * items, 1, dtype=torch.float64)

    def forward(self, selection: Tensor) -> Tensor:
        return torch.tanh(self.layer(selection.flatten(-2)).squeeze(-1))


@dataclass(frozen=True)
class Given(Selector):
    """Returns a given gradient for every objective."""

    name: ClassVar[str] = "given"

    gradient: Tensor
    score: Tensor

    def estimate(self, logits: Tensor, probe: Probe, draws: Draws) -> RawEstimate:
        return RawEstimate(self.gradient, logits.argmax(dim=-1), self.score)

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        return 0, 0


def given_selector() -> Given:
    """Returns a given gradient for 4 rows of 2 slots of 3 items."""
    gradient = torch.randn(4, 2, 3, dtype=torch.float64, generator=generator_from(0))
    return Given(gradient, torch.randn(4, dtype=torch.float64, generator=generator_from(1)))


def test_estimates_are_frozen_and_diagnostics_default_to_none() -> None:
    estimate = Estimate(torch.zeros(2), torch.zeros(2, 1, dtype=torch.long), torch.zeros(2), torch.zeros(2, 1, 3), 2, 2)
    assert dict(estimate.diagnostics) == {}
    with pytest.raises(FrozenInstanceError, match="forwards"):
        estimate.forwards = 3  # type: ignore[misc]


def test_a_selector_must_have_a_formula() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Selector()  # type: ignore[abstract]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("given_dtype", [torch.float32, torch.float64], ids=str)
def test_the_probe_converts_the_precision_in_and_out(given_dtype: torch.dtype, dtype: torch.dtype) -> None:
    asked: list[torch.dtype] = []

    def objective(selection: Tensor) -> Tensor:
        asked.append(selection.dtype)
        return total(selection)

    probe, selection = Probe(objective, dtype), torch.ones(5, 2, 3, dtype=given_dtype)
    assert probe.value(selection).dtype == dtype
    score, slope = probe.slope(selection)
    assert asked == [dtype, dtype] and score.dtype == dtype and slope.dtype == given_dtype


def test_the_probe_counts_every_configuration_that_it_asks_for() -> None:
    probe = Probe(total, torch.float32)
    assert (probe.forwards, probe.backwards) == (0, 0)
    probe.value(torch.zeros(5, 2, 3))
    assert (probe.forwards, probe.backwards) == (5, 0)
    probe.slope(torch.zeros(7, 5, 2, 3))
    assert (probe.forwards, probe.backwards) == (40, 35)
    probe.value(torch.zeros(2, 3))
    assert (probe.forwards, probe.backwards) == (41, 35)


def test_the_probe_leaves_no_gradient_anywhere() -> None:
    with seeded_initialisation(0):
        network = Network(2, 3)
    probe = Probe(network, torch.float64)
    selection = torch.rand(5, 2, 3, dtype=torch.float64, generator=generator_from(0)).requires_grad_()
    value = probe.value(selection)
    score, slope = probe.slope(selection)
    leaf = selection.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(leaf).sum(), leaf)
    assert torch.equal(slope, expected) and torch.equal(score, value)
    assert not (value.requires_grad or score.requires_grad or slope.requires_grad)
    assert selection.grad is None
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_the_probe_finds_slopes_where_gradients_are_off() -> None:
    selection = torch.ones(5, 2, 3)
    with torch.no_grad():
        _, slope = Probe(total, torch.float32).slope(selection)
        assert not torch.is_grad_enabled()
    # The sum is 12, and the slope of its square along an item is 2 * 12 times the item's position.
    assert slope.tolist() == [[[24.0, 48.0, 72.0]] * 2] * 5


def test_an_objective_without_gradient_has_a_value_but_no_slope() -> None:
    probe = Probe(lambda selection: total(selection.detach()), torch.float32)
    assert probe.value(torch.ones(5, 2, 3)).tolist() == [144.0] * 5
    with pytest.raises(TypeError, match="expected a differentiable objective, got one whose score has no gradient"):
        probe.slope(torch.ones(5, 2, 3))


def test_a_gradient_for_parameters_alone_is_no_slope() -> None:
    with seeded_initialisation(0):
        table = nn.Embedding(3, 1)

    def look_up(selection: Tensor) -> Tensor:
        scores: Tensor = table(selection.argmax(dim=-1))
        return scores.flatten(-2).sum(dim=-1)

    with pytest.raises(TypeError, match="expected a differentiable objective"):
        Probe(look_up, torch.float32).slope(torch.ones(5, 2, 3))


def test_the_surrogate_is_the_score_and_has_the_gradient() -> None:
    selector = given_selector()
    logits = torch.zeros(4, 2, 3, dtype=torch.float64, requires_grad=True)
    estimate = selector(logits, total)
    assert torch.equal(estimate.surrogate, selector.score) and estimate.surrogate.requires_grad
    assert torch.equal(estimate.score, selector.score) and not estimate.score.requires_grad
    estimate.surrogate.sum().backward()
    assert logits.grad is not None and torch.equal(logits.grad, selector.gradient)


def test_the_surrogate_scales_rows_by_the_upstream_gradient() -> None:
    selector = given_selector()
    logits = torch.zeros(4, 2, 3, dtype=torch.float64, requires_grad=True)
    upstream = torch.tensor([2.0, 0.0, -0.5, 1e-3], dtype=torch.float64)
    (selector(logits, total).surrogate * upstream).sum().backward()
    assert logits.grad is not None and torch.equal(logits.grad, upstream[:, None, None] * selector.gradient)
    (mean,) = torch.autograd.grad(selector(logits, total).surrogate.mean(), logits)
    assert torch.equal(mean, selector.gradient / 4)


def test_the_surrogates_gradient_reaches_the_network() -> None:
    selector = given_selector()
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    features = torch.randn(4, 2, 3, dtype=torch.float64, generator=generator_from(5))
    selector(features * weight, total).surrogate.sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, (features * selector.gradient).sum(dim=(0, 1)))


def test_no_gradient_where_the_logits_need_none() -> None:
    estimate = given_selector()(torch.zeros(4, 2, 3, dtype=torch.float64), total)
    assert not estimate.surrogate.requires_grad


def test_the_surrogate_cannot_be_differentiated_twice() -> None:
    logits = torch.zeros(4, 2, 3, dtype=torch.float64, requires_grad=True)
    upstream = torch.ones(4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(given_selector()(logits, total).surrogate, logits, upstream, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_gradient_has_the_precision_of_the_logits(dtype: torch.dtype) -> None:
    selector = given_selector()
    logits = torch.zeros(4, 2, 3, dtype=dtype, requires_grad=True)
    estimate = selector(logits, total)
    assert estimate.surrogate.dtype == torch.float64
    estimate.surrogate.sum().backward()
    assert logits.grad is not None and torch.equal(logits.grad, selector.gradient.to(dtype))


def test_altering_logits_later_does_not_change_the_estimate() -> None:
    selector = given_selector()
    logits = torch.zeros(4, 2, 3, dtype=torch.float64, requires_grad=True)
    estimate = selector(logits, total)
    with torch.no_grad():
        logits.add_(5.0)
        estimate.score.zero_()
    estimate.surrogate.sum().backward()
    assert logits.grad is not None and torch.equal(logits.grad, selector.gradient)
    assert float(estimate.surrogate.detach().abs().min()) > 0


def test_rows_are_dead_where_the_whole_gradient_is_exactly_zero() -> None:
    gradient = torch.zeros(4, 2, 3, dtype=torch.float64)
    gradient[1, 1, 2] = 1e-300
    gradient[2, 0, 0] = math.nan
    gradient[3] = -0.0
    estimate = Given(gradient, torch.zeros(4))(torch.zeros(4, 2, 3, dtype=torch.float64), total)
    assert estimate.diagnostics["dead"].tolist() == [1.0, 0.0, 0.0, 1.0]
    # In float16 the tiny entry is zero; the gradient of the logits decides.
    rounded = Given(gradient, torch.zeros(4))(torch.zeros(4, 2, 3, dtype=torch.float16), total)
    assert rounded.diagnostics["dead"].tolist() == [1.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_are_clipped_to_half_precision(dtype: torch.dtype) -> None:
    gradient = torch.tensor([[[1e39, -1e39, 2.0]]], dtype=torch.float64)
    logits = torch.zeros(1, 1, 3, dtype=dtype, requires_grad=True)
    Given(gradient, torch.zeros(1))(logits, total).surrogate.sum().backward()
    largest = torch.finfo(dtype).max
    assert logits.grad is not None and logits.grad.flatten().tolist() == [largest, -largest, 2.0]


def test_integer_scores_have_a_differentiable_surrogate() -> None:
    gradient = torch.ones(2, 1, 3)
    logits = torch.zeros(2, 1, 3, requires_grad=True)
    estimate = Given(gradient, torch.tensor([3, 4]))(logits, total)
    assert estimate.surrogate.tolist() == [3.0, 4.0] and estimate.surrogate.dtype == torch.float32
    estimate.surrogate.sum().backward()
    assert logits.grad is not None and torch.equal(logits.grad, gradient)


def test_a_value_keeps_its_own_gradient() -> None:
    value = torch.arange(3.0, requires_grad=True)
    logits, rates = torch.zeros(3, 2, 4, requires_grad=True), torch.zeros(3, 5, requires_grad=True)
    by_logits, by_rates = (
        torch.rand(3, 2, 4, generator=generator_from(0)),
        torch.rand(3, 5, generator=generator_from(1)),
    )
    surrogate = with_gradient(with_gradient(value, logits, by_logits), rates, by_rates)
    assert torch.equal(surrogate, value) and surrogate is not value
    upstream = torch.tensor([1.0, -2.0, 0.5])
    gradients = torch.autograd.grad(surrogate, (value, logits, rates), upstream)
    expected = (upstream, upstream[:, None, None] * by_logits, upstream[:, None] * by_rates)
    assert all(torch.equal(gradient, right) for gradient, right in zip(gradients, expected, strict=True))


def given_draws() -> list[GivenDraw]:
    """Every registered selector whose estimate is determined by one draw."""
    return [selector for selector in map(make, NAMES) if isinstance(selector, GivenDraw)]


@pytest.mark.parametrize("selector", given_draws(), ids=repr)
def test_an_estimate_is_the_one_given_the_draw_that_was_made(selector: GivenDraw) -> None:
    logits = torch.randn(30, 2, 4, dtype=torch.float64, generator=generator_from(0)).requires_grad_()
    estimate = selector(logits, total, generator=generator_from(1))
    estimate.surrogate.sum().backward()
    choice, _ = selector.choose(logits.detach(), Draws(generator_from(1)))
    assert torch.equal(estimate.choice, choice)
    given = selector.given(logits.detach(), choice, total)
    assert logits.grad is not None and torch.equal(given, logits.grad) and float(given.abs().max()) > 0
    assert not torch.equal(selector.given(logits.detach(), (choice + 1) % 4, total), given)


def test_which_selectors_depend_on_one_draw_alone() -> None:
    names = {selector.name for selector in given_draws()}
    assert names == {"straight_through", "reinmax", "gapped", "intermediate_loss", "reinforce", "local_expectation"}


@pytest.mark.parametrize("name", NAMES)
def test_logits_at_minus_infinity_are_as_good_as_a_mask(name: str) -> None:
    generator = generator_from(0)
    logits = torch.randn(30, 2, 4, dtype=torch.float64, generator=generator)
    mask = torch.rand(30, 2, 4, generator=generator) < 0.6
    mask[..., 1] = True
    by_mask = logits.clone().requires_grad_()
    masked = make(name)(by_mask, total, mask, generator_from(1))
    by_value = logits.masked_fill(~mask, -torch.inf).requires_grad_()
    infinite = make(name)(by_value, total, generator=generator_from(1))
    masked.surrogate.sum().backward()
    infinite.surrogate.sum().backward()
    assert by_mask.grad is not None and by_value.grad is not None
    assert bool(by_value.grad.isfinite().all()) and float(by_value.grad.abs().max()) > 0
    assert torch.equal(by_value.grad, by_mask.grad)
    assert torch.equal(infinite.choice, masked.choice) and torch.equal(infinite.surrogate, masked.surrogate)
    assert bool((by_value.grad[~mask] == 0).all())


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, -math.inf])
def test_options_that_are_not_positive_are_refused_by_name(value: float) -> None:
    refuse_unless_positive(first=1.0, second=1e-9)
    with pytest.raises(ValueError, match=f"expected second > 0, got {value}"):
        refuse_unless_positive(first=1.0, second=value)

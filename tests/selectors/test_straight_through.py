"""Straight-through: every draw is enumerated, so that its mean gradient is exact and not an average of samples.

The noise is replaced by one that forces a given draw, and the code under test then runs once for every configuration.
Weighted by their probabilities, its gradients must add up to the true one wherever the objective is linear in each
slot; where it is not, they must miss it by the published amount.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors import StraightThrough
from slot_rl.selectors.base import Objective, one_hot

NOISE = "slot_rl.selectors.straight_through.gumbel_noise"


class Recorder:
    """Keeps the selection that it is asked to score; scores it linearly with given weights ``(slots, items)``."""

    selection: Tensor

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def __call__(self, selection: Tensor) -> Tensor:
        self.selection = selection.detach()
        return (selection * self.weights.to(selection.dtype)).flatten(-2).sum(dim=-1)


def multilinear(values: Tensor) -> Objective:
    """The most general objective that is linear in each slot: a table with a value for every configuration."""

    def objective(selection: Tensor) -> Tensor:
        result = values.expand(selection.shape[0], *values.shape)
        for slot in range(selection.shape[-2]):
            row = selection[:, slot]
            result = (result * row.view(*row.shape, *[1] * (result.dim() - 2))).sum(dim=1)
        return result

    return objective


def quadratic(matrix: Tensor, linear: Tensor) -> Objective:
    """``z^T A z + b^T z`` of all slots' rows laid end to end."""

    def objective(selection: Tensor) -> Tensor:
        flat = selection.flatten(-2)
        return ((flat @ matrix) * flat).sum(-1) + flat @ linear

    return objective


def all_choices(slots: int, items: int) -> Tensor:
    """Every configuration, ``(items^slots, slots)``."""
    return torch.cartesian_prod(*[torch.arange(items)] * slots).view(-1, slots)


def law(logits: Tensor, mask: Tensor | None, choices: Tensor) -> Tensor:
    """The probability of every configuration under logits ``(slots, items)``."""
    p = torch.softmax(logits if mask is None else logits.masked_fill(~mask, -torch.inf), dim=-1)
    return p[torch.arange(len(logits)), choices].prod(dim=-1)


def true_gradient(logits: Tensor, mask: Tensor | None, objective: Objective) -> Tensor:
    """The gradient of the expectation, summed over every configuration."""
    leaf = logits.clone().requires_grad_()
    choices = all_choices(*logits.shape)
    scores = objective(one_hot(choices, logits.shape[1], logits.dtype))
    (gradient,) = torch.autograd.grad((law(leaf, mask, choices) * scores).sum(), leaf)
    return gradient


def every_gradient(
    monkeypatch: pytest.MonkeyPatch,
    selector: StraightThrough,
    logits: Tensor,
    mask: Tensor | None,
    objective: Objective,
) -> tuple[Tensor, Tensor]:
    """Runs the selector once for every configuration: gradients ``(draws, slots, items)`` and probabilities."""
    choices = all_choices(*logits.shape)
    probability = law(logits, mask, choices)
    choices, probability = choices[probability > 0], probability[probability > 0]
    forced = one_hot(choices, logits.shape[1], logits.dtype) * 1e6
    monkeypatch.setattr(NOISE, lambda like, generator: forced)
    leaf = logits.expand(len(choices), *logits.shape).clone().requires_grad_()
    estimate = selector(leaf, objective, mask)
    assert torch.equal(estimate.choice, choices)
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    return gradient, probability


def some_mask(slots: int, items: int, seed: int) -> Tensor:
    mask = torch.rand(slots, items, generator=generator_from(seed)) < 0.6
    mask[:, seed % items] = True
    return mask


def worst_z(choice: Tensor, probabilities: Tensor) -> float:
    """The largest deviation of an item's frequency from its probability, in standard deviations."""
    draws = choice.numel()
    counts = torch.bincount(choice.flatten(), minlength=len(probabilities)).double()
    p = probabilities.double()
    return float(((counts - draws * p) / (draws * p * (1 - p)).sqrt()).abs().max())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 9),
    st.sampled_from([0.1, 1.0, 30.0]),
    st.booleans(),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.integers(0, 10_000),
)
def test_the_forward_is_exactly_one_hot(
    batch: int, slots: int, items: int, tau: float, noise: bool, dtype: torch.dtype, seed: int
) -> None:
    logits = (3 * torch.randn(batch, slots, items, generator=generator_from(seed))).to(dtype).requires_grad_()
    recorder = Recorder(torch.randn(slots, items, generator=generator_from(seed + 1)))
    estimate = StraightThrough(1.0, tau, noise)(logits, recorder, generator=generator_from(seed + 2))
    assert recorder.selection.dtype == dtype
    assert torch.equal(recorder.selection, one_hot(estimate.choice, items, dtype))
    assert torch.equal(estimate.score, recorder(one_hot(estimate.choice, items, dtype)))
    assert not estimate.score.requires_grad and estimate.surrogate.requires_grad
    assert (estimate.forwards, estimate.backwards) == (batch, batch)


@pytest.mark.parametrize("tau_forward", [0.5, 1.0, 3.0])
def test_choices_follow_the_softmax_at_the_forward_temperature(tau_forward: float) -> None:
    logits = torch.tensor([0.3, -1.2, 2.0, 0.0, -4.0])
    rows = logits.expand(200_000, 1, 5)
    selector = StraightThrough(tau_forward, tau_backward=2.0)
    choice = selector(rows, Recorder(torch.zeros(1, 5)), generator=generator_from(7)).choice
    assert worst_z(choice, torch.softmax(logits / tau_forward, -1)) < 5
    assert worst_z(choice, torch.softmax(logits / (1.05 * tau_forward), -1)) > 5


def test_the_test_of_the_law_notices_a_noise_that_is_not_gumbel(monkeypatch: pytest.MonkeyPatch) -> None:
    def normal_noise(like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(like.shape, generator=generator) * math.pi / math.sqrt(6)

    logits = torch.tensor([0.3, -1.2, 2.0, 0.0, -4.0])
    monkeypatch.setattr(NOISE, normal_noise)
    rows = logits.expand(200_000, 1, 5)
    choice = StraightThrough()(rows, Recorder(torch.zeros(1, 5)), generator=generator_from(7)).choice
    assert worst_z(choice, torch.softmax(logits, -1)) > 5


@pytest.mark.parametrize("tau_backward", [0.4, 1.0, 3.0])
def test_the_gradient_of_each_draw_is_the_softmax_jacobian_times_the_slope_there(
    tau_backward: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots, items = 2, 3
    generator = generator_from(11)
    logits = torch.randn(slots, items, dtype=torch.float64, generator=generator)
    matrix = torch.randn(slots * items, slots * items, dtype=torch.float64, generator=generator)
    linear = torch.randn(slots * items, dtype=torch.float64, generator=generator)
    selector = StraightThrough(tau_backward=tau_backward)
    gradient, _ = every_gradient(monkeypatch, selector, logits, None, quadratic(matrix, linear))
    for row, choice in enumerate(all_choices(slots, items).tolist()):
        chosen = [slot * items + item for slot, item in enumerate(choice)]
        for slot in range(slots):
            raised = [math.exp(float(logits[slot, n]) / tau_backward) for n in range(items)]
            p = [value / sum(raised) for value in raised]
            g = [
                float(linear[slot * items + n])
                + sum(float(matrix[slot * items + n, c] + matrix[c, slot * items + n]) for c in chosen)
                for n in range(items)
            ]
            mean = sum(probability * slope for probability, slope in zip(p, g, strict=True))
            for n in range(items):
                assert float(gradient[row, slot, n]) == pytest.approx(p[n] * (g[n] - mean), rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("slots", "items"), [(1, 2), (1, 7), (2, 4), (3, 3), (4, 2), (5, 3)])
def test_the_mean_gradient_is_the_true_one_where_the_objective_is_linear_in_each_slot(
    slots: int, items: int, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        generator = generator_from(100 * slots + 10 * items + seed)
        logits = 2 * torch.randn(slots, items, dtype=torch.float64, generator=generator)
        values = torch.randn([items] * slots, dtype=torch.float64, generator=generator)
        mask = some_mask(slots, items, seed) if masked else None
        gradient, p = every_gradient(monkeypatch, StraightThrough(), logits, mask, multilinear(values))
        mean = (p[:, None, None] * gradient).sum(dim=0)
        truth = true_gradient(logits, mask, multilinear(values))
        assert float((mean - truth).abs().max()) < 1e-10
        assert masked or float(truth.abs().max()) > 1e-3


def test_the_mean_gradient_misses_the_true_one_where_the_objective_is_quadratic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = generator_from(0)
    logits = torch.randn(2, 3, dtype=torch.float64, generator=generator)
    matrix = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    objective = quadratic(matrix, torch.zeros(6, dtype=torch.float64))
    gradient, p = every_gradient(monkeypatch, StraightThrough(), logits, None, objective)
    bias = (p[:, None, None] * gradient).sum(dim=0) - true_gradient(logits, None, objective)
    assert float(bias.abs().max()) > 0.05
    # Without the terms within a slot, the same objective is linear in each slot and the bias is gone.
    matrix[:3, :3] = matrix[3:, 3:] = 0
    gradient, p = every_gradient(monkeypatch, StraightThrough(), logits, None, objective)
    bias = (p[:, None, None] * gradient).sum(dim=0) - true_gradient(logits, None, objective)
    assert float(bias.abs().max()) < 1e-10


@pytest.mark.parametrize("tau_backward", [0.5, 2.0])
def test_another_backward_temperature_is_biased_even_on_linear_objectives(
    tau_backward: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(2, 3, dtype=torch.float64, generator=generator_from(0))
    values = torch.randn(3, 3, dtype=torch.float64, generator=generator_from(1))
    selector = StraightThrough(tau_backward=tau_backward)
    gradient, p = every_gradient(monkeypatch, selector, logits, None, multilinear(values))
    bias = (p[:, None, None] * gradient).sum(dim=0) - true_gradient(logits, None, multilinear(values))
    assert float(bias.abs().max()) > 0.01


@pytest.mark.parametrize(
    ("items", "seed", "bias2", "variance"),
    [(4, 0, 0.2781, 0.7724), (8, 0, 2.745, 17.85), (12, 0, 4.525, 40.27), (4, 1, 0.08107, 0.2701)],
)
def test_bias_and_variance_on_random_quadratics_are_the_published_figures(
    items: int, seed: int, bias2: float, variance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = generator_from(seed)
    root = torch.randn(items, items, generator=generator)
    linear = torch.randn(items, generator=generator)
    logits = torch.randn(items, generator=generator).double().view(1, items)
    objective = quadratic((root.T @ root).double(), linear.double())
    gradient, p = every_gradient(monkeypatch, StraightThrough(), logits, None, objective)
    truth = true_gradient(logits, None, objective)
    mean = (p[:, None, None] * gradient).sum(dim=0)
    scale = truth.norm() / mean.norm()
    total_variance = (p * (gradient - mean).square().sum(dim=(1, 2))).sum()
    assert float((scale * mean - truth).square().sum()) == pytest.approx(bias2, rel=5e-4)
    assert float(scale**2 * total_variance) == pytest.approx(variance, rel=5e-4)


def test_the_gradient_of_a_slot_sums_to_zero() -> None:
    leaf = torch.randn(200, 3, 6, dtype=torch.float64, generator=generator_from(0)).requires_grad_()
    weights = torch.randn(3, 6, dtype=torch.float64, generator=generator_from(1))
    estimate = StraightThrough(tau_backward=0.7)(leaf, Recorder(weights), generator=generator_from(2))
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    assert float(gradient.abs().max()) > 0.1
    assert float(gradient.sum(dim=-1).abs().max()) < 1e-13


def test_without_noise_the_choice_is_the_argmax_and_no_generator_is_drawn_from() -> None:
    logits = torch.randn(300, 4, 9, generator=generator_from(0))
    generator = generator_from(1)
    state, before = generator.get_state(), torch.get_rng_state()
    selector = StraightThrough(tau_forward=50.0, noise=False)
    estimate = selector(logits, Recorder(torch.ones(4, 9)), generator=generator)
    assert torch.equal(estimate.choice, logits.argmax(dim=-1))
    assert torch.equal(generator.get_state(), state) and torch.equal(torch.get_rng_state(), before)
    selector(logits, Recorder(torch.ones(4, 9)))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_noise_the_choice_is_the_best_allowed_item() -> None:
    logits = torch.tensor([[[5.0, 3.0, 4.0]]])
    mask = torch.tensor([[[False, True, True]]])
    estimate = StraightThrough(noise=False)(logits, Recorder(torch.ones(1, 3)), mask)
    assert estimate.choice.tolist() == [[2]]


def test_without_noise_the_gradient_is_the_jacobian_times_the_slope_at_the_argmax() -> None:
    leaf = torch.log(torch.tensor([[[0.2, 0.5, 0.3]]], dtype=torch.float64)).requires_grad_()
    estimate = StraightThrough(noise=False)(leaf, lambda selection: (selection[..., 1] ** 3 * 2).sum(dim=-1))
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    # Slope 6 for item 1 and 0 for the others; p_n (g_n - mean) with mean = 0.5 * 6.
    torch.testing.assert_close(gradient.flatten(), torch.tensor([-0.6, 1.5, -0.9], dtype=torch.float64))


@pytest.mark.parametrize(("tau_forward", "tau_backward"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (1.0, math.nan)])
def test_temperatures_that_are_not_positive_are_refused(tau_forward: float, tau_backward: float) -> None:
    with pytest.raises(ValueError, match=f"expected temperatures > 0, got {tau_forward} and {tau_backward}"):
        StraightThrough(tau_forward, tau_backward)


@pytest.mark.parametrize("noise", [True, False])
def test_no_masked_item_is_drawn_in_a_million_draws(noise: bool) -> None:
    slots, items, rows = 4, 8, 250_000
    mask = torch.rand(slots, items, generator=generator_from(0)) < 0.5
    mask[:, 3] = True
    logits = torch.randn(slots, items, generator=generator_from(1)).where(mask, torch.tensor(1e4))
    rows_of_logits = logits.expand(rows, slots, items)
    estimate = StraightThrough(noise=noise)(rows_of_logits, Recorder(torch.ones(slots, items)), mask, generator_from(2))
    assert estimate.choice.numel() == 1_000_000
    for slot in range(slots):
        allowed = mask[slot].nonzero().flatten()
        drawn = torch.unique(estimate.choice[:, slot])
        expected = allowed if noise else allowed[logits[slot, allowed].argmax()].view(1)
        assert torch.equal(drawn, expected)


def test_masked_items_get_no_gradient() -> None:
    mask = some_mask(3, 5, 1).expand(100, 3, 5)
    leaf = torch.zeros(100, 3, 5).requires_grad_()
    weights = torch.randn(3, 5, generator=generator_from(3))
    estimate = StraightThrough()(leaf, Recorder(weights), mask, generator_from(1))
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    assert bool(gradient.isfinite().all()) and float(gradient[mask].abs().max()) > 0
    assert float(gradient[~mask].abs().max()) == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("noise", [True, False])
def test_huge_logits_decide_the_draw_and_give_finite_gradients(dtype: torch.dtype, noise: bool) -> None:
    logits = torch.full((100, 2, 3), -1e4, dtype=dtype)
    logits[:, 0, 1] = 1e4
    logits[:, 1, 2] = 1e4
    leaf = logits.requires_grad_()
    selector = StraightThrough(0.01, 0.01, noise)
    estimate = selector(leaf, Recorder(torch.ones(2, 3)), generator=generator_from(0))
    assert estimate.choice.tolist() == [[1, 2]] * 100
    assert estimate.score.dtype == dtype and estimate.score.tolist() == [2.0] * 100
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    assert gradient.dtype == dtype and bool(gradient.isfinite().all())


def test_the_memory_layout_of_the_logits_does_not_matter() -> None:
    logits = torch.randn(6, 5, 4, generator=generator_from(0)).transpose(0, 2)
    assert not logits.is_contiguous()
    recorder = Recorder(torch.randn(5, 6, generator=generator_from(1)))
    gradients, choices = [], []
    for rows in (logits, logits.contiguous()):
        leaf = rows.detach().requires_grad_()
        estimate = StraightThrough()(leaf, recorder, generator=generator_from(2))
        gradients.append(torch.autograd.grad(estimate.surrogate.sum(), leaf)[0])
        choices.append(estimate.choice)
    assert torch.equal(choices[0], choices[1]) and torch.equal(gradients[0], gradients[1])


def test_rows_may_have_further_leading_dimensions() -> None:
    logits = torch.randn(3, 5, 2, 4, generator=generator_from(0))
    recorder = Recorder(torch.randn(2, 4, generator=generator_from(1)))
    estimate = StraightThrough()(logits, recorder, generator=generator_from(1))
    flat = StraightThrough()(logits.flatten(0, 1), recorder, generator=generator_from(1))
    assert estimate.choice.shape == (3, 5, 2) and torch.equal(estimate.choice.flatten(0, 1), flat.choice)
    assert estimate.score.shape == (3, 5) and torch.equal(estimate.score.flatten(), flat.score)
    assert estimate.forwards == estimate.backwards == 15


def test_draws_repeat_under_a_generator_and_leave_the_global_one_alone() -> None:
    logits = torch.zeros(50, 3, 6)
    recorder = Recorder(torch.randn(3, 6, generator=generator_from(9)))
    before = torch.get_rng_state()
    first, second, other = (StraightThrough()(logits, recorder, generator=generator_from(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.choice, second.choice) and torch.equal(first.score, second.score)
    assert not torch.equal(first.choice, other.choice)


def test_without_a_generator_the_global_one_is_drawn_from() -> None:
    logits = torch.zeros(50, 3, 6)
    recorder = Recorder(torch.ones(3, 6))
    with seeded_initialisation(1):
        drawn = StraightThrough()(logits, recorder).choice
    assert torch.equal(drawn, StraightThrough()(logits, recorder, generator=generator_from(1)).choice)

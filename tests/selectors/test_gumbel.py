"""Gumbel-softmax: exact one-hot draws from the softmax, and the gradient ``J(y) g / tau`` computed by hand.

Statistical claims use fixed generators and a bound of five standard deviations, and each is repeated with a noise that
is slightly wrong, which the same test must notice. Gradients are compared in float64 with loops over items.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors import Gumbel
from slot_rl.selectors.base import Objective, gumbel_noise, one_hot

NOISE = "slot_rl.selectors.gumbel.gumbel_noise"


class Recorder:
    """Keeps the selection that it is asked to score; scores it linearly with given weights ``(slots, items)``."""

    selection: Tensor

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def __call__(self, selection: Tensor) -> Tensor:
        self.selection = selection.detach()
        return (selection * self.weights.to(selection.dtype)).flatten(-2).sum(dim=-1)


def worst_z(choice: Tensor, probabilities: Tensor) -> float:
    """The largest deviation of an item's frequency from its probability, in standard deviations."""
    draws = choice.numel()
    counts = torch.bincount(choice.flatten(), minlength=len(probabilities)).double()
    p = probabilities.double()
    return float(((counts - draws * p) / (draws * p * (1 - p)).sqrt()).abs().max())


def gradient_of(selector: Gumbel, logits: Tensor, objective: Objective, generator: torch.Generator | None) -> Tensor:
    """The gradient that one draw puts into the logits."""
    leaf = logits.detach().clone().requires_grad_()
    estimate = selector(leaf, objective, generator=generator)
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    return gradient


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 9),
    st.sampled_from([1e-3, 0.1, 1.0, 30.0]),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.integers(0, 10_000),
)
def test_the_hard_forward_is_exactly_one_hot(
    batch: int, slots: int, items: int, tau: float, dtype: torch.dtype, seed: int
) -> None:
    logits = (3 * torch.randn(batch, slots, items, generator=generator_from(seed))).to(dtype).requires_grad_()
    recorder = Recorder(torch.randn(slots, items, generator=generator_from(seed + 1)))
    estimate = Gumbel(tau)(logits, recorder, generator=generator_from(seed + 2))
    assert recorder.selection.dtype == dtype
    assert torch.equal(recorder.selection, one_hot(estimate.choice, items, dtype))
    assert torch.equal(estimate.score, recorder(one_hot(estimate.choice, items, dtype)))
    assert not estimate.score.requires_grad and estimate.surrogate.requires_grad
    assert (estimate.forwards, estimate.backwards) == (batch, batch)


def test_the_soft_forward_is_relaxed_and_is_the_softmax_of_the_noisy_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(50, 3, 4, dtype=torch.float64, generator=generator_from(0)).requires_grad_()
    noise = gumbel_noise(logits, generator_from(1))
    monkeypatch.setattr(NOISE, lambda like, generator: noise)
    recorder = Recorder(torch.ones(3, 4))
    estimate = Gumbel(2.0, hard=False)(logits, recorder)
    expected = torch.softmax((logits.detach() + noise) / 2.0, dim=-1)
    torch.testing.assert_close(recorder.selection, expected, atol=1e-14, rtol=0)
    assert bool(((recorder.selection > 0) & (recorder.selection < 1)).all())
    torch.testing.assert_close(recorder.selection.sum(-1), torch.ones(50, 3, dtype=torch.float64))
    assert torch.equal(estimate.choice, recorder.selection.argmax(dim=-1))


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_choices_follow_the_softmax_whatever_tau_is(hard: bool, tau: float) -> None:
    logits = torch.tensor([0.3, -1.2, 2.0, 0.0, -4.0])
    rows = logits.expand(200_000, 1, 5)
    choice = Gumbel(tau, hard)(rows, Recorder(torch.zeros(1, 5)), generator=generator_from(7)).choice
    assert worst_z(choice, torch.softmax(logits, -1)) < 5


def test_the_test_of_the_law_notices_a_noise_that_is_not_gumbel(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([0.3, -1.2, 2.0, 0.0, -4.0])

    def normal_noise(like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(like.shape, generator=generator) * math.pi / math.sqrt(6)

    monkeypatch.setattr(NOISE, normal_noise)
    rows = logits.expand(200_000, 1, 5)
    choice = Gumbel()(rows, Recorder(torch.zeros(1, 5)), generator=generator_from(7)).choice
    assert worst_z(choice, torch.softmax(logits, -1)) > 5


def test_slots_are_drawn_independently_and_the_test_notices_shared_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([[0.5, 0.0, -1.0], [1.0, -0.5, 0.0]])
    p = torch.softmax(logits.double(), dim=-1)
    joint = torch.outer(p[0], p[1]).flatten()
    rows, objective = logits.expand(200_000, 2, 3), Recorder(torch.zeros(2, 3))
    choice = Gumbel()(rows, objective, generator=generator_from(3)).choice
    assert worst_z(3 * choice[:, 0] + choice[:, 1], joint) < 5

    def shared(like: Tensor, generator: torch.Generator) -> Tensor:
        return gumbel_noise(like[:, :1], generator)

    monkeypatch.setattr(NOISE, shared)
    choice = Gumbel()(rows, objective, generator=generator_from(3)).choice
    assert worst_z(3 * choice[:, 0] + choice[:, 1], joint) > 5


def test_rare_items_keep_their_probability_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([9.0, 0.0, 0.0, 1.0], dtype=torch.float16)
    rows, objective = logits.expand(1_000_000, 1, 4), Recorder(torch.zeros(1, 4))
    p = torch.softmax(logits.double(), -1)
    assert worst_z(Gumbel()(rows, objective, generator=generator_from(5)).choice, p) < 5

    def half_noise(like: Tensor, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(like.shape, generator=generator).half().clamp(6e-8, 1 - 1e-3)
        return -(-uniform.log()).log()

    monkeypatch.setattr(NOISE, half_noise)
    assert worst_z(Gumbel()(rows, objective, generator=generator_from(5)).choice, p) > 5


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("tau", [0.3, 1.0, 4.0])
def test_the_gradient_of_each_draw_is_the_softmax_jacobian_over_tau(
    hard: bool, tau: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, slots, items = 20, 2, 4
    generator = generator_from(11)
    logits = torch.randn(batch, slots, items, dtype=torch.float64, generator=generator)
    noise = gumbel_noise(logits, generator)
    w = torch.randn(slots, items, dtype=torch.float64, generator=generator)
    q = torch.randn(slots, items, dtype=torch.float64, generator=generator)
    monkeypatch.setattr(NOISE, lambda like, generator: noise)

    def objective(selection: Tensor) -> Tensor:
        return (selection * w).flatten(-2).sum(-1) + (selection * q).flatten(-2).sum(-1) ** 2

    gradient = gradient_of(Gumbel(tau, hard), logits, objective, None)
    for row in range(batch):
        relaxed, point = [], []
        for slot in range(slots):
            raised = [math.exp(float(logits[row, slot, n] + noise[row, slot, n]) / tau) for n in range(items)]
            y = [value / sum(raised) for value in raised]
            relaxed.append(y)
            point.append([float(y[n] == max(y)) for n in range(items)] if hard else y)
        along_q = sum(float(q[s, n]) * point[s][n] for s in range(slots) for n in range(items))
        for slot in range(slots):
            g = [float(w[slot, n]) + 2 * along_q * float(q[slot, n]) for n in range(items)]
            mean = sum(y * slope for y, slope in zip(relaxed[slot], g, strict=True))
            for n in range(items):
                expected = relaxed[slot][n] * (g[n] - mean) / tau
                assert float(gradient[row, slot, n]) == pytest.approx(expected, rel=1e-9, abs=1e-13)


def test_the_gradient_of_a_slot_sums_to_zero() -> None:
    logits = torch.randn(200, 3, 6, dtype=torch.float64, generator=generator_from(0))
    weights = torch.randn(3, 6, dtype=torch.float64, generator=generator_from(1))
    gradient = gradient_of(Gumbel(0.5), logits, Recorder(weights), generator_from(2))
    assert float(gradient.abs().max()) > 0.1
    assert float(gradient.sum(dim=-1).abs().max()) < 1e-13


@pytest.mark.parametrize(("tau", "share"), [(0.01, 0.42), (0.001, 0.92)])
def test_dead_counts_exactly_the_rows_whose_gradient_is_zero(tau: float, share: float) -> None:
    leaf = torch.zeros(40_000, 1, 4).requires_grad_()
    # Slopes one apart, so that a probability above zero never rounds its product with a slope to zero.
    estimate = Gumbel(tau)(leaf, Recorder(torch.tensor([[0.0, 2.0, -3.0, 7.0]])), generator=generator_from(4))
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    zero = (gradient == 0).flatten(1).all(dim=1)
    assert torch.equal(estimate.diagnostics["dead"], zero.float())
    assert float(zero.float().mean()) == pytest.approx(share, abs=0.01)


def test_dead_rows_of_several_slots_are_dead_in_all_of_them() -> None:
    leaf = torch.zeros(40_000, 2, 3).requires_grad_()
    weights = torch.randn(2, 3, generator=generator_from(8))
    estimate = Gumbel(0.01)(leaf, Recorder(weights), generator=generator_from(4))
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    slot_is_zero = (gradient == 0).all(dim=-1)
    dead = estimate.diagnostics["dead"].bool()
    assert bool(slot_is_zero[dead].all())
    # Slopes below one can round a probability near 1e-45 to zero: such rows are few.
    assert 0 <= int(slot_is_zero.all(dim=-1).sum()) - int(dead.sum()) < 0.01 * len(dead)
    assert 0.1 < float(dead.float().mean()) < float(slot_is_zero.float().mean()) - 0.1


def test_no_row_is_dead_at_a_high_temperature() -> None:
    estimate = Gumbel(1.0)(torch.zeros(1000, 2, 4), Recorder(torch.ones(2, 4)), generator=generator_from(0))
    assert estimate.diagnostics["dead"].tolist() == [0.0] * 1000


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match=f"expected tau > 0, got {tau}"):
        Gumbel(tau)


@pytest.mark.parametrize("hard", [True, False])
def test_no_masked_item_is_drawn_in_a_million_draws(hard: bool) -> None:
    slots, items, rows = 4, 8, 250_000
    mask = torch.rand(slots, items, generator=generator_from(0)) < 0.5
    mask[:, 3] = True
    logits = torch.randn(slots, items, generator=generator_from(1)).where(mask, torch.tensor(1e4))
    recorder = Recorder(torch.ones(slots, items))
    estimate = Gumbel(1.0, hard)(logits.expand(rows, slots, items), recorder, mask, generator_from(2))
    assert estimate.choice.numel() == 1_000_000
    for slot in range(slots):
        drawn = set(torch.unique(estimate.choice[:, slot]).tolist())
        assert drawn == set(mask[slot].nonzero().flatten().tolist())
    assert float(recorder.selection.masked_select(~mask).abs().max()) == 0.0
    place = mask[0].cumsum(dim=0) - 1
    assert worst_z(place[estimate.choice[:, 0]], torch.softmax(logits[0][mask[0]], dim=-1)) < 5


def test_masks_of_single_rows_hold_row_by_row_and_masked_items_get_no_gradient() -> None:
    mask = torch.rand(500, 3, 5, generator=generator_from(0)) < 0.5
    mask[..., 2] = True
    leaf = torch.zeros(500, 3, 5).requires_grad_()
    weights = torch.randn(3, 5, generator=generator_from(3))
    estimate = Gumbel()(leaf, Recorder(weights), mask, generator_from(1))
    assert bool(mask.gather(-1, estimate.choice.unsqueeze(-1)).all())
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    assert bool(gradient.isfinite().all())
    assert float(gradient[~mask].abs().max()) == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("tau", [0.01, 1.0])
@pytest.mark.parametrize("hard", [True, False])
def test_huge_logits_decide_the_draw_and_give_finite_gradients(dtype: torch.dtype, tau: float, hard: bool) -> None:
    logits = torch.full((100, 2, 3), -1e4, dtype=dtype)
    logits[:, 0, 1] = 1e4
    logits[:, 1, 2] = 1e4
    leaf = logits.requires_grad_()
    estimate = Gumbel(tau, hard)(leaf, Recorder(torch.ones(2, 3)), generator=generator_from(0))
    assert estimate.choice.tolist() == [[1, 2]] * 100
    assert bool(estimate.score.isfinite().all()) and estimate.score.dtype == dtype
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    assert gradient.dtype == dtype and bool(gradient.isfinite().all())


def test_equal_huge_logits_still_draw_evenly() -> None:
    rows = torch.full((100_000, 1, 4), 1e4)
    choice = Gumbel()(rows, Recorder(torch.zeros(1, 4)), generator=generator_from(0)).choice
    assert worst_z(choice, torch.full((4,), 0.25)) < 5


def test_the_memory_layout_of_the_logits_does_not_matter() -> None:
    logits = torch.randn(6, 5, 4, generator=generator_from(0)).transpose(0, 2)
    assert not logits.is_contiguous()
    recorder = Recorder(torch.randn(5, 6, generator=generator_from(1)))
    gradient = gradient_of(Gumbel(0.7), logits.contiguous(), recorder, generator_from(2))
    leaf = logits.requires_grad_()
    estimate = Gumbel(0.7)(leaf, recorder, generator=generator_from(2))
    (strided,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    assert torch.equal(strided, gradient)


@pytest.mark.parametrize("hard", [True, False])
def test_rows_may_have_further_leading_dimensions(hard: bool) -> None:
    logits = torch.randn(3, 5, 2, 4, generator=generator_from(0))
    estimate = Gumbel(0.01, hard)(logits, Recorder(torch.ones(2, 4)), generator=generator_from(1))
    flat = Gumbel(0.01, hard)(logits.flatten(0, 1), Recorder(torch.ones(2, 4)), generator=generator_from(1))
    assert estimate.choice.shape == (3, 5, 2) and torch.equal(estimate.choice.flatten(0, 1), flat.choice)
    assert estimate.score.shape == (3, 5) and torch.equal(estimate.score.flatten(), flat.score)
    assert estimate.forwards == 15
    assert estimate.diagnostics["dead"].shape == (3, 5)
    assert torch.equal(estimate.diagnostics["dead"].flatten(), flat.diagnostics["dead"])


def test_draws_repeat_under_a_generator_and_leave_the_global_one_alone() -> None:
    logits = torch.zeros(50, 3, 6)
    recorder = Recorder(torch.randn(3, 6, generator=generator_from(9)))
    before = torch.get_rng_state()
    first, second, other = (Gumbel()(logits, recorder, generator=generator_from(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.choice, second.choice) and torch.equal(first.score, second.score)
    assert not torch.equal(first.choice, other.choice)


def test_without_a_generator_the_global_one_is_drawn_from() -> None:
    logits = torch.zeros(50, 3, 6)
    recorder = Recorder(torch.ones(3, 6))
    with seeded_initialisation(1):
        drawn = Gumbel()(logits, recorder).choice
    assert torch.equal(drawn, Gumbel()(logits, recorder, generator=generator_from(1)).choice)

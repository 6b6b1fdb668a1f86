"""What all selectors share, proved on its own: masks and their refusals, one-hot rows, Gumbel noise and pass-through.

The noise is held against the exact Gumbel law by a Kolmogorov-Smirnov test that a wrong noise must fail, and the
pass-through against the arithmetic that looks the same but is not exactly one-hot.
"""

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from slot_rl.seeding import generator_from
from slot_rl.selectors import Estimate, Gumbel, Selector, StraightThrough, masked_logits
from slot_rl.selectors.base import gumbel_noise, one_hot, through

SELECTORS: list[Selector] = [Gumbel(), Gumbel(hard=False), StraightThrough(), StraightThrough(noise=False)]


def total(selection: Tensor) -> Tensor:
    """The sum of a selection's entries, weighted by their place: a linear objective."""
    places = torch.arange(1.0, selection.shape[-1] + 1, dtype=selection.dtype)
    return (selection * places).flatten(-2).sum(dim=-1)


def test_masked_logits_without_a_mask_are_the_logits_themselves() -> None:
    logits = torch.randn(2, 3, 4, generator=generator_from(0))
    assert masked_logits(logits, None) is logits


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 4), (1, 1, 4), (4,), (2, 1, 4), (2, 3, 1)])
def test_masked_logits_are_minus_infinity_exactly_where_the_broadcast_mask_is_false(shape: tuple[int, ...]) -> None:
    logits = torch.randn(2, 3, 4, generator=generator_from(0))
    mask = torch.rand(shape, generator=generator_from(1)) < 0.6
    mask[..., -1] = True
    masked = masked_logits(logits, mask)
    assert masked.shape == logits.shape
    for row in range(2):
        for slot in range(3):
            for item in range(4):
                allowed = bool(mask.expand(2, 3, 4)[row, slot, item])
                expected = float(logits[row, slot, item]) if allowed else -math.inf
                assert float(masked[row, slot, item]) == expected


def test_masked_logits_send_no_gradient_to_masked_items() -> None:
    logits = torch.zeros(1, 1, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([True, False, True])
    torch.softmax(masked_logits(logits, mask), dim=-1)[0, 0, 0].backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == [0.25, 0.0, -0.25]


@pytest.mark.parametrize("selector", SELECTORS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64], ids=str)
def test_a_mask_that_is_not_boolean_is_refused(selector: Selector, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"expected a boolean mask, got {dtype}"):
        selector(torch.zeros(2, 3, 4), total, torch.ones(2, 3, 4, dtype=dtype), generator_from(0))


@pytest.mark.parametrize("selector", SELECTORS, ids=repr)
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3), (3, 3, 4), (5, 2, 3, 4)])
def test_a_mask_of_the_wrong_shape_is_refused(selector: Selector, shape: tuple[int, ...]) -> None:
    message = r"expected a mask that broadcasts to the logits' shape \(2, 3, 4\), got \(" + str(shape[0])
    with pytest.raises(ValueError, match=message):
        selector(torch.zeros(2, 3, 4), total, torch.ones(shape, dtype=torch.bool), generator_from(0))


@pytest.mark.parametrize("selector", SELECTORS, ids=repr)
def test_a_slot_without_an_allowed_item_is_refused(selector: Selector) -> None:
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[1, 2] = False
    with pytest.raises(ValueError, match="expected at least one allowed item in every slot, got a slot whose items"):
        selector(torch.zeros(2, 3, 4), total, mask, generator_from(0))


def test_logits_without_slots_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected logits of shape \(..., slots, items\), got \(4,\)"):
        masked_logits(torch.zeros(4), None)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 7), st.integers(0, 1000))
def test_one_hot_rows_hold_a_single_exact_one(shape: list[int], items: int, seed: int) -> None:
    choice = torch.randint(items, shape, generator=generator_from(seed))
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        rows = one_hot(choice, items, dtype)
        assert rows.dtype == dtype and rows.shape == (*shape, items)
        assert torch.equal(rows.argmax(dim=-1), choice)
        assert torch.equal(rows.sum(dim=-1), torch.ones(shape, dtype=dtype))
        assert set(rows.flatten().tolist()) <= {0.0, 1.0}


def ks_p_value(noise: Tensor) -> float:
    """How likely a sample of the Gumbel law is to lie as far from it as this noise does."""
    return float(stats.kstest(noise.double().flatten().numpy(), "gumbel_r").pvalue)


def test_gumbel_noise_follows_the_gumbel_law_and_the_test_would_notice_another() -> None:
    noise = gumbel_noise(torch.zeros(200, 1000), generator_from(0))
    assert ks_p_value(noise) > 1e-4
    assert abs(float(noise.mean()) - 0.57722) < 0.015
    assert abs(float(noise.var()) - math.pi**2 / 6) < 0.05
    assert ks_p_value(noise * 1.02) < 1e-4


@pytest.mark.parametrize(
    ("given_dtype", "drawn"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
    ids=str,
)
def test_gumbel_noise_is_drawn_in_float32_or_better(given_dtype: torch.dtype, drawn: torch.dtype) -> None:
    noise = gumbel_noise(torch.zeros(3, 5, dtype=given_dtype), generator_from(0))
    assert noise.dtype == drawn and noise.shape == (3, 5)


def test_gumbel_noise_stays_finite_where_the_generator_draws_an_exact_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(self: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.zero_()

    monkeypatch.setattr(torch.Tensor, "exponential_", zeros)
    noise = gumbel_noise(torch.zeros(3), generator_from(0))
    assert bool(noise.isfinite().all())
    assert not bool((torch.full((3,), -torch.inf) + noise).isnan().any())


def naive_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The same sum in another order, which rounds on the way."""
    return hard + soft - soft.detach()


@pytest.mark.parametrize(("pass_through", "exact"), [(through, True), (naive_through, False)])
def test_through_is_bit_for_bit_the_hard_row_where_the_naive_form_is_not(
    pass_through: Callable[[Tensor, Tensor], Tensor], exact: bool
) -> None:
    soft = torch.softmax(3 * torch.randn(1000, 7, generator=generator_from(0)), dim=-1)
    hard = one_hot(soft.argmax(dim=-1), 7, torch.float32)
    assert torch.equal(pass_through(hard, soft), hard) is exact


def test_through_has_the_gradient_of_the_soft_row_and_none_of_the_hard_one() -> None:
    soft = torch.tensor([0.2, 0.3, 0.5], requires_grad=True)
    hard = torch.tensor([0.0, 0.0, 1.0], requires_grad=True)
    weights = torch.tensor([1.0, -2.0, 4.0])
    (through(hard.detach(), soft) * weights).sum().backward()
    assert soft.grad is not None and torch.equal(soft.grad, weights)
    assert hard.grad is None


def test_estimates_cannot_be_altered_and_have_no_diagnostics_unless_given() -> None:
    estimate = Estimate(torch.zeros(2), torch.zeros(2, 1, dtype=torch.long), torch.zeros(2), 2, 2)
    assert dict(estimate.diagnostics) == {}
    with pytest.raises(FrozenInstanceError, match="forwards"):
        estimate.forwards = 3  # type: ignore[misc]

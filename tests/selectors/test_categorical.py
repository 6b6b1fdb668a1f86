"""Tests of the functions of categorical slots: masks, one-hot rows, noise distributions, and the Jacobian.

Each distribution is compared with its exact form, and a slightly wrong variant must fail the same test. Derivatives are
compared with automatic differentiation of the function itself, at the same noise.
"""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors.categorical import (
    conditional_gumbel,
    draw,
    exponential_noise,
    gumbel_noise,
    jacobian_product,
    masked_logits,
    one_hot,
    swap_effects,
)

LOGITS = torch.tensor([0.3, -1.2, 2.0, 0.0, -3.0], dtype=torch.float64)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def law_p_value(sample: Tensor, law: str) -> float:
    """The p-value of the Kolmogorov-Smirnov test of a sample and a distribution of scipy."""
    return float(stats.kstest(sample.double().flatten().numpy(), law).pvalue)


def worst_z(choice: Tensor, probabilities: Tensor) -> float:
    """The largest deviation of an item's frequency from its probability, in standard deviations."""
    draws = choice.numel()
    counts = torch.bincount(choice.flatten(), minlength=len(probabilities)).double()
    p = probabilities.double()
    return float(((counts - draws * p) / (draws * p * (1 - p)).sqrt()).abs().max())


def test_masked_logits_without_a_mask_are_the_logits_themselves() -> None:
    logits = torch.randn(2, 3, 4, generator=generator_from(0))
    assert masked_logits(logits, None) is logits


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 4), (1, 1, 4), (4,), (2, 1, 4), (2, 3, 1)])
def test_masked_logits_are_minus_infinity_where_masked(shape: tuple[int, ...]) -> None:
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64], ids=str)
def test_a_mask_that_is_not_boolean_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"expected a boolean mask, got {dtype}"):
        masked_logits(torch.zeros(2, 3, 4), torch.ones(2, 3, 4, dtype=dtype))


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3), (3, 3, 4), (5, 2, 3, 4)])
def test_a_mask_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    message = r"expected a mask that broadcasts to the logits' shape \(2, 3, 4\), got \(" + str(shape[0])
    with pytest.raises(ValueError, match=message):
        masked_logits(torch.zeros(2, 3, 4), torch.ones(shape, dtype=torch.bool))


def test_a_slot_without_an_allowed_item_is_refused() -> None:
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[1, 2] = False
    with pytest.raises(ValueError, match="expected at least one allowed item in every slot, got a slot whose items"):
        masked_logits(torch.zeros(2, 3, 4), mask)


@pytest.mark.parametrize("mask", [None, torch.tensor([True, False, False])], ids=["no mask", "mask"])
def test_a_slot_with_only_infinite_logits_is_refused(mask: Tensor | None) -> None:
    logits = torch.full((1, 1, 3), -torch.inf)
    if mask is not None:
        logits[..., 1:] = 0.0
    with pytest.raises(ValueError, match="in every slot"):
        masked_logits(logits, mask)


def test_logits_without_slots_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected logits of shape \(..., slots, items\), got \(4,\)"):
        masked_logits(torch.zeros(4), None)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 7), st.integers(0, 1000))
def test_one_hot_rows_hold_a_single_exact_one(shape: list[int], items: int, seed: int) -> None:
    choice = torch.randint(items, shape, generator=generator_from(seed))
    for dtype in DTYPES:
        rows = one_hot(choice, items, dtype)
        assert rows.dtype == dtype and rows.shape == (*shape, items)
        assert torch.equal(rows.argmax(dim=-1), choice)
        assert torch.equal(rows.sum(dim=-1), torch.ones(shape, dtype=dtype))
        assert set(rows.flatten().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(("noise", "law"), [(exponential_noise, "expon"), (gumbel_noise, "gumbel_r")])
def test_noise_follows_its_law_and_the_test_would_notice_another(
    noise: Callable[[Tensor, torch.Generator | None], Tensor], law: str
) -> None:
    sample = noise(torch.zeros(200, 1000), generator_from(0))
    assert law_p_value(sample, law) > 1e-4
    assert law_p_value(sample * 1.02, law) < 1e-4


@pytest.mark.parametrize("noise", [exponential_noise, gumbel_noise])
@pytest.mark.parametrize("given_dtype", DTYPES, ids=str)
def test_noise_is_drawn_in_float32_or_better(
    noise: Callable[[Tensor, torch.Generator | None], Tensor], given_dtype: torch.dtype
) -> None:
    sample = noise(torch.zeros(3, 5, dtype=given_dtype), generator_from(0))
    assert sample.dtype == (torch.float64 if given_dtype == torch.float64 else torch.float32)
    assert sample.shape == (3, 5)


def test_gumbel_noise_is_finite_for_a_draw_of_exactly_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(self: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.zero_()

    monkeypatch.setattr(torch.Tensor, "exponential_", zeros)
    noise = gumbel_noise(torch.zeros(3), generator_from(0))
    assert bool(noise.isfinite().all())
    assert not bool((torch.full((3,), -torch.inf) + noise).isnan().any())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_draws_follow_the_softmax_of_the_logits(dtype: torch.dtype) -> None:
    logits = LOGITS.to(dtype)
    choice = draw(logits.expand(200_000, 1, 5), generator_from(1))
    assert choice.shape == (200_000, 1) and choice.dtype == torch.long
    assert worst_z(choice, torch.softmax(logits.double(), dim=-1)) < 5


@pytest.mark.parametrize("wrong", ["temperature", "normal noise"])
def test_the_test_of_the_draws_would_notice_another_law(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
        if wrong == "temperature":
            return gumbel_noise(like, generator) * 1.03
        return torch.randn(like.shape, generator=generator) * math.pi / math.sqrt(6)

    monkeypatch.setattr("slot_rl.selectors.categorical.gumbel_noise", noise)
    choice = draw(LOGITS.expand(200_000, 1, 5), generator_from(1))
    assert worst_z(choice, torch.softmax(LOGITS, dim=-1)) > 5


def test_rare_items_keep_their_probability_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([9.0, 0.0, 0.0, 1.0], dtype=torch.float16)
    p = torch.softmax(logits.double(), dim=-1)
    assert worst_z(draw(logits.expand(500_000, 4), generator_from(5)), p) < 5

    def half_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
        uniform = torch.rand(like.shape, generator=generator).half().clamp(6e-8, 1 - 1e-3)
        return -(-uniform.log()).log()

    monkeypatch.setattr("slot_rl.selectors.categorical.gumbel_noise", half_noise)
    assert worst_z(draw(logits.expand(500_000, 4), generator_from(5)), p) > 5


def test_slots_and_rows_are_drawn_independently() -> None:
    p = torch.softmax(LOGITS[:3], dim=-1)
    joint = torch.outer(p, p).flatten()
    choice = draw(LOGITS[:3].expand(200_000, 2, 3), generator_from(2))
    assert worst_z(3 * choice[:, 0] + choice[:, 1], joint) < 5
    assert worst_z(3 * choice[:-1, 0] + choice[1:, 0], joint) < 5
    assert worst_z(3 * choice[:, 0] + choice[:, 0], joint) > 5


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_equal_huge_logits_still_draw_evenly(shift: float) -> None:
    choice = draw(torch.full((200_000, 1, 4), shift), generator_from(0))
    assert worst_z(choice, torch.full((4,), 0.25)) < 5


def test_an_item_at_minus_infinity_is_never_drawn() -> None:
    logits = torch.tensor([-torch.inf, -1e4, -torch.inf, -3e4])
    assert torch.unique(draw(logits.expand(250_000, 4), generator_from(0))).tolist() == [1]
    even = torch.tensor([-torch.inf, -1e4, -torch.inf, -1e4])
    assert torch.unique(draw(even.expand(250_000, 4), generator_from(0))).tolist() == [1, 3]


def test_without_a_generator_the_global_one_is_drawn_from() -> None:
    rows = torch.zeros(50, 6)
    with seeded_initialisation(1):
        drawn = draw(rows, None)
    assert torch.equal(drawn, draw(rows, generator_from(1)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(1, 6),
    st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 10_000),
)
def test_conditional_noise_is_largest_at_the_given_choice(
    slots: int, items: int, scale: float, dtype: torch.dtype, seed: int
) -> None:
    generator = generator_from(seed)
    logits = (scale * torch.randn(20, slots, items, generator=generator)).to(dtype)
    mask = torch.rand(20, slots, items, generator=generator) < 0.7
    # Any choice is valid, even an unlikely one.
    choice = torch.randint(items, (20, slots), generator=generator)
    mask.scatter_(-1, choice.unsqueeze(-1), True)
    noisy, derivative = conditional_gumbel(masked_logits(logits, mask), choice, generator)
    assert noisy.dtype == derivative.dtype == dtype
    at_choice = noisy.gather(-1, choice.unsqueeze(-1))
    assert bool(at_choice.isfinite().all()) and bool((noisy <= at_choice).all())
    assert bool((noisy[~mask] == -torch.inf).all())
    assert bool(((derivative >= 0) & (derivative <= 1)).all())
    assert bool((derivative.gather(-1, choice.unsqueeze(-1)) == 0).all())


def test_the_argmax_of_conditional_noise_is_exactly_the_choice() -> None:
    logits = LOGITS.expand(200_000, 5)
    choice = torch.randint(5, (200_000,), generator=generator_from(0))
    assert torch.equal(conditional_gumbel(logits, choice, generator_from(1))[0].argmax(dim=-1), choice)


def right(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Noisy logits given a draw from the softmax."""
    return conditional_gumbel(logits, draw(logits, generator), generator)[0]


def given_any_item(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Noisy logits given a choice that is not a draw from the softmax."""
    choice = torch.randint(logits.shape[-1], logits.shape[:-1], generator=generator)
    return conditional_gumbel(logits, choice, generator)[0]


def chosen_noise_weighted(logits: Tensor, generator: torch.Generator) -> Tensor:
    """The wrong formula that also divides the choice's noise by its probability."""
    choice = draw(logits, generator).unsqueeze(-1)
    weighted = exponential_noise(logits, generator) / torch.softmax(logits, dim=-1)
    at_choice = weighted.gather(-1, choice)
    return -(weighted + at_choice).scatter(-1, choice, at_choice).log()


def independent_of_the_choice(logits: Tensor, generator: torch.Generator) -> Tensor:
    """The wrong formula without the choice's noise in the other items."""
    choice = draw(logits, generator).unsqueeze(-1)
    noise = exponential_noise(logits, generator)
    return -(noise / torch.softmax(logits, dim=-1)).scatter(-1, choice, noise.gather(-1, choice)).log()


def worst_p_value(noisy: Tensor, log_p: Tensor) -> float:
    """The lowest p-value for the distributions of the noise, of its differences and of its maximum.

    The differences do not depend on a constant that is added to a row. Those of independent Gumbels are logistic.
    """
    noise = noisy - log_p
    items = noise.shape[-1]
    values = [law_p_value(noise[:, item], "gumbel_r") for item in range(items)]
    values += [law_p_value(noise[:, m] - noise[:, n], "logistic") for m in range(items) for n in range(m)]
    return min([*values, law_p_value(noisy.amax(dim=-1), "gumbel_r")])


@pytest.mark.parametrize(
    ("perturb", "holds"),
    [(right, True), (given_any_item, False), (chosen_noise_weighted, False), (independent_of_the_choice, False)],
)
def test_conditional_noise_averages_to_fresh_noise(
    perturb: Callable[[Tensor, torch.Generator], Tensor], holds: bool
) -> None:
    log_p = torch.log_softmax(LOGITS[:4], dim=-1)
    noisy = perturb(LOGITS[:4].expand(20_000, 4), generator_from(3))
    # There are eleven tests; each p-value is uniform if the distribution is right.
    assert (worst_p_value(noisy, log_p) > 1e-4) is holds


def test_conditional_noise_agrees_with_rejection_sampling() -> None:
    """Compared for each given choice: fresh noise is kept only if it leads to that choice."""
    log_p = torch.log_softmax(LOGITS[:3], dim=-1)
    fresh = log_p + gumbel_noise(log_p.expand(60_000, 3), generator_from(0))
    choice = torch.tensor(1)
    kept = fresh[fresh.argmax(dim=-1) == choice]
    assert len(kept) > 1000
    noisy, _ = conditional_gumbel(log_p.expand(20_000, 3), choice.expand(20_000), generator_from(1))
    for item in range(3):
        assert stats.ks_2samp(kept[:, item].numpy(), noisy[:, item].numpy()).pvalue > 1e-4
        assert stats.ks_2samp(fresh[:, item].numpy(), noisy[:, item].numpy()).pvalue < 1e-4


@pytest.mark.parametrize("seed", range(4))
def test_the_conditional_derivative_is_that_at_fixed_noise(seed: int) -> None:
    generator = generator_from(seed)
    logits = 2 * torch.randn(5, dtype=torch.float64, generator=generator)
    choice = torch.randint(5, (), generator=generator)

    def noisy_at(value: Tensor) -> Tensor:
        return conditional_gumbel(value, choice, generator_from(seed))[0]

    _, derivative = conditional_gumbel(logits, choice, generator_from(seed))
    # A noisy logit depends on its own log-probability only, but on all logits.
    by_log_p = torch.diag(derivative)
    by_logits = by_log_p - torch.outer(derivative, torch.softmax(logits, dim=-1))
    jacobian = torch.autograd.functional.jacobian(noisy_at, logits)
    torch.testing.assert_close(jacobian, by_logits, atol=1e-12, rtol=0)
    steps = 1e-6 * torch.eye(5, dtype=torch.float64)
    differences = torch.stack([(noisy_at(logits + step) - noisy_at(logits - step)) / 2e-6 for step in steps], dim=-1)
    torch.testing.assert_close(differences, by_logits, atol=1e-8, rtol=0)
    assert 0.01 < float(derivative.max()) <= 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 6), st.booleans(), st.integers(0, 10_000))
def test_the_jacobian_product_is_that_of_the_softmax(slots: int, items: int, masked: bool, seed: int) -> None:
    generator = generator_from(seed)
    logits = 2 * torch.randn(slots, items, dtype=torch.float64, generator=generator)
    if masked:
        logits[:, 1:] = logits[:, 1:].masked_fill(torch.rand(slots, items - 1, generator=generator) < 0.4, -torch.inf)
    slope = torch.randn(slots, items, dtype=torch.float64, generator=generator)
    product = jacobian_product(torch.softmax(logits, dim=-1), slope)
    for slot in range(slots):
        jacobian = torch.autograd.functional.jacobian(lambda value: torch.softmax(value, dim=-1), logits[slot])
        torch.testing.assert_close(product[slot], jacobian @ slope[slot], atol=1e-14, rtol=1e-12)
    assert bool((product[logits == -torch.inf] == 0).all())
    assert float(product.sum(dim=-1).abs().max()) < 1e-13


def test_swap_effects_are_slopes_against_the_chosen_item() -> None:
    slope = torch.tensor([[[1.0, 4.0, 9.0], [2.0, -1.0, 7.0]]])
    assert swap_effects(slope, torch.tensor([[1, 0]])).tolist() == [[[-3.0, 0.0, 5.0], [0.0, -3.0, 5.0]]]

"""Tests of every registered selector: precision, masks, shapes, flags, noise and counts of calls.

The formulas of the selectors are tested elsewhere.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors import (
    NAMES,
    RLOO,
    Estimate,
    Exact,
    Gapped,
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
    Softmax,
    StraightThrough,
    make,
)
from slot_rl.selectors.categorical import one_hot

SELECTORS: list[Selector] = [
    *(make(name) for name in NAMES),
    Exact(chunk=10),
    Softmax(0.1),
    StraightThrough(noise=False),
    StraightThrough(tau_forward=2.0, tau_backward=0.5),
    Gumbel(hard=False),
    Gumbel(0.1),
    GumbelRao(0.1, k=1),
    ReinMax(2.0),
    Gapped(0.5, 0.1),
    IntermediateLoss(normaliser="simplex"),
    IntermediateLoss(normaliser="sum"),
    IntermediateLoss(normaliser="sum", faithful=True),
    Reinforce("none"),
    RLOO(2),
    LocalExpectation(chunk=10),
    ScreenedExpectation(m=1),
    ScreenedExpectation(m=1, chunk=10),
    ScreenedExpectation(m=100),
    Rebar(0.5, 0.1),
]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WITHOUT_SLOPE = {"exact", "reinforce", "rloo", "local_expectation"}

every_selector = pytest.mark.parametrize("selector", SELECTORS, ids=repr)
few_examples = settings(max_examples=10, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)


def smooth(selection: Tensor) -> Tensor:
    """An objective with interacting slots, values of ordinary size, and no symmetry between items or slots."""
    slots, items = selection.shape[-2:]
    places = torch.arange(slots * items, dtype=selection.dtype).view(slots, items)
    mixed = (selection * (places + 0.5).sin()).flatten(-2).sum(dim=-1)
    return mixed + (selection * places.cos()).flatten(-2).sum(dim=-1) * mixed


def not_differentiable(selection: Tensor) -> Tensor:
    """A look-up in a table, which has no gradient."""
    with torch.no_grad():
        return selection.argmax(dim=-1).to(selection.dtype).sum(dim=-1).cos()


class Listener:
    """An objective that counts the configurations that it scores and differentiates in each call."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.scored: list[int] = []
        self.differentiated: list[int] = []
        self.dtypes: set[torch.dtype] = set()

    def __call__(self, selection: Tensor) -> Tensor:
        score = self.objective(selection)
        self.scored.append(score.numel())
        self.dtypes.add(selection.dtype)
        if score.requires_grad:
            score.register_hook(lambda gradient: self.differentiated.append(gradient.numel()))
        return score


class Network(nn.Module):
    """A small trained objective in training mode, whose parameters require gradients."""

    def __init__(self, slots: int, items: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(slots * items, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, selection: Tensor) -> Tensor:
        score: Tensor = self.layers(selection.flatten(-2))
        return score.squeeze(-1)


def random_logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal logits."""
    return torch.randn(shape, dtype=torch.float64, generator=generator_from(seed)).to(dtype)


def random_mask(*shape: int, seed: int = 0) -> Tensor:
    """A mask that allows about half of the items, and at least one per slot."""
    generator = generator_from(seed)
    mask = torch.rand(shape, generator=generator) < 0.5
    kept = torch.randint(shape[-1], shape[:-1], generator=generator)
    return mask.scatter(-1, kept.unsqueeze(-1), True)


def estimated(
    selector: Selector,
    logits: Tensor,
    objective: Objective = smooth,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Estimate, Tensor]:
    """One estimate, and the gradient of the logits in their own memory layout."""
    leaf = logits.detach().requires_grad_()
    estimate = selector(leaf, objective, mask, generator)
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    return estimate, gradient


@every_selector
@few_examples
@given(st.integers(0, 4), st.integers(1, 3), st.integers(1, 5), st.sampled_from(DTYPES), st.booleans(), seeds)
def test_gradients_are_finite_and_in_the_logits_precision(
    selector: Selector, batch: int, slots: int, items: int, dtype: torch.dtype, masked: bool, seed: int
) -> None:
    logits = random_logits(batch, slots, items, seed=seed, dtype=dtype)
    mask = random_mask(batch, slots, items, seed=seed) if masked else None
    listener = Listener(smooth)
    estimate, gradient = estimated(selector, logits, listener, mask, generator_from(seed))
    assert gradient.dtype == dtype and gradient.shape == logits.shape and bool(gradient.isfinite().all())
    assert estimate.surrogate.dtype == estimate.score.dtype == dtype
    assert bool(estimate.surrogate.isfinite().all()) and torch.equal(estimate.surrogate, estimate.score)
    assert estimate.choice.shape == (batch, slots) and estimate.choice.dtype == torch.long
    # Configurations have the caller's precision, which is that of the objective.
    assert listener.dtypes == {dtype}


@every_selector
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_draws_as_float32_does(selector: Selector, dtype: torch.dtype) -> None:
    logits = random_logits(50, 2, 4, dtype=dtype)
    half, gradient = estimated(selector, logits, generator=generator_from(1))
    single, expected = estimated(selector, logits.float(), generator=generator_from(1))
    assert torch.equal(half.choice, single.choice)
    error = (gradient.float() - expected).norm() / expected.norm()
    # Scores are rounded as well, and selectors multiply their differences.
    assert float(error) < (0.02 if dtype == torch.float16 else 0.15)


@every_selector
@few_examples
@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from(DTYPES), st.booleans(), seeds)
def test_huge_logits_give_finite_gradients(
    selector: Selector, slots: int, items: int, dtype: torch.dtype, masked: bool, seed: int
) -> None:
    levels = torch.tensor([-1e4, 0.0, 1e4], dtype=dtype)
    logits = levels[torch.randint(3, (20, slots, items), generator=generator_from(seed))]
    mask = random_mask(20, slots, items, seed=seed) if masked else None
    estimate, gradient = estimated(selector, logits, mask=mask, generator=generator_from(seed))
    assert bool(gradient.isfinite().all()) and bool(estimate.surrogate.isfinite().all())
    chosen = logits.gather(-1, estimate.choice.unsqueeze(-1))
    assert torch.equal(chosen, (logits if mask is None else logits.masked_fill(~mask, -2e4)).amax(-1, keepdim=True))


@every_selector
@few_examples
@given(st.integers(1, 3), st.integers(1, 5), st.sampled_from(["rows", "slots", "items"]), seeds)
def test_masked_items_are_not_chosen_and_get_no_gradient(
    selector: Selector, slots: int, items: int, shape: str, seed: int
) -> None:
    logits = random_logits(20, slots, items, seed=seed)
    shapes = {"rows": (20, slots, items), "slots": (slots, items), "items": (1, 1, items)}
    mask = random_mask(*shapes[shape], seed=seed)
    # The masked items would be the most likely ones.
    logits = torch.where(mask, logits, logits + 10)
    estimate, gradient = estimated(selector, logits, mask=mask, generator=generator_from(seed))
    allowed = mask.expand(20, slots, items)
    assert bool(allowed.gather(-1, estimate.choice.unsqueeze(-1)).all())
    assert bool((gradient[~allowed] == 0).all()) and bool(gradient.isfinite().all())


@every_selector
def test_what_lies_behind_a_mask_does_not_matter(selector: Selector) -> None:
    logits, mask = random_logits(20, 2, 4), random_mask(20, 2, 4)
    results = []
    for behind in (0.0, 1e4, -1e4, torch.inf, -torch.inf, torch.nan):
        altered = torch.where(mask, logits, behind)
        estimate, gradient = estimated(selector, altered, mask=mask, generator=generator_from(0))
        results.append((estimate.choice, estimate.surrogate.detach(), gradient))
    for other in results[1:]:
        assert all(torch.equal(value, expected) for value, expected in zip(other, results[0], strict=True))


@every_selector
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_the_objective_says_of_masked_items_does_not_matter(selector: Selector, value: float) -> None:
    logits, mask = random_logits(20, 2, 4), torch.tensor([[True, True, False, True], [False, True, True, True]])

    def undefined(selection: Tensor) -> Tensor:
        masked = (selection * ~mask > 0.5).flatten(-2).any(dim=-1)
        return smooth(selection).where(~masked, value)

    estimate, gradient = estimated(selector, logits, undefined, mask, generator_from(0))
    expected, expected_gradient = estimated(selector, logits, smooth, mask, generator_from(0))
    assert torch.equal(estimate.choice, expected.choice) and torch.equal(estimate.surrogate, expected.surrogate)
    assert torch.equal(gradient, expected_gradient)


@every_selector
def test_a_slot_without_an_allowed_item_is_refused(selector: Selector) -> None:
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[1, 2] = False
    with pytest.raises(ValueError, match="expected at least one allowed item in every slot"):
        selector(torch.zeros(2, 3, 4), smooth, mask, generator_from(0))


@every_selector
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64], ids=str)
def test_a_mask_that_is_not_boolean_is_refused(selector: Selector, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"expected a boolean mask, got {dtype}"):
        selector(torch.zeros(2, 3, 4), smooth, torch.ones(2, 3, 4, dtype=dtype), generator_from(0))


@every_selector
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3), (3, 3, 4), (5, 2, 3, 4)])
def test_a_mask_of_the_wrong_shape_is_refused(selector: Selector, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a mask that broadcasts to the logits' shape \(2, 3, 4\)"):
        selector(torch.zeros(2, 3, 4), smooth, torch.ones(shape, dtype=torch.bool), generator_from(0))


# The selectors with their own code for the choice, and the cheapest one of each name.
DRAWING: list[Selector] = [
    Exact(),
    Softmax(),
    StraightThrough(),
    StraightThrough(noise=False),
    Gumbel(),
    Gumbel(hard=False),
    GumbelRao(k=1),
    ReinMax(),
    Gapped(),
    IntermediateLoss(),
    Reinforce(),
    RLOO(2),
    LocalExpectation(),
    ScreenedExpectation(m=1),
    Rebar(),
]


@pytest.mark.parametrize("selector", DRAWING, ids=repr)
def test_a_million_draws_follow_the_masked_softmax(selector: Selector) -> None:
    logits = torch.tensor([1e4, 0.5, -1.0, -torch.inf])
    mask = torch.tensor([False, True, True, True])
    rows = logits.expand(1_000_000, 1, 4)
    estimate = selector(rows, lambda selection: selection[..., 0, 1], mask, generator_from(3))
    counts = torch.bincount(estimate.choice.flatten(), minlength=4).tolist()
    assert counts[0] == counts[3] == 0
    if isinstance(selector, Softmax) or selector == StraightThrough(noise=False):
        assert counts == [0, 1_000_000, 0, 0]
    else:
        p = float(torch.sigmoid(torch.tensor(1.5, dtype=torch.float64)))
        assert abs(counts[1] - 1e6 * p) / (1e6 * p * (1 - p)) ** 0.5 < 5


def test_the_million_draws_try_every_name() -> None:
    assert {selector.name for selector in DRAWING} == {selector.name for selector in SELECTORS} == set(NAMES)


@every_selector
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_memory_layout_of_the_logits_does_not_matter(selector: Selector, dtype: torch.dtype) -> None:
    wide = random_logits(30, 3, 12, dtype=dtype)
    transposed = random_logits(6, 5, 4, seed=1, dtype=dtype).transpose(0, 2)
    for logits in (transposed, wide[::2, :, ::2], wide[:1, :, :5].expand(7, 3, 5)):
        assert not logits.is_contiguous()
        strided, gradient = estimated(selector, logits, generator=generator_from(2))
        straight, expected = estimated(selector, logits.contiguous(), generator=generator_from(2))
        assert torch.equal(strided.choice, straight.choice) and torch.equal(strided.score, straight.score)
        assert torch.equal(gradient, expected)


@every_selector
@pytest.mark.parametrize("leading", [(3, 5), (2, 1, 4), (1,), ()], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_rows_may_have_any_leading_dimensions(selector: Selector, dtype: torch.dtype, leading: tuple[int, ...]) -> None:
    rows = torch.Size(leading).numel()
    logits, mask = random_logits(rows, 2, 4, dtype=dtype), random_mask(rows, 2, 4)
    flat, expected = estimated(selector, logits, mask=mask, generator=generator_from(1))
    shape = (*leading, 2, 4)
    deep, gradient = estimated(selector, logits.view(shape), mask=mask.view(shape), generator=generator_from(1))
    assert deep.choice.shape == (*leading, 2) and deep.surrogate.shape == deep.score.shape == leading
    assert deep.score.dtype == flat.score.dtype == dtype
    assert deep.diagnostics["dead"].shape == leading and gradient.shape == shape
    assert torch.equal(deep.choice.view(rows, 2), flat.choice) and torch.equal(deep.score.view(rows), flat.score)
    assert torch.equal(deep.diagnostics["dead"].view(rows), flat.diagnostics["dead"])
    assert torch.equal(gradient.view(rows, 2, 4), expected)
    assert (deep.forwards, deep.backwards) == (flat.forwards, flat.backwards)


@pytest.mark.parametrize("chunk", [1, 3, 7, 20, 64, 100])
@pytest.mark.parametrize(
    "chunked",
    [
        lambda chunk: Exact(chunk=chunk),
        lambda chunk: LocalExpectation(chunk),
        lambda chunk: ScreenedExpectation(1, chunk),
        lambda chunk: ScreenedExpectation(2, chunk),
        lambda chunk: ScreenedExpectation(9, chunk),
    ],
    ids=["exact", "local_expectation", "screened 1", "screened 2", "screened all"],
)
def test_chunks_limit_calls_and_do_not_change_estimates(chunked: Callable[[int], Selector], chunk: int) -> None:
    rows = 7
    logits, mask = random_logits(rows, 3, 4), random_mask(rows, 3, 4)
    whole, in_parts = Listener(smooth), Listener(smooth)
    expected, expected_gradient = estimated(chunked(1_000_000), logits, whole, mask, generator_from(1))
    estimate, gradient = estimated(chunked(chunk), logits, in_parts, mask, generator_from(1))
    assert torch.equal(estimate.choice, expected.choice) and torch.equal(estimate.score, expected.score)
    assert float(expected_gradient.abs().max()) > 0.01
    assert float((gradient - expected_gradient).abs().max()) < 1e-12
    assert max(in_parts.scored) <= max(chunk, rows)
    assert sum(in_parts.scored) == sum(whole.scored) == estimate.forwards == expected.forwards
    # Only the calls that the bound requires, plus one for the draw and one for the last part.
    per_call = max(1, chunk // rows) * rows
    assert len(in_parts.scored) <= 1 + -(-sum(in_parts.scored) // per_call)
    assert max(whole.scored) > max(chunk, rows) or chunk >= 64


@every_selector
@pytest.mark.parametrize("training", [True, False])
def test_a_trained_objective_is_left_as_found(selector: Selector, training: bool) -> None:
    with seeded_initialisation(0):
        network = Network(2, 4).train(training)
    network.layers[0].requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    flags = [parameter.requires_grad for parameter in network.parameters()]
    seen: list[tuple[bool, list[bool]]] = []

    def watched(selection: Tensor) -> Tensor:
        seen.append((network.training, [parameter.requires_grad for parameter in network.parameters()]))
        score: Tensor = network(selection)
        return score

    _, gradient = estimated(selector, random_logits(5, 2, 4, dtype=torch.float32), watched, None, generator_from(0))
    leaf = random_logits(5, 2, 4, dtype=torch.float32).requires_grad_()
    selector(leaf, watched, None, generator_from(0)).surrogate.sum().backward()
    assert leaf.grad is not None and torch.equal(leaf.grad, gradient) and float(gradient.abs().max()) > 0
    assert seen and all(now == (training, flags) for now in seen)
    assert network.training is training and flags == [False, False, True, True]
    assert [parameter.requires_grad for parameter in network.parameters()] == flags
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@every_selector
def test_estimates_depend_on_the_given_generator_alone(selector: Selector) -> None:
    logits, before = random_logits(50, 2, 4), torch.get_rng_state()
    (first, gradient), (second, again), (other, _) = (
        estimated(selector, logits, generator=generator_from(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.choice, second.choice) and torch.equal(gradient, again)
    draws = not (isinstance(selector, Softmax) or selector == StraightThrough(noise=False))
    assert torch.equal(first.choice, other.choice) is not draws


@every_selector
def test_without_a_generator_the_global_one_is_drawn_from(selector: Selector) -> None:
    logits = random_logits(50, 2, 4)
    with seeded_initialisation(1):
        drawn, gradient = estimated(selector, logits)
    expected, expected_gradient = estimated(selector, logits, generator=generator_from(1))
    assert torch.equal(drawn.choice, expected.choice) and torch.equal(gradient, expected_gradient)


@every_selector
@few_examples
@given(st.integers(0, 5), st.integers(1, 3), st.integers(1, 5), st.booleans(), seeds)
def test_the_counts_are_the_calls_and_the_announced_cost(
    selector: Selector, rows: int, slots: int, items: int, masked: bool, seed: int
) -> None:
    listener = Listener(smooth)
    mask = random_mask(rows, slots, items, seed=seed) if masked else None
    estimate, _ = estimated(selector, random_logits(rows, slots, items), listener, mask, generator_from(seed))
    assert (estimate.forwards, estimate.backwards) == (sum(listener.scored), sum(listener.differentiated))
    forwards, backwards = selector.cost(slots, items)
    assert (estimate.forwards, estimate.backwards) == (rows * forwards, rows * backwards)


@every_selector
def test_scores_belong_to_the_choice_if_scores_draws(selector: Selector) -> None:
    relaxed = isinstance(selector, Softmax) or selector == Gumbel(hard=False)
    own_law = selector in (StraightThrough(noise=False), StraightThrough(tau_forward=2.0, tau_backward=0.5))
    assert selector.scores_draws is not (relaxed or own_law)
    estimate, _ = estimated(selector, random_logits(50, 2, 4), generator=generator_from(0))
    assert torch.equal(estimate.score, smooth(one_hot(estimate.choice, 4, torch.float64))) is not relaxed


@every_selector
def test_rows_are_dead_exactly_where_their_gradient_is_zero(selector: Selector) -> None:
    mask = random_mask(40, 2, 4)
    # A slot with a single item has no gradient; the other slot of the row may have one.
    mask[::4] = torch.tensor([False, True, False, False])
    mask[1::4, 0] = torch.tensor([True, False, False, False])
    estimate, gradient = estimated(selector, random_logits(40, 2, 4), mask=mask, generator=generator_from(0))
    zero = (gradient == 0).flatten(-2).all(dim=-1)
    assert estimate.diagnostics["dead"].tolist() == zero.double().tolist()
    assert not bool(zero.all())
    # The projection on the simplex has rounding errors, and the faithful form is not zero for a single item.
    if not isinstance(selector, IntermediateLoss) or selector.normaliser == "mirror":
        assert bool(zero[::4].all())


@every_selector
@few_examples
@given(st.integers(1, 3), st.integers(2, 5), st.booleans(), seeds)
def test_a_slot_s_gradient_sums_to_zero(selector: Selector, slots: int, items: int, masked: bool, seed: int) -> None:
    mask = random_mask(20, slots, items, seed=seed) if masked else None
    logits = random_logits(20, slots, items, seed=seed)
    _, gradient = estimated(selector, logits, mask=mask, generator=generator_from(seed))
    drift = float(gradient.sum(dim=-1).abs().max())
    # The form as first published lets the logits drift; this is its error.
    faithful = isinstance(selector, IntermediateLoss) and selector.faithful
    assert (drift < 1e-12 * max(1.0, float(gradient.abs().max()))) is not faithful
    assert not faithful or drift > 0.5


@every_selector
def test_only_selectors_with_slopes_need_a_gradient(selector: Selector) -> None:
    logits = random_logits(10, 2, 4)
    assert (selector.cost(2, 4)[1] == 0) is (selector.name in WITHOUT_SLOPE)
    if selector.name in WITHOUT_SLOPE:
        _, gradient = estimated(selector, logits, not_differentiable, None, generator_from(0))
        assert bool(gradient.isfinite().all()) and float(gradient.abs().max()) > 0
    else:
        with pytest.raises(TypeError, match="expected a differentiable objective, got one whose score has no gradient"):
            selector(logits, not_differentiable, None, generator_from(0))


@pytest.mark.parametrize("name", sorted(WITHOUT_SLOPE))
def test_scores_may_be_whole_numbers_where_no_slope_is_needed(name: str) -> None:
    def count(selection: Tensor) -> Tensor:
        return selection.argmax(dim=-1).sum(dim=-1)

    logits = random_logits(10, 2, 4)
    _, expected = estimated(make(name), logits, lambda selection: count(selection).double(), None, generator_from(0))
    _, gradient = estimated(make(name), logits, count, None, generator_from(0))
    assert torch.equal(gradient, expected)

"""Selectors under rules: means over every allowed draw, formulas at the logits on its condition, and refusals.

Draws are forced: the rules return given choices. The mean over all of them is exact, and that of an unbiased selector
is the gradient of the expected score, which automatic differentiation finds from the list of allowed choices. Slightly
wrong variants must miss it.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slot_rl.problems.constraints.tables import PrefixIndex, TableRules
from slot_rl.seeding import generator_from
from slot_rl.selectors import (
    NAMES,
    RLOO,
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
from slot_rl.selectors import local_expectation as local_module
from slot_rl.selectors import screened_expectation as screened_module
from slot_rl.selectors.base import Draws, GivenDraw
from slot_rl.selectors.categorical import conditional_gumbel
from slot_rl.selectors.rules import Rules
from tests.helpers.equivalence import ForcedDraw, all_choices, difference_z, mean_z, vertices
from tests.selectors.rule_cases import CASES, DISTINCT, FREE, ROWS, RuleCase, rule_cases

every_case = pytest.mark.parametrize("case", CASES, ids=str)
TABLE = CASES[3]


class ForcedRules(Rules):
    """Rules whose draws are given choices."""

    def __init__(self, rules: Rules, choice: Tensor) -> None:
        self._rules, self._choice = rules, choice

    def open_items(self, choice: Tensor, slot: int | None = None) -> Tensor:
        return self._rules.open_items(choice, slot)

    def draw(self, logits: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._choice, self._rules.conditional(logits, self._choice)


def gradient_at(selector: Selector, case: RuleCase, logits: Tensor, objective: Objective, choice: Tensor) -> Tensor:
    """The estimates of forced draws ``(draws, slots)``, or ``(k, draws, slots)`` where a row has several."""
    rules = ForcedRules(case.build(choice.shape[-2]), choice)
    leaf = logits.expand(choice.shape[-2], *case.shape).clone().requires_grad_()
    estimate = selector(leaf, objective, rules=rules)
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    return gradient


def mean_over_draws(selector: Selector, case: RuleCase, logits: Tensor, objective: Objective, k: int = 1) -> Tensor:
    """The exact mean over every draw of k choices."""
    allowed, p = case.allowed, case.log_law(logits).exp()
    joint = torch.cartesian_prod(*[torch.arange(len(allowed))] * k).view(-1, k).T
    choice = allowed[joint]
    gradient = gradient_at(selector, case, logits, objective, choice[0] if k == 1 else choice)
    return torch.einsum("r,rsn->sn", p[joint].prod(dim=0), gradient)


def off_by(selector: Selector, case: RuleCase, seed: int, k: int = 1) -> float:
    """The distance of the mean over every draw from the gradient of the expected score."""
    logits, objective = case.logits(seed), case.objective(seed)
    truth = case.true_gradient(logits, objective)
    assert float(truth.abs().max()) > 0.02
    return float((mean_over_draws(selector, case, logits, objective, k) - truth).abs().max())


def no_baseline(score: Tensor) -> Tensor:
    return torch.zeros_like(score)


@every_case
@pytest.mark.parametrize("seed", range(3))
def test_value_based_selectors_are_unbiased_under_rules(
    case: RuleCase, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Forced draws are one batch, whose rows are not independent: no baseline of the other rows.
    monkeypatch.setattr(local_module, "mean_of_others", no_baseline)
    for selector in (Reinforce("none"), LocalExpectation(), LocalExpectation(chunk=1), Exact(), Exact(chunk=50)):
        assert off_by(selector, case, seed) < 1e-10
    assert off_by(RLOO(2), case, seed, k=2) < 1e-10


def test_rloo_with_three_draws_is_unbiased_under_rules() -> None:
    assert off_by(RLOO(3), TABLE, 0, k=3) < 1e-10


@every_case
def test_every_row_of_exact_is_the_true_gradient(case: RuleCase) -> None:
    logits, objective = case.logits(5), case.objective(5)
    gradient = gradient_at(Exact(), case, logits, objective, case.allowed)
    truth = case.true_gradient(logits, objective)
    assert float((gradient - truth).abs().max()) < 1e-10


def test_the_same_p_for_every_draw_of_rloo_would_be_biased() -> None:
    logits, objective = TABLE.logits(0), TABLE.objective(0)
    allowed, p = TABLE.allowed, TABLE.log_law(logits).exp()
    first, second = torch.cartesian_prod(*[torch.arange(len(allowed))] * 2).T
    z, f = vertices(allowed, 4), objective(vertices(allowed, 4))
    advantage = (f[first] - f[second])[:, None, None] / 2
    mean = torch.einsum("r,rsn->sn", p[first] * p[second], advantage * (z[first] - z[second]))
    assert float((mean - TABLE.true_gradient(logits, objective)).abs().max()) > 0.01


def test_swaps_that_ignore_later_slots_would_be_biased(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_own_slot(rules: Rules, logits: Tensor, choice: Tensor, chunk: int) -> Tensor:
        return torch.softmax(logits.masked_fill(~rules.open_items(choice), -torch.inf), dim=-1)

    monkeypatch.setattr(local_module, "mean_of_others", no_baseline)
    assert max(off_by(LocalExpectation(), case, 0) for case in CASES) < 1e-10
    monkeypatch.setattr(local_module, "swap_probabilities", by_own_slot)
    assert min(off_by(LocalExpectation(), case, 0) for case in (DISTINCT, TABLE)) > 0.01


@pytest.mark.parametrize("selector", [LocalExpectation(), ScreenedExpectation(m=9), Reinforce()], ids=repr)
def test_the_baseline_of_other_rows_has_no_bias(selector: Selector) -> None:
    logits, objective = TABLE.logits(0), TABLE.objective(0)
    allowed, p = TABLE.allowed, TABLE.log_law(logits).exp()
    mean = torch.zeros(2, *TABLE.shape, dtype=torch.float64)
    for pair in all_choices(2, len(allowed)):
        mean += p[pair].prod() * gradient_at(selector, TABLE, logits, objective, allowed[pair])
    assert float((mean - TABLE.true_gradient(logits, objective)).abs().max()) < 1e-10


def test_a_rows_own_score_as_baseline_would_be_biased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "mean_of_others", lambda score: score)
    assert off_by(LocalExpectation(), TABLE, 0) > 0.01


def test_the_baseline_takes_the_offset_out_of_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, objective = TABLE.logits(0).expand(2_000, 3, 4), TABLE.objective(0)

    def variance(offset: float) -> float:
        leaf = logits.clone().requires_grad_()
        estimate = LocalExpectation()(
            leaf, lambda rows: objective(rows) + offset, generator=generator_from(0), rules=TABLE.build(2_000)
        )
        (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
        return float(gradient.var(dim=0).sum())

    assert variance(100.0) == pytest.approx(variance(0.0), rel=1e-6)
    monkeypatch.setattr(local_module, "mean_of_others", no_baseline)
    assert variance(100.0) > 100 * variance(0.0)


@pytest.mark.parametrize("m", [1, 2])
@every_case
def test_screened_expectation_is_unbiased_under_rules(case: RuleCase, m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screened_module, "mean_of_others", no_baseline)
    logits, objective = case.logits(0), case.objective(0)
    allowed, residuals = case.allowed, all_choices(*case.shape)
    forced = ForcedDraw([residuals.repeat(len(allowed), 1)])
    monkeypatch.setattr(screened_module, "draw", forced)
    p = case.log_law(logits).exp().repeat_interleave(len(residuals))
    choice = allowed.repeat_interleave(len(residuals), dim=0)
    gradient = gradient_at(ScreenedExpectation(m), case, logits, objective, choice)
    weight = p * forced.probabilities[0]
    assert float(weight.sum()) == pytest.approx(1, abs=1e-10)
    mean = torch.einsum("r,rsn->sn", weight, gradient)
    assert float((mean - case.true_gradient(logits, objective)).abs().max()) < 1e-10


@every_case
def test_screening_every_swap_is_local_expectation_under_rules(case: RuleCase) -> None:
    logits, objective, allowed = case.logits(0), case.objective(0), case.allowed
    local, screened = (
        gradient_at(selector, case, logits, objective, allowed)
        for selector in (LocalExpectation(), ScreenedExpectation(m=9))
    )
    assert float((local - screened).abs().max()) < 1e-10


SLOPED: list[GivenDraw] = [
    StraightThrough(),
    StraightThrough(tau_backward=0.5),
    ReinMax(),
    ReinMax(tau=2.0),
    Gapped(),
    IntermediateLoss(),
    IntermediateLoss(normaliser="simplex"),
    IntermediateLoss(normaliser="sum"),
]


@every_case
@pytest.mark.parametrize("selector", [*SLOPED, Reinforce("none")], ids=repr)
def test_formulas_use_the_logits_on_the_condition_of_the_draw(selector: GivenDraw, case: RuleCase) -> None:
    logits, objective, allowed = case.logits(0), case.objective(0), case.allowed
    conditional = logits.masked_fill(~case.open_by_enumeration(allowed), -torch.inf)
    expected = selector.given(conditional, allowed, objective)
    assert float((gradient_at(selector, case, logits, objective, allowed) - expected).abs().max()) < 1e-12
    rows = logits.expand_as(conditional).contiguous()
    assert torch.equal(selector.given(rows, allowed, objective, case.build(len(allowed))), expected)
    assert float((selector.given(rows, allowed, objective) - expected).abs().max()) > 0.01


@pytest.mark.parametrize("name", [name for name in NAMES if name != "rebar"])
def test_rules_that_allow_everything_change_nothing(name: str) -> None:
    logits, objective, choices = FREE.logits(0), FREE.objective(0), all_choices(3, 4)
    selector = make(name)
    if isinstance(selector, GivenDraw):
        ruled = gradient_at(selector, FREE, logits, objective, choices)
        free = selector.given(logits.expand(64, 3, 4), choices, objective)
        assert float((ruled - free).abs().max()) < 1e-12
        return
    rows = logits.expand(20 if name == "exact" else 20_000, 3, 4)
    found = []
    for rules in (None, FREE.build(len(rows))):
        leaf = rows.clone().requires_grad_()
        surrogate = selector(leaf, objective, generator=generator_from(0), rules=rules).surrogate
        found.append(torch.autograd.grad(surrogate.sum(), leaf)[0])
    if name in ("exact", "softmax"):
        assert float((found[0] - found[1]).abs().max()) < 1e-12
    else:
        assert difference_z(*found) < 5


@pytest.mark.parametrize("selector", [StraightThrough(), ReinMax()], ids=repr)
def test_slopes_miss_what_an_item_takes_from_later_slots(selector: Selector) -> None:
    weights = DISTINCT.logits(9)

    def linear(selection: Tensor) -> Tensor:
        return (selection * weights).flatten(-2).sum(dim=-1)

    for case, unbiased in ((FREE, True), (DISTINCT, False)):
        mean = mean_over_draws(selector, case, case.logits(0), linear)
        bias = float((mean - case.true_gradient(case.logits(0), linear)).abs().max())
        assert bias < 1e-12 if unbiased else bias > 0.01


@pytest.mark.parametrize("tau", [0.3, pytest.param(1.0, marks=pytest.mark.slow)])
@every_case
def test_gumbel_rao_keeps_the_mean_of_gumbel_under_rules(case: RuleCase, tau: float) -> None:
    rows, objective = case.logits(0).expand(30_000, *case.shape), case.objective(0)

    def sample(selector: Selector, seed: int) -> Tensor:
        leaf = rows.clone().requires_grad_()
        estimate = selector(leaf, objective, generator=generator_from(seed), rules=case.build(30_000))
        (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
        return gradient

    gumbel, rao = sample(Gumbel(tau), 1), sample(GumbelRao(tau, 4), 2)
    assert difference_z(gumbel, rao) < 5
    assert difference_z(1.1 * gumbel, rao) > 5
    assert float(rao.var(dim=0).sum()) < float(gumbel.var(dim=0).sum())


@every_case
def test_gumbel_adds_noise_to_open_items_slot_by_slot(case: RuleCase) -> None:
    rows, objective, tau = case.logits(3).expand(40_000, *case.shape), case.objective(3), 0.7
    rules, generator = case.build(40_000), generator_from(5)
    # As defined: noise on every item that is open given the argmax before, without the noise's law given the argmax.
    choice, noisy = torch.full((40_000, case.shape[0]), -1), torch.empty_like(rows)
    for slot in range(case.shape[0]):
        noise = -torch.empty(40_000, case.shape[1], dtype=torch.float64).exponential_(generator=generator).log()
        noisy[:, slot] = (rows[:, slot] + noise).masked_fill(~rules.open_items(choice, slot), -torch.inf)
        choice[:, slot] = noisy[:, slot].argmax(dim=-1)
    for hard in (True, False):
        leaf = noisy.clone().requires_grad_()
        relaxed = torch.softmax(leaf / tau, dim=-1)
        z = (vertices(choice, case.shape[1]) if hard else relaxed.detach()).requires_grad_()
        (slope,) = torch.autograd.grad(objective(z).sum(), z)
        (expected,) = torch.autograd.grad(relaxed, leaf, slope)
        logits = rows.clone().requires_grad_()
        estimate = Gumbel(tau, hard)(logits, objective, generator=generator_from(6), rules=rules)
        (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), logits)
        assert difference_z(gradient, expected) < 5
        assert difference_z(1.1 * gradient, expected) > 5


def test_the_softmax_mixes_what_is_possible_and_answers_the_mode() -> None:
    seen: list[Tensor] = []

    def watched(selection: Tensor) -> Tensor:
        seen.append(selection.detach())
        return TABLE.objective(0)(selection)

    logits = TABLE.logits(0).expand(5, 3, 4)
    estimate = Softmax()(logits, watched, rules=TABLE.build(5))
    possible = torch.stack([vertices(ROWS[:, slot], 4).any(dim=0) for slot in range(3)])
    assert torch.equal(seen[0] > 0, possible.expand(5, 3, 4))
    assert torch.equal(estimate.choice, TABLE.build(5).mode(logits))
    assert not bool(estimate.choice.eq(logits.argmax(dim=-1)).all())


@every_case
def test_straight_through_without_noise_answers_the_mode(case: RuleCase) -> None:
    logits = torch.randn(50, *case.shape, dtype=torch.float64, generator=generator_from(0))
    estimate = StraightThrough(noise=False)(logits, case.objective(0), rules=case.build(50))
    assert torch.equal(estimate.choice, case.build(50).mode(logits))
    expected = case.objective(0)(vertices(estimate.choice, case.shape[1]))
    assert float((estimate.score - expected).abs().max()) < 1e-12


def test_the_forward_temperature_changes_draws_alone() -> None:
    logits, objective = DISTINCT.logits(0).expand(4_000, 3, 4), DISTINCT.objective(0)
    cold, usual = StraightThrough(tau_forward=1e-3), StraightThrough()
    choice, conditional = cold.choose(logits, Draws(generator_from(0), DISTINCT.build(4_000)))
    assert len(choice.unique(dim=0)) == 1
    torch.testing.assert_close(conditional, DISTINCT.build(4_000).conditional(logits, choice))
    leaf = logits.clone().requires_grad_()
    estimate = cold(leaf, objective, generator=generator_from(0), rules=DISTINCT.build(4_000))
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    torch.testing.assert_close(gradient, usual.given(logits, choice, objective, DISTINCT.build(4_000)))


VARIANTS: list[Selector] = [
    *(make(name) for name in NAMES if name not in ("rebar", "exact")),
    Gumbel(0.5, hard=False),
    StraightThrough(tau_forward=3.0),
    StraightThrough(noise=False),
    ScreenedExpectation(m=1),
]


def refuse_forbidden(case: RuleCase, objective: Objective) -> Objective:
    """An objective that fails if a configuration that is not allowed is scored."""
    allowed = torch.zeros([case.shape[1]] * case.shape[0], dtype=torch.bool)
    allowed[tuple(case.allowed.T)] = True

    def scored(selection: Tensor) -> Tensor:
        assert bool(allowed[tuple(selection.argmax(dim=-1).unbind(dim=-1))].all())
        return objective(selection)

    return scored


@every_case
@pytest.mark.parametrize("rows", [200, pytest.param(25_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("selector", [*VARIANTS, Exact()], ids=repr)
def test_what_is_forbidden_is_never_drawn(selector: Selector, rows: int, case: RuleCase) -> None:
    generator = generator_from(7)
    logits = 4 * torch.randn(rows, *case.shape, generator=generator)
    relaxes = isinstance(selector, Softmax) or (isinstance(selector, Gumbel) and not selector.hard)
    objective = case.objective(0)

    def single(selection: Tensor) -> Tensor:
        return objective(selection.double()).float()

    asked = single if relaxes else refuse_forbidden(case, single)
    estimate = selector(logits, asked, generator=generator, rules=case.build(rows))
    allowed = (estimate.choice.unsqueeze(1) == case.allowed).all(dim=-1).any(dim=1)
    assert bool(allowed.all())
    free = selector(logits[:500], single, generator=generator).choice
    assert not bool((free.unsqueeze(1) == case.allowed).all(dim=-1).any(dim=1).all())


@every_case
@pytest.mark.parametrize("selector", [*VARIANTS, Exact()], ids=repr)
def test_every_call_is_counted_under_rules(selector: Selector, case: RuleCase) -> None:
    asked, objective = [0], case.objective(0)

    def counted(selection: Tensor) -> Tensor:
        asked[0] += selection[..., 0, 0].numel()
        return objective(selection)

    logits = torch.randn(6, *case.shape, dtype=torch.float64, generator=generator_from(0)).requires_grad_()
    estimate = selector(logits, counted, generator=generator_from(0), rules=case.build(6))
    forwards, backwards = selector.cost(*case.shape)
    assert estimate.forwards == asked[0] <= 6 * forwards and estimate.backwards == 6 * backwards
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), logits)
    assert bool(gradient.isfinite().all())
    assert float(gradient.sum(dim=-1).abs().max()) < 1e-12


def test_only_allowed_swaps_are_scored() -> None:
    def scored(selection: Tensor) -> Tensor:
        assert len(selection) > 0
        return selection[..., 0].sum(dim=-1)

    # Swaps of [0, 0, 0] lead to [1, 0, 0]; to [0, 3, 0]; to [0, 0, 3]. [3, 2, 1] has [3, 0, 1] only.
    for choice, calls in (([0, 0, 0], 1 + 3), ([3, 2, 1], 1 + 1), ([0, 1, 2], 1)):
        rules = ForcedRules(TABLE.build(1), torch.tensor([choice]))
        estimate = LocalExpectation()(torch.zeros(1, 3, 4), scored, rules=rules)
        assert (estimate.forwards, estimate.backwards) == (calls, 0)
    # Together, a slot costs every row what it costs the row with most swaps there.
    rules = ForcedRules(TABLE.build(2), torch.tensor([[0, 0, 0], [3, 2, 1]]))
    assert LocalExpectation()(torch.zeros(2, 3, 4), scored, rules=rules).forwards == 2 * 4


def test_exact_scores_what_some_request_allows() -> None:
    estimate = Exact()(torch.zeros(3, 3, 4), lambda z: z[..., 0].sum(dim=-1), rules=TABLE.build(3))
    assert estimate.forwards == 3 * len(ROWS)


def test_requests_keep_their_rules_along_sample_dimensions() -> None:
    listed = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1], [1, 0, 0, 1, 0, 0, 1]]).bool()
    rules = TableRules(PrefixIndex(ROWS, listed, 4), torch.arange(3), None)
    logits = torch.randn(50, 3, 3, 4, generator=generator_from(0))
    weights = torch.randn(3, 4, generator=generator_from(1))
    for selector in (*VARIANTS, Exact()):
        estimate = selector(
            logits, lambda z: (z * weights).flatten(-2).sum(dim=-1), generator=generator_from(2), rules=rules
        )
        for request in range(3):
            own = ROWS[listed[request]]
            assert bool((estimate.choice[:, request].unsqueeze(1) == own).all(dim=-1).any(dim=1).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_half_precision_draws_under_rules(dtype: torch.dtype) -> None:
    for selector in VARIANTS:
        leaf = torch.zeros(20, 3, 4, dtype=dtype).requires_grad_()
        estimate = selector(leaf, lambda z: z[..., 0].sum(dim=-1), generator=generator_from(0), rules=TABLE.build(20))
        estimate.surrogate.sum().backward()
        assert leaf.grad is not None and leaf.grad.dtype == dtype and bool(leaf.grad.isfinite().all())


def test_rebar_refuses_rules_before_it_draws() -> None:
    generator = generator_from(0)
    state = generator.get_state()

    def unasked(selection: Tensor) -> Tensor:
        raise AssertionError("scored")

    message = "^expected another selector than rebar for a problem with constraints, such as rloo or local_expectation"
    with pytest.raises(ValueError, match=message):
        Rebar().check_rules()
    with pytest.raises(ValueError, match=message):
        Rebar()(torch.zeros(2, 3, 4), unasked, generator=generator, rules=TABLE.build(2))
    assert torch.equal(generator.get_state(), state)


def test_all_other_selectors_draw_under_rules() -> None:
    for name in NAMES:
        if name != "rebar":
            make(name).check_rules()


def test_the_relaxation_of_rebar_would_be_biased_under_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    # With the conditional logits in the place of the logits, as in the other formulas.
    logits, objective, rows = TABLE.logits(0), TABLE.objective(0), 100_000
    rules = TABLE.build(rows)
    choice, conditional = rules.draw(logits.expand(rows, 3, 4).contiguous(), generator_from(0))

    def unbiased(selector: Selector) -> bool:
        leaf = conditional.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(selector(leaf, objective, generator=generator_from(1)).surrogate.sum(), leaf)
        return mean_z(gradient, TABLE.true_gradient(logits, objective)) < 5

    monkeypatch.setattr("slot_rl.selectors.rebar.gumbel_noise", lambda like, generator: forced_noise(like, choice))
    assert not unbiased(Rebar(eta=1.0))
    assert unbiased(Rebar(eta=1e-9))


def forced_noise(logits: Tensor, choice: Tensor) -> Tensor:
    """Gumbel noise on the condition that the choice is the argmax of the noisy logits."""
    noisy, _ = conditional_gumbel(logits, choice, generator_from(2))
    return (noisy - torch.log_softmax(logits, dim=-1)).nan_to_num(0.0)


@pytest.mark.parametrize("selector", [Reinforce(), StraightThrough(noise=False), Softmax()], ids=repr)
def test_a_mask_that_the_rules_do_not_know_is_refused(selector: Selector) -> None:
    # Two slots are left one item, the same one.
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1:, 1:] = False
    with pytest.raises(
        ValueError, match="^expected rules that know the mask, got a slot whose open items are all masked$"
    ):
        selector(torch.zeros(2, 3, 4), lambda z: z[..., 0].sum(dim=-1), mask, generator_from(0), DISTINCT.build(2))


@given(case=rule_cases, seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_random_rules_leave_unbiased_selectors_unbiased(case: RuleCase, seed: int) -> None:
    logits, objective = case.logits(seed), case.objective(seed)
    truth = case.true_gradient(logits, objective)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(local_module, "mean_of_others", no_baseline)
        for selector in (Reinforce("none"), LocalExpectation(), Exact()):
            mean = mean_over_draws(selector, case, logits, objective)
            assert float((mean - truth).abs().max()) < 1e-9

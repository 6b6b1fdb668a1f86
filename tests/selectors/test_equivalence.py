"""Compares every selector with its formula: exactly if its draws can be enumerated, statistically otherwise.

Statistical tests use fixed generators and a bound of five standard errors on every coordinate. Each is repeated with a
slightly wrong estimator, which the same bound must reject.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors import (
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
)
from slot_rl.selectors.base import Draws, Probe, RawEstimate
from slot_rl.selectors.categorical import conditional_gumbel, gumbel_noise, one_hot
from tests.helpers.equivalence import (
    CASES,
    OBJECTIVES,
    SAMPLED_CASES,
    SMALL_CASES,
    Case,
    DrawEquivalence,
    Enumeration,
    SampledEquivalence,
    Slot,
    SlotEquivalence,
    UnbiasedEquivalence,
    all_choices,
    assert_close,
    difference_z,
    every_draw,
    force,
    gradient_of,
    jacobian,
    law,
    mean_z,
    over,
    probabilities,
    sample,
    slots_of,
    true_gradient,
    vertices,
)


@pytest.mark.parametrize("case", sorted({*CASES, *SMALL_CASES, *SAMPLED_CASES}, key=str), ids=str)
def test_every_case_has_a_true_gradient_to_miss(case: Case) -> None:
    for name in OBJECTIVES:
        assert float(true_gradient(case.logits, case.allowed, case.objective(name)).abs().max()) > 0.05


def off_by(monkeypatch: pytest.MonkeyPatch, selector: Selector, case: Case, objective: Objective) -> float:
    """The distance of the mean over every draw from the true gradient."""
    mean = every_draw(monkeypatch, selector, case, objective)[0].mean
    return float((mean - true_gradient(case.logits, case.allowed, objective)).abs().max())


@over(
    [
        StraightThrough(),
        StraightThrough(tau_backward=0.4),
        StraightThrough(tau_backward=3.0),
        StraightThrough(tau_forward=0.5),
        StraightThrough(2.0, 0.7),
    ]
)
class TestStraightThrough(SlotEquivalence[StraightThrough]):
    """The Jacobian times the first-order value of every item."""

    def forward_tau(self, selector: StraightThrough) -> float:
        return selector.tau_forward

    def slot_gradient(self, selector: StraightThrough, slot: Slot) -> Tensor:
        backward = (slot.th / selector.tau_backward).exp()
        value = slot.f[:, None] + slot.g - (slot.g * slot.z).sum(dim=-1, keepdim=True)
        return torch.einsum("nm,dm->dn", jacobian(backward / backward.sum()), value)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_straight_through_is_unbiased_on_linear_objectives(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert off_by(monkeypatch, StraightThrough(), case, case.objective("multilinear")) < 1e-12


@pytest.mark.parametrize(
    "selector", [StraightThrough(tau, 1.0) for tau in (0.5, 2.0)] + [StraightThrough(1.0, 0.5)], ids=str
)
def test_straight_through_at_another_temperature_is_biased(
    selector: StraightThrough, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(2, 3)
    assert off_by(monkeypatch, selector, case, case.objective("multilinear")) > 0.01


@over([ReinMax(), ReinMax(0.5), ReinMax(2.0)])
class TestReinMax(SlotEquivalence[ReinMax]):
    """Twice the Jacobian at the midpoint, minus half the Jacobian of the softmax."""

    def slot_gradient(self, selector: ReinMax, slot: Slot) -> Tensor:
        raised = (slot.th / selector.tau).exp()
        midpoint = (raised / raised.sum() + slot.z) / 2
        first_order = torch.einsum("nm,dm->dn", jacobian(slot.p), slot.g)
        return 2 * torch.einsum("dnm,dm->dn", jacobian(midpoint), slot.g) - first_order / 2


@over([Gapped(), Gapped(gap=0.1), Gapped(gap=3.0, tau=0.5), Gapped(tau=2.0)])
class TestGapped(SlotEquivalence[Gapped]):
    """The Jacobian of the softmax of logits that agree with the draw, computed logit by logit."""

    def slot_gradient(self, selector: Gapped, slot: Slot) -> Tensor:
        gradient = torch.zeros_like(slot.z)
        top = float(slot.th.max())
        for drawn in range(len(slot.th)):
            agreeing = [top if n == drawn else min(float(th), top - selector.gap) for n, th in enumerate(slot.th)]
            raised = (torch.tensor(agreeing, dtype=torch.float64) / selector.tau).exp()
            here = slot.z[:, drawn] == 1
            gradient[here] = slot.g[here] @ jacobian(raised / raised.sum()) / selector.tau
        return gradient


@over(
    [
        IntermediateLoss(),
        IntermediateLoss(step=2.0),
        IntermediateLoss(0.1, "simplex"),
        IntermediateLoss(1.0, "simplex"),
        IntermediateLoss(0.1, "sum"),
        IntermediateLoss(0.7, "sum"),
        IntermediateLoss(0.1, "sum", faithful=True),
    ]
)
class TestIntermediateLoss(SlotEquivalence[IntermediateLoss]):
    """The target, and the gradient of its negative divergence from the softmax, by automatic differentiation."""

    def slot_gradient(self, selector: IntermediateLoss, slot: Slot) -> Tensor:
        target = getattr(self, selector.normaliser)(selector.step, slot)
        if selector.faithful:
            gradient: Tensor = target / (slot.p + 1e-7)
            return gradient
        leaf = slot.th.expand_as(target).clone().requires_grad_()
        (gradient,) = torch.autograd.grad((target * torch.log_softmax(leaf, dim=-1)).sum(), leaf)
        return gradient / selector.step if selector.normaliser == "mirror" else gradient

    def mirror(self, step: float, slot: Slot) -> Tensor:
        raised: Tensor = slot.p * (step * slot.g).exp()
        return raised / raised.sum(dim=-1, keepdim=True)

    def simplex(self, step: float, slot: Slot) -> Tensor:
        """Lowers all entries by the amount, found by bisection, at which the positive ones sum to 1."""
        moved = slot.z + step * slot.g
        high = moved.amax(dim=-1, keepdim=True)
        low = high - 1
        for _ in range(100):
            middle = (low + high) / 2
            too_low = (moved - middle).clamp(min=0).sum(dim=-1, keepdim=True) > 1
            low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
        return (moved - high).clamp(min=0)

    def sum(self, step: float, slot: Slot) -> Tensor:
        improvement = slot.g - (slot.g * slot.z).sum(dim=-1, keepdim=True)
        moved: Tensor = slot.z + step * improvement
        return moved / moved.sum(dim=-1, keepdim=True)


@over([Reinforce("none")])
class TestReinforce(SlotEquivalence[Reinforce], UnbiasedEquivalence[Reinforce]):
    """The score times the slope of the draw's log-probability."""

    def slot_gradient(self, selector: Reinforce, slot: Slot) -> Tensor:
        leaf = slot.th.expand_as(slot.z).clone().requires_grad_()
        log_probability = (torch.log_softmax(leaf, dim=-1) * slot.z).sum(dim=-1)
        (gradient,) = torch.autograd.grad((slot.f * log_probability).sum(), leaf)
        return gradient


@dataclass(frozen=True)
class OwnScoreInBaseline(Reinforce):
    """REINFORCE with the mean of the whole batch as its baseline: a common mistake."""

    def estimate(self, logits: Tensor, probe: Probe, draws: Draws) -> RawEstimate:
        choice, _ = draws.draw(logits)
        vertex = one_hot(choice, logits.shape[-1], logits.dtype)
        score = probe.value(vertex)
        advantage = (score - score.mean())[..., None, None]
        return RawEstimate(advantage * (vertex - torch.softmax(logits, dim=-1)), choice, score)


@pytest.mark.parametrize(("selector", "unbiased"), [(Reinforce(), True), (OwnScoreInBaseline(), False)], ids=str)
@pytest.mark.parametrize(("rows", "slots", "items"), [(2, 2, 2), (2, 1, 4), (3, 1, 3)])
def test_reinforce_is_biased_if_a_row_is_in_its_own_baseline(
    selector: Reinforce, unbiased: bool, rows: int, slots: int, items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(rows, slots, items, dtype=torch.float64, generator=generator_from(items))
    allowed = torch.ones(slots, items, dtype=torch.bool)
    allowed[0, 0] = items == 2
    objective = Case(slots, items).objective("smooth")
    mean = torch.zeros_like(logits)
    for joint in all_choices(rows * slots, items).view(-1, rows, slots):
        forced = force(monkeypatch, selector, [joint])
        # A masked item cannot be drawn, so the gradient of a draw that forces one has no weight.
        gradient = gradient_of(selector, logits, objective, allowed)
        mean += forced.probabilities[0].prod() * gradient
    truth = torch.stack([true_gradient(row, allowed, objective) for row in logits])
    assert (float((mean - truth).abs().max()) < 1e-12) is unbiased
    assert unbiased or float((mean - truth).abs().max()) > 0.01


def test_reinforce_without_other_rows_has_no_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(2, 3)
    choice = torch.tensor([[2, 1]])
    gradients = []
    for selector in (Reinforce("batch"), Reinforce("none")):
        force(monkeypatch, selector, [choice])
        gradients.append(gradient_of(selector, case.logits.unsqueeze(0), case.objective("smooth")))
    assert torch.equal(*gradients)


@over([RLOO(2), RLOO(3)], SMALL_CASES)
class TestRLOO(UnbiasedEquivalence[RLOO]):
    """The mean over the draws of REINFORCE with the other draws' mean score as baseline."""

    def plan(self, selector: RLOO, case: Case) -> tuple[int, ...]:
        return (selector.k,)

    def formula(self, selector: RLOO, case: Case, objective: Objective, draws: tuple[Tensor, ...]) -> Enumeration:
        p = probabilities(case.logits, case.allowed)
        z = [vertices(choices, case.items) for choices in draws]
        f = [objective(vertex) for vertex in z]
        gradient, probability = torch.zeros_like(z[0]), torch.ones_like(f[0])
        for i, choices in enumerate(draws):
            baseline = sum(f[j] for j in range(selector.k) if j != i) / (selector.k - 1)
            gradient += (f[i] - baseline)[:, None, None] * (z[i] - p) / selector.k
            probability *= law(p, choices)
        return Enumeration(gradient, probability)


@over([LocalExpectation(), LocalExpectation(chunk=1)])
class TestLocalExpectation(SlotEquivalence[LocalExpectation], UnbiasedEquivalence[LocalExpectation]):
    """The Jacobian times the score of every swap."""

    def slot_gradient(self, selector: LocalExpectation, slot: Slot) -> Tensor:
        return torch.einsum("nm,dm->dn", jacobian(slot.p), slot.swaps)


@over([ScreenedExpectation(1), ScreenedExpectation(2), ScreenedExpectation(1, chunk=1)], SMALL_CASES)
class TestScreenedExpectation(UnbiasedEquivalence[ScreenedExpectation]):
    """The values of each row, item by item: scored, first-order, or first-order and corrected."""

    def plan(self, selector: ScreenedExpectation, case: Case) -> tuple[int, ...]:
        return (1,) if selector.m >= case.items - 1 else (1, 1)

    def formula(
        self, selector: ScreenedExpectation, case: Case, objective: Objective, draws: tuple[Tensor, ...]
    ) -> Enumeration:
        gradient = torch.zeros(len(draws[0]), case.slots, case.items, dtype=torch.float64)
        probability = law(probabilities(case.logits, case.allowed), draws[0])
        for index, (places, slot) in enumerate(slots_of(case, objective, draws[0])):
            p, swaps = slot.p.tolist(), slot.swaps.tolist()
            drawn = slot.z.argmax(dim=-1).tolist()
            taylor = (slot.f[:, None] + slot.g - (slot.g * slot.z).sum(dim=-1, keepdim=True)).tolist()
            for row, at in enumerate(drawn):
                value = list(taylor[row])
                others = [n for n in range(len(p)) if n != at]
                others.sort(key=lambda n: -abs(p[n] * (taylor[row][n] - taylor[row][at])))
                for n in others[: selector.m]:
                    value[n] = swaps[row][n]
                rest = others[selector.m :]
                if len(draws) == 2:
                    mass = sum(p[n] for n in rest)
                    residual = int(draws[1][row, index])
                    possible = [n for n in rest if int(places[n]) == residual]
                    if rest:
                        probability[row] *= sum(p[n] for n in possible) / mass
                    else:
                        probability[row] /= case.items
                    for n in possible:
                        value[n] += (swaps[row][n] - taylor[row][n]) * mass / p[n]
                gradient[row, index, places] = jacobian(slot.p) @ torch.tensor(value, dtype=torch.float64)
        return Enumeration(gradient, probability)


@over([Exact(), Exact(chunk=1), Exact(chunk=700)])
class TestExact(UnbiasedEquivalence[Exact]):
    """The true gradient, which does not depend on the draw for the score."""

    def formula(self, selector: Exact, case: Case, objective: Objective, draws: tuple[Tensor, ...]) -> Enumeration:
        truth = true_gradient(case.logits, case.allowed, objective)
        probability = law(probabilities(case.logits, case.allowed), draws[0])
        return Enumeration(truth.expand(len(probability), *truth.shape), probability)


@over([Softmax(), Softmax(0.3), Softmax(4.0)])
class TestSoftmax(DrawEquivalence[Softmax]):
    """The slope of the mixture's score, by automatic differentiation; nothing is drawn."""

    def plan(self, selector: Softmax, case: Case) -> tuple[int, ...]:
        return ()

    def formula(self, selector: Softmax, case: Case, objective: Objective, draws: tuple[Tensor, ...]) -> Enumeration:
        leaf = case.logits.requires_grad_()
        score = objective(probabilities(leaf / selector.tau, case.allowed))
        (gradient,) = torch.autograd.grad(score, leaf)
        return Enumeration(gradient.unsqueeze(0), torch.ones(1, dtype=torch.float64))


@over([Reinforce("batch"), Reinforce("none"), LocalExpectation()], SAMPLED_CASES)
class TestSampledDraws(SampledEquivalence[Selector]):
    """The enumerated selectors with real draws."""


@over([RLOO(2), RLOO(4)], SAMPLED_CASES)
class TestSampledRLOO(SampledEquivalence[RLOO]):
    """RLOO with real draws."""

    def test_draws_that_are_in_their_own_baseline_are_noticed(self, selector: RLOO, case: Case) -> None:
        objective = case.objective("quadratic")
        truth = true_gradient(case.logits, case.allowed, objective)
        own_score_included = sample(selector, case, objective) * (selector.k - 1) / selector.k
        assert mean_z(own_score_included, truth) > 5


@over([ScreenedExpectation(1), ScreenedExpectation(2)], [Case(2, 5), Case(2, 5, masked=True)])
class TestSampledScreenedExpectation(SampledEquivalence[ScreenedExpectation]):
    """Screened expectation with real draws."""

    def test_a_correction_without_its_weight_is_noticed(
        self, selector: ScreenedExpectation, case: Case, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weighted = ScreenedExpectation._draw_from

        def unweighted(
            self: ScreenedExpectation,
            logits: Tensor,
            rest: Tensor,
            chosen: Tensor,
            p: Tensor,
            generator: torch.Generator | None,
        ) -> tuple[Tensor, Tensor]:
            residual, _ = weighted(self, logits, rest, chosen, p, generator)
            return residual, p.gather(-1, residual)

        monkeypatch.setattr(ScreenedExpectation, "_draw_from", unweighted)
        objective = case.objective("quadratic")
        truth = true_gradient(case.logits, case.allowed, objective)
        assert mean_z(sample(selector, case, objective), truth) > 5


@over([Rebar(eta, tau) for eta, tau in [(0.0, 0.5), (1.0, 0.5), (0.6, 0.1), (1.0, 2.0), (-1.0, 1.0)]], SAMPLED_CASES)
class TestSampledRebar(SampledEquivalence[Rebar]):
    """REBAR, whose relaxed rows have no enumeration."""


@over([Rebar(1.0, 0.5), Rebar(0.5, 2.0)], [Case(2, 3)])
class TestBrokenRebar:
    """Slightly wrong variants of REBAR have a wrong mean."""

    def assert_noticed(self, selector: Rebar, case: Case) -> None:
        objective = case.objective("quadratic")
        truth = true_gradient(case.logits, case.allowed, objective)
        assert mean_z(sample(selector, case, objective), truth) > 5

    def test_a_control_variate_without_its_mean_is_noticed(
        self, selector: Rebar, case: Case, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def nothing(probabilities: Tensor, slope: Tensor) -> Tensor:
            return torch.zeros_like(slope)

        monkeypatch.setattr("slot_rl.selectors.rebar.jacobian_product", nothing)
        self.assert_noticed(selector, case)

    def test_a_wrong_derivative_of_the_second_noise_is_noticed(
        self, selector: Rebar, case: Case, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def moving(logits: Tensor, choice: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
            noisy, derivative = conditional_gumbel(logits, choice, generator)
            return noisy, torch.ones_like(derivative)

        monkeypatch.setattr("slot_rl.selectors.rebar.conditional_gumbel", moving)
        self.assert_noticed(selector, case)


def exponentials(monkeypatch: pytest.MonkeyPatch, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Returns the standard exponential numbers of a selector's noise, in the order of its calls."""
    noises = [
        torch.empty(shape, dtype=torch.float64).exponential_(generator=generator_from(n))
        for n, shape in enumerate(shapes)
    ]
    calls = iter(noises)
    monkeypatch.setattr("slot_rl.selectors.categorical.exponential_noise", lambda like, generator: next(calls))
    return noises


def noisy_given(z: Tensor, p: Tensor, noise: Tensor) -> Tensor:
    """Noisy logits whose largest entry is the draw: ``-log E_d`` there, ``-log(E_n / p_n + E_d)`` elsewhere."""
    of_draw = (noise * z).sum(dim=-1, keepdim=True)
    return torch.where(z == 1, -of_draw.log(), -(noise / p + of_draw).log())


UNMASKED = [Case(1, 5), Case(2, 3), Case(3, 4)]


@pytest.mark.parametrize("name", OBJECTIVES)
@over([Rebar(), Rebar(0.6, 0.2), Rebar(-1.0, 2.0)], UNMASKED)
def test_rebar_is_its_formula_for_every_noise(
    selector: Rebar, case: Case, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, shape = case.objective(name), (100, case.slots, case.items)
    first, second = exponentials(monkeypatch, shape, shape)
    leaf = case.logits.expand(shape).requires_grad_()
    log_p = leaf - leaf.logsumexp(dim=-1, keepdim=True)
    noisy = log_p - first.log()
    z = vertices(noisy.argmax(dim=-1), case.items)
    again = noisy_given(z, log_p.exp(), second)
    score, again_score = (objective(torch.softmax(row / selector.tau, dim=-1)) for row in (noisy, again))
    weight = (objective(z) - selector.eta * again_score).detach()
    surrogate = weight * (log_p * z).sum(dim=(1, 2)) + selector.eta * (score - again_score)
    (expected,) = torch.autograd.grad(surrogate.sum(), leaf)
    gradient = gradient_of(selector, case.logits.expand(shape), objective)
    assert_close(gradient, expected, float(expected.abs().max()))


@pytest.mark.parametrize("name", OBJECTIVES)
@over([GumbelRao(), GumbelRao(0.2, 1), GumbelRao(3.0, 3)], UNMASKED)
def test_gumbel_rao_is_its_formula_for_every_noise(
    selector: GumbelRao, case: Case, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, shape = case.objective(name), (100, case.slots, case.items)
    first, second = exponentials(monkeypatch, shape, (selector.k, *shape))
    z = vertices((case.logits - first.log()).argmax(dim=-1), case.items).requires_grad_()
    (slope,) = torch.autograd.grad(objective(z).sum(), z)
    noisy = noisy_given(z.detach(), probabilities(case.logits, case.allowed), second).requires_grad_()
    value = (torch.softmax(noisy / selector.tau, dim=-1) * slope).sum() / selector.k
    (by_noisy,) = torch.autograd.grad(value, noisy)
    expected = by_noisy.sum(dim=0)
    gradient = gradient_of(selector, case.logits.expand(shape), objective)
    assert_close(gradient, expected, float(expected.abs().max()))


def by_quadrature(selector: Gumbel | GumbelRao, th: Tensor, objective: Objective) -> Tensor:
    """The mean Gumbel gradient of one slot of two items, whose noise is one logistic number, at its quantiles."""
    u = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    ahead = th[0] - th[1] + torch.logit(u)
    y = torch.sigmoid(torch.stack([ahead, -ahead], dim=-1) / selector.tau)
    soft = isinstance(selector, Gumbel) and not selector.hard
    point = (y if soft else vertices((ahead < 0).long(), 2)).unsqueeze(1).requires_grad_()
    (g,) = torch.autograd.grad(objective(point).sum(), point)
    first = (y.prod(dim=-1) * (g[:, 0, 0] - g[:, 0, 1])).mean() / selector.tau
    return torch.stack([first, -first]).unsqueeze(0)


@pytest.mark.parametrize("tau", [0.2, 1.0, 3.0])
@pytest.mark.parametrize(
    "selector", [Gumbel(), Gumbel(hard=False), GumbelRao(k=1), GumbelRao(k=3)], ids=["hard", "soft", "rao1", "rao3"]
)
def test_the_gumbel_means_of_two_items_are_those_of_quadrature(selector: Gumbel | GumbelRao, tau: float) -> None:
    case, selector = Case(1, 2), replace(selector, tau=tau)
    weights = torch.tensor([2.0, 0.5], dtype=torch.float64)

    def objective(selection: Tensor) -> Tensor:
        return (selection @ weights).square().sum(dim=-1)

    expected = by_quadrature(selector, case.logits[0], objective)
    gradient = sample(selector, case, objective, rows=200_000)
    assert mean_z(gradient, expected) < 5
    assert mean_z(1.05 * gradient, expected) > 5


@pytest.mark.parametrize("tau", [0.3, 1.0])
@pytest.mark.parametrize("hard", [True, False])
def test_the_gumbel_mean_is_that_of_the_gumbel_softmax_in_torch(hard: bool, tau: float) -> None:
    case = Case(2, 3)
    objective = case.objective("smooth")
    gradient = sample(Gumbel(tau, hard), case, objective)
    leaf = case.logits.expand(200_000, 2, 3).requires_grad_()
    with seeded_initialisation(1):
        selection = functional.gumbel_softmax(leaf, tau, hard)
    (reference,) = torch.autograd.grad(objective(selection).sum(), leaf)
    assert difference_z(gradient, reference) < 5
    assert difference_z(1.05 * gradient, reference) > 5


@pytest.mark.parametrize("case", SAMPLED_CASES, ids=str)
@pytest.mark.parametrize(("tau", "k"), [(0.3, 1), (1.0, 3)])
def test_gumbel_rao_with_unconditional_noise_is_noticed(
    tau: float, k: int, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = case.objective("smooth")
    gumbel = sample(Gumbel(tau), case, objective)
    rao = sample(GumbelRao(tau, k), case, objective, seed=1)
    assert difference_z(rao, gumbel) < 5
    assert difference_z(1.05 * rao, gumbel) > 5

    def unconditional(logits: Tensor, choice: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        copies = logits.expand(*choice.shape, logits.shape[-1])
        return copies + gumbel_noise(copies, generator), torch.zeros_like(copies)

    monkeypatch.setattr("slot_rl.selectors.gumbel_rao.conditional_gumbel", unconditional)
    assert difference_z(sample(GumbelRao(tau, k), case, objective, seed=1), gumbel) > 5

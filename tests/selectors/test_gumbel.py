"""Gumbel-softmax: exact one-hot draws from the softmax, and the gradient ``J(y) g / tau`` computed by hand.

Statistical tests use fixed generators and a bound of five standard deviations. Each is repeated with slightly wrong
noise, which must fail. Gradients are compared in float64 with loops over items.
"""

import math

import pytest
import torch
from torch import Tensor

from slot_rl.seeding import generator_from
from slot_rl.selectors import Gumbel
from slot_rl.selectors.categorical import gumbel_noise
from tests.helpers.equivalence import Case, Recorder, frequency_z, gradient_of, normal_noise, vertices

NOISE = "slot_rl.selectors.gumbel.gumbel_noise"
LOGITS = torch.tensor([0.3, -1.2, 2.0, 0.0, -4.0])


@pytest.mark.parametrize("tau", [1e-3, 1.0, 30.0])
def test_the_hard_form_scores_exactly_one_hot_rows(tau: float) -> None:
    recorder = Recorder(torch.randn(3, 5, generator=generator_from(0)))
    logits = 3 * torch.randn(200, 3, 5, generator=generator_from(1))
    estimate = Gumbel(tau)(logits, recorder, generator=generator_from(2))
    assert torch.equal(recorder.selection, vertices(estimate.choice, 5).float())
    assert torch.equal(estimate.score, recorder(recorder.selection))


def test_the_soft_form_scores_the_softmax_of_noisy_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(50, 3, 4, dtype=torch.float64, generator=generator_from(0))
    noise = gumbel_noise(logits, generator_from(1))
    monkeypatch.setattr(NOISE, lambda like, generator: noise)
    recorder = Recorder(torch.randn(3, 4, generator=generator_from(2)))
    estimate = Gumbel(2.0, hard=False)(logits, recorder)
    raised = ((logits + noise) / 2.0).exp()
    expected = raised / raised.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(recorder.selection, expected, atol=1e-14, rtol=0)
    assert torch.equal(estimate.choice, (logits + noise).argmax(dim=-1))
    assert torch.equal(estimate.score, recorder(recorder.selection))


def test_only_the_hard_form_scores_its_draws() -> None:
    assert Gumbel().scores_draws and not Gumbel(hard=False).scores_draws


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_choices_follow_the_softmax_whatever_tau_is(hard: bool, tau: float) -> None:
    rows = LOGITS.expand(200_000, 1, 5)
    choice = Gumbel(tau, hard)(rows, Recorder(torch.zeros(1, 5)), generator=generator_from(7)).choice
    assert frequency_z(choice, torch.softmax(LOGITS, -1)) < 5
    assert frequency_z(choice, torch.softmax(LOGITS / 1.05, -1)) > 5


def test_the_test_of_the_law_notices_a_noise_that_is_not_gumbel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NOISE, normal_noise)
    rows = LOGITS.expand(200_000, 1, 5)
    choice = Gumbel()(rows, Recorder(torch.zeros(1, 5)), generator=generator_from(7)).choice
    assert frequency_z(choice, torch.softmax(LOGITS, -1)) > 5


def test_slots_are_drawn_independently(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([[0.5, 0.0, -1.0], [1.0, -0.5, 0.0]])
    p = torch.softmax(logits.double(), dim=-1)
    joint = torch.outer(p[0], p[1]).flatten()
    rows, objective = logits.expand(200_000, 2, 3), Recorder(torch.zeros(2, 3))
    choice = Gumbel()(rows, objective, generator=generator_from(3)).choice
    assert frequency_z(3 * choice[:, 0] + choice[:, 1], joint) < 5

    def shared(like: Tensor, generator: torch.Generator) -> Tensor:
        return gumbel_noise(like[:, :1], generator)

    monkeypatch.setattr(NOISE, shared)
    choice = Gumbel()(rows, objective, generator=generator_from(3)).choice
    assert frequency_z(3 * choice[:, 0] + choice[:, 1], joint) > 5


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("tau", [0.3, 1.0, 4.0])
def test_each_draws_gradient_is_the_jacobian_over_tau(hard: bool, tau: float, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, slots, items = 20, 2, 4
    generator = generator_from(11)
    logits = torch.randn(batch, slots, items, dtype=torch.float64, generator=generator)
    noise = gumbel_noise(logits, generator)
    w = torch.randn(slots, items, dtype=torch.float64, generator=generator)
    q = torch.randn(slots, items, dtype=torch.float64, generator=generator)
    monkeypatch.setattr(NOISE, lambda like, generator: noise)

    def objective(selection: Tensor) -> Tensor:
        return (selection * w).flatten(-2).sum(-1) + (selection * q).flatten(-2).sum(-1) ** 2

    gradient = gradient_of(Gumbel(tau, hard), logits, objective)
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


@pytest.mark.parametrize(("tau", "share"), [(0.01, 0.42), (0.001, 0.92)])
def test_the_share_of_dead_rows_is_the_documented_one(tau: float, share: float) -> None:
    leaf = torch.zeros(40_000, 1, 4).requires_grad_()
    # Slopes one apart, so that a probability above zero never rounds its product with a slope to zero.
    estimate = Gumbel(tau)(leaf, Recorder(torch.tensor([[0.0, 2.0, -3.0, 7.0]])), generator=generator_from(4))
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    zero = (gradient == 0).flatten(1).all(dim=1)
    assert torch.equal(estimate.diagnostics["dead"], zero.float())
    assert float(zero.float().mean()) == pytest.approx(share, abs=0.01)


def test_rows_are_dead_only_if_all_their_slots_are() -> None:
    leaf = torch.zeros(40_000, 2, 3).requires_grad_()
    recorder = Recorder(torch.randn(2, 3, generator=generator_from(8)))
    estimate = Gumbel(0.01)(leaf, recorder, generator=generator_from(4))
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    slot_is_zero = (gradient == 0).all(dim=-1)
    dead = estimate.diagnostics["dead"]
    assert torch.equal(dead, slot_is_zero.all(dim=-1).float())
    assert 0.1 < float(dead.mean()) < float(slot_is_zero.float().mean()) - 0.1


def test_no_row_is_dead_at_a_high_temperature() -> None:
    case = Case(2, 4)
    estimate = Gumbel(1.0)(case.logits.expand(1000, 2, 4), case.objective("smooth"), generator=generator_from(0))
    assert estimate.diagnostics["dead"].tolist() == [0.0] * 1000


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match=f"expected tau > 0, got {tau}"):
        Gumbel(tau)

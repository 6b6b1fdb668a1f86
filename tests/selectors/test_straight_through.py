"""Straight-through: the distribution of its draws at the forward temperature, and its choice without noise.

Its gradient is tested for every draw in ``test_equivalence``.
"""

import math

import pytest
import torch
from torch import Tensor

from slot_rl.seeding import generator_from
from slot_rl.selectors import StraightThrough
from tests.helpers.equivalence import Recorder, frequency_z, gradient_of, normal_noise

LOGITS = torch.tensor([0.3, -1.2, 2.0, 0.0, -4.0])


def cubed_second_item(selection: Tensor) -> Tensor:
    """Scores a selection of one slot: twice the cube of its second item, whose slope is 6 where it is chosen."""
    return (2 * selection[..., 1] ** 3).sum(dim=-1)


@pytest.mark.parametrize("tau_forward", [0.5, 1.0, 3.0])
def test_choices_follow_the_softmax_at_the_forward_temperature(tau_forward: float) -> None:
    rows = LOGITS.expand(200_000, 1, 5)
    selector = StraightThrough(tau_forward, tau_backward=2.0)
    choice = selector(rows, Recorder(torch.zeros(1, 5)), generator=generator_from(7)).choice
    assert frequency_z(choice, torch.softmax(LOGITS / tau_forward, -1)) < 5
    assert frequency_z(choice, torch.softmax(LOGITS / (1.05 * tau_forward), -1)) > 5


def test_the_test_of_the_law_notices_a_noise_that_is_not_gumbel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slot_rl.selectors.categorical.gumbel_noise", normal_noise)
    rows = LOGITS.expand(200_000, 1, 5)
    choice = StraightThrough()(rows, Recorder(torch.zeros(1, 5)), generator=generator_from(7)).choice
    assert frequency_z(choice, torch.softmax(LOGITS, -1)) > 5


def test_without_noise_the_choice_is_the_argmax() -> None:
    logits = torch.randn(300, 4, 9, generator=generator_from(0))
    generator = generator_from(1)
    state, before = generator.get_state(), torch.get_rng_state()
    recorder = Recorder(torch.ones(4, 9))
    selector = StraightThrough(tau_forward=50.0, noise=False)
    assert torch.equal(selector(logits, recorder, generator=generator).choice, logits.argmax(dim=-1))
    assert torch.equal(selector(logits, recorder).choice, logits.argmax(dim=-1))
    assert torch.equal(generator.get_state(), state) and torch.equal(torch.get_rng_state(), before)


def test_without_noise_the_choice_is_the_best_allowed_item() -> None:
    logits = torch.tensor([[[5.0, 3.0, 4.0]]])
    mask = torch.tensor([[[False, True, True]]])
    estimate = StraightThrough(noise=False)(logits, Recorder(torch.ones(1, 3)), mask)
    assert estimate.choice.tolist() == [[2]]


@pytest.mark.parametrize(
    ("tau_backward", "expected"),
    [
        # The slope is 6 for item 1 and 0 for the others; p_n (g_n - mean) with mean 0.5 * 6.
        (1.0, [-0.6, 1.5, -0.9]),
        # The squares of the probabilities are in the ratio 4 : 25 : 9, and the mean is 25 / 38 * 6.
        (0.5, [-600 / 1444, 1950 / 1444, -1350 / 1444]),
    ],
)
def test_without_noise_the_slope_is_that_at_the_argmax(tau_backward: float, expected: list[float]) -> None:
    logits = torch.log(torch.tensor([[[0.2, 0.5, 0.3]]], dtype=torch.float64))
    gradient = gradient_of(StraightThrough(tau_backward=tau_backward, noise=False), logits, cubed_second_item)
    torch.testing.assert_close(gradient.flatten(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (StraightThrough(), True),
        (StraightThrough(tau_backward=0.5), True),
        (StraightThrough(tau_forward=0.5), False),
        (StraightThrough(noise=False), False),
    ],
    ids=str,
)
def test_only_noise_at_temperature_one_draws_from_the_softmax(selector: StraightThrough, expected: bool) -> None:
    assert selector.scores_draws is expected


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_temperatures_that_are_not_positive_are_refused(tau: float) -> None:
    with pytest.raises(ValueError, match=f"expected tau_forward > 0, got {tau}"):
        StraightThrough(tau_forward=tau)
    with pytest.raises(ValueError, match=f"expected tau_backward > 0, got {tau}"):
        StraightThrough(tau_backward=tau)

"""Schedules meet their ends and move one way between them, and the options that use them refuse what does not fit."""

from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slot_rl.agents import AGENTS
from slot_rl.agents.learning_options import LearningOptions
from slot_rl.agents.schedules import Constant, Cosine, Exponential, Linear, make_schedule
from slot_rl.agents.selector_agent import SELECTOR_AGENTS, AnnealedSelectorOptions
from slot_rl.selectors import Gapped, Gumbel, Rebar
from tests.helpers.options import POLICY_AGENTS, options_of

positive = st.floats(1e-6, 1e6)
share = st.floats(0.0, 1.0)
shapes = st.sampled_from([Linear, Exponential, Cosine])
examples = settings(max_examples=100, deadline=None, derandomize=True)


@examples
@given(shape=shapes, start=positive, end=positive)
def test_both_ends_are_met_exactly(shape: Any, start: float, end: float) -> None:
    assert (shape(start, end).at(0.0), shape(start, end).at(1.0)) == (start, end)


@examples
@given(shape=shapes, start=positive, end=positive, one=share, other=share)
def test_a_schedule_moves_from_start_to_end_and_never_back(
    shape: Any, start: float, end: float, one: float, other: float
) -> None:
    schedule, direction = shape(start, end), 1 if end >= start else -1
    earlier, later = schedule.at(min(one, other)), schedule.at(max(one, other))
    rounding = 1e-9 * max(start, end)
    assert direction * (later - earlier) >= -rounding
    assert min(start, end) - rounding <= later <= max(start, end) + rounding


@examples
@given(shape=shapes, start=positive, end=positive, done=share)
def test_a_reversed_schedule_has_swapped_ends(shape: Any, start: float, end: float, done: float) -> None:
    forwards, backwards = shape(start, end).at(done), shape(end, start).at(1 - done)
    assert forwards == pytest.approx(backwards, abs=1e-9 * max(start, end))


@pytest.mark.parametrize(
    ("schedule", "quarter", "half"),
    [
        (Constant(4.0), 4.0, 4.0),
        (Linear(4.0, 1.0), 3.25, 2.5),
        # 4 * (1/4)^(1/4) and 4 * (1/4)^(1/2).
        (Exponential(4.0, 1.0), 2 * 2**0.5, 2.0),
        # Weight (1 - cos(pi / 4)) / 2 = 0.146447.
        (Cosine(4.0, 1.0), 3.5606602, 2.5),
        (Linear(0.0, -2.0), -0.5, -1.0),
    ],
)
def test_the_points_between_are_those_of_a_calculation_by_hand(schedule: Any, quarter: float, half: float) -> None:
    assert schedule.at(0.25) == pytest.approx(quarter)
    assert schedule.at(0.5) == pytest.approx(half)


def test_every_kind_is_built_by_its_name() -> None:
    assert make_schedule("constant", 2.0, None) == Constant(2.0)
    assert make_schedule("linear", 2.0, 0.0) == Linear(2.0, 0.0)
    assert make_schedule("exponential", 2.0, 0.5) == Exponential(2.0, 0.5)
    assert make_schedule("cosine", 2.0, -1.0) == Cosine(2.0, -1.0)


@pytest.mark.parametrize(
    ("kind", "start", "end", "message"),
    [
        ("exponential", 1.0, 0.0, "exponential schedule between values > 0, got 1.0 and 0.0"),
        ("exponential", -1.0, 1.0, "exponential schedule between values > 0, got -1.0 and 1.0"),
        ("exponential", 1.0, float("nan"), "exponential schedule between values > 0, got 1.0 and nan"),
        ("constant", 1.0, 1.0, "no end for a constant schedule, got 1.0"),
        ("linear", 1.0, None, "an end for the linear schedule, got none"),
        ("exponential", 1.0, None, "an end for the exponential schedule, got none"),
        ("cosine", 1.0, None, "an end for the cosine schedule, got none"),
        ("step", 1.0, 0.0, "a schedule among constant, linear, exponential, cosine, got 'step'"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(kind: Any, start: float, end: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_schedule(kind, start, end)


@pytest.mark.parametrize("name", POLICY_AGENTS)
def test_the_entropy_bonus_anneals_to_zero_by_default(name: str) -> None:
    options = options_of(name)
    assert options.entropy > 0
    assert options.entropy_over_time == Linear(options.entropy, 0.0)


def test_the_entropy_bonus_moves_as_it_is_told() -> None:
    assert LearningOptions(entropy=0.4, entropy_schedule="constant").entropy_over_time == Constant(0.4)
    assert LearningOptions(entropy=0.4, entropy_end=0.1).entropy_over_time == Linear(0.4, 0.1)
    assert LearningOptions(entropy=0.4, entropy_schedule="cosine").entropy_over_time == Cosine(0.4, 0.0)
    falling = LearningOptions(entropy=0.4, entropy_end=0.1, entropy_schedule="exponential").entropy_over_time
    assert falling.at(0.5) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"entropy_end": 0.1, "entropy_schedule": "constant"}, "no end for a constant schedule, got 0.1"),
        ({"entropy_schedule": "exponential"}, "values > 0, got 0.3 and 0.0"),
        ({"entropy": 0.0, "entropy_end": 0.1, "entropy_schedule": "exponential"}, "values > 0, got 0.0 and 0.1"),
        ({"entropy_end": -0.1}, "entropy bonuses >= 0, got 0.3 and -0.1"),
        ({"entropy_schedule": "stepwise"}, "a schedule among constant, .* got 'stepwise'"),
    ],
)
def test_an_impossible_entropy_bonus_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LearningOptions(**arguments)


def test_a_temperature_moves_and_other_options_stay() -> None:
    soft = AnnealedSelectorOptions(selector=Gumbel(tau=4.0, hard=False), tau_end=1.0, tau_schedule="exponential")
    assert [soft.selector_at(done) for done in (0.0, 0.5, 1.0)] == [Gumbel(tau, hard=False) for tau in (4.0, 2.0, 1.0)]
    gapped = AnnealedSelectorOptions(selector=Gapped(gap=3.0, tau=2.0), tau_end=1.0, tau_schedule="linear")
    assert gapped.selector_at(0.25) == Gapped(gap=3.0, tau=1.75)
    rebar = AnnealedSelectorOptions(selector=Rebar(eta=0.5, tau=1.0), tau_end=3.0, tau_schedule="cosine")
    assert [rebar.selector_at(done) for done in (0.0, 1.0)] == [Rebar(0.5, tau=1.0), Rebar(0.5, tau=3.0)]
    assert AnnealedSelectorOptions(selector=Gumbel(tau=2.0)).selector_at(0.7) == Gumbel(tau=2.0)


def test_agents_with_one_temperature_can_anneal_it() -> None:
    annealed = {name for name in SELECTOR_AGENTS if isinstance(AGENTS[name].options, AnnealedSelectorOptions)}
    assert annealed == {"gumbel", "gumbel_rao", "softmax", "reinmax", "gapped", "rebar"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau_end": 0.1}, "no end for a constant schedule, got 0.1"),
        ({"tau_schedule": "linear"}, "an end for the linear schedule, got none"),
        ({"tau_end": 0.0, "tau_schedule": "exponential"}, "values > 0, got 0.5 and 0.0"),
        ({"tau_end": 0.0, "tau_schedule": "linear"}, "tau > 0, got 0.0"),
        ({"tau_end": -1.0, "tau_schedule": "cosine"}, "tau > 0, got -1.0"),
        ({"tau_end": 0.1, "tau_schedule": "sudden"}, "a schedule among constant, .* got 'sudden'"),
    ],
)
def test_an_impossible_temperature_is_refused(arguments: dict[str, Any], message: str) -> None:
    kind: Any = partial(options_of, "gumbel")
    with pytest.raises(ValueError, match=message):
        kind(**arguments)

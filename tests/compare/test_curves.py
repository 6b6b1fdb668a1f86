"""Curves over seeds, profiles and ratios, all small enough to be worked out by hand."""

from math import inf

import pytest

from slot_rl.compare.curves import ALL_TASKS, Along, Band, Reach, aggregate, profiles, reach
from slot_rl.compare.outcomes import LearningCurve, Outcome

ALONG: tuple[Along, ...] = ("calls", "seconds")


def curve(agent: str, seed: int, calls: list[float], values: list[float], task: str = "task") -> LearningCurve:
    return LearningCurve(task, agent, seed, tuple(calls), tuple(at / 10 for at in calls), tuple(values))


def ended(agent: str, values: list[float], task: str = "task") -> list[Outcome]:
    return [Outcome(task, agent, seed, None, value, 0.0) for seed, value in enumerate(values)]


def share_above(band: Band, tau: float) -> tuple[float, float, float]:
    # A profile is a step function that begins with a share of 1.
    at = max((i for i, abscissa in enumerate(band.at) if abscissa <= tau), default=0)
    return band.low[at], band.value[at], band.high[at]


def test_seeds_are_averaged_without_the_outer_quarters() -> None:
    runs = [curve("a", seed, [0, 10], [0, end]) for seed, end in enumerate([9, 2, 1, 0])]
    (band,) = aggregate(runs, "calls", points=3)
    assert (band.task, band.agent, band.seeds) == ("task", "a", 4)
    assert band.at == (0, 5, 10)
    assert band.value == pytest.approx((0, 0.75, 1.5))
    assert band.low[0] == band.high[0] == 0
    assert 0 <= band.low[2] < 1.5 < band.high[2] <= 9
    (band,) = aggregate(runs, "seconds", points=3)
    assert band.at == (0, 0.5, 1)


def test_the_grid_is_what_all_seeds_share() -> None:
    runs = [curve("a", 0, [0, 8, 16], [0, 0.8, 1.6]), curve("a", 1, [4, 12], [0.4, 1.2])]
    (band,) = aggregate(runs, "calls", points=5)
    assert band.at == (4, 6, 8, 10, 12)
    for values in (band.value, band.low, band.high):
        assert values == pytest.approx((0.4, 0.6, 0.8, 1.0, 1.2))


def test_the_band_holds_the_bootstrap_quantiles() -> None:
    # Of two seeds, half of the resamples have both, and a quarter each has one of them twice.
    (band,) = aggregate([curve("a", seed, [0, 1], [seed, seed]) for seed in (0, 1)], "calls", points=2)
    assert (band.low, band.value, band.high) == ((0, 0), (0.5, 0.5), (1, 1))
    (band,) = aggregate([curve("a", 0, [0, 1], [3, 4])], "calls", points=2)
    assert (band.low, band.value, band.high) == ((3, 4), (3, 4), (3, 4))


def test_runs_evaluated_at_their_ends_alone_make_a_point() -> None:
    runs = [curve("a", seed, [at], [at / 10]) for seed, at in enumerate([1, 2, 6])]
    (band,) = aggregate([*runs, curve("a", 3, [], [])], "calls")
    assert (band.at, band.seeds) == ((2,), 3)
    assert band.value == pytest.approx((0.3,))


def test_an_agents_band_is_the_same_in_any_company() -> None:
    runs = [curve("a", seed, [0, 1], [0, seed]) for seed in range(6)]
    others = [curve("b", seed, [0, 1], [0, seed], task) for seed in range(3) for task in ("task", "other")]
    together = aggregate([*others, *runs], "calls")
    assert [(band.task, band.agent) for band in together] == [("task", "b"), ("other", "b"), ("task", "a")]
    assert together[-1] == aggregate(runs, "calls")[0]


def test_a_profile_is_the_share_of_runs_above_tau() -> None:
    (band,) = profiles(ended("a", [0.2, 0.4, 0.6, 0.8]))
    assert band.value[0] == 1 and band.at[0] < 0.2 and band.at[-1] == 1 and band.value[-1] == 0
    low, share, high = share_above(band, 0.5)
    assert share == 0.5
    assert (low, high) == (0, 1)  # one resample in sixteen each has none or all of its runs above
    assert sorted(band.value, reverse=True) == list(band.value)
    assert set(band.value) == {1, 0.75, 0.5, 0.25, 0}


def test_a_pooled_profile_resamples_within_tasks() -> None:
    outcomes = ended("a", [0.9] * 5) + ended("a", [0.1] * 5, "other")
    (band,) = profiles(outcomes, pooled=True)
    assert (band.task, band.seeds) == (ALL_TASKS, 10)
    assert share_above(band, 0.5) == (0.5, 0.5, 0.5)
    assert [(one.task, share_above(one, 0.5)[1]) for one in profiles(outcomes)] == [("task", 1), ("other", 0)]


def test_equal_runs_still_have_a_profile() -> None:
    (band,) = profiles(ended("a", [1.0, 1.0]))
    assert band.value[0] == 1 and band.value[-1] == 0 and len(set(band.at)) == len(band.at)


def test_how_soon_an_agent_is_as_good_as_another_ends() -> None:
    goals = [curve("ppo", seed, [50, end], [0.9, 0.8]) for seed, end in [(0, 100), (1, 200), (2, 100), (7, 100)]]
    runs = [
        curve("gumbel", 0, [10, 20, 40, 60], [0.4, 0.6, 1.0, 0.5]),  # halfway from 20 to 40; what follows is nothing
        curve("gumbel", 1, [10, 20], [0.8, 0.9]),  # there at once
        curve("gumbel", 2, [10, 500], [0.1, 0.79]),  # never
        curve("gumbel", 8, [10, 20], [0.8, 0.9]),  # a seed that the target lacks
    ]
    for along in ALONG:
        (found,) = reach([*goals, *runs], along=along)
        assert (found.task, found.agent, found.target) == ("task", "gumbel", "ppo")
        assert (found.low, found.ratio, found.high) == pytest.approx((10 / 200, 30 / 100, inf))
        assert (found.seeds, found.never) == (3, 1)
    assert reach([*goals[:2], *runs[:2]])[0].ratio == pytest.approx((0.3 + 0.05) / 2)
    for few in ([*goals, runs[0], runs[2]], [*goals, runs[2]]):
        assert reach(few)[0].ratio == inf
    assert reach([*goals, runs[2]])[0].low == inf


def test_a_run_without_an_evaluation_never_gets_there_and_is_no_goal() -> None:
    goals = [curve("ppo", 0, [100], [0.5]), curve("ppo", 1, [100], [0.5]), curve("ppo", 2, [], [])]
    runs = [curve("gumbel", 0, [50], [0.6]), curve("gumbel", 1, [], []), curve("gumbel", 2, [50], [0.6])]
    (found,) = reach([*goals, *runs])
    assert (found.ratio, found.seeds, found.never) == (inf, 2, 1)
    (found,) = reach([*goals, runs[0], runs[2]])
    assert (found.ratio, found.seeds, found.never) == (0.5, 1, 0)


def test_the_interval_of_a_median_over_many_seeds() -> None:
    goals = [curve("ppo", seed, [100], [0.5]) for seed in range(9)]
    runs = [curve("gumbel", seed, [0, 100], [0, 0.5 if seed < 8 else 0.1]) for seed in range(9)]
    (same,) = reach([*goals, *runs])
    assert (same.ratio, same.low, same.high, same.never) == (1, 1, 1, 1)  # one infinity in nine moves no median
    runs = [curve("gumbel", seed, [0, 100], [0, 50 / (seed + 1)]) for seed in range(9)]
    (spread,) = reach([*goals, *runs])
    # The binomial interval of nine: from the second to the eighth, or one further in.
    assert spread.ratio == pytest.approx(0.05)
    assert 0.0199 < spread.low < 0.0401 and 0.0599 < spread.high < 0.0801


def test_tasks_without_a_common_seed_are_left_out_and_a_goal_that_took_nothing_is_refused() -> None:
    lone = [curve("gumbel", 0, [1], [1]), curve("ppo", 1, [1], [1]), curve("ppo", 0, [1], [1], "other")]
    assert reach(lone) == []
    assert reach(lone, target_agent="gumbel", agent="gumbel") == [Reach("task", "gumbel", "gumbel", 1, 1, 1, 1, 0)]
    with pytest.raises(ValueError, match="expected ppo on task, seed 0, to end after more than 0 calls, got 0"):
        reach([curve("gumbel", 0, [1], [1]), curve("ppo", 0, [0], [1])])

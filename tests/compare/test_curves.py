"""Curves over seeds, profiles, ratios and break-evens, all small enough to be worked out by hand."""

from dataclasses import replace
from math import inf, nan
from typing import Any

import pandas as pd
import pytest

from slot_rl.compare.conclusions import conclude
from slot_rl.compare.curves import (
    ALL_TASKS,
    Along,
    break_evens,
    call_break_evens,
    learning_bands,
    profiles,
    reach,
    serving_medians,
)
from slot_rl.compare.tables import call_cost_tables
from slot_rl.serving_curves import BreakEven
from tests.helpers.made_up import CURVES, SERVING, made_run, records, results, three_agents

TIMED = [*SERVING, "seconds", "own_seconds", "paid_calls"]

ALONG: tuple[Along, ...] = ("calls", "seconds")
Points = list[tuple[Any, ...]]


def curve(agent: str, seed: int, calls: list[float], values: list[float], task: str = "task") -> Points:
    return [(task, agent, seed, at, at / 10, value) for at, value in zip(calls, values, strict=True)]


def frame(*curves: Points) -> pd.DataFrame:
    return pd.DataFrame([point for points in curves for point in points], columns=CURVES)


def ended(agent: str, values: list[float], task: str = "task") -> pd.DataFrame:
    return pd.DataFrame([made_run(task, agent, seed, value) for seed, value in enumerate(values)])


def band(bands: pd.DataFrame) -> tuple[list[float], ...]:
    """Returns places, values and interval ends of a single band."""
    assert len(bands[["task", "agent"]].drop_duplicates()) == 1
    return tuple(bands[name].tolist() for name in ("at", "value", "low", "high"))


def share_above(bands: pd.DataFrame, tau: float) -> tuple[float, float, float]:
    """Returns the share of runs above tau with its interval: a profile is a step function."""
    point = records(bands)[max((bands["at"] <= tau).sum() - 1, 0)]
    return point.low, point.value, point.high


def test_seeds_are_averaged_without_the_outer_quarters() -> None:
    runs = frame(*(curve("a", seed, [0, 10], [0, end]) for seed, end in enumerate([9, 2, 1, 0])))
    bands = learning_bands(runs, "calls", points=3)
    at, value, low, high = band(bands)
    assert set(bands["seeds"]) == {4} and at == [0, 5, 10]
    assert value == pytest.approx([0, 0.75, 1.5])
    assert low[0] == high[0] == 0 and 0 <= low[2] < 1.5 < high[2] <= 9
    assert band(learning_bands(runs, "seconds", points=3))[0] == [0, 0.5, 1]


def test_the_grid_is_what_all_seeds_share() -> None:
    runs = frame(curve("a", 0, [0, 8, 16], [0, 0.8, 1.6]), curve("a", 1, [4, 12], [0.4, 1.2]))
    at, *others = band(learning_bands(runs, "calls", points=5))
    assert at == [4, 6, 8, 10, 12]
    for values in others:
        assert values == pytest.approx([0.4, 0.6, 0.8, 1.0, 1.2])


def test_the_band_holds_the_bootstrap_quantiles() -> None:
    # Of two seeds, half of the resamples have both, and a quarter each has one of them twice.
    both = frame(*(curve("a", seed, [0, 1], [seed, seed]) for seed in (0, 1)))
    assert band(learning_bands(both, "calls", points=2)) == ([0, 1], [0.5, 0.5], [0, 0], [1, 1])
    assert band(learning_bands(frame(curve("a", 0, [0, 1], [3, 4])), "calls", points=2)) == ([0, 1], *[[3, 4]] * 3)


def test_runs_evaluated_once_make_a_point() -> None:
    runs = frame(
        *(curve("a", seed, [at], [at / 10]) for seed, at in enumerate([1, 2, 6])), [("task", "a", 3) + (nan,) * 3]
    )
    bands = learning_bands(runs, "calls")
    assert bands["at"].tolist() == [2] and bands["seeds"].tolist() == [3]
    assert bands["value"].item() == pytest.approx(0.3)
    assert learning_bands(frame(), "calls").empty


def test_an_agents_band_is_the_same_in_any_company() -> None:
    runs = [curve("a", seed, [0, 1], [0, seed]) for seed in range(6)]
    others = [curve("b", seed, [0, 1], [0, seed], task) for seed in range(3) for task in ("task", "other")]
    together = learning_bands(frame(*others, *runs), "calls")
    shown = list(together[["task", "agent"]].drop_duplicates().itertuples(index=False, name=None))
    assert shown == [("task", "b"), ("other", "b"), ("task", "a")]
    alone = learning_bands(frame(*reversed(runs)), "calls")
    pd.testing.assert_frame_equal(together[together["agent"] == "a"].reset_index(drop=True), alone)


def test_a_profile_is_the_share_of_runs_above_tau() -> None:
    found = profiles(ended("a", [0.2, 0.4, 0.6, 0.8]))
    at, value, _, _ = band(found)
    assert value == [1, 0.75, 0.5, 0.25, 0, 0] and at[0] < 0.2 and at[-1] == 1
    # One resample in sixteen each has none or all of its runs above.
    assert share_above(found, 0.5) == (0, 0.5, 1)


def test_a_pooled_profile_resamples_within_tasks() -> None:
    runs = pd.concat([ended("a", [0.9] * 5), ended("a", [0.1] * 5, "other")])
    pooled = profiles(runs, pooled=True)
    assert set(pooled["task"]) == {ALL_TASKS} and set(pooled["seeds"]) == {10}
    assert share_above(pooled, 0.5) == (0.5, 0.5, 0.5)
    by_task = profiles(runs).groupby("task", sort=False)
    assert [(task, share_above(one, 0.5)[1]) for task, one in by_task] == [("task", 1), ("other", 0)]


def test_equal_runs_still_have_a_profile() -> None:
    at, value, _, _ = band(profiles(ended("a", [1.0, 1.0])))
    assert value[0] == 1 and value[-1] == 0 and len(set(at)) == len(at)


def test_how_soon_an_agent_is_as_good_as_another_ends() -> None:
    goals = [curve("ppo", seed, [50, end], [0.9, 0.8]) for seed, end in [(0, 100), (1, 200), (2, 100), (7, 100)]]
    runs = [
        curve("gumbel", 0, [10, 20, 40, 60], [0.4, 0.6, 1.0, 0.5]),  # halfway from 20 to 40; what follows is nothing
        curve("gumbel", 1, [10, 20], [0.8, 0.9]),  # there at once
        curve("gumbel", 2, [10, 500], [0.1, 0.79]),  # never
        curve("gumbel", 8, [10, 20], [0.8, 0.9]),  # a seed that the target lacks
    ]
    for along in ALONG:
        (found,) = records(reach(frame(*goals, *runs), "ppo", "gumbel", along))
        assert (found.task, found.agent, found.target, found.along) == ("task", "gumbel", "ppo", along)
        assert (found.low, found.ratio, found.high) == pytest.approx((10 / 200, 30 / 100, inf))
        assert (found.seeds, found.never) == (3, 1)
    assert reach(frame(*goals[:2], *runs[:2]), "ppo", "gumbel")["ratio"].item() == pytest.approx((0.3 + 0.05) / 2)
    for few in ([*goals, runs[0], runs[2]], [*goals, runs[2]]):
        assert reach(frame(*few), "ppo", "gumbel")["ratio"].item() == inf
    assert reach(frame(*goals, runs[2]), "ppo", "gumbel")["low"].item() == inf


def test_a_run_without_an_evaluation_never_reaches_a_goal() -> None:
    goals = [curve("ppo", 0, [100], [0.5]), curve("ppo", 1, [100], [0.5]), curve("ppo", 2, [nan], [nan])]
    runs = [curve("gumbel", 0, [50], [0.6]), curve("gumbel", 1, [nan], [nan]), curve("gumbel", 2, [50], [0.6])]
    (found,) = records(reach(frame(*goals, *runs), "ppo", "gumbel"))
    assert (found.ratio, found.seeds, found.never) == (inf, 2, 1)
    (found,) = records(reach(frame(*goals, runs[0], runs[2]), "ppo", "gumbel"))
    assert (found.ratio, found.seeds, found.never) == (0.5, 1, 0)


def test_the_interval_of_a_median_over_many_seeds() -> None:
    goals = [curve("ppo", seed, [100], [0.5]) for seed in range(9)]
    runs = [curve("gumbel", seed, [0, 100], [0, 0.5 if seed < 8 else 0.1]) for seed in range(9)]
    (same,) = records(reach(frame(*goals, *runs), "ppo", "gumbel"))
    assert (same.ratio, same.low, same.high, same.never) == (1, 1, 1, 1)  # one infinity in nine moves no median
    runs = [curve("gumbel", seed, [0, 100], [0, 50 / (seed + 1)]) for seed in range(9)]
    (spread,) = records(reach(frame(*goals, *runs), "ppo", "gumbel"))
    # The binomial interval of nine: from the second to the eighth, or one further in.
    assert spread.ratio == pytest.approx(0.05)
    assert 0.0199 < spread.low < 0.0401 and 0.0599 < spread.high < 0.0801


def test_a_task_without_a_common_seed_is_left_out() -> None:
    lone = frame(curve("gumbel", 0, [1], [1]), curve("ppo", 1, [1], [1]), curve("ppo", 0, [1], [1], "other"))
    assert reach(lone, "ppo", "gumbel").empty
    assert records(reach(lone, "gumbel", "gumbel")) == [("task", "gumbel", "gumbel", "calls", 1, 1, 1, 1, 0)]


def test_a_goal_that_took_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="expected ppo on task, seed 0, to end after more than 0 calls, got 0"):
        reach(frame(curve("gumbel", 0, [1], [1]), curve("ppo", 0, [0], [1])), "ppo", "gumbel")


def served(agent: str, *points: tuple[int, float], seed: int = 0) -> Points:
    return [("task", agent, seed, calls, optimality) for calls, optimality in points]


def test_serving_medians_are_of_calls_that_all_seeds_have() -> None:
    points = [
        *served("a", (0, 0.1), (2, 0.2), (64, 0.9)),
        *served("a", (0, 0.3), (2, 0.6), seed=1),
        *served("a", (0, 0.2), (1, 0.0), (2, 0.3), seed=2),
    ]
    found = serving_medians(pd.DataFrame(points, columns=SERVING))
    assert records(found[["agent", "calls", "optimality"]]) == [("a", 0, 0.2), ("a", 2, 0.3)]
    assert found["seconds"].isna().all()  # not measured
    timed = pd.DataFrame([(*point, 4.0 + point[2], 1.0, point[3]) for point in points], columns=TIMED)
    assert records(serving_medians(timed))[1] == ("task", "a", 2, 0.3, 5.0, 1.0, 2.0)


def test_break_evens_by_hand() -> None:
    runs = [
        made_run("task", "policy", 0, 0.5, searched_optimality=0.9),
        made_run("task", "strong", 0, 0.9, searched_optimality=0.99),
        made_run("task", "few", 0, 0.8) | {"kind": "guided_search"},
        made_run("task", "many", 0, 0.8) | {"kind": "mean_field"},
    ]
    serving = [
        *served("policy", (0, 0.5), (2, 0.75), (4, 0.75), (31, 0.9)),
        *served("strong", (0, 0.9)),
        *served("few", (1, 0.0), (4, 0.6)),
        *served("many", (1, 0.25), (4, 0.5), (16, 0.8)),
    ]
    found = break_evens(results(runs, serving=serving))
    assert list(found["agent"]) == ["policy", "policy", "strong"]
    assert list(found["calls"]) == [0, 2, 0] and list(found["optimality"]) == [0.5, 0.75, 0.9]
    # The best curve goes from .25 at 1 call to .6 at 4 and .8 at 16: five sevenths and three quarters of the way.
    needed = [4 ** (5 / 7), 4 * 4**0.75, inf]
    assert list(found["search_calls"]) == pytest.approx(needed)
    assert list(found["contexts"]) == pytest.approx([1_000 / needed[0], 1_000 / (needed[1] - 2), 1_000 / 16])


def test_no_break_even_where_search_is_as_cheap() -> None:
    runs = [
        made_run("task", "policy", 0, 0.5, searched_optimality=0.9),
        made_run("task", "guided", 0, 0.8) | {"kind": "guided_search"},
    ]
    serving = [*served("policy", (2, 0.5)), *served("guided", (1, 0.6), (4, 0.9))]
    assert records(break_evens(results(runs, serving=serving))) == [("task", "policy", 2, 0.5, 1.0, inf)]
    assert break_evens(results(runs)).empty
    assert break_evens(results(runs, serving=serving[:1])).empty


def timed(*curves: Points) -> pd.DataFrame:
    """Returns serving curves of which an answer takes 10 us without a call, and 1 us more and 2 us for each call."""
    rows = [(*point, (10 + 3 * point[3]) * 1e-6, (10 + point[3]) * 1e-6, point[3]) for one in curves for point in one]
    return pd.DataFrame(rows, columns=TIMED)


def test_break_evens_of_a_call_are_of_medians() -> None:
    runs = [
        *(made_run("task", "policy", seed, 0.5, searched_optimality=0.9) for seed in range(3)),
        made_run("task", "broken", 0, 0.0, "stopped", searched_optimality=0.9),
        *(made_run("task", name, 0, 0.8) for name in ("guided", "weak")),
    ]
    policy = [
        served("policy", (0, value), (2, value + 0.2), (64, 1.0), seed=i) for i, value in enumerate([0.1, 0.4, 0.9])
    ]
    serving = timed(*policy, served("guided", (1, 0.0), (4, 0.4), (16, 0.9)), served("weak", (1, 0.3)))
    slow = serving["agent"] == "policy"
    serving["own_seconds"] += 26e-6 * slow
    found = call_break_evens(replace(results(runs), serving=serving))
    assert list(found["agent"]) == ["policy"] * 4 and list(found["calls"]) == [0, 0, 2, 2]
    assert list(found["search"]) == ["guided", "weak"] * 2 and list(found["optimality"]) == pytest.approx(
        [0.4] * 2 + [0.6] * 2
    )
    first, unreached, second, never = found["break_even"]
    # 36 us against 14 us and 4 calls; 38 us and 2 calls against 26 us and 16 calls.
    assert (first.calls, first.above) == pytest.approx((4, 5.5e-6)) and first.below == inf
    assert (second.calls, second.above) == pytest.approx((16, 12 / 14 * 1e-6)) and second.below == inf
    assert unreached == never == BreakEven(None, 1)


def test_no_break_even_of_a_call_without_times() -> None:
    runs = [made_run("task", "policy", 0, 0.5, searched_optimality=0.9), made_run("task", "guided", 0, 0.8)]
    points = [*served("policy", (0, 0.5)), *served("guided", (1, 0.6))]
    assert call_break_evens(results(runs, serving=points)).empty
    assert call_break_evens(results(runs)).empty


def test_the_table_of_the_cost_of_a_call() -> None:
    points = [
        [(task, agent, seed, *point) for point in curve]
        for agent, curve in {
            "ppo": [(0, 0.55)],
            "gumbel": [(0, 0.7), (4, 0.9)],
            "search": [(1, 0.1), (8, 0.6), (31, 0.8)],
        }.items()
        for task in ("one", "two")
        for seed in range(100, 104)
    ]
    serving = timed(*points).assign(call_seconds=4.04e-6)
    serving["own_seconds"] += 28e-6 * (serving["agent"] == "ppo")
    one, two = call_cost_tables(conclude(replace(three_agents(), serving=serving), 0.5))
    assert (one.key, two.key) == ("call_cost_one", "call_cost_two")
    assert one.frame.columns.tolist() == ["answer", "optimality", "us", "search"]
    # 38 us against 18 and 8 calls; 10 us against 41; and an answer that 31 calls do not reach.
    assert one.frame.to_numpy().tolist() == [
        ["ppo, 0 calls", ".550", "10", "> 2.5 (8)"],
        ["gumbel, 0 calls", ".700", "10", "any (31)"],
        ["gumbel, 4 calls", ".900", "22", "unreached (31)"],
    ]
    assert "here a call with its backward costs 4 us" in one.caption
    assert call_cost_tables(conclude(three_agents(), 0.5)) == []

"""Conclusions by hand: the order of agents, policies at equal calls, and runs that failed."""

from dataclasses import replace
from math import inf
from typing import Any

import pandas as pd
import pytest

from slot_rl.compare.conclusions import Conclusions, conclude
from slot_rl.compare.statistics import Results
from tests.helpers.made_up import made_run, records, results

SEEDS = range(100, 104)


def made_up() -> Results:
    rows: list[dict[str, Any]] = []
    for task in ("two", "one"):
        for i, seed in enumerate(SEEDS):
            rows.append(made_run(task, "ppo", seed, 0.5 + 0.01 * i, searched_optimality=0.8 + 0.01 * i))
            rows.append(made_run(task, "gumbel", seed, 0.7 + 0.01 * i, searched_optimality=0.95 + 0.002 * i))
            rows.append(made_run(task, "search", seed, 0.9, calls_per_context=31))
    curves = [
        (task, agent, seed, *point)
        for task in ("two", "one")
        for seed in SEEDS
        for agent, optimality in (("ppo", (0.0, 0.5)), ("gumbel", (0.4, 0.7)))
        for point in zip((100.0, 1_000.0), (1.0, 4.0), optimality, strict=True)
    ]
    return results(rows, curves)


def chosen(runs: pd.DataFrame, query: str) -> Any:
    """Returns whether each run is one of a query."""
    return runs.index.isin(runs.query(query).index)


@pytest.fixture(scope="module")
def found() -> Conclusions:
    return conclude(made_up(), threshold=0.6)


def test_agents_stand_by_their_iqm_on_each_task(found: Conclusions) -> None:
    assert found.tasks == ["two", "one", "all"] and found.agents == ["ppo", "gumbel", "search"]
    assert list(found.summaries["agent"]) == ["search", "gumbel", "ppo"] * 3
    assert list(found.summaries["failure_rate"]) == [0, 0, 1] * 3
    assert found.warning is not None and found.break_evens.empty


def test_pairs_at_equal_calls_are_of_the_same_family(found: Conclusions) -> None:
    # Neither a policy with another's search nor with its own.
    assert len(found.pairs) == 3 * 3 and len(found.at_equal_calls) == 3 * 2
    assert sorted([*found.pairs["level"], *found.at_equal_calls["level"]])[0] == pytest.approx(0.05 / 15)
    there = records(found.at_equal_calls.query("task == 'two'"))
    assert [(pair.first, pair.second) for pair in there] == [
        ("ppo + 31 calls", "search"),
        ("gumbel + 31 calls", "search"),
    ]
    # .8 to .83 and .95 to .956 against .9.
    assert [pair.difference for pair in there] == pytest.approx([-0.085, 0.053])
    assert [pair.verdict for pair in there] == ["worse", "better"]


def test_agents_are_timed_on_what_ppo_took(found: Conclusions) -> None:
    calls, seconds = (records(found.reaches.query(f"along == '{along}'")) for along in ("calls", "seconds"))
    assert [(reach.task, reach.agent) for reach in calls] == [("two", "gumbel"), ("one", "gumbel")]
    # A third of the way from .4 to .7: 100 + 300 calls of 1,000, and 1 + 1 seconds of 4.
    assert calls[0].ratio == pytest.approx(0.4) and seconds[0].ratio == pytest.approx(0.5)
    without = made_up()
    assert conclude(replace(without, curves=without.curves.query("agent != 'ppo'")), 0.6).reaches.empty


def test_runs_that_failed_never_reach_ppo() -> None:
    whole, broken = made_up(), "agent == 'gumbel' and seed < 102 or agent == 'ppo' and seed == 103"
    runs = whole.runs.assign(failure=whole.runs["failure"].mask(chosen(whole.runs, broken), "stopped"))
    reach = records(conclude(replace(whole, runs=runs, curves=whole.curves.query(f"not ({broken})")), 0.6).reaches)[0]
    assert (reach.ratio, reach.low, reach.high, reach.never, reach.seeds) == (inf, pytest.approx(0.4), inf, 2, 3)


def test_runs_that_failed_count_as_random_answers() -> None:
    whole = made_up()
    searched = whole.runs["searched_optimality"].mask(chosen(whole.runs, "agent == 'gumbel' and seed == 100"))
    found = conclude(replace(whole, runs=whole.runs.assign(searched_optimality=searched)), 0.6)
    pair = records(found.at_equal_calls.query("task == 'two' and first == 'gumbel + 31 calls'"))[0]
    assert pair.difference == pytest.approx((0.952 + 0.954 + 0.956) / 4 - 0.9)

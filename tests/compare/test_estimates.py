"""One agent's figures by hand and by rliable, and intervals that cover what they say they do."""

from collections.abc import Sequence
from dataclasses import replace
from math import nan, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slot_rl.compare.estimates import (
    RESAMPLES,
    AgentSummary,
    Estimate,
    few_seeds_warning,
    summarise,
    widened_tail,
)
from slot_rl.compare.outcomes import Outcome
from tests.helpers.made_up import SCORES, table


def one(scores: Sequence[Sequence[float]], floor: float = 0.0) -> AgentSummary:
    (summary,) = summarise(table({"a": scores}), floor)
    return summary


def column(values: Sequence[float]) -> list[list[float]]:
    return [[value] for value in values]


def coverage(
    seeds: int, centres: Sequence[float], replications: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Returns how often the intervals of mean and IQM hold the true ones, of normals around each task's centre.

    The centres lie evenly around 0, which is then the expectation of either figure.
    """
    drawn = np.random.default_rng(1).normal(centres, 1, (replications, seeds, len(centres)))
    rows = table({f"a{number:05}": runs for number, runs in enumerate(drawn.tolist())})
    summaries = summarise(rows, 0.0, resamples)
    return covers([each.mean for each in summaries]), covers([each.iqm for each in summaries])


def covers(estimates: Sequence[Estimate]) -> float:
    return float(np.mean([each.low <= 0 <= each.high for each in estimates]))


def test_points_are_those_of_rliable() -> None:
    found = one(SCORES)
    assert found.mean.value == pytest.approx(0.6676190476190477, abs=1e-15)
    assert found.iqm.value == pytest.approx(0.729090909090909, abs=1e-15)
    assert found.optimality_gap == pytest.approx(0.3338095238095239, abs=1e-15)
    assert found.worst == -0.1 and found.runs == 21 and found.tasks == ("t0", "t1", "t2")
    assert one(column([row[0] for row in SCORES])).iqm.value == pytest.approx(0.852, abs=1e-15)


def test_points_are_those_of_the_installed_rliable() -> None:
    metrics = pytest.importorskip("rliable.metrics")
    found, scores = one(SCORES), np.array(SCORES)
    assert found.mean.value == pytest.approx(metrics.aggregate_mean(scores), abs=1e-15)
    assert found.iqm.value == pytest.approx(metrics.aggregate_iqm(scores), abs=1e-15)
    assert found.optimality_gap == pytest.approx(metrics.aggregate_optimality_gap(scores), abs=1e-15)


def test_t_intervals_by_hand() -> None:
    found = one(column([1, 2, 3, 4, 5, 6, 7, 8]))
    # The variance of 1 to 8 is 6; t with 7 degrees of freedom is 2.364624.
    assert found.mean.value == 4.5 and found.mean.method == "t"
    assert found.mean.high - 4.5 == pytest.approx(2.364624 * sqrt(6 / 8), rel=1e-6)
    # Four are left of the eight: 3, 3, 3, 4, 5, 6, 6, 6 once winsorised, 14 in squares around 4.5. The squared standard
    # error is 14 / (4 * 3), and t with 3 degrees of freedom 3.182446.
    assert found.iqm.value == 4.5 and found.iqm.method == "Tukey-McLaughlin trimmed t"
    assert 4.5 - found.iqm.low == pytest.approx(3.182446 * sqrt(14 / 12), rel=1e-6)


def test_the_widened_tail_by_hand() -> None:
    values = np.arange(10.0)
    # Phi(-sqrt(10 / 9) 2.262157) = Phi(-2.384523), as Hesterberg has it.
    assert widened_tail([values], [True]) == pytest.approx(0.0085505, abs=1e-6)
    # Cut into, the ratio is 10 / 9 * (9 / 10)^2: Phi(-sqrt(.9) 2.262157) = Phi(-2.146075).
    assert widened_tail([values], [False]) == pytest.approx(0.0159330, abs=1e-6)
    # Alike, three tasks have 27 degrees of freedom: Phi(-sqrt(10 / 9) 2.051831); one that varies alone has 9.
    assert widened_tail([values] * 3, [True] * 3) == pytest.approx(0.0152784, abs=1e-6)
    assert widened_tail([values, values * 0, values * 0], [True] * 3) == widened_tail([values], [True])


def test_methods_are_named() -> None:
    many = [row for row in SCORES for _ in range(2)]
    assert {one(column([row[0] for row in many])).iqm.method} == {"expanded percentile bootstrap"}
    assert {one(SCORES).mean.method, one(many).iqm.method} == {"stratified expanded percentile bootstrap"}


@pytest.mark.parametrize("runs", [[[0.1, 0.7]] * 3, [[0.1]] * 3, [[0.1]] * 9, [[0.1]] * 12, [[1e300]] * 12])
def test_no_spread_no_width(runs: list[list[float]]) -> None:
    found = one(runs)
    assert found.mean.low == found.mean.value == found.mean.high == pytest.approx(np.mean(runs))
    assert found.iqm.low == found.iqm.value == found.iqm.high


@pytest.mark.parametrize("seeds", [5, 12])
def test_a_single_outlier_does_not_warn(seeds: int) -> None:
    found = one(column([1.0] * (seeds - 1) + [0.0]))
    assert found.mean.low < found.mean.value < found.mean.high
    assert found.iqm.low <= found.iqm.value == found.iqm.high == 1
    assert one(column([5e-324] * (seeds - 1) + [0.0])).worst == 0


def test_failures_and_the_floor() -> None:
    rows = table({"a": column([0.9, 0.2, 0.0, 0.5])})
    rows[2] = replace(rows[2], failure="diverged")
    rows[0] = replace(rows[0], failure="out of memory")
    (found,) = summarise(rows, 0.5)
    assert found.failed == 2 and found.failure_rate == 0.75
    assert summarise(rows, 0.1)[0].failure_rate == 0.5


def test_averages() -> None:
    rows = [
        replace(row, true_optimality=0.2 * row.seed, gap=None if row.seed == 1 else 1.0, forwards=100 * row.seed)
        for row in table({"a": column([0.1, 0.2, 0.3])})
    ]
    (found,) = summarise(rows, 0.0)
    assert found.true_optimality == pytest.approx(0.2) and found.forwards == 100 and found.hit_rate == 0.5
    assert found.gap is None and found.searched_optimality is None and found.best_constant is None


def test_no_agent_changes_anothers_figures() -> None:
    alone, other = one(SCORES), [[1 - score for score in row] for row in SCORES]
    assert [each.agent for each in summarise(table({"b": other, "a": SCORES}), 0.0)] == ["a", "b"]
    assert summarise(table({"b": other, "a": SCORES}), 0.0)[0] == alone


RUNS = st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=2), min_size=3, max_size=12)


@settings(max_examples=20, deadline=None)
@given(RUNS.flatmap(lambda runs: st.permutations(table({"a": runs, "b": [row[::-1] for row in runs]}))))
def test_the_order_of_rows_changes_nothing(rows: list[Outcome]) -> None:
    ordered = sorted(rows, key=lambda row: (row.agent, row.seed, row.task))
    assert summarise(rows, 0.1, resamples=20) == summarise(ordered, 0.1, resamples=20)


def test_guards() -> None:
    rows = table({"ppo": SCORES, "gumbel": SCORES})
    with pytest.raises(ValueError, match="expected at least one outcome, got none"):
        summarise([], 0.0)
    with pytest.raises(ValueError, match="expected at least 3 seeds of 'ppo' on 't0', got 2"):
        summarise(table({"ppo": SCORES[:2], "gumbel": SCORES}), 0.0)
    with pytest.raises(ValueError, match=r"each task, agent and seed once, got \('t0', 'ppo', 0\) 2 times"):
        summarise([*rows, replace(rows[0], optimality=0.3)], 0.0)
    with pytest.raises(ValueError, match=r"the same seeds of all agents on 't0', got no seed 6 of \['ppo'\]"):
        summarise(table({"ppo": SCORES[:6], "gumbel": SCORES}), 0.0)
    with pytest.raises(ValueError, match=r"the same seeds of all agents on 't2', got no seed 0 of \['ppo'\]"):
        summarise([row for row in rows if (row.agent, row.task) != ("ppo", "t2")], 0.0)
    with pytest.raises(ValueError, match=r"a finite optimality, got nan of \('t0', 'ppo', 0\)"):
        summarise([replace(rows[0], optimality=nan), *rows[1:]], 0.0)


def test_below_ten_seeds_there_is_a_warning() -> None:
    ten = [[0.5]] * 10
    assert few_seeds_warning(table({"a": ten, "b": ten})) is None
    warning = few_seeds_warning(table({"a": ten, "b": ten[:7]}))
    assert warning is not None and "only 7 seeds: below 10" in warning


@pytest.mark.parametrize("tail, holds", [(0.025, False), (widened_tail([np.arange(10.0)], [True]), True)])
def test_plain_percentiles_of_ten_seeds_miss_the_bar(tail: float, holds: bool) -> None:
    generator = np.random.default_rng(0)
    samples = generator.normal(size=(3_000, 10))
    times = generator.multinomial(10, [0.1] * 10, 1_000) / 10
    low, high = np.quantile(samples @ times.T, (tail, 1 - tail), axis=1)
    assert (0.93 <= ((low <= 0) & (0 <= high)).mean() <= 0.97) == holds


def test_the_t_intervals_cover_what_they_say() -> None:
    mean, iqm = coverage(7, [0.0], 400, resamples=1)
    assert mean == pytest.approx(0.95, abs=0.03) and iqm == pytest.approx(0.95, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    "seeds, centres, replications",
    [(10, [0.0], 4_000), (20, [0.0], 4_000), (10, [-1.0, 0.0, 1.0], 2_000), (10, [-3.0, 0.0, 3.0], 2_000)],
)
def test_intervals_cover_what_they_say(seeds: int, centres: list[float], replications: int) -> None:
    mean, iqm = coverage(seeds, centres, replications)
    assert 0.93 <= mean <= 0.97
    assert 0.93 <= iqm <= 0.97

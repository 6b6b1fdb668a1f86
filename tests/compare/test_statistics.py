"""One agent's figures by hand and by rliable, and the measured coverage of their intervals."""

from collections.abc import Sequence
from math import nan, sqrt
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slot_rl.compare.statistics import RESAMPLES, few_seeds_warning, summarise, widened_tail
from tests.helpers.made_up import SCORES, records, table

RUNS = st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=2), min_size=3, max_size=12)
SHUFFLED = RUNS.flatmap(
    lambda runs: st.permutations(table({"a": runs, "b": [row[::-1] for row in runs]}).to_dict("records"))
)


def one(scores: Sequence[Sequence[float]]) -> Any:
    (summary,) = records(summarise(table({"a": scores}), 0.0))
    return summary


def column(values: Sequence[float]) -> list[list[float]]:
    return [[value] for value in values]


def coverage(seeds: int, centres: Sequence[float], replications: int, resamples: int = RESAMPLES) -> list[float]:
    """Returns how often the intervals of mean and IQM hold the true ones, of normals around each task's centre.

    The centres lie evenly around 0, which is then the expectation of either figure.
    """
    drawn = np.random.default_rng(1).normal(centres, 1, (replications, seeds, len(centres)))
    found = summarise(table({f"a{number:05}": runs for number, runs in enumerate(drawn.tolist())}), 0.0, resamples)
    return [float(((found[f"{name}_low"] <= 0) & (0 <= found[f"{name}_high"])).mean()) for name in ("mean", "iqm")]


def test_points_are_those_of_rliable() -> None:
    found = one(SCORES)
    assert found.mean == pytest.approx(0.6676190476190477, abs=1e-15)
    assert found.iqm == pytest.approx(0.729090909090909, abs=1e-15)
    assert found.optimality_gap == pytest.approx(0.3338095238095239, abs=1e-15)
    assert (found.worst, found.runs, found.tasks) == (-0.1, 21, 3)
    assert one(column([row[0] for row in SCORES])).iqm == pytest.approx(0.852, abs=1e-15)


def test_points_are_those_of_the_installed_rliable() -> None:
    metrics = pytest.importorskip("rliable.metrics")
    found, scores = one(SCORES), np.array(SCORES)
    assert found.mean == pytest.approx(metrics.aggregate_mean(scores), abs=1e-15)
    assert found.iqm == pytest.approx(metrics.aggregate_iqm(scores), abs=1e-15)
    assert found.optimality_gap == pytest.approx(metrics.aggregate_optimality_gap(scores), abs=1e-15)


def test_t_intervals_by_hand() -> None:
    found = one(column([1, 2, 3, 4, 5, 6, 7, 8]))
    # The variance of 1 to 8 is 6; t with 7 degrees of freedom is 2.364624.
    assert found.mean == 4.5 and found.mean_method == "t"
    assert found.mean_high - 4.5 == pytest.approx(2.364624 * sqrt(6 / 8), rel=1e-6)
    # Four are left of the eight: 3, 3, 3, 4, 5, 6, 6, 6 once winsorised, 14 in squares around 4.5. The squared standard
    # error is 14 / (4 * 3), and t with 3 degrees of freedom 3.182446.
    assert found.iqm == 4.5 and found.iqm_method == "Tukey-McLaughlin trimmed t"
    assert 4.5 - found.iqm_low == pytest.approx(3.182446 * sqrt(14 / 12), rel=1e-6)


def test_the_widened_tail_by_hand() -> None:
    values = np.arange(10.0)
    # Phi(-sqrt(10 / 9) 2.262157) = Phi(-2.384523), as in Hesterberg.
    assert widened_tail([values], [True]) == pytest.approx(0.0085505, abs=1e-6)
    # If trimmed, the ratio is 10 / 9 * (9 / 10)^2: Phi(-sqrt(.9) 2.262157) = Phi(-2.146075).
    assert widened_tail([values], [False]) == pytest.approx(0.0159330, abs=1e-6)
    # Three equal tasks have 27 degrees of freedom: Phi(-sqrt(10 / 9) 2.051831); one that varies alone has 9.
    assert widened_tail([values] * 3, [True] * 3) == pytest.approx(0.0152784, abs=1e-6)
    assert widened_tail([values, values * 0, values * 0], [True] * 3) == widened_tail([values], [True])


def test_methods_are_named() -> None:
    many = [row for row in SCORES for _ in range(2)]
    assert one(column([row[0] for row in many])).iqm_method == "expanded percentile bootstrap"
    assert {one(SCORES).mean_method, one(many).iqm_method} == {"stratified expanded percentile bootstrap"}


@pytest.mark.parametrize("runs", [[[0.1, 0.7]] * 3, [[0.1]] * 3, [[0.1]] * 9, [[0.1]] * 12, [[1e300]] * 12])
def test_no_spread_no_width(runs: list[list[float]]) -> None:
    found = one(runs)
    assert found.mean_low == found.mean == found.mean_high == pytest.approx(np.mean(runs))
    assert found.iqm_low == found.iqm == found.iqm_high


@pytest.mark.parametrize("seeds", [5, 12])
def test_a_single_outlier_does_not_warn(seeds: int) -> None:
    found = one(column([1.0] * (seeds - 1) + [0.0]))
    assert found.mean_low < found.mean < found.mean_high
    assert found.iqm_low <= found.iqm == found.iqm_high == 1
    assert one(column([5e-324] * (seeds - 1) + [0.0])).worst == 0


def test_failures_and_the_threshold() -> None:
    runs = table({"a": column([0.9, 0.2, 0.0, 0.5])}).assign(failure=["out of memory", nan, "diverged", nan])
    (found,) = records(summarise(runs, 0.5))
    assert (found.failed, found.failure_rate) == (2, 0.75)
    assert summarise(runs, 0.1)["failure_rate"].item() == 0.5


def test_other_figures_are_averaged() -> None:
    runs = table({"a": column([0.1, 0.2, 0.3])}).assign(true_optimality=[0.0, 0.2, 0.4], gap=[1.0, nan, 1.0])
    (found,) = records(summarise(runs, 0.0))
    assert (found.true_optimality, found.estimator_forwards, found.hit_rate) == (pytest.approx(0.2), 1_000, 0.5)
    assert np.isnan([found.gap, found.searched_optimality]).all()


def test_true_figures_are_over_runs_with_a_measured_answer() -> None:
    runs = table({"a": column([0.1, 0.2, 0.3])})
    some = runs.assign(true_optimality=[0.5, nan, 0.7], gap=[1.0, nan, 3.0], measured_share=[0.5, 0.0, 1.0])
    (found,) = records(summarise(some, 0.0))
    assert (found.true_optimality, found.gap, found.measured_share) == (pytest.approx(0.6), 2.0, 0.5)
    none = runs.assign(true_optimality=nan, gap=nan, measured_share=0.0)
    (found,) = records(summarise(none, 0.0))
    assert np.isnan([found.true_optimality, found.gap]).all() and found.measured_share == 0
    # At worst, an unmeasured answer has a true score. A failed run has none, and is not left out.
    (found,) = records(summarise(some.assign(gap=[1.0, 5.0, 3.0]), 0.0))
    assert found.gap == 3.0
    (found,) = records(summarise(some.assign(measured_share=[0.5, nan, 1.0]), 0.0))
    assert np.isnan([found.true_optimality, found.gap, found.measured_share]).all()


def test_no_agent_changes_anothers_figures() -> None:
    both = summarise(table({"b": [[1 - score for score in row] for row in SCORES], "a": SCORES}), 0.0)
    assert list(both["agent"]) == ["a", "b"]
    pd.testing.assert_frame_equal(both[:1], summarise(table({"a": SCORES}), 0.0))


@settings(max_examples=20, deadline=None)
@given(SHUFFLED)
def test_the_order_of_runs_changes_nothing(rows: list[dict[str, Any]]) -> None:
    runs = pd.DataFrame(rows)
    ordered = runs.sort_values(["agent", "seed", "task"])
    pd.testing.assert_frame_equal(summarise(runs, 0.1, resamples=20), summarise(ordered, 0.1, resamples=20))


RUNS_OF_TWO = table({"ppo": SCORES, "gumbel": SCORES})


@pytest.mark.parametrize(
    "runs, said",
    [
        (RUNS_OF_TWO[:0], "expected at least one run, got none"),
        (table({"ppo": SCORES[:2], "gumbel": SCORES}), "expected at least 3 seeds of 'ppo' on 't0', got 2"),
        (pd.concat([RUNS_OF_TWO, RUNS_OF_TWO[:1]]), r"each task, agent and seed once, got \('t0', 'ppo', 0\) 2 times"),
        (table({"ppo": SCORES[:6], "gumbel": SCORES}), r"seeds of all agents on 't0', got no seed 6 of \['ppo'\]"),
        (RUNS_OF_TWO.query("agent != 'ppo' or task != 't2'"), r"agents on 't2', got no seed 0 of \['ppo'\]"),
        (table({"ppo": [[nan], *column([1, 2])]}), r"a finite optimality, got nan of \('t0', 'ppo', 0\)"),
    ],
)
def test_what_is_no_comparison_is_refused(runs: pd.DataFrame, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        summarise(runs, 0.0)


def test_below_ten_seeds_there_is_a_warning() -> None:
    ten = [[0.5]] * 10
    assert few_seeds_warning(table({"a": ten, "b": ten})) is None
    warning = few_seeds_warning(table({"a": ten, "b": ten[:7]}))
    assert warning is not None and "only 7 seeds: below 10" in warning


@pytest.mark.parametrize("tail, holds", [(0.025, False), (widened_tail([np.arange(10.0)], [True]), True)])
def test_plain_percentiles_of_ten_seeds_cover_too_little(tail: float, holds: bool) -> None:
    generator = np.random.default_rng(0)
    samples = generator.normal(size=(3_000, 10))
    times = generator.multinomial(10, [0.1] * 10, 1_000) / 10
    low, high = np.quantile(samples @ times.T, (tail, 1 - tail), axis=1)
    assert (0.93 <= ((low <= 0) & (0 <= high)).mean() <= 0.97) == holds


def test_t_intervals_cover_what_they_say() -> None:
    assert coverage(7, [0.0], 400, resamples=1) == pytest.approx([0.95, 0.95], abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    "seeds, centres, replications",
    [(10, [0.0], 4_000), (20, [0.0], 4_000), (10, [-1.0, 0.0, 1.0], 2_000), (10, [-3.0, 0.0, 3.0], 2_000)],
)
def test_intervals_cover_what_they_say(seeds: int, centres: list[float], replications: int) -> None:
    mean, iqm = coverage(seeds, centres, replications)
    assert 0.93 <= mean <= 0.97
    assert 0.93 <= iqm <= 0.97

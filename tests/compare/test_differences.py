"""Pairs by hand, by scipy and by rliable; false verdicts and power as promised; and claims."""

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from slot_rl.compare.differences import (
    Claim,
    PairComparison,
    compare_pairs,
    holm,
    parse_claim,
    power_of_t_test,
    seeds_for_power,
    verdict_on,
)
from slot_rl.compare.outcomes import Outcome
from tests.helpers.made_up import SCORES, table

SECOND = [
    [0.81, 0.52, 0.93],
    [0.85, 0.35, 0.72],
    [0.89, 0.10, 0.74],
    [0.30, 0.51, 0.93],
    [0.67, 0.48, 0.78],
    [0.80, 0.42, 0.60],
    [0.73, 0.29, 0.85],
]


def pair(first: Sequence[float], second: Sequence[float]) -> PairComparison:
    """Returns the comparison of two agents on one task."""
    (found,) = compare_pairs(table({"a": [[x] for x in first], "b": [[y] for y in second]}))
    return found


def related(seeds: int, tables: int, effect: float, correlation: float) -> list[Outcome]:
    """Returns so many independent tasks of two agents, correlated within seeds and an effect apart."""
    generator = np.random.default_rng(0)
    shared, mine, others = generator.normal(size=(3, seeds, tables))
    common, own = sqrt(correlation) * shared, sqrt(1 - correlation)
    return table({"a": effect + common + own * mine, "b": common + own * others})


def power_of_pairs(effect: float, correlation: float, n: int, alpha: float = 0.05) -> float:
    """Returns the paired t test's power, for an effect in standard deviations of one agent's runs."""
    noncentrality = effect / sqrt(2 * (1 - correlation)) * sqrt(n)
    return float(power_of_t_test(np.array([noncentrality]), np.array([n - 1.0]), alpha)[0])


def test_one_task_is_the_paired_t_test() -> None:
    found = pair([0.4, 0.6, 0.9], [0.3, 0.4, 0.6])
    # Differences .1, .2 and .3: mean .2, standard error .1 / sqrt(3), t with 2 degrees of freedom 4.302653.
    assert (found.task, found.first, found.second, found.seeds) == ("t0", "a", "b", 3)
    assert found.difference.value == pytest.approx(0.2) and found.difference.method == "paired t"
    assert found.difference.high - 0.2 == pytest.approx(4.302653 * 0.1 / sqrt(3), rel=1e-6)
    assert found.p == pytest.approx(ttest_rel([0.4, 0.6, 0.9], [0.3, 0.4, 0.6]).pvalue, rel=1e-9)
    # Of nine pairs of runs .4 beats one and ties with one, .6 beats two and ties with one, .9 beats three.
    assert found.improvement.value == pytest.approx((1 + 0.5 + 2 + 0.5 + 3) / 9)
    assert found.improvement.low <= found.improvement.value < found.improvement.high == 1


def test_several_tasks_are_strata() -> None:
    *each, overall = compare_pairs(table({"a": SCORES, "b": SECOND}))
    differences = np.array(SCORES) - np.array(SECOND)
    assert [found.task for found in each] == ["t0", "t1", "t2"] and overall.task == "all"
    for found, of_task in zip(each, differences.T, strict=True):
        assert found.difference.value == pytest.approx(of_task.mean())
    assert overall.difference.value == pytest.approx(differences.mean())
    parts = differences.var(axis=0, ddof=1) / 7
    assert overall.standard_error == pytest.approx(sqrt(parts.sum()) / 3)
    assert overall.freedom == pytest.approx(parts.sum() ** 2 / (parts**2 / 6).sum())
    assert overall.difference.method == "stratified paired t"


def test_the_probability_of_improvement_is_that_of_rliable() -> None:
    found = [each.improvement.value for each in compare_pairs(table({"a": SCORES, "b": SECOND}))]
    assert found == pytest.approx([0.7040816326530612, 0.6428571428571429, 0.6122448979591837, 0.653061224489796])


def test_the_probability_of_improvement_is_that_of_the_installed_rliable() -> None:
    metrics = pytest.importorskip("rliable.metrics")
    *_, overall = compare_pairs(table({"a": SCORES, "b": SECOND}))
    expected = metrics.probability_of_improvement(np.array(SCORES), np.array(SECOND))
    assert overall.improvement.value == pytest.approx(expected)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.5, 0.0]) == [0.8, 0.8, 0.0]
    assert holm([]) == []


def test_one_call_is_one_family() -> None:
    found = compare_pairs(table({"a": SCORES, "b": SECOND, "c": [row[::-1] for row in SCORES]}))
    assert [(each.task, each.first, each.second) for each in found[-3:]] == [
        ("all", "a", "b"),
        ("all", "a", "c"),
        ("all", "b", "c"),
    ]
    assert [each.adjusted_p for each in found] == holm([each.p for each in found])
    assert sorted(each.level for each in found) == pytest.approx([0.05 / n for n in range(12, 0, -1)])
    assert min(found, key=lambda each: each.p).level == pytest.approx(0.05 / 12)


def test_verdicts() -> None:
    ups = [0.1, 0.2, 0.3, 0.15, 0.25]
    assert pair(ups, [0.0] * 5).verdict == "better"
    assert pair([0.0] * 5, ups).verdict == "worse"
    assert pair(ups, ups).verdict == "equal on every seed" and pair(ups, ups).p == 1
    assert pair([1, 2, 3], [0, 1, 2]).verdict == "better" and pair([1, 2, 3], [0, 1, 2]).p == 0
    assert pair([1, 2, 3], [0, 1, 2]).difference.low == 1 == pair([1, 2, 3], [0, 1, 2]).difference.high
    assert pair([1, -1, 2, -2], [0, 0, 0, 0]).verdict == "cannot tell at n = 4: over 1,000 for 80 % power"


def test_tasks_that_cancel_out_exactly() -> None:
    *_, overall = compare_pairs(table({"a": [[1, 0]] * 3, "b": [[0, 1]] * 3}))
    assert overall.p == 1 and not overall.equal
    assert overall.verdict == "cannot tell at n = 3: over 1,000 for 80 % power"


def test_how_many_seeds_it_would_take() -> None:
    # Of these ten the mean is .15 and the standard deviation .3375, an effect of .4444.
    differences = np.repeat([0.47016, -0.17016], 5)
    found = pair(differences.tolist(), [0.0] * 10)
    effect = found.difference.value / differences.std(ddof=1)
    assert effect == pytest.approx(0.4444, abs=1e-4)
    assert found.verdict == "cannot tell at n = 10: about n = 42 for 80 % power"
    assert power_of_pairs(effect, 0.5, 41) < 0.8 <= power_of_pairs(effect, 0.5, 42)
    harder = replace(found, level=0.005)
    assert harder.seeds_needed is not None and power_of_pairs(effect, 0.5, harder.seeds_needed, 0.005) >= 0.8


def test_never_fewer_seeds_than_there_are() -> None:
    found = pair([0.1, 0.2, 0.3, 0.15, 0.25], [0.0] * 5)
    assert replace(found, adjusted_p=0.06).verdict == "cannot tell at n = 5: about n = 6 for 80 % power"


def test_the_power_of_the_paired_test() -> None:
    # By the noncentral t: .5 / sqrt(.4) * sqrt(10) = 2.5 with 9 degrees of freedom, critical value 2.262157.
    assert power_of_pairs(0.5, 0.8, 10) == pytest.approx(0.6061, abs=1e-4)
    assert power_of_pairs(-0.5, 0.8, 10) == power_of_pairs(0.5, 0.8, 10)
    assert power_of_pairs(0, 0.8, 10) == pytest.approx(0.05)
    # Cohen (1988), table 2.4.1 for paired differences: 34 pairs find an effect of .5 with 80 % power.
    assert seeds_for_power(0.5) == 34
    assert seeds_for_power(0.01) is None
    assert seeds_for_power(1e9 / sqrt(2 * 0.001), alpha=1e-4) == 2
    for effect in (0.01, 0.3, 1, 5, 100):
        assert power_of_pairs(effect, 0.9, 1000, 1e-4) >= power_of_pairs(effect, 0.9, 10, 1e-4) > 0


def test_power_by_simulation() -> None:
    found = compare_pairs(related(10, 1_000, 0.5, 0.8), resamples=1)[:-1]
    assert np.mean([each.p <= 0.05 for each in found]) == pytest.approx(power_of_pairs(0.5, 0.8, 10), abs=0.04)


def family(tables: int) -> tuple[float, float]:
    """Returns how often ten equal agents are told apart at ten seeds: by the verdicts, and by p as it is."""
    generator = np.random.default_rng(0)
    verdicts, unadjusted = 0, 0
    for _ in range(tables):
        scores = {f"a{agent}": runs[:, None] for agent, runs in enumerate(generator.normal(size=(10, 10)))}
        found = compare_pairs(table(scores), resamples=1)
        assert len(found) == 45
        verdicts += any(each.decided and each.verdict in ("better", "worse") for each in found)
        unadjusted += any(each.p <= 0.05 for each in found)
    return verdicts / tables, unadjusted / tables


def test_unadjusted_p_tell_equal_agents_apart() -> None:
    assert family(20)[1] > 0.4


@pytest.mark.slow
def test_equal_agents_are_seldom_told_apart() -> None:
    adjusted, unadjusted = family(2_000)
    # Three standard errors of a rate of 5 %.
    assert adjusted <= 0.05 + 3 * sqrt(0.05 * 0.95 / 2_000)
    assert unadjusted > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_intervals_of_differences_and_probabilities_cover(correlation: float) -> None:
    found = compare_pairs(related(10, 2_000, 0.0, correlation))[:-1]
    assert 0.93 <= np.mean([each.difference.low <= 0 <= each.difference.high for each in found]) <= 0.97
    # Redrawing as few seeds is cautious here.
    assert 0.93 <= np.mean([each.improvement.low <= 0.5 <= each.improvement.high for each in found])


RUNS = st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=2), min_size=3, max_size=12)


@settings(max_examples=20, deadline=None)
@given(RUNS.flatmap(lambda runs: st.permutations(table({"a": runs, "b": [row[::-1] for row in runs]}))))
def test_the_order_of_rows_changes_nothing(rows: list[Outcome]) -> None:
    ordered = sorted(rows, key=lambda row: (row.agent, row.seed, row.task))
    found = compare_pairs(rows, resamples=20)
    assert found == compare_pairs(ordered, resamples=20)
    assert all(each.verdict for each in found)


def test_guards() -> None:
    rows = table({"a": SCORES, "b": SECOND})
    with pytest.raises(ValueError, match=r"the same seeds of all agents on 't1', got no seed 3 of \['b'\]"):
        compare_pairs([row for row in rows if (row.task, row.agent, row.seed) != ("t1", "b", 3)])
    with pytest.raises(ValueError, match="at least 3 seeds of 'a' on 't0', got 2"):
        compare_pairs(table({"a": SCORES[:2], "b": SECOND[:2]}))
    with pytest.raises(ValueError, match=r"each task, agent and seed once, got \('t0', 'a', 0\) 2 times"):
        compare_pairs([*rows, rows[0]])
    with pytest.raises(ValueError, match="none of several tasks to be called 'all'"):
        compare_pairs([replace(row, task="all") if row.task == "t0" else row for row in rows])


def test_claims_are_read() -> None:
    agents = ["gumbel", "ppo"]
    assert parse_claim("gumbel>ppo", agents, ["bandit"]) == Claim("gumbel", "ppo", "bandit")
    assert parse_claim("gumbel>ppo", agents, ["bandit", "maze"]) == Claim("gumbel", "ppo", "all")
    assert parse_claim("ppo > gumbel @ maze", agents, ["bandit", "maze"]) == Claim("ppo", "gumbel", "maze")
    assert str(parse_claim("gumbel>ppo@all", agents, ["bandit", "maze"])) == "gumbel>ppo@all"


@pytest.mark.parametrize(
    "text, said",
    [
        ("gumbel", "expected a claim such as 'a>b' or 'a>b@task', got 'gumbel'"),
        ("gumbel>ppo>gumbel", "expected a claim such as"),
        ("gumbel>", "expected a claim such as"),
        ("gumbel>ppo@", "expected a claim such as"),
        ("gumbel>sac", "about agents of gumbel, ppo, got 'sac' in 'gumbel>sac'"),
        ("ppo>ppo", "expected a claim about two agents, got 'ppo>ppo'"),
        ("gumbel>ppo@maze", "about a task of bandit, got 'maze' in 'gumbel>ppo@maze'"),
        ("gumbel>ppo@all", "about a task of bandit, got 'all'"),
    ],
)
def test_claims_that_are_none(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_claim(text, ["gumbel", "ppo"], ["bandit"])


def test_claims_are_checked() -> None:
    pairs = compare_pairs(table({"a": [[1, 0.1], [2, 0.5], [3, 0.3]], "b": [[0, 0.2], [1, 0.4], [2, 0.3]]}))
    claims = [parse_claim(text, ["a", "b"], ["t0", "t1"]) for text in ("a>b@t0", "b>a@t0", "a>b@t1", "b>a@t1", "a>b")]
    met, turned, untold, untold_too, overall = claims
    assert [claim for claim in claims if verdict_on(claim, pairs) != "better"] == [turned, untold, untold_too]
    assert verdict_on(met, pairs) == verdict_on(overall, pairs) == "better" and verdict_on(turned, pairs) == "worse"
    assert verdict_on(untold, pairs) == verdict_on(untold_too, pairs)
    with pytest.raises(ValueError, match="expected a comparison that bears on a>c@t0, got only a and b on t0"):
        verdict_on(Claim("a", "c", "t0"), pairs)

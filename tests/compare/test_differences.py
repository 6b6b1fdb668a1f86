"""Pairs by hand, by scipy and by rliable; the rate of false verdicts, the power, and claims."""

import gc
from collections.abc import Iterator, Sequence
from math import sqrt
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from scipy.stats import ttest_rel

from slot_rl.compare.differences import (
    Claim,
    compare_pairs,
    parse_claim,
    power_of_t_test,
    seeds_for_power,
    verdict_on,
    with_verdicts,
)
from tests.compare.test_statistics import SHUFFLED, column
from tests.helpers.made_up import SCORES, records, table

SECOND = [
    [0.81, 0.52, 0.93],
    [0.85, 0.35, 0.72],
    [0.89, 0.10, 0.74],
    [0.30, 0.51, 0.93],
    [0.67, 0.48, 0.78],
    [0.80, 0.42, 0.60],
    [0.73, 0.29, 0.85],
]
TWO = table({"a": SCORES, "b": SECOND})


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """Keeps what is loaded out of garbage collection, which statsmodels starts in each call."""
    gc.freeze()
    yield
    gc.unfreeze()


def compared(first: Sequence[float], second: Sequence[float]) -> pd.DataFrame:
    """Returns the comparison of two agents on one task."""
    return compare_pairs(table({"a": column(first), "b": column(second)}))


def pair(first: Sequence[float], second: Sequence[float]) -> Any:
    (found,) = records(compared(first, second))
    return found


def related(seeds: int, tables: int, effect: float, correlation: float) -> pd.DataFrame:
    """Returns so many independent tasks of two agents, correlated within seeds and an effect apart."""
    generator = np.random.default_rng(0)
    shared, mine, others = generator.normal(size=(3, seeds, tables))
    common, own = sqrt(correlation) * shared, sqrt(1 - correlation)
    return table({"a": effect + common + own * mine, "b": common + own * others})


def power_of_pairs(effect: float, correlation: float, n: int, alpha: float = 0.05) -> float:
    """Returns the paired t test's power, for an effect in standard deviations of one agent's runs."""
    noncentrality = effect / sqrt(2 * (1 - correlation)) * sqrt(n)
    return float(power_of_t_test(noncentrality, n - 1, alpha))


def test_one_task_is_the_paired_t_test() -> None:
    found = pair([0.4, 0.6, 0.9], [0.3, 0.4, 0.6])
    # Differences .1, .2 and .3: mean .2, standard error .1 / sqrt(3), t with 2 degrees of freedom 4.302653.
    assert (found.task, found.first, found.second, found.seeds) == ("t0", "a", "b", 3)
    assert found.difference == pytest.approx(0.2) and found.difference_method == "paired t"
    assert found.difference_high - 0.2 == pytest.approx(4.302653 * 0.1 / sqrt(3), rel=1e-6)
    assert found.p == pytest.approx(ttest_rel([0.4, 0.6, 0.9], [0.3, 0.4, 0.6]).pvalue, rel=1e-9)
    # Of nine pairs of runs .4 beats one and ties with one, .6 beats two and ties with one, .9 beats three.
    assert found.improvement == pytest.approx((1 + 0.5 + 2 + 0.5 + 3) / 9)
    assert found.improvement_low <= found.improvement < found.improvement_high == 1


def test_several_tasks_are_strata() -> None:
    *each, overall = records(compare_pairs(TWO))
    differences = np.array(SCORES) - np.array(SECOND)
    assert [found.task for found in each] == ["t0", "t1", "t2"] and overall.task == "all"
    assert [found.difference for found in each] == pytest.approx(differences.mean(axis=0))
    assert overall.difference == pytest.approx(differences.mean())
    parts = differences.var(axis=0, ddof=1) / 7
    assert overall.standard_error == pytest.approx(sqrt(parts.sum()) / 3)
    assert overall.freedom == pytest.approx(parts.sum() ** 2 / (parts**2 / 6).sum())
    assert overall.difference_method == "stratified paired t"


def test_the_probability_of_improvement_is_that_of_rliable() -> None:
    expected = [0.7040816326530612, 0.6428571428571429, 0.6122448979591837, 0.653061224489796]
    assert compare_pairs(TWO)["improvement"].tolist() == pytest.approx(expected)


def test_improvement_is_that_of_the_installed_rliable() -> None:
    metrics = pytest.importorskip("rliable.metrics")
    expected = metrics.probability_of_improvement(np.array(SCORES), np.array(SECOND))
    assert compare_pairs(TWO)["improvement"].iloc[-1] == pytest.approx(expected)


def test_one_call_is_one_family() -> None:
    found = compare_pairs(table({"a": SCORES, "b": SECOND, "c": [row[::-1] for row in SCORES]}))
    pairs = [("all", "a", "b"), ("all", "a", "c"), ("all", "b", "c")]
    assert list(found[["task", "first", "second"]][-3:].itertuples(index=False, name=None)) == pairs
    ordered = found.sort_values("p", kind="stable")
    factors = np.arange(12, 0, -1)
    assert ordered["adjusted_p"].tolist() == pytest.approx((factors * ordered["p"]).cummax().clip(upper=1).tolist())
    assert ordered["level"].tolist() == pytest.approx(0.05 / factors)
    with pytest.raises(ValueError, match="expected at least one pair to compare, got only a"):
        compare_pairs(table({"a": SCORES}))


def test_verdicts() -> None:
    ups = [0.1, 0.2, 0.3, 0.15, 0.25]
    assert pair(ups, [0.0] * 5).verdict == "better"
    assert pair([0.0] * 5, ups).verdict == "worse"
    assert pair(ups, ups).verdict == "equal on every seed" and pair(ups, ups).p == 1
    shifted = pair([1, 2, 3], [0, 1, 2])
    assert (shifted.verdict, shifted.p, shifted.difference_low, shifted.difference_high) == ("better", 0, 1, 1)
    assert pair([1, -1, 2, -2], [0, 0, 0, 0]).verdict == "cannot tell at n = 4: over 1,000 for 80 % power"


def test_tasks_that_cancel_out_exactly() -> None:
    *_, overall = records(compare_pairs(table({"a": [[1, 0]] * 3, "b": [[0, 1]] * 3})))
    assert overall.p == 1 and not overall.equal
    assert overall.verdict == "cannot tell at n = 3: over 1,000 for 80 % power"


def test_how_many_seeds_it_would_take() -> None:
    # Of these ten the mean is .15 and the standard deviation .3375, an effect of .4444.
    differences = np.repeat([0.47016, -0.17016], 5)
    found = compared(differences.tolist(), [0.0] * 10)
    effect = found["difference"].item() / differences.std(ddof=1)
    assert effect == pytest.approx(0.4444, abs=1e-4)
    assert found["verdict"].item() == "cannot tell at n = 10: about n = 42 for 80 % power"
    assert power_of_pairs(effect, 0.5, 41) < 0.8 <= power_of_pairs(effect, 0.5, 42)
    harder = int(with_verdicts(found.assign(level=0.005))["seeds_needed"].item())
    assert power_of_pairs(effect, 0.5, harder - 1, 0.005) < 0.8 <= power_of_pairs(effect, 0.5, harder, 0.005)


def test_never_fewer_seeds_than_there_are() -> None:
    found = compared([0.1, 0.2, 0.3, 0.15, 0.25], [0.0] * 5).assign(adjusted_p=0.06)
    assert with_verdicts(found)["verdict"].item() == "cannot tell at n = 5: about n = 6 for 80 % power"


def test_the_power_of_the_paired_test() -> None:
    # By the noncentral t: .5 / sqrt(.4) * sqrt(10) = 2.5 with 9 degrees of freedom, critical value 2.262157.
    assert power_of_pairs(0.5, 0.8, 10) == pytest.approx(0.6061, abs=1e-4)
    assert power_of_pairs(-0.5, 0.8, 10) == power_of_pairs(0.5, 0.8, 10)
    assert power_of_pairs(0, 0.8, 10) == pytest.approx(0.05)
    for effect in (0.01, 0.3, 1, 5, 100):
        assert power_of_pairs(effect, 0.9, 1000, 1e-4) >= power_of_pairs(effect, 0.9, 10, 1e-4) > 0


def test_seeds_for_power_are_those_of_cohen() -> None:
    # Cohen (1988), table 2.4.1 for paired differences: 34 pairs find an effect of .5 with 80 % power.
    found = seeds_for_power(np.array([0.5, 0.01, 1e9]), alpha=np.array([0.05, 0.05, 1e-4]))
    np.testing.assert_array_equal(found, [34, np.nan, 2])


def test_power_by_simulation() -> None:
    found = compare_pairs(related(10, 1_000, 0.5, 0.8), resamples=1)[:-1]
    assert (found["p"] <= 0.05).mean() == pytest.approx(power_of_pairs(0.5, 0.8, 10), abs=0.04)


def family(tables: int) -> tuple[float, float]:
    """Returns how often ten equal agents are told apart at ten seeds: by the verdicts, and by p as it is."""
    generator = np.random.default_rng(0)
    verdicts, unadjusted = 0, 0
    for _ in range(tables):
        scores = {f"a{agent}": runs[:, None] for agent, runs in enumerate(generator.normal(size=(10, 10)))}
        found = compare_pairs(table(scores), resamples=1)
        assert len(found) == 45
        verdicts += bool(found["verdict"].isin(["better", "worse"]).any())
        unadjusted += bool((found["p"] <= 0.05).any())
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
def test_intervals_of_pairs_cover_what_they_say(correlation: float) -> None:
    found = compare_pairs(related(10, 2_000, 0.0, correlation))[:-1]
    assert 0.93 <= ((found["difference_low"] <= 0) & (0 <= found["difference_high"])).mean() <= 0.97
    # Redrawing as few seeds is cautious here.
    assert 0.93 <= ((found["improvement_low"] <= 0.5) & (0.5 <= found["improvement_high"])).mean()


@settings(max_examples=20, deadline=None)
@given(SHUFFLED)
def test_the_order_of_runs_changes_nothing(rows: list[dict[str, Any]]) -> None:
    runs = pd.DataFrame(rows)
    found = compare_pairs(runs, resamples=20)
    pd.testing.assert_frame_equal(found, compare_pairs(runs.sort_values(["agent", "seed"]), resamples=20))
    assert found["verdict"].all()


def test_what_is_no_comparison_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the same seeds of all agents on 't1', got no seed 3 of \['b'\]"):
        compare_pairs(TWO.query("task != 't1' or agent != 'b' or seed != 3"))
    with pytest.raises(ValueError, match="none of several tasks to be called 'all'"):
        compare_pairs(TWO.replace({"task": "t0"}, "all"))


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
    met, turned, untold, untold_too, overall = (verdict_on(claim, pairs) for claim in claims)
    assert (met, overall, turned) == ("better", "better", "worse")
    assert untold == untold_too and untold.startswith("cannot tell")
    with pytest.raises(ValueError, match="expected a claim about compared agents, got a>c@t0 and comparisons a>b@t0"):
        verdict_on(Claim("a", "c", "t0"), pairs)

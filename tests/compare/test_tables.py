"""The tables, by hand: the figures of agents and pairs, how soon agents are as good, and when training pays."""

from dataclasses import replace
from math import inf, nan

import pandas as pd
import pytest

from slot_rl.compare.conclusions import Conclusions, conclude
from slot_rl.compare.curves import BREAK_EVEN
from slot_rl.compare.tables import (
    agents_table,
    break_even_table,
    equal_calls_table,
    pairs_table,
    ranking_table,
    report_tables,
    speed_table,
)
from slot_rl.console import share
from tests.helpers.made_up import three_agents


@pytest.fixture(scope="module")
def found() -> Conclusions:
    return conclude(three_agents(), threshold=0.6)


def test_agents_are_ranked_by_iqm(found: Conclusions) -> None:
    table = agents_table(found, "one")
    assert table.frame["agent"].tolist() == ["search", "gumbel", "ppo"]
    row = table.frame.iloc[2]
    assert (row["IQM"], row["mean"], row["worst"], row["failed"]) == (".515", ".515", ".500", "100%")
    assert (row["gap to 1"], row["hit rate"], row["calls"], row["seconds"]) == (".485", ".500", "1,000", "2.0")
    assert "best constant answer has .250" in table.caption and "failure threshold .600" in table.note
    assert agents_table(found, "all").frame["agent"].tolist() == ["search", "gumbel", "ppo"]


def test_the_ranking_has_the_verdict_second(found: Conclusions) -> None:
    table = ranking_table(found, "one")
    assert list(table.frame.columns)[:4] == ["agent", "verdict", "IQM", "95 %"]
    assert table.rows[1] == ["gumbel", "worse", ".716", ".644 to .788", ".953", "0", ".500", "2.0"]
    assert [mark.tone for mark in table.marks] == ["best", "worse", "worse"]


def with_truth(**figures: dict[str, float]) -> Conclusions:
    """Three agents, whose true figures are given by agent."""
    made_up = three_agents()
    columns = {key: made_up.runs["agent"].map(values) for key, values in figures.items()}
    return conclude(replace(made_up, runs=made_up.runs.assign(**columns)), threshold=0.6)


TRUE = {"search": 0.5, "gumbel": nan, "ppo": 0.25}


def test_true_figures_stand_beside_the_measured_share() -> None:
    shares = {"search": 0.75, "gumbel": 0.0, "ppo": 1.0}
    frame = agents_table(with_truth(true_optimality=TRUE, gap=TRUE, measured_share=shares), "one").frame
    assert frame["agent"].tolist() == ["search", "gumbel", "ppo"]
    assert frame["true optimality"].tolist() == frame["gap"].tolist() == [".500", "not measured", ".250"]
    assert frame["measured"].tolist() == [".750", ".000", "1.000"]
    whole = {agent: 1.0 for agent in shares}
    frame = agents_table(with_truth(true_optimality=whole, gap=whole, measured_share=whole), "one").frame
    assert "measured" not in frame and frame["gap"].tolist() == ["1.000"] * 3


def test_true_figures_say_if_unmeasured_answers_are_the_worst() -> None:
    found = with_truth(true_optimality=TRUE, measured_share={"search": 0.5, "gumbel": 0.5, "ppo": 0.5})
    runs = found.results.runs
    worst = replace(found, results=replace(found.results, runs=runs.assign(unmeasured="worst")))
    assert "true optimality, unmeasured = worst" in agents_table(worst, "one").frame
    mixed = runs.assign(unmeasured=runs["task"].map({"one": "worst", "two": "omit"}))
    worst = replace(found, results=replace(found.results, runs=mixed))
    assert "true optimality" in agents_table(worst, "two").frame
    assert "true optimality, unmeasured = worst in some tasks" in agents_table(worst, "all").frame


def test_pairs_are_seen_from_the_better_agent(found: Conclusions) -> None:
    frame = pairs_table(found, "one").frame
    assert frame["pair"].tolist() == ["search - gumbel", "search - ppo", "gumbel - ppo"]
    # Differences of .2, .202, .2, .202 on the four seeds.
    assert frame["difference"].tolist()[-1] == ".201"
    assert frame["verdict"].tolist() == ["better"] * 3
    assert list(frame.columns)[:2] == ["pair", "verdict"]


def test_equal_calls_are_of_search_from_policies(found: Conclusions) -> None:
    frame = equal_calls_table(found, "two").frame
    assert frame["pair"].tolist() == ["ppo + 31 calls - search", "gumbel + 31 calls - search"]
    # .8 to .83 and .95 to .956 against .9.
    assert frame["difference"].tolist() == ["-.085", ".053"]
    assert frame["verdict"].tolist() == ["worse", "better"]
    # One family: nothing else was compared, neither a policy with another's search nor with its own.
    assert len(found.pairs) == 3 * 3 and len(found.at_equal_calls) == 3 * 2


def test_speed_is_a_share_of_what_ppo_took(found: Conclusions) -> None:
    rows = speed_table(found).frame.to_numpy().tolist()
    # A third of the way from .4 to .7: 100 + 300 calls of 1,000, and 1 + 1 seconds of 4.
    assert rows[0] == ["one: gumbel", "0.40", "0.40 to 0.40", "0.50", "0.50 to 0.50", "0 of 4"]
    assert [row[0] for row in rows] == ["one: gumbel", "two: gumbel"]


def test_runs_that_failed_never_reach_ppo() -> None:
    whole = three_agents()
    broken = "agent == 'gumbel' and seed < 102 or agent == 'ppo' and seed == 103"
    runs = whole.runs.assign(
        failure=whole.runs["failure"].mask(whole.runs.index.isin(whole.runs.query(broken).index), "stopped")
    )
    curves = whole.curves.query(f"not ({broken})")
    row = speed_table(conclude(replace(whole, runs=runs, curves=curves), 0.6)).frame.iloc[0].tolist()
    assert row == ["one: gumbel", "never", "0.40 to never", "never", "0.50 to never", "2 of 3"]


def test_break_evens_say_what_is_a_bound(found: Conclusions) -> None:
    rows = [("one", "ppo", 0, 0.5, 12.5, 8_000.4), ("one", "ppo", 8, 0.9, inf, 1_200.0), ("one", "a", 4, 0.3, 3, inf)]
    table = break_even_table(replace(found, break_evens=pd.DataFrame(rows, columns=BREAK_EVEN)))
    assert table.frame.to_numpy().tolist() == [
        ["one: ppo", "0", ".500", "12.5", "8,000"],
        ["one: ppo", "8", ".900", "more than measured", "at most 1,200"],
        ["one: a", "4", ".300", "3.0", "never"],
    ]


def test_only_tables_with_rows_are_shown(found: Conclusions) -> None:
    keys = [table.key for table in report_tables(found)]
    kinds = ("ranking", "agents", "pairs", "equal_calls")
    assert keys == [*(f"{kind}_{task}" for kind in kinds for task in ("one", "two", "all")), "speed"]


@pytest.mark.parametrize(
    "value, text",
    [(nan, ""), (0.5, ".500"), (-0.25, "-.250"), (1.0, "1.000"), (10.5, "10.500"), (0.0, ".000"), (-1.5, "-1.500")],
)
def test_shares(value: float, text: str) -> None:
    assert share(value) == text

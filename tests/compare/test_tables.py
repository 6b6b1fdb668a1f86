"""Conclusions and tables, by hand: what is said of agents, of pairs, and of speed."""

import json
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import pytest

from slot_rl.compare.conclusions import Conclusions, conclude
from slot_rl.compare.differences import Claim
from slot_rl.compare.report import print_claims, publish
from slot_rl.compare.statistics import Results
from slot_rl.compare.tables import agents_table, equal_calls_table, figure, pairs_table, speed_table
from tests.helpers import made_up

SEEDS = range(100, 104)


def outcome(task: str, agent: str, seed: int, optimality: float, failure: str | None = None, **known: Any) -> Any:
    more = {"best_constant_optimality": 0.25, "cpu_seconds": 2.0, "true_optimality": nan, "gap": nan}
    return made_up.made_run(task, agent, seed, optimality, failure, **more, **{"estimator_backwards": 0.0}, **known)


def results(failure: str | None = None) -> Results:
    rows = []
    for task in ("one", "two"):
        for i, seed in enumerate(SEEDS):
            broken = failure if seed == 101 else None
            rows.append(outcome(task, "ppo", seed, 0.5 + 0.01 * i, searched_optimality=0.8 + 0.01 * i))
            better = 0.7 + 0.01 * i + 0.002 * (i % 2)
            rows.append(outcome(task, "gumbel", seed, better, searched_optimality=0.95 + 0.002 * i))
            rows.append(outcome(task, "search", seed, 0.0 if broken else 0.9, broken, calls_per_context=31))
    curves = [
        (task, agent, seed, *point)
        for task in ("one", "two")
        for seed in SEEDS
        for agent, optimality in (("ppo", (0.0, 0.5)), ("gumbel", (0.4, 0.7)))
        for point in zip((100.0, 1_000.0), (1.0, 4.0), optimality, strict=True)
    ]
    return made_up.results(rows, curves)


@pytest.fixture(scope="module")
def found() -> Conclusions:
    return conclude(results(), threshold=0.6)


def test_agents_stand_by_their_iqm(found: Conclusions) -> None:
    table = agents_table(found, "one")
    assert [row[0] for row in table.rows] == ["search", "gumbel", "ppo"]
    row = dict(zip(table.columns, table.rows[2], strict=True))
    assert (row["IQM"], row["mean"], row["worst"], row["failed"]) == (".515", ".515", ".500", "100%")
    assert (row["gap to 1"], row["hits"], row["calls"], row["s"]) == (".485", ".500", "1,000", "2.0")
    assert "best constant answer has .250" in table.caption and "below .600" in table.caption
    assert [row[0] for row in agents_table(found, "all").rows] == ["search", "gumbel", "ppo"]


def test_pairs_are_told_from_the_leaders_side(found: Conclusions) -> None:
    table = pairs_table(found, "one")
    assert [row[0] for row in table.rows] == ["search - gumbel", "search - ppo", "gumbel - ppo"]
    difference, verdict = table.rows[2][1], table.rows[2][-1]
    # Differences of .2, .202, .2, .202 on the four seeds.
    assert (difference, verdict) == (".201", "better")
    assert [row[0] for row in pairs_table(found, "one", leader_alone=True).rows] == ["search - gumbel", "search - ppo"]


def test_at_equal_calls_policies_search_from_their_answers(found: Conclusions) -> None:
    rows = {row[0]: row for row in equal_calls_table(found, "two").rows}
    assert list(rows) == ["ppo + 31 calls - search", "gumbel + 31 calls - search"]
    # .8 to .83 and .95 to .956 against .9.
    assert [row[1] for row in rows.values()] == ["-.085", ".053"]
    assert [row[-1] for row in rows.values()] == ["worse", "better"]
    # One family: nothing else was compared, neither a policy with another's search nor with its own.
    assert len(found.pairs) == 3 * 3 and len(found.at_equal_calls) == 3 * 2


def test_speed_is_a_share_of_what_ppo_took(found: Conclusions) -> None:
    table = speed_table(found)
    assert [row[0] for row in table.rows] == ["one: gumbel", "two: gumbel"]
    # A third of the way from .4 to .7: 100 + 300 calls of 1,000, and 1 + 1 seconds of 4.
    assert table.rows[0][1:] == ["0.40", "0.40 to 0.40", "0.50", "0.50 to 0.50", "0 of 4"]


def test_runs_that_failed_never_reach_ppo() -> None:
    whole = results()
    broken = "agent == 'gumbel' and seed < 102 or agent == 'ppo' and seed == 103"
    runs = whole.runs.assign(
        failure=whole.runs["failure"].mask(whole.runs.index.isin(whole.runs.query(broken).index), "stopped")
    )
    curves = whole.curves.query(f"not ({broken})")
    row = speed_table(conclude(replace(whole, runs=runs, curves=curves), 0.6)).rows[0]
    assert row == ["one: gumbel", "never", "0.40 to never", "never", "0.50 to never", "2 of 3"]


@pytest.mark.parametrize(
    "value, text",
    [(nan, ""), (0.5, ".500"), (-0.25, "-.250"), (1.0, "1.000"), (10.5, "10.500"), (0.0, ".000"), (-1.5, "-1.500")],
)
def test_figures(value: float, text: str) -> None:
    assert figure(value) == text


def test_claims_are_said_and_counted(found: Conclusions, capsys: pytest.CaptureFixture[str]) -> None:
    assert print_claims([Claim("gumbel", "ppo", "all"), Claim("gumbel", "ppo", "two")], found)
    assert not print_claims([Claim("gumbel", "ppo", "all"), Claim("ppo", "gumbel", "all")], found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "gumbel>ppo@all: established" and lines[-1] == "ppo>gumbel@all: not established: worse"


def test_the_same_results_in_any_order_print_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, pages = [], []
    for turn in (1, -1):
        whole = results("ValueError: <b>bad</b>")
        out = tmp_path / str(turn)
        out.mkdir()
        runs = whole.runs.sort_values("seed", ascending=turn == 1, kind="stable")
        turned = replace(whole, runs=runs, curves=whole.curves.sort_values("seed", ascending=turn == 1, kind="stable"))
        publish(out, conclude(turned, 0.6), {"command": "made up"}, "disabled")
        texts.append(capsys.readouterr().out.replace(str(out), ""))
        pages.append((out / "report" / "tables.md").read_text())
    assert texts[0] == texts[1] and pages[0] == pages[1]
    assert "failed, counted as random answers: one, search, seed 101: ValueError: <b>bad</b>" in texts[0]
    page = (tmp_path / "1" / "report.html").read_text()
    assert "<b>bad</b>" not in page and "&lt;b&gt;bad&lt;/b&gt;" in page
    figures = json.loads((tmp_path / "1" / "report" / "results.json").read_text())["figures"]
    assert len(figures["runs"]) == 24 and len(figures["pairs"]) == 9

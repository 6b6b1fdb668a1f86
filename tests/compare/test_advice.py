"""The sentence "use X, because ...": from the verdicts, with what competes, and without a claim that no seed backs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from slot_rl.compare.advice import advice, standings
from slot_rl.compare.conclusions import Conclusions, conclude
from tests.helpers.made_up import made_run, results, three_agents

NOISE = (-0.03, 0.02, 0.03, -0.02, 0.0, 0.01)


def compared(*agents: dict[str, Any]) -> Conclusions:
    """Concludes on agents, each with a name, an optimality, perhaps one with calls, calls, and noise of its seeds."""
    rows = []
    for i, agent in enumerate(agents):
        for seed, noise in enumerate(np.roll(NOISE, i) * agent.get("noise", 0.01)):
            figures = {"cpu_seconds": agent.get("seconds", 1.0), "calls_per_context": agent.get("calls", 0)}
            figures["estimator_forwards"] = 0.0 if agent.get("calls") else 1_000.0
            if "searched" in agent:
                figures["searched_optimality"] = agent["searched"] + 0.01 * noise
            rows.append(made_run("task", agent["name"], seed, agent["at"] + noise, **figures))
    return conclude(results(rows), 0.5)


def test_one_that_beats_all_is_advised() -> None:
    found = compared({"name": "a", "at": 0.9, "searched": 0.95}, {"name": "b", "at": 0.5, "searched": 0.7})
    assert standings(found, "task") == ["best", "worse"]
    assert advice(found, "task") == (
        "task: use a, because it is better than every other agent "
        "(optimality .900, 0 calls for each answer after 1,000 in training)."
    )


def test_of_agents_that_are_level_the_cheapest_is_advised() -> None:
    noisy = {"noise": 5.0}
    found = compared(
        {"name": "search", "at": 0.9, "calls": 31, **noisy},
        {"name": "policy", "at": 0.89, "searched": 0.9, **noisy},
        {"name": "bad", "at": -5.0, "searched": 0.0},
    )
    best, level, worse = standings(found, "task")
    assert (best, worse) == ("leads", "worse") and level.startswith("undecided")
    assert advice(found, "task").startswith(
        "task: use policy, because policy and search are not distinguishable, and policy is the cheapest "
        "(policy 0 calls for each answer after 1,000 in training; search 31 calls for each answer)"
    )


def test_an_agent_far_behind_is_not_advised_for_its_price() -> None:
    spread = {"name": "wild", "at": -1.0, "searched": 0.1, "noise": 150.0}
    found = compared({"name": "search", "at": 0.9, "calls": 31}, spread)
    assert standings(found, "task")[1].startswith("undecided")
    said = advice(found, "task")  # the IQM of -5.5, 2, 3.5, -4, -1 and .5 is -.625
    assert said.startswith("task: use search, because its optimality is the highest (.900, 31 calls for each answer)")
    assert "although the seeds do not tell it from wild" in said
    assert said.endswith("the best policy without a call is wild (-.625), and with 31 calls wild (.103).")


def test_a_policy_with_calls_that_beats_the_search_is_advised() -> None:
    found = conclude(three_agents(), 0.6)
    said = advice(found, "two")
    assert said == (
        "two: use gumbel + 31 calls, because at 31 calls for each answer it is better than search (.953 against .900); "
        "without a call it has .716."
    )


def test_a_search_with_few_calls_is_named_beside_a_policy() -> None:
    found = compared(
        {"name": "policy", "at": 0.9, "searched": 0.95},
        {"name": "search", "at": 0.5, "calls": 31},
    )
    rows = [{"task": "task", "agent": "policy", "calls": 0, "optimality": 0.9, "search_calls": 6.2, "contexts": 200.0}]
    known = replace(found, break_evens=pd.DataFrame(rows))
    assert advice(known, "task").endswith("; a search is as good with about 6 calls for each answer.")
    never = replace(found, break_evens=pd.DataFrame([{**rows[0], "search_calls": np.inf}]))
    assert advice(never, "task").endswith("; no search is as good with the calls that were tried.")


@pytest.mark.parametrize("agents", [1, 7])
def test_few_or_many_agents(agents: int) -> None:
    found = compared(*({"name": f"a{i}", "at": 0.9, "searched": 0.9, "seconds": 9.0 - i} for i in range(agents)))
    said = advice(found, "task")
    if agents == 1:
        assert said == "task: use a0, because no other agent was compared."
    else:
        assert said.startswith("task: use a6, because a6, a0, a1 and 4 others are not distinguishable")

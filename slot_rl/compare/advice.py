"""Which agent to use on a task: how each one stands, and one sentence that says whom to take and why.

Both follow from the corrected verdicts on pairs. Agents that the seeds do not tell from the first one, and whose IQM
lies in its interval, are as good for all that is known; of these the cheapest is advised. Cheaper is who needs fewer
estimator calls for each answer, then fewer in training, then fewer seconds. A policy may also spend calls on its
answers: where it is better than the advised search at as many calls, it is advised with these calls.
"""

from math import isinf
from typing import Any

import pandas as pd

from slot_rl.compare.conclusions import WITH_SEARCH, Conclusions
from slot_rl.compare.differences import TURNED
from slot_rl.console import share
from slot_rl.metrics import GUIDED_CALLS

BEST, LEADS, EQUAL, UNDECIDED, WORSE = "best", "leads", "equal", "undecided", "worse"
STANDINGS = (
    f"verdict: {BEST}, better than every other agent; {LEADS}, the highest IQM, but not better than every other agent "
    f"for certain; the others against the one in the first row: {WORSE}; {EQUAL} on every seed; or {UNDECIDED}, "
    "in brackets the number of seeds that would tell, were the difference seen the true one"
)
"""What the words of :func:`standings` mean."""


def ranked_pairs(found: Conclusions, task: str) -> pd.DataFrame:
    """Returns the pairs on a task, each from the side of the agent with the higher IQM, the best agents first."""
    order = found.summaries.loc[found.summaries["task"] == task, "agent"].tolist()
    pairs = found.pairs[found.pairs["task"] == task]
    behind = pairs["first"].map(order.index) > pairs["second"].map(order.index)
    turned = pairs.assign(
        first=pairs["second"],
        second=pairs["first"],
        difference=-pairs["difference"],
        difference_low=-pairs["difference_high"],
        difference_high=-pairs["difference_low"],
        improvement=1 - pairs["improvement"],
        improvement_low=1 - pairs["improvement_high"],
        improvement_high=1 - pairs["improvement_low"],
        verdict=pairs["verdict"].replace(TURNED),
    )
    return pairs.where(~behind, turned).sort_values(["first", "second"], key=lambda names: names.map(order.index))


def standings(found: Conclusions, task: str) -> list[str]:
    """Returns a verdict on each agent, the highest IQM first; see :data:`STANDINGS`."""
    pairs = ranked_pairs(found, task)
    against_first = pairs[pairs["first"].isin(pairs["first"].head(1))]
    behind = [_standing(pair) for pair in against_first.to_dict("records")]
    return [BEST if behind and all(each == WORSE for each in behind) else LEADS, *behind]


def advice(found: Conclusions, task: str) -> str:
    """Returns the sentence "use X, because ..." for a task."""
    rows = found.summaries[found.summaries["task"] == task].set_index("agent", drop=False)
    agents, stand = rows.to_dict("records"), standings(found, task)
    first = agents[0]
    if len(agents) == 1:
        return f"{task}: use {first['agent']}, because no other agent was compared."
    level = [
        agent
        for agent, verdict in zip(agents, stand, strict=True)
        if agent is first or (verdict != WORSE and agent["iqm"] >= first["iqm_low"])
    ]
    pick = min(level, key=lambda agent: (agent["calls_per_context"], agent["estimator_forwards"], agent["cpu_seconds"]))
    better = _better_at_equal_calls(found, task, pick["agent"])
    if len(better):
        return f"{task}: {_with_calls(rows, better, pick)}."
    doubted = [agent["agent"] for agent, verdict in zip(agents[1:], stand[1:], strict=True) if verdict != WORSE]
    reason = _because_cheaper(pick, level) if len(level) > 1 else _because_better(pick, doubted)
    return f"{task}: use {pick['agent']}, because {reason}{_rivals(found, task, rows, pick)}."


def _standing(pair: dict[Any, Any]) -> str:
    if pair["verdict"] == "better":
        return WORSE
    if pair["equal"]:
        return EQUAL
    return UNDECIDED if pd.isna(pair["seeds_needed"]) else f"{UNDECIDED} ({pair['seeds_needed']})"


def _better_at_equal_calls(found: Conclusions, task: str, agent: str) -> list[str]:
    """Returns the policies that are better than a search once they have as many calls."""
    equal = found.at_equal_calls
    won = equal[(equal["task"] == task) & (equal["second"] == agent) & (equal["verdict"] == "better")]
    return [str(name).removesuffix(WITH_SEARCH) for name in won["first"]]


def _with_calls(rows: pd.DataFrame, better: list[str], search: dict[Any, Any]) -> str:
    best = rows.loc[better].sort_values("searched_optimality", ascending=False).iloc[0]
    return (
        f"use {best['agent']}{WITH_SEARCH}, because at {GUIDED_CALLS} calls for each answer it is better than "
        f"{search['agent']} ({share(best['searched_optimality'])} against {share(search['iqm'])}); without a call it "
        f"has {share(best['iqm'])}"
    )


def _because_better(pick: dict[Any, Any], doubted: list[str]) -> str:
    figure = f"{share(pick['iqm'])}, {_cost(pick)}"
    if not doubted:
        return f"it is better than every other agent (optimality {figure})"
    return f"its optimality is the highest ({figure}), although the seeds do not tell it from {_and(doubted)}"


def _because_cheaper(pick: dict[Any, Any], level: list[dict[Any, Any]]) -> str:
    others = [agent for agent in level if agent is not pick]
    costs = "; ".join(f"{agent['agent']} {_cost(agent)}" for agent in [pick, *others])
    names = _and([agent["agent"] for agent in [pick, *others]])
    return f"{names} are not distinguishable, and {pick['agent']} is the cheapest ({costs})"


def _rivals(found: Conclusions, task: str, rows: pd.DataFrame, pick: dict[Any, Any]) -> str:
    """Says what a search needs to be as good as an advised policy, or what the best policy reaches beside a search."""
    policies = rows[rows["searched_optimality"].notna()]
    if pick["agent"] in policies.index:
        known = found.break_evens.query("task == @task and agent == @pick['agent'] and calls == 0")
        needed = [float(calls) for calls in known["search_calls"]]
        return "".join(
            "; no search is as good with the calls that were tried"
            if isinf(calls)
            else f"; a search is as good with about {calls:.0f} calls for each answer"
            for calls in needed
        )
    if policies.empty:
        return ""
    best = policies.iloc[0]
    with_calls = policies.sort_values("searched_optimality", ascending=False).iloc[0]
    return (
        f"; the best policy without a call is {best['agent']} ({share(best['iqm'])}), and with {GUIDED_CALLS} calls "
        f"{with_calls['agent']} ({share(with_calls['searched_optimality'])})"
    )


def _cost(agent: dict[Any, Any]) -> str:
    calls, training = agent["calls_per_context"], agent["estimator_forwards"]
    answer = f"{calls:,.0f} calls for each answer"
    return f"{answer} after {training:,.0f} in training" if training else answer


def _and(names: list[str]) -> str:
    """Joins names; of many, the first three."""
    if len(names) > 4:
        names = [*names[:3], f"{len(names) - 3} others"]
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last

"""A comparison's tables: the same strings on screen, in Markdown, on the page and on a dashboard."""

from collections.abc import Iterator
from math import isinf, isnan, nan
from typing import Any

import pandas as pd

from slot_rl.compare.conclusions import TARGET, Conclusions
from slot_rl.compare.differences import OVERALL
from slot_rl.compare.html import Table
from slot_rl.evaluation import GUIDED_CALLS

PAIR_COLUMNS = ("pair", "difference", "difference, 95 %", "P(improvement)", "P, 95 %", "p (Holm)", "verdict")


def agents_table(found: Conclusions, task: str) -> Table:
    """Returns each agent's figures on a task, the highest IQM first."""
    columns = [
        "agent",
        "IQM",
        "IQM, 95 %",
        "mean",
        "mean, 95 %",
        "worst",
        "failed",
        "gap to 1",
        "hits",
        f"+{GUIDED_CALLS} calls",
    ]
    columns += ["true", "est - true", "calls each", "calls", "backwards", "s"]
    summaries = found.summaries[found.summaries["task"] == task]
    # Tasks have scores of their own: their mean has no unit.
    summaries = summaries.assign(gap=nan) if task == OVERALL else summaries
    return Table(columns, [list(_agent(summary)) for summary in _rows(summaries)], _caption(found, task))


def pairs_table(found: Conclusions, task: str, leader_alone: bool = False) -> Table:
    """Returns who is better than whom on a task, each pair from the side of the one with the higher IQM.

    Args:
        found: The conclusions.
        task: The task, or "all".
        leader_alone: Whether to leave out pairs without the agent with the highest IQM.
    """
    order = found.summaries.loc[found.summaries["task"] == task, "agent"].tolist()
    pairs = found.pairs[found.pairs["task"] == task]
    behind = [order.index(pair.first) > order.index(pair.second) for pair in _rows(pairs)]
    pairs = pairs.where(~pd.Series(behind, pairs.index), _turned(pairs))
    ranked = sorted(_rows(pairs), key=lambda pair: (order.index(pair.first), order.index(pair.second)))
    rows = [_pair(pair) for pair in ranked if not leader_alone or pair.first == order[0]]
    caption = (
        f"{task}: paired differences of optimality on the same seeds, t intervals; P(improvement): that a run of the "
        "first agent beats one of the second; p adjusted by Holm's procedure over every pair and task of this report. "
        "A policy answers with no call, a search with those of its column: see also the table at equal calls."
    )
    return Table(PAIR_COLUMNS, rows, caption)


def equal_calls_table(found: Conclusions, task: str) -> Table:
    """Returns how guided search from each policy's answer compares with searches of as many calls."""
    caption = f"{task}, at {GUIDED_CALLS} calls each: guided search from a policy's answer, and from random starts."
    return Table(PAIR_COLUMNS, [_pair(pair) for pair in _rows(found.at_equal_calls) if pair.task == task], caption)


def speed_table(found: Conclusions) -> Table:
    """Returns how soon each agent is first as good as PPO at its end."""
    reaches = {(reach.task, reach.agent, reach.along): reach for reach in _rows(found.reaches)}
    rows = [
        [
            f"{task}: {agent}",
            *_reach(reach),
            *_reach(reaches[task, agent, "seconds"]),
            f"{reach.never} of {reach.seeds}",
        ]
        for (task, agent, along), reach in sorted(reaches.items(), key=lambda each: found.tasks.index(each[0][0]))
        if along == "calls"
    ]
    caption = (
        f"Calls and seconds of training after which an agent was first as good as {TARGET} at its end, as a share of "
        f"what {TARGET} took: medians over seeds, 95 % bootstrap intervals; above 1 it took more. A first crossing "
        "flatters: it says when an agent was first seen as good, not from when on it is. A run that failed never is; a "
        f"seed on which {TARGET} failed has no goal and is left out."
    )
    return Table(["agent", "calls", "calls, 95 %", "seconds", "seconds, 95 %", "never"], rows, caption)


def figure(value: float) -> str:
    """Returns a share with three decimals, without the zero before the point; nothing for NaN."""
    if isnan(value):
        return ""
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _interval(low: float, high: float) -> str:
    return f"{figure(low)} to {figure(high)}"


def _rows(frame: pd.DataFrame) -> list[Any]:
    return list(frame.itertuples(index=False))


def _caption(found: Conclusions, task: str) -> str:
    summaries = found.summaries[found.summaries["task"] == task]
    methods = "; ".join(pd.unique(summaries[["iqm_method", "mean_method"]].to_numpy().ravel()))
    runs = " to ".join(map(str, sorted(summaries["runs"].unique())))
    constant = figure(summaries.get("best_constant_optimality", pd.Series([nan])).iloc[0])
    reachable = f" The best constant answer has {constant}." if constant else ""
    return (
        f"{task}: optimality of the estimated score (0 random, 1 best), {runs} runs each; intervals: {methods}; "
        f"failed: share of runs below {figure(found.threshold)} or broken down; gap to 1: mean shortfall; hits: share "
        f"of requests answered with the best; +{GUIDED_CALLS} calls: guided search from the policy's answer; true: "
        "optimality of the true score; est - true: mean estimated minus mean true score; calls each: of the estimator "
        f"for each answer; calls, backwards, s: of training, s the processor's seconds.{reachable}"
    )


def _agent(summary: Any) -> Iterator[str]:
    yield summary.agent
    yield from (figure(summary.iqm), _interval(summary.iqm_low, summary.iqm_high))
    yield from (figure(summary.mean), _interval(summary.mean_low, summary.mean_high))
    yield from (figure(summary.worst), f"{summary.failure_rate:.0%}", figure(summary.optimality_gap))
    yield from (figure(summary.hit_rate), figure(summary.searched_optimality), figure(summary.true_optimality))
    yield from (figure(summary.gap), f"{summary.calls_per_context:.0f}", f"{summary.estimator_forwards:,.0f}")
    yield from (f"{summary.estimator_backwards:,.0f}", f"{summary.cpu_seconds:.1f}")


def _pair(pair: Any) -> list[str]:
    return [
        f"{pair.first} - {pair.second}",
        _small(pair.difference),
        f"{_small(pair.difference_low)} to {_small(pair.difference_high)}",
        f"{pair.improvement:.2f}",
        f"{pair.improvement_low:.2f} to {pair.improvement_high:.2f}",
        f"{pair.adjusted_p:.2g}",
        pair.verdict,
    ]


def _small(value: float) -> str:
    """Returns a difference that is told from zero, however small it is."""
    return f"{value:.0e}" if 0 < abs(value) < 0.0005 else figure(value)


def _turned(pairs: pd.DataFrame) -> pd.DataFrame:
    """Returns comparisons from the second agent's side."""
    return pairs.assign(
        first=pairs["second"],
        second=pairs["first"],
        difference=-pairs["difference"],
        difference_low=-pairs["difference_high"],
        difference_high=-pairs["difference_low"],
        improvement=1 - pairs["improvement"],
        improvement_low=1 - pairs["improvement_high"],
        improvement_high=1 - pairs["improvement_low"],
    )


def _reach(reach: Any) -> tuple[str, str]:
    return _ratio(reach.ratio), f"{_ratio(reach.low)} to {_ratio(reach.high)}"


def _ratio(value: float) -> str:
    return "never" if isinf(value) else f"{value:.2f}"

"""A comparison's tables: the same strings on screen, in Markdown, on the page and on a dashboard."""

from collections.abc import Iterator
from dataclasses import replace
from math import isinf

from slot_rl.compare.conclusions import TARGET, Conclusions
from slot_rl.compare.curves import Reach
from slot_rl.compare.differences import OVERALL, PairComparison
from slot_rl.compare.estimates import AgentSummary, Estimate
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
    # Tasks have scores of their own: their mean has no unit.
    summaries = [replace(one, gap=None) if task == OVERALL else one for one in found.summaries[task]]
    return Table(columns, [list(_agent(summary)) for summary in summaries], _caption(found, task))


def pairs_table(found: Conclusions, task: str, leader_alone: bool = False) -> Table:
    """Returns who is better than whom on a task, each pair from the side of the one with the higher IQM.

    Args:
        found: The conclusions.
        task: The task, or "all".
        leader_alone: Whether to leave out pairs without the agent with the highest IQM.
    """
    order = [summary.agent for summary in found.summaries[task]]
    there = [pair for pair in found.pairs if pair.task == task]
    pairs = [pair if order.index(pair.first) < order.index(pair.second) else _turned(pair) for pair in there]
    pairs.sort(key=lambda pair: (order.index(pair.first), order.index(pair.second)))
    rows = [_pair(pair) for pair in pairs if not leader_alone or pair.first == order[0]]
    caption = (
        f"{task}: paired differences of optimality on the same seeds, t intervals; P(improvement): that a run of the "
        "first agent beats one of the second; p adjusted by Holm's procedure over every pair and task of this report. "
        "A policy answers with no call, a search with those of its column: see also the table at equal calls."
    )
    return Table(PAIR_COLUMNS, rows, caption)


def equal_calls_table(found: Conclusions, task: str) -> Table:
    """Returns how guided search from each policy's answer compares with searches of as many calls."""
    caption = f"{task}, at {GUIDED_CALLS} calls each: guided search from a policy's answer, and from random starts."
    return Table(PAIR_COLUMNS, [_pair(pair) for pair in found.at_equal_calls if pair.task == task], caption)


def speed_table(found: Conclusions) -> Table:
    """Returns how soon each agent is first as good as PPO at its end."""
    by_seconds = {(reach.task, reach.agent): reach for reach in found.reaches["seconds"]}
    rows = [
        [f"{reach.task}: {reach.agent}", *_reach(reach), *_reach(by_seconds[reach.task, reach.agent]), _never(reach)]
        for reach in sorted(found.reaches["calls"], key=lambda reach: found.tasks.index(reach.task))
    ]
    caption = (
        f"Calls and seconds of training after which an agent was first as good as {TARGET} at its end, as a share of "
        f"what {TARGET} took: medians over seeds, 95 % bootstrap intervals; above 1 it took more. A first crossing "
        "flatters: it says when an agent was first seen as good, not from when on it is. A run that failed never is; a "
        f"seed on which {TARGET} failed has no goal and is left out."
    )
    return Table(["agent", "calls", "calls, 95 %", "seconds", "seconds, 95 %", "never"], rows, caption)


def figure(value: float | None) -> str:
    """Returns a share with three decimals, without the zero before the point; nothing for None."""
    if value is None:
        return ""
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def interval(estimate: Estimate) -> str:
    """Returns an interval's ends."""
    return f"{figure(estimate.low)} to {figure(estimate.high)}"


def _caption(found: Conclusions, task: str) -> str:
    summaries = found.summaries[task]
    methods = "; ".join(dict.fromkeys(each.method for one in summaries for each in (one.iqm, one.mean)))
    runs = " to ".join(map(str, sorted({one.runs for one in summaries})))
    constant = summaries[0].best_constant
    reachable = "" if constant is None else f" The best constant answer has {figure(constant)}."
    return (
        f"{task}: optimality of the estimated score (0 random, 1 best), {runs} runs each; intervals: {methods}; "
        f"failed: share of runs below {figure(found.floor)} or broken down; gap to 1: mean shortfall; hits: share of "
        f"requests answered with the best; +{GUIDED_CALLS} calls: guided search from the policy's answer; true: "
        "optimality of the true score; est - true: mean estimated minus mean true score; calls each: of the estimator "
        f"for each answer; calls, backwards, s: of training, s the processor's seconds.{reachable}"
    )


def _agent(summary: AgentSummary) -> Iterator[str]:
    yield summary.agent
    yield from (figure(summary.iqm.value), interval(summary.iqm), figure(summary.mean.value), interval(summary.mean))
    yield from (figure(summary.worst), f"{summary.failure_rate:.0%}", figure(summary.optimality_gap))
    yield from (figure(summary.hit_rate), figure(summary.searched_optimality), figure(summary.true_optimality))
    yield from (figure(summary.gap), f"{summary.calls_per_context:.0f}")
    yield from (f"{summary.forwards:,.0f}", f"{summary.backwards:,.0f}", f"{summary.cpu_seconds:.1f}")


def _pair(pair: PairComparison) -> list[str]:
    return [
        f"{pair.first} - {pair.second}",
        _small(pair.difference.value),
        f"{_small(pair.difference.low)} to {_small(pair.difference.high)}",
        f"{pair.improvement.value:.2f}",
        f"{pair.improvement.low:.2f} to {pair.improvement.high:.2f}",
        f"{pair.adjusted_p:.2g}",
        pair.verdict,
    ]


def _small(value: float) -> str:
    """Returns a difference that is told from zero, however small it is."""
    return f"{value:.0e}" if 0 < abs(value) < 0.0005 else figure(value)


def _turned(pair: PairComparison) -> PairComparison:
    """Returns a comparison from the second agent's side."""
    gain, chance = pair.difference, pair.improvement
    return replace(
        pair,
        first=pair.second,
        second=pair.first,
        difference=replace(gain, value=-gain.value, low=-gain.high, high=-gain.low),
        improvement=replace(chance, value=1 - chance.value, low=1 - chance.high, high=1 - chance.low),
    )


def _reach(reach: Reach) -> tuple[str, str]:
    return _ratio(reach.ratio), f"{_ratio(reach.low)} to {_ratio(reach.high)}"


def _ratio(value: float) -> str:
    return "never" if isinf(value) else f"{value:.2f}"


def _never(reach: Reach) -> str:
    return f"{reach.never} of {reach.seeds}"

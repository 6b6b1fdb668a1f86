"""What a comparison's results come to: each agent's figures, who is better than whom, and how soon."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from slot_rl.compare.curves import Along, Reach, reach
from slot_rl.compare.differences import OVERALL, PairComparison, compare_pairs, every_pair
from slot_rl.compare.estimates import AgentSummary, few_seeds_warning, summarise
from slot_rl.compare.outcomes import LearningCurve, Outcome, Results, in_order
from slot_rl.evaluation import GUIDED_CALLS

TARGET = "ppo"
"""The agent whose final score the others are timed on: the one that everybody knows."""

WITH_SEARCH = f" + {GUIDED_CALLS} calls"
"""What follows a policy's name where guided search goes on from its answer."""


@dataclass(frozen=True)
class Conclusions:
    """What can be said.

    Attributes:
        results: What it is said of.
        floor: Optimality below which a run is a failure.
        summaries: Each agent's figures on each task, the highest IQM first; with several tasks also on "all".
        pairs: Who is better than whom.
        at_equal_calls: The same of each policy, with guided search from its answer, and of each agent that spends as
            many calls on an answer; one family with ``pairs``.
        reaches: When each agent that learns was first as good as PPO at its end, over calls and over seconds.
        warning: What to know before reading on; None if nothing.
    """

    results: Results
    floor: float
    summaries: Mapping[str, Sequence[AgentSummary]]
    pairs: Sequence[PairComparison]
    at_equal_calls: Sequence[PairComparison]
    reaches: Mapping[str, Sequence[Reach]]
    warning: str | None

    @property
    def tasks(self) -> list[str]:
        """The tasks, and "all" where there are several."""
        return list(self.summaries)

    @property
    def agents(self) -> list[str]:
        """The agents, in the order of the command line."""
        return in_order(outcome.agent for outcome in self.results.outcomes)


def conclude(results: Results, floor: float) -> Conclusions:
    """Draws the conclusions.

    Args:
        results: The runs.
        floor: Optimality below which a run is a failure.

    Raises:
        ValueError: If there are fewer than three seeds, or agents were not run on the same tasks and seeds.
    """
    outcomes = results.outcomes
    tasks = in_order(outcome.task for outcome in outcomes)
    groups = {task: [outcome for outcome in outcomes if outcome.task == task] for task in tasks}
    if len(tasks) > 1:
        groups[OVERALL] = list(outcomes)
    summaries = {
        name: sorted(summarise(group, floor), key=lambda summary: (-summary.iqm.value, summary.agent))
        for name, group in groups.items()
    }
    pairs, at_equal_calls = _compare(outcomes)
    warning = few_seeds_warning(outcomes)
    return Conclusions(results, floor, summaries, pairs, at_equal_calls, _reaches(results), warning)


def _compare(outcomes: Sequence[Outcome]) -> tuple[list[PairComparison], list[PairComparison]]:
    """Compares every pair of agents, and policies at equal calls with whoever searches, as one family."""
    policies = in_order(outcome.agent for outcome in outcomes if outcome.searched_optimality is not None)
    rivals = in_order(outcome.agent for outcome in outcomes if outcome.calls_per_context == GUIDED_CALLS)
    # A run that failed has no answer to search from: it counts as random answers here, too.
    searched = [
        replace(outcome, agent=outcome.agent + WITH_SEARCH, optimality=outcome.searched_optimality or 0.0)
        for outcome in outcomes
        if outcome.agent in policies
    ]
    bare = every_pair(outcome.agent for outcome in outcomes)
    equal = [(policy + WITH_SEARCH, rival) for policy in policies for rival in rivals]
    found = compare_pairs([*outcomes, *searched], [*bare, *equal])
    known = set(bare)
    return (
        [pair for pair in found if (pair.first, pair.second) in known],
        [pair for pair in found if (pair.first, pair.second) not in known],
    )


def _reaches(results: Results) -> dict[str, list[Reach]]:
    agents = in_order(curve.agent for curve in results.curves)
    others = [agent for agent in agents if agent != TARGET] if TARGET in agents else []
    # A run that failed got nowhere; leaving it out would favour agents that break down.
    broken = [LearningCurve(one.task, one.agent, one.seed, (), (), ()) for one in results.outcomes if one.failure]
    curves = [*results.curves, *broken]
    alongs: tuple[Along, ...] = ("calls", "seconds")
    return {along: [found for agent in others for found in reach(curves, TARGET, agent, along)] for along in alongs}

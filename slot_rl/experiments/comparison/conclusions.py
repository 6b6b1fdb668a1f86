"""What a comparison's results come to: each agent's figures, who is better than whom, and how soon."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slot_rl.experiments.comparison.curves import Reach, reach
from slot_rl.experiments.comparison.differences import OVERALL, PairComparison, compare_pairs
from slot_rl.experiments.comparison.estimates import AgentSummary, few_seeds_warning, summarise
from slot_rl.experiments.comparison.outcomes import Results, in_order

TARGET = "ppo"
"""The agent whose final score the others are timed on: the one that everybody knows."""


@dataclass(frozen=True)
class Conclusions:
    """What can be said.

    Attributes:
        results: What it is said of.
        floor: Optimality below which a run is a failure.
        summaries: Each agent's figures on each task, the highest IQM first; with several tasks also on "all".
        pairs: Who is better than whom.
        reaches: When each agent that learns was first as good as PPO at its end, over calls and over seconds.
        warning: What to know before reading on; None if nothing.
    """

    results: Results
    floor: float
    summaries: Mapping[str, Sequence[AgentSummary]]
    pairs: Sequence[PairComparison]
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
    return Conclusions(
        results, floor, summaries, compare_pairs(outcomes), _reaches(results), few_seeds_warning(outcomes)
    )


def _reaches(results: Results) -> dict[str, list[Reach]]:
    agents = in_order(curve.agent for curve in results.curves)
    others = [agent for agent in agents if agent != TARGET] if TARGET in agents else []
    return {
        "calls": [found for agent in others for found in reach(results.curves, TARGET, agent, "calls")],
        "seconds": [found for agent in others for found in reach(results.curves, TARGET, agent, "seconds")],
    }

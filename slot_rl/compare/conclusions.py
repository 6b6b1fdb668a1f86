"""The conclusions of a comparison: the figures of each agent, which agent is better, and how soon it is as good."""

from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from slot_rl.compare.curves import REACH, Along, break_evens, reach
from slot_rl.compare.differences import OVERALL, PAIR_COLUMNS, compare_pairs
from slot_rl.compare.statistics import RUN_KEY, Results, few_seeds_warning, summarise
from slot_rl.metrics import GUIDED_CALLS

TARGET = "ppo"
"""The well-known agent whose final optimality is the goal of the others."""

WITH_SEARCH = f" + {GUIDED_CALLS} calls"
"""Follows a policy's label in pairs at equal calls."""


@dataclass(frozen=True)
class Conclusions:
    """What can be concluded.

    Attributes:
        results: The results.
        threshold: Optimality below which a run counts as a failure.
        summaries: The frames of ``summarise`` for each task (column task), the highest IQM first; with several tasks
            also for "all".
        pairs: Every pair of agents, see ``compare_pairs``.
        at_equal_calls: Pairs of a policy, with calls for its starts and swaps, and an agent that takes as many calls
            for an answer. They are one family with ``pairs``.
        reaches: When each agent that learns was first as good as PPO at its end, along calls and along seconds.
        break_evens: From how many contexts on each policy costs fewer calls than the best search.
        warning: A warning of too few seeds, or None.
    """

    results: Results
    threshold: float
    summaries: pd.DataFrame
    pairs: pd.DataFrame
    at_equal_calls: pd.DataFrame
    reaches: pd.DataFrame
    break_evens: pd.DataFrame
    warning: str | None

    @property
    def tasks(self) -> list[str]:
        """The tasks in order, and "all" where there are several."""
        return list(self.summaries["task"].unique())

    @property
    def agents(self) -> list[str]:
        """The agents in the order of the runs."""
        return list(self.results.runs["agent"].unique())

    @property
    def ranked(self) -> list[str]:
        """The agents, the highest IQM over all tasks first."""
        return self.summaries.loc[self.summaries["task"] == self.tasks[-1], "agent"].tolist()


def conclude(results: Results, threshold: float) -> Conclusions:
    """Draws the conclusions; a run with an optimality below the threshold counts as a failure.

    Raises:
        ValueError: If there are fewer than three seeds, or agents were not run on the same tasks and seeds.
    """
    pairs, at_equal_calls = _compared(results.runs)
    return Conclusions(
        results=results,
        threshold=threshold,
        summaries=_summaries(results.runs, threshold),
        pairs=pairs,
        at_equal_calls=at_equal_calls,
        reaches=_reaches(results),
        break_evens=break_evens(results),
        warning=few_seeds_warning(results.runs),
    )


def _summaries(runs: pd.DataFrame, threshold: float) -> pd.DataFrame:
    groups = {str(task): group for task, group in runs.groupby("task", sort=False)}
    if len(groups) > 1:
        groups[OVERALL] = runs
    summaries = {task: summarise(group, threshold) for task, group in groups.items()}
    ranked = {task: each.sort_values(["iqm", "agent"], ascending=[False, True]) for task, each in summaries.items()}
    return pd.concat(ranked, names=["task"]).reset_index("task").reset_index(drop=True)


def _compared(runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compares every pair of agents, and policies with search at equal calls with the searches, as one family."""
    policies = runs.loc[runs["searched_optimality"].notna(), "agent"].unique()
    rivals = runs.loc[runs["calls_per_context"] == GUIDED_CALLS, "agent"].unique()
    searched = runs[runs["agent"].isin(policies)]
    # A failed run has no answer to search from. It counts as random answers here, too.
    optimality = searched["searched_optimality"].fillna(0.0)
    searched = searched.assign(agent=searched["agent"] + WITH_SEARCH, optimality=optimality)
    bare = list(combinations(sorted(runs["agent"].unique()), 2))
    equal = [(policy + WITH_SEARCH, rival) for policy in policies for rival in rivals]
    if not bare and not equal:  # A single agent has no pairs.
        return pd.DataFrame(columns=PAIR_COLUMNS), pd.DataFrame(columns=PAIR_COLUMNS)
    found = compare_pairs(pd.concat([runs, searched]), [*bare, *equal])
    with_search = found["first"].isin([first for first, _ in equal])
    return found[~with_search].reset_index(drop=True), found[with_search].reset_index(drop=True)


def _reaches(results: Results) -> pd.DataFrame:
    trained = list(results.curves["agent"].unique())
    if TARGET not in trained:
        return pd.DataFrame(columns=REACH)
    # A run that failed never reaches the goal. Leaving it out would favour agents that fail.
    failed = results.runs.loc[results.runs["failure"].notna(), RUN_KEY]
    curves = pd.concat([results.curves, failed])
    alongs: tuple[Along, ...] = ("calls", "seconds")
    others = [agent for agent in trained if agent != TARGET]
    found = [reach(curves, TARGET, agent, along) for along in alongs for agent in others]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=REACH)

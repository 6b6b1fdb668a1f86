"""Which agent is better on the same tasks and seeds: paired differences, Holm's procedure, and claims.

Runs of one task and seed share the problem, so differences are taken within seeds, and the tests are paired t tests.
All pairs on all tasks are one family: the procedure of Holm (1979), "A Simple Sequentially Rejective Multiple Test
Procedure", Scandinavian Journal of Statistics 6(2), keeps the chance of any false verdict among them below 5 %.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit
from scipy.stats import nct
from statsmodels.stats.multitest import multipletests

from slot_rl.compare.statistics import (
    RESAMPLES,
    Columns,
    Floats,
    bootstrap_columns,
    checked,
    interval_columns,
    scores_of,
    t_quantile,
    welch_freedom,
    widened_tail,
)

OVERALL = "all"
"""The task of figures over several tasks together."""

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 1_000
TURNED = {"better": "worse", "worse": "better"}


@dataclass(frozen=True)
class Claim:
    """A claim that one agent is better than another on a task ("all" for several together)."""

    better: str
    worse: str
    task: str

    def __str__(self) -> str:
        """Returns the claim in the form that :func:`parse_claim` reads."""
        return f"{self.better}>{self.worse}@{self.task}"


PAIR_COLUMNS = """task first second seeds difference difference_low difference_high difference_method standard_error
freedom improvement improvement_low improvement_high improvement_method equal p adjusted_p level seeds_needed
verdict""".split()
"""The columns of compared pairs, see :func:`compare_pairs`."""

_Task: TypeAlias = tuple[pd.DataFrame, Floats]
"""The optimality of each seed (rows) by agent (columns), and how often each resample has each seed."""


def compare_pairs(
    runs: pd.DataFrame,
    pairs: Sequence[tuple[str, str]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Compares pairs of agents on each task and, if there are several, on all together.

    Args:
        runs: The runs, in any order.
        pairs: The pairs to compare; every pair by name if None.
        resamples: Number of bootstrap resamples for the probabilities of improvement.
        seed: Their seed.

    Returns:
        One row a pair and task, in order of tasks with "all" last. All rows are one family for Holm's procedure.
        Columns: task, first, second; seeds (of each agent on a task, the fewest if tasks differ); difference (mean
        paired difference of optimality, first minus second, mean over tasks) with its t interval, standard_error and
        freedom (degrees of freedom); improvement (probability that a run of the first agent beats one of the second,
        ties count half, mean over tasks: rliable's ``probability_of_improvement``) with its interval; equal (whether
        the two agents are equal on every seed of every task); p (two-sided, of the paired t test, stratified by task),
        adjusted_p and level (by Holm's procedure: p must be at most level at its turn); seeds_needed and verdict (see
        ``with_verdicts``).

        The interval of the improvement redraws the same seeds of both agents. With ten seeds it covers .94 to .99 for
        probabilities up to .76, and .86 at .92: it has no width if each run of one agent beats each run of the other.

    Raises:
        ValueError: See ``checked``; or if one of several tasks is called "all".
    """
    scores = scores_of(checked(runs))
    generator = np.random.default_rng(seed)
    groups: dict[str, list[_Task]] = {}
    for task, part in scores.groupby("task"):
        drawn = generator.multinomial(len(part), np.full(len(part), 1 / len(part)), resamples)
        groups[str(task)] = [(part, drawn.astype(np.float64))]
    if len(groups) > 1:
        if OVERALL in groups:
            raise ValueError(f"expected none of several tasks to be called {OVERALL!r}, got {', '.join(groups)}")
        groups[OVERALL] = [task for group in groups.values() for task in group]
    wanted = list(combinations(scores.columns, 2)) if pairs is None else pairs
    found = pd.DataFrame([_comparison(name, group, *pair) for name, group in groups.items() for pair in wanted])
    if found.empty:
        raise ValueError(f"expected at least one pair to compare, got only {', '.join(scores.columns)}")
    p = found["p"].to_numpy()
    ranks = p.argsort(kind="stable").argsort()
    adjusted_p = multipletests(p, ALPHA, method="holm")[1]
    return with_verdicts(found.assign(adjusted_p=adjusted_p, level=ALPHA / (len(p) - ranks)))


def with_verdicts(pairs: pd.DataFrame) -> pd.DataFrame:
    """Adds the columns seeds_needed and verdict to compared pairs, from their adjusted p and level.

    ``seeds_needed`` is the number of seeds for 80 % power at the level if the observed difference were the true one. It
    is always more than there are. It is missing if it is over 1,000, if no number of seeds would change the verdict, or
    if the verdict is known. ``verdict`` is "better", "worse", "equal on every seed", or "cannot tell ...".
    """
    decided = pairs["adjusted_p"] <= ALPHA
    unsure = pairs[~decided & ~pairs["equal"] & (pairs["standard_error"] > 0)]
    effect = unsure["difference"].abs() / (unsure["standard_error"] * np.sqrt(unsure["seeds"]))
    freedom = unsure["freedom"] / (unsure["seeds"] - 1)
    needed = seeds_for_power(effect, unsure["level"], unsure["seeds"] + 1, freedom)
    pairs = pairs.assign(seeds_needed=pd.Series(needed, unsure.index).reindex(pairs.index).astype("Int64"))
    return pairs.assign(verdict=[_verdict(pair) for pair in pairs.itertuples(index=False)])


def power_of_t_test(noncentrality: Floats | float, freedom: Floats | float, alpha: Floats | float = ALPHA) -> Floats:
    """Returns the power of two-sided t tests for true effects in standard errors, by the noncentral t distribution."""
    critical = stdtrit(freedom, 1 - np.asarray(alpha) / 2)
    # Beyond this scipy's series does not converge; the power is 1 long before.
    shift = np.minimum(np.abs(noncentrality), 1e4)
    # The far tail mirrored, because scipy's nct.cdf is NaN there.
    return np.asarray(nct.sf(critical, freedom, shift) + nct.sf(critical, freedom, -shift), dtype=np.float64)


def seeds_for_power(
    effect: ArrayLike, alpha: ArrayLike = ALPHA, least: ArrayLike = 2, freedom: ArrayLike = 1.0
) -> Floats:
    """Returns the fewest seeds, from ``least`` to 1,000, that give paired t tests 80 % power; NaN where none do.

    The effect is the true difference in standard deviations of the paired difference, ``alpha`` is the tests' level,
    and ``freedom`` is the degrees of freedom for each seed but the first.
    """
    effects, levels, low, each = np.broadcast_arrays(effect, alpha, np.asarray(least, float), freedom)
    high = np.full(low.shape, MOST_SEEDS + 1.0)
    while (low < high).any():  # Bisection: the power grows with the seeds.
        middle = (low + high) // 2
        enough = power_of_t_test(effects * np.sqrt(middle), each * (middle - 1), levels) >= POWER
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
    return np.where(high > MOST_SEEDS, np.nan, high)


def parse_claim(text: str, agents: Sequence[str], tasks: Sequence[str]) -> Claim:
    """Reads ``a>b@task``, or ``a>b`` for all tasks together.

    Raises:
        ValueError: If the text is not a claim, or if an agent or the task is unknown.
    """
    match = re.fullmatch(r"([^>@]+)>([^>@]+)(?:@(.+))?", text)
    if match is None:
        raise ValueError(f"expected a claim such as 'a>b' or 'a>b@task', got {text!r}")
    better, worse = match[1].strip(), match[2].strip()
    for agent in (better, worse):
        if agent not in agents:
            raise ValueError(f"expected a claim about agents of {', '.join(agents)}, got {agent!r} in {text!r}")
    if better == worse:
        raise ValueError(f"expected a claim about two agents, got {text!r}")
    known = [*tasks, OVERALL] if len(tasks) != 1 else list(tasks)
    task = known[-1] if match[3] is None else match[3].strip()
    if task not in known:
        raise ValueError(f"expected a claim about a task of {', '.join(known)}, got {task!r} in {text!r}")
    return Claim(better, worse, task)


def verdict_on(claim: Claim, pairs: pd.DataFrame) -> str:
    """Returns the verdict on the agent that a claim calls better.

    Raises:
        ValueError: If the pairs do not have the claim's agents and task.
    """
    verdicts = pairs[pairs["task"] == claim.task].set_index(["first", "second"])["verdict"].to_dict()
    if (claim.better, claim.worse) in verdicts:
        return str(verdicts[claim.better, claim.worse])
    if (claim.worse, claim.better) in verdicts:
        verdict = str(verdicts[claim.worse, claim.better])
        return TURNED.get(verdict, verdict)
    known = " ".join(pairs["first"] + ">" + pairs["second"] + "@" + pairs["task"])
    raise ValueError(f"expected a claim about compared agents, got {claim} and comparisons {known}")


def _comparison(name: str, tasks: Sequence[_Task], first: str, second: str) -> Columns:
    drawn = [(scores[first].to_numpy(), scores[second].to_numpy(), counts) for scores, counts in tasks]
    differences = [mine - other for mine, other, _ in drawn]
    return {
        "task": name,
        "first": first,
        "second": second,
        "seeds": min(map(len, differences)),
        **_paired(differences),
        **_improvement(drawn),
        "equal": not any(each.any() for each in differences),
    }


def _paired(differences: Sequence[Floats]) -> Columns:
    """Returns the mean over tasks of the mean difference with its t interval, and the t test's figures."""
    # A spread that is only the mean's rounding error is none.
    variances = np.array([0.0 if np.ptp(each) == 0 else each.var(ddof=1) / len(each) for each in differences])
    centre = float(np.mean([each.mean() for each in differences]))
    error = float(np.sqrt(variances.sum())) / len(differences)
    freedom = welch_freedom(variances, np.array([len(each) for each in differences]))
    half = t_quantile(freedom) * error
    method = "no spread" if error == 0 else "paired t" if len(differences) == 1 else "stratified paired t"
    p = float(centre == 0) if error == 0 else float(2 * stdtr(freedom, -abs(centre) / error))
    interval = interval_columns("difference", centre, centre - half, centre + half, method)
    return {**interval, "standard_error": error, "freedom": freedom, "p": p}


def _improvement(tasks: Sequence[tuple[Floats, Floats, Floats]]) -> Columns:
    """Returns the probability that a run of the first agent beats one of the second."""
    drawn, placements, values = [], [], []
    for first, second, times in tasks:
        wins = (first[:, None] > second) + 0.5 * (first[:, None] == second)
        values.append(wins.mean())
        drawn.append((times @ wins * times).sum(axis=1) / wins.size)
        # The part of each seed in the probability. A mean of these parts has resamples that are as narrow.
        placements.append((wins.mean(axis=0) + wins.mean(axis=1)) / len(wins))
    tail, stratified = widened_tail(placements, [True] * len(tasks)), len(tasks) > 1
    return bootstrap_columns("improvement", float(np.mean(values)), np.mean(drawn, axis=0), tail, stratified)


def _verdict(pair: Any) -> str:
    if pair.equal:
        return "equal on every seed"
    if pair.adjusted_p <= ALPHA:
        return "better" if pair.difference > 0 else "worse"
    needed = f"over {MOST_SEEDS:,}" if pd.isna(pair.seeds_needed) else f"about n = {pair.seeds_needed}"
    return f"cannot tell at n = {pair.seeds}: {needed} for {100 * POWER:.0f} % power"

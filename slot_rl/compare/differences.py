"""Which agent is better, on the same tasks and seeds: paired differences, Holm's procedure, and the claims they bear.

Runs of one task and seed share the problem, so differences are taken within seeds, and the tests are paired t tests.
All pairs on all tasks are one family: the procedure of Holm (1979), "A Simple Sequentially Rejective Multiple Test
Procedure", Scandinavian Journal of Statistics 6(2), keeps the chance of any false verdict among them below 5 %.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
from scipy.special import stdtr, stdtrit
from scipy.stats import nct

from slot_rl.compare.estimates import (
    RESAMPLES,
    Estimate,
    Floats,
    between_percentiles,
    checked,
    grouped,
    t_quantile,
    welch_freedom,
    widened_tail,
)
from slot_rl.compare.outcomes import Outcome

OVERALL = "all"
ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 1_000


@dataclass(frozen=True)
class PairComparison:
    """How the first agent of a pair compares with the second.

    Attributes:
        task: The task; "all" for several together.
        first: One agent.
        second: The other.
        seeds: Seeds of each on a task; the fewest if tasks differ.
        difference: Mean over tasks of the mean paired difference of optimality, first minus second; its t interval.
        standard_error: The difference's.
        freedom: The difference's degrees of freedom.
        improvement: Probability that a run of the first beats one of the second, ties counting half, mean over tasks
            (rliable's ``probability_of_improvement``). Its interval redraws seeds, the same of both agents. With ten
            seeds it holds .94 to .99 for probabilities up to .76, and .86 at .92, for it has no width where no run of
            one agent reaches any of the other.
        equal: Whether the two are equal on every seed of every task.
        p: Two-sided p of the paired t test, stratified by task.
        adjusted_p: The same after Holm's procedure over all comparisons that were made together.
        level: What p had to stay below at its turn in that procedure.
    """

    task: str
    first: str
    second: str
    seeds: int
    difference: Estimate
    standard_error: float
    freedom: float
    improvement: Estimate
    equal: bool
    p: float
    adjusted_p: float
    level: float

    @property
    def decided(self) -> bool:
        """Whether one is better, where the chance of any false verdict among all is below 5 %."""
        return self.adjusted_p <= ALPHA

    @cached_property
    def seeds_needed(self) -> int | None:
        """Seeds for 80 % power at the level, were the difference seen the true one; always more than there are.

        None if that is over 1,000, or if no number of seeds would change the verdict.
        """
        if self.decided or self.equal or self.standard_error == 0:
            return None
        effect = abs(self.difference.value) / (self.standard_error * np.sqrt(self.seeds))
        freedom = self.freedom / (self.seeds - 1)
        return seeds_for_power(effect, alpha=self.level, least=self.seeds + 1, freedom=freedom)

    @property
    def verdict(self) -> str:
        """Says better, worse, equal, or how many seeds it would take to tell."""
        if self.equal:
            return "equal on every seed"
        if self.decided:
            return "better" if self.difference.value > 0 else "worse"
        needed = f"over {MOST_SEEDS:,}" if self.seeds_needed is None else f"about n = {self.seeds_needed}"
        return f"cannot tell at n = {self.seeds}: {needed} for {100 * POWER:.0f} % power"


@dataclass(frozen=True)
class Claim:
    """That one agent is better than another.

    Attributes:
        better: The agent that is claimed to be better.
        worse: The other.
        task: On which task; "all" for several together.
    """

    better: str
    worse: str
    task: str

    def __str__(self) -> str:
        """Returns the claim as it is written."""
        return f"{self.better}>{self.worse}@{self.task}"


@dataclass(frozen=True)
class _Task:
    """One task's optimality by agent, (seeds,) each, and how often each resample has each seed, (resamples, seeds)."""

    runs: dict[str, Floats]
    counts: Floats


def compare_pairs(
    outcomes: Iterable[Outcome],
    pairs: Sequence[tuple[str, str]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[PairComparison]:
    """Compares pairs of agents on each task and, if there are several, on all together.

    Args:
        outcomes: The long table, in any order.
        pairs: Which pairs; every one if None.
        resamples: Bootstrap resamples, for the intervals of the probabilities of improvement.
        seed: Their seed.

    Returns:
        The comparisons, one family for Holm's procedure: task by task and "all" last, pairs as given, else by name.

    Raises:
        ValueError: As ``checked`` says, or if one of several tasks is called "all".
    """
    rows = checked(outcomes)
    by_task = grouped(rows, lambda row: row.task)
    if len(by_task) > 1 and OVERALL in by_task:
        raise ValueError(f"expected none of several tasks to be called {OVERALL!r}, got {', '.join(by_task)}")
    generator = np.random.default_rng(seed)
    groups = {name: [_task(mine, resamples, generator)] for name, mine in by_task.items()}
    if len(groups) > 1:
        groups[OVERALL] = [task for group in groups.values() for task in group]
    wanted = pairs if pairs is not None else every_pair(row.agent for row in rows)
    return _adjusted([_comparison(name, group, *pair) for name, group in groups.items() for pair in wanted])


def every_pair(agents: Iterable[str]) -> list[tuple[str, str]]:
    """Returns every pair of different agents, by name."""
    return list(combinations(sorted(set(agents)), 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values after Holm's procedure, in their order."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    factors = len(p_values) - np.arange(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.minimum(factors * np.asarray(p_values)[order], 1))
    return [float(p) for p in adjusted]


def power_of_t_test(noncentrality: Floats, freedom: Floats, alpha: float = ALPHA) -> Floats:
    """Returns the power of two-sided t tests, by the noncentral t distribution.

    Args:
        noncentrality: True effect in standard errors, (tests,).
        freedom: Degrees of freedom, (tests,).
        alpha: The tests' level.
    """
    critical = stdtrit(freedom, 1 - alpha / 2)
    # Beyond this scipy's series does not converge; the power is 1 long before.
    shift = np.minimum(np.abs(noncentrality), 1e4)
    # The far tail mirrored, where scipy's nct.cdf is NaN.
    return np.asarray(nct.sf(critical, freedom, shift) + nct.sf(critical, freedom, -shift), dtype=np.float64)


def seeds_for_power(
    effect: float, power: float = POWER, alpha: float = ALPHA, least: int = 2, freedom: float = 1.0
) -> int | None:
    """Returns the fewest seeds, up to 1,000, that give the paired t test a power; None if none do.

    Args:
        effect: True difference in standard deviations of the paired difference.
        power: The power to reach.
        alpha: The test's level.
        least: Seeds to begin at.
        freedom: Degrees of freedom for each seed but the first.
    """
    seeds = np.arange(least, MOST_SEEDS + 1, dtype=np.float64)
    enough = power_of_t_test(effect * np.sqrt(seeds), freedom * (seeds - 1), alpha) >= power
    return int(seeds[enough.argmax()]) if enough.any() else None


def parse_claim(text: str, agents: Sequence[str], tasks: Sequence[str]) -> Claim:
    """Reads ``a>b@task``, or ``a>b`` for all tasks together.

    Raises:
        ValueError: If it reads otherwise, or if an agent or the task is unknown.
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


def verdict_on(claim: Claim, pairs: Sequence[PairComparison]) -> str:
    """Returns the verdict on the agent that a claim calls better.

    Raises:
        ValueError: If there is no comparison of what the claim is about.
    """
    turned = {"better": "worse", "worse": "better"}
    for pair in pairs:
        if (pair.task, pair.first, pair.second) == (claim.task, claim.better, claim.worse):
            return pair.verdict
        if (pair.task, pair.second, pair.first) == (claim.task, claim.better, claim.worse):
            return turned.get(pair.verdict, pair.verdict)
    there = ", ".join(f"{pair.first} and {pair.second} on {pair.task}" for pair in pairs)
    raise ValueError(f"expected a comparison that bears on {claim}, got only {there or 'none'}")


def _task(rows: Sequence[Outcome], resamples: int, generator: np.random.Generator) -> _Task:
    runs = {
        agent: np.array([row.optimality for row in mine])
        for agent, mine in grouped(rows, lambda row: row.agent).items()
    }
    seeds = len(rows) // len(runs)
    return _Task(runs, generator.multinomial(seeds, np.full(seeds, 1 / seeds), resamples).astype(np.float64))


def _comparison(name: str, tasks: Sequence[_Task], first: str, second: str) -> PairComparison:
    """Compares two agents on one task, or on several with equal weights; p is not adjusted yet."""
    differences = [task.runs[first] - task.runs[second] for task in tasks]
    difference, error, freedom = _paired(differences)
    p = _p_value(difference.value, error, freedom)
    return PairComparison(
        task=name,
        first=first,
        second=second,
        seeds=min(len(each) for each in differences),
        difference=difference,
        standard_error=error,
        freedom=freedom,
        improvement=_improvement(tasks, first, second),
        equal=not any(each.any() for each in differences),
        p=p,
        adjusted_p=p,
        level=ALPHA,
    )


def _paired(differences: Sequence[Floats]) -> tuple[Estimate, float, float]:
    """Returns the mean over tasks of the mean difference with its t interval, its standard error and its freedom."""
    # Rounding in the mean must not pass for spread.
    variances = np.array([0.0 if np.ptp(each) == 0 else each.var(ddof=1) / len(each) for each in differences])
    centre = float(np.mean([each.mean() for each in differences]))
    error = float(np.sqrt(variances.sum())) / len(differences)
    freedom = welch_freedom(variances, np.array([len(each) for each in differences]))
    half = t_quantile(freedom) * error
    method = "no spread" if error == 0 else "paired t" if len(differences) == 1 else "stratified paired t"
    return Estimate(centre, centre - half, centre + half, method), error, freedom


def _p_value(centre: float, error: float, freedom: float) -> float:
    if error == 0:
        return 1.0 if centre == 0 else 0.0
    return float(2 * stdtr(freedom, -abs(centre) / error))


def _improvement(tasks: Sequence[_Task], first: str, second: str) -> Estimate:
    """Returns the probability that a run of the first agent beats one of the second."""
    drawn, placements, values = [], [], []
    for task in tasks:
        mine, other = task.runs[first][:, None], task.runs[second][None, :]
        wins = (mine > other) + 0.5 * (mine == other)
        values.append(wins.mean())
        drawn.append((task.counts @ wins * task.counts).sum(axis=1) / wins.size)
        # What each seed adds to the probability, whose resamples are as narrow as those of a mean of these.
        placements.append((wins.mean(axis=0) + wins.mean(axis=1)) / len(wins))
    tail = widened_tail(placements, [True] * len(tasks))
    return between_percentiles(float(np.mean(values)), np.mean(drawn, axis=0), tail, stratified=len(tasks) > 1)


def _adjusted(comparisons: Sequence[PairComparison]) -> list[PairComparison]:
    """Returns the comparisons with p adjusted for their number, and with each one's level in Holm's procedure."""
    p_values = [each.p for each in comparisons]
    ranks = np.argsort(np.argsort(p_values, kind="stable"))
    levels = ALPHA / (len(comparisons) - ranks)
    return [
        replace(each, adjusted_p=p, level=float(level))
        for each, p, level in zip(comparisons, holm(p_values), levels, strict=True)
    ]

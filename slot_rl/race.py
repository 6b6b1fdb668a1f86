"""A short training race between selectors, which decides where a gradient's error cannot.

Every selector's agent trains on the same problem with its own defaults, from the same seeds, with the same number of
estimator calls, and answers the same requests. In all of them slots are independent, and all selectors have batches of
the same size: the race is between gradients. The step size and the entropy bonus anneal over the race as they do over a
long training, so a race is a whole training in short.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from slot_rl.agents import AGENTS, LearningAgent, make_agent
from slot_rl.agents.selector_agent import SelectorOptions
from slot_rl.console import say
from slot_rl.evaluation import Evaluation
from slot_rl.problems import Problem
from slot_rl.selectors import NAMES


@dataclass(frozen=True)
class RaceResult:
    """What a selector's agent reached.

    Attributes:
        name: The selector.
        optimality: Optimality of the answers, from one pass each, for each seed; 0 is random and 1 is best.
    """

    name: str
    optimality: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds, which the ranking is by."""
        return fmean(self.optimality)

    @property
    def spread(self) -> float:
        """Difference between the best and the worst seed."""
        return max(self.optimality) - min(self.optimality)

    def reaches(self, other: "RaceResult") -> bool:
        """Whether its best seed is as good as the other's worst."""
        return max(self.optimality) >= min(other.optimality)


def entrants(problem: Problem, calls: int) -> list[str]:
    """Returns the selectors that can take a step on the problem within the calls; says why the others cannot.

    Raises:
        ValueError: If none can.
    """
    costs = {}
    for name in NAMES:
        try:
            costs[name] = _agent(problem, name, 0).update_size
        except ValueError as refusal:
            say(f"not raced: {name}: {refusal}")
    least = min(costs.values())
    if calls < least:
        raise ValueError(f"expected a race of at least the {least:,} calls of one update, got {calls:,}")
    for name, cost in costs.items():
        if cost > calls:
            say(f"not raced: {name}: one update costs {cost:,} calls")
    return [name for name, cost in costs.items() if cost <= calls]


def run_race(
    evaluation: Evaluation, names: Sequence[str], calls: int, seeds: Sequence[int], tick: Callable[[str], None]
) -> list[RaceResult]:
    """Trains each selector's agent and judges it.

    Args:
        evaluation: The requests to judge on, and the problem, whose budget is not spent.
        names: The selectors.
        calls: Estimator calls of each training; the last update may exceed them.
        seeds: Each agent trains once from each of them.
        tick: Is told the selector after each training.

    Returns:
        The results, best first.
    """

    def train(name: str, seed: int) -> float:
        agent = _agent(evaluation.problem, name, seed)
        agent.learn(calls)
        tick(name)
        return evaluation.judge(agent.choose).figure("optimality")

    results = [RaceResult(name, tuple(train(name, seed) for seed in seeds)) for name in names]
    return sorted(results, key=lambda one: -one.mean)


def _agent(problem: Problem, name: str, seed: int) -> LearningAgent:
    options = AGENTS[name].options
    if isinstance(options, SelectorOptions):
        options = replace(options, batch_size=SelectorOptions.batch_size, in_turn=False)
    agent = make_agent(name, problem.with_fresh_budget(), options, seed=seed)
    assert isinstance(agent, LearningAgent)
    return agent

"""How an agent is judged: on fixed requests, together with its competitors, by the metrics of ``METRICS``.

The requests are drawn once for each (problem, evaluation seed) and are the same for every agent. An agent is compared
with random choices, the best constant (the limit of a policy that ignores its request), the best row that was measured
already where a table is known, the searches guided by the estimator's gradient, a policy with as many calls as they
have, and the best configuration. Every row is also compared with the ground truth where one is known, because a strong
agent finds the places where the estimator is wrong.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import nan
from operator import index
from typing import Any

import torch
from torch import Tensor

from slot_rl.agents import Agent
from slot_rl.agents.serving import Serving, serve
from slot_rl.estimators.table import LEAST_SPREAD
from slot_rl.metrics import BEST_SEEN, GUIDED_CALLS, METRICS, OF_ANSWERS, POLICY_WITH_SEARCH, FinishedRun, Scores
from slot_rl.problems import Budget, Observation, Problem, TrueScores
from slot_rl.search import (
    MOST_CONFIGURATIONS,
    best_constant,
    configurations,
    constant_choice,
    enumerate_landscape,
    highest_score,
    local_search,
    mean_field_search,
    mean_score,
    mean_scores,
    multi_swap_search,
    no_mixtures,
    no_slopes,
    random_choice,
    ranked_choice,
    search_constant,
    single_swap_search,
)
from slot_rl.seeding import generator_from

Choose = Callable[[Observation], Tensor]
HIT_TOLERANCE, HIT_ROUNDING = 1e-6, 2**-22
"""How far below the best a hit may be: a share of the best's lead over random choices, and of its size for rounding."""
MOST_EVALUATIONS = 20_000_000
STRONG_CALLS, FEWEST_STRONG_CALLS, STRONG_CELLS = 3_000, 300, 1_200_000_000
"""Calls a request of the multi-swap search that finds what is called the best where enumeration is out of reach.

There are fewer where 3,000 calls would look at more swaps than a minute allows. Under constraints a call takes five
times as long; on Slate-v0 three times as many as 1,000 calls would raise the best by .0005.
"""
RULED_COST = 5
SEARCHES = {
    "guided search": single_swap_search,
    "multi-swap search": multi_swap_search,
    "mean-field search": mean_field_search,
}
"""Every table has those that apply to its problem, so that none leaves out the strongest.

An estimator without gradients has the coordinate sweeps of local search instead.
"""
RANDOM_DRAWS = 64


@dataclass(frozen=True)
class EvaluationConfig:
    """Which requests agents are judged on.

    Attributes:
        eval_seed: Seeds the requests and every reference's random starts.
        eval_size: Requests; fewer where the problem has fewer contexts.
    """

    eval_seed: int = 0
    eval_size: int = 512

    def __post_init__(self) -> None:
        """Refuses an empty evaluation; numbers of numpy's become Python's, which JSON takes."""
        for name in ("eval_seed", "eval_size"):
            object.__setattr__(self, name, index(getattr(self, name)))
        if self.eval_size < 1:
            raise ValueError(f"expected eval_size >= 1, got {self.eval_size}")


@dataclass(frozen=True)
class Row:
    """One competitor's figures.

    Attributes:
        name: The competitor.
        calls: Estimator calls for each answer; None where they are not of interest.
        backwards: Configurations differentiated for each answer.
        figures: Every metric of answers by its key; None where it is not known.
    """

    name: str
    calls: int | None
    backwards: int | None
    figures: Mapping[str, float | None] = field(default_factory=dict)

    def figure(self, key: str) -> float:
        """Returns a figure that is known."""
        value = self.figures[key]
        assert value is not None
        return value

    def logged(self) -> dict[str, float]:
        """Returns the known figures that are followed during a training, by their keys there."""
        known = {metric.log_key: self.figures[key] for key, metric in OF_ANSWERS.items() if metric.log_key is not None}
        return {key: value for key, value in known.items() if value is not None}


class Evaluation:
    """Fixed requests with their references.

    Attributes:
        observation: The requests.
        random_score: Mean score of random choices.
        best: Best score of each request, ``(requests,)``.
        best_is_exact: Whether the best comes from enumeration.
        true_bests: Best true score of each request, ``(requests,)``, NaN where nothing is measured; None without a
            ground truth.
        references: The competitors' rows.
    """

    def __init__(self, problem: Problem, config: EvaluationConfig) -> None:
        """Draws the requests and measures the references; spends none of the problem's budget."""
        self.problem = problem.with_fresh_budget()
        self._has_slopes = no_slopes(self.problem) is None
        self._seed, self._generator = config.eval_seed, generator_from(config.eval_seed)
        self.observation = problem.evaluation_observations(config.eval_size, self._generator)
        cost = configurations(problem) * len(self.observation)
        self.best_is_exact = configurations(problem) <= MOST_CONFIGURATIONS and cost <= MOST_EVALUATIONS
        self.true_bests: Tensor | None = None
        self._true_constant: Tensor | None = None
        best_choice, constant = self._enumerate() if self.best_is_exact else self._search()
        self.random_score = self._random_scores.score
        at_random = self._figures(self._random_scores) | {"optimality": 0.0, "hit_rate": self._random_hit_rate()}
        self.references = [
            Row("random", 0, 0, at_random),
            self._row("best constant", 0, 0, constant_choice(self.problem, self.observation, constant)),
            *self._searches(),
            self._best_row(best_choice),
        ]
        if problem.pool is not None:
            means = mean_scores(self.problem, self._generator)
            ranked = ranked_choice(self.problem, self.observation, means)
            self.references.insert(2, self._row("best ranking", 0, 0, ranked))
        seen = self.problem.best_seen(self.observation)
        if seen is not None:
            answer = seen.choice_or(constant_choice(self.problem, self.observation, constant))
            self.references.insert(2, self._row(BEST_SEEN, 0, 0, answer))
        self._seen = None if seen is None or seen.censored else seen
        if self._true_constant is not None:
            true_constant = constant_choice(self.problem, self.observation, self._true_constant)
            self.references.insert(2, self._row("constant, best true", 0, 0, true_constant))

    def judge(self, choose: Choose, name: str = "policy, one pass", calls: int = 0, backwards: int = 0) -> Row:
        """Judges answers: a policy's, each from one pass and no estimator call, or another agent's."""
        return self._row(name, calls, backwards, choose(self.observation))

    def judge_agent(self, agent: Agent) -> list[Row]:
        """Judges an agent; a policy also with as many calls as the searches have, served as a policy is by default."""
        if agent.policy is None:
            return [self.judge(agent.choose, agent.answers_by, agent.calls_per_context, agent.backwards_per_context)]
        serving = Serving("starts" if self._has_slopes else "draws", GUIDED_CALLS)
        found = serve(agent, self.problem, self.observation, serving, generator_from(self._seed))
        slopes = GUIDED_CALLS if self._has_slopes else 0
        first = self.judge(agent.choose, agent.answers_by)
        rows = [first, self._row(POLICY_WITH_SEARCH, GUIDED_CALLS, slopes, found.choice)]
        if self._seen is not None:
            better = self._seen.better_than(found.score).unsqueeze(1)
            answer = torch.where(better, self._seen.choice, found.choice)
            rows.append(self._row(f"{POLICY_WITH_SEARCH}, or {BEST_SEEN}", GUIDED_CALLS, slopes, answer))
        if agent.ranks_starts:
            ranked = serve(agent, self.problem, self.observation, Serving("ranked"))
            rows.insert(1, self._row("policy, ranked starts", 0, 0, ranked.choice))
        return rows

    @property
    def best_score(self) -> float:
        """Mean of the requests' best scores."""
        return float(self.best.double().mean())

    @property
    def remark(self) -> str | None:
        """What is worth knowing before a training: that there is nothing to choose; None if there is."""
        lead = self.best_score - self.random_score
        if lead >= LEAST_SPREAD * abs(self.best_score) and lead > 0:
            return None
        return f"note: every configuration scores {self.best_score:.6g}: each is the best, and optimality is 1 or noise"

    def optimality(self, score: float) -> float:
        """Places a mean score between random (0) and best (1)."""
        return _share(score, self.random_score, self.best_score)

    def hit_rate(self, scores: Tensor) -> float:
        """Returns the share of scores ``(..., requests)`` that reach the request's best."""
        random = self._random_scores.estimated
        lead = (self.best - (random.mean(dim=0) if random.dim() > 1 else random)).abs()
        margin = HIT_TOLERANCE * lead + HIT_ROUNDING * self.best.abs()
        return float((scores >= self.best - margin).double().mean())

    def true_optimality(self, scores: Scores) -> float | None:
        """Places the mean true score between random (0) and the truth's own best (1), on the measured requests alone.

        None without a ground truth, or if no answer is measured.
        """
        random, best = self._random_scores.true, self.true_bests
        if scores.true is None or random is None or best is None:
            return None
        unknown = scores.true.isnan() | random.isnan()
        value, zero, one = (scores.mean(part.masked_fill(unknown, nan)) for part in (scores.true, random, best))
        return None if value is None or zero is None or one is None else _share(value, zero, one)

    def scores(self, choice: Tensor) -> Scores:
        """Returns what estimator and ground truth say of an answer to each request, ``(requests, slots)``."""
        return Scores.of(self.problem, self.observation, choice, self.problem.score(self.observation, choice))

    def _searches(self) -> list[Row]:
        """Returns the rows of the searches that apply to the problem, at the calls of a policy with search."""
        if not self._has_slopes:
            found = local_search(self.problem, self.observation, GUIDED_CALLS, self._generator)
            return [self._row("local search", GUIDED_CALLS, 0, found.choice)]
        mixtures = no_mixtures(self.problem) is None
        rows = []
        for name, search in SEARCHES.items():
            if mixtures or search is not mean_field_search:
                found = search(self.problem, self.observation, GUIDED_CALLS, self._generator)
                rows.append(self._row(name, GUIDED_CALLS, GUIDED_CALLS, found.choice))
        return rows

    def _best_row(self, choice: Tensor) -> Row:
        if self.best_is_exact:
            return self._row("best", None, None, choice)
        calls = self._strong_calls
        return self._row("best known", calls, calls, choice)

    @property
    def _strong_calls(self) -> int:
        cost = 1 if self.problem.constraints is None else RULED_COST
        swaps = cost * len(self.observation) * self.problem.slots * self.problem.items
        return max(min(STRONG_CALLS, FEWEST_STRONG_CALLS), min(STRONG_CALLS, STRONG_CELLS // swaps))

    def _figures(self, scores: Scores) -> dict[str, Any]:
        return {key: metric.compute(scores, self) for key, metric in OF_ANSWERS.items()}

    def _row(self, name: str, calls: int | None, backwards: int | None, choice: Tensor) -> Row:
        return Row(name, calls, backwards, self._figures(self.scores(choice)))

    def _random_hit_rate(self) -> float:
        draws = torch.stack([self._random() for _ in range(RANDOM_DRAWS)])
        return self.hit_rate(self.problem.score(self.observation, draws))

    def _enumerate(self) -> tuple[Tensor, Tensor]:
        landscape = enumerate_landscape(self.problem, self.observation, self.problem.score)
        # Scored again in the shape that policies are scored in: matrix products round differently by shape, by more
        # than a hit's tolerance.
        self.best = self.problem.score(self.observation, landscape.choice)
        self._random_scores = Scores(landscape.mean)
        if self.problem.has_truth:
            self._random_scores = self._enumerate_truth(landscape.mean)
        return landscape.choice, landscape.constant

    def _enumerate_truth(self, estimated: Tensor) -> Scores:
        """Finds the true bests and the best constant; returns the scores of a random choice."""
        problem, requests = self.problem, self.observation
        known = self._measured_truth()
        if known is None:
            true = enumerate_landscape(problem, requests, problem.true_score)
            self.true_bests, self._true_constant = true.best, true.constant
            return Scores(estimated, true.mean)
        self.true_bests, at_random = known
        self._true_constant = best_constant(problem, requests, problem.true_score)
        return Scores(estimated, **vars(at_random), gap=self._random_gap(estimated, at_random))

    def _measured_truth(self) -> tuple[Tensor, TrueScores] | None:
        """Returns the best true scores and those of a random choice, where the truth is a table of measurements."""
        problem, requests = self.problem, self.observation
        best, at_random = problem.best_true_scores(requests), problem.random_true_scores(requests)
        if best is None or at_random is None or problem.constraints is None:
            return None if best is None or at_random is None else (best, at_random)
        # A table knows this of all its rows; those that are allowed are looked up one by one.
        means = {name: self._allowed_mean(name) for name, values in vars(at_random).items() if values is not None}
        return highest_score(problem, requests, problem.true_score), TrueScores(**means)

    def _allowed_mean(self, name: str) -> Tensor:
        """Returns the mean of a part of the true scores over each request's allowed configurations that have it."""

        def known(observation: Observation, choice: Tensor) -> Tensor:
            values: Tensor = getattr(self.problem.true_scores(observation, choice), name)
            return values.float()

        return mean_score(self.problem, self.observation, known)

    def _random_gap(self, estimated: Tensor, at_random: TrueScores) -> Tensor:
        """Returns the mean of estimated minus true score over each request's configurations with a true score."""
        whole = at_random.measured is None or bool((at_random.measured == 1).all())
        if whole or self.problem.unmeasured == "worst":
            return estimated.double() - at_random.true

        def gap(observation: Observation, choice: Tensor) -> Tensor:
            return self.problem.score(observation, choice).double() - self.problem.true_score(observation, choice)

        return mean_score(self.problem, self.observation, gap)

    def _search(self) -> tuple[Tensor, Tensor]:
        draws = torch.stack([self._random() for _ in range(RANDOM_DRAWS)])
        self._random_scores = self.scores(draws)
        found = self._strongest(self.problem)[0]
        self.best = self.problem.score(self.observation, found)
        if self.problem.has_truth:
            self._search_truth()
        return found, search_constant(self.problem, self.observation)

    def _search_truth(self) -> None:
        """Finds the true bests; of a table whose allowed rows are too many to look at, none is known."""
        problem = self.problem
        table = problem.best_true_scores(self.observation) is not None
        if table and problem.constraints is not None and configurations(problem) > MOST_CONFIGURATIONS:
            return
        known = self._measured_truth()
        if known is None:
            self.true_bests = self._strongest(problem.with_truth_as_estimator())[1]
        else:
            self.true_bests = known[0]
            self._random_scores = replace(self._random_scores, **vars(known[1]))

    def _strongest(self, problem: Problem) -> tuple[Tensor, Tensor]:
        search = multi_swap_search if no_slopes(problem) is None else local_search
        found = search(problem, self.observation, self._strong_calls, self._generator)
        return found.choice, found.score

    def _random(self) -> Tensor:
        return random_choice(self.problem, self.observation, self._generator)


def judge(
    agent: Agent, evaluation: Evaluation, budget: Budget, status: str, wall_seconds: float, cpu_seconds: float | None
) -> tuple[dict[str, Any], list[Row]]:
    """Judges a trained agent.

    Args:
        agent: The agent.
        evaluation: The requests and their references.
        budget: What the training asked of the estimator.
        status: How the training ended.
        wall_seconds: Seconds of the training on the clock, without its evaluations.
        cpu_seconds: The processor's seconds of the same; None where they are not known.

    Returns:
        The contents of ``summary.json``, and the rows of the final table, the agent's first.
    """
    rows = [*evaluation.judge_agent(agent), *evaluation.references]
    run = FinishedRun(agent, evaluation, budget, wall_seconds, cpu_seconds, {row.name: row for row in rows})
    figures = {
        key: rows[0].figures[key] if key in OF_ANSWERS else metric.compute(run) for key, metric in METRICS.items()
    }
    names = {"agent": agent.name, "env": evaluation.problem.name, "seed": agent.seed}
    names["unmeasured"] = evaluation.problem.unmeasured
    return {**names, **figures, "device": str(agent.device), "status": status}, rows


def _share(value: float, zero: float, one: float) -> float:
    # Where every configuration scores the same, each is the best.
    return 1.0 if one == zero else (value - zero) / (one - zero)

"""How good a policy is: judged on fixed requests, beside everything that it has to beat.

The requests are drawn once per (problem, evaluation seed) and are the same for every agent. Beside the policy stand
random choices, the best constant (what a policy that ignores its request can reach), search guided by the estimator's
gradient at equal calls, the same search started from the policy's answer, and the best configuration. Every row is also
held against the ground truth where one is known: a strong agent finds where the estimator is wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from slot_rl.answers import Scores
from slot_rl.problems import Observation, Problem
from slot_rl.search import (
    MOST_CONFIGURATIONS,
    configurations,
    enumerate_landscape,
    guided_search,
    random_choice,
    restarted_search,
    search_constant,
)
from slot_rl.seeding import generator_from

Choose = Callable[[Observation], Tensor]
HIT_TOLERANCE = 1e-6
MOST_EVALUATIONS = 20_000_000
GUIDED_CALLS = 31
STRONG_RESTARTS, STRONG_ROUNDS = 10, 80
RANDOM_DRAWS = 64
POLICY_WITH_SEARCH = "policy + guided search"


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
        """Refuses an empty evaluation."""
        if self.eval_size < 1:
            raise ValueError(f"expected eval_size >= 1, got {self.eval_size}")


@dataclass(frozen=True)
class Row:
    """One competitor's figures, means over the requests.

    Attributes:
        name: The competitor.
        calls: The estimator's forwards per request when it answers; None where that is beside the point.
        backwards: Its backwards per request.
        score: Estimated score.
        optimality: ``(score - random) / (best - random)``.
        hit_rate: Share of requests answered with the best score; for random, over 64 draws of each.
        true_score: True score; None without a ground truth.
        true_normalised: True score between the request's lowest (0) and highest (1) measurement, an unmeasured answer
            counting 0; None unless the truth is a measured landscape.
        true_worst: The lowest of these of any request; the lowest true score where the truth is a formula.
        gap: Mean estimated minus mean true score.
        measured_share: Share of answers that the landscape has measured; None unless the truth is one.
    """

    name: str
    calls: int | None
    backwards: int | None
    score: float
    optimality: float
    hit_rate: float
    true_score: float | None = None
    true_normalised: float | None = None
    true_worst: float | None = None
    gap: float | None = None
    measured_share: float | None = None


class Evaluation:
    """Fixed requests with their references.

    Attributes:
        observation: The requests.
        random_score: Mean score of random choices.
        best: Best score of each request, ``(requests,)``.
        best_is_exact: Whether the best comes from enumeration.
        true_random: Mean true score of random choices; None without a ground truth.
        true_best: Mean of the requests' best true scores; None without a ground truth.
        true_bests: Best true score of each request, ``(requests,)``; None without a ground truth.
        references: The competitors' rows.
    """

    def __init__(self, problem: Problem, config: EvaluationConfig) -> None:
        """Draws the requests and measures the references; spends none of the problem's budget."""
        self.problem = problem.with_fresh_budget()
        self._generator = generator_from(config.eval_seed)
        self.observation = problem.evaluation_observations(config.eval_size, self._generator)
        cost = configurations(problem) * len(self.observation)
        self.best_is_exact = configurations(problem) <= MOST_CONFIGURATIONS and cost <= MOST_EVALUATIONS
        self.true_bests: Tensor | None = None
        self._true_constant: Tensor | None = None
        best_choice, constant = self._enumerate() if self.best_is_exact else self._search()
        self.true_best = None if self.true_bests is None else float(self.true_bests.double().mean())
        self.random_score = self._random_scores.score()
        at_random = self._random_scores.against_truth()
        self.true_random = at_random.true_score
        rounds = GUIDED_CALLS - 1
        guided = guided_search(self.problem, self.observation, self._random(), rounds).choice
        self.references = [
            Row("random", 0, 0, self.random_score, 0.0, self._random_hit_rate(), **vars(at_random)),
            self._row("best constant", 0, 0, constant.expand(len(self.observation), -1)),
            self._row("guided search", GUIDED_CALLS, GUIDED_CALLS, guided),
            self._row("best" if self.best_is_exact else "best known", None, None, best_choice),
        ]
        if self._true_constant is not None:
            true_constant = self._true_constant.expand(len(self.observation), -1)
            self.references.insert(2, self._row("constant, best true", 0, 0, true_constant))

    def judge(self, choose: Choose, name: str = "policy, one pass", calls: int = 0, backwards: int = 0) -> Row:
        """Judges answers: a policy's, each from one pass and no call of the estimator, or another agent's."""
        return self._row(name, calls, backwards, choose(self.observation))

    def judge_with_search(self, choose: Choose) -> Row:
        """Judges guided search from the policy's answers, at as many calls as guided search from random starts."""
        start = choose(self.observation)
        found = guided_search(self.problem, self.observation, start, GUIDED_CALLS - 1)
        return self._row(POLICY_WITH_SEARCH, GUIDED_CALLS, GUIDED_CALLS, found.choice)

    def optimality(self, score: float) -> float:
        """Places a mean score between random (0) and best (1)."""
        return _share(score, self.random_score, float(self.best.double().mean()))

    def true_optimality(self, true_score: float | None) -> float | None:
        """Places a mean true score between random (0) and the truth's own best (1); None without a ground truth."""
        if true_score is None or self.true_random is None or self.true_best is None:
            return None
        return _share(true_score, self.true_random, self.true_best)

    def scores(self, choice: Tensor) -> Scores:
        """Returns what the estimator and the ground truth say of an answer to each request, ``(requests, slots)``."""
        return Scores.of(self.problem, self.observation, choice, self.problem.score(self.observation, choice))

    def _random_hit_rate(self) -> float:
        draws = torch.stack([self._random() for _ in range(RANDOM_DRAWS)])
        return float(self._hits(self.problem.score(self.observation, draws)).double().mean())

    def _hits(self, scores: Tensor) -> Tensor:
        return scores >= self.best - HIT_TOLERANCE * self.best.abs()

    def _row(self, name: str, calls: int | None, backwards: int | None, choice: Tensor) -> Row:
        scores = self.scores(choice)
        score, hits = scores.score(), self._hits(scores.estimated).double().mean()
        return Row(name, calls, backwards, score, self.optimality(score), float(hits), **vars(scores.against_truth()))

    def _enumerate(self) -> tuple[Tensor, Tensor]:
        landscape = enumerate_landscape(self.problem, self.observation, self.problem.score)
        # Scored anew in the shape that policies are scored in: matrix products round differently by shape, by more
        # than a hit's tolerance.
        self.best = self.problem.score(self.observation, landscape.choice)
        self._random_scores = Scores(landscape.mean)
        if self.problem.has_truth:
            true = enumerate_landscape(self.problem, self.observation, self.problem.true_score)
            self.true_bests, self._true_constant = true.best, true.constant
            self._random_scores = Scores(landscape.mean, true.mean, *self._measured_at_random())
        return landscape.choice, landscape.constant

    def _measured_at_random(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Returns the expected normalised true score and the share measured of each request's random choices."""
        problem, first = self.problem, torch.zeros(len(self.observation), self.problem.slots, dtype=torch.long)
        if problem.true_scores(self.observation, first).normalised is None:
            return None, None

        def normalised(observation: Observation, choice: Tensor) -> Tensor:
            found = problem.true_scores(observation, choice).normalised
            assert found is not None
            return found

        def measured(observation: Observation, choice: Tensor) -> Tensor:
            found = problem.true_scores(observation, choice).measured
            assert found is not None
            return found.float()

        at_random = enumerate_landscape(problem, self.observation, normalised)
        return at_random.mean, enumerate_landscape(problem, self.observation, measured).mean

    def _search(self) -> tuple[Tensor, Tensor]:
        draws = torch.stack([self._random() for _ in range(RANDOM_DRAWS)])
        self._random_scores = self.scores(draws)
        found = self._strongest(self.problem)
        self.best = self.problem.score(self.observation, found[0])
        if self.problem.has_truth:
            self.true_bests = self._best_true_scores()
        return found[0], search_constant(self.problem, self.observation)

    def _best_true_scores(self) -> Tensor:
        known = self.problem.best_true_scores(self.observation)
        return self._strongest(self.problem.with_truth_as_estimator())[1] if known is None else known

    def _strongest(self, problem: Problem) -> tuple[Tensor, Tensor]:
        found = restarted_search(problem, self.observation, STRONG_RESTARTS, STRONG_ROUNDS, self._generator)
        return found.choice, found.score

    def _random(self) -> Tensor:
        return random_choice(self.problem, self.observation, self._generator)


def _share(value: float, zero: float, one: float) -> float:
    # Where every configuration scores the same, each is the best.
    return 1.0 if one == zero else (value - zero) / (one - zero)

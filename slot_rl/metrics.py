"""The one list of metrics: what each figure of a run means, how it is computed, printed, logged and compared.

``METRICS`` drives ``summary.json``, the keys of ``metrics.jsonl`` and of Weights & Biases, the printed tables, a
comparison's tables and dashboards, and docs/metrics.md. A new metric is one entry.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from slot_rl.agents import Agent
from slot_rl.problems import Budget, Observation, Problem, Unmeasured

GUIDED_CALLS = 31
POLICY_WITH_SEARCH = "policy, 31 calls"
BEST_SEEN = "best seen"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Scores:
    """Scores of one answer to each request, or the expected scores of a random one; tensors of shape ``(requests,)``.

    Attributes:
        estimated: The estimator's scores.
        true: The ground truth's scores, NaN where it has none; None without one.
        normalised: True scores between the request's lowest (0) and highest (1) measurement, NaN likewise; None unless
            the ground truth is a table of measurements.
        measured: Whether, or how often, the table has measured the answer; None likewise.
        weights: How often each request was made; once if None.
        gap: Estimated minus true score, over answers that have both; the difference of the two if None.
    """

    estimated: Tensor
    true: Tensor | None = None
    normalised: Tensor | None = None
    measured: Tensor | None = None
    weights: Tensor | None = None
    gap: Tensor | None = None

    @classmethod
    def of(
        cls,
        problem: Problem,
        observation: Observation,
        choice: Tensor,
        estimated: Tensor,
        weights: Tensor | None = None,
    ) -> "Scores":
        """Adds what the ground truth says of a choice ``(..., requests, slots)``; leading dimensions are averaged."""
        if not problem.has_truth:
            return cls(_averaged(estimated), weights=weights)
        found = problem.true_scores(observation, choice)
        normalised = None if found.normalised is None else _averaged(found.normalised)
        measured = None if found.measured is None else _averaged(found.measured)
        gap = _averaged(estimated.double() - found.true)
        return cls(_averaged(estimated), _averaged(found.true), normalised, measured, weights, gap)

    def mean(self, values: Tensor | None) -> float | None:
        """Returns the mean over the requests with a value, as often as they were made; None if there is none."""
        if values is None or bool(values.isnan().all()):
            return None
        known = ~values.isnan()
        if self.weights is None:
            return float(values[known].double().mean())
        return float((values.double() * self.weights)[known].sum() / self.weights[known].sum())

    @property
    def score(self) -> float:
        """The mean estimated score."""
        score = self.mean(self.estimated)
        assert score is not None
        return score


@dataclass(frozen=True)
class FinishedRun:
    """A training that has ended and was judged.

    Attributes:
        agent: The agent.
        evaluation: The requests and their references, an :class:`~slot_rl.evaluation.Evaluation`.
        budget: What the training asked of the estimator.
        wall_seconds: Seconds of the training on the clock, without its evaluations.
        cpu_seconds: The processor's seconds of the same; None where they are not known.
        rows: The competitors by name.
    """

    agent: Agent
    evaluation: Any
    budget: Budget
    wall_seconds: float
    cpu_seconds: float | None
    rows: Mapping[str, Any]

    def figure_of(self, name: str, key: str = "optimality") -> float | None:
        """Returns a competitor's figure; None if it is not in the table."""
        return self.rows[name].figures[key] if name in self.rows else None


@dataclass(frozen=True)
class Metric:
    """One figure of a run.

    Attributes:
        key: Its key in ``summary.json`` and its column in a comparison's table of runs.
        label: Its heading in every table.
        meaning: One sentence for the documentation.
        compute: Computes it from a finished run, or from the scores of answers and their evaluation.
        format: How it is printed.
        log_key: Its key in ``metrics.jsonl`` and on Weights & Biases during the training; None if it is not followed.
        over_seeds: Whether a comparison shows its mean over seeds.
        when_failed: Its value for a failed run in a comparison; None if such a run has none.
        table: For a metric of answers, which every competitor has: the printed table with its column; "none" if no
            table has it. None for a metric of the run.
        dashboard: How dashboards draw it.
        printed: Whether the last printed table of a run has it.
        of_truth: Whether it is made of true scores, and so of the answers that have one.
    """

    key: str
    label: str
    meaning: str
    compute: Callable[..., float | int | bool | None]
    format: str = ".4f"
    log_key: str | None = None
    over_seeds: bool = False
    when_failed: float | None = None
    table: Literal["competitors", "truth", "none"] | None = None
    dashboard: tuple[Literal["curve", "bar", "cost"], ...] = ()
    printed: bool = False
    of_truth: bool = False

    @property
    def name(self) -> str:
        """The key in words, for tables with wide enough columns."""
        return self.key.replace("_", " ")

    def text(self, value: float | None) -> str:
        """Returns a value as it is printed."""
        return NOT_MEASURED if value is None else format(value, self.format)

    def marked(self, name: str, unmeasured: Unmeasured | None) -> str:
        """Returns one of its names, with a mark if it counts unmeasured answers as the worst."""
        return name + truth_mark(unmeasured) if self.of_truth else name


def truth_mark(unmeasured: Unmeasured | None) -> str:
    """Returns what follows the name of true figures: how unmeasured answers count, unless they are left out."""
    return ", unmeasured = worst" if unmeasured == "worst" else ""


def _worst(scores: Scores, _: Any) -> float | None:
    worst = scores.true if scores.normalised is None else scores.normalised
    if worst is None or bool(worst.isnan().all()):
        return None
    return float(worst[~worst.isnan()].min())


def _gap(scores: Scores, _: Any) -> float | None:
    if scores.true is None:
        return None
    return scores.mean(scores.estimated.double() - scores.true if scores.gap is None else scores.gap)


_ENTRIES = (
    Metric(
        "timesteps", "timesteps", "estimator calls as the agent counts them", lambda run: run.agent.num_timesteps, ",d"
    ),
    Metric(
        "estimator_forwards",
        "calls",
        "estimator calls in training: configurations that were scored",
        lambda run: run.budget.forwards,
        ",.0f",
        log_key="budget/forwards",
        over_seeds=True,
        when_failed=0,
        dashboard=("cost",),
        printed=True,
    ),
    Metric(
        "estimator_backwards",
        "backwards",
        "configurations that were differentiated in training",
        lambda run: run.budget.backwards,
        ",.0f",
        log_key="budget/backwards",
        over_seeds=True,
        when_failed=0,
        printed=True,
    ),
    Metric(
        "wall_seconds",
        "seconds, clock",
        "seconds of training on the clock, without the evaluations",
        lambda run: run.wall_seconds,
        ".1f",
        when_failed=0,
        dashboard=("cost",),
        printed=True,
    ),
    Metric(
        "cpu_seconds",
        "seconds",
        "the processor's seconds of training, without the evaluations",
        lambda run: run.cpu_seconds,
        ".1f",
        log_key="time/training_seconds",
        over_seeds=True,
        when_failed=0,
    ),
    Metric(
        "score",
        "score",
        "mean estimated score of the answers to the evaluation requests",
        lambda scores, _: scores.score,
        log_key="eval/score",
        table="competitors",
        printed=True,
    ),
    Metric(
        "random_score",
        "random score",
        "mean score of random choices, exact if enumerated",
        lambda run: run.evaluation.random_score,
        printed=True,
    ),
    Metric(
        "best_score",
        "best score",
        "mean of the requests' best scores, or of the best known ones",
        lambda run: run.evaluation.best_score,
        printed=True,
    ),
    Metric(
        "best_is_exact",
        "exact",
        "whether the best score comes from enumeration",
        lambda run: run.evaluation.best_is_exact,
        "",
    ),
    Metric(
        "optimality",
        "optimality",
        "`(score - random) / (best - random)`",
        lambda scores, evaluation: evaluation.optimality(scores.score),
        log_key="eval/optimality",
        when_failed=0.0,
        table="competitors",
        dashboard=("curve", "bar"),
        printed=True,
    ),
    Metric(
        "hit_rate",
        "hit rate",
        "share of requests answered with the best score, within 1e-6 of its lead over random choices and rounding; of "
        "random choices over 64 draws each",
        lambda scores, evaluation: evaluation.hit_rate(scores.estimated),
        log_key="eval/hit_rate",
        over_seeds=True,
        when_failed=0.0,
        table="competitors",
        dashboard=("curve", "bar"),
        printed=True,
    ),
    Metric(
        "true_score",
        "true",
        "mean true score of the measured answers",
        lambda scores, _: scores.mean(scores.true),
        log_key="eval/true_score",
        table="truth",
        dashboard=("curve",),
        printed=True,
        of_truth=True,
    ),
    Metric(
        "true_optimality",
        "true optimality",
        "optimality of the true score, on the scale of the true best and the true random score of the same requests",
        lambda scores, evaluation: evaluation.true_optimality(scores),
        over_seeds=True,
        table="none",
        dashboard=("bar",),
        printed=True,
        of_truth=True,
    ),
    Metric(
        "true_normalised",
        "normalised",
        "mean of `(true - min) / (max - min)` of each context's measurements, over the measured answers; tables only",
        lambda scores, _: scores.mean(scores.normalised),
        table="truth",
        of_truth=True,
    ),
    Metric(
        "true_worst",
        "worst",
        "the lowest normalised score of any measured answer; without a table, the lowest true score of any request",
        _worst,
        table="truth",
        of_truth=True,
    ),
    Metric(
        "gap",
        "gap",
        "mean of estimated minus true score over the measured answers",
        _gap,
        over_seeds=True,
        table="truth",
        of_truth=True,
    ),
    Metric(
        "measured_share",
        "measured",
        "share of answers that the table has measured; tables only",
        lambda scores, _: scores.mean(scores.measured),
        log_key="eval/measured_share",
        over_seeds=True,
        table="truth",
        dashboard=("curve", "bar"),
        printed=True,
    ),
    Metric(
        "best_constant_optimality",
        "best constant",
        "optimality of the best constant answer, which a policy that ignores its request can reach",
        lambda run: run.figure_of("best constant"),
    ),
    Metric(
        "best_seen_true_optimality",
        "best seen, true",
        "true optimality of the best row of each context that the estimator's table has measured; tables only",
        lambda run: run.figure_of(BEST_SEEN, "true_optimality"),
        of_truth=True,
    ),
    Metric(
        "searched_optimality",
        f"+{GUIDED_CALLS} calls",
        f"optimality of a policy that is served with {GUIDED_CALLS} estimator calls a request",
        lambda run: run.figure_of(POLICY_WITH_SEARCH),
        over_seeds=True,
        dashboard=("bar",),
    ),
    Metric(
        "calls_per_context",
        "calls each",
        "estimator calls for each answer; 0 for a policy",
        lambda run: run.agent.calls_per_context,
        ",.0f",
        over_seeds=True,
        when_failed=0,
    ),
    Metric(
        "backwards_per_context",
        "backwards each",
        "configurations differentiated for each answer",
        lambda run: run.agent.backwards_per_context,
        ",.0f",
    ),
    Metric(
        "policy_parameters",
        "parameters",
        "parameters of the policy network, without the value head",
        lambda run: run.agent.policy_parameters,
        ",d",
    ),
)
METRICS: dict[str, Metric] = {metric.key: metric for metric in _ENTRIES}
"""Every metric of a run by its key, in the order of ``summary.json``."""

OF_ANSWERS = {key: metric for key, metric in METRICS.items() if metric.table is not None}


def _averaged(values: Tensor) -> Tensor:
    """Returns ``(requests,)``, the mean over all dimensions before the last, without what is NaN."""
    return values.double().flatten(end_dim=-2).nanmean(dim=0) if values.dim() > 1 else values

"""What the estimator and the ground truth say of one answer to each request, and the figures that sum it up."""

from dataclasses import dataclass

from torch import Tensor

from slot_rl.problems import Observation, Problem


@dataclass(frozen=True)
class TruthFigures:
    """Answers against the ground truth; None where it does not say.

    Attributes:
        true_score: Mean true score.
        true_normalised: Mean of ``(true - min) / (max - min)``, each request's own minimum and maximum; an answer that
            was never measured counts 0. Known for measured landscapes alone.
        true_worst: The lowest of these of any request; the lowest true score where the landscape is not a measured one.
        gap: Mean estimated minus mean true score: what the estimator promises too much.
        measured_share: Share of answers that the landscape has measured; None where the truth is a formula.
    """

    true_score: float | None = None
    true_normalised: float | None = None
    true_worst: float | None = None
    gap: float | None = None
    measured_share: float | None = None


@dataclass(frozen=True)
class Scores:
    """Scores of one answer to each request, or of what is to be expected of a random one.

    Attributes:
        estimated: The estimator's, ``(requests,)``.
        true: The ground truth's, ``(requests,)``; None without one.
        normalised: True scores between the request's lowest (0) and highest (1), ``(requests,)``; None unless the
            ground truth is a measured landscape.
        measured: Whether, or how often, the landscape has measured the answer, ``(requests,)``; None likewise.
    """

    estimated: Tensor
    true: Tensor | None = None
    normalised: Tensor | None = None
    measured: Tensor | None = None

    @classmethod
    def of(cls, problem: Problem, observation: Observation, choice: Tensor, estimated: Tensor) -> "Scores":
        """Asks the ground truth, as far as there is one.

        Args:
            problem: The problem.
            observation: The requests.
            choice: Long tensor of shape ``(..., requests, slots)``.
            estimated: The estimator's scores of the choice, ``(..., requests)``.

        Returns:
            The scores; leading dimensions are averaged.
        """
        if not problem.has_truth:
            return cls(_mean(estimated))
        found = problem.true_scores(observation, choice)
        if found.normalised is None or found.measured is None:
            return cls(_mean(estimated), _mean(found.true))
        return cls(_mean(estimated), _mean(found.true), _mean(found.normalised), _mean(found.measured))

    def score(self, weights: Tensor | None = None) -> float:
        """Returns the mean estimated score; ``weights`` as for :meth:`against_truth`."""
        return _weighted(self.estimated, weights)

    def against_truth(self, weights: Tensor | None = None) -> TruthFigures:
        """Returns the figures.

        Args:
            weights: How often each request was made, ``(requests,)``; once if None.
        """
        if self.true is None:
            return TruthFigures()
        true_score = _weighted(self.true, weights)
        gap = self.score(weights) - true_score
        if self.normalised is None or self.measured is None:
            return TruthFigures(true_score, None, float(self.true.min()), gap)
        return TruthFigures(
            true_score,
            _weighted(self.normalised, weights),
            float(self.normalised.min()),
            gap,
            _weighted(self.measured, weights),
        )


def _mean(values: Tensor) -> Tensor:
    """Returns ``(requests,)``, the mean over all dimensions before the last."""
    return values.double().flatten(end_dim=-2).mean(dim=0) if values.dim() > 1 else values


def _weighted(values: Tensor, weights: Tensor | None) -> float:
    if weights is None:
        return float(values.double().mean())
    return float((values.double() * weights).sum() / weights.sum())
